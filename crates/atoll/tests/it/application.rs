//! An application in a folder of its own, driven through the binary, and brought down when the test ends.

use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
pub const BOUND: Duration = Duration::from_secs(60);

/// A service that answers every path with its instance, its headers and its body, in the standard library of Python.
pub const ECHO: &str = include_str!("echo.py");

/// Two services of that kind, one behind the other.
pub const FRONT_AND_BACK: &str = r#"
[[routes]]
name = "front"
matches = [{ path = { prefix = "/" } }]
backends = [{ service = "front" }]

[services.front]
command = "python3 echo.py"
upstreams = ["back"]
depends_on = { back = "healthy" }
environment = { GREETING = "hello" }

[services.back]
command = "python3 echo.py"
"#;

pub struct Application {
    folder: TempDir,
    /// What `{GATEWAY}` in the manifest stands for.
    pub gateway: u16,
    _reserved: UnixListener,
}

/// How a command ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

impl Ended {
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {}\n{}", self.stdout, self.stderr))
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code(), 0, "stdout: {}\nstderr: {}", self.stdout, self.stderr);
        self
    }
}

impl Application {
    /// Writes the files, `atoll.toml` among them, into a new folder.
    pub fn new(files: &[(&str, &str)]) -> Self {
        let (gateway, reserved) = free_port();
        let application = Self { folder: tempfile::tempdir().unwrap(), gateway, _reserved: reserved };
        application.write("echo.py", ECHO);
        for (name, text) in files {
            application.write(name, text);
        }
        application
    }

    /// An application whose manifest begins with a name and a gateway on a free port.
    pub fn with_manifest(manifest: &str) -> Self {
        let head =
            "name = \"test\"\n[dashboard]\nlisten = \"127.0.0.1:0\"\n[gateway]\nlisten = \"127.0.0.1:{GATEWAY}\"\n";
        Self::new(&[("atoll.toml", &format!("{head}{manifest}"))])
    }

    pub fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text.replace("{GATEWAY}", &self.gateway.to_string())).unwrap();
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        command(self.folder.path(), arguments)
    }

    pub fn atoll(&self, arguments: &[&str]) -> Ended {
        ended(self.command(arguments).output().unwrap())
    }

    /// `atoll up` in the background; returns when all is ready.
    #[track_caller]
    pub fn up(&self) {
        self.atoll(&["up", "-d", "--wait", "--wait-timeout", "60"]).succeeded();
    }

    /// `atoll up` in the foreground.
    pub fn attached(&self) -> Child {
        self.command(&["up"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    pub fn instances(&self) -> Vec<Value> {
        self.atoll(&["ps", "-o", "json"]).json().as_array().unwrap().clone()
    }

    pub fn pid(&self, service: &str, instance: u64) -> i32 {
        let instances = self.instances();
        let found = instances.iter().find(|i| i["service"] == service && i["instance"] == instance);
        i32::try_from(found.unwrap()["pid"].as_i64().unwrap()).unwrap()
    }

    /// The pid of an instance that has one at this moment.
    pub fn pid_now(&self, service: &str, instance: u64) -> Option<i32> {
        let instances = self.instances();
        let found = instances.iter().find(|i| i["service"] == service && i["instance"] == instance)?;
        i32::try_from(found["pid"].as_i64()?).ok()
    }

    pub fn daemon_pid(&self) -> i32 {
        let text = std::fs::read_to_string(self.path(".atoll/run/lock")).unwrap();
        text.trim().parse().unwrap()
    }

    /// Ends the daemon and nothing else, without a word.
    pub fn kill_daemon(&self) {
        let daemon = self.daemon_pid();
        signal(daemon, rustix::process::Signal::KILL);
        testkit::wait::until_blocking("the daemon's end", BOUND, || (!is_running(daemon)).then_some(()));
    }

    /// A request through the gateway: status and body.
    pub fn get(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.request(&["-X", "GET"], path);
        (status, body)
    }

    /// A request by curl: status, head and body.
    pub fn request(&self, arguments: &[&str], path: &str) -> (u16, String, String) {
        curl(arguments, &format!("http://127.0.0.1:{}{path}", self.gateway))
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        let down = self.atoll(&["down"]);
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.path(".atoll/logs/daemon.log")).unwrap_or_default();
            eprintln!("down: {} {}\ndaemon.log:\n{log}", down.code(), down.stderr);
        }
    }
}

/// The binary under test in a folder, without what the environment of the test would change.
pub fn command(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    command.args(arguments).current_dir(folder).env_remove("ATOLL_FILE").env("NO_COLOR", "1").stdin(Stdio::null());
    command
}

pub fn ended(output: Output) -> Ended {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ended { status: output.status, stdout: text(output.stdout), stderr: text(output.stderr) }
}

pub fn wait(child: &mut Child) -> Ended {
    let status = child.wait().unwrap();
    let read = |stream: Option<&mut dyn Read>| {
        let mut text = String::new();
        stream.unwrap().read_to_string(&mut text).unwrap();
        text
    };
    let stdout = read(child.stdout.as_mut().map(|stream| stream as &mut dyn Read));
    let stderr = read(child.stderr.as_mut().map(|stream| stream as &mut dyn Read));
    Ended { status, stdout, stderr }
}

pub fn curl(arguments: &[&str], url: &str) -> (u16, String, String) {
    let output = Command::new("curl").args(["-s", "-i", "-m", "30", "--path-as-is"]).args(arguments).arg(url).output();
    let text = String::from_utf8_lossy(&output.unwrap().stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, head.to_lowercase(), body.to_owned())
}

/// A port below the ephemeral range that no other test takes while the reservation is held: its name is an abstract
/// socket, which goes with this process however that ends.
pub fn free_port() -> (u16, UnixListener) {
    let reserve = |port: u16| {
        TcpListener::bind(("127.0.0.1", port)).ok()?;
        let name = SocketAddr::from_abstract_name(format!("atoll-test-port-{port}")).ok()?;
        Some((port, UnixListener::bind_addr(&name).ok()?))
    };
    std::iter::repeat_with(|| fastrand::u16(30_000..31_000)).take(1000).find_map(reserve).unwrap()
}

/// Whether a process of that id runs; a zombie does not.
pub fn is_running(pid: i32) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

pub fn signal(pid: i32, signal: rustix::process::Signal) {
    rustix::process::kill_process(rustix::process::Pid::from_raw(pid).unwrap(), signal).unwrap();
}

/// Where `cargo xtask setup` puts packages from npm: beside the profile's folder in the target folder.
pub fn tools() -> PathBuf {
    Path::new(env!("CARGO_BIN_EXE_atoll")).ancestors().nth(2).unwrap().join("test-tools")
}
