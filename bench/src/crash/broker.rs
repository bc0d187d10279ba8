//! A broker as a process that is started on a folder, asked until it answers, and killed.

use std::fs::File;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::time::{sleep, timeout};

use super::client::Client;

/// How long a broker may take until it answers, and to end when it is asked.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often that is looked at.
const INTERVAL: Duration = Duration::from_millis(3);

/// What is started.
#[derive(Clone, Debug)]
pub(crate) enum Program {
    /// With segments of this size.
    Atoll(PathBuf, u64),
    Nats(PathBuf),
}

impl Program {
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Atoll(..) => "atoll",
            Self::Nats(_) => "nats-server",
        }
    }

    fn command(&self, folder: &Path, port: u16) -> Command {
        match self {
            Self::Atoll(program, segment_bytes) => {
                let mut command = Command::new(program);
                command.arg(port.to_string()).arg(folder).arg(segment_bytes.to_string());
                command
            }
            Self::Nats(program) => {
                let mut command = Command::new(program);
                command.args(["-js", "-a", "127.0.0.1", "-p", &port.to_string(), "-sd"]).arg(folder);
                command
            }
        }
    }
}

/// One that runs. Its drop kills it.
#[derive(Debug)]
pub(crate) struct Broker {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Broker {
    /// Starts it. It need not listen yet.
    pub(crate) fn start(program: &Program, folder: &Path, log: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let output = File::options().create(true).append(true).open(log)?;
        let mut command = program.command(folder, port);
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {}", program.name()))?;
        Ok(Self { child, address: ([127, 0, 0, 1], port).into() })
    }

    /// A client, once it answers calls of JetStream.
    pub(crate) async fn client(&mut self) -> Result<Client> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the broker ended with {status}");
            }
            if let Ok(client) = Client::connect(self.address).await
                && let Ok(Ok(answer)) = timeout(Duration::from_secs(2), client.call("INFO", &Value::Null)).await
                && answer.get("error").is_none()
            {
                return Ok(client);
            }
            if start.elapsed() > PATIENCE {
                bail!("the broker does not answer");
            }
            sleep(INTERVAL).await;
        }
    }

    /// As `kill -9`.
    pub(crate) fn kill(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits for it.
    pub(crate) async fn end(mut self) -> Result<()> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        kill_process(pid, Signal::TERM)?;
        let start = Instant::now();
        while self.child.try_wait()?.is_none() {
            if start.elapsed() > PATIENCE {
                bail!("the broker does not end");
            }
            sleep(INTERVAL).await;
        }
        Ok(())
    }
}
