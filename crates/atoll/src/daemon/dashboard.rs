//! The daemon's own HTTP port, for whoever watches from outside: `/metrics`, `/livez`, `/readyz`. Reading only; commands
//! come over the Unix socket. Whoever asks by a name that is not this machine's own is turned away, so that no web page
//! reads it through a browser (DNS rebinding).

use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdListener};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HOST, HeaderValue, VARY, X_CONTENT_TYPE_OPTIONS};
use http::uri::Authority;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use supervisor::{InstanceState, Wanted};
use thiserror::Error;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::{sleep, timeout};

use crate::daemon::{Control, unlistenable};
use crate::lower::{self, Usage};
use crate::processes;

/// Its table in the manifest.
pub const NAME: &str = "dashboard";

// Limit: connections at once; one more waits to be accepted.
const CONNECTIONS_MAX: usize = 64;
/// From one request to the end of the head of the next.
const HEAD_MAX: Duration = Duration::from_secs(10);
/// A connection lives no longer: one that reads nothing does not stay for ever.
const CONNECTION_MAX: Duration = Duration::from_secs(10 * 60);
/// How long to wait when the process has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// How long the data plane may take to say what it has counted; what comes later is missing in this answer.
const READ_MAX: Duration = Duration::from_secs(3);

#[derive(Debug, Error)]
#[error("cannot listen on {address} for the dashboard")]
pub struct Error {
    address: SocketAddr,
    source: io::Error,
}

impl Error {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        unlistenable(NAME, self.address, self.source.kind())
    }
}

/// The socket, which a changed manifest may move.
#[derive(Debug)]
pub struct Dashboard(watch::Sender<Arc<Open>>);

#[derive(Debug)]
struct Open {
    address: SocketAddr,
    socket: StdListener,
}

impl Open {
    fn bind(address: SocketAddr) -> Result<Arc<Self>, Error> {
        let opened = StdListener::bind(address).and_then(|socket| socket.set_nonblocking(true).map(|()| socket));
        let socket = opened.map_err(|source| Error { address, source })?;
        Ok(Arc::new(Self { address, socket }))
    }
}

impl Dashboard {
    pub fn bind(address: SocketAddr) -> Result<Self, Error> {
        Ok(Self(watch::Sender::new(Open::bind(address)?)))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.borrow().address
    }

    /// Listens there from now on. Nothing has changed where that cannot be.
    pub fn listen(&self, address: SocketAddr) -> Result<(), Error> {
        if self.address() != address {
            self.0.send_replace(Open::bind(address)?);
        }
        Ok(())
    }
}

/// Answers until everything has stopped.
pub(super) async fn run(control: Arc<Control>) {
    let mut opened = control.dashboard.0.subscribe();
    let mut drained = control.drained.clone();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let open = Arc::clone(&opened.borrow_and_update());
        let listener = match open.socket.try_clone().and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the dashboard's socket is lost"),
        };
        drop(open);
        let accept = async {
            loop {
                let Ok(place) = Arc::clone(&room).acquire_owned().await else { return };
                match listener.accept().await {
                    Ok((stream, _)) => {
                        let served = serve(stream, Arc::clone(&control));
                        control.tasks.spawn(async move {
                            served.await;
                            drop(place);
                        });
                    }
                    Err(error) => {
                        tracing::debug!(%error, "the dashboard cannot accept");
                        sleep(ACCEPT_PAUSE).await;
                    }
                }
            }
        };
        tokio::select! {
            () = accept => return,
            Ok(()) = opened.changed() => {}
            _ = drained.wait_for(|drained| *drained) => return,
        }
    }
}

async fn serve(stream: TcpStream, control: Arc<Control>) {
    let mut drained = control.drained.clone();
    let answer = service_fn(move |request: Request<Incoming>| {
        let control = Arc::clone(&control);
        async move { Ok::<_, Infallible>(answer(&control, &request).await) }
    });
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(HEAD_MAX);
    let served = timeout(CONNECTION_MAX, server.serve_connection(TokioIo::new(stream), answer));
    tokio::select! {
        // Its errors are those of whoever asked.
        _ = served => {}
        _ = drained.wait_for(|drained| *drained) => {}
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer(control: &Control, request: &Request<Incoming>) -> Answer {
    if let Err(status) = check_host(request, control.dashboard.address().ip()) {
        return text(status, "this is another machine's name; ask by the address, or by localhost\n".into());
    }
    let mut answer = match request.uri().path() {
        "/metrics" | "/livez" | "/readyz" if !matches!(*request.method(), Method::GET | Method::HEAD) => {
            let mut refused = text(StatusCode::METHOD_NOT_ALLOWED, "GET is what there is\n".into());
            refused.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
            refused
        }
        "/metrics" => metrics(control, request).await,
        "/livez" => text(StatusCode::OK, "ok\n".into()),
        "/readyz" => readiness(control),
        _ => text(StatusCode::NOT_FOUND, "there are /metrics, /livez and /readyz\n".into()),
    };
    let headers = answer.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}

/// Names that cannot be made to mean this machine by somebody else: `localhost` (RFC 6761 §6.3), loopback addresses, and
/// the address that the manifest has. One that stands for all of them allows every address, but no name.
fn check_host<B>(request: &Request<B>, listen: IpAddr) -> Result<(), StatusCode> {
    let mut fields = request.headers().get_all(HOST).iter();
    let (field, more) = (fields.next(), fields.next());
    let written = field.and_then(|host| host.to_str().ok()?.parse::<Authority>().ok());
    // A target with an authority overrules the field (RFC 9112 §3.2.2).
    let authority = request.uri().authority().or(written.as_ref()).filter(|_| more.is_none());
    let host = authority.ok_or(StatusCode::BAD_REQUEST)?.host().to_ascii_lowercase();
    let is_local = match host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
        Ok(address) => address.is_loopback() || address == listen || listen.is_unspecified(),
        Err(_) => host == "localhost" || host.ends_with(".localhost"),
    };
    if is_local { Ok(()) } else { Err(StatusCode::MISDIRECTED_REQUEST) }
}

async fn metrics(control: &Control, request: &Request<Incoming>) -> Answer {
    let accepts: Vec<&str> = request.headers().get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let format = lower::MetricsFormat::accepted(&accepts.join(","));
    // Nothing of the data plane is better than nothing at all.
    let readings = timeout(READ_MAX, control.proxy.read()).await.unwrap_or_default();
    let broker = control.bus.read(READ_MAX).await;
    let (snapshot, usages) = (control.supervisor.snapshot(), usages(control));
    let families = lower::families(
        env!("CARGO_PKG_VERSION"),
        &readings,
        &snapshot,
        &usages,
        broker.as_ref(),
        &control.eventing.read(),
    );
    let mut answer = text(StatusCode::OK, lower::write_metrics(&families, format));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    answer.headers_mut().insert(VARY, HeaderValue::from_static("accept"));
    answer
}

fn usages(control: &Control) -> Vec<Usage> {
    let own = [("daemon", Some(std::process::id())), ("data-plane", control.proxy.pid())];
    let usage = |(process, pid): (&'static str, Option<u32>)| {
        let pid = i32::try_from(pid?).ok()?;
        let seen = processes::find(pid)?;
        let (open_files, open_files_max) = processes::files(pid);
        Some(Usage {
            process,
            cpu_seconds: seen.cpu_ticks as f64 / processes::TICKS_PER_SECOND,
            memory_bytes: processes::memory_bytes(pid)?,
            open_files,
            open_files_max,
            started_at_seconds: processes::boot_seconds()
                .map(|boot| boot as f64 + seen.start_ticks as f64 / processes::TICKS_PER_SECOND),
        })
    };
    own.into_iter().filter_map(usage).collect()
}

/// Ready is who can answer for all that is to run: the data plane serves, and every wanted instance is ready or has done
/// its work.
fn readiness(control: &Control) -> Answer {
    let mut missing = String::new();
    if control.proxy.pid().is_none() {
        missing.push_str("the data plane does not serve\n");
    }
    for shortcoming in control.bus.shortcomings() {
        missing.push_str(&format!("{shortcoming}\n"));
    }
    let snapshot = control.supervisor.snapshot();
    for service in snapshot.services.iter().filter(|service| service.wanted == Wanted::Running) {
        for instance in service.instances.iter().filter(|i| !i.ready && i.state != InstanceState::Exited) {
            let reason = instance.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
            missing.push_str(&format!("{}.{} is {}{reason}\n", service.name, instance.index, instance.state.name()));
        }
    }
    if missing.is_empty() {
        text(StatusCode::OK, "ok\n".into())
    } else {
        text(StatusCode::SERVICE_UNAVAILABLE, missing)
    }
}

fn text(status: StatusCode, content: String) -> Answer {
    let mut answer = Response::new(Full::from(content));
    *answer.status_mut() = status;
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_are_this_machines_own_are_answered() {
        let check = |target: &str, hosts: &[&str], listen: &str| {
            let mut request = Request::builder().uri(target);
            for host in hosts {
                request = request.header(HOST, *host);
            }
            check_host(&request.body(()).expect("a request"), listen.parse().expect("an address")).err()
        };
        let (loopback, any) = ("127.0.0.1", "0.0.0.0");
        for host in ["localhost", "LOCALHOST:1", "a.localhost:8070", "127.0.0.1:8070", "127.9.9.9", "[::1]:8070"] {
            assert_eq!(check("/", &[host], loopback), None, "{host}");
        }
        for host in ["example.org", "localhost.example.org", "10.0.0.1:8070", "127.0.0.1.example.org", "[2001:db8::1]"]
        {
            assert_eq!(check("/", &[host], loopback), Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
        assert_eq!(check("/", &["10.0.0.1:8070"], "10.0.0.1"), None);
        assert_eq!(check("/", &["10.0.0.1:8070"], any), None);
        assert_eq!(check("/", &["rebound.example.org"], any), Some(StatusCode::MISDIRECTED_REQUEST));
        let absolute = "http://example.org/metrics";
        assert_eq!(check(absolute, &["localhost"], loopback), Some(StatusCode::MISDIRECTED_REQUEST));
        for hosts in [&[][..], &["localhost", "localhost"], &[""], &["a b"]] {
            assert_eq!(check("/", hosts, loopback), Some(StatusCode::BAD_REQUEST), "{hosts:?}");
        }
    }
}
