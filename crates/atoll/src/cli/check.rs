//! `atoll check`: every mistake at once, and nothing changed.

use clap::Args;
use manifest::Severity;

use crate::cli::output::{self, Format};
use crate::cli::target::{self, Folder};
use crate::cli::{Context, Failure};
use crate::lower;

#[derive(Debug, Args)]
pub struct Check {
    #[command(flatten)]
    folder: Folder,
    /// Explain a code, such as E0001, instead of checking
    #[arg(long, value_name = "CODE")]
    explain: Option<String>,
    /// Fail when there are warnings
    #[arg(long)]
    deny_warnings: bool,
}

impl Check {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        if let Some(code) = self.explain {
            return explain(&code);
        }
        let target = self.folder.target()?;
        let loaded = target.project.load();
        match context.format {
            Format::Table => target::print_diagnostics(&loaded),
            Format::Json => {
                let all: Vec<_> =
                    loaded.diagnostics.iter().map(|diagnostic| diagnostic.to_json(&loaded.sources)).collect();
                output::json(&all)?;
            }
        }
        let Some(plan) = &loaded.plan else {
            return Err(target::refused(&loaded).into());
        };
        // What only the engines can tell.
        events::check(&lower::events(plan, None)).map_err(|error| {
            let hint = "nothing would be changed by `atoll up`: mend it where it is written".to_owned();
            Failure::new("the manifest cannot be used").because(error).hint(hint)
        })?;
        let warnings = loaded.diagnostics.iter().filter(|d| d.severity == Severity::Warning).count();
        let found = match warnings {
            0 => "no mistakes".to_owned(),
            1 => "1 warning".to_owned(),
            many => format!("{many} warnings"),
        };
        if context.format == Format::Table {
            let (services, routes) = (plan.services.len(), plan.routes.len());
            output::line(&format!("{}: {services} services, {routes} routes, {found}", plan.name))?;
        }
        if self.deny_warnings && warnings > 0 {
            let hint = "mend it, or write `allow = [\"CODE\"]` where a lint is meant".to_owned();
            return Err(Failure::new(format!("the manifest has {found}, which `--deny-warnings` refuses"))
                .hint(hint)
                .into());
        }
        Ok(())
    }
}

fn explain(wanted: &str) -> anyhow::Result<()> {
    let code = manifest::Code::all().iter().find(|code| code.as_str().eq_ignore_ascii_case(wanted));
    match code {
        Some(code) => output::bytes(code.explanation().as_bytes()),
        None => {
            let hint = "codes stand in brackets after `error` and `warning`, as in error[E0001]".to_owned();
            Err(Failure::new(format!("there is no code `{wanted}`")).hint(hint).into())
        }
    }
}
