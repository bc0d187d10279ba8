//! Typed access to tables that `shape::check` has gone over. Expands strings, reports what a value is when it cannot be
//! used, and then answers as if it were not written: each problem is told once, and reading goes on.

use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use crate::Code;
use crate::context::Context;
use crate::diagnostic::{Diagnostic, Place};
use crate::plan;
use crate::shape::check::fits;
use crate::shape::{Kind, Table as Shape};
use crate::syntax::Value;
use crate::text::{
    Lookup, Problem, expand, format_cpu, format_duration, format_size, is_token, nearest, parse_cpu, parse_duration,
    parse_size, quoted_list,
};

/// Stands for a table that is not written: all of its keys have their defaults.
static UNWRITTEN: LazyLock<DeTable<'static>> = LazyLock::new(DeTable::new);

/// A string and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Text<'d> {
    pub value: String,
    pub place: Place<'d>,
    /// Whether something of Atoll's environment is in it: it may be a secret.
    pub expanded: bool,
}

impl From<Text<'_>> for plan::Text {
    fn from(Text { value, expanded, .. }: Text<'_>) -> Self {
        Self { value, expanded }
    }
}

/// A table and its shape.
#[derive(Clone, Debug)]
pub(crate) struct Table<'d> {
    cx: &'d Context<'d>,
    shape: &'static Shape,
    entries: &'d DeTable<'d>,
    pub(crate) place: Place<'d>,
}

/// One value and its kind.
#[derive(Clone, Debug)]
pub(crate) struct Item<'d> {
    cx: &'d Context<'d>,
    key: &'static str,
    kind: &'static Kind,
    value: &'d Value<'d>,
    pub(crate) place: Place<'d>,
}

impl<'d> Table<'d> {
    /// `place` names the file and where the table begins.
    pub(crate) fn new(cx: &'d Context<'d>, shape: &'static Shape, entries: &'d DeTable<'d>, place: Place<'d>) -> Self {
        Self { cx, shape, entries, place }
    }

    /// The value of a key, if it is written and of the right type.
    pub(crate) fn get(&self, name: &str) -> Option<Item<'d>> {
        let key = self.shape.key(name);
        debug_assert!(key.is_some(), "the shape `{}` has no key `{name}`", self.shape.name);
        let (key, value) = (key?, self.entries.get(name)?);
        self.item(key.name, &key.kind, value)
    }

    fn item(&self, key: &'static str, kind: &'static Kind, value: &'d Value<'d>) -> Option<Item<'d>> {
        let place = Place { file: self.place.file, span: value.span() };
        Item { cx: self.cx, key, kind, value, place }.resolved()
    }

    /// Where the key itself stands; the table's place if it does not.
    pub(crate) fn place_of(&self, name: &str) -> Place<'d> {
        let key = self.entries.get_key_value(name).map(|(key, _)| key.span());
        Place { file: self.place.file, span: key.unwrap_or_else(|| self.place.span.clone()) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// Whether a key is written with a value of the wrong type, which is already reported.
    pub(crate) fn is_wrong(&self, name: &str) -> bool {
        self.has(name) && self.get(name).is_none()
    }

    pub(crate) fn text(&self, name: &str) -> Option<Text<'d>> {
        self.get(name)?.text()
    }

    pub(crate) fn table(&self, name: &str) -> Option<Table<'d>> {
        self.get(name)?.table()
    }

    /// The table of a key, or one in which nothing is written.
    pub(crate) fn table_or_default(&self, name: &str) -> Table<'d> {
        match (self.table(name), self.shape.key(name).map(|key| &key.kind)) {
            (Some(table), _) => table,
            (None, Some(Kind::Table(shape))) => Table { place: self.place_of(name), ..self.unwritten(shape) },
            _ => {
                debug_assert!(false, "`{name}` of `{}` is no table", self.shape.name);
                self.clone()
            }
        }
    }

    /// A table of this shape in which nothing is written.
    pub(crate) fn unwritten(&self, shape: &'static Shape) -> Table<'d> {
        Table::new(self.cx, shape, &UNWRITTEN, self.place.clone())
    }

    /// The entries of a list; none where it is not written.
    pub(crate) fn list(&self, name: &str) -> Vec<Item<'d>> {
        self.get(name).map(|item| item.list()).unwrap_or_default()
    }

    pub(crate) fn texts(&self, name: &str) -> Vec<Text<'d>> {
        self.list(name).iter().filter_map(Item::text).collect()
    }

    pub(crate) fn tables(&self, name: &str) -> Vec<Table<'d>> {
        self.list(name).iter().filter_map(Item::table).collect()
    }

    /// The entries of a map in the order of the file; none where it is not written.
    pub(crate) fn map(&self, name: &str) -> Vec<(Text<'d>, Item<'d>)> {
        self.get(name).map(|item| item.map()).unwrap_or_default()
    }

    /// The duration, or the default of the shape.
    pub(crate) fn duration(&self, name: &str) -> Duration {
        let written = self.get(name).and_then(|item| item.duration());
        written.or_else(|| parse_duration(self.default(name))).unwrap_or_default()
    }

    /// The integer, or the default of the shape.
    pub(crate) fn integer(&self, name: &str) -> i64 {
        let written = self.get(name).and_then(|item| item.integer());
        written.or_else(|| self.default(name).parse().ok()).unwrap_or_default()
    }

    /// The size in bytes, or the default of the shape.
    pub(crate) fn size(&self, name: &str) -> u64 {
        let written = self.get(name).and_then(|item| item.size());
        written.or_else(|| parse_size(self.default(name))).unwrap_or_default()
    }

    /// The integer as a number of things.
    pub(crate) fn count(&self, name: &str) -> u32 {
        u32::try_from(self.integer(name)).unwrap_or_default()
    }

    /// The part of a whole, or the default of the shape.
    pub(crate) fn share(&self, name: &str) -> plan::Share {
        let written = self.get(name).and_then(|item| item.share());
        written.or_else(|| self.default(name).parse().ok().map(share)).unwrap_or(plan::Share::of_millionths(0))
    }

    /// The duration, only where it is written.
    pub(crate) fn written_duration(&self, name: &str) -> Option<Duration> {
        self.get(name)?.duration()
    }

    /// The number of things, only where it is written.
    pub(crate) fn written_count(&self, name: &str) -> Option<u32> {
        u32::try_from(self.get(name)?.integer()?).ok()
    }

    pub(crate) fn boolean(&self, name: &str) -> bool {
        self.get(name).and_then(|item| item.boolean()).unwrap_or_else(|| self.default(name) == "true")
    }

    /// The chosen word, or the default of the shape.
    pub(crate) fn choice(&self, name: &str) -> &'static str {
        self.get(name).and_then(|item| item.choice()).unwrap_or_else(|| self.default(name))
    }

    /// What stands for a key that is not written.
    pub(crate) fn default(&self, name: &str) -> &'static str {
        self.shape.default_of(name).unwrap_or_default()
    }

    /// A path, resolved against the folder of the file that it stands in. Not looked up anywhere.
    pub(crate) fn path(&self, name: &str) -> Option<PathBuf> {
        let text = self.text(name)?;
        self.cx.path(&text)
    }
}

impl<'d> Item<'d> {
    /// Picks the side of an `Either`; gives nothing for a wrong type, which is already reported.
    fn resolved(mut self) -> Option<Self> {
        while let Kind::Either(one, other) = self.kind {
            self.kind = if fits(one, self.value.get_ref()) { one } else { other };
        }
        fits(self.kind, self.value.get_ref()).then_some(self)
    }

    /// The string with `${…}` expanded.
    pub(crate) fn text(&self) -> Option<Text<'d>> {
        self.expand(self.written()?, |_| false)
    }

    /// The string as it is written.
    pub(crate) fn written(&self) -> Option<&'d str> {
        let written = self.value.get_ref().as_str()?;
        self.check_nul(written)?;
        Some(written)
    }

    /// A part of the string with `${…}` expanded, except of names that are `later` known: those stay in it.
    pub(crate) fn expand(&self, written: &str, later: impl Fn(&str) -> bool) -> Option<Text<'d>> {
        let expanded = expand(written, |name| match self.cx.sources.environment.get(name) {
            _ if later(name) => Lookup::Later,
            Some(value) => Lookup::Value(value),
            None => Lookup::Unknown,
        });
        for problem in &expanded.problems {
            self.report_problem(problem);
        }
        self.check_nul(&expanded.text)?;
        let text = Text { value: expanded.text, place: self.place.clone(), expanded: expanded.changed };
        expanded.problems.is_empty().then_some(text)
    }

    fn check_nul(&self, text: &str) -> Option<()> {
        if text.contains('\0') {
            let message = format!("`{}` contains a NUL character", self.key);
            let hint = "leave it out: no path, argument or variable can contain it";
            self.cx.report(Diagnostic::new(Code::NulCharacter, &self.place, message).hint(hint));
            return None;
        }
        Some(())
    }

    fn report_problem(&self, problem: &Problem) {
        let diagnostic = match problem {
            Problem::Undefined(name) => {
                let given =
                    matches!(name.as_str(), "PORT" | "HOST") || name.starts_with("ATOLL_") || name.ends_with("_URL");
                let hint = match (given, self.kind) {
                    (true, kind) if !matches!(kind, Kind::Command) => {
                        format!("`{name}` is given to instances; only `command` and `exec` can use it")
                    }
                    (_, Kind::Command) => {
                        format!("declare it in `environment`, or write `$${{{name}}}` to pass it on as it is")
                    }
                    _ => format!("set it in `.env`, or write `${{{name}:-default}}`"),
                };
                let place = self.place_within(&format!("${{{name}"));
                let label = "neither in the environment nor in `.env`";
                Diagnostic::new(Code::UndefinedVariable, &place, format!("`{name}` is not defined"))
                    .label(label)
                    .hint(hint)
            }
            Problem::Malformed(text) => {
                Diagnostic::new(Code::Expansion, &self.place_within(text), format!("`{text}` cannot be expanded")).hint(
                    "write `${NAME}` or `${NAME:-default}`, in quotes where it has blanks, and `$$` for a dollar sign",
                )
            }
        };
        self.cx.report(diagnostic);
    }

    /// The part of the value that reads `needle`, if it stands there without escapes.
    fn place_within(&self, needle: &str) -> Place<'d> {
        self.place_of(needle, 0..needle.len())
    }

    /// A range of the string as it is written, or all of it where escapes stand between the two.
    pub(crate) fn place_of(&self, written: &str, part: Range<usize>) -> Place<'d> {
        let text = self.cx.sources.files.get(self.place.file).and_then(|content| content.as_deref().ok());
        let found = text.and_then(|text| text.get(self.place.span.clone())).and_then(|value| value.find(written));
        let start = self.place.span.start + found.unwrap_or_default();
        let span = found.map_or_else(|| self.place.span.clone(), |_| start + part.start..start + part.end);
        Place { file: self.place.file, span }
    }

    /// The words of a choice.
    pub(crate) fn choice(&self) -> Option<&'static str> {
        let Kind::Choice { known, later } = self.kind else { return None };
        let text = self.text()?;
        if let Some(word) = known.iter().find(|word| **word == text.value) {
            return Some(word);
        }
        let diagnostic = if later.contains(&text.value.as_str()) {
            let message = format!("`{} = \"{}\"` is not supported by this version", self.key, text.value);
            Diagnostic::new(Code::NotYet, &text.place, message)
                .label("known, but not built yet")
                .hint(format!("write {}", quoted_list(known)))
        } else {
            let message = format!("`{}` cannot be `{}`", self.key, text.value);
            let hint = match nearest(&text.value, known.iter().copied()) {
                Some(near) => format!("did you mean `\"{near}\"`?"),
                None => format!("write {}", quoted_list(known)),
            };
            Diagnostic::new(Code::Choice, &text.place, message).label("not one of the allowed values").hint(hint)
        };
        self.cx.report(diagnostic);
        None
    }

    pub(crate) fn duration(&self) -> Option<Duration> {
        let Kind::Duration { min, max } = self.kind else { return None };
        let text = self.text()?;
        let Some(duration) = parse_duration(&text.value) else {
            let message = format!("`{}` is not a duration", text.value);
            let hint = "write whole numbers with units: `\"500ms\"`, `\"10s\"`, `\"1m30s\"`, `\"2h\"`";
            self.cx.report(Diagnostic::new(Code::Duration, &text.place, message).hint(hint));
            return None;
        };
        if duration < *min || duration > *max {
            let (least, most) = (format_duration(*min), format_duration(*max));
            let message = format!("`{}` must be from {least} to {most}", self.key);
            let label = if duration < *min { "too short" } else { "too long" };
            let nearest = if duration < *min { least } else { most };
            let hint = format!("write `{} = \"{nearest}\"`, or what lies between", self.key);
            self.cx.report(Diagnostic::new(Code::DurationRange, &text.place, message).label(label).hint(hint));
            return None;
        }
        Some(duration)
    }

    /// Bytes.
    pub(crate) fn size(&self) -> Option<u64> {
        let Kind::Size { min, max } = self.kind else { return None };
        let text = self.text()?;
        let Some(size) = parse_size(&text.value) else {
            let hint = "write a whole number with a unit: `\"64KiB\"`, `\"128MiB\"`, `\"2GiB\"`";
            return self.report_quantity(Code::Quantity, format!("`{}` is not a size", text.value), "", hint);
        };
        self.within((size, *min, *max), format_size)
    }

    /// Thousandths of a core.
    pub(crate) fn cpu(&self) -> Option<u32> {
        let Kind::Cpu { min, max } = self.kind else { return None };
        let written = match self.value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => self.text()?.value,
        };
        let Some(millis) = parse_cpu(&written) else {
            let hint = "write thousandths of a core, `\"500m\"`, or cores with at most three decimals, `0.5`";
            return self.report_quantity(Code::Quantity, format!("`{written}` is not an amount of CPU"), "", hint);
        };
        self.within((millis, *min, *max), format_cpu)
    }

    fn within<N: PartialOrd + Copy>(&self, (number, min, max): (N, N, N), shown: impl Fn(N) -> String) -> Option<N> {
        if number >= min && number <= max {
            return Some(number);
        }
        let message = format!("`{}` must be from {} to {}", self.key, shown(min), shown(max));
        let nearest = shown(if number < min { min } else { max });
        let hint = format!("write `{} = \"{nearest}\"`, or what lies between", self.key);
        self.report_quantity(Code::Range, message, "out of range", &hint)
    }

    fn report_quantity<N>(&self, code: Code, message: String, label: &str, hint: &str) -> Option<N> {
        self.cx.report(Diagnostic::new(code, &self.place, message).label(label).hint(hint));
        None
    }

    pub(crate) fn boolean(&self) -> Option<bool> {
        self.value.get_ref().as_bool()
    }

    pub(crate) fn integer(&self) -> Option<i64> {
        let DeValue::Integer(written) = self.value.get_ref() else { return None };
        let number = i64::from_str_radix(written.as_str(), written.radix()).ok();
        let allowed = match self.kind {
            Kind::Integer { min, max } if number.is_some_and(|n| (*min..=*max).contains(&n)) => return number,
            Kind::Number(known) if number.is_some_and(|n| known.contains(&n)) => return number,
            Kind::Integer { min, max } => format!("from {min} to {max}"),
            Kind::Number(known) => quoted_list(&known.iter().map(i64::to_string).collect::<Vec<_>>()),
            _ => return None,
        };
        let message = format!("`{}` cannot be {written}", self.key);
        let hint = format!("write a number that is {allowed}");
        self.cx.report(Diagnostic::new(Code::Range, &self.place, message).label("out of range").hint(hint));
        None
    }

    pub(crate) fn share(&self) -> Option<plan::Share> {
        let Kind::Share { min, max } = self.kind else { return None };
        let written = match self.value.get_ref() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::Float(number) => number.to_string(),
            _ => return None,
        };
        match written.parse::<f64>() {
            // What is no number is not within either.
            Ok(part) if (*min..=*max).contains(&part) => Some(share(part)),
            _ => {
                let message = format!("`{}` cannot be {written}", self.key);
                let hint = format!("write a part of the whole, from {min} to {max}: `0.5` is a half");
                self.report_quantity(Code::Range, message, "out of range", &hint)
            }
        }
    }

    /// What of a request tells it from others.
    pub(crate) fn key(&self) -> Option<plan::Key> {
        let Kind::Key { words, prefixes, later } = self.kind else { return None };
        let text = self.text()?;
        let (code, message, label) = match text.value.split_once('.') {
            None if words.contains(&text.value.as_str()) => {
                return Some(if text.value == "address" { plan::Key::Address } else { plan::Key::Route });
            }
            Some((prefix, name)) if prefixes.contains(&prefix) && is_token(name) => {
                return Some(match prefix {
                    "cookie" => plan::Key::Cookie(name.to_owned()),
                    _ => plan::Key::Header(name.to_ascii_lowercase()),
                });
            }
            Some((prefix, name)) if prefixes.contains(&prefix) => {
                (Code::Header, format!("`{name}` is not the name of a {prefix}"), "letters, digits and `-`")
            }
            Some((prefix, _)) if later.contains(&prefix) => {
                let message = format!("`{} = \"{}\"` is not supported by this version", self.key, text.value);
                (Code::NotYet, message, "known, but not built yet")
            }
            _ => (Code::Choice, format!("`{}` cannot be `{}`", self.key, text.value), "not one of the allowed values"),
        };
        let hint = format!("write {}", quoted_list(&self.kind.forms()));
        self.cx.report(Diagnostic::new(code, &text.place, message).label(label).hint(hint));
        None
    }

    pub(crate) fn table(&self) -> Option<Table<'d>> {
        match (self.kind, self.value.get_ref()) {
            (Kind::Table(shape), DeValue::Table(entries)) => {
                Some(Table::new(self.cx, shape, entries, self.place.clone()))
            }
            _ => None,
        }
    }

    pub(crate) fn list(&self) -> Vec<Item<'d>> {
        let (Kind::List(kind, max), DeValue::Array(items)) = (self.kind, self.value.get_ref()) else {
            return Vec::new();
        };
        items.iter().take(*max).filter_map(|value| self.child(kind, value).resolved()).collect()
    }

    pub(crate) fn map(&self) -> Vec<(Text<'d>, Item<'d>)> {
        let (Kind::Map(map), DeValue::Table(entries)) = (self.kind, self.value.get_ref()) else { return Vec::new() };
        let entries = entries.iter().take(map.max).map(|(key, value)| {
            let place = Place { file: self.place.file, span: key.span() };
            let name = Text { value: key.get_ref().to_string(), place, expanded: false };
            Some((name, self.child(&map.value, value).resolved()?))
        });
        entries.flatten().collect()
    }

    /// Whether a list or a map has no entries.
    pub(crate) fn is_empty(&self) -> bool {
        match self.value.get_ref() {
            DeValue::Array(items) => items.is_empty(),
            DeValue::Table(entries) => entries.is_empty(),
            _ => false,
        }
    }

    /// Whether it is a list rather than a table or a string.
    pub(crate) fn is_list(&self) -> bool {
        matches!(self.kind, Kind::List(..))
    }

    fn child(&self, kind: &'static Kind, value: &'d Value<'d>) -> Self {
        let place = Place { file: self.place.file, span: value.span() };
        Item { cx: self.cx, key: self.key, kind, value, place }
    }
}

impl Context<'_> {
    /// Resolves a path against the folder of the file that it stands in.
    pub(crate) fn path(&self, text: &Text<'_>) -> Option<PathBuf> {
        if text.value.is_empty() {
            let diagnostic = Diagnostic::new(Code::Path, &text.place, "the path is empty");
            self.report(diagnostic.hint("write `\".\"` for the folder of this file"));
            return None;
        }
        let folder = text.place.file.parent().unwrap_or(Path::new("/"));
        Some(normal(&folder.join(&text.value)))
    }

    /// Whether it is a pattern of the `glob` crate; reports it when not.
    pub(crate) fn is_pattern(&self, text: &Text<'_>) -> bool {
        let Err(error) = glob::Pattern::new(&text.value) else { return true };
        let message = format!("`{}` is not a valid pattern: {}", text.value, error.msg);
        let hint = "write `*`, `**`, `?` or `[abc]`; a bracket that means itself is `[[]`";
        self.report(Diagnostic::new(Code::Pattern, &text.place, message).hint(hint));
        false
    }
}

/// `part` is in `[0, 1]`.
fn share(part: f64) -> plan::Share {
    plan::Share::of_millionths((part * 1e6).round() as u32)
}

/// Takes `.` and `..` out of an absolute path by its words alone.
pub(crate) fn normal(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for component in path.components() {
        match component {
            std::path::Component::CurDir => {}
            std::path::Component::ParentDir => {
                out.pop();
            }
            other => out.push(other),
        }
    }
    out
}
