//! The report as text, one table for each work.

use std::fmt::Write;

use super::{Entry, Figures, Report, Space, latency};
use crate::statistics::Summary;
use crate::work::{CONNECTIONS, IDLE_CONNECTIONS, Work};

/// What stands where there is no figure.
const NONE: &str = "-";

pub(super) fn print(report: &Report) -> String {
    let mut text = String::new();
    for figures in &report.figures {
        let title = match figures.work {
            Work::Routes => figures.title.clone(),
            work => format!("{}, {CONNECTIONS} connections, {}", work.title(), figures.title),
        };
        let rows = figures.entries.iter().map(|entry| row(figures, entry));
        put(&mut text, &title, &header(figures), &rows.collect::<Vec<_>>());
    }
    if !report.spaces.is_empty() {
        let header = [
            "memory, MiB".to_owned(),
            format!("{CONNECTIONS} busy, RSS"),
            "PSS".to_owned(),
            format!("{IDLE_CONNECTIONS} idle, RSS more"),
            "PSS more".to_owned(),
            "idle held".to_owned(),
        ];
        put(&mut text, "Memory, access logs off", &header, &report.spaces.iter().map(space_row).collect::<Vec<_>>());
    }
    for (name, why) in &report.left_out {
        let _ = writeln!(text, "left out: {name}: {why}");
    }
    text
}

fn header(figures: &Figures) -> Vec<String> {
    let mut header = vec!["CPU us a request", "median", "min..max", "user", "sys"];
    match figures.work {
        Work::Rate => header.extend(["p50 us", "min..max", "p99 us", "min..max"]),
        _ => header.push("requests/s"),
    }
    let bases = figures.bases();
    let mut header: Vec<String> = header.into_iter().map(str::to_owned).collect();
    header.extend(bases.iter().map(|base| format!("/ {}", figures.find(base).map_or(base, |entry| &entry.name))));
    header.extend(["beside", ""].map(str::to_owned));
    header
}

fn row(figures: &Figures, entry: &Entry) -> Vec<String> {
    let is_direct = entry.id == "direct";
    let cpu = entry.summary(|sample| sample.cpu.total).filter(|_| !is_direct);
    let halves = entry.halves().filter(|_| !is_direct);
    let mut row = vec![entry.name.clone(), median(cpu, 1), spread(cpu, 1)];
    row.extend([halves.map(|(user, _)| user), halves.map(|(_, system)| system)].map(|half| figure(half, 1)));
    match figures.work {
        Work::Rate => {
            for summary in [
                entry.summary(|sample| latency(sample, |(p50, _)| p50)),
                entry.summary(|sample| latency(sample, |(_, p99)| p99)),
            ] {
                row.extend([median(summary, 0), spread(summary, 0)]);
            }
        }
        _ => row.push(median(entry.summary(|sample| sample.requests_per_second), 0)),
    }
    for base in figures.bases() {
        row.push(median(figures.ratio(entry, &base).filter(|_| !is_direct), 2));
    }
    let beside = entry.summary(|sample| sample.beside).filter(|beside| beside.median > 0.0);
    row.push(median(beside, 2));
    let errors = entry.errors();
    let errors = (errors > 0).then(|| format!("{errors} ERRORS"));
    row.push([errors.as_deref(), entry.remark].into_iter().flatten().collect::<Vec<_>>().join("; "));
    row
}

#[expect(clippy::cast_precision_loss)]
fn space_row(space: &Space) -> Vec<String> {
    let mib = |kib: f64| Some(kib / 1024.0);
    let each = space.each();
    let many = IDLE_CONNECTIONS as f64;
    let mut row = vec![space.name.clone()];
    row.extend([mib(space.busy.rss as f64), mib(space.busy.pss as f64)].map(|value| figure(value, 1)));
    row.push(figure(each.and_then(|(rss, _)| mib(rss * many)), 1));
    row.push(figure(each.and_then(|(_, pss)| mib(pss * many)), 1));
    row.push(space.failure.clone().unwrap_or_else(|| space.connections.to_string()));
    row
}

pub(crate) fn figure(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| NONE.to_owned(), |value| format!("{value:.digits$}"))
}

pub(crate) fn median(summary: Option<Summary>, digits: usize) -> String {
    figure(summary.map(|summary| summary.median), digits)
}

pub(crate) fn spread(summary: Option<Summary>, digits: usize) -> String {
    summary.map_or_else(|| NONE.to_owned(), |Summary { min, max, .. }| format!("{min:.digits$}..{max:.digits$}"))
}

/// The first column stands left, the others right.
pub(crate) fn put(text: &mut String, title: &str, header: &[String], rows: &[Vec<String>]) {
    let width = |at: usize| {
        let cells = rows.iter().filter_map(|row| row.get(at)).chain(header.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..header.len()).map(width).collect();
    let _ = writeln!(text, "{title}");
    for row in std::iter::once(header).chain(rows.iter().map(Vec::as_slice)) {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(&widths).enumerate() {
            let _ = match at {
                0 => write!(line, "  {cell:<width$}"),
                _ => write!(line, "  {cell:>width$}"),
            };
        }
        let _ = writeln!(text, "{}", line.trim_end());
    }
    text.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::report;

    #[test]
    fn every_peer_has_a_line_in_every_table() {
        let text = print(&report());
        let lines = |name: &str| text.lines().filter(|line| line.trim_start().starts_with(name)).count();
        assert_eq!((lines("Atoll 0.1.0"), lines("nginx"), lines("left out: envoy")), (3, 2, 1), "{text}");
        let small = text.lines().find(|line| line.contains("Atoll")).unwrap();
        let words: Vec<&str> = small.split_whitespace().collect();
        assert_eq!(words[2..], ["8.5", "8.0..9.0", "2.1", "6.4", "50", "0.50", "0.77", "0.10"]);
    }
}
