//! The real nats-server, for what must work on it as well as on the broker within. `cargo xtask test` installs it.

use std::process::{Child, Command, Stdio};

use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{BOUND, tools};

/// A nats-server of its own, ended with the test.
pub struct Nats {
    child: Child,
    /// With user and password.
    pub url: String,
    _folder: tempfile::TempDir,
}

impl Nats {
    pub fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = format!(
            "port: -1\nports_file_dir: \"{0}\"\njetstream {{ store_dir: \"{0}\" }}\n\
             authorization {{ users: [{{ user: app, password: \"p%w\" }}] }}\n",
            folder.path().display()
        );
        let path = folder.path().join("nats.conf");
        std::fs::write(&path, config).unwrap();
        let mut command = Command::new(tools().join("python/bin/nats-server"));
        let child = command.arg("-c").arg(path).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let address = until_blocking("nats-server", BOUND, || {
            let ports: Value = serde_json::from_str(&std::fs::read_to_string(&ports).ok()?).ok()?;
            Some(ports["nats"][0].as_str()?.trim_start_matches("nats://").to_owned())
        });
        Self { child, url: format!("nats://app:p%25w@{address}"), _folder: folder }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
