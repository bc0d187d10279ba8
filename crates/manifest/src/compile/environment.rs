//! What an instance finds in its environment: what Atoll gives, then its `env_file`s, then its `environment`.

use std::collections::BTreeMap;
use std::path::Path;

use super::services::Settled;
use super::wiring::Unit;
use crate::Code;
use crate::context::Context;
use crate::diagnostic::Diagnostic;
use crate::plan::{EVENTS, Origin, Variable};
use crate::reader::Text;
use crate::syntax::FILE_BYTES_MAX;
use crate::text::{as_variable, is_environment_name, parse_dotenv};

/// Only the platform sets these: an instance that listened elsewhere would not be found.
const RESERVED: [&str; 2] = ["HOST", "PORT"];
/// Set for each instance when it starts.
const AT_START: [&str; 9] = [
    "HOST",
    "PORT",
    "ATOLL_SERVICE",
    "ATOLL_INSTANCE",
    "ATOLL_RUN",
    "OTEL_SERVICE_NAME",
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_PROTOCOL",
];
/// The same, for those that publish or subscribe: that of the embedded broker has a password in it, which no plan knows.
const BROKER: &str = "NATS_URL";
/// Limit: variables of one file.
const FILE_VARIABLES_MAX: usize = 10_000;

/// The environment of a service.
#[derive(Debug)]
pub(crate) struct Environment {
    pub variables: BTreeMap<String, Variable>,
    /// Whether a file is missing: then nothing can be called undefined.
    incomplete: bool,
    uses_broker: bool,
}

impl Environment {
    /// Whether `${name}` in a command waits for the start of an instance.
    pub(crate) fn is_known_at_start(&self, name: &str) -> bool {
        self.incomplete
            || AT_START.contains(&name)
            || (self.uses_broker && name == BROKER)
            || self.variables.contains_key(name)
    }
}

pub(crate) fn compile(cx: &Context<'_>, unit: &Unit<'_>, settled: &Settled<'_>) -> Environment {
    let mut out =
        Environment { variables: given(cx, unit, settled), incomplete: false, uses_broker: unit.uses_broker() };
    for file in env_files(unit) {
        read_file(cx, &file, &mut out);
    }
    for (name, item) in unit.table.map("environment") {
        let Some(value) = item.text() else { continue };
        if !is_environment_name(&name.value) {
            let message = format!("`{}` cannot name a variable", name.value);
            let hint = "leave out blanks and `=`; most programs expect upper-case letters, digits and `_`";
            cx.report(Diagnostic::new(Code::VariableName, &name.place, message).hint(hint));
        } else if RESERVED.contains(&name.value.as_str()) {
            let message = format!("`{}` is set by Atoll and cannot be chosen", name.value);
            let hint =
                "take it out; a program that wants its port under another name gets it with `command`, as `${PORT}`";
            cx.report(Diagnostic::new(Code::ReservedVariable, &name.place, message).label("reserved").hint(hint));
        } else {
            // What was expanded may be a secret, exactly as the content of a file.
            let origin = if value.expanded { Origin::EnvFile } else { Origin::Manifest };
            out.variables.insert(name.value, Variable { value: value.value, origin });
        }
    }
    out
}

fn given(cx: &Context<'_>, unit: &Unit<'_>, settled: &Settled<'_>) -> BTreeMap<String, Variable> {
    let edge = |upstream: &str| format!("http://127.0.0.1:{}", settled.port(&unit.name.value, upstream));
    let upstreams = unit
        .upstreams
        .iter()
        .map(|upstream| (format!("{}_URL", as_variable(&upstream.value)), edge(&upstream.value), upstream));
    let single = unit.databases.len() == 1;
    let own = unit.databases.iter().filter_map(|name| {
        let prefix = if single { String::new() } else { format!("{}_", as_variable(&name.value)) };
        Some((format!("{prefix}DATABASE_URL"), sqlite_url(&settled.databases.get(&name.value)?.path), name))
    });
    let mut variables = BTreeMap::new();
    let mut owners: BTreeMap<String, &Text<'_>> = BTreeMap::new();
    for (variable, value, owner) in upstreams.chain(own) {
        if let Some(first) = owners.insert(variable.clone(), owner) {
            let message = format!("`{}` and `{}` would both be given as `{variable}`", first.value, owner.value);
            let diagnostic = Diagnostic::new(Code::VariableCollision, &owner.place, message)
                .label(format!("given as `{variable}`"))
                .hint("rename one of them")
                .related(&first.place, "so is this one");
            cx.report(diagnostic);
        }
        variables.insert(variable, Variable { value, origin: Origin::Given });
    }
    // No upstream and no database has a name that would be given as one of these.
    let events = (!unit.publishes.is_empty()).then(|| ("EVENTS_URL", edge(EVENTS)));
    let nats = settled.nats.filter(|_| unit.uses_broker()).map(|nats| (BROKER, nats.address.clone()));
    for (variable, value) in events.into_iter().chain(nats) {
        variables.insert(variable.to_owned(), Variable { value, origin: Origin::Given });
    }
    variables
}

/// `sqlite://` and the path, with what an URL gives a meaning to percent-encoded (RFC 3986 §2.1).
fn sqlite_url(path: &Path) -> String {
    let mut url = "sqlite://".to_owned();
    for character in path.to_string_lossy().chars() {
        match character {
            '%' | '?' | '#' | ' ' | '"' | '<' | '>' | '\\' | '^' | '`' | '{' | '|' | '}' => {
                url.push_str(&format!("%{:02X}", u32::from(character)));
            }
            _ => url.push(character),
        }
    }
    url
}

fn env_files<'d>(unit: &Unit<'d>) -> Vec<Text<'d>> {
    match unit.table.get("env_file") {
        Some(item) if item.is_list() => item.list().iter().filter_map(|item| item.text()).collect(),
        Some(item) => item.text().into_iter().collect(),
        None => Vec::new(),
    }
}

/// Problems are shown in the manifest, never in the file itself: its lines may be secrets.
fn read_file(cx: &Context<'_>, written: &Text<'_>, out: &mut Environment) {
    let found = cx.path(written).and_then(|path| cx.file(&path));
    let Some((path, content)) = found else {
        out.incomplete = true;
        return;
    };
    let shown = cx.shown(path);
    let text = match content {
        Ok(text) => text,
        Err(reason) => {
            let hint = "correct the path; it is resolved against the folder of this file";
            let diagnostic =
                Diagnostic::new(Code::Unreadable, &written.place, format!("cannot read {shown}: {reason}"));
            cx.report(diagnostic.label("read for this service").hint(hint));
            out.incomplete = true;
            return;
        }
    };
    let problem = |line: usize, why: &str, hint: &str| {
        let diagnostic = Diagnostic::new(Code::EnvFile, &written.place, format!("line {line} of {shown} {why}"));
        cx.report(diagnostic.label("in this file").hint(hint));
    };
    if text.len() > FILE_BYTES_MAX {
        let message = format!("{shown} has {} bytes; the limit is {FILE_BYTES_MAX}", text.len());
        cx.report(Diagnostic::new(Code::Limit, &written.place, message).hint("name a file of `NAME=value` lines"));
        return;
    }
    let (variables, problems) = parse_dotenv(text);
    for malformed in problems {
        problem(malformed.line, malformed.why, "write `NAME=value`, one a line");
    }
    for (name, value) in variables.into_iter().take(FILE_VARIABLES_MAX) {
        if RESERVED.contains(&name.as_str()) {
            let message = format!("{shown} sets `{name}`, which only Atoll sets");
            let diagnostic = Diagnostic::new(Code::ReservedVariable, &written.place, message);
            cx.report(diagnostic.label("in this file").hint(format!("take `{name}` out of {shown}")));
        } else if value.contains('\0') {
            let message = format!("`{name}` of {shown} contains a NUL character");
            cx.report(Diagnostic::new(Code::NulCharacter, &written.place, message).hint("take it out"));
        } else {
            out.variables.insert(name, Variable { value, origin: Origin::EnvFile });
        }
    }
}
