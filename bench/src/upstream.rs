//! The service behind every proxy: a fixed small answer, 16 KiB for `…/big`, the names of the request's fields for
//! `…/fields`. Bodies are swallowed. One thread; it knows nothing of who calls it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;

use crate::work::{BIG_BYTES, SMALL_BYTES};

static BIG: [u8; BIG_BYTES] = [b'b'; BIG_BYTES];
pub(crate) static SMALL: [u8; SMALL_BYTES] = [b's'; SMALL_BYTES];

/// Listens on `$PORT` until it is killed.
pub(crate) async fn run() -> Result<()> {
    serve(listen().await?, answer).await
}

/// On `$HOST` and `$PORT`.
pub(crate) async fn listen() -> Result<TcpListener> {
    let variable = |name: &str| std::env::var(name).with_context(|| format!("${name} is not given"));
    let port = variable("PORT")?.parse().context("$PORT is not a port")?;
    let host = match variable("HOST") {
        Ok(host) => host.parse().context("$HOST is not an address")?,
        Err(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
    };
    let address = SocketAddr::new(host, port);
    TcpListener::bind(address).await.with_context(|| format!("cannot listen on {address}"))
}

/// Has every request answered, for ever.
pub(crate) async fn serve<A, F>(listener: TcpListener, answer: A) -> Result<()>
where
    A: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Result<Response<Full<Bytes>>, hyper::Error>> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        stream.set_nodelay(true).context("cannot accept")?;
        let answer = answer.clone();
        tokio::spawn(async move {
            // A connection that breaks is its peer's affair, and shows itself in the peer's answers.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer)).await;
        });
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    let (head, mut body) = request.into_parts();
    while !body.is_end_stream() {
        match body.frame().await {
            Some(frame) => drop(frame?),
            None => break,
        }
    }
    let content = match head.uri.path().rsplit('/').next() {
        Some("big") => Bytes::from_static(&BIG),
        Some("fields") => Bytes::from(names(&head.headers)),
        _ => Bytes::from_static(&SMALL),
    };
    Ok(Response::new(Full::new(content)))
}

/// One a line.
fn names(fields: &HeaderMap) -> String {
    fields.keys().map(|name| format!("{name}\n")).collect()
}
