//! nats-server and the broker, both with the same users, certificate and streams on disk, on ports of their own. Dropping
//! them ends them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use broker::{Config, Credential, JetStream, JetStreamLimits, Permissions, Sync, Tls, User};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{BOUND, Running, config, rules, start};

/// What `cargo xtask setup` has installed, beside the folders of the profiles.
pub(crate) fn tools() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.ancestors().nth(3).unwrap().join("test-tools")
}

/// The real thing.
pub(crate) struct NatsServer {
    pub(crate) address: SocketAddr,
    child: Child,
    _folder: TempDir,
}

impl NatsServer {
    /// With lines of its configuration file; `FOLDER` in them is one of its own.
    pub(crate) async fn start(lines: &str) -> Self {
        let program = tools().join("python/bin/nats-server");
        assert!(program.is_file(), "`cargo xtask setup` installs {}", program.display());
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().display().to_string();
        let file = folder.path().join("nats.conf");
        let text =
            format!("listen: \"127.0.0.1:-1\"\nports_file_dir: \"{path}\"\n{}\n", lines.replace("FOLDER", &path));
        std::fs::write(&file, text).unwrap();
        let mut command = Command::new(program);
        command.arg("-c").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        let ports = folder.path().join(format!("nats-server_{}.ports", child.id()));
        let address = testkit::wait::until("nats-server", BOUND, || async { read_address(&ports) }).await;
        Self { address, child, _folder: folder }
    }
}

/// The file may be half written.
fn read_address(ports: &Path) -> Option<SocketAddr> {
    let ports: Value = serde_json::from_str(&std::fs::read_to_string(ports).ok()?).ok()?;
    let (_scheme, address) = ports["nats"][0].as_str()?.split_once("://")?;
    address.parse().ok()
}

impl Drop for NatsServer {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// One server of each kind, and what clients are told of them.
pub(super) struct Servers {
    /// URLs by the names `plain` (streams, no users), `users`, `token` and `tls`, and what proves who one is.
    pub(super) given: Value,
    _nats: Vec<NatsServer>,
    _ours: Vec<Running>,
    _folder: TempDir,
}

/// What both kinds of servers share.
struct Secrets {
    folder: TempDir,
    pair: nkeys::KeyPair,
    stranger: nkeys::KeyPair,
}

impl Secrets {
    fn make() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
        let made = rcgen::generate_simple_self_signed(names).unwrap();
        std::fs::write(folder.path().join("certificate.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        Self { folder, pair: nkeys::KeyPair::new_user(), stranger: nkeys::KeyPair::new_user() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn given(&self, addresses: [SocketAddr; 4]) -> Value {
        let [plain, users, token, tls] = addresses.map(|address| format!("nats://{address}"));
        json!({
            "plain": plain, "users": users, "token": token, "tls": tls, "ca": self.path("certificate.pem"),
            "seed": self.pair.seed().unwrap(), "stranger": self.stranger.seed().unwrap(),
        })
    }
}

const PUBLISHES: &[&str] = &["events.out", "proof"];
const SUBSCRIBES: &[&str] = &["events.in", "proof", "_INBOX.>"];

impl Servers {
    pub(super) async fn nats() -> Self {
        let secrets = Secrets::make();
        let users = format!(
            "authorization {{ users = [
               {{ user: cart, password: cart, permissions: {{ publish: {PUBLISHES:?}, subscribe: {SUBSCRIBES:?} }} }}
               {{ nkey: {} }}
             ] }}",
            secrets.pair.public_key()
        );
        let (certificate, key) = (secrets.path("certificate.pem"), secrets.path("key.pem"));
        let tls = format!("tls {{ cert_file: {certificate:?}, key_file: {key:?} }}");
        let (plain, users, token, tls) = tokio::join!(
            NatsServer::start("jetstream { store_dir: \"FOLDER\" }"),
            NatsServer::start(&users),
            NatsServer::start("authorization { token: open }"),
            NatsServer::start(&tls),
        );
        let servers = vec![plain, users, token, tls];
        let addresses = [0, 1, 2, 3].map(|at: usize| servers[at].address);
        Self { given: secrets.given(addresses), _nats: servers, _ours: Vec::new(), _folder: secrets.folder }
    }

    pub(super) fn ours() -> Self {
        let secrets = Secrets::make();
        let user = |name: &str, credential, permissions| User { name: name.to_owned(), credential, permissions };
        let cart = Permissions { publish: rules(Some(PUBLISHES), &[]), subscribe: rules(Some(SUBSCRIBES), &[]) };
        let users = vec![
            user("cart", Credential::Password("cart".to_owned()), cart),
            user("tool", Credential::Nkey(secrets.pair.public_key()), Permissions::default()),
        ];
        let token = vec![user("tool", Credential::Token("open".to_owned()), Permissions::default())];
        let tls = Tls { certificate: secrets.path("certificate.pem"), key: secrets.path("key.pem") };
        let servers = vec![
            start(&Config { jetstream: Some(jetstream(&secrets.path("streams"))), ..config() }),
            start(&Config { users, ..config() }),
            start(&Config { users: token, ..config() }),
            start(&Config { tls: Some(tls), ..config() }),
        ];
        let addresses = [0, 1, 2, 3].map(|at: usize| servers[at].address);
        Self { given: secrets.given(addresses), _nats: Vec::new(), _ours: servers, _folder: secrets.folder }
    }
}

/// Streams in a folder, with room for all scenarios of an area.
pub(super) fn jetstream(folder: &Path) -> JetStream {
    let limits = JetStreamLimits {
        streams_max: 1000,
        consumers_max: 1000,
        store_bytes_max: 1 << 30,
        memory_bytes_max: 1 << 30,
        segment_bytes: 8 << 20,
        queue_bytes: 8 << 20,
        cache_bytes: 1 << 20,
        message_ids_max: 100_000,
    };
    JetStream { folder: folder.to_owned(), sync: Sync::Always, limits }
}
