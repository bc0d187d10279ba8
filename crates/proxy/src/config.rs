//! What the proxy is told once, before it starts: cores, addresses, limits. Routes and endpoints come later, as
//! [`crate::Snapshot`]s. Nothing here has a default: whoever lowers a plan names every value.

use std::net::SocketAddr;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

/// How to run, fixed for the life of the engine.
#[derive(Debug)]
pub struct Config {
    /// Threads, each with its own runtime, sockets and connection pools. At least 1; 0 counts as 1.
    pub cores: usize,
    /// Name and address of every listener. Port 0 asks the kernel for one, the same on every core.
    pub listeners: Vec<(String, SocketAddr)>,
    pub limits: Limits,
    /// Takes batches of access lines: JSON, one record a line, each ended by a newline.
    // Limit: a batch that finds the channel full is dropped and counted (`Counters::access_lines_dropped`); requests
    // never wait for their log.
    pub access: Option<mpsc::Sender<Vec<u8>>>,
}

/// The bounds of everything that a client or an upstream can make grow or last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Request line and header fields together; more is 431. Of a response, too; more is 502.
    pub head_bytes_max: usize,
    /// Number of header fields; more is 431, in a response 502. Above 256, 256 counts.
    pub headers_max: usize,
    /// The request target; more is 414.
    pub uri_bytes_max: usize,
    /// A request's body; more is 413. Responses are not limited.
    pub body_bytes_max: u64,
    /// From the first byte of a request to the end of its head; then 408.
    pub head_timeout: Duration,
    /// From the end of a request's head to the end of its body, however it trickles; then 408.
    pub body_timeout: Duration,
    /// How long a client's connection may be without a request, a request body without progress (408), and a
    /// response without the client reading any of it. Also a service that takes nothing of a request's body (504), if
    /// the route's timeout is not longer. Tunnels and quiet event streams are not limited.
    pub idle_timeout: Duration,
    /// Clients' connections in the whole process; more are answered 503.
    pub connections_max: usize,
    /// Of them, those of one listener; more are answered 503.
    pub connections_listener_max: usize,
    /// Of them, those from one client address; more are answered 503.
    pub connections_client_max: usize,
    /// Requests that are being answered at a time in the whole process; more are answered 503. Looked at core by core, so
    /// that a core may exceed it by its own share.
    pub requests_max: u64,
    /// For one connection to one instance. A timeout counts as a failure to connect.
    pub connect_timeout: Duration,
    /// Idle connections kept for one endpoint on one core; the oldest goes when there is one too many.
    pub upstream_idle_max: usize,
    /// How long a connection to an endpoint may wait for its next request. Keep it below what services use, or a
    /// request may meet a connection that is just being closed.
    pub upstream_idle_timeout: Duration,
    /// How old a connection to an endpoint may become: older ones take no further request.
    pub upstream_age_max: Duration,
    /// How long a service may be silent in the middle of a response, while the client takes what comes; then the
    /// response breaks off. It ends what a host that died would hold for ever: keep it above the pauses of event
    /// streams. Tunnels have only the kernel's probes (keepalive).
    pub upstream_body_timeout: Duration,
    /// Bytes a second. While a response waits for its client, the client takes this much on average in each
    /// `idle_timeout` of that waiting; else the response breaks off. 0: anything is enough. Tunnels are not limited.
    pub response_rate_min: u64,
    /// The trailer section of one body; more is 400 in a request and breaks a response.
    pub trailer_bytes_max: usize,
    /// The extensions of one chunk; more is 400 in a request and breaks a response.
    pub chunk_extension_bytes_max: u32,
    /// Interim responses (1xx) before the final one; more is 502.
    pub interim_responses_max: u32,
}

impl Limits {
    /// The limits that a plan without wishes of its own is lowered to.
    ///
    /// Head 32 KiB, 100 fields, target 8 KiB, body 1 GiB; 10 s for a head, an hour for a body, 60 s idle; 32,768
    /// connections, three quarters of them for one listener, half of them for one client address, so that neither takes
    /// all of it from the others, and 16,384 requests at a time; 1 s to connect, 64 idle connections for 4 s (Node.js closes its own after 5 s), none
    /// older than ten minutes, an hour of silence in a response; 240 bytes a second (as Kestrel's MinResponseDataRate),
    /// 8 KiB of trailers, 256 bytes of extensions a chunk, 32 interim responses.
    #[must_use]
    pub const fn standard() -> Self {
        Self {
            head_bytes_max: 32 * 1024,
            headers_max: 100,
            uri_bytes_max: 8 * 1024,
            body_bytes_max: 1024 * 1024 * 1024,
            head_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(60 * 60),
            idle_timeout: Duration::from_secs(60),
            connections_max: 32_768,
            connections_listener_max: 24_576,
            connections_client_max: 16_384,
            requests_max: 16_384,
            connect_timeout: Duration::from_secs(1),
            upstream_idle_max: 64,
            upstream_idle_timeout: Duration::from_secs(4),
            upstream_age_max: Duration::from_secs(10 * 60),
            upstream_body_timeout: Duration::from_secs(60 * 60),
            response_rate_min: 240,
            trailer_bytes_max: 8 * 1024,
            chunk_extension_bytes_max: 256,
            interim_responses_max: 32,
        }
    }
}
