//! Node projects: `package.json` with a `start` or `dev` script, and the packages of a workspace.

use serde_json::Value;

use super::draft::{Draft, Service, valid_name};
use super::folder::Folder;
use super::{Error, yaml};

const FILE: &str = "package.json";
/// Limit: patterns of a workspace that are followed.
const PATTERNS_MAX: usize = 50;
/// Servers for development that take their address only as arguments.
const ARGUMENTS: [(&str, &str); 4] = [
    ("vite", "--host ${HOST} --port ${PORT} --strictPort"),
    ("astro", "--host ${HOST} --port ${PORT}"),
    ("ng", "--host ${HOST} --port ${PORT}"),
    ("http-server", "-a ${HOST} -p ${PORT}"),
];

/// Adds the services of the package in `path` and of its workspace.
///
/// # Errors
/// When its `package.json` is no JSON.
pub fn add(root: &Folder, path: &str, draft: &mut Draft) -> Result<(), Error> {
    let folder = root.below(path);
    let Some(package) = read(&folder, path)? else { return Ok(()) };
    draft.sources.push(join(path, FILE));
    let patterns = workspaces(&folder, &package);
    let before = draft.services.len();
    let runner = runner(root, &folder);
    draft.services.extend(service(&folder, path, &package, runner));
    for member in patterns.iter().take(PATTERNS_MAX).flat_map(|pattern| folder.folders(pattern)) {
        let below = folder.below(&member);
        let inside = join(path, &member);
        // What is broken in one member is said where it is: the others are services all the same.
        match read(&below, &inside) {
            Ok(Some(package)) => draft.services.extend(service(&below, &inside, &package, runner)),
            Ok(None) => {}
            Err(_) => draft.note(format!("{} was left out: it is no JSON", join(&inside, FILE))),
        }
    }
    if path.is_empty() && patterns.is_empty() {
        draft.name = draft.name.take().or_else(|| name(&package));
    }
    if draft.services.len() > before && !folder.has_folder("node_modules") {
        draft.note(format!("run `{runner} install` before `atoll up`"));
    }
    Ok(())
}

fn read(folder: &Folder, path: &str) -> Result<Option<Value>, Error> {
    let Some(text) = folder.read(FILE)? else { return Ok(None) };
    let parsed = serde_json::from_str(text.trim_start_matches('\u{feff}'));
    parsed.map(Some).map_err(|error| Error::Form { file: join(path, FILE), why: error.to_string() })
}

/// A name without its scope.
fn name(package: &Value) -> Option<String> {
    Some(package["name"].as_str()?.rsplit('/').next()?.to_owned())
}

fn workspaces(folder: &Folder, package: &Value) -> Vec<String> {
    let list = package["workspaces"].as_array().or_else(|| package["workspaces"]["packages"].as_array());
    let listed = list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned);
    let pnpm = folder.text("pnpm-workspace.yaml").and_then(|text| yaml::parse(&text).ok());
    let pnpm: Vec<String> = pnpm
        .iter()
        .filter_map(|root| root.get("packages"))
        .flat_map(|packages| packages.texts())
        .map(str::to_owned)
        .collect();
    listed.chain(pnpm).filter(|pattern| !pattern.starts_with('!')).collect()
}

/// The program that runs scripts here, by the lock file that lies beside.
fn runner(root: &Folder, folder: &Folder) -> &'static str {
    let locks = [("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn"), ("bun.lock", "bun"), ("bun.lockb", "bun")];
    let found = locks.iter().find(|(lock, _)| folder.has_file(lock) || root.has_file(lock));
    found.map_or("npm", |(_, program)| program)
}

fn service(folder: &Folder, path: &str, package: &Value, runner: &str) -> Option<Service> {
    let name = name(package).and_then(|name| valid_name(&name)).or_else(|| valid_name(&folder.name()))?;
    let mut service = Service::new(&name);
    let script = |name: &'static str| package["scripts"][name].as_str().map(|text| (name, text));
    service.command = match script("start").or_else(|| script("dev")) {
        Some((name, text)) => {
            let arguments = text.split_whitespace().find_map(|word| ARGUMENTS.iter().find(|(tool, _)| *tool == word));
            if arguments.is_none() {
                service.note(format!("`{name}` must start something that listens on $PORT"));
            }
            let dashes = if runner == "npm" { "-- " } else { "" };
            let arguments = arguments.map(|(_, arguments)| format!(" {dashes}{arguments}")).unwrap_or_default();
            Some(format!("{runner} run {name}{arguments}"))
        }
        None => ["server.js", "index.js"]
            .into_iter()
            .find(|file| folder.has_file(file) && package["workspaces"].is_null())
            .map(|file| {
                service.note("it must listen on $PORT");
                format!("node {file}")
            }),
    };
    service.command.as_ref()?;
    service.working_dir = Some(path.to_owned()).filter(|path| !path.is_empty() && !path.contains('$'));
    service.published = true;
    Some(service)
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}
