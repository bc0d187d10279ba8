//! Why a connection has ended, in NATS's words: what the client is told and what `/connz` shows.

use crate::protocol::Violation;

/// Why a connection has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    ClientClosed,
    AuthenticationTimeout,
    AuthenticationFailure,
    /// Its user was taken away, or proves itself otherwise.
    CredentialsRevoked,
    TlsHandshake,
    SlowConsumerPending,
    SlowConsumerDeadline,
    WriteError,
    ReadError,
    /// No operation, or arguments that cannot be read.
    Parse(Violation),
    BadProtocolVersion,
    NoRespondersRequiresHeaders,
    StaleConnection,
    MaxConnections,
    ServerShutdown,
    /// A defect of ours ended the connection.
    Panicked,
}

impl Reason {
    /// The text of the `-ERR` before the connection is closed; `None` where nats-server closes without one.
    pub(crate) fn error(self) -> Option<&'static str> {
        Some(match self {
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationFailure | Self::CredentialsRevoked => "Authorization Violation",
            Self::Parse(Violation::Unknown) => "Unknown Protocol Operation",
            Self::Parse(Violation::ControlLine) => "maximum control line exceeded",
            Self::Parse(Violation::Payload) => "Maximum Payload Violation",
            Self::BadProtocolVersion => "invalid client protocol",
            Self::NoRespondersRequiresHeaders => "no responders requires headers support",
            Self::StaleConnection => "Stale Connection",
            Self::MaxConnections => "maximum connections exceeded",
            _ => return None,
        })
    }

    /// `reason` in `/connz`.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::ClientClosed => "Client Closed",
            Self::AuthenticationTimeout => "Authentication Timeout",
            Self::AuthenticationFailure => "Authentication Failure",
            Self::CredentialsRevoked => "Credentials Revoked",
            Self::TlsHandshake => "TLS Handshake Failure",
            Self::SlowConsumerPending => "Slow Consumer (Pending Bytes)",
            Self::SlowConsumerDeadline => "Slow Consumer (Write Deadline)",
            Self::WriteError => "Write Error",
            Self::ReadError => "Read Error",
            Self::Parse(Violation::ControlLine) => "Maximum Control Line Exceeded",
            Self::Parse(Violation::Payload) => "Maximum Message Payload Exceeded",
            Self::Parse(_) => "Protocol Violation",
            Self::BadProtocolVersion => "Bad Client Protocol Version",
            Self::NoRespondersRequiresHeaders => "No Responders Requires Headers",
            Self::StaleConnection => "Stale Connection",
            Self::MaxConnections => "Maximum Connections Exceeded",
            Self::ServerShutdown => "Server Shutdown",
            Self::Panicked => "Internal Error",
        }
    }

    /// Whether the client could not keep up.
    pub(crate) fn is_slow(self) -> bool {
        matches!(self, Self::SlowConsumerPending | Self::SlowConsumerDeadline)
    }

    /// Whether what still waits for the client is worth sending.
    pub(crate) fn leaves_a_reader(self) -> bool {
        !self.is_slow() && !matches!(self, Self::WriteError | Self::ReadError | Self::TlsHandshake)
    }
}
