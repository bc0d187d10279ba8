//! `atoll breaker`: how every circuit breaker stands, and the switch of each.

use clap::{Args, Subcommand};

use crate::api::client::Client;
use crate::api::dto::{Breaker as Seen, BreakerAction, BreakerState, BreakerWish};
use crate::cli::output::{self, Format};
use crate::cli::target::Place;
use crate::cli::{Context, Failure, block_on};

#[derive(Debug, Subcommand)]
pub enum Breaker {
    /// Show every circuit breaker, and what it has counted
    #[command(visible_alias = "list")]
    Ls(Ls),
    /// Let nothing through, until it is reset
    Open(Switch),
    /// Let everything through, until it is reset
    Close(Switch),
    /// Leave it to itself again: closed, with nothing counted
    Reset(Switch),
}

#[derive(Debug, Args)]
pub struct Ls {
    #[command(flatten)]
    place: Place,
}

/// What is forced outlives the daemon and the data plane; `atoll down` ends it.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  atoll breaker open 'cart->catalog'\n  atoll breaker reset route products")]
pub struct Switch {
    /// Edge or route, as `atoll breaker ls` shows it
    #[arg(value_name = "EDGE|ROUTE", required = true)]
    target: Vec<String>,
    #[command(flatten)]
    place: Place,
}

impl Breaker {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let (switch, action) = match self {
            Self::Ls(ls) => {
                let client = Client::new(&ls.place.target(&[])?.project);
                let breakers: Vec<Seen> = block_on(client.get("/v1/breakers"))?.map_err(Failure::from)?;
                return show(&breakers, context.format);
            }
            Self::Open(switch) => (switch, BreakerAction::Open),
            Self::Close(switch) => (switch, BreakerAction::Close),
            Self::Reset(switch) => (switch, BreakerAction::Reset),
        };
        let client = Client::new(&switch.place.target(&[])?.project);
        let wish = BreakerWish { target: switch.target.join(" "), action };
        let breakers: Vec<Seen> = block_on(client.ask("/v1/breakers", &wish))?.map_err(Failure::from)?;
        show(&breakers, context.format)
    }
}

fn show(breakers: &[Seen], format: Format) -> anyhow::Result<()> {
    if format == Format::Json {
        return output::json(&breakers);
    }
    let row = |breaker: &Seen| {
        let BreakerState { failures, slow, calls, .. } = breaker.state;
        let counts = [failures, slow, calls].map(|count| count.to_string());
        [breaker.name.clone(), in_words(&breaker.state)].into_iter().chain(counts).collect()
    };
    output::table(&["breaker", "state", "failures", "slow", "calls"], breakers.iter().map(row))
}

/// As in "closed", "forced open", and "open (4.2 s)" with the time until it lets something through.
pub fn in_words(state: &BreakerState) -> String {
    let name = state.state.replace('_', " ");
    match state.open_left_ms {
        0 => name,
        left => format!("{name} ({})", output::milliseconds(left as f64)),
    }
}
