//! Python projects: Django's `manage.py`, or an obvious `main.py` or `app.py` beside a list of requirements.

use super::Error;
use super::draft::{Draft, Service, valid_name};
use super::folder::Folder;

/// Adds the application in `path`, if there is one.
///
/// # Errors
/// When a file of it is there and cannot be read.
pub fn add(root: &Folder, path: &str, draft: &mut Draft) -> Result<(), Error> {
    let folder = root.below(path);
    let required = [folder.read("requirements.txt")?, folder.read("pyproject.toml")?];
    let is_project = required.iter().any(Option::is_some);
    let required: String = required.into_iter().flatten().collect::<Vec<_>>().join("\n").to_lowercase();
    let main = ["main.py", "app.py"].into_iter().find(|file| is_project && folder.has_file(file));
    let Some(file) = Some("manage.py").filter(|file| folder.has_file(file)).or(main) else { return Ok(()) };
    let text = folder.read(file)?.unwrap_or_default();
    let Some(name) = valid_name(&folder.name()).or_else(|| valid_name("web")) else { return Ok(()) };
    draft.sources.push(if path.is_empty() { file.to_owned() } else { format!("{path}/{file}") });
    let mut service = Service::new(&name);
    let python = [".venv/bin/python", "venv/bin/python"].into_iter().find(|file| folder.has_file(file));
    let python = python.unwrap_or("python3");
    service.command = Some(format!("{python} {}", arguments(&folder, file, &text, &required, &mut service)));
    service.working_dir = Some(path.to_owned()).filter(|path| !path.is_empty() && !path.contains('$'));
    service.published = true;
    if python == "python3" && !required.is_empty() {
        service
            .note("what it requires must be installed where `python3` finds it, or name the python of its environment");
    }
    draft.services.push(service);
    Ok(())
}

fn arguments(folder: &Folder, file: &str, text: &str, required: &str, service: &mut Service) -> String {
    let module = file.trim_end_matches(".py");
    if file == "manage.py" {
        let project = folder.files("*/wsgi.py").into_iter().next();
        let project = project.and_then(|path| path.split('/').next().map(str::to_owned));
        return match project.filter(|name| required.contains("gunicorn") && is_module(name)) {
            Some(project) => format!("-m gunicorn {project}.wsgi --bind ${{HOST}}:${{PORT}}"),
            None => {
                service.note("this is the server for development: `gunicorn` in the requirements is the one to keep");
                "manage.py runserver --noreload ${HOST}:${PORT}".to_owned()
            }
        };
    }
    for (class, server) in [
        ("FastAPI(", "-m uvicorn {} --host ${HOST} --port ${PORT}"),
        ("Starlette(", "-m uvicorn {} --host ${HOST} --port ${PORT}"),
        ("Flask(", "-m flask --app {} run --host ${HOST} --port ${PORT}"),
    ] {
        if let Some(variable) = assigned(text, class) {
            return server.replace("{}", &format!("{module}:{variable}"));
        }
    }
    service.note("it must listen on $PORT");
    file.to_owned()
}

/// The variable that holds what `class` makes, as in `app = FastAPI()`.
fn assigned<'t>(text: &'t str, class: &str) -> Option<&'t str> {
    text.lines().find_map(|line| {
        let (name, rest) = line.split_once('=')?;
        let made = rest.trim_start();
        let made = made.split_once('.').filter(|(before, _)| is_module(before)).map_or(made, |(_, class)| class);
        (made.starts_with(class) && is_module(name.trim())).then(|| name.trim())
    })
}

fn is_module(text: &str) -> bool {
    super::words::is_variable(text)
}
