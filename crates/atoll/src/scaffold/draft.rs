//! A manifest that is being made: its services, its routes and what is to be said about them, and its text.
//! Filled by the readers of `scaffold`; whatever they put in, the text compiles.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use super::folder::Folder;

/// Limit: services that are taken over.
const SERVICES_MAX: usize = 200;
/// Limit: entries of one list or table of a service; the manifest's own.
const ENTRIES_MAX: usize = 100;
/// Limit: characters of a comment.
const COMMENT_CHARS_MAX: usize = 400;
/// Names of services that people look at; of several published services the first such one is given `/`.
const FRONTS: [&str; 10] = ["web", "www", "frontend", "front", "storefront", "ui", "app", "client", "site", "website"];

/// What `atoll init` found.
#[derive(Debug, Default)]
pub struct Draft {
    pub name: Option<String>,
    /// Files that it was made from.
    pub sources: Vec<String>,
    pub services: Vec<Service>,
    /// About the whole, not about one service.
    pub notes: Vec<String>,
}

/// One service; a key that is not known is not written.
#[derive(Debug, Default)]
pub struct Service {
    pub name: String,
    /// `None`: it is not started, and only its notes are written.
    pub command: Option<String>,
    pub build: Option<String>,
    pub working_dir: Option<String>,
    pub replicas: Option<u32>,
    pub upstreams: BTreeSet<String>,
    pub depends_on: BTreeMap<String, Condition>,
    pub environment: BTreeMap<String, String>,
    pub env_file: Vec<String>,
    pub readiness: Option<Readiness>,
    pub restart: Option<&'static str>,
    pub stop_signal: Option<String>,
    pub stop_grace_period: Option<String>,
    /// Whether requests from outside reach it.
    pub published: bool,
    pub notes: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    Started,
    Healthy,
    Completed,
}

/// A readiness probe; times as the manifest writes them.
#[derive(Debug, Default)]
pub struct Readiness {
    pub check: Option<Check>,
    pub interval: Option<String>,
    pub timeout: Option<String>,
    pub failure_threshold: Option<u32>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum Check {
    Http(String),
    Exec(String),
}

impl Service {
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// For what listens nowhere: the default probe would wait for its port.
    pub fn listens_nowhere(&mut self) {
        self.note("nothing says that it listens, so it is ready once it runs; take `probes` out if it does listen");
        self.readiness = Some(Readiness { check: Some(Check::Exec("true".to_owned())), ..Readiness::default() });
    }
}

impl Draft {
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// All notes, those of a service under its name.
    pub fn all_notes(&self) -> Vec<String> {
        let of = |service: &Service| {
            let name = service.name.clone();
            service.notes.iter().map(move |note| format!("{name}: {note}")).collect::<Vec<_>>()
        };
        self.notes.iter().cloned().chain(self.services.iter().flat_map(of)).map(|note| one_line(&note)).collect()
    }

    /// Makes names valid and distinct, drops what refers to nothing, and keeps to the manifest's limits.
    pub fn finish(&mut self, folder: &Folder) {
        let name = self.name.take().and_then(|name| valid_name(&name));
        self.name = name.or_else(|| valid_name(&folder.name())).or_else(|| Some("application".to_owned()));
        if self.services.len() > SERVICES_MAX {
            self.note(format!("only the first {SERVICES_MAX} of {} services were taken over", self.services.len()));
            self.services.truncate(SERVICES_MAX);
        }
        let mut seen = BTreeSet::new();
        for service in &mut self.services {
            let mut name = service.name.clone();
            for number in 2.. {
                if seen.insert(name.clone()) {
                    break;
                }
                name = format!("{}-{number}", service.name.chars().take(58).collect::<String>());
            }
            service.name = name;
        }
        let started: BTreeSet<String> =
            self.services.iter().filter(|s| s.command.is_some()).map(|s| s.name.clone()).collect();
        for service in &mut self.services {
            let own = service.name.clone();
            service.upstreams.retain(|name| started.contains(name) && *name != own);
            service.depends_on.retain(|name, _| started.contains(name) && *name != own);
            limit(&mut service.notes, &mut service.upstreams, "upstreams", |set| set.pop_last().is_some());
            limit(&mut service.notes, &mut service.depends_on, "dependencies", |map| map.pop_last().is_some());
            limit(&mut service.notes, &mut service.env_file, "env files", |list| list.pop().is_some());
        }
        self.break_cycles();
        self.fulfil();
    }

    /// Takes out dependencies that lead back to where they began.
    fn break_cycles(&mut self) {
        loop {
            let graph: BTreeMap<&str, Vec<&str>> = self
                .services
                .iter()
                .map(|s| (s.name.as_str(), s.depends_on.keys().map(String::as_str).collect()))
                .collect();
            let Some((from, to)) = back_edge(&graph) else { return };
            let (from, to) = (from.to_owned(), to.to_owned());
            for service in self.services.iter_mut().filter(|service| service.name == from) {
                service.depends_on.remove(&to);
                service.note(format!("depends_on `{to}` was left out: they would wait for each other"));
            }
        }
    }

    /// What others wait for must be able to come about.
    fn fulfil(&mut self) {
        let waited: Vec<(String, Condition)> = self.services.iter().flat_map(|s| s.depends_on.clone()).collect();
        for service in &mut self.services {
            let completed = (service.name.clone(), Condition::Completed);
            if waited.contains(&completed) && service.restart.is_none_or(|restart| restart == "always") {
                service.restart = Some("on-failure");
            }
        }
        let none: Vec<String> =
            self.services.iter().filter(|s| s.replicas == Some(0)).map(|s| s.name.clone()).collect();
        for service in &mut self.services {
            for name in &none {
                if service.depends_on.remove(name).is_some() {
                    service.note(format!("depends_on `{name}` was left out: `{name}` has no instance"));
                }
            }
        }
    }

    /// The published services and the path prefixes that they get.
    fn routes(&self) -> Vec<(&str, String)> {
        let published: Vec<&str> = self
            .services
            .iter()
            .filter(|service| service.published && service.command.is_some() && service.replicas != Some(0))
            .map(|service| service.name.as_str())
            .collect();
        let front = FRONTS.iter().find(|front| published.contains(front)).or(published.first()).copied();
        let prefix = |name: &str| if Some(name) == front { "/".to_owned() } else { format!("/{name}") };
        published.iter().map(|name| (*name, prefix(name))).collect()
    }

    /// The manifest.
    pub fn to_toml(&self) -> String {
        let mut out = String::new();
        comment(&mut out, &format!("Made by `atoll init` from {}.", self.sources.join(", ")));
        comment(
            &mut out,
            "`atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.",
        );
        self.notes.iter().for_each(|note| comment(&mut out, note));
        let _ = writeln!(out, "name = {}", quoted(self.name.as_deref().unwrap_or("application")));
        for (name, prefix) in self.routes() {
            let _ = writeln!(out, "\n[[routes]]\nname     = {}", quoted(name));
            let _ = writeln!(out, "matches  = [{{ path = {{ prefix = {} }} }}]", quoted(&prefix));
            if prefix != "/" {
                let _ = writeln!(out, "filters  = [{{ url_rewrite = {{ prefix = \"/\" }} }}]");
            }
            let _ = writeln!(out, "backends = [{{ service = {} }}]", quoted(name));
        }
        for service in &self.services {
            out.push('\n');
            service.write(&mut out);
        }
        out
    }
}

impl Service {
    fn write(&self, out: &mut String) {
        let Some(command) = &self.command else {
            comment(out, &format!("Not started: {}", self.name));
            self.notes.iter().for_each(|note| comment(out, note));
            return;
        };
        self.notes.iter().for_each(|note| comment(out, note));
        let _ = writeln!(out, "[services.{}]", key(&self.name));
        let mut line = |name: &str, value: String| {
            let _ = writeln!(out, "{name} = {value}");
        };
        let texts = [
            ("build", &self.build),
            ("command", &Some(command.clone())),
            ("working_dir", &self.working_dir),
            ("restart", &self.restart.map(str::to_owned)),
            ("stop_signal", &self.stop_signal),
            ("stop_grace_period", &self.stop_grace_period),
        ];
        for (name, value) in texts {
            value.iter().for_each(|value| line(name, quoted(value)));
        }
        self.replicas.iter().for_each(|count| line("replicas", count.to_string()));
        if !self.upstreams.is_empty() {
            line("upstreams", list(self.upstreams.iter()));
        }
        if !self.depends_on.is_empty() {
            line("depends_on", table(self.depends_on.iter().map(|(name, condition)| (name, condition.as_str()))));
        }
        if !self.env_file.is_empty() {
            line("env_file", list(self.env_file.iter()));
        }
        if let Some(readiness) = self.readiness.as_ref().map(Readiness::to_toml) {
            line("probes", format!("{{ readiness = {readiness} }}"));
        }
        if !self.environment.is_empty() {
            let _ = writeln!(out, "\n[services.{}.environment]", key(&self.name));
            for (name, value) in &self.environment {
                let _ = writeln!(out, "{} = {}", key(name), quoted(value));
            }
        }
    }
}

impl Condition {
    fn as_str(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Healthy => "healthy",
            Self::Completed => "completed",
        }
    }
}

impl Readiness {
    fn to_toml(&self) -> String {
        let check = self.check.as_ref().map(|check| match check {
            Check::Http(path) => format!("http = {}", quoted(path)),
            Check::Exec(command) => format!("exec = {}", quoted(command)),
        });
        let time =
            |name: &str, value: &Option<String>| value.as_ref().map(|value| format!("{name} = {}", quoted(value)));
        let threshold = self.failure_threshold.map(|count| format!("failure_threshold = {count}"));
        let entries = [check, time("interval", &self.interval), time("timeout", &self.timeout), threshold];
        format!("{{ {} }}", entries.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}

/// Shortens a collection to what the manifest allows, and says so.
fn limit<T: Length>(notes: &mut Vec<String>, entries: &mut T, what: &str, drop_last: impl Fn(&mut T) -> bool) {
    if entries.length() > ENTRIES_MAX {
        notes.push(format!("only {ENTRIES_MAX} of its {} {what} were taken over", entries.length()));
    }
    while entries.length() > ENTRIES_MAX && drop_last(entries) {}
}

/// How many entries a collection has.
trait Length {
    fn length(&self) -> usize;
}

impl<T> Length for BTreeSet<T> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<K, V> Length for BTreeMap<K, V> {
    fn length(&self) -> usize {
        self.len()
    }
}

impl<T> Length for Vec<T> {
    fn length(&self) -> usize {
        self.len()
    }
}

/// An edge that closes a cycle. Takes away what waits for nothing until nothing changes: what is left, waits in circles.
fn back_edge<'a>(graph: &BTreeMap<&'a str, Vec<&'a str>>) -> Option<(&'a str, &'a str)> {
    let mut left = graph.clone();
    loop {
        let names: BTreeSet<&str> = left.keys().copied().collect();
        let before = left.len();
        left.retain(|_, waits| waits.iter().any(|name| names.contains(name)));
        if left.len() == before {
            break;
        }
    }
    // Following any edge among them ends in a cycle.
    let (mut at, mut seen) = (*left.keys().next()?, BTreeSet::new());
    loop {
        seen.insert(at);
        let next = left[at].iter().find(|name| left.contains_key(*name)).copied()?;
        if seen.contains(next) {
            return Some((at, next));
        }
        at = next;
    }
}

/// The nearest name that a service may have: a lower-case DNS label that the platform does not use itself.
pub fn valid_name(text: &str) -> Option<String> {
    let fitting = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = text.chars().map(fitting).collect();
    let name: String = name.trim_start_matches(|c: char| !c.is_ascii_lowercase()).chars().take(50).collect();
    let name = name.trim_end_matches('-').to_owned();
    [name.clone(), format!("{name}-service")]
        .into_iter()
        .find(|name| !name.starts_with('-') && super::refused_name(name).is_none())
}

/// The variable in which the address of an upstream is given.
pub fn url_variable(name: &str) -> String {
    format!("{}_URL", name.to_ascii_uppercase().replace('-', "_"))
}

/// A TOML basic string.
pub fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            c if c.is_control() => {
                let _ = write!(out, "\\u{:04X}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

fn key(text: &str) -> String {
    let bare = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
    if bare { text.to_owned() } else { quoted(text) }
}

fn list<'a>(entries: impl Iterator<Item = &'a String>) -> String {
    format!("[{}]", entries.map(|entry| quoted(entry)).collect::<Vec<_>>().join(", "))
}

fn table<'a>(entries: impl Iterator<Item = (&'a String, &'a str)>) -> String {
    let entries: Vec<String> = entries.map(|(name, value)| format!("{} = {}", key(name), quoted(value))).collect();
    format!("{{ {} }}", entries.join(", "))
}

fn comment(out: &mut String, text: &str) {
    let _ = writeln!(out, "# {}", one_line(text));
}

/// Text of a foreign file can neither end a comment nor steer a terminal.
fn one_line(text: &str) -> String {
    let steers = |c: char| c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let mut line = String::new();
    for character in text.chars().take(COMMENT_CHARS_MAX) {
        if steers(character) { line.extend(character.escape_default()) } else { line.push(character) }
    }
    line
}
