//! How a command fails: one message, its causes, one hint, one exit code; and the one printer of all of that.

use std::fmt;
use std::io::{self, Write};
use std::process::ExitCode;

use crate::cli::output;

/// Refused or failed.
const FAILED: u8 = 1;
/// Asked-for state not reached, or not running.
const NOT_REACHED: u8 = 3;

/// An error that ends a command, in the user's words.
#[derive(Debug)]
pub struct Failure {
    message: String,
    /// What a program of the application wrote last.
    output: Vec<String>,
    hint: Option<String>,
    code: u8,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failure {
    pub fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), output: Vec::new(), hint: None, code: FAILED, source: None }
    }

    /// The state that was asked for is not there.
    pub fn not_reached(message: impl Into<String>) -> Self {
        Self { code: NOT_REACHED, ..Self::new(message) }
    }

    pub fn because(self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self { source: Some(source.into()), ..self }
    }

    /// Shows the end of a program's output below the message.
    pub fn output(self, output: Vec<String>) -> Self {
        Self { output, ..self }
    }

    pub fn hint(self, hint: impl Into<Option<String>>) -> Self {
        Self { hint: hint.into(), ..self }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<crate::project::Error> for Failure {
    fn from(error: crate::project::Error) -> Self {
        let failure = Self::new(error.to_string()).hint(error.hint());
        // The message of the error itself is ours now; only what caused it is left to tell.
        match std::error::Error::source(&error) {
            Some(source) => failure.because(source.to_string()),
            None => failure,
        }
    }
}

/// Prints the error with its causes and its hint to stderr, and gives the exit code.
pub fn report(error: &anyhow::Error) -> ExitCode {
    if is_closed_pipe(error) {
        // `atoll ps | head -1`: whoever read has enough.
        return ExitCode::SUCCESS;
    }
    let mut stderr = anstream::stderr().lock();
    let red = anstyle::AnsiColor::Red.on_default().bold();
    let cyan = anstyle::AnsiColor::Cyan.on_default().bold();
    // Nothing can be done about a stderr that is gone.
    let _ = writeln!(stderr, "{red}error{red:#}: {error}");
    for cause in error.chain().skip(1) {
        let _ = writeln!(stderr, "  caused by: {cause}");
    }
    let failure = error.downcast_ref::<Failure>();
    for line in failure.iter().flat_map(|failure| &failure.output) {
        let _ = writeln!(stderr, "  {}{}", output::printable(line), anstyle::Reset);
    }
    if let Some(hint) = failure.and_then(|failure| failure.hint.as_ref()) {
        let _ = writeln!(stderr, "{cyan}hint{cyan:#}: {hint}");
    }
    ExitCode::from(failure.map_or(FAILED, |failure| failure.code))
}

/// Whether nobody reads stdout any more.
pub fn is_closed_pipe(error: &anyhow::Error) -> bool {
    let io = error.downcast_ref::<io::Error>();
    io.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

impl From<crate::api::client::Error> for Failure {
    fn from(error: crate::api::client::Error) -> Self {
        use crate::api::client::Error;
        let message = error.to_string();
        match error {
            Error::NotRunning { left: true, .. } => {
                Self::not_reached(message).hint("`atoll up` takes them over, `atoll down` stops them".to_owned())
            }
            Error::NotRunning { left: false, .. } => Self::not_reached(message)
                .hint("start it with `atoll up`, or `atoll up -d` in the background".to_owned()),
            Error::Refused { problem } => {
                // 424: the daemon did as told, and the state that was asked for did not come.
                let code = if problem.status == 424 { NOT_REACHED } else { FAILED };
                Self { code, ..Self::new(problem.detail).hint(problem.hint) }
            }
            Error::Connect { source } if source.kind() == io::ErrorKind::PermissionDenied => Self::new(message)
                .because(source)
                .hint("it runs as another user: only that user (or root) may give it orders".to_owned()),
            Error::Connect { source } => Self::new(message).because(source),
            Error::Broken { source } => Self::new(message).because(source),
            Error::Answer { source } => Self::new(message).because(source),
            Error::TooLarge => Self::new(message),
            Error::Silent { pid } => {
                let kill =
                    pid.map_or_else(|| "end it with `kill -9`".to_owned(), |pid| format!("`kill -9 {pid}` ends it"));
                Self::new(message)
                    .hint(format!("{kill}; what it runs goes on, and the next `atoll up` takes that over"))
            }
        }
    }
}
