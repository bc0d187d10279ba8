//! Diagnostics for people and for programs: the annotated snippet, and a JSON value. Nothing here decides anything.

use std::path::{Component, Path, PathBuf};

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Element, Level, Origin, Renderer, Snippet};
use serde_json::{Value, json};

use crate::text::one_line;
use crate::{Diagnostic, Severity, Sources};

/// Limit: a longer line is cut around the span before it is drawn.
const LINE_BYTES_MAX: usize = 400;

/// Whether to colour for a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Color {
    Always,
    Never,
}

/// Draws a diagnostic with its snippet, as compilers do. Paths are shown relative to the root manifest's folder. Ends
/// without a newline.
#[must_use]
pub fn render(diagnostic: &Diagnostic, sources: &Sources, color: Color) -> String {
    let level = match diagnostic.severity {
        Severity::Error => Level::ERROR,
        Severity::Warning => Level::WARNING,
    };
    let path = relative(&diagnostic.file, sources);
    let mut group = level.primary_title(diagnostic.message.as_str()).id(diagnostic.code.as_str()).element(element(
        sources,
        &diagnostic.file,
        &path,
        Mark { kind: AnnotationKind::Primary, start: diagnostic.span.start, end: diagnostic.span.end },
        &diagnostic.label,
    ));
    let related = diagnostic.related.as_ref().map(|related| (related, relative(&related.file, sources)));
    if let Some((related, path)) = &related {
        let mark = Mark { kind: AnnotationKind::Context, start: related.span.start, end: related.span.end };
        group = group.element(element(sources, &related.file, path, mark, &related.label));
    }
    if let Some(hint) = &diagnostic.hint {
        group = group.element(Level::HELP.with_name("hint").message(hint.as_str()));
    }
    let renderer = match color {
        Color::Always => Renderer::styled(),
        Color::Never => Renderer::plain(),
    };
    renderer.decor_style(DecorStyle::Ascii).render(&[group])
}

impl Diagnostic {
    /// The form of `check -o json`: `code`, `severity`, `message`, `file` (relative to the root manifest's folder),
    /// `line` and `column` (from 1, in characters), and `hint`, which may be null.
    #[must_use]
    pub fn to_json(&self, sources: &Sources) -> Value {
        let text = text(sources, &self.file);
        let before = text.get(..self.span.start).unwrap_or(text);
        let line_start = line_start(text, self.span.start);
        json!({
            "code": self.code.as_str(),
            "severity": self.severity.as_str(),
            "message": self.message,
            "file": relative(&self.file, sources),
            "line": before.bytes().filter(|byte| *byte == b'\n').count() + 1,
            "column": before[line_start..].chars().count() + 1,
            "hint": self.hint,
        })
    }
}

/// A path as seen from the root manifest's folder, with `..` where it lies outside.
pub(crate) fn relative(path: &Path, sources: &Sources) -> String {
    let folder = sources.root.parent().unwrap_or(Path::new("/"));
    let shared = folder.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = folder.components().count() - shared;
    let same_file_system = path.components().next() == Some(Component::RootDir) && shared > 1;
    if !same_file_system && up > 0 {
        return one_line(&path.to_string_lossy());
    }
    let shown: PathBuf = std::iter::repeat_n(Component::ParentDir, up).chain(path.components().skip(shared)).collect();
    one_line(&shown.to_string_lossy())
}

/// Where the line of a byte begins.
pub(crate) fn line_start(text: &str, at: usize) -> usize {
    text.get(..at).unwrap_or(text).rfind('\n').map_or(0, |newline| newline + 1)
}

/// The text of a file; empty when there is none.
pub(crate) fn text<'d>(sources: &'d Sources, file: &Path) -> &'d str {
    sources.files.get(file).and_then(|content| content.as_deref().ok()).unwrap_or("")
}

/// What to underline, in bytes of the file.
#[derive(Clone, Copy)]
struct Mark {
    kind: AnnotationKind,
    start: usize,
    end: usize,
}

/// The line of the span's beginning, cut around the span where it is very long. Never more: a value of many lines is
/// recognised by its first.
fn element<'a>(sources: &'a Sources, file: &Path, path: &'a str, mark: Mark, label: &'a str) -> Element<'a> {
    let text = text(sources, file);
    if text.is_empty() {
        return Origin::path(path).into();
    }
    let start = text.floor_char_boundary(mark.start);
    let line_start = line_start(text, start);
    let line_end = text[start..].find('\n').map_or(text.len(), |newline| start + newline);
    let end = text.floor_char_boundary(mark.end.clamp(start, line_end));
    let line = text[..line_start].bytes().filter(|byte| *byte == b'\n').count() + 1;

    let (shown_start, shown_end) = match line_end - line_start <= LINE_BYTES_MAX {
        true => (line_start, line_end),
        false => (
            text.ceil_char_boundary(start.saturating_sub(LINE_BYTES_MAX / 4).max(line_start)),
            text.floor_char_boundary((start + LINE_BYTES_MAX).min(line_end)),
        ),
    };
    let shown = text[shown_start..shown_end].trim_end_matches('\r');
    let within = |at: usize| (at - shown_start).min(shown.len());
    let label = (!label.is_empty()).then_some(label);
    let annotation = mark.kind.span(within(start)..within(end)).label(label);
    Snippet::source(shown).line_start(line).path(path).annotation(annotation).into()
}
