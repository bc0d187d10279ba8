//! Asks one instance whether it is well, for as long as its process lives, and reports what changes.
//! `check` asks once; here are the rhythm and the judgement, which gets results and time as values.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};

use crate::config::{Probe, Probes};
use crate::shim::wire::Readiness;

pub(crate) mod check;

use check::Target;

/// Until it succeeds for the first time a probe is asked this often, whatever its interval.
const INTERVAL_FIRST: Duration = Duration::from_millis(50);

/// Limit: no probe is asked more often, whatever its interval.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

/// An instance that does not get ready is said after the first of these, and from then on each time the second passes.
const NOTICE_FIRST: Duration = Duration::from_secs(10);
const NOTICE_NEXT: Duration = Duration::from_secs(30);

/// What the loop must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Takes requests, from now on or again.
    Ready,
    /// Was ready and is not any more.
    Unready { why: String },
    /// Failed, and nothing follows from it yet.
    Failing { why: String, notice: Notice },
    /// Must be restarted.
    Unhealthy { why: String },
}

/// Whether a failure is told as an event, or shown as the present reason only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Notice {
    Quiet,
    Told,
}

/// Probes until it is dropped. Failures are reported when their reason changes, not each time. `past` is what was found
/// before, by another daemon: one that was ready is not booting.
pub(crate) async fn run(probes: &Probes, target: &Target, past: Readiness, verdicts: &mpsc::Sender<Verdict>) {
    let start = Instant::now();
    if let Some(probe) = probes.startup.as_ref().filter(|_| past == Readiness::Never) {
        let patience = probe.interval.saturating_mul(probe.failure_threshold);
        let mut asked = check::Check::new(&probe.check, target, past);
        let mut judge = Judge::new(probe, past, start);
        while let Err(why) = asked.ask(probe.timeout).await {
            if start.elapsed() >= patience {
                let why = format!("startup probe failed for {} s: {why}", start.elapsed().as_secs());
                return send(verdicts, Verdict::Unhealthy { why }).await;
            }
            if let Some(verdict) = judge.judge(Err(why), Instant::now()) {
                send(verdicts, verdict).await;
            }
            sleep(INTERVAL_FIRST).await;
        }
    }
    tokio::join!(run_readiness(&probes.readiness, target, past, start, verdicts), async {
        if let Some(probe) = &probes.liveness {
            run_liveness(probe, target, past, verdicts).await;
        }
    });
}

async fn run_readiness(
    probe: &Probe,
    target: &Target,
    past: Readiness,
    start: Instant,
    verdicts: &mpsc::Sender<Verdict>,
) {
    let mut asked = check::Check::new(&probe.check, target, past);
    let mut judge = Judge::new(probe, past, start);
    loop {
        let result = asked.ask(probe.timeout).await;
        if let Some(verdict) = judge.judge(result, Instant::now()) {
            send(verdicts, verdict).await;
        }
        let interval = probe.interval.max(INTERVAL_MIN);
        sleep(if judge.was_ready() { interval } else { interval.min(INTERVAL_FIRST) }).await;
    }
}

async fn run_liveness(probe: &Probe, target: &Target, past: Readiness, verdicts: &mpsc::Sender<Verdict>) {
    let mut asked = check::Check::new(&probe.check, target, past);
    let mut failures = 0;
    loop {
        sleep(probe.interval.max(INTERVAL_MIN)).await;
        let Err(why) = asked.ask(probe.timeout).await else {
            failures = 0;
            continue;
        };
        if asked.was_refused() {
            // It does not know the default path, but it answers: it lives.
            failures = 0;
            continue;
        }
        failures += 1;
        if failures >= probe.failure_threshold {
            let why = format!("liveness probe failed {failures} times: {why}");
            return send(verdicts, Verdict::Unhealthy { why }).await;
        }
    }
}

async fn send(verdicts: &mpsc::Sender<Verdict>, verdict: Verdict) {
    // A closed channel means that the process has ended: nobody asks any more.
    let _ = verdicts.send(verdict).await;
}

/// Turns the results of a readiness probe into what has changed.
#[derive(Debug)]
struct Judge {
    failure_threshold: u32,
    state: State,
    /// In a row.
    failures: u32,
    why: String,
    notice_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Never,
    Ready,
    Unready,
}

impl Judge {
    fn new(probe: &Probe, past: Readiness, start: Instant) -> Self {
        Self {
            failure_threshold: probe.failure_threshold,
            state: match past {
                Readiness::Never => State::Never,
                Readiness::Ready => State::Ready,
                Readiness::Unready => State::Unready,
            },
            failures: 0,
            why: String::new(),
            notice_at: start + NOTICE_FIRST,
        }
    }

    fn was_ready(&self) -> bool {
        self.state != State::Never
    }

    fn judge(&mut self, result: Result<(), String>, now: Instant) -> Option<Verdict> {
        let Err(why) = result else {
            let is_news = self.state != State::Ready || self.failures > 0;
            (self.state, self.failures) = (State::Ready, 0);
            self.why.clear();
            return is_news.then_some(Verdict::Ready);
        };
        self.failures = self.failures.saturating_add(1);
        let is_new = self.why != why;
        self.why.clone_from(&why);
        if self.state == State::Ready && self.failures >= self.failure_threshold {
            self.state = State::Unready;
            self.notice_at = now + NOTICE_NEXT;
            return Some(Verdict::Unready { why });
        }
        let notice = match self.state {
            State::Ready if self.failures == 1 => Notice::Told,
            State::Never | State::Unready if now >= self.notice_at => {
                self.notice_at = now + NOTICE_NEXT;
                Notice::Told
            }
            _ => Notice::Quiet,
        };
        (is_new || notice == Notice::Told).then_some(Verdict::Failing { why, notice })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Check;

    #[test]
    fn a_judge_reports_what_changes_and_nothing_else() {
        let interval = Duration::from_secs(1);
        let probe = Probe { check: Check::Tcp, interval, timeout: interval, failure_threshold: 2 };
        let start = Instant::now();
        let mut judge = Judge::new(&probe, Readiness::Never, start);
        let failing = |why: &str, notice| Some(Verdict::Failing { why: why.to_owned(), notice });
        for (second, result, expected) in [
            (0, Err("refused"), failing("refused", Notice::Quiet)),
            (1, Err("refused"), None),
            (2, Err("500"), failing("500", Notice::Quiet)),
            (10, Err("500"), failing("500", Notice::Told)),
            (39, Err("500"), None),
            (40, Err("500"), failing("500", Notice::Told)),
            (41, Ok(()), Some(Verdict::Ready)),
            (42, Ok(()), None),
            (43, Err("500"), failing("500", Notice::Told)),
            (44, Ok(()), Some(Verdict::Ready)),
            (45, Err("500"), failing("500", Notice::Told)),
            (46, Err("500"), Some(Verdict::Unready { why: "500".to_owned() })),
            (47, Err("500"), None),
            (76, Err("500"), failing("500", Notice::Told)),
            (77, Ok(()), Some(Verdict::Ready)),
        ] {
            let seen = judge.judge(result.map_err(str::to_owned), start + Duration::from_secs(second));
            assert_eq!(seen, expected, "second {second}");
        }
    }
}
