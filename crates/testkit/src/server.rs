//! Tiny origin servers on ports of their own: one that answers requests, one that gives the test the bare connection.
//! Both count, and both can be killed like a process.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

use crate::message::{Message, read_body, read_head};

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct Server {
    pub address: SocketAddr,
    counts: Arc<Counts>,
    task: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct Counts {
    connections: AtomicUsize,
    open: AtomicUsize,
    requests: AtomicUsize,
}

impl Server {
    /// Answers every request with what `answer` makes of it: a status, fields and a body.
    pub async fn http<A>(answer: A) -> Self
    where
        A: Fn(&Message) -> Answer + Send + Sync + 'static,
    {
        let counts: Arc<Counts> = Arc::default();
        let answer = Arc::new(answer);
        let requests = Arc::clone(&counts);
        Self::start(counts, move |stream| {
            let (answer, counts) = (Arc::clone(&answer), Arc::clone(&requests));
            // A client that goes away is none of the server's business.
            async move { drop(serve(stream, &*answer, &counts).await) }
        })
        .await
    }

    /// Gives every connection to `serve`, which may do to it what it likes.
    pub async fn raw<S, F>(serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        Self::start(Arc::default(), serve).await
    }

    /// How many connections were accepted.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.counts.connections.load(Ordering::SeqCst)
    }

    /// How many of them are served still.
    #[must_use]
    pub fn open(&self) -> usize {
        self.counts.open.load(Ordering::SeqCst)
    }

    /// How many requests were read to their end; those of [`Server::raw`] are not counted.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.counts.requests.load(Ordering::SeqCst)
    }

    /// Closes the listener and every connection at once, as the kernel does for a killed process. New connections are
    /// refused when this returns.
    pub async fn kill(self) {
        self.task.abort();
        while !self.task.is_finished() {
            tokio::task::yield_now().await;
        }
    }

    async fn start<S, F>(counts: Arc<Counts>, serve: S) -> Self
    where
        S: Fn(TcpStream) -> F + Send + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let counting = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        stream.set_nodelay(true).expect("a TCP socket takes the option");
                        counting.connections.fetch_add(1, Ordering::SeqCst);
                        counting.open.fetch_add(1, Ordering::SeqCst);
                        let open = Open(Arc::clone(&counting));
                        let served = serve(stream);
                        connections.spawn(async move {
                            let _open = open;
                            served.await;
                        });
                    }
                    Some(_) = connections.join_next() => {}
                }
            }
        });
        Self { address, counts, task }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Open(Arc<Counts>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What a server says.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// 200 with a body.
    #[must_use]
    pub fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, fields: Vec::new(), body: body.into() }
    }

    #[must_use]
    pub fn status(status: u16) -> Self {
        Self { status, ..Self::ok("") }
    }

    /// Adds a field.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }
}

async fn serve(stream: TcpStream, answer: impl Fn(&Message) -> Answer, counts: &Counts) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(mut request) = read_head(&mut stream).await? {
        let framing = request.framing();
        read_body(&mut stream, &mut request, framing).await?;
        counts.requests.fetch_add(1, Ordering::SeqCst);
        let answer = answer(&request);
        let mut head = format!("HTTP/1.1 {} Test\r\n", answer.status);
        for (name, value) in &answer.fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !matches!(answer.status, 204 | 304) {
            head.push_str(&format!("content-length: {}\r\n", answer.body.len()));
        }
        head.push_str("\r\n");
        let body: &[u8] = if request.method() == "HEAD" { &[] } else { &answer.body };
        stream.get_mut().write_all(&[head.as_bytes(), body].concat()).await?;
    }
    Ok(())
}
