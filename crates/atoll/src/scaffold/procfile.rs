//! Procfiles: one process a line, run by a shell where the line needs one.

use super::draft::{Draft, Service, valid_name};
use super::folder::Folder;
use super::{Error, words};

const FILE: &str = "Procfile";

/// Makes a draft from the folder's Procfile; `None` where there is none.
///
/// # Errors
/// When there is one and it has no process.
pub fn draft(folder: &Folder) -> Result<Option<Draft>, Error> {
    let Some(text) = folder.read(FILE)? else { return Ok(None) };
    let mut draft = Draft { sources: vec![FILE.to_owned()], ..Draft::default() };
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let Some((key, command)) = line.split_once(':') else { continue };
        let (key, command) = (key.trim(), command.trim());
        let Some(name) = valid_name(key) else {
            draft.note(format!("`{key}` of the Procfile was left out: it cannot name a service"));
            continue;
        };
        let mut service = Service::new(&name);
        if key == "release" {
            service.note(format!("runs once at a release, which Atoll does not do: run `{command}` yourself"));
        } else {
            service.command = words::from_shell(command).filter(|command| !command.contains('\0'));
            service.published = key == "web";
            let listens = command.contains("PORT");
            match (&service.command, key) {
                (None, _) => service.note("its command cannot be read"),
                (Some(_), "web") if !listens => service.note("it must listen on $PORT"),
                (Some(_), "web") => {}
                (Some(_), _) if !listens => service.listens_nowhere(),
                _ => {}
            }
        }
        draft.services.push(service);
    }
    if draft.services.is_empty() {
        return Err(Error::Form { file: FILE.to_owned(), why: "it has no line `name: command`".to_owned() });
    }
    Ok(Some(draft))
}
