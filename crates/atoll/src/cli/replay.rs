//! `atoll replay`: events of a stream delivered to a subscription once more.

use clap::Args;

use crate::api::client::Client;
use crate::api::dto::{Replay as Begun, ReplayWish, Since};
use crate::cli::logs;
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

/// The subscription goes back to where it is told and delivers from there, in order, with the header `atoll-replayed` on what
/// it has delivered before. What is new waits behind. The command returns at once; `atoll topics` shows how far it is.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll replay --since first --subscription search-catalog-product-all\n  \
atoll replay --since 2h --subscription notification-orders-placed\n  atoll replay --since 4711 --subscription search-catalog-product-all")]
pub struct Replay {
    /// Since when: `first`, an age such as 2h, a time, or a number of an event in its stream
    #[arg(long, value_name = "PLACE", value_parser = since)]
    since: Since,
    /// To which subscription; `atoll topics` lists them
    #[arg(long, value_name = "SUBSCRIPTION")]
    subscription: String,
    #[command(flatten)]
    place: Place,
}

impl Replay {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let client = Client::new(&self.place.target(&[])?.project);
        let wish = ReplayWish { subscription: self.subscription, since: self.since };
        let begun: Begun = block_on(client.ask("/v1/replay", &wish))?.map_err(Failure::from)?;
        match context.format {
            Format::Json => output::json(&begun),
            Format::Table if begun.left == 0 => output::line("there is nothing to deliver again since then"),
            Format::Table => output::line(&format!(
                "{} delivers again from {} to {}: at most {} events",
                wish.subscription, begun.from, begun.to, begun.left
            )),
        }
    }
}

fn since(text: &str) -> Result<Since, String> {
    match (text, text.parse()) {
        ("first", _) => Ok(Since::First),
        (_, Ok(sequence)) => Ok(Since::Sequence(sequence)),
        _ => logs::since(text)
            .map(Since::Time)
            .map_err(|_| format!("`{text}` is neither `first`, an age such as 2h, a time, nor a number")),
    }
}
