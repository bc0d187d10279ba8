//! `atoll describe`: everything about one service, or about the gateway or the broker.

use clap::Args;
use serde_json::Value;

use crate::api::client::Client;
use crate::cli::output::{self, Format};
use crate::cli::target::Words;
use crate::cli::{Context, Failure, block_on};

#[derive(Debug, Args)]
pub struct Describe {
    #[command(flatten)]
    words: Words,
    /// Of the broker: also a URL with every right, its password included
    #[arg(long)]
    show_secrets: bool,
}

impl Describe {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let target = self.words.target()?;
        let [subject] = target.services.as_slice() else {
            let hint = "as in `atoll describe catalog`, `atoll describe gateway` or `atoll describe broker`".to_owned();
            return Err(Failure::new("name one service to describe").hint(hint).into());
        };
        let client = Client::new(&target.project);
        let path = match subject.as_str() {
            "gateway" => "/v1/gateway".to_owned(),
            "broker" => format!("/v1/broker?secrets={}", self.show_secrets),
            service => format!("/v1/services/{service}"),
        };
        let description = block_on(client.get::<Value>(&path))?.map_err(Failure::from)?;
        match context.format {
            Format::Json => output::json(&description),
            Format::Table => print(&description, 0),
        }
    }
}

/// Prints an object as an outline. What is empty is left out.
pub fn print(value: &Value, depth: usize) -> anyhow::Result<()> {
    let indent = "  ".repeat(depth);
    for (key, value) in value.as_object().into_iter().flatten() {
        let key = key.replace('_', " ");
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
                let items: Vec<String> = items.iter().map(plain).collect();
                output::line(&format!("{indent}{key:14}{}", items.join(", ")))?;
            }
            Value::Array(items) => {
                output::line(&format!("{indent}{key}"))?;
                for item in items {
                    output::line(&format!("{indent}  -"))?;
                    print(item, depth + 2)?;
                }
            }
            Value::Object(_) => {
                output::line(&format!("{indent}{key}"))?;
                print(value, depth + 1)?;
            }
            scalar => output::line(&format!("{indent}{key:14}{}", plain(scalar)))?,
        }
    }
    Ok(())
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => output::printable(text),
        other => other.to_string(),
    }
}
