//! A client of NATS's protocol with just what the load needs: publishing, inboxes, requests. When the broker goes, whoever
//! waits is told, and nothing is sent again by itself.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::{Buf, Bytes, BytesMut};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long an answer may take: longer than a disk that is held for a moment.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

const CONNECT: &[u8] = b"CONNECT {\"verbose\":false,\"pedantic\":false,\"headers\":true,\"no_responders\":true}\r\n";

/// What came.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) subject: String,
    pub(crate) reply: Option<String>,
    pub(crate) headers: Bytes,
    pub(crate) payload: Bytes,
}

impl Message {
    /// The first header of this name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let text = std::str::from_utf8(&self.headers).ok()?;
        text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(str::trim))
    }

    /// The number behind `NATS/1.0`, of a message that is none.
    pub(crate) fn status(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.headers).ok()?;
        text.strip_prefix("NATS/1.0 ").and_then(|rest| rest.get(..3))
    }

    /// The name of what asked, at the end of the inbox.
    pub(crate) fn token(&self) -> &str {
        self.subject.rsplit('.').next().unwrap_or_default()
    }
}

/// By number; `None` once the broker has gone, so that nobody begins to wait then.
type Open<T> = Arc<Mutex<Option<HashMap<u64, T>>>>;
type Waiting = Open<oneshot::Sender<Message>>;
type Inboxes = Open<UnboundedSender<Message>>;

/// A connection. Its drop closes it.
#[derive(Debug)]
pub(crate) struct Client {
    output: UnboundedSender<Bytes>,
    inboxes: Inboxes,
    waiting: Waiting,
    number: AtomicU64,
    name: u64,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let (input, mut writer) = stream.into_split();
        let (output, mut queue) = mpsc::unbounded_channel::<Bytes>();
        let inboxes: Inboxes = Arc::new(Mutex::new(Some(HashMap::new())));
        let waiting: Waiting = Arc::new(Mutex::new(Some(HashMap::new())));
        let writing = tokio::spawn(async move {
            let mut buffer = Vec::new();
            while let Some(bytes) = queue.recv().await {
                buffer.clear();
                buffer.extend_from_slice(&bytes);
                while let Ok(bytes) = queue.try_recv() {
                    buffer.extend_from_slice(&bytes);
                }
                if writer.write_all(&buffer).await.is_err() {
                    return;
                }
            }
        });
        let reading = tokio::spawn(read(input, Arc::clone(&inboxes), Arc::clone(&waiting), output.clone()));
        let number = AtomicU64::new(2);
        let tasks = vec![writing, reading];
        let client = Self { output, inboxes, waiting, number, name: fastrand::u64(..), tasks };
        client.send(Bytes::from_static(CONNECT));
        client.send(format!("SUB _INBOX.{}.r.* 1\r\nPING\r\n", client.name).into());
        Ok(client)
    }

    fn send(&self, bytes: Bytes) {
        // The task that writes ends with the connection; whoever waits hears it from the one that reads.
        let _ = self.output.send(bytes);
    }

    /// A new inbox, of which every name `prefix.TOKEN` may be used.
    pub(crate) fn inbox(&self) -> (String, UnboundedReceiver<Message>) {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = mpsc::unbounded_channel();
        if let Some(inboxes) = &mut *lock(&self.inboxes) {
            inboxes.insert(number, sender);
        }
        let prefix = format!("_INBOX.{}.{number}", self.name);
        self.send(format!("SUB {prefix}.* {number}\r\n").into());
        (prefix, receiver)
    }

    /// Ends the inbox of this name.
    pub(crate) fn leave(&self, prefix: &str) {
        let Some(number) = prefix.rsplit('.').next().and_then(|number| number.parse().ok()) else { return };
        if let Some(inboxes) = &mut *lock(&self.inboxes) {
            inboxes.remove(&number);
        }
        self.send(format!("UNSUB {number}\r\n").into());
    }

    /// `headers` are lines, each with its end.
    pub(crate) fn publish(&self, subject: &str, reply: &str, headers: &str, payload: &[u8]) {
        let mut out = BytesMut::with_capacity(subject.len() + reply.len() + headers.len() + payload.len() + 64);
        if headers.is_empty() {
            out.extend_from_slice(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes());
        } else {
            let block = format!("NATS/1.0\r\n{headers}\r\n");
            let (head, all) = (block.len(), block.len() + payload.len());
            out.extend_from_slice(format!("HPUB {subject} {reply} {head} {all}\r\n{block}").as_bytes());
        }
        out.extend_from_slice(payload);
        out.extend_from_slice(b"\r\n");
        self.send(out.freeze());
    }

    /// Sends, and gives what waits for the answer.
    pub(crate) fn ask(&self, subject: &str, headers: &str, payload: &[u8]) -> oneshot::Receiver<Message> {
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        if let Some(waiting) = &mut *lock(&self.waiting) {
            waiting.insert(number, sender);
        }
        self.publish(subject, &format!("_INBOX.{}.r.{number}", self.name), headers, payload);
        receiver
    }

    /// Sends and waits. Fails when the broker goes or does not answer.
    pub(crate) async fn request(&self, subject: &str, headers: &str, payload: &[u8]) -> Result<Message> {
        let answer = self.ask(subject, headers, payload);
        let answer = timeout(PATIENCE, answer).await.with_context(|| format!("no answer to {subject}"))?;
        answer.context("the broker has gone")
    }

    /// A call of JetStream's API: its answer, an error among them.
    pub(crate) async fn call(&self, name: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.request(&format!("$JS.API.{name}"), "", body.as_bytes()).await?;
        if let Some(status) = answer.status() {
            bail!("{name}: {status}");
        }
        Ok(serde_json::from_slice(&answer.payload)?)
    }

    /// The same, where an error is one.
    pub(crate) async fn expect(&self, name: &str, body: &Value) -> Result<Value> {
        let answer = self.call(name, body).await?;
        match answer.get("error") {
            None => Ok(answer),
            Some(error) => bail!("{name}: {error}"),
        }
    }
}

async fn read(mut input: OwnedReadHalf, inboxes: Inboxes, waiting: Waiting, output: UnboundedSender<Bytes>) {
    let mut buffer = BytesMut::with_capacity(64 << 10);
    loop {
        while let Some((line, message)) = take(&mut buffer) {
            match message {
                None if line.starts_with("PING") => drop(output.send(Bytes::from_static(b"PONG\r\n"))),
                None => {}
                Some((1, message)) => {
                    let number = message.token().parse::<u64>().ok();
                    let asked = number.and_then(|number| lock(&waiting).as_mut()?.remove(&number));
                    asked.map(|asked| asked.send(message));
                }
                Some((number, message)) => {
                    let inbox = lock(&inboxes).as_ref().and_then(|inboxes| inboxes.get(&number).cloned());
                    inbox.map(|inbox| inbox.send(message));
                }
            }
        }
        if !matches!(input.read_buf(&mut buffer).await, Ok(1..)) {
            break;
        }
    }
    lock(&waiting).take();
    lock(&inboxes).take();
}

/// The next line, and the message that it begins with the number of its subscription. `None` until it is whole.
fn take(buffer: &mut BytesMut) -> Option<(String, Option<(u64, Message)>)> {
    let end = buffer.windows(2).position(|window| window == b"\r\n")?;
    let line = String::from_utf8_lossy(&buffer[..end]).into_owned();
    let words: Vec<&str> = line.split(' ').collect();
    let number = |from_end: usize| words.get(words.len().checked_sub(from_end)?)?.parse::<usize>().ok();
    let (head, all) = match words[0] {
        "MSG" => (0, number(1)?),
        "HMSG" => (number(2)?, number(1)?),
        _ => {
            buffer.advance(end + 2);
            return Some((line, None));
        }
    };
    if buffer.len() < end + 2 + all + 2 {
        return None;
    }
    let lengths = if words[0] == "MSG" { 1 } else { 2 };
    let reply = (words.len() == 4 + lengths).then(|| words[3].to_owned());
    let (subject, subscription) = (words[1].to_owned(), words[2].parse().ok()?);
    buffer.advance(end + 2);
    let mut content = buffer.split_to(all).freeze();
    buffer.advance(2);
    let headers = content.split_to(head);
    Some((line, Some((subscription, Message { subject, reply, headers, payload: content }))))
}

/// What these mutexes hold is whole between any two statements.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
