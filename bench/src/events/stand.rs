//! The application that events go through: its manifest, its processes, its instances' ports, and what is done to them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::verify::Deed;
use crate::client::{Connection, get, with_body};
use crate::peers::Application;

/// How often a state is looked at that is waited for.
pub(crate) const INTERVAL: Duration = Duration::from_millis(50);
/// How long Atoll may take until a command has ended.
const COMMAND_MAX: Duration = Duration::from_secs(60);

/// One that runs; dropped, it ends.
#[derive(Debug)]
pub(crate) struct Stand {
    pub(crate) application: Application,
    pub(crate) folder: PathBuf,
}

impl Stand {
    pub(crate) async fn open(program: &Path, folder: &Path, manifest: &str) -> Result<Self> {
        std::fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let application = Application::up(program, folder, manifest).await?;
        Ok(Self { application, folder: folder.to_owned() })
    }

    /// Runs a command of Atoll's to its end.
    pub(crate) async fn atoll(&self, arguments: &[&str]) -> Result<String> {
        let output = timeout(COMMAND_MAX, self.application.output(arguments)).await;
        output.with_context(|| format!("`atoll {}` does not end", arguments.join(" ")))?
    }

    pub(crate) async fn json(&self, arguments: &[&str]) -> Result<Value> {
        let text = self.atoll(&[arguments, &["-o", "json"]].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("`atoll {}` gave no JSON", arguments.join(" ")))
    }

    /// A connection to an instance of a service, past the data plane.
    pub(crate) async fn connect(&self, service: &str) -> Result<Connection> {
        let instances = self.json(&["ps"]).await?;
        let instance = instances.as_array().into_iter().flatten().find(|one| one["service"] == service);
        let port = instance.and_then(|one| u16::try_from(one["port"].as_u64()?).ok());
        let port = port.with_context(|| format!("{service} has no instance"))?;
        let local = std::net::Ipv4Addr::LOCALHOST;
        Connection::open((local, port).into(), local.into()).await
    }

    /// Asks an instance of a service.
    pub(crate) async fn ask(&self, service: &str, path: &str, body: Option<&Value>) -> Result<Value> {
        let mut connection = self.connect(service).await?;
        let host = (std::net::Ipv4Addr::LOCALHOST, 80).into();
        let request = match body {
            None => get(host, path),
            Some(body) => with_body("POST", host, path, body.to_string().as_bytes()),
        };
        let answer = connection.exchange(&request).await?;
        let text = String::from_utf8_lossy(answer.body);
        ensure!(answer.status == 200, "{service} answered {}: {text}", answer.status);
        serde_json::from_str(&text).with_context(|| format!("{service} answered no JSON: {text}"))
    }

    /// The subscription, as `atoll topics` tells of it.
    pub(crate) async fn subscription(&self, name: &str) -> Result<Value> {
        let topics = self.json(&["topics"]).await?;
        let lists = topics.as_array().into_iter().flatten().filter_map(|topic| topic["subscriptions"].as_array());
        let found = lists.flatten().find(|subscription| subscription["name"] == name);
        found.cloned().with_context(|| format!("there is no subscription {name}"))
    }

    /// As `kill -9` of a process of this application; gives which.
    pub(crate) fn kill(&self, word: &str) -> Result<Option<u32>> {
        let pids = self.application.find(word);
        if pids.is_empty() {
            return Ok(None);
        }
        let pid = pids[fastrand::usize(..pids.len())];
        let target = i32::try_from(pid).ok().and_then(Pid::from_raw).context("no process")?;
        match kill_process(target, Signal::KILL) {
            Ok(()) => Ok(Some(pid)),
            Err(rustix::io::Errno::SRCH) => Ok(None),
            Err(error) => bail!("cannot kill process {pid}: {error}"),
        }
    }

    /// Kills the daemon, and starts another one after a while. Gives what was done.
    pub(crate) async fn kill_daemon(&self, pause: Duration) -> Result<Option<Deed>> {
        let killed = self.kill("daemon")?;
        sleep(pause).await;
        self.atoll(&["up", "-d"]).await?;
        Ok(killed.map(|_| Deed::Daemon))
    }

    /// Waits for something.
    pub(crate) async fn until<F: Future<Output = Result<bool>>>(
        what: &str,
        most: Duration,
        mut holds: impl FnMut() -> F,
    ) -> Result<()> {
        let start = Instant::now();
        while !holds().await? {
            ensure!(start.elapsed() < most, "waited for {} s in vain until {what}", most.as_secs());
            sleep(INTERVAL).await;
        }
        Ok(())
    }
}

/// This program with a hidden command, as a manifest has it.
pub(crate) fn command(words: &[&str]) -> Result<String> {
    let program = std::env::current_exe().context("cannot find this program")?;
    let program = program.to_str().context("this program's path is not UTF-8")?;
    let words = [&[program], words].concat();
    let text = shlex::try_join(words.iter().copied()).context("this program's path cannot be quoted")?;
    Ok(toml::Value::from(text.replace('$', "$$")).to_string())
}
