//! One compilation: what it may look at, what it found missing, what it found wrong. Shared by all of its parts.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::{Path, PathBuf};

use crate::diagnostic::{Diagnostic, Place, Severity};
use crate::{Code, Sources, Want, render};

/// Limit: more diagnostics than this help nobody; the rest is counted.
const DIAGNOSTICS_MAX: usize = 200;

#[derive(Debug)]
pub(crate) struct Context<'d> {
    pub(crate) sources: &'d Sources,
    diagnostics: RefCell<Vec<Diagnostic>>,
    dropped: Cell<usize>,
    wants: RefCell<BTreeSet<Want>>,
    unread: OnceCell<String>,
}

impl<'d> Context<'d> {
    pub(crate) fn new(sources: &'d Sources) -> Self {
        Self {
            sources,
            diagnostics: RefCell::default(),
            dropped: Cell::default(),
            wants: RefCell::default(),
            unread: OnceCell::new(),
        }
    }

    pub(crate) fn report(&self, diagnostic: Diagnostic) {
        let mut diagnostics = self.diagnostics.borrow_mut();
        // Limit: memory, when a hostile file has a mistake in every byte.
        if diagnostics.len() < DIAGNOSTICS_MAX * 10 {
            diagnostics.push(diagnostic);
        } else {
            self.dropped.set(self.dropped.get() + 1);
        }
    }

    /// Whether there is nothing to read any more, and nothing wrong with what was read.
    pub(crate) fn is_sound(&self) -> bool {
        let errors = self.diagnostics.borrow().iter().any(|diagnostic| diagnostic.severity == Severity::Error);
        !errors && self.dropped.get() == 0 && self.wants.borrow().is_empty() && self.unread().is_none()
    }

    /// The text of a file, or the reason why there is none. A file that nobody has read yet is wanted.
    pub(crate) fn file(&self, path: &Path) -> Option<(&'d Path, Result<&'d str, &'d str>)> {
        let found = self.sources.files.get_key_value(path);
        if found.is_none() {
            self.wants.borrow_mut().insert(Want::File(path.to_path_buf()));
        }
        found.map(|(path, content)| (path.as_path(), content.as_deref().map_err(String::as_str)))
    }

    /// The matches of a pattern. One that nobody has resolved yet is wanted.
    pub(crate) fn glob(&self, pattern: &Path) -> Option<&'d [PathBuf]> {
        let found = self.sources.globs.get(pattern);
        if found.is_none() {
            self.wants.borrow_mut().insert(Want::Glob(pattern.to_path_buf()));
        }
        found.map(Vec::as_slice)
    }

    /// Whether a folder is there. One that nobody has looked for yet is wanted, and counts as being there.
    pub(crate) fn has_folder(&self, path: &Path) -> bool {
        let escaped = glob::Pattern::escape(&path.to_string_lossy());
        let pattern = PathBuf::from(format!("{}/", escaped.trim_end_matches('/')));
        self.glob(&pattern).is_none_or(|found| !found.is_empty())
    }

    /// Some declarations are not known: `place` could not be read. What seems undeclared may stand there, and what seems
    /// unused may be used there. The first place is remembered.
    pub(crate) fn mark_unread(&self, place: impl FnOnce() -> String) {
        self.unread.get_or_init(place);
    }

    /// A place that could not be read, if there is one.
    pub(crate) fn unread(&self) -> Option<&str> {
        self.unread.get().map(String::as_str)
    }

    /// A path as messages show it.
    pub(crate) fn shown(&self, path: &Path) -> String {
        render::relative(path, self.sources)
    }

    pub(crate) fn into_wants(self) -> Vec<Want> {
        self.wants.into_inner().into_iter().collect()
    }

    /// In the order of files (the root first) and lines. What only follows from a syntax error is left out.
    pub(crate) fn into_diagnostics(self) -> Vec<Diagnostic> {
        let root = self.sources.root.as_path();
        let mut all = self.diagnostics.into_inner();
        drop_consequences(&mut all, self.sources);
        if self.unread.get().is_some() {
            all.retain(|diagnostic| diagnostic.code != Code::Empty);
        }
        all.sort_by(|a, b| {
            let key = |d: &Diagnostic| (d.file != root, d.file.clone(), d.span.start, d.span.end, d.code);
            key(a).cmp(&key(b))
        });
        all.dedup();
        let more = all.len().saturating_sub(DIAGNOSTICS_MAX) + self.dropped.get();
        if more > 0 {
            all.truncate(DIAGNOSTICS_MAX);
            let message = format!("{more} further problems are not shown");
            all.push(
                Diagnostic::new(Code::Limit, &Place::start(root), message).hint("mend the first ones and ask again"),
            );
        }
        all
    }
}

/// What a syntax error makes of the rest: its line is read wrongly, and its table seems to lack a key. None of that is
/// worth a word.
fn drop_consequences(all: &mut Vec<Diagnostic>, sources: &Sources) {
    let mut broken: BTreeMap<PathBuf, BTreeSet<usize>> = BTreeMap::new();
    let mut astray: BTreeMap<PathBuf, Vec<Range<usize>>> = BTreeMap::new();
    for diagnostic in all.iter().filter(|diagnostic| diagnostic.code == Code::Syntax) {
        let text = render::text(sources, &diagnostic.file);
        let line = render::line_start(text, diagnostic.span.start);
        let header = text[..line].rfind("\n[").map_or(0, |newline| newline + 1);
        // The lines below a broken header are taken for those of another table.
        if text[line..].starts_with('[') {
            let end = text[line..].find("\n[").map_or(text.len(), |newline| line + newline + 1);
            astray.entry(diagnostic.file.clone()).or_default().push(line..end);
        }
        broken.entry(diagnostic.file.clone()).or_default().extend([line, header]);
    }
    all.retain(|diagnostic| {
        let text = render::text(sources, &diagnostic.file);
        let line = render::line_start(text, diagnostic.span.start);
        let at_broken = broken.get(&diagnostic.file).is_some_and(|lines| lines.contains(&line));
        match diagnostic.code {
            Code::Syntax => true,
            Code::UnknownKey | Code::WrongType | Code::Duplicate
                if astray.get(&diagnostic.file).is_some_and(|all| all.iter().any(|lines| lines.contains(&line))) =>
            {
                false
            }
            Code::MissingKey => !at_broken,
            // Lines that begin with a bracket are headers; what is said of one stays true.
            _ => !at_broken || text[line..].starts_with('['),
        }
    });
}
