//! The manifest: text becomes diagnostics and a complete [`Plan`].
//! The loader in `atoll` asks [`wanted`] what to read until nothing is missing, then calls [`compile`].
//! Pure: no files, no clock, no runtime, and no input makes it panic.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::path::PathBuf;

mod code;
mod compile;
mod context;
mod diagnostic;
pub mod plan;
mod print;
mod reader;
mod render;
mod schema;
mod shape;
mod syntax;
mod text;

pub use code::Code;
pub use diagnostic::{Diagnostic, Related, Severity};
pub use plan::Plan;
pub use render::{Color, render};
pub use schema::schema;
pub use text::{format_duration, format_size, nearest, parse_duration, parse_size};

use context::Context;

/// Everything a compilation may look at.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Sources {
    /// Absolute path of the root manifest.
    pub root: PathBuf,
    /// What was read so far: absolute path to text, or the reason why it could not be read.
    pub files: BTreeMap<PathBuf, Result<String, String>>,
    /// Absolute glob pattern to its matches, sorted.
    pub globs: BTreeMap<PathBuf, Vec<PathBuf>>,
    /// Atoll's own environment over that of `.env`.
    pub environment: BTreeMap<String, String>,
    pub ports: Ports,
    /// How many instances somebody wants of a service, other than the manifest says; names that are not declared are
    /// ignored.
    pub scale: BTreeMap<String, Scale>,
}

/// A wish that lasts until the manifest's own number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Scale {
    /// Instances wanted.
    pub replicas: u32,
    /// What the manifest said when it was wished for.
    pub declared: u32,
}

/// What ports may be given, and which were given before.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ports {
    /// New ports come from here.
    pub range: RangeInclusive<u16>,
    /// Where in the range the search for a free port begins; it wraps around.
    pub first: u16,
    /// [`Plan::ports`] of the last compilation. A port in it is kept unless it is in `busy`.
    pub ledger: BTreeMap<String, u16>,
    /// Ports that something else listens on.
    pub busy: BTreeSet<u16>,
}

impl Ports {
    /// The gateway's entry in the ledger.
    pub const GATEWAY: &str = "gateway";

    /// The dashboard's.
    pub const DASHBOARD: &str = "dashboard";

    /// The broker's.
    pub const BROKER: &str = "broker";

    /// That of the broker's monitoring.
    pub const MONITOR: &str = "broker-monitor";

    /// The ledger's entry of an instance.
    #[must_use]
    pub fn instance(service: &str, index: u32) -> String {
        format!("instance/{service}/{index}")
    }

    /// The ledger's entry of an edge.
    #[must_use]
    pub fn edge(caller: &str, upstream: &str) -> String {
        format!("edge/{caller}/{upstream}")
    }
}

/// Something that the loader has still to read into [`Sources`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Want {
    /// Belongs into [`Sources::files`], under this absolute path.
    File(PathBuf),
    /// Belongs into [`Sources::globs`], under this absolute pattern (of the `glob` crate). It asks for files, or for
    /// folders where it ends in `/`.
    Glob(PathBuf),
}

/// Says what is still to be read: the root, its includes, and of all services the
/// `env_file`s and the folders that must be there. Asked again after each
/// reading, it has nothing left after at most four rounds, because an included file includes nothing.
#[must_use]
pub fn wanted(sources: &Sources) -> Vec<Want> {
    let context = Context::new(sources);
    compile::compile(&context);
    context.into_wants()
}

/// Compiles the manifest and reports everything wrong with it at once, in the order of files and lines.
///
/// There is a plan exactly when no diagnostic is an error; warnings may come with it.
#[must_use]
pub fn compile(sources: &Sources) -> (Option<Plan>, Vec<Diagnostic>) {
    let context = Context::new(sources);
    let plan = compile::compile(&context);
    let diagnostics = context.into_diagnostics();
    let refused = diagnostics.iter().any(|diagnostic| diagnostic.severity == Severity::Error);
    (plan.filter(|_| !refused), diagnostics)
}

/// Reads the variables of a dotenv file, for [`Sources::environment`]. Lines that cannot be read are left out: what is
/// missing for them shows as an undefined variable where it is used.
#[must_use]
pub fn dotenv(text: &str) -> BTreeMap<String, String> {
    text::parse_dotenv(text).0.into_iter().collect()
}
