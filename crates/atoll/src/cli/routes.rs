//! `atoll routes`: which request goes where, and why. Needs no daemon.

use clap::Args;
use http::header::HeaderName;
use http::{HeaderValue, Method, Uri};
use kit::Chain;
use manifest::{Plan, plan};
use proxy::{Considered, Table, Verdict};
use serde::Serialize;

use crate::cli::output::{self, Format};
use crate::cli::target::Folder;
use crate::cli::{Context, Failure};
use crate::lower;

#[derive(Debug, Args)]
pub struct Routes {
    #[command(flatten)]
    folder: Folder,
    /// Say which route a request for this URL takes, and why not the others
    #[arg(long, value_name = "URL")]
    explain: Option<String>,
    /// Method of the request to explain
    #[arg(short = 'X', long, default_value = "GET", requires = "explain")]
    method: String,
    /// Headers of the request to explain, as `name: value`
    #[arg(short = 'H', long = "header", value_name = "HEADER", requires = "explain")]
    headers: Vec<String>,
}

/// A rule, in the order in which rules are tried.
#[derive(Debug, Serialize)]
struct Rule {
    route: String,
    rule: String,
    backends: Vec<String>,
    timeout_ms: u128,
    /// With --explain: `chosen`, `shadowed`, or why it does not match.
    #[serde(skip_serializing_if = "Option::is_none")]
    verdict: Option<String>,
}

impl Routes {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let plan = self.folder.target()?.plan()?;
        let snapshot = lower::snapshot(&plan, [], &registry::Snapshot::default());
        let Some(gateway) = snapshot.listeners.get(lower::GATEWAY) else {
            return Err(Failure::new("this application has no gateway").into());
        };
        let table = Table::compile(gateway).map_err(|error| Failure::new(Chain(&error).to_string()))?;
        let considered = match &self.explain {
            Some(url) => self.consider(&table, url)?,
            // Any request passes every rule; its verdicts are not shown.
            None => self.consider(&table, "http://localhost/")?,
        };
        let rules: Vec<Rule> = considered.into_iter().map(|seen| self.rule(&plan, seen)).collect();
        match context.format {
            Format::Json => output::json(&rules)?,
            Format::Table => print(&rules, self.explain.is_some())?,
        }
        match rules.iter().any(|rule| rule.verdict.as_deref() == Some("chosen")) || self.explain.is_none() {
            true => Ok(()),
            false => Err(Failure::not_reached("no route takes this request; it would be answered 404").into()),
        }
    }

    fn consider(&self, table: &Table, url: &str) -> Result<Vec<Considered>, Failure> {
        let wrong = |what: &str| Failure::new(format!("{what} is not valid"));
        let url = if url.starts_with('/') { format!("http://localhost{url}") } else { url.to_owned() };
        let uri: Uri = url.parse().map_err(|error| wrong(&format!("the URL `{url}`")).because(error))?;
        if self.method.parse::<Method>().is_err() {
            return Err(wrong(&format!("the method `{}`", self.method)));
        }
        let host = uri.authority().map_or("localhost", |authority| authority.as_str());
        // The head that the gateway would read.
        let mut head = format!("{} {url} HTTP/1.1\r\nhost: {host}\r\n", self.method);
        for header in &self.headers {
            let malformed = || wrong(&format!("the header `{header}`")).hint("write it as `name: value`".to_owned());
            let (name, value) = header.split_once(':').ok_or_else(malformed)?;
            HeaderName::try_from(name.trim()).map_err(|_| malformed())?;
            HeaderValue::from_str(value.trim()).map_err(|_| malformed())?;
            head.push_str(&format!("{}: {}\r\n", name.trim(), value.trim()));
        }
        head.push_str("\r\n");
        proxy::with_head(head.as_bytes(), |head| proxy::explain(table, head)).map_err(|reason| {
            Failure::not_reached(format!(
                "the gateway refuses this request with {}: {}",
                reason.status(),
                reason.code()
            ))
        })
    }

    fn rule(&self, plan: &Plan, seen: Considered) -> Rule {
        let route = plan.routes.iter().find(|route| route.name == seen.route);
        let verdict = match seen.verdict {
            Verdict::Chosen => "chosen".to_owned(),
            Verdict::Shadowed => "shadowed".to_owned(),
            Verdict::Rejected(why) => why,
        };
        Rule {
            rule: seen.rule,
            backends: route.map(backends).unwrap_or_default(),
            timeout_ms: route.map_or(0, |route| route.policy.timeout.as_millis()),
            verdict: self.explain.is_some().then_some(verdict),
            route: seen.route,
        }
    }
}

fn backends(route: &plan::Route) -> Vec<String> {
    let redirect = route.filters.iter().find_map(|filter| match filter {
        plan::Filter::RequestRedirect { status, .. } => Some(format!("redirect {status}")),
        _ => None,
    });
    let weighted = |backend: &plan::Backend| match route.backends.len() {
        1 => backend.service.clone(),
        _ => format!("{} ({})", backend.service, backend.weight),
    };
    redirect.into_iter().chain(route.backends.iter().map(weighted)).collect()
}

fn print(rules: &[Rule], explained: bool) -> anyhow::Result<()> {
    let rows = rules.iter().map(|rule| {
        let mut row = vec![rule.route.clone(), rule.rule.clone(), rule.backends.join(", ")];
        row.push(rule.verdict.clone().unwrap_or_else(|| format!("{} ms", rule.timeout_ms)));
        row
    });
    output::table(&["route", "rule", "to", if explained { "verdict" } else { "timeout" }], rows)
}
