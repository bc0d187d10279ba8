//! Plan → what the supervisor runs and which databases are prepared before it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};

use manifest::Plan;
use manifest::plan;

use crate::lower::broker;
use crate::project::Credentials;

/// Each service as the supervisor wants it.
pub fn services(plan: &Plan, credentials: &Credentials) -> Vec<supervisor::Service> {
    plan.services.iter().map(|(name, service)| lower_service(plan, name, service, credentials)).collect()
}

/// The databases that must be prepared before a service starts.
pub fn databases(plan: &Plan, service: &str) -> Vec<database::Database> {
    let names = plan.services.get(service).map_or(&[][..], |service| &service.databases);
    let declared = names.iter().filter_map(|name| Some((name, plan.databases.get(name)?)));
    declared
        .map(|(name, database)| database::Database {
            name: name.clone(),
            path: database.path.clone(),
            migrations: database.migrations.clone(),
        })
        .collect()
}

pub(super) fn lower_service(
    plan: &Plan,
    name: &str,
    service: &plan::Service,
    credentials: &Credentials,
) -> supervisor::Service {
    let mut environment: BTreeMap<String, String> =
        service.environment.iter().map(|(name, variable)| (name.clone(), variable.value.clone())).collect();
    let shared = [
        ("HOST", Ipv4Addr::LOCALHOST.to_string()),
        ("ATOLL_SERVICE", name.to_owned()),
        ("OTEL_SERVICE_NAME", name.to_owned()),
    ];
    for (variable, value) in shared {
        environment.entry(variable.to_owned()).or_insert(value);
    }
    if let Some(of) = plan.broker.as_ref().filter(|_| broker::uses_broker(service)) {
        let url = || broker::nats_url(of.listen, name, credentials);
        environment.entry(broker::VARIABLE.to_owned()).or_insert_with(url);
    }
    supervisor::Service {
        name: name.to_owned(),
        build: service.build.as_ref().map(|build| supervisor::Build {
            command: words(&build.command),
            shown: build.command.iter().map(plan::Text::shown).collect::<Vec<_>>().join(" "),
            working_dir: build.working_dir.clone(),
        }),
        command: words(&service.command),
        working_dir: service.working_dir.clone(),
        environment,
        instances: service.instances.iter().map(|instance| lower_instance(plan, name, service, instance)).collect(),
        surge: service.surge.iter().map(|instance| lower_instance(plan, name, service, instance)).collect(),
        depends_on: service.depends_on.iter().map(|(name, when)| (name.clone(), condition(*when))).collect(),
        calls: service.edges.keys().cloned().collect(),
        probes: supervisor::Probes {
            startup: service.probes.startup.as_ref().map(probe),
            readiness: probe(&service.probes.readiness),
            liveness: service.probes.liveness.as_ref().map(probe),
        },
        restart: match service.restart {
            plan::Restart::No => supervisor::Restart::No,
            plan::Restart::OnFailure => supervisor::Restart::OnFailure,
            plan::Restart::Always => supervisor::Restart::Always,
        },
        stop_signal: signal(&service.stop_signal),
        stop_grace_period: service.stop_grace_period,
        prepare: match service.databases.is_empty() {
            true => supervisor::Preparation::None,
            false => supervisor::Preparation::Required,
        },
        update: update(&service.update),
        limits: supervisor::Limits {
            cpu_millis: service.limits.cpu_millis,
            memory_bytes: service.limits.memory_bytes,
            pids: service.limits.pids,
        },
    }
}

fn update(from: &plan::Update) -> supervisor::Update {
    supervisor::Update {
        strategy: match from.strategy {
            plan::Strategy::Rolling => supervisor::Strategy::Rolling,
            plan::Strategy::Recreate => supervisor::Strategy::Recreate,
        },
        max_unavailable: from.max_unavailable,
        min_ready: from.min_ready,
        auto_revert: from.auto_revert,
        progress_deadline: from.progress_deadline,
    }
}

fn lower_instance(plan: &Plan, name: &str, service: &plan::Service, instance: &plan::Instance) -> supervisor::Instance {
    supervisor::Instance {
        index: instance.index,
        address: SocketAddr::from((Ipv4Addr::LOCALHOST, instance.port)),
        environment: own_environment(plan, name, service, &instance.index.to_string(), instance.port),
    }
}

/// What differs between the copies of a service. `copy` tells this one from the others.
pub(super) fn own_environment(
    plan: &Plan,
    name: &str,
    service: &plan::Service,
    copy: &str,
    port: u16,
) -> BTreeMap<String, String> {
    let id = format!("{name}.{copy}");
    // OpenTelemetry semantic conventions, "Service": namespace, name and instance id identify an instance together.
    let resource = format!("service.namespace={},service.instance.id={id}", plan.name);
    let mut environment = BTreeMap::from([
        ("PORT".to_owned(), port.to_string()),
        ("ATOLL_INSTANCE".to_owned(), id),
        ("OTEL_RESOURCE_ATTRIBUTES".to_owned(), resource),
    ]);
    // What the manifest writes wins; that it writes no PORT is the compiler's promise.
    environment.retain(|variable, _| !service.environment.contains_key(variable));
    environment
}

/// What is run, secrets and all.
fn words(command: &[plan::Text]) -> Vec<String> {
    command.iter().map(|word| word.value.clone()).collect()
}

fn condition(from: plan::Condition) -> supervisor::Condition {
    match from {
        plan::Condition::Started => supervisor::Condition::Started,
        plan::Condition::Healthy => supervisor::Condition::Healthy,
        plan::Condition::Completed => supervisor::Condition::Completed,
    }
}

fn probe(from: &plan::Probe) -> supervisor::Probe {
    supervisor::Probe {
        check: match &from.check {
            plan::Check::Default => supervisor::Check::Default,
            plan::Check::Http(path) => supervisor::Check::Http(path.clone()),
            plan::Check::Tcp => supervisor::Check::Tcp,
            plan::Check::Exec(command) => supervisor::Check::Exec(words(command)),
        },
        interval: from.interval,
        timeout: from.timeout,
        failure_threshold: from.failure_threshold,
    }
}

/// The number of a signal that the compiler has let pass.
fn signal(name: &str) -> i32 {
    use rustix::process::Signal;
    let signal = match name {
        "SIGHUP" => Signal::HUP,
        "SIGINT" => Signal::INT,
        "SIGQUIT" => Signal::QUIT,
        "SIGKILL" => Signal::KILL,
        "SIGUSR1" => Signal::USR1,
        "SIGUSR2" => Signal::USR2,
        "SIGALRM" => Signal::ALARM,
        "SIGWINCH" => Signal::WINCH,
        _ => Signal::TERM,
    };
    signal.as_raw()
}
