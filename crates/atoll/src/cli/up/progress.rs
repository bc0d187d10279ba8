//! What a person sees while an application comes up: one bar on a terminal, plain lines elsewhere, and a summary.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

use crate::api::dto::{Event, Instance, Service};
use crate::cli::output;
use crate::cli::up::watch::Goal;

/// A line of the bar is cut here, so that it never wraps and leaves traces.
const STEP_CHARACTERS_MAX: usize = 60;

pub struct Progress {
    name: String,
    gateway: String,
    broker: Option<String>,
    begun: Instant,
    bar: ProgressBar,
    /// Builds that run now.
    building: Vec<String>,
    was_ready: bool,
}

impl Progress {
    pub fn new(name: &str, gateway: &str, broker: Option<&str>) -> Self {
        let bar = if std::io::stderr().is_terminal() && std::env::var_os("CI").is_none() {
            ProgressBar::new(0)
        } else {
            ProgressBar::hidden()
        };
        let style = ProgressStyle::with_template("{spinner} {bar:20} {pos}/{len} ready  {wide_msg}");
        bar.set_style(style.expect("the template is valid"));
        bar.enable_steady_tick(Duration::from_millis(100));
        let (name, gateway, begun) = (name.to_owned(), gateway.to_owned(), Instant::now());
        let broker = broker.map(str::to_owned);
        Self { name, gateway, broker, begun, bar, building: Vec::new(), was_ready: false }
    }

    /// Shows one event: as a step of the bar where it is transient, else as a line that stays.
    pub fn event(&mut self, event: &Event, goal: Goal) {
        let subject = event.service.clone().unwrap_or_default();
        match event.kind.as_str() {
            "build_output" => {
                let line: String = event.message.trim().chars().take(STEP_CHARACTERS_MAX).collect();
                self.bar.set_message(format!("{}: {}", self.building.join(", "), output::printable(&line)));
                return;
            }
            "build_started" => self.building.push(subject),
            "build_finished" | "build_failed" => self.building.retain(|building| *building != subject),
            // One line for every instance of every start would bury what matters; `atoll ps` has them all.
            "started" | "ready" | "prepared" | "stopping" | "stopped" if self.bar.is_hidden() => {}
            "started" | "ready" | "prepared" | "stopping" | "stopped" => {
                self.bar.set_message(event.message.clone());
                return;
            }
            _ => {}
        }
        self.say(&event.message);
        // A command that ends shows them with its error.
        for line in event.lines.iter().filter(|_| goal == Goal::Stay) {
            self.say(&format!("  {}", output::printable(line)));
        }
    }

    /// Shows how far the wanted instances are, and once all are ready, where to go from here.
    ///
    /// While some are being replaced, or will not come, all that run is not all that was asked for.
    pub fn services(&mut self, services: &[&Service]) {
        let instances: Vec<&Instance> = services.iter().flat_map(|service| &service.instances).collect();
        let is_settled = services.iter().all(|service| !service.updating && service.given_up.is_none());
        let done = instances.iter().filter(|instance| instance.ready || instance.state == "exited").count();
        self.bar.set_length(instances.len() as u64);
        self.bar.set_position(done as u64);
        let ready = is_settled && done == instances.len();
        if ready && !self.was_ready {
            self.bar.set_message("");
            self.clear();
            let seconds = self.begun.elapsed().as_secs_f64();
            let serving = instances.iter().filter(|instance| instance.ready).count();
            let noun = if serving == 1 { "instance" } else { "instances" };
            let finished = match instances.len() - serving {
                0 => String::new(),
                count => format!(", {count} finished"),
            };
            self.say(&format!("{} is ready: {serving} {noun}{finished} in {seconds:.1} s", self.name));
            self.say(&format!("  gateway  {}", self.gateway));
            if let Some(broker) = &self.broker {
                self.say(&format!("  broker   {broker}"));
            }
        }
        self.was_ready = ready;
    }

    /// Prints a line to stderr above the bar.
    pub fn say(&self, line: &str) {
        self.bar.suspend(|| {
            // A terminal that is gone cannot be told.
            let _ = writeln!(anstream::stderr(), "{line}");
        });
    }

    /// Runs `print` while the bar is out of the way.
    pub fn suspend<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }

    /// Takes the bar away.
    pub fn clear(&self) {
        self.bar.finish_and_clear();
    }
}
