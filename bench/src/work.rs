//! What is measured, and the numbers that are the same for every peer. Plain data.

use clap::ValueEnum;

/// Proxy threads or processes of every peer.
pub(crate) const THREADS: usize = 2;
/// Connections of the load.
pub(crate) const CONNECTIONS: usize = 64;
/// Routes, all to one upstream.
pub(crate) const ROUTES: usize = 100;
/// Instances of that upstream.
pub(crate) const INSTANCES: usize = 2;
/// Requests a second of [`Work::Rate`].
pub(crate) const RATE: u32 = 8_000;
/// Idle connections of [`Work::Idle`], if the machine allows so many open files.
pub(crate) const IDLE_CONNECTIONS: usize = 10_000;

/// Bytes of the small answer.
pub(crate) const SMALL_BYTES: usize = 100;
/// Bytes of the big answer, and of a body that is posted.
pub(crate) const BIG_BYTES: usize = 16 * 1024;

/// Limits in seconds that every peer is given; [`KEEP_ALIVE`] also for what a client does not read or send.
pub(crate) const CONNECT: u64 = 1;
pub(crate) const HEAD: u64 = 10;
pub(crate) const ANSWER: u64 = 15;
pub(crate) const KEEP_ALIVE: u64 = 60;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Work {
    /// Small answers to GETs
    Small,
    /// 16 KiB answers to GETs
    Big,
    /// 16 KiB bodies of POSTs
    Post,
    /// Latencies at a fixed rate
    Rate,
    /// Memory of idle and of busy connections
    Idle,
    /// Atoll with more routes, and with more instances
    Routes,
}

impl Work {
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Small => "small",
            Self::Big => "big",
            Self::Post => "post",
            Self::Rate => "rate",
            Self::Idle => "idle",
            Self::Routes => "routes",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Small => "small GET",
            Self::Big => "GET of 16 KiB",
            Self::Post => "POST of 16 KiB",
            Self::Rate => "small GET at 8,000 requests/s",
            Self::Idle => "memory",
            Self::Routes => "Atoll with more routes and more instances",
        }
    }

    /// What is asked for, below a route's prefix.
    pub(crate) const fn target(self) -> &'static str {
        match self {
            Self::Big => "big",
            _ => "small",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Logs {
    Off,
    On,
}

impl Logs {
    pub(crate) const fn id(self) -> &'static str {
        match self {
            Self::Off => "logs_off",
            Self::On => "logs_on",
        }
    }

    pub(crate) const fn title(self) -> &'static str {
        match self {
            Self::Off => "access logs off",
            Self::On => "access logs on",
        }
    }
}

/// The prefix of one route.
pub(crate) fn prefix(route: usize) -> String {
    format!("/r{route}")
}

/// The request of a work, by a route in the middle: what looks through all routes is met on average.
pub(crate) fn path(work: Work, routes: usize) -> String {
    format!("{}/{}", prefix(routes / 2), work.target())
}
