//! Carries events to a service: one HTTP/1.1 request over a connection that is kept, and what came of it. Called by the
//! subscription, which decides what that means for the event. It never waits longer than it was told.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderName, HeaderValue, RETRY_AFTER};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use kit::trace::TraceContext;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::lanes::Outcome;
use crate::cloudevent::{http as binding, json};
use crate::event::Event;
use crate::reading::Attempt;

/// What is kept of an answer.
const ANSWER_BYTES_MAX: usize = 1024;
/// Limit: a longer answer is cut off, with its connection.
const BODY_BYTES_MAX: usize = 64 << 10;
/// What comes after the head decides nothing; so long it may take, so that the connection can be used again.
const BODY_TIME_MAX: Duration = Duration::from_secs(1);
/// Limit: no `retry-after` is heeded beyond it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(300);
/// Limit of heads of answers.
const HEAD_BYTES_MAX: usize = 64 << 10;

const REASON: &str = "atoll-reason";
/// What an edge answers when it has asked nobody: see `reason` of the proxy. None of them is an attempt.
const NOBODY_ASKED: [&str; 9] = [
    "no_endpoint",
    "connect_failed",
    "circuit_open",
    "concurrency_limited",
    "overloaded",
    "rate_limited",
    "too_many_connections",
    "no_route",
    "misdirected",
];

/// Where to, and how.
#[derive(Debug)]
pub(crate) struct Courier {
    edge: SocketAddr,
    host: HeaderValue,
    path: Uri,
    subscription: HeaderValue,
    deadline: HeaderValue,
    ack_wait: Duration,
}

/// What one request says beside its events.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Marks {
    pub(crate) attempt: u32,
    pub(crate) is_redriven: bool,
    pub(crate) is_replayed: bool,
    pub(crate) is_out_of_order: bool,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) outcome: Outcome,
    pub(crate) attempt: Attempt,
    /// Why nobody was asked.
    pub(crate) nobody: Option<String>,
    /// To be used again.
    pub(crate) connection: Option<Connection>,
}

impl Delivery {
    /// There was nothing to deliver, and never will be.
    pub(crate) fn refused(why: &str, connection: Option<Connection>) -> Self {
        let (request_id, answer) = (kit::ids::unique(), why.to_owned());
        let attempt = Attempt { at: Timestamp::now(), took: Duration::ZERO, status: None, answer, request_id };
        Self { outcome: Outcome::Refused, attempt, nobody: None, connection }
    }
}

/// A connection to the edge.
pub(crate) struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    /// The driver has ended.
    is_over: bool,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// What an edge or a service answered.
struct Answer {
    status: StatusCode,
    nobody: Option<String>,
    retry_after: Option<Duration>,
    text: String,
}

/// Why there was none.
enum Failure {
    /// There is no edge.
    NoEdge(std::io::Error),
    Broken(String),
}

impl Courier {
    /// # Errors
    /// Why it is no path.
    pub(crate) fn new(edge: SocketAddr, path: &str, subscription: &str, ack_wait: Duration) -> Result<Self, String> {
        let wrong = || format!("{path:?} is no path of a request");
        let path = PathAndQuery::try_from(path).ok().filter(|_| path.starts_with('/')).ok_or_else(wrong)?;
        let subscription = HeaderValue::try_from(subscription).map_err(|_| "its name is no name".to_owned())?;
        Ok(Self {
            edge,
            host: HeaderValue::try_from(edge.to_string()).expect("an address is ASCII"),
            path: Uri::from(path),
            subscription,
            deadline: HeaderValue::from(u64::try_from(ack_wait.as_millis()).unwrap_or(u64::MAX)),
            ack_wait,
        })
    }

    /// The request of one event, in binary mode.
    pub(crate) fn single(&self, event: &Event, marks: Marks) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::with_capacity(16);
        binding::print(event, &mut headers);
        self.mark(event, marks, &mut headers);
        (headers, event.data.clone())
    }

    /// The request of several.
    pub(crate) fn batch<'a>(&self, events: &[&'a Event], marks: Marks) -> (HeaderMap, Bytes) {
        let mut headers = HeaderMap::with_capacity(12);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(binding::BATCH));
        let first: &'a Event = events[0];
        self.mark(first, marks, &mut headers);
        (headers, json::print_batch(events.iter().copied()).into())
    }

    fn mark(&self, event: &Event, marks: Marks, headers: &mut HeaderMap) {
        let parent = event.attribute("traceparent").and_then(|text| TraceContext::parse(text.as_bytes()));
        let trace = parent.map_or_else(TraceContext::root, TraceContext::child).to_bytes();
        let trace = HeaderValue::from_bytes(&trace).expect("it is ASCII");
        headers.insert(HOST, self.host.clone());
        headers.insert(HeaderName::from_static("traceparent"), trace);
        if let Some(state) = event.attribute("tracestate").and_then(|text| HeaderValue::try_from(text).ok()) {
            headers.insert(HeaderName::from_static("tracestate"), state);
        }
        headers.insert(HeaderName::from_static("atoll-deadline"), self.deadline.clone());
        headers.insert(HeaderName::from_static("atoll-subscription"), self.subscription.clone());
        headers.insert(HeaderName::from_static("atoll-attempt"), HeaderValue::from(marks.attempt));
        for (name, is_so) in [
            ("atoll-redriven", marks.is_redriven),
            ("atoll-replayed", marks.is_replayed),
            ("atoll-out-of-order", marks.is_out_of_order),
        ] {
            if is_so {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static("true"));
            }
        }
    }

    /// Sends a request and waits for the head of its answer, at most `ack_wait`. The body has a bound of its own, and decides
    /// nothing.
    pub(crate) async fn deliver(&self, kept: Option<Connection>, mut headers: HeaderMap, body: Bytes) -> Delivery {
        let (at, began) = (Timestamp::now(), Instant::now());
        let request_id = kit::ids::unique();
        let id = HeaderValue::try_from(request_id.as_str()).expect("an id is ASCII");
        headers.insert(HeaderName::from_static("x-request-id"), id);
        let deadline = began + self.ack_wait;
        let exchanged = timeout_at(deadline, self.exchange(kept, &headers, &body)).await;
        let late = || Failure::Broken(format!("no answer within {:?}", self.ack_wait));
        let took = began.elapsed();
        let (result, connection) = match exchanged {
            Ok(Ok((response, connection))) => {
                let (answer, connection) = connection.finish(response).await;
                (Ok(answer), connection)
            }
            Ok(Err(failure)) => (Err(failure), None),
            Err(_) => (Err(late()), None),
        };
        let (outcome, status, answer, nobody) = match result {
            Ok(answer) => (judge(&answer), Some(answer.status.as_u16()), answer.text, answer.nobody),
            Err(Failure::NoEdge(error)) => {
                let why = format!("the edge cannot be connected to: {error}");
                (Outcome::Unreachable, None, why.clone(), Some(why))
            }
            Err(Failure::Broken(why)) => (Outcome::Failed { retry_after: None }, None, why, None),
        };
        let attempt = Attempt { at, took, status, answer, request_id };
        Delivery { outcome, attempt, nobody, connection }
    }

    async fn exchange(
        &self,
        kept: Option<Connection>,
        headers: &HeaderMap,
        body: &Bytes,
    ) -> Result<(Response<Incoming>, Connection), Failure> {
        if let Some(mut connection) = kept.and_then(Connection::if_open) {
            match connection.exchange(self.request(headers, body)).await {
                Ok(response) => return Ok((response, connection)),
                // It was closed at this very moment: nothing of the request was written.
                Err(error) if error.is_canceled() => {}
                Err(error) => return Err(Failure::Broken(words(&error))),
            }
        }
        let mut connection = Connection::open(self.edge).await?;
        let exchanged = connection.exchange(self.request(headers, body)).await;
        exchanged.map(|response| (response, connection)).map_err(|error| Failure::Broken(words(&error)))
    }

    fn request(&self, headers: &HeaderMap, body: &Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body.clone()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.path.clone();
        *request.headers_mut() = headers.clone();
        request
    }
}

impl Connection {
    async fn open(edge: SocketAddr) -> Result<Self, Failure> {
        let stream = TcpStream::connect(edge).await.map_err(Failure::NoEdge)?;
        // Without it a request in two writes waits for an acknowledgement; nothing depends on it otherwise.
        let _ = stream.set_nodelay(true);
        let shake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream));
        let (sender, driver) = shake.await.map_err(|error| Failure::Broken(words(&error)))?;
        Ok(Self { sender, driver: Box::pin(driver), is_over: false })
    }

    /// Itself, unless the other side has closed it meanwhile.
    fn if_open(mut self) -> Option<Self> {
        let polled = self.driver.as_mut().poll(&mut Context::from_waker(Waker::noop()));
        (polled.is_pending() && self.sender.is_ready()).then_some(self)
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let Self { sender, driver, is_over } = self;
        driven(driver, is_over, sender.send_request(request)).await
    }

    /// Reads what follows the head. Gives itself back where it can be used again.
    async fn finish(mut self, response: Response<Incoming>) -> (Answer, Option<Self>) {
        let (head, body) = response.into_parts();
        let mut text = Vec::new();
        let reading = driven(&mut self.driver, &mut self.is_over, read(body, &mut text));
        let is_whole = timeout(BODY_TIME_MAX, reading).await.unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let reason = head.headers.get(REASON).and_then(|value| value.to_str().ok());
        let nobody = reason.filter(|reason| NOBODY_ASKED.contains(reason));
        let answer = Answer {
            status: head.status,
            nobody: nobody.map(|reason| format!("the edge answers {}: {reason}", head.status.as_u16())),
            retry_after: head.headers.get(RETRY_AFTER).and_then(retry_after),
            text: text[..text.floor_char_boundary(ANSWER_BYTES_MAX)].to_owned(),
        };
        (answer, (is_whole && !self.is_over).then_some(self))
    }
}

/// Awaits something of a connection while the connection is driven.
async fn driven<T>(
    driver: &mut Pin<Box<http1::Connection<TokioIo<TcpStream>, Full<Bytes>>>>,
    is_over: &mut bool,
    future: impl Future<Output = T>,
) -> T {
    let mut future = pin!(future);
    std::future::poll_fn(|context| {
        if let Poll::Ready(value) = future.as_mut().poll(context) {
            return Poll::Ready(value);
        }
        if !*is_over {
            *is_over = driver.as_mut().poll(context).is_ready();
            // What it has read meanwhile is there now.
            return future.as_mut().poll(context);
        }
        Poll::Pending
    })
    .await
}

/// Reads the first KiB of an answer, and tells whether all of it came.
async fn read(mut body: Incoming, text: &mut Vec<u8>) -> bool {
    let mut count = 0;
    loop {
        match body.frame().await {
            None => return true,
            Some(Err(_)) => return false,
            Some(Ok(frame)) => {
                let Some(data) = frame.data_ref() else { continue };
                count += data.len();
                text.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - text.len())]);
                if count > BODY_BYTES_MAX {
                    return false;
                }
            }
        }
    }
}

/// What an answer means (design: "Events in").
fn judge(answer: &Answer) -> Outcome {
    if answer.nobody.is_some() {
        return Outcome::Unreachable;
    }
    match answer.status.as_u16() {
        200..300 => Outcome::Done,
        429 | 503 => Outcome::Failed { retry_after: answer.retry_after },
        100..200 | 408 | 425 | 500.. => Outcome::Failed { retry_after: None },
        _ => Outcome::Refused,
    }
}

/// Seconds, or a date (RFC 9110 §10.2.3).
fn retry_after(value: &HeaderValue) -> Option<Duration> {
    let text = value.to_str().ok()?.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => {
            let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
            Duration::try_from(at.duration_since(Timestamp::now())).unwrap_or_default()
        }
    };
    Some(wait.min(RETRY_AFTER_MAX))
}

fn words(error: &hyper::Error) -> String {
    kit::Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_body_that_does_not_end_takes_nothing_from_its_head() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let courier = Courier::new(address, "/", "s", Duration::from_millis(200)).unwrap();
        let serve = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            assert!(stream.read(&mut buffer).await.unwrap() > 0);
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await.unwrap();
            // It closes when the courier does.
            while stream.read(&mut buffer).await.is_ok_and(|count| count > 0) {}
        };
        let (delivery, ()) = tokio::join!(courier.deliver(None, HeaderMap::new(), Bytes::new()), serve);
        assert_eq!((delivery.outcome, delivery.attempt.status), (Outcome::Done, Some(200)));
        assert_eq!((delivery.attempt.answer.as_str(), delivery.connection.is_some()), ("abc", false));
    }
}
