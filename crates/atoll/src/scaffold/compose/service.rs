//! One service of a Compose file becomes one of the manifest. Each function takes over some keys and notes what is lost.

use std::borrow::Cow;
use std::time::Duration;

use super::{Project, engines, links, times};
use crate::scaffold::draft::{Check, Condition, Readiness, Service, url_variable, valid_name};
use crate::scaffold::folder::Folder;
use crate::scaffold::yaml::Value;
use crate::scaffold::{command_of, mistakes, words};

const HOUR: Duration = Duration::from_secs(3600);
const SIGNALS: [&str; 8] = ["SIGTERM", "SIGINT", "SIGQUIT", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGWINCH", "SIGKILL"];
/// Limit: instances of a service, and variables of one; the manifest's own.
const INSTANCES_MAX: u32 = 100;
const VARIABLES_MAX: usize = 500;
/// Keys that are read below, or that mean nothing where there is no container.
const KNOWN: [&str; 24] = [
    "build",
    "command",
    "container_name",
    "depends_on",
    "deploy",
    "entrypoint",
    "env_file",
    "environment",
    "expose",
    "healthcheck",
    "hostname",
    "image",
    "init",
    "labels",
    "logging",
    "ports",
    "pull_policy",
    "restart",
    "scale",
    "stdin_open",
    "stop_grace_period",
    "stop_signal",
    "tty",
    "working_dir",
];
/// A variable whose whole value is the name of a service, if it ends so.
const HOST_ENDS: [&str; 5] = ["HOST", "HOSTNAME", "SERVER", "ADDR", "ADDRESS"];

/// Makes a service of the manifest; one without a command where Atoll cannot start it.
pub fn take_over(project: &Project<'_>, key: &str, value: &Value) -> Service {
    let name = valid_name(key);
    let mut service = Service::new(name.as_deref().unwrap_or(key));
    if let Some(said) = engines::of(value) {
        service.note(engines::advice(said, key));
        return service;
    }
    let Some(mut command) = command(project, key, value, &mut service).filter(|_| name.is_some()) else {
        return service;
    };
    if service.name != key {
        service.note(format!("called `{key}` in the Compose file"));
    }
    folder(project, value, &mut service);
    wiring(project, value, &mut service);
    let carried = environment(project, key, value, &mut service);
    env_files(project, value, &mut service);
    healthcheck(project, key, value, &mut service);
    lifecycle(value, &mut service);
    listening(project, key, &mut command, &carried, &mut service);
    if !carried.is_empty() {
        // Only in a command does what an instance is given expand.
        let assignments = carried.into_iter().map(|(name, text)| format!("{name}={text}"));
        command = std::iter::once("env".to_owned()).chain(assignments).chain(command).collect();
    }
    service.command = words::join(&command);
    left_out(value, &mut service);
    service
}

/// The variables of a service, in list and in map form; `None` is passed on from the shell.
pub fn variables(service: &Value) -> Vec<(&str, Option<&str>)> {
    let Some(value) = service.get("environment") else { return Vec::new() };
    let listed = value.items().iter().filter_map(|item| item.text()).map(|text| match text.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    });
    let mapped = value.entries().iter().map(|(name, value)| (name.as_str(), value.text()));
    let mut all: Vec<(&str, Option<&str>)> = listed.chain(mapped).take(VARIABLES_MAX).collect();
    all.reverse();
    all
}

/// What the file itself, or the build context, says is started.
pub fn command_words(folder: &Folder, service: &Value) -> Option<Vec<String>> {
    let words = |key: &str| -> Option<Vec<String>> {
        match service.get(key)? {
            Value::Text(text) => shlex::split(text),
            Value::List(_) => Some(service.get(key)?.texts().into_iter().map(str::to_owned).collect()),
            _ => None,
        }
    };
    let mut all = words("entrypoint").unwrap_or_default();
    all.extend(words("command").unwrap_or_default());
    let named = |words: &Vec<String>| words.first().is_some_and(|program| !program.is_empty());
    if named(&all) {
        return Some(all);
    }
    let context = context(service)?;
    let found = dockerfile_command(folder, service, &context).or_else(|| {
        let command = command_of(folder, &context)?.command?;
        shlex::split(&command)
    });
    found.filter(named)
}

/// The folder that an image is built from.
fn context(service: &Value) -> Option<String> {
    let build = service.get("build")?;
    let context = build.text().or_else(|| build.get("context").and_then(Value::text)).unwrap_or(".");
    let plain = !context.contains(['$', ':', '\0']) && !context.starts_with(['/', '~']);
    plain.then(|| context.trim_start_matches("./").trim_end_matches('/').trim_end_matches('.').to_owned())
}

/// The last `ENTRYPOINT` and `CMD` of the Dockerfile.
fn dockerfile_command(folder: &Folder, service: &Value, context: &str) -> Option<Vec<String>> {
    let build = service.get("build")?;
    let file = build.get("dockerfile").and_then(Value::text).unwrap_or("Dockerfile");
    let text = folder.below(context).text(file)?.replace("\\\n", " ");
    let last = |instruction: &str| -> Option<Vec<String>> {
        let mut lines = text.lines().filter_map(|line| line.trim().split_once(char::is_whitespace));
        let (_, rest) = lines.rfind(|(first, _)| first.eq_ignore_ascii_case(instruction))?;
        let exec: Result<Vec<String>, _> = serde_json::from_str(rest.trim());
        Some(exec.unwrap_or_else(|_| vec!["sh".to_owned(), "-c".to_owned(), rest.trim().replace('$', "$$")]))
    };
    let mut all = last("ENTRYPOINT").unwrap_or_default();
    all.extend(last("CMD").unwrap_or_default());
    (!all.is_empty()).then_some(all)
}

fn command(project: &Project<'_>, key: &str, value: &Value, service: &mut Service) -> Option<Vec<String>> {
    let Some(words) = command_words(project.folder, value) else {
        let image = value.get("image").and_then(Value::text).unwrap_or("an image");
        service.note(match context(value) {
            Some(context) => format!("its image is built from `./{context}`, and nothing there says what it starts: write `[services.{key}]` with a `command`"),
            None => format!("it is what `{image}` starts, and Atoll starts programs: write `[services.{key}]` with a `command`"),
        });
        return None;
    };
    let expanded: Vec<String> =
        words.iter().map(|word| project.interpolated(word, &["PORT", "HOST"], service)).collect();
    if expanded.iter().any(|word| word.contains('\0')) {
        service.note("its command holds a NUL character");
        return None;
    }
    if !words::names_program(&expanded) {
        service.note("its program is in a variable that is not set");
        return None;
    }
    Some(expanded.iter().map(|word| linked(project, key, word, service).0.into_owned()).collect())
}

/// What addresses of other services in a text become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Became {
    Same,
    /// Something that expands when an instance starts.
    Variable,
    /// An address of this machine.
    Local,
    /// There is an address without `http://`, which Atoll has not to give.
    Lost,
}

fn linked<'t>(project: &Project<'_>, own: &str, text: &'t str, service: &mut Service) -> (Cow<'t, str>, Became) {
    let mut became = Became::Same;
    let mut out = String::new();
    let mut from = 0;
    for link in links::find(text, |name| project.peers.contains_key(name)) {
        let peer = &project.peers[link.name];
        let replaced = match &peer.name {
            _ if link.name == own => {
                Some(if link.http { "http://${HOST}:${PORT}" } else { "${HOST}:${PORT}" }.to_owned())
            }
            Some(name) => {
                service.upstreams.insert(name.clone());
                link.http.then(|| format!("${{{}}}", url_variable(name)))
            }
            None => {
                let published = |port| peer.published.iter().find(|(inside, _)| Some(*inside) == port);
                let port = published(link.port).and_then(|(_, outside)| *outside).or(link.port);
                let port = port.map(|port| format!(":{port}")).unwrap_or_default();
                became = if became == Became::Same { Became::Local } else { became };
                service.note(format!("`{}` is taken to be at 127.0.0.1{port}: Atoll does not start it", link.name));
                Some(format!("{}127.0.0.1{port}", if link.http { "http://" } else { "" }))
            }
        };
        let Some(replaced) = replaced else { return (Cow::Borrowed(text), Became::Lost) };
        if replaced.starts_with("${") || replaced.contains("${HOST}") {
            became = Became::Variable;
        }
        out.push_str(&text[from..link.span.start]);
        out.push_str(&replaced);
        from = link.span.end;
    }
    if became == Became::Same {
        return (Cow::Borrowed(text), became);
    }
    out.push_str(&text[from..]);
    (Cow::Owned(out), became)
}

/// Fills the environment, and gives the variables that only the command can carry.
fn environment(project: &Project<'_>, key: &str, value: &Value, service: &mut Service) -> Vec<(String, String)> {
    let mut carried = Vec::new();
    for (name, text) in variables(value).into_iter().rev() {
        if name.is_empty() || name.contains(|c: char| c == '=' || c.is_whitespace() || c.is_control()) {
            service.note("a variable with a malformed name was left out");
            continue;
        }
        let Some(text) = text else {
            if words::is_variable(name) && !["HOST", "PORT"].contains(&name) {
                service.environment.insert(name.to_owned(), format!("${{{name}:-}}"));
            }
            continue;
        };
        if text.contains('\0') {
            service.note(format!("{name} was left out: it holds a NUL character"));
            continue;
        }
        if name == "PORT" || name == "HOST" {
            service.note(format!("{name} is chosen by Atoll for each instance (it was `{text}`)"));
            continue;
        }
        variable(project, key, (name, text), service, &mut carried);
    }
    carried
}

fn variable(
    project: &Project<'_>,
    key: &str,
    (name, text): (&str, &str),
    service: &mut Service,
    carried: &mut Vec<(String, String)>,
) {
    let own_port = project.peers[key].ports.iter().any(|port| port.to_string() == text);
    if own_port && name.ends_with("PORT") {
        service.note(format!("{name} now carries the port that Atoll chooses"));
        carried.push((name.to_owned(), "${PORT}".to_owned()));
        return;
    }
    if HOST_ENDS.iter().any(|end| name.ends_with(end))
        && let Some(peer) = project.peers.get(text)
    {
        let Some(upstream) = &peer.name else {
            service.note(format!("{name} is taken to be this machine: Atoll does not start `{text}`"));
            service.environment.insert(name.to_owned(), "127.0.0.1".to_owned());
            return;
        };
        service.upstreams.insert(upstream.clone());
        service.note(format!("{name} was left out: {} carries host and port of `{upstream}`", url_variable(upstream)));
        return;
    }
    let text = project.interpolated(text, &[], service);
    let (linked, became) = linked(project, key, &text, service);
    let given =
        service.upstreams.iter().map(|upstream| (url_variable(upstream), upstream)).find(|(url, _)| url == name);
    match became {
        Became::Lost => service.note(format!(
            "{name} was left out: it names another service without `http://`; the variables of its upstreams carry their addresses, as http://127.0.0.1:PORT"
        )),
        Became::Variable if given.is_some() && linked == format!("${{{name}}}") => {
            service.note(format!("{name} is given by Atoll, because of `upstreams`"));
        }
        // What stands in a command can be seen by every user of the machine.
        Became::Variable if text.contains("${") || text.contains('@') => service.note(format!(
            "{name} was left out: it joins the address of an upstream with what may be a secret; build it from {}",
            service.upstreams.iter().map(|name| url_variable(name)).collect::<Vec<_>>().join(", ")
        )),
        Became::Variable if words::is_variable(name) => {
            service.note(format!("{name} now carries `{linked}`, the address of an upstream"));
            carried.push((name.to_owned(), linked.into_owned()));
        }
        Became::Variable => service.note(format!("{name} was left out: no command can set a variable of this name")),
        Became::Same | Became::Local => {
            service.environment.insert(name.to_owned(), linked.into_owned());
        }
    }
}

fn folder(project: &Project<'_>, value: &Value, service: &mut Service) {
    let inside = value.get("working_dir").and_then(Value::text);
    let mounts = value.get("volumes").map(Value::items).unwrap_or_default();
    let mounted = inside.and_then(|inside| {
        mounts.iter().find_map(|mount| {
            let (source, target) = match mount.text() {
                Some(text) => text.split_once(':')?,
                None => (mount.get("source")?.text()?, mount.get("target")?.text()?),
            };
            let target = target.split(':').next()?.trim_end_matches('/');
            let below = inside.strip_prefix(target).filter(|rest| rest.is_empty() || rest.starts_with('/'))?;
            source.starts_with('.').then(|| format!("{}{below}", source.trim_end_matches('/')))
        })
    });
    let built = context(value);
    let chosen = mounted
        .or_else(|| built.clone().filter(|path| !path.is_empty()))
        .or_else(|| inside.filter(|path| !path.starts_with('/')).map(str::to_owned));
    if let Some(path) =
        chosen.map(|path| path.trim_start_matches("./").to_owned()).filter(|path| !path.is_empty() && path != ".")
    {
        if project.folder.has_folder(&path) && !path.contains(['$', '\0']) {
            service.working_dir = Some(path);
        } else {
            service.note(format!("its folder `{path}` is not here"));
        }
    } else if let Some(inside) = inside {
        service.note(format!("working_dir `{inside}` is a folder of its container"));
    }
    if built.is_some() {
        service.note(
            "its image is not built: what its Dockerfile installs must be on this machine, and `build` can compile it",
        );
    }
}

fn wiring(project: &Project<'_>, value: &Value, service: &mut Service) {
    let Some(value) = value.get("depends_on") else { return };
    let listed = value.texts().into_iter().map(|name| (name, Condition::Started));
    let mapped = value.entries().iter().map(|(name, entry)| {
        let condition = match entry.get("condition").and_then(Value::text) {
            Some("service_healthy") => Condition::Healthy,
            Some("service_completed_successfully") => Condition::Completed,
            _ => Condition::Started,
        };
        (name.as_str(), condition)
    });
    for (name, condition) in listed.chain(mapped) {
        match project.peers.get(name).and_then(|peer| peer.name.clone()) {
            Some(name) => {
                service.depends_on.insert(name, condition);
            }
            None => service.note(format!("depends_on `{name}` was left out: Atoll does not start it")),
        }
    }
}

/// Takes over the files that the compiler accepts.
fn env_files(project: &Project<'_>, value: &Value, service: &mut Service) {
    let Some(value) = value.get("env_file") else { return };
    let long = value.items().iter().filter_map(|item| item.get("path")).filter_map(Value::text);
    for path in value.texts().into_iter().chain(long) {
        let shown = path.trim_start_matches("./");
        if path.contains(['$', '\0']) {
            service.note(format!("env_file `{path}` was left out: its path has a variable"));
            continue;
        }
        let Some(text) = project.folder.text(shown) else {
            service.note(format!("env_file `{path}` was left out: it is not here"));
            continue;
        };
        let manifest = "name = \"x\"\n[services.x]\ncommand = \"x\"\nenv_file = \"env\"\n";
        match mistakes(manifest, &[("env", &text)]).first() {
            None => service.env_file.push(shown.to_owned()),
            Some(mistake) => {
                let why = mistake.message.replace("env ", "it ");
                service.note(format!("env_file `{path}` was left out: {why}"));
            }
        }
    }
    service.env_file.dedup();
}

fn healthcheck(project: &Project<'_>, key: &str, value: &Value, service: &mut Service) {
    let Some(value) = value.get("healthcheck") else { return };
    let test = value.get("test").map(Value::texts).unwrap_or_default();
    let words: Vec<String> = match test.as_slice() {
        [] | ["NONE"] => return,
        ["CMD", words @ ..] => words.iter().map(|word| (*word).to_owned()).collect(),
        ["CMD-SHELL", line] | [line] => {
            match shlex::split(line).filter(|_| !line.contains(['|', '&', ';', '$', '>', '`'])) {
                Some(words) => words,
                None => vec!["sh".to_owned(), "-c".to_owned(), (*line).to_owned()],
            }
        }
        [..] => return service.note("its healthcheck has a form that is not known"),
    };
    // `curl … || exit 1` says no more than `curl …`.
    let line = test.last().map(|line| line.split("||").next().unwrap_or_default()).unwrap_or_default();
    let asked =
        shlex::split(line).filter(|_| words.first().is_some_and(|word| word == "sh")).unwrap_or_else(|| words.clone());
    let check = local_path(&asked).map(Check::Http).or_else(|| {
        let expanded: Vec<String> = words
            .iter()
            .map(|word| own_port(project, key, &project.interpolated(word, &["PORT", "HOST"], service)))
            .collect();
        words::join(&expanded).filter(|_| words::names_program(&expanded)).map(Check::Exec)
    });
    let time =
        |name: &str, min| value.get(name).and_then(Value::text).and_then(|text| times::duration(text, min, HOUR));
    let retries = value.get("retries").and_then(Value::text).and_then(|text| text.parse::<u32>().ok());
    service.readiness = check.map(|check| Readiness {
        check: Some(check),
        interval: time("interval", Duration::from_millis(10)),
        timeout: time("timeout", Duration::from_millis(1)),
        failure_threshold: retries.filter(|count| (1..=1000).contains(count)),
    });
}

/// The path that curl or wget asks this machine for.
fn local_path(words: &[String]) -> Option<String> {
    words.first().filter(|program| ["curl", "wget"].contains(&program.as_str()))?;
    let address = words.iter().find_map(|word| word.strip_prefix("http://"))?;
    let (host, path) = address.find('/').map_or((address, "/"), |at| address.split_at(at));
    let host = host.split(':').next()?;
    let plain = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-_".contains(&byte));
    let local = ["localhost", "127.0.0.1", "0.0.0.0"].contains(&host);
    (local && plain && !path.contains("//")).then(|| path.to_owned())
}

fn lifecycle(value: &Value, service: &mut Service) {
    let text = |key: &str| value.get(key).and_then(Value::text);
    let deploy = value.get("deploy").and_then(|deploy| deploy.get("replicas")).and_then(Value::text);
    if let Some(count) = deploy.or_else(|| text("scale")) {
        match count.parse::<u32>() {
            Ok(count) if count <= INSTANCES_MAX => service.replicas = Some(count),
            _ => service.note(format!("replicas `{count}` was left out: it is not a number up to {INSTANCES_MAX}")),
        }
    }
    service.restart = match text("restart").map(|text| text.split(':').next().unwrap_or(text)) {
        Some("no" | "false") => Some("no"),
        Some("on-failure") => Some("on-failure"),
        Some("always" | "unless-stopped") => Some("always"),
        _ => None,
    };
    if let Some(signal) = text("stop_signal") {
        let signal = if signal.starts_with("SIG") { signal.to_owned() } else { format!("SIG{signal}") };
        match SIGNALS.contains(&signal.as_str()) {
            true => service.stop_signal = Some(signal),
            false => service.note(format!("stop_signal `{signal}` is none that Atoll sends")),
        }
    }
    if let Some(period) = text("stop_grace_period") {
        service.stop_grace_period = times::duration(period, Duration::ZERO, HOUR);
        if service.stop_grace_period.is_none() {
            service.note(format!("stop_grace_period `{period}` was left out: it is no time up to an hour"));
        }
    }
}

/// Replaces a port of the container by the one that Atoll chooses.
fn own_port(project: &Project<'_>, key: &str, word: &str) -> String {
    for port in project.peers[key].ports.iter().map(u16::to_string) {
        let before = word.strip_suffix(port.as_str());
        if let Some(before) = before.filter(|before| before.is_empty() || before.ends_with([':', '='])) {
            return format!("{before}${{PORT}}");
        }
    }
    word.to_owned()
}

fn listening(
    project: &Project<'_>,
    key: &str,
    command: &mut [String],
    carried: &[(String, String)],
    service: &mut Service,
) {
    let peer = &project.peers[key];
    service.published = !peer.published.is_empty();
    for word in command.iter_mut() {
        *word = own_port(project, key, word).replace("0.0.0.0", "${HOST}");
    }
    let given = |text: &String| text.contains("${PORT}") || text.contains("$$PORT");
    let is_given = command.iter().any(given) || carried.iter().any(|(_, text)| given(text));
    match peer.ports.first() {
        None if service.readiness.is_none() => service.listens_nowhere(),
        Some(port) if !is_given => {
            service.note(format!("it must listen on $PORT (in its container it listened on {port})"));
        }
        _ => {}
    }
    if let Some((_, Some(outside))) = peer.published.first() {
        service.note(format!("was published on port {outside}: now it has a route of the gateway"));
    }
}

fn left_out(value: &Value, service: &mut Service) {
    let unknown = value.entries().iter().map(|(key, _)| key.as_str());
    let unknown: Vec<&str> = unknown.filter(|key| !KNOWN.contains(key) && !key.starts_with("x-")).collect();
    if !unknown.is_empty() {
        service.note(format!("not taken over: {}", unknown.join(", ")));
    }
    let mut seen = std::collections::BTreeSet::new();
    service.notes.retain(|note| seen.insert(note.clone()));
}
