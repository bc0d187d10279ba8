//! Asks a daemon on behalf of the command line. One connection a request: commands ask once or follow one stream.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use kit::socket;
use serde::Serialize;
use serde::de::{DeserializeOwned, IgnoredAny};
use thiserror::Error;
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::api::dto;
use crate::project::Project;

/// A daemon that lives begins to answer a question within this time, however busy it is.
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// How often a daemon that takes its time is asked whether it is still there.
const ALIVE_INTERVAL: Duration = Duration::from_secs(2);

/// An answer larger than this is not one of ours.
const ANSWER_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Debug, Error)]
pub enum Error {
    #[error("atoll is not running for {manifest}{}", if *left { ", but services that it has started go on" } else { "" })]
    NotRunning {
        manifest: String,
        /// Whether instances go on without a daemon.
        left: bool,
    },
    #[error("cannot reach the daemon")]
    Connect { source: io::Error },
    #[error("the connection to the daemon broke")]
    Broken { source: hyper::Error },
    #[error("the daemon refused: {}", problem.detail)]
    Refused { problem: dto::Problem },
    #[error("the daemon gave an answer that this version does not understand")]
    Answer { source: serde_json::Error },
    #[error("the daemon's answer is too large")]
    TooLarge,
    #[error("the daemon{} does not answer", pid.map(|pid| format!(", pid {pid},")).unwrap_or_default())]
    Silent {
        /// As the folder's lock says.
        pid: Option<u32>,
    },
}

impl Error {
    /// A daemon holds the folder's lock, and that is all that is heard of it.
    pub fn silent(project: &Project) -> Self {
        Self::Silent { pid: project.daemon_pid() }
    }
}

/// Where the daemon of one application listens.
#[derive(Clone, Debug)]
pub struct Client {
    project: Project,
}

impl Client {
    pub fn new(project: &Project) -> Self {
        Self { project: project.clone() }
    }

    /// Asks for one JSON value.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        let answer = async { collect(self.call(Method::GET, path, Bytes::new()).await?).await };
        parse(&self.in_time(answer).await?)
    }

    /// Sends one JSON value; returns when the daemon has done what it says.
    pub async fn post<T: Serialize>(&self, path: &str, value: &T) -> Result<(), Error> {
        self.order(path, value).await.map(drop)
    }

    /// Sends one JSON value and gets another; returns when the daemon has done what it says.
    pub async fn ask<T: Serialize, R: DeserializeOwned>(&self, path: &str, value: &T) -> Result<R, Error> {
        parse(&self.order(path, value).await?)
    }

    /// Has something cleared; returns what it was when that is done.
    pub async fn delete<R: DeserializeOwned>(&self, path: &str) -> Result<R, Error> {
        let answer = async { collect(self.call(Method::DELETE, path, Bytes::new()).await?).await };
        parse(&self.in_time(answer).await?)
    }

    /// What is ordered may take long; a daemon that answers nothing else meanwhile does not do it.
    async fn order<T: Serialize>(&self, path: &str, value: &T) -> Result<Vec<u8>, Error> {
        let body = serde_json::to_vec(value).map_err(|source| Error::Answer { source })?;
        let answer = async { collect(self.call(Method::POST, path, body.into()).await?).await };
        let silence = async {
            loop {
                tokio::time::sleep(ALIVE_INTERVAL).await;
                if let Err(error @ Error::Silent { .. }) = self.get::<IgnoredAny>("/v1/status").await {
                    return error;
                }
            }
        };
        tokio::select! {
            biased;
            answer = answer => answer,
            error = silence => Err(error),
        }
    }

    /// Follows a stream of JSON lines.
    pub async fn stream(&self, path: &str) -> Result<Stream, Error> {
        let body = self.in_time(self.call(Method::GET, path, Bytes::new())).await?;
        Ok(Stream { body, buffer: Vec::new(), scanned: 0 })
    }

    async fn in_time<T>(&self, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout(ANSWER_MAX, answer).await.map_err(|_| Error::silent(&self.project))?
    }

    async fn call(&self, method: Method, path: &str, body: Bytes) -> Result<Incoming, Error> {
        let name = socket::name(&self.project.socket()).map_err(|source| self.unreachable(source))?;
        let stream = UnixStream::connect(&name.path).await.map_err(|source| self.unreachable(source))?;
        let broken = |source| Error::Broken { source };
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        // Ends with the body or the answer; its error is the answer's error.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "atoll")
            .header("content-type", "application/json")
            .body(Full::new(body))
            .expect("method, path and headers are ours and valid");
        let response = sender.send_request(request).await.map_err(broken)?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() {
            return Ok(body);
        }
        let text = collect(body).await?;
        Err(Error::Refused { problem: parse(&text).unwrap_or_else(|_| unexpected(status)) })
    }

    fn unreachable(&self, source: io::Error) -> Error {
        match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                let left = !supervisor::left_running(&self.project.run()).is_empty();
                Error::NotRunning { manifest: self.project.manifest.display().to_string(), left }
            }
            _ => Error::Connect { source },
        }
    }
}

/// JSON lines that arrive one by one.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    buffer: Vec<u8>,
    /// So much of the buffer is known to hold no end of a line.
    scanned: usize,
}

impl Stream {
    /// The next value, or `None` when the daemon has ended the stream. Cancel safe.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some(end) = self.buffer[self.scanned..].iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=self.scanned + end).collect();
                self.scanned = 0;
                return parse(&line).map(Some);
            }
            self.scanned = self.buffer.len();
            if self.scanned > ANSWER_BYTES_MAX {
                return Err(Error::TooLarge);
            }
            match self.body.frame().await {
                None => return Ok(None),
                Some(Err(source)) => return Err(Error::Broken { source }),
                Some(Ok(frame)) => {
                    if let Ok(bytes) = frame.into_data() {
                        self.buffer.extend_from_slice(&bytes);
                    }
                }
            }
        }
    }
}

async fn collect(mut body: Incoming) -> Result<Vec<u8>, Error> {
    let mut answer = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|source| Error::Broken { source })?;
        if let Ok(bytes) = frame.into_data() {
            answer.extend_from_slice(&bytes);
        }
        if answer.len() > ANSWER_BYTES_MAX {
            return Err(Error::TooLarge);
        }
    }
    Ok(answer)
}

fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T, Error> {
    serde_json::from_slice(text).map_err(|source| Error::Answer { source })
}

fn unexpected(status: StatusCode) -> dto::Problem {
    let title = status.canonical_reason().unwrap_or("unexpected").to_owned();
    dto::Problem { detail: title.clone(), title, status: status.as_u16(), hint: None }
}
