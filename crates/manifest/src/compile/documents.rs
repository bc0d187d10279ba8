//! Which files make up the manifest: the root and what it includes, parsed and held against their shape.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use toml::de::DeTable;

use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::reader::{Table, Text, normal};
use crate::shape::{self, ROOT};
use crate::syntax;
use crate::text::quoted_list;

/// Limit: files of one manifest.
const FILES_MAX: usize = 1_000;
/// What only the root manifest may say.
const ROOT_KEYS: [&str; 5] = ["name", "include", "gateway", "dashboard", "broker"];

/// One parsed file.
#[derive(Debug)]
pub(crate) struct Document<'d> {
    pub file: &'d Path,
    pub tree: DeTable<'d>,
}

impl<'d> Document<'d> {
    pub(crate) fn table(&'d self, cx: &'d Context<'d>) -> Table<'d> {
        Table::new(cx, &ROOT, &self.tree, Place::start(self.file))
    }
}

/// Parses the root and everything that it includes. The root comes first; without it there is nothing.
pub(crate) fn load<'d>(cx: &Context<'d>) -> Vec<Document<'d>> {
    let root = cx.sources.root.as_path();
    let Some((file, content)) = cx.file(root) else { return Vec::new() };
    let text = match content {
        Ok(text) => text,
        Err(reason) => {
            let message = format!("cannot read {}: {reason}", cx.shown(file));
            cx.report(
                Diagnostic::new(Code::Unreadable, &Place::start(file), message)
                    .hint("name another file with `-f FILE`"),
            );
            return Vec::new();
        }
    };
    let Some(tree) = syntax::parse(cx, file, text) else { return Vec::new() };
    shape::check::check(cx, &ROOT, &tree, &Place::start(file));
    let root = Document { file, tree };
    let included = load_included(cx, &root);
    std::iter::once(root).chain(included).collect()
}

fn load_included<'d>(cx: &Context<'d>, root: &Document<'_>) -> Vec<Document<'d>> {
    let mut seen = BTreeSet::from([root.file.to_path_buf()]);
    let mut documents = Vec::new();
    for item in root.table(cx).list("include") {
        let Some(include) = item.text() else {
            cx.mark_unread(|| "a file of `include`".to_owned());
            continue;
        };
        let paths = resolve(cx, &include);
        if paths.is_empty() {
            cx.mark_unread(|| format!("what `{}` should match", include.value));
        }
        for path in paths {
            if !seen.insert(path.clone()) {
                continue;
            }
            if seen.len() > FILES_MAX {
                let message = format!("the manifest includes more than {FILES_MAX} files");
                cx.report(Diagnostic::new(Code::Limit, &include.place, message).hint("write a narrower pattern"));
                return documents;
            }
            let document = load_one(cx, &include, &path);
            if document.is_none() {
                cx.mark_unread(|| cx.shown(&path));
            }
            documents.extend(document);
        }
    }
    documents
}

/// The files that an include names, without those that are not known yet.
fn resolve(cx: &Context<'_>, include: &Text<'_>) -> Vec<PathBuf> {
    let Some(path) = cx.path(include) else { return Vec::new() };
    if !include.value.contains(['*', '?', '[']) {
        if path == cx.sources.root {
            let diagnostic = Diagnostic::new(Code::Duplicate, &include.place, "the manifest includes itself");
            cx.report(diagnostic.hint("take it out of `include`"));
        }
        return vec![path];
    }
    if !cx.is_pattern(include) {
        return Vec::new();
    }
    let pattern = pattern(&include.value, include.place.file.parent().unwrap_or(Path::new("/")));
    let Some(matches) = cx.glob(&pattern) else { return Vec::new() };
    // A pattern such as `*.toml` also finds the root; nobody means that.
    let others: Vec<PathBuf> =
        matches.iter().map(|path| normal(path)).filter(|path| *path != cx.sources.root).collect();
    if others.is_empty() {
        let message = format!("`{}` matches no file", include.value);
        let hint = "correct the pattern, or take it out; it is resolved against the folder of this file";
        cx.report(Diagnostic::new(Code::NoMatch, &include.place, message).hint(hint));
    }
    others
}

/// The absolute pattern: what is special in the folder's own name is escaped.
fn pattern(written: &str, folder: &Path) -> PathBuf {
    let mut segments = written.split('/').filter(|segment| *segment != ".").peekable();
    let mut folder = if written.starts_with('/') { PathBuf::from("/") } else { folder.to_path_buf() };
    while segments.next_if(|segment| *segment == "..").is_some() {
        folder.pop();
    }
    let rest: Vec<&str> = segments.filter(|segment| !segment.is_empty()).collect();
    Path::new(&glob::Pattern::escape(&folder.to_string_lossy())).join(rest.join("/"))
}

fn load_one<'d>(cx: &Context<'d>, include: &Text<'_>, path: &Path) -> Option<Document<'d>> {
    let (file, content) = cx.file(path)?;
    let text = match content {
        Ok(text) => text,
        Err(reason) => {
            let message = format!("cannot read {}: {reason}", cx.shown(file));
            let hint = "correct the path; it is resolved against the folder of this file";
            cx.report(Diagnostic::new(Code::Unreadable, &include.place, message).label("included here").hint(hint));
            return None;
        }
    };
    let mut tree = syntax::parse(cx, file, text)?;
    for key in ROOT_KEYS {
        if let Some((written, _)) = tree.remove_entry(key) {
            let place = Place { file, span: written.span() };
            let message = format!("an included file cannot have `{key}`");
            let hint = format!("move it to {}; an included file may have {}", cx.shown(&cx.sources.root), allowed());
            cx.report(
                Diagnostic::new(Code::RootOnly, &place, message).label("belongs to the root manifest").hint(hint),
            );
        }
    }
    shape::check::check(cx, &ROOT, &tree, &Place::start(file));
    Some(Document { file, tree })
}

fn allowed() -> String {
    let names = ROOT.keys.iter().map(|key| key.name).filter(|name| !ROOT_KEYS.contains(name));
    quoted_list(&names.collect::<Vec<_>>())
}
