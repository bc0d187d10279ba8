//! What can go wrong with the engine and with its internal clients. What goes wrong on a client's connection is a
//! [`crate::Reason`].

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

/// A failure to bind, to run, or to use the broker from inside.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kernel refused the address; `source` says why, such as `AddrInUse`.
    #[error("cannot listen on {address} for {purpose}")]
    Listen { address: SocketAddr, purpose: &'static str, source: io::Error },
    #[error("cannot read a certificate or key from {}", path.display())]
    Pem { path: PathBuf, source: rustls::pki_types::pem::Error },
    #[error("the certificate in {} cannot be used with the key in {}", certificate.display(), key.display())]
    Certificate { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("user `{user}` {what}")]
    User { user: String, what: &'static str },
    #[error("`{subject}` is no subject for this")]
    Subject { subject: String },
    #[error("the sockets cannot be given to the runtime")]
    Runtime { source: io::Error },
    /// The folder of the streams cannot be used.
    #[error("JetStream cannot start")]
    JetStream { source: Box<dyn std::error::Error + Send + Sync> },
    /// Nobody is subscribed to what was asked.
    #[error("no responders for `{subject}`")]
    NoResponders { subject: String },
    #[error("no answer from `{subject}` in time")]
    Timeout { subject: String },
    /// The kernel gives no randomness; no nonce can be made.
    #[error("no randomness can be had")]
    Randomness,
}

impl Error {
    pub(crate) fn jetstream(failure: crate::jetstream::Failure) -> Self {
        Self::JetStream { source: Box::new(failure) }
    }
}
