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

/// Columns of a key.
const WIDTH_MIN: usize = 14;

/// Prints an object as an outline. What is empty is left out.
pub fn print(value: &Value, depth: usize) -> anyhow::Result<()> {
    let indent = "  ".repeat(depth);
    let is_line = |value: &Value| !value.is_null() && !value.is_object();
    let lines = value.as_object().into_iter().flatten().filter(|(_, value)| is_line(value));
    let width = lines.map(|(key, _)| key.len() + 2).max().unwrap_or_default().max(WIDTH_MIN);
    for (key, value) in value.as_object().into_iter().flatten() {
        let is_size = key.contains("bytes") || key == "max_payload";
        let key = key.replace('_', " ");
        match value {
            Value::Null => {}
            Value::Array(items) if items.is_empty() => {}
            Value::Array(items) if items.iter().all(|item| !item.is_object()) => {
                let items: Vec<String> = items.iter().map(plain).collect();
                output::line(&format!("{indent}{key:width$}{}", items.join(", ")))?;
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
            Value::Number(bytes) if is_size && bytes.is_u64() => {
                let size = output::bytes_shown(bytes.as_u64().unwrap_or_default());
                output::line(&format!("{indent}{key:width$}{size}"))?;
            }
            scalar => output::line(&format!("{indent}{key:width$}{}", plain(scalar)))?,
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
