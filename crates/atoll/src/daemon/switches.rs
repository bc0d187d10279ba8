//! Faults and forced breakers: the daemon owns what is switched, keeps it for the next one, tells the data plane, and says
//! in the history what was set, cleared and is over.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use proxy::{Fault, Forced, Subject, Switches};
use tokio::sync::{Mutex, watch};
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use crate::api::dto::{self, BreakerAction};
use crate::daemon::Control;
use crate::lower;
use crate::project::{Project, Switched};

// Limit: faults at a time. One more is refused.
const FAULTS_MAX: usize = 64;
// Limit: breakers that are forced. Those of routes and edges that are gone make room first; one more is refused.
const FORCED_MAX: usize = 1024;
/// How long a fault lasts that does not say it.
const FAULT_TIME: Duration = Duration::from_secs(10 * 60);
/// Limit: however long it is to last.
const FAULT_TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
/// How often the wall clock is looked at: it may be set.
const CLOCK_INTERVAL: Duration = Duration::from_secs(10);

/// What is switched at this moment.
#[derive(Debug)]
pub struct Switchboard {
    project: Project,
    present: watch::Sender<Switched>,
    /// Held by whoever changes it, until it is on disk and the data plane was told.
    changing: Mutex<()>,
}

impl Switchboard {
    /// What the daemon before this one left.
    pub fn load(project: &Project) -> Self {
        let mut left = Switched::load(project);
        let latest = Timestamp::now() + FAULT_TIME_MAX;
        left.switches.faults.truncate(FAULTS_MAX);
        left.switches.breakers.truncate(FORCED_MAX);
        left.switches.faults.iter_mut().for_each(|fault| fault.until = fault.until.min(latest));
        Self { project: project.clone(), present: watch::Sender::new(left), changing: Mutex::default() }
    }

    /// For the data plane.
    pub fn switches(&self) -> Switches {
        self.present.borrow().switches.clone()
    }

    fn switched(&self) -> Switched {
        self.present.borrow().clone()
    }
}

impl Control {
    /// Every fault that is set and not over.
    pub fn faults(&self) -> Vec<dto::Fault> {
        let (now, plan) = (Timestamp::now(), self.plan());
        let faults = self.switchboard.switches().faults;
        faults.iter().filter(|fault| fault.until > now).map(|fault| lower::fault(&plan, fault, now)).collect()
    }

    /// Sets one fault for each effect, and returns them once the data plane has them.
    pub async fn set_faults(&self, wish: dto::FaultWish) -> Result<Vec<dto::Fault>, dto::Problem> {
        let (plan, instances) = (self.plan(), self.supervisor.snapshot());
        let has_instance = |service: &str, index: u32| {
            let status = instances.service(service);
            status.is_some_and(|status| status.instances.iter().any(|instance| instance.index == index))
        };
        let target = lower::find_target(&plan, has_instance, &wish.target)?;
        let (effects, share) = lower::effects(&wish)?;
        let now = Timestamp::now();
        let until = now + lasting(wish.seconds)?;
        let set = self.change_switches(|switched| {
            let Switched { last_id, switches } = switched;
            if switches.faults.len() + effects.len() > FAULTS_MAX {
                return Err(too_many(
                    format!("{FAULTS_MAX} faults are set, and no more can be"),
                    "`atoll fault clear`",
                ));
            }
            let fault = |effect| {
                *last_id += 1;
                Fault { id: *last_id, target: target.clone(), effect, share, until }
            };
            let set: Vec<Fault> = effects.into_iter().map(fault).collect();
            switches.faults.extend_from_slice(&set);
            Ok(set)
        });
        let set: Vec<dto::Fault> = set.await?.iter().map(|fault| lower::fault(&plan, fault, now)).collect();
        for fault in &set {
            let message = format!("fault {} {} until {:.0}", fault.id, lower::words(fault), fault.until);
            self.history.say("fault_set", message);
        }
        Ok(set)
    }

    /// Clears the fault of this number, or all, and returns what was cleared once the data plane is rid of it.
    pub async fn clear_faults(&self, id: Option<u64>) -> Result<Vec<dto::Fault>, dto::Problem> {
        let cleared = self.change_switches(|switched| {
            if let Some(id) = id.filter(|id| switched.fault(*id).is_none()) {
                return Err(dto::Problem {
                    title: "unknown".into(),
                    status: 404,
                    detail: format!("there is no fault {id}"),
                    hint: Some("`atoll fault ls` shows those that are set".into()),
                });
            }
            let is_cleared = |fault: &mut Fault| id.is_none_or(|id| fault.id == id);
            Ok(switched.switches.faults.extract_if(.., is_cleared).collect::<Vec<Fault>>())
        });
        let (plan, now) = (self.plan(), Timestamp::now());
        let cleared: Vec<dto::Fault> = cleared.await?.iter().map(|fault| lower::fault(&plan, fault, now)).collect();
        for fault in &cleared {
            self.history.say("fault_cleared", format!("fault {} {} no more", fault.id, lower::words(fault)));
        }
        Ok(cleared)
    }

    /// How every breaker stands.
    pub async fn breakers(&self) -> Result<Vec<dto::Breaker>, dto::Problem> {
        Ok(lower::breakers(&self.plan(), &self.readings().await?, None))
    }

    /// Forces a breaker or resets it, and says how it stands then.
    pub async fn switch_breaker(&self, wish: dto::BreakerWish) -> Result<Vec<dto::Breaker>, dto::Problem> {
        let plan = self.plan();
        let named = lower::find_subject(&plan, &wish.target)?;
        if named.policy.circuit_breaker.is_none() {
            return Err(lower::no_breaker(&named));
        }
        let subject = named.subject.clone();
        let is_known = |subject: &Subject| lower::is_declared(&plan, subject);
        let force = |switched: &mut Switched| force(switched, &subject, lower::forced(wish.action), is_known);
        if wish.action == BreakerAction::Reset {
            // Order: before it is told that nothing is forced, so that whoever waits for that waits for both.
            self.proxy.reset_breaker(&subject).await;
        }
        self.change_switches(force).await?;
        let (kind, message) = match wish.action {
            BreakerAction::Open => ("breaker_forced", format!("the breaker of {} is forced open", named.name())),
            BreakerAction::Close => ("breaker_forced", format!("the breaker of {} is forced closed", named.name())),
            BreakerAction::Reset => ("breaker_reset", format!("the breaker of {} is reset", named.name())),
        };
        self.history.say(kind, message);
        Ok(lower::breakers(&plan, &self.readings().await?, Some(&subject)))
    }

    /// Changes what is switched: on disk first, then in the data plane, which has it when this returns if it answers at all.
    async fn change_switches<T>(
        &self,
        change: impl FnOnce(&mut Switched) -> Result<T, dto::Problem>,
    ) -> Result<T, dto::Problem> {
        let board = &self.switchboard;
        let _changing = board.changing.lock().await;
        let mut next = board.switched();
        let changed = change(&mut next)?;
        let (stored, project) = (next.clone(), board.project.clone());
        let kept = spawn_blocking(move || stored.store(&project)).await;
        if let Err(why) = kept.unwrap_or_else(|error| Err(std::io::Error::other(error))) {
            return Err(dto::Problem {
                title: "not kept".into(),
                status: 500,
                detail: format!("what is switched cannot be kept, and nothing was changed: {why}"),
                hint: Some(format!("look at {}", board.project.run().display())),
            });
        }
        let switches = next.switches.clone();
        board.present.send_replace(next);
        self.proxy.switch(switches);
        // Whoever answers this was told before. A data plane that is away is told when it comes.
        let _ = self.readings().await;
        Ok(changed)
    }
}

/// Has a breaker stand as told, and forgets the force of those that nobody knows any more.
fn force(
    switched: &mut Switched,
    subject: &Subject,
    forced: Option<Forced>,
    is_known: impl Fn(&Subject) -> bool,
) -> Result<(), dto::Problem> {
    let breakers = &mut switched.switches.breakers;
    breakers.retain(|(other, _)| other != subject);
    if let Some(forced) = forced {
        if breakers.len() >= FORCED_MAX {
            breakers.retain(|(other, _)| is_known(other));
        }
        if breakers.len() >= FORCED_MAX {
            let detail = format!("{FORCED_MAX} breakers are forced, and no more can be");
            return Err(too_many(detail, "`atoll breaker reset`"));
        }
        breakers.push((subject.clone(), forced));
    }
    Ok(())
}

fn lasting(seconds: Option<f64>) -> Result<Duration, dto::Problem> {
    let time = seconds.map_or(Ok(FAULT_TIME), Duration::try_from_secs_f64);
    time.ok().filter(|time| !time.is_zero() && *time <= FAULT_TIME_MAX).ok_or_else(|| dto::Problem {
        title: "invalid".into(),
        status: 400,
        detail: "a fault lasts longer than nothing and at most 24 hours".into(),
        hint: Some("write `--for 10m`".into()),
    })
}

fn too_many(detail: String, by: &str) -> dto::Problem {
    dto::Problem { title: "too many".into(), status: 409, detail, hint: Some(format!("{by} makes room")) }
}

/// Drops the faults whose time is over, until the application has drained.
pub(super) async fn expire(control: Arc<Control>) {
    let mut present = control.switchboard.present.subscribe();
    let mut drained = control.drained.clone();
    loop {
        let now = Timestamp::now();
        let next = present.borrow_and_update().switches.faults.iter().map(|fault| fault.until).min();
        if next.is_some_and(|next| next <= now) {
            drop_expired(&control, now).await;
        }
        let left = next.and_then(|next| Duration::try_from(next.duration_since(now)).ok());
        let pause = async {
            match left {
                Some(left) => sleep(left.clamp(Duration::from_millis(1), CLOCK_INTERVAL)).await,
                None if next.is_some() => sleep(CLOCK_INTERVAL).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            Ok(()) = present.changed() => {}
            () = pause => {}
            _ = drained.wait_for(|drained| *drained) => return,
        }
    }
}

async fn drop_expired(control: &Control, now: Timestamp) {
    let is_over = |fault: &mut Fault| fault.until <= now;
    let dropped = control
        .change_switches(|switched| Ok(switched.switches.faults.extract_if(.., is_over).collect::<Vec<Fault>>()));
    match dropped.await {
        Ok(dropped) => {
            let plan = control.plan();
            for fault in dropped.iter().map(|fault| lower::fault(&plan, fault, now)) {
                control.history.say(
                    "fault_expired",
                    format!("fault {} {} no more: its time is over", fault.id, lower::words(&fault)),
                );
            }
        }
        // The data plane looks at the time itself.
        Err(problem) => tracing::warn!(why = problem.detail, "faults that are over cannot be dropped"),
    }
}
