//! A small HTTP/1.1 client over one connection. Sends what it is given, valid or not, byte for byte.

use std::io;
use std::net::SocketAddr;

use tokio::io::{AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::message::{Framing, Message, read_body, read_head};

/// One connection.
#[derive(Debug)]
pub struct Client {
    pub stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// When nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        stream.set_nodelay(true).expect("a TCP socket takes the option");
        Self { stream: BufReader::new(stream) }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// Those of the connection.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref()).await
    }

    /// Reads the head of a response, leaving its body to the caller.
    ///
    /// # Errors
    /// Those of the connection, and an end before the end of the head.
    pub async fn head(&mut self) -> io::Result<Message> {
        read_head(&mut self.stream).await?.ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Reads a whole response.
    ///
    /// # Errors
    /// Those of the connection, and an end in the middle.
    pub async fn response(&mut self) -> io::Result<Message> {
        let mut message = self.head().await?;
        let framing = message.framing();
        read_body(&mut self.stream, &mut message, framing).await?;
        Ok(message)
    }

    /// Sends a request with `host: test` and reads the response. A body gets its `content-length`.
    ///
    /// # Errors
    /// Those of the connection, and an end in the middle.
    pub async fn request(
        &mut self,
        method: &str,
        target: &str,
        fields: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Message> {
        let mut head = format!("{method} {target} HTTP/1.1\r\nhost: test\r\n");
        for (name, value) in fields {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() {
            head.push_str(&format!("content-length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        self.send([head.as_bytes(), body].concat()).await?;
        let mut message = self.head().await?;
        let framing = if method == "HEAD" { Framing::None } else { message.framing() };
        read_body(&mut self.stream, &mut message, framing).await?;
        Ok(message)
    }

    /// A GET without further fields.
    ///
    /// # Errors
    /// Those of the connection, and an end in the middle.
    pub async fn get(&mut self, target: &str) -> io::Result<Message> {
        self.request("GET", target, &[], &[]).await
    }
}

/// One GET over a connection of its own.
///
/// # Errors
/// Those of the connection, and an end in the middle.
pub async fn get(address: SocketAddr, target: &str) -> io::Result<Message> {
    Client::connect(address).await.get(target).await
}
