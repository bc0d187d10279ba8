//! Compose files: what of their services Atoll can run, and a note for everything else. The format is that of the
//! Compose specification; containers become programs, and names of containers become upstreams.

mod engines;
mod links;
mod service;
mod times;

use std::collections::BTreeMap;

use super::draft::{self, Draft, valid_name};
use super::folder::Folder;
use super::yaml::{self, Value};
use super::{Error, words};

const FILES: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yml", "docker-compose.yaml"];
/// Limit: services of a file that are looked at.
const SERVICES_MAX: usize = 300;

/// What all services of a file must know of each other.
struct Project<'a> {
    folder: &'a Folder,
    /// Variables of `.env` beside the file: both Compose and Atoll read it.
    variables: BTreeMap<String, String>,
    /// By the name in the file.
    peers: BTreeMap<&'a str, Peer>,
}

/// A service of the file as others see it.
struct Peer {
    /// Its name in the manifest; `None` where Atoll does not start it.
    name: Option<String>,
    /// Ports that it is said to listen on in its container.
    ports: Vec<u16>,
    /// Port in the container to port of the machine.
    published: Vec<(u16, Option<u16>)>,
}

/// Makes a draft from the folder's Compose file; `None` where there is none.
///
/// # Errors
/// When there is one and it is no Compose file.
pub fn draft(folder: &Folder) -> Result<Option<Draft>, Error> {
    let Some(file) = FILES.iter().find(|name| folder.has_file(name)).map(|name| (*name).to_owned()) else {
        return Ok(None);
    };
    let text = folder.read(&file)?.unwrap_or_default();
    let root = yaml::parse(&text).map_err(|source| Error::Yaml { file: file.clone(), source })?;
    let services = match root.get("services") {
        Some(services @ Value::Map(entries)) if !entries.is_empty() => services.entries(),
        _ => return Err(Error::Form { file, why: "it has no `services`".to_owned() }),
    };
    let services = &services[..services.len().min(SERVICES_MAX)];
    let variables = folder.text(".env").map(|text| manifest::dotenv(&text)).unwrap_or_default();
    let mut project = Project { folder, variables, peers: BTreeMap::new() };
    for (key, value) in services {
        project.peers.insert(key, peer(folder, key, value));
    }
    project.find_ports(services);
    let mut draft = Draft {
        name: root.get("name").and_then(Value::text).map(str::to_owned),
        sources: vec![file],
        ..Draft::default()
    };
    for (key, value) in services {
        draft.services.push(service::take_over(&project, key, value));
    }
    if root.get("include").is_some() {
        draft.note("`include` of the Compose file was not followed");
    }
    let outside: Vec<&str> =
        ["networks", "volumes", "configs", "secrets"].into_iter().filter(|key| root.get(key).is_some()).collect();
    if !outside.is_empty() {
        let said = "programs share this machine's files, and call only their `upstreams`";
        draft.note(format!("{} of the Compose file have no counterpart: {said}", outside.join(", ")));
    }
    Ok(Some(draft))
}

fn peer(folder: &Folder, key: &str, value: &Value) -> Peer {
    let started = engines::of(value).is_none() && service::command_words(folder, value).is_some();
    let mut published = Vec::new();
    for port in value.get("ports").map(Value::items).unwrap_or_default() {
        published.extend(times::port(port));
    }
    let mut ports: Vec<u16> = published.iter().map(|(inside, _)| *inside).collect();
    ports
        .extend(value.get("expose").iter().flat_map(|value| value.texts()).filter_map(|text| text.parse::<u16>().ok()));
    let port = service::variables(value).into_iter().find(|(name, _)| *name == "PORT").and_then(|(_, text)| text);
    ports.extend(port.and_then(|text| text.parse::<u16>().ok()));
    Peer { name: started.then(|| valid_name(key)).flatten(), ports, published }
}

impl Project<'_> {
    /// Ports under which the services call each other.
    fn find_ports(&mut self, services: &[(String, std::rc::Rc<Value>)]) {
        let mut found: Vec<(String, u16)> = Vec::new();
        for (_, value) in services {
            let texts = service::variables(value).into_iter().filter_map(|(_, text)| text);
            for text in texts {
                for link in links::find(text, |name| self.peers.contains_key(name)) {
                    found.extend(link.port.map(|port| (link.name.to_owned(), port)));
                }
            }
        }
        for (name, port) in found {
            self.peers.get_mut(name.as_str()).into_iter().for_each(|peer| peer.ports.push(port));
        }
    }

    /// A text of the Compose file with its variables as Atoll expands them: what is not in `.env` and has no default is
    /// empty, as with Compose. What else Compose can do with a variable is noted.
    fn interpolated(&self, text: &str, keep: &[&str], service: &mut draft::Service) -> String {
        words::references(text, |reference| {
            let Some((name, rest)) = reference else { return "$$".to_owned() };
            let default = rest.strip_prefix(":-").or_else(|| rest.strip_prefix('-'));
            let known = self.variables.get(name).is_some_and(|value| !value.is_empty());
            if keep.contains(&name) || known && !rest.starts_with([':', '+']) {
                return format!("${{{name}}}");
            }
            match default {
                Some(default) if !default.contains(['{', '}', '$', '\0']) => format!("${{{name}:-{default}}}"),
                _ if rest.is_empty() && words::is_variable(name) => {
                    service.note(format!(
                        "{name} is not set in .env: empty, unless `atoll up` finds it in its environment"
                    ));
                    format!("${{{name}:-}}")
                }
                _ if words::is_variable(name) => {
                    service.note(format!(
                        "`${{{name}{rest}}}` became `${{{name}:-}}`: only `:-` with a plain default is known"
                    ));
                    format!("${{{name}:-}}")
                }
                _ => "$$".to_owned(),
            }
        })
    }
}
