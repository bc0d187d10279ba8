//! The listener of the monitoring: one GET a connection, answered with JSON. Small on purpose: it is read by people and
//! scrapers on the same machine.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::report;
use crate::broker::Broker;

/// Limit: bytes of a request's head.
const HEAD_MAX: usize = 8 * 1024;
/// Limit: requests at the same time; others wait in the backlog.
const REQUESTS_MAX: usize = 16;
/// Limit: how long one may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// Limit: how often a failing accept is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers until it is over.
pub(crate) async fn serve(broker: Arc<Broker>, listener: TcpListener, over: CancellationToken) {
    let room = Arc::new(Semaphore::new(REQUESTS_MAX));
    let tasks = kit::tasks::Tasks::default();
    let accept = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await;
            match listener.accept().await {
                Ok((socket, _)) => {
                    let broker = Arc::clone(&broker);
                    tasks.spawn(async move {
                        // A reader who is gone or too slow has no answer.
                        let _ = timeout(REQUEST_TIMEOUT, answer(&broker, socket)).await;
                        drop(permit);
                    });
                }
                Err(_) => sleep(ACCEPT_PAUSE).await,
            }
        }
    };
    tokio::select! {
        () = accept => {}
        () = over.cancelled() => {}
    }
    tasks.finished().await;
}

async fn answer(broker: &Broker, mut socket: TcpStream) -> io::Result<()> {
    let mut head = Vec::with_capacity(1024);
    while !head.windows(4).any(|end| end == b"\r\n\r\n") {
        if head.len() > HEAD_MAX || socket.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next(), words.next()) {
        (Some("GET" | "HEAD"), Some(target), Some("HTTP/1.1" | "HTTP/1.0")) => match report(broker, target) {
            Some(value) => ("200 OK", format!("{value:#}")),
            None => ("404 Not Found", "404 page not found\n".to_owned()),
        },
        (Some(_), Some(_), Some(_)) => ("405 Method Not Allowed", String::new()),
        _ => ("400 Bad Request", String::new()),
    };
    let kind = if status.starts_with("200") { "application/json" } else { "text/plain; charset=utf-8" };
    let length = body.len();
    let head =
        format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n");
    socket.write_all(head.as_bytes()).await?;
    if !line.starts_with("HEAD ") {
        socket.write_all(body.as_bytes()).await?;
    }
    socket.shutdown().await
}
