//! What the API may do with single instances: see their addresses, learn what they are started with, send them a signal.

use crate::api::dto;
use crate::daemon::{Control, End};
use crate::{lower, processes};

impl Control {
    /// Atoll's own processes, the daemon first.
    pub fn processes(&self) -> Vec<dto::Process> {
        let of = |name: &str, pid| dto::Process { name: name.to_owned(), pid };
        let snapshot = self.supervisor.snapshot();
        let pids = snapshot.services.iter().flat_map(|service| &service.instances).filter_map(|instance| instance.pid);
        // The shim of an instance is its parent.
        let shims = pids.filter_map(|pid| processes::find(i32::try_from(pid).ok()?)?.parent.try_into().ok());
        let own =
            [of("daemon", std::process::id())].into_iter().chain(self.proxy.pid().map(|pid| of("data plane", pid)));
        own.chain(shims.map(|pid| of("shims", pid))).collect()
    }

    /// Ends the daemon alone: data plane and instances go on, and the next `up` takes them over.
    pub fn leave(&self) {
        self.end.send_replace(Some(End::Leave));
    }

    /// What an instance is started with, secrets included: for the socket of this user alone, never for a log.
    pub fn program(&self, service: &str, which: dto::Which) -> Result<dto::Program, dto::Problem> {
        lower::program(&self.plan(), service, which, self.bus.credentials(), std::env::vars_os()).ok_or_else(|| {
            match self.plan().services.get(service) {
                None => self.unknown(service),
                Some(known) => unknown_instance(service, known.instances.iter().map(|instance| instance.index)),
            }
        })
    }

    /// The endpoints of a service in one snapshot of the registry.
    pub fn endpoints(&self, snapshot: &registry::Snapshot, service: &str) -> Vec<dto::Endpoint> {
        snapshot.services.get(service).into_iter().flatten().map(lower::endpoint).collect()
    }

    /// Refuses a service that is not in what runs.
    pub fn check_service(&self, service: &str) -> Result<(), dto::Problem> {
        if self.plan().services.contains_key(service) { Ok(()) } else { Err(self.unknown(service)) }
    }

    /// Sends a signal to the process groups of instances, as anyone could: what ends by it is a crash, and the restart
    /// policy applies. Nothing is sent when a name is unknown or names nothing that runs.
    pub async fn kill(&self, kill: dto::Kill) -> Result<(), dto::Problem> {
        let snapshot = self.supervisor.snapshot();
        for subject in &kill.subjects {
            self.check_service(&subject.service)?;
            let instances = snapshot.service(&subject.service).into_iter().flat_map(|service| &service.instances);
            let indices = instances.clone().map(|instance| instance.index);
            if subject.instance.is_some_and(|index| !indices.clone().any(|known| known == index)) {
                return Err(unknown_instance(&subject.service, indices));
            }
            let mut chosen = instances.filter(|i| subject.instance.is_none_or(|index| index == i.index));
            if !chosen.any(|instance| instance.pid.is_some()) {
                return Err(dto::Problem {
                    title: "nothing to signal".into(),
                    status: 424,
                    detail: format!("no process of {subject} runs"),
                    hint: Some("`atoll ps` shows what runs".into()),
                });
            }
        }
        let instances = kill.subjects.into_iter().map(|subject| (subject.service, subject.instance)).collect();
        self.supervisor.kill(instances, kill.signal).await.map_err(|error| dto::Problem {
            title: "refused".into(),
            status: 409,
            detail: kit::Chain(&error).to_string(),
            hint: None,
        })
    }

    fn unknown(&self, service: &str) -> dto::Problem {
        let plan = self.plan();
        let known: Vec<&str> = plan.services.keys().map(String::as_str).collect();
        dto::Problem {
            title: "unknown service".into(),
            status: 404,
            detail: format!("there is no service `{service}` in what runs"),
            hint: Some(format!(
                "its services are {}; one that the manifest has got since comes with `atoll up`",
                known.join(", ")
            )),
        }
    }
}

fn unknown_instance(service: &str, indices: impl Iterator<Item = u32>) -> dto::Problem {
    let indices: Vec<String> = indices.map(|index| index.to_string()).collect();
    let known = if indices.is_empty() { "none now".to_owned() } else { indices.join(", ") };
    dto::Problem {
        title: "unknown instance".into(),
        status: 404,
        detail: format!("service `{service}` has no such instance"),
        hint: Some(format!("it has {known}")),
    }
}
