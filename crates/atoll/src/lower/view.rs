//! Engine states → what the API shows.

use std::collections::BTreeSet;

use jiff::Timestamp;
use manifest::Plan;
use supervisor::{BuildStatus, Event, InstanceState, InstanceStatus, Kind, ServiceStatus, Snapshot, Wanted};

use crate::api::dto;
use crate::lower::broker;

/// Every instance of every service.
pub fn instances(snapshot: &Snapshot) -> Vec<dto::Instance> {
    snapshot.services.iter().flat_map(service_instances).collect()
}

/// Every service with its instances.
pub fn services(snapshot: &Snapshot) -> Vec<dto::Service> {
    let view = |service: &ServiceStatus| dto::Service {
        service: service.name.clone(),
        wanted: service.wanted == Wanted::Running,
        updating: service.rollout.is_some_and(|course| course != supervisor::Course::Halted),
        given_up: given_up(service),
        last_lines: last_lines(service).to_vec(),
        instances: service_instances(service).collect(),
    };
    snapshot.services.iter().map(view).collect()
}

/// Why a service will not be what was asked for by itself, or `None` while it may.
pub fn given_up(service: &ServiceStatus) -> Option<String> {
    let reason = service.reason.as_ref().map(|reason| format!("{}: {reason}", service.name));
    reason.or_else(|| hopeless(service))
}

/// Why a service will not be ready by itself, whatever it runs, or `None` while it may.
pub fn hopeless(service: &ServiceStatus) -> Option<String> {
    let runs_former = service.failure.as_ref().is_some_and(|failure| failure.outcome == supervisor::Outcome::Reverted);
    if let Some(reason) = service.reason.as_ref().filter(|_| !runs_former) {
        return Some(format!("{}: {reason}", service.name));
    }
    let instance = lost_instance(service)?;
    let reason = instance.reason.as_deref().unwrap_or("it keeps ending");
    Some(format!("{}.{}: {reason}", service.name, instance.index))
}

fn last_lines(service: &ServiceStatus) -> &[String] {
    match &service.build {
        BuildStatus::Failed { last_lines, .. } => last_lines,
        _ => match &service.failure {
            Some(failure) if !failure.last_lines.is_empty() => &failure.last_lines,
            _ => lost_instance(service).map_or(&[], |instance| &instance.last_lines),
        },
    }
}

fn lost_instance(service: &ServiceStatus) -> Option<&InstanceStatus> {
    let is_hopeless = |state: &InstanceState| matches!(state, InstanceState::Failed | InstanceState::CrashLoop { .. });
    service.instances.iter().find(|instance| is_hopeless(&instance.state))
}

fn service_instances(service: &ServiceStatus) -> impl Iterator<Item = dto::Instance> + '_ {
    service.instances.iter().map(|instance| {
        let failing = !instance.ready
            && matches!(
                instance.state,
                InstanceState::Backoff { .. } | InstanceState::CrashLoop { .. } | InstanceState::Failed
            );
        dto::Instance {
            service: service.name.clone(),
            instance: instance.index,
            pid: instance.pid,
            state: instance.state.name().to_owned(),
            ready: instance.ready,
            port: instance.port,
            restarts: instance.restarts,
            started_at: instance.started_at,
            reason: instance.reason.clone(),
            last_lines: if failing { instance.last_lines.clone() } else { Vec::new() },
        }
    })
}

/// One service of the plan together with how it is now; `None` if there is no such service.
pub fn description(plan: &Plan, snapshot: &Snapshot, name: &str) -> Option<dto::Description> {
    let service = plan.services.get(name)?;
    let status = snapshot.service(name);
    let takes = |route: &&manifest::plan::Route| route.backends.iter().any(|backend| backend.service == name);
    let databases = service.databases.iter().filter_map(|name| Some((name, plan.databases.get(name)?)));
    let ms = |duration: std::time::Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Some(dto::Description {
        service: name.to_owned(),
        description: service.description.clone(),
        owner: service.owner.clone(),
        declared_in: service.file.display().to_string(),
        build: service.build.as_ref().map(|build| words(&build.command)),
        command: words(&service.command),
        working_dir: service.working_dir.display().to_string(),
        restart: match service.restart {
            manifest::plan::Restart::No => "no",
            manifest::plan::Restart::OnFailure => "on-failure",
            manifest::plan::Restart::Always => "always",
        }
        .to_owned(),
        readiness: check(&service.probes.readiness.check),
        routes: plan.routes.iter().filter(takes).map(|route| route.name.clone()).collect(),
        upstreams: plan
            .edges()
            .filter(|(caller, _, _)| *caller == name)
            .map(|(_, upstream, edge)| dto::Upstream {
                service: upstream.to_owned(),
                url: format!("http://127.0.0.1:{}", edge.port),
                timeout_ms: ms(edge.policy.timeout),
            })
            .collect(),
        callers: plan
            .edges()
            .filter(|(_, upstream, _)| *upstream == name)
            .map(|(caller, _, _)| caller.to_owned())
            .collect(),
        depends_on: service.depends_on.keys().cloned().collect(),
        databases: databases
            .map(|(name, database)| dto::Database {
                name: name.clone(),
                engine: match database.engine {
                    manifest::plan::Engine::Sqlite => "sqlite".to_owned(),
                },
                path: database.path.display().to_string(),
            })
            .collect(),
        publishes: service.publishes.clone(),
        subscribes: service.subscribes.clone(),
        environment: {
            let given = broker::uses_broker(service).then(|| broker::VARIABLE.to_owned());
            service.environment.keys().cloned().chain(given).collect::<BTreeSet<_>>().into_iter().collect()
        },
        failure: status.and_then(|status| status.reason.clone()),
        instances: status.map(|status| service_instances(status).collect()).unwrap_or_default(),
    })
}

/// Where an instance listens, and whether it takes requests.
pub fn endpoint(endpoint: &registry::Endpoint) -> dto::Endpoint {
    let state = match endpoint.state {
        registry::State::Unready => "unready",
        registry::State::Ready => "ready",
        registry::State::Draining => "draining",
    };
    dto::Endpoint {
        instance: endpoint.instance,
        address: endpoint.address.to_string(),
        ready: endpoint.state == registry::State::Ready,
        state: state.to_owned(),
    }
}

/// A command as it may be shown.
fn words(words: &[manifest::plan::Text]) -> String {
    let words: Vec<&str> = words.iter().map(manifest::plan::Text::shown).collect();
    shlex::try_join(words.iter().copied()).unwrap_or_else(|_| words.join(" "))
}

fn check(check: &manifest::plan::Check) -> String {
    match check {
        manifest::plan::Check::Default => "GET /readyz, else a TCP connect".to_owned(),
        manifest::plan::Check::Http(path) => format!("GET {path}"),
        manifest::plan::Check::Tcp => "TCP connect".to_owned(),
        manifest::plan::Check::Exec(command) => words(command),
    }
}

/// A line of a service's output.
pub fn line(line: supervisor::logs::Line) -> dto::Line {
    dto::Line {
        at: line.ts,
        service: line.service.to_string(),
        instance: line.instance,
        stream: line.stream.name().to_owned(),
        text: line.text,
    }
}

/// Stands in the stream for lines that a follower was too slow for; the files have them.
pub fn skipped(count: u64, at: Timestamp) -> dto::Line {
    let text = format!("{count} lines are not shown: they came too fast; `atoll logs` has them");
    dto::Line { at, service: "atoll".to_owned(), instance: 0, stream: "stderr".to_owned(), text }
}

/// An event as one sentence and, for programs, its kind.
pub fn event(event: &Event) -> dto::Event {
    let subject = match event.instance {
        Some(instance) => format!("{}.{instance}", event.service),
        None => event.service.clone(),
    };
    let (kind, message, lines) = sentence(&subject, &event.kind);
    dto::Event {
        at: event.ts,
        kind: kind.to_owned(),
        service: (!event.service.is_empty()).then(|| event.service.clone()),
        instance: event.instance,
        message,
        lines: lines.to_vec(),
    }
}

fn sentence<'e>(subject: &str, kind: &'e Kind) -> (&'static str, String, &'e [String]) {
    let seconds = |ms: &u64| *ms as f64 / 1000.0;
    let (kind, message) = match kind {
        Kind::BuildStarted { command } => ("build_started", format!("{subject}: building with `{command}`")),
        Kind::BuildOutput { line } => ("build_output", line.clone()),
        Kind::BuildFinished { seconds } => ("build_finished", format!("{subject}: built in {seconds:.1} s")),
        Kind::BuildFailed { reason, last_lines } => {
            return ("build_failed", format!("{subject}: the build failed: {reason}"), last_lines);
        }
        Kind::BuildCancelled => ("build_cancelled", format!("{subject}: the build was cancelled")),
        Kind::Prepared => ("prepared", format!("{subject}: databases are prepared")),
        Kind::PreparationFailed { reason } => ("preparation_failed", format!("{subject}: {reason}")),
        Kind::Started { pid } => ("started", format!("{subject}: started as pid {pid}")),
        Kind::StartFailed { reason } => ("start_failed", format!("{subject}: cannot be started: {reason}")),
        Kind::Ready { after_ms } => ("ready", format!("{subject}: ready after {:.2} s", seconds(after_ms))),
        Kind::Unready { why } => ("unready", format!("{subject}: no longer ready: {why}")),
        Kind::ProbeFailed { why } => ("probe_failed", format!("{subject}: not ready yet: {why}")),
        Kind::Unhealthy { why } => ("unhealthy", format!("{subject}: unhealthy, it will be restarted: {why}")),
        Kind::Exited { exit, after_ms } => {
            ("exited", format!("{subject}: ended with {exit} after {:.1} s", seconds(after_ms)))
        }
        Kind::Restarting { in_ms, attempt } => {
            ("restarting", format!("{subject}: starts again in {in_ms} ms (attempt {attempt})"))
        }
        Kind::CrashLoop { attempt, last_lines } => {
            return ("crash_loop", format!("{subject}: keeps ending, {attempt} times in a row"), last_lines);
        }
        Kind::Failed { why } => ("failed", format!("{subject}: failed: {why}")),
        Kind::Changed { how } => ("changed", format!("{subject}: {how}")),
        Kind::RolledOut => ("rolled_out", format!("{subject}: every instance is replaced")),
        Kind::Reverted { why, last_lines } => {
            return ("reverted", format!("{subject}: the change failed and is taken back: {why}"), last_lines);
        }
        Kind::RolloutHalted { why, last_lines } => {
            return ("rollout_halted", format!("{subject}: the change failed and is halted: {why}"), last_lines);
        }
        Kind::Signalled { signal } => ("signalled", format!("{subject}: was sent signal {signal}")),
        Kind::Stopping { why } => ("stopping", format!("{subject}: stopping: {why}")),
        Kind::Stopped => ("stopped", format!("{subject}: stopped")),
        Kind::Killed => ("killed", format!("{subject}: did not stop in time and was killed")),
        Kind::LimitsUnavailable { why } => ("limits_unavailable", format!("{subject}: its limits do not hold: {why}")),
        Kind::LogsLost { why } => ("logs_lost", format!("{subject}: its log is not written: {why}")),
        Kind::LogsResumed { lines_lost } => {
            ("logs_resumed", format!("{subject}: its log is written again; {lines_lost} lines are missing"))
        }
        Kind::Adopted { pid } => ("adopted", format!("{subject}: goes on as pid {pid}, taken over by this daemon")),
        Kind::ExitedUnseen { exit, after_ms } => {
            let lived = seconds(after_ms);
            ("exited", format!("{subject}: ended with {exit} after {lived:.1} s, while no daemon was there"))
        }
        Kind::ShimFrozen { pid } => {
            ("shim_frozen", format!("{subject}: goes on, but its shim, pid {pid}, does not answer"))
        }
        Kind::ShimAnswers { pid } => ("shim_answers", format!("{subject}: its shim, pid {pid}, answers again")),
        Kind::ShimLost { why } => ("shim_lost", format!("{subject}: was killed, because {why}")),
        Kind::LinesSkipped { lines } => {
            ("lines_skipped", format!("{subject}: {lines} lines came too fast to follow; they are in its log"))
        }
        Kind::LeftoverStopped { pid, why } => {
            ("leftover_stopped", format!("{subject}: pid {pid} was left by a former daemon and is stopped: {why}"))
        }
        Kind::StateFileDamaged { why } => {
            ("state_file_damaged", format!("what the daemon before this one left cannot be read: {why}"))
        }
    };
    (kind, message, &[])
}
