//! One check of one instance: a GET, a connection, or a command. Bounded in time and bytes; failures are texts for people.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use rustix::process::Signal;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::config;
use crate::process::{Output, Process, Spec};
use crate::shim::wire::Readiness;

/// Limit: bytes of an answer that are read for its status line (RFC 9112 §4).
const ANSWER_BYTES_MAX: usize = 256;

/// How often in a row the same refusal must come until a connection is enough: while it boots a server may answer 404
/// before its routes are there.
const REFUSALS_MIN: u32 = 3;

/// What the default check asks for.
const DEFAULT_PATH: &str = "/readyz";

/// Whom to ask.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    /// That of the instance: commands run in the same surroundings.
    pub(crate) spec: Spec,
}

/// A check and what it has learned of its instance.
#[derive(Debug)]
pub(crate) struct Check<'a> {
    target: &'a Target,
    method: Method<'a>,
    /// How often in a row the same refusal must come.
    refusals_min: u32,
}

#[derive(Debug)]
enum Method<'a> {
    /// The default, before anything was learned; how often in a row the answer was the same refusal.
    Undecided(Refusal, u32),
    Http(&'a str),
    Tcp,
    Exec(&'a [String]),
}

impl<'a> Check<'a> {
    /// `past` is what was found before: one that was ready is not booting, and means its first refusal.
    pub(crate) fn new(check: &'a config::Check, target: &'a Target, past: Readiness) -> Self {
        let method = match check {
            config::Check::Default => Method::Undecided(Refusal::None, 0),
            config::Check::Http(path) => Method::Http(path),
            config::Check::Tcp => Method::Tcp,
            config::Check::Exec(words) => Method::Exec(words),
        };
        let refusals_min = if past == Readiness::Never { REFUSALS_MIN } else { 1 };
        Self { target, method, refusals_min }
    }

    /// Whether the default was refused by one that answers, and it is not yet certain that it always will be.
    pub(crate) fn was_refused(&self) -> bool {
        matches!(self.method, Method::Undecided(Refusal::Status(_) | Refusal::NotHttp, _))
    }

    /// Asks once.
    ///
    /// # Errors
    /// Why it is not well, in words.
    pub(crate) async fn ask(&mut self, limit: Duration) -> Result<(), String> {
        let address = self.target.address;
        match self.method {
            Method::Undecided(last, count) => {
                let answer = get(address, DEFAULT_PATH, limit).await;
                let refusal = answer.refusal();
                let count = if refusal == last { count + 1 } else { 1 };
                self.method = match answer {
                    Answer::Status(200..400) => Method::Http(DEFAULT_PATH),
                    _ if refusal != Refusal::None && count >= self.refusals_min => {
                        self.method = Method::Tcp;
                        return connect(address, limit).await;
                    }
                    _ => Method::Undecided(refusal, count),
                };
                answer.judge(address, DEFAULT_PATH, limit)
            }
            Method::Http(path) => get(address, path, limit).await.judge(address, path, limit),
            Method::Tcp => connect(address, limit).await,
            Method::Exec(words) => execute(words, self.target, limit).await,
        }
    }
}

/// What an answer says of a server that does not know the default path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// Nothing.
    None,
    Status(u16),
    NotHttp,
}

/// What came back of a GET.
#[derive(Debug)]
enum Answer {
    Status(u16),
    /// Bytes came back that begin no HTTP/1 answer.
    NotHttp,
    /// No connection, or one that broke.
    Broken(io::Error),
    /// The connection was closed before there was an answer, as by a server that is just starting or ending.
    Closed,
    /// Accepted, and then silent.
    Late,
}

impl Answer {
    fn refusal(&self) -> Refusal {
        match self {
            Self::Status(status @ (404 | 405 | 501)) => Refusal::Status(*status),
            Self::NotHttp => Refusal::NotHttp,
            _ => Refusal::None,
        }
    }

    fn judge(self, address: SocketAddr, path: &str, limit: Duration) -> Result<(), String> {
        let what = match self {
            Self::Status(200..400) => return Ok(()),
            Self::Status(status) => status.to_string(),
            Self::NotHttp => "the answer is no HTTP".to_owned(),
            Self::Broken(error) => describe(&error),
            Self::Closed => "closed without an answer".to_owned(),
            Self::Late => format!("no answer within {} ms", limit.as_millis()),
        };
        Err(format!("GET http://{address}{path}: {what}"))
    }
}

async fn get(address: SocketAddr, path: &str, limit: Duration) -> Answer {
    let exchange = async {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Answer::Broken(error),
        };
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {address}\r\nuser-agent: atoll-probe\r\naccept: */*\r\nconnection: close\r\n\r\n"
        );
        let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
        // A server may answer before it has read everything, and close: what it said counts, if it said anything.
        let written = stream.write_all(request.as_bytes()).await;
        let mut answer_limited = stream.take(ANSWER_BYTES_MAX as u64);
        loop {
            if let Some(status) = parse_status(&answer) {
                return status.map_or(Answer::NotHttp, Answer::Status);
            }
            match answer_limited.read_buf(&mut answer).await {
                Ok(0) => return written.err().map_or(Answer::Closed, Answer::Broken),
                Err(error) => return Answer::Broken(error),
                Ok(_) => {}
            }
        }
    };
    timeout(limit, exchange).await.unwrap_or(Answer::Late)
}

/// Reads `HTTP/1.x NNN`: `None` while it may still become that, `Some(None)` when it cannot.
fn parse_status(answer: &[u8]) -> Option<Option<u16>> {
    const START: &[u8] = b"HTTP/1.";
    let known = answer.len().min(START.len());
    if answer[..known] != START[..known] {
        return Some(None);
    }
    let head = answer.get(..12)?;
    let status = std::str::from_utf8(&head[9..]).ok().and_then(|digits| digits.parse().ok());
    Some(status.filter(|status| head[8] == b' ' && (100..600).contains(status)))
}

async fn connect(address: SocketAddr, limit: Duration) -> Result<(), String> {
    match timeout(limit, TcpStream::connect(address)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(format!("connect to {address}: {}", describe(&error))),
        Err(_) => Err(format!("connect to {address}: no answer within {} ms", limit.as_millis())),
    }
}

/// Runs a command in the instance's surroundings and kills it, with all that it started, when its time is over.
async fn execute(words: &[String], target: &Target, limit: Duration) -> Result<(), String> {
    let spec = Spec { words: words.to_vec(), ..target.spec.clone() };
    let name = words.join(" ");
    let spawned = Process::spawn(&spec, Output::discarded()).await;
    let process = spawned.map_err(|error| format!("exec `{name}`: {}", kit::Chain(&error)))?;
    // Dropped here, or with its instance, it is killed.
    if timeout(limit, process.ended()).await.is_err() {
        return Err(format!("exec `{name}`: not done within {} ms", limit.as_millis()));
    }
    // Order: signal before reaping, while the group is surely still its own.
    process.group().signal(Signal::KILL);
    let exit = process.reap();
    match exit.is_success() {
        true => Ok(()),
        false => Err(format!("exec `{name}`: {exit}")),
    }
}

/// Without the operating system's number, which says nothing to a reader.
fn describe(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::ConnectionReset => "connection reset".to_owned(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use tokio::net::TcpListener;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    fn target(address: SocketAddr) -> Target {
        let environment = BTreeMap::from([("PATH".into(), "/usr/bin:/bin".into()), ("WORD".into(), "yes".into())]);
        let working_dir = std::env::temp_dir();
        Target { address, spec: Spec { words: Vec::new(), working_dir, environment, open_files_soft: None } }
    }

    /// Answers each connection with the next of `answers`, the last one for ever.
    async fn server(answers: &'static [&'static str]) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            for index in 0.. {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answers[index.min(answers.len() - 1)].as_bytes()).await;
            }
        });
        address
    }

    async fn ask(check: &config::Check, answers: &'static [&'static str]) -> Vec<String> {
        let target = target(server(answers).await);
        let mut check = Check::new(check, &target, Readiness::Never);
        let mut results = Vec::new();
        for _ in answers {
            let result = check.ask(LIMIT).await;
            results
                .push(result.map_or_else(|why| why.replace(&target.address.to_string(), "ADDRESS"), |()| "ok".into()));
        }
        results
    }

    #[tokio::test]
    async fn the_default_falls_back_to_a_connection_for_good() {
        const REFUSED: &str = "HTTP/1.1 404 Not Found\r\n\r\n";
        const BROKEN: &str = "HTTP/1.1 500 Internal\r\n\r\n";
        let failed = "GET http://ADDRESS/readyz: 500";
        const GOOD: &str = "HTTP/1.0 204 x\r\n";
        const ODD: &str = "-ERR unknown command\r\n";
        let (refused, odd) = ("GET http://ADDRESS/readyz: 404", "GET http://ADDRESS/readyz: the answer is no HTTP");
        let closed = "GET http://ADDRESS/readyz: closed without an answer";
        for (answers, expected) in [
            (&[REFUSED, REFUSED, REFUSED, "", BROKEN][..], &[refused, refused, "ok", "ok", "ok"][..]),
            (&[ODD, ODD, ODD, BROKEN], &[odd, odd, "ok", "ok"]),
            // A server whose routes are not there yet, and one that changes while it boots.
            (&[REFUSED, REFUSED, GOOD, BROKEN], &[refused, refused, "ok", failed]),
            (&[REFUSED, REFUSED, BROKEN, REFUSED, ODD, GOOD], &[refused, refused, failed, refused, odd, "ok"]),
            (&["", "HTTP/", "", "", GOOD], &[closed, closed, closed, closed, "ok"]),
            (
                &[BROKEN, "HTTP/1.0 204 x\r\n", BROKEN, REFUSED],
                &[failed, "ok", failed, "GET http://ADDRESS/readyz: 404"],
            ),
        ] {
            assert_eq!(ask(&config::Check::Default, answers).await, expected, "{answers:?}");
        }
    }

    #[tokio::test]
    async fn a_written_path_has_no_fallback() {
        let check = config::Check::Http("/ok".to_owned());
        let answers = &["HTTP/1.1 302 Found\r\n\r\n", "HTTP/1.1 404 No\r\n\r\n", "HTTP/1.1 abc\r\n\r\n", "SSH-2.0"];
        let no_http = "GET http://ADDRESS/ok: the answer is no HTTP";
        assert_eq!(ask(&check, answers).await, ["ok", "GET http://ADDRESS/ok: 404", no_http, no_http]);
    }

    #[tokio::test]
    async fn nobody_there_is_said() {
        let address = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let target = target(address);
        let refused = Err(format!("GET http://{address}/readyz: connection refused"));
        assert_eq!(Check::new(&config::Check::Default, &target, Readiness::Never).ask(LIMIT).await, refused);
        let refused = Err(format!("connect to {address}: connection refused"));
        assert_eq!(Check::new(&config::Check::Tcp, &target, Readiness::Never).ask(LIMIT).await, refused);
    }

    #[tokio::test]
    async fn silence_ends_at_the_timeout() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let target = target(listener.local_addr().unwrap());
        let limit = Duration::from_millis(30);
        let why = Check::new(&config::Check::Default, &target, Readiness::Never).ask(limit).await.unwrap_err();
        assert!(why.ends_with("/readyz: no answer within 30 ms"), "{why}");
    }

    #[tokio::test]
    async fn a_command_decides_by_its_status_and_is_killed_in_time() {
        let target = target(SocketAddr::from(([127, 0, 0, 1], 1)));
        let words = |script: &str| config::Check::Exec(["sh", "-c", script].map(str::to_owned).to_vec());
        for (script, expected) in [("test \"$WORD\" = yes", Ok(())), ("exit 3", Err("exec `sh -c exit 3`: status 3"))] {
            let check = words(script);
            assert_eq!(Check::new(&check, &target, Readiness::Never).ask(LIMIT).await, expected.map_err(str::to_owned));
        }
        let check = words("sleep 1000");
        let why = Check::new(&check, &target, Readiness::Never).ask(Duration::from_millis(30)).await.unwrap_err();
        assert_eq!(why, "exec `sh -c sleep 1000`: not done within 30 ms");
    }
}
