//! `atoll doctor`: whether this machine can run the application, and what to do where it cannot.

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use async_nats::jetstream;
use clap::Args;
use manifest::Plan;
use manifest::plan::Nats;
use rustix::process::{PidfdFlags, Resource, getpid, getrlimit, pidfd_open};
use serde::Serialize;

use crate::api::client::Client;
use crate::api::dto;
use crate::cli::output::{self, Format};
use crate::cli::target::Folder;
use crate::cli::{Context, Failure, block_on};
use crate::lower;
use crate::project::Project;

/// Less free space than this, and logs or databases may soon fail to write.
const FREE_BYTES_MIN: u64 = 1024 * 1024 * 1024;
/// How long somebody else's servers may take to answer.
const PROBE_MAX: Duration = Duration::from_secs(3);
/// Two descriptors a proxied connection, and some for everything else.
const OPEN_FILES_MIN: u64 = 4096;

#[derive(Debug, Args)]
pub struct Doctor {
    #[command(flatten)]
    folder: Folder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    Good,
    Doubtful,
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    verdict: Verdict,
    what: String,
    hint: Option<String>,
}

impl Finding {
    fn good(what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Good, what: what.into(), hint: None }
    }

    fn doubtful(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Doubtful, what: what.into(), hint: Some(hint.into()) }
    }

    fn bad(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { verdict: Verdict::Bad, what: what.into(), hint: Some(hint.into()) }
    }
}

impl Doctor {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let mut findings = vec![kernel(), open_files()];
        match self.folder.target() {
            Ok(target) => {
                findings.push(disk(&target.project));
                findings.extend(application(&target.project));
            }
            Err(failure) => findings.push(Finding::doubtful(failure.to_string(), "name one to have it examined too")),
        }
        match context.format {
            Format::Json => output::json(&findings)?,
            Format::Table => findings.iter().try_for_each(print)?,
        }
        match findings.iter().filter(|finding| finding.verdict == Verdict::Bad).count() {
            0 => Ok(()),
            1 => Err(Failure::new("one thing stands in the way").into()),
            many => Err(Failure::new(format!("{many} things stand in the way")).into()),
        }
    }
}

fn print(finding: &Finding) -> anyhow::Result<()> {
    let (mark, colour) = match finding.verdict {
        Verdict::Good => ("good", anstyle::AnsiColor::Green),
        Verdict::Doubtful => ("hm  ", anstyle::AnsiColor::Yellow),
        Verdict::Bad => ("bad ", anstyle::AnsiColor::Red),
    };
    let style = colour.on_default();
    output::line(&format!("{style}{mark}{style:#}  {}", finding.what))?;
    finding.hint.iter().try_for_each(|hint| output::line(&format!("      {hint}")))
}

fn kernel() -> Finding {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => Finding::good("the kernel tells at once when a process ends (pidfd)"),
        Err(errno) => Finding::bad(format!("the kernel has no pidfd: {errno}"), "atoll needs Linux 5.3 or later"),
    }
}

fn open_files() -> Finding {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < OPEN_FILES_MIN => {
            let hint = format!("raise it before `atoll up`: `ulimit -n {OPEN_FILES_MIN}`");
            Finding::doubtful(format!("only {limit} files may be open at a time"), hint)
        }
        limit => {
            let limit = limit.map_or_else(|| "any number of".to_owned(), |limit| limit.to_string());
            Finding::good(format!("{limit} files may be open at a time"))
        }
    }
}

fn disk(project: &Project) -> Finding {
    // It may be a mount of its own.
    let state = project.run();
    let folder = if state.exists() { state.as_path() } else { project.root() };
    match rustix::fs::statvfs(folder) {
        Ok(disk) => {
            let free = disk.f_bavail * disk.f_frsize;
            let what = format!("{:.1} GiB free in {}", free as f64 / f64::from(1 << 30), folder.display());
            if free < FREE_BYTES_MIN { Finding::doubtful(what, "free some space") } else { Finding::good(what) }
        }
        Err(errno) => Finding::bad(format!("cannot look at {}: {errno}", folder.display()), "check its mount"),
    }
}

fn application(project: &Project) -> Vec<Finding> {
    let loaded = project.load();
    let Some(plan) = loaded.plan else {
        return vec![Finding::bad("the manifest has errors", "`atoll check` shows them all")];
    };
    let mut findings = vec![Finding::good(format!("the manifest of `{}` is valid", plan.name))];
    findings.extend(listeners(project, &plan));
    findings.extend(broker(project, &plan));
    findings.extend(
        programs(&plan)
            .into_iter()
            .map(|(program, finding)| finding.unwrap_or_else(|| Finding::good(format!("`{program}` is there")))),
    );
    findings
}

/// Gateway, dashboard and broker.
fn listeners(project: &Project, plan: &Plan) -> Vec<Finding> {
    let (gateway, dashboard) = (plan.gateway.listen, plan.dashboard.listen);
    if project.is_running() {
        let broker =
            plan.broker.as_ref().map(|broker| format!(", its broker on {}", broker.listen)).unwrap_or_default();
        let what = format!("the application runs, its gateway on {gateway}, its dashboard on {dashboard}{broker}");
        return vec![Finding::good(what)];
    }
    let mut all = vec![listener("gateway", ("gateway", "listen"), gateway)];
    all.push(listener("dashboard", ("dashboard", "listen"), dashboard));
    if let Some(broker) = &plan.broker {
        all.push(listener("broker", ("broker", "listen"), broker.listen));
        all.extend(broker.monitor.map(|address| listener("broker's monitoring", ("broker", "monitor"), address)));
    }
    all
}

/// What the servers of a `url` say of themselves.
async fn elsewhere(nats: &Nats) -> anyhow::Result<Vec<Finding>> {
    let (servers, options) = crate::nats::servers(&nats.url)?;
    let client = tokio::time::timeout(PROBE_MAX, options.connection_timeout(PROBE_MAX).connect(servers));
    let client = client.await.map_err(|_| anyhow::anyhow!("no answer within {} s", PROBE_MAX.as_secs()))??;
    let info = client.server_info();
    let context = jetstream::new(client);
    let account = tokio::time::timeout(PROBE_MAX, context.query_account()).await;
    let account =
        account.map_err(|_| anyhow::anyhow!("JetStream does not answer within {} s", PROBE_MAX.as_secs()))??;
    let mut findings = vec![Finding::good(format!(
        "NATS at {} is nats-server {}; its JetStream has {} streams",
        nats.address, info.version, account.streams
    ))];
    let taken = u64::try_from(info.max_payload).unwrap_or(u64::MAX);
    if taken < nats.max_payload {
        let (taken, wanted) = (output::bytes_shown(taken), output::bytes_shown(nats.max_payload));
        findings.push(Finding::doubtful(
            format!("NATS at {} takes {taken} a message, and the manifest has {wanted}", nats.address),
            "write `max_payload` under [broker] as it is there, or change it there",
        ));
    }
    Ok(findings)
}

/// How durable messages are, and which streams are not as the manifest has them, as far as a daemon can be asked.
fn broker(project: &Project, plan: &Plan) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(weakness) = plan.broker.as_ref().and_then(|broker| lower::weakness(broker.sync)) {
        findings.push(Finding::doubtful(
            weakness,
            "write `sync = \"always\"` under [broker] where messages must not be lost",
        ));
    }
    if plan.nats.is_some() {
        let hint =
            "write it on each nats-server where messages must not be lost; users and their rights are theirs as well";
        findings.push(Finding::doubtful(lower::NATS_SYNC, hint));
    }
    if let Some(nats) = &plan.nats {
        findings.extend(block_on(elsewhere(nats)).flatten().unwrap_or_else(|error| {
            let what = format!("NATS at {} cannot be used: {}", nats.address, kit::Chain(error.as_ref()));
            vec![Finding::bad(what, "look at `url` under [broker], and whether its servers run with JetStream")]
        }));
    }
    if !project.is_running() || plan.broker.is_none() && plan.nats.is_none() {
        return findings;
    }
    let seen = match block_on(Client::new(project).get::<dto::Broker>("/v1/broker")) {
        Ok(Ok(seen)) => seen,
        Ok(Err(error)) => {
            let hint = "`atoll events` shows why; it is tried again, and by `atoll up` at once";
            findings.push(Finding::bad(format!("the broker does not run: {}", kit::Chain(&error)), hint));
            return findings;
        }
        Err(_) => return findings,
    };
    for warning in seen.warnings {
        if !findings.iter().any(|finding| finding.what == warning) {
            findings.push(Finding::doubtful(warning, "`atoll describe broker` shows what runs"));
        }
    }
    for stream in &seen.streams {
        if let Some(why) = &stream.refused {
            let what = format!("the stream {} is not as the manifest wants it: {why}", stream.name);
            let hint = match (stream.storage.is_empty(), plan.nats.is_some()) {
                (true, true) => {
                    "look whether its servers answer, and what their account allows the user of `url`: streams, bytes, JetStream's API"
                }
                (true, false) => {
                    "make room in `store` or `limits` under [broker], or delete streams that no topic declares"
                }
                (false, _) => "change its topic back, or give the topic another name",
            };
            findings.push(Finding::bad(what, hint));
        } else if stream.topic.is_none() && !is_bucket(&stream.name) && !lower::is_engines_own(&stream.name) {
            let size = output::bytes_shown(stream.bytes);
            let what = format!(
                "no topic declares the stream {}; its {} messages ({size}) are kept",
                stream.name, stream.messages
            );
            let hint = format!("declare its topic again, or delete it with `atoll stream rm {}`", stream.name);
            findings.push(Finding::doubtful(what, hint));
        }
    }
    findings
}

/// Whether clients made it, as a bucket for keys or objects.
fn is_bucket(stream: &str) -> bool {
    stream.starts_with("KV_") || stream.starts_with("OBJ_")
}

fn listener(name: &str, (table, key): (&str, &str), listen: SocketAddr) -> Finding {
    match TcpListener::bind(listen) {
        Ok(_) => Finding::good(format!("the {name}'s address {listen} is free")),
        Err(error) => {
            let hint = format!("stop the program that has it, or write another `{key}` under [{table}]");
            Finding::bad(format!("the {name} cannot listen on {listen}: {error}"), hint)
        }
    }
}

/// Each program that a build or a service starts, once.
fn programs(plan: &Plan) -> Vec<(String, Option<Finding>)> {
    let mut seen = BTreeSet::new();
    let mut findings = Vec::new();
    for (name, service) in &plan.services {
        let builds = service.build.as_ref().map(|build| (&build.command, &build.working_dir));
        let commands = builds.into_iter().chain([(&service.command, &service.working_dir)]);
        for (words, folder) in commands {
            let Some(program) = words.first().map(|word| word.value.clone()) else { continue };
            if !seen.insert(program.clone()) {
                continue;
            }
            let built = service.build.is_some() && std::ptr::eq(words, &service.command);
            // Builds and services both get Atoll's own PATH, unless a service declares one.
            let declared = service.environment.get("PATH").map(|path| path.value.clone().into());
            let path = declared.or_else(|| std::env::var_os("PATH"));
            let missing = match supervisor::find_program(&program, folder, path.as_deref()) {
                Ok(_) => None,
                Err(_) if built => Some(Finding::good(format!("`{program}` will be there once `{name}` is built"))),
                Err(error) => Some(Finding::bad(format!("service `{name}`: {error}"), "correct `build` or `command`")),
            };
            findings.push((program, missing));
        }
    }
    findings
}
