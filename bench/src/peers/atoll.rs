//! Atoll as its users run it: a manifest and `atoll up -d`. The data plane is counted, the daemon shown beside it.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Command;

use super::{Setup, write};
use crate::usage;
use crate::work::{ANSWER, Logs, prefix};

/// What switches the access log off, in `[gateway]`. A version that does not know it is measured with its log on.
const ACCESS_LOG_OFF: &str = "access_log = false";
const ALWAYS_LOGS: &str = "its access log cannot be switched off";

/// How long a process that was killed may take to be gone.
const KILL_MAX: Duration = Duration::from_secs(5);

/// How many routes lead to how many instances: a service has at most 100, so many take several services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) routes: usize,
    pub(crate) services: usize,
    pub(crate) replicas: usize,
}

/// What `atoll up -d` has started; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Application {
    program: PathBuf,
    folder: PathBuf,
}

/// Also gives what cannot be set as for the others.
pub(super) async fn start(
    program: &Path,
    setup: &Setup<'_>,
    shape: Shape,
) -> Result<(Application, Option<&'static str>)> {
    let upstream = std::env::current_exe().context("cannot find this program")?;
    let upstream = upstream.to_str().context("this program's path is not UTF-8")?;
    // Order: dropped, it also ends what an interrupted `up` has begun.
    let application = Application { program: program.to_owned(), folder: setup.folder.to_owned() };
    let mut remark = None;
    match setup.logs {
        Logs::On => drop(write(setup, "atoll.toml", &manifest(setup, shape, upstream, "")?)?),
        Logs::Off => {
            write(setup, "atoll.toml", &manifest(setup, shape, upstream, ACCESS_LOG_OFF)?)?;
            if application.run(&["check"]).await.is_err() {
                remark = Some(ALWAYS_LOGS);
                write(setup, "atoll.toml", &manifest(setup, shape, upstream, "")?)?;
            }
        }
    }
    application.run(&["up", "-d", "--wait"]).await?;
    Ok((application, remark))
}

fn manifest(setup: &Setup<'_>, shape: Shape, upstream: &str, gateway: &str) -> Result<String> {
    let command = shlex::try_quote(upstream).context("this program's path cannot be quoted")?;
    let command = toml::Value::from(format!("{command} upstream").replace('$', "$$"));
    let mut text = format!("name = \"bench\"\n\n[gateway]\nlisten = \"{}\"\n{gateway}\n", setup.address);
    let backends: Vec<String> = (0..shape.services).map(|service| format!("{{ service = \"up{service}\" }}")).collect();
    let backends = backends.join(", ");
    for route in 0..shape.routes {
        let prefix = prefix(route);
        write!(
            text,
            "\n[[routes]]\nname = \"r{route}\"\nmatches = [{{ path = {{ prefix = \"{prefix}\" }} }}]\n\
             timeout = \"{ANSWER}s\"\nbackends = [{backends}]\n"
        )?;
    }
    for service in 0..shape.services {
        write!(
            text,
            "\n[services.up{service}]\ncommand = {command}\nreplicas = {}\n\
             probes = {{ readiness = {{ tcp = true, interval = \"2s\" }} }}\n",
            shape.replicas
        )?;
    }
    Ok(text)
}

impl Application {
    /// Runs a manifest in a folder of its own and waits until all of it is ready.
    pub(crate) async fn up(program: &Path, folder: &Path, manifest: &str) -> Result<Self> {
        let file = folder.join("atoll.toml");
        std::fs::write(&file, manifest).with_context(|| format!("cannot write {}", file.display()))?;
        let application = Self { program: program.to_owned(), folder: folder.to_owned() };
        application.run(&["up", "-d", "--wait"]).await?;
        Ok(application)
    }

    async fn run(&self, arguments: &[&str]) -> Result<()> {
        self.output(arguments).await.map(drop)
    }

    /// What a command of Atoll's says.
    pub(crate) async fn output(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.program);
        command.args(arguments).current_dir(&self.folder).env_remove("ATOLL_FILE").stdin(Stdio::null());
        let output = command.kill_on_drop(true).output().await.context("cannot run atoll")?;
        if !output.status.success() {
            let words = arguments.join(" ");
            bail!("`atoll {words}` ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Of the data plane, and of the daemon: both have a file of this application among their arguments.
    pub(crate) fn pids(&self) -> Result<(Vec<u32>, Vec<u32>)> {
        let (planes, daemons) = (self.find("proxy"), self.find("daemon"));
        match (planes.len(), daemons.len()) {
            (1, 1) => Ok((planes, daemons)),
            (planes, daemons) => bail!("Atoll has {planes} data planes and {daemons} daemons"),
        }
    }

    /// Of this application, by the word behind the program's name.
    pub(crate) fn find(&self, command: &str) -> Vec<u32> {
        let has_command = |words: &[String]| words.get(1).is_some_and(|word| word == command);
        usage::find(|words| has_command(words) && self.is_named(words))
    }

    fn is_named(&self, words: &[String]) -> bool {
        words.iter().any(|word| Path::new(word).starts_with(&self.folder))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let mut command = std::process::Command::new(&self.program);
        command.arg("down").current_dir(&self.folder).env_remove("ATOLL_FILE");
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
        // What has survived that is a mistake of the product, but must not be left behind.
        let start = Instant::now();
        loop {
            let left = usage::find(|words| self.is_named(words));
            if left.is_empty() || start.elapsed() > KILL_MAX {
                return;
            }
            for pid in left.into_iter().filter_map(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                eprintln!("bench: process {} has survived `atoll down`", pid.as_raw_nonzero());
                let _ = kill_process(pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manifest_has_every_route_and_service() {
        let address = "127.0.0.1:7000".parse().unwrap();
        let folder = Path::new("folder");
        let setup = Setup { folder, address, upstreams: &[], routes: 3, logs: Logs::Off };
        let shape = Shape { routes: 3, services: 2, replicas: 100 };
        let text = manifest(&setup, shape, "/a folder/$x/bench", ACCESS_LOG_OFF).unwrap();
        let parsed: toml::Table = text.parse().unwrap();
        assert_eq!(parsed["gateway"]["listen"].as_str(), Some("127.0.0.1:7000"));
        assert_eq!(parsed["gateway"]["access_log"].as_bool(), Some(false));
        let routes = parsed["routes"].as_array().unwrap();
        assert_eq!((routes.len(), routes[2]["backends"].as_array().unwrap().len()), (3, 2));
        let service = &parsed["services"]["up1"];
        assert_eq!(service["replicas"].as_integer(), Some(100));
        assert_eq!(service["command"].as_str(), Some("'/a folder/$$x/bench' upstream"));
    }
}
