//! `bench resilience`: what becomes of requests when services are slow, down or asked for more than they can do, and what it
//! costs to be prepared for that. One file a scenario; each gives a table.

mod chart;
mod cost;
mod overload;
mod slow;
mod stand;
mod storm;

use anyhow::{Context, Result};
use clap::ValueEnum;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::options::Resilience as Options;
use crate::peers::{Kind, Peer};
use crate::report::{save, table};
use crate::{idle, machine};

use stand::Stand;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// One of three instances is slow
    Slow,
    /// All instances are down
    Storm,
    /// Five times what a service can do
    Overload,
    /// Everything on, and quiet
    Cost,
}

/// What a scenario has found.
#[derive(Debug)]
struct Section {
    id: &'static str,
    title: String,
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
    json: Value,
}

/// What every scenario is given.
#[derive(Debug)]
struct Bench {
    options: Options,
    folder: tempfile::TempDir,
    atoll: Peer,
    /// Nothing where it is not installed.
    haproxy: Option<Peer>,
}

pub(crate) async fn run(options: Options) -> Result<()> {
    idle::raise_open_files();
    let given = &options.given;
    let atoll = Kind::Atoll.find(&given.atoll, &given.tools)?;
    let haproxy = match Kind::Haproxy28.find(&given.atoll, &given.tools) {
        Ok(peer) => Some(peer),
        Err(error) => {
            eprintln!("bench: HAProxy 2.8 is left out: {error:#}");
            None
        }
    };
    let machine = machine::describe();
    let folder = tempfile::Builder::new().prefix("atoll-bench-").tempdir().context("cannot make a folder")?;
    let bench = Bench { options, folder, atoll, haproxy };
    let mut sections = Vec::new();
    let measured = bench.measure(&mut sections).await;
    // Also what was measured before something failed.
    for section in &sections {
        print(section);
    }
    measured?;
    if let Some(folder) = bench.options.destination() {
        let text = serde_json::to_string_pretty(&bench.to_json(&machine, &sections))? + "\n";
        save(&folder, "resilience.json", &text)?;
        if let Some(overload) = sections.iter().find(|section| section.id == overload::ID) {
            save(&folder, "resilience.svg", &chart::draw(&overload.json))?;
        }
    }
    Ok(())
}

fn print(section: &Section) {
    let header: Vec<String> = section.header.iter().map(|&name| name.to_owned()).collect();
    let mut text = String::new();
    table::put(&mut text, &section.title, &header, &section.rows);
    println!("{text}");
}

impl Bench {
    async fn measure(&self, sections: &mut Vec<Section>) -> Result<()> {
        for scenario in Scenario::value_variants().iter().filter(|scenario| self.options.has(**scenario)) {
            match scenario {
                Scenario::Slow => sections.push(slow::measure(self).await?),
                Scenario::Storm => sections.push(storm::measure(self).await?),
                Scenario::Overload => sections.push(overload::measure(self).await?),
                Scenario::Cost => sections.push(cost::measure(self).await?),
            }
        }
        Ok(())
    }

    fn to_json(&self, machine: &Value, sections: &[Section]) -> Value {
        let peers = [Some(&self.atoll), self.haproxy.as_ref()].into_iter().flatten().map(|peer| &peer.name);
        let scenarios: Map<String, Value> =
            sections.iter().map(|section| (section.id.to_owned(), section.json.clone())).collect();
        json!({
            "bench": "resilience",
            "date": Timestamp::now().strftime("%Y-%m-%d").to_string(),
            "machine": machine,
            "peers": peers.collect::<Vec<_>>(),
            "settings": { "rounds": self.options.rounds, "seconds": self.options.seconds },
            "scenarios": scenarios,
        })
    }
}

/// Each once, another one first in every round: A B C, B C A, ...
fn turns(count: usize, round: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |offset| (round + offset) % count)
}

/// Milliseconds of microseconds.
fn milliseconds(microseconds: f64) -> f64 {
    microseconds / 1_000.0
}

#[expect(clippy::cast_precision_loss)]
fn float(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_is_first_once() {
        let orders: Vec<Vec<usize>> = (0..3).map(|round| turns(3, round).collect()).collect();
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1]]);
    }
}
