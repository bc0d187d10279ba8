//! One problem with a manifest: what, where, why, and one thing to do about it. How it is shown is `render`'s affair.

use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::Code;
use crate::text::one_line;

/// Whether a plan can be made all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    Error,
    Warning,
}

impl Severity {
    /// The word that is printed.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
        }
    }
}

/// One problem, at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Diagnostic {
    pub code: Code,
    pub severity: Severity,
    /// What is wrong, in one line.
    pub message: String,
    /// Absolute path of the file it is in.
    pub file: PathBuf,
    /// Bytes of that file, on character boundaries.
    pub span: Range<usize>,
    /// What stands at the span; may be empty.
    pub label: String,
    /// One thing to do, where there is one.
    pub hint: Option<String>,
    /// A second place that explains the first.
    pub related: Option<Related>,
}

/// A second place, such as "first declared here".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Related {
    /// Absolute path.
    pub file: PathBuf,
    /// Bytes of that file, on character boundaries.
    pub span: Range<usize>,
    pub label: String,
}

/// A span of a file.
#[derive(Clone, Debug)]
pub(crate) struct Place<'d> {
    pub file: &'d Path,
    pub span: Range<usize>,
}

impl<'d> Place<'d> {
    /// The beginning of a file: for what is missing from it.
    pub(crate) const fn start(file: &'d Path) -> Self {
        Self { file, span: 0..0 }
    }
}

impl Diagnostic {
    pub(crate) fn new(code: Code, place: &Place<'_>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: code.severity(),
            message: one_line(&message.into()),
            file: place.file.to_path_buf(),
            span: place.span.clone(),
            label: String::new(),
            hint: None,
            related: None,
        }
    }

    pub(crate) fn label(mut self, label: impl Into<String>) -> Self {
        self.label = one_line(&label.into());
        self
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(one_line(&hint.into()));
        self
    }

    pub(crate) fn related(mut self, place: &Place<'_>, label: impl Into<String>) -> Self {
        let related =
            Related { file: place.file.to_path_buf(), span: place.span.clone(), label: one_line(&label.into()) };
        self.related = Some(related);
        self
    }
}
