//! Plan → what one copy of a service is started with, for commands that start such a process themselves.

use std::ffi::OsString;

use manifest::Plan;

use crate::api::dto;
use crate::lower::units;
use crate::project::Credentials;

/// Command, folder and whole environment of a copy, `inherited` being what Atoll itself was started with; `None` if
/// there is no such service or instance. The mark by which the supervisor knows its own is not in it: such a process
/// belongs to whoever starts it.
pub fn program(
    plan: &Plan,
    name: &str,
    which: dto::Which,
    credentials: &Credentials,
    inherited: impl Iterator<Item = (OsString, OsString)>,
) -> Option<dto::Program> {
    let service = plan.services.get(name)?;
    let own = match which {
        dto::Which::Instance(index) => {
            let instance = service.instances.iter().find(|instance| instance.index == index)?;
            units::own_environment(plan, name, service, &index.to_string(), instance.port)
        }
        dto::Which::OneOff(port) => units::own_environment(plan, name, service, &format!("one-off-{port}"), port),
    };
    let lowered = units::lower_service(plan, name, service, credentials);
    let environment = supervisor::complete(&supervisor::passed(inherited), &[&lowered.environment, &own]);
    let databases = units::databases(plan, name).into_iter();
    Some(dto::Program {
        command: lowered.command,
        working_dir: lowered.working_dir,
        // What is no text can neither be declared nor travel as JSON.
        environment: environment
            .into_iter()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        databases: databases
            .map(|database| dto::DatabaseFile {
                name: database.name,
                path: database.path,
                migrations: database.migrations,
            })
            .collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lower::tests::{CREDENTIALS, plan};

    #[test]
    fn a_copy_has_the_service_s_environment_and_a_one_off_a_port_of_its_own() {
        let plan = plan();
        let inherited = || [("PATH", "/bin"), ("TOKEN", "hush")].map(|(name, value)| (name.into(), value.into()));
        let of = |which| program(&plan, "orders", which, &CREDENTIALS, inherited().into_iter());
        let instance = of(dto::Which::Instance(0)).expect("an instance");
        let one_off = of(dto::Which::OneOff(4711)).expect("a one-off");
        let port = |program: &dto::Program| program.environment["PORT"].clone();
        assert_eq!(port(&instance), plan.services["orders"].instances[0].port.to_string());
        assert_eq!(port(&one_off), "4711");
        assert_eq!(one_off.environment["ATOLL_INSTANCE"], "orders.one-off-4711");
        for program in [&instance, &one_off] {
            assert_eq!(program.environment["PATH"], "/bin");
            assert_eq!(program.environment["ATOLL_SERVICE"], "orders");
            assert!(program.environment.contains_key("DATABASE_URL"), "given by the plan");
            assert!(!program.environment.contains_key("TOKEN") && !program.environment.contains_key(supervisor::RUN));
            assert_eq!(program.databases.len(), 1);
        }
        assert!(one_off.environment["NATS_URL"].starts_with("nats://orders:"));
        assert!(of(dto::Which::Instance(99)).is_none());
        assert!(program(&plan, "nobody", dto::Which::OneOff(1), &CREDENTIALS, inherited().into_iter()).is_none());
    }
}
