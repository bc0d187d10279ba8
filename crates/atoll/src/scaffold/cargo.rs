//! Rust projects: the binaries of a package and of the members of a workspace.

use toml::{Table, Value};

use super::draft::{Draft, Service, valid_name};
use super::folder::Folder;
use super::{Error, words};

const FILE: &str = "Cargo.toml";
/// Limit: patterns of a workspace that are followed.
const PATTERNS_MAX: usize = 50;

/// Adds a service for each binary of the package in `path` and of its workspace.
///
/// # Errors
/// When its `Cargo.toml` is no TOML.
pub fn add(root: &Folder, path: &str, draft: &mut Draft) -> Result<(), Error> {
    let folder = root.below(path);
    let Some(manifest) = read(&folder, path)? else { return Ok(()) };
    draft.sources.push(join(path, FILE));
    let strings = |key: &str| -> Vec<String> {
        let list = manifest.get("workspace").and_then(|workspace| workspace.get(key)).and_then(Value::as_array);
        list.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    let excluded = strings("exclude");
    let before = draft.services.len();
    package(&folder, path, &manifest, draft);
    let members = strings("members");
    for member in members.iter().take(PATTERNS_MAX).flat_map(|pattern| folder.folders(pattern)) {
        // A task runner is no service.
        if excluded.contains(&member) || member == "xtask" {
            continue;
        }
        match read(&folder.below(&member), &join(path, &member)) {
            Ok(Some(manifest)) => package(&folder.below(&member), path, &manifest, draft),
            Ok(None) => {}
            Err(_) => draft.note(format!("{} was left out: it is no TOML", join(&join(path, &member), FILE))),
        }
    }
    if path.is_empty() && members.is_empty() {
        let name = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str);
        draft.name = draft.name.take().or_else(|| name.map(str::to_owned));
    }
    if draft.services.len() > before + 1 {
        draft.note("each binary became a service: take out those that are tools");
    }
    Ok(())
}

fn read(folder: &Folder, path: &str) -> Result<Option<Table>, Error> {
    let Some(text) = folder.read(FILE)? else { return Ok(None) };
    let parsed = text.trim_start_matches('\u{feff}').parse::<Table>();
    parsed.map(Some).map_err(|error| Error::Form { file: join(path, FILE), why: error.message().to_owned() })
}

/// Adds the binaries of one package; cargo runs, and its target folder lies, in `workspace`.
fn package(folder: &Folder, workspace: &str, manifest: &Table, draft: &mut Draft) {
    let Some(package) = manifest.get("package").and_then(|package| package.get("name")).and_then(Value::as_str) else {
        return;
    };
    let written = manifest.get("bin").and_then(Value::as_array).into_iter().flatten();
    let mut names: Vec<String> = written.filter_map(|bin| Some(bin.get("name")?.as_str()?.to_owned())).collect();
    if folder.has_file("src/main.rs") && names.is_empty() {
        names.push(package.to_owned());
    }
    names.extend(
        folder
            .files("src/bin/*.rs")
            .iter()
            .filter_map(|path| Some(path.strip_prefix("src/bin/")?.strip_suffix(".rs")?.to_owned())),
    );
    names.sort();
    names.dedup();
    for binary in names {
        let plain =
            |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
        let (Some(name), true) = (valid_name(&binary), plain(&binary) && plain(package)) else { continue };
        let mut service = Service::new(&name);
        let build = ["cargo", "build", "--package", package, "--bin", &binary].map(str::to_owned);
        service.build = words::join(&build);
        service.command = Some(format!("${{CARGO_TARGET_DIR:-target}}/debug/{binary}"));
        service.working_dir = Some(workspace.to_owned()).filter(|path| !path.is_empty() && !path.contains('$'));
        service.published = true;
        service.note("it must listen on $PORT");
        draft.services.push(service);
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") }
}
