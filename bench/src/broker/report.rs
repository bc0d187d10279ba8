//! What the figures of the broker say: tables, JSON, and a chart of how each goal is met. Ratios are medians of the rounds'
//! own ratios.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::{Figure, Goal, Kind, Measured, Section, Series};
use crate::chart::{BAR, CLOSE, STEP, TOP, escape, open};
use crate::options::Broker as Options;
use crate::report::{summary_to_json, table};
use crate::statistics::Summary;

/// Where bars begin, and where one that just meets its goal ends.
const LEFT: f64 = 330.0;
const MET: f64 = 480.0;
/// How much longer than that the longest one is drawn.
const LONGEST: f64 = 1.5;

impl Series {
    fn figures(&self, of: impl Fn(&Measured) -> f64) -> Vec<f64> {
        self.measured.iter().map(of).collect()
    }

    fn summary(&self, of: impl Fn(&Measured) -> f64) -> Option<Summary> {
        Summary::of(self.figures(of).into_iter().filter(|figure| figure.is_finite()))
    }
}

impl Section {
    pub(super) fn title(&self) -> String {
        let what = match self.work.goal() {
            Some(Goal { figure, base, bound }) => {
                let what = match figure {
                    Figure::Cpu => "CPU at most",
                    Figure::Rate => "rate at least",
                    Figure::Latency => "p50 at most",
                };
                format!(" (goal: {what} {bound:.1} × {})", base.title())
            }
            None => String::new(),
        };
        format!("{}{what}", self.work.title())
    }

    fn find(&self, kind: Kind) -> Option<&Series> {
        self.series.iter().find(|series| series.kind == kind)
    }

    /// A server's figure by another one's.
    fn ratio(&self, kind: Kind, figure: Figure, base: Kind) -> Option<Summary> {
        let of = |kind| Some(self.find(kind)?.figures(|measured| measured.figure(figure)));
        Summary::of_ratios(&of(kind)?, &of(base)?).filter(|summary| summary.median.is_finite())
    }

    pub(super) fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let header =
            ["", "per second", "min..max", "CPU us", "min..max", "user", "p50 us", "p99 us", "RSS MiB", "s", "ratio"];
        let mut rows = Vec::new();
        for series in &self.series {
            let rate = series.summary(|measured| measured.per_second);
            let cpu = series.summary(|measured| measured.cpu.total);
            let latency =
                |pick: fn((f64, f64)) -> f64| series.summary(|measured| measured.latency.map_or(f64::NAN, pick));
            #[expect(clippy::cast_precision_loss)]
            let memory =
                series.summary(|measured| measured.memory.map_or(f64::NAN, |memory| memory.rss as f64 / 1024.0));
            let goal = self.work.goal().filter(|_| series.kind == Kind::Atoll);
            rows.push(vec![
                series.kind.title().to_owned(),
                table::median(rate, 0),
                table::spread(rate, 0),
                table::median(cpu, 2),
                table::spread(cpu, 2),
                table::median(series.summary(|measured| measured.cpu.user), 2),
                table::median(latency(|(p50, _)| p50), 0),
                table::median(latency(|(_, p99)| p99), 0),
                table::median(memory, 1),
                table::median(series.summary(|measured| measured.seconds), 2),
                table::median(goal.and_then(|goal| self.ratio(series.kind, goal.figure, goal.base)), 2),
            ]);
        }
        if let Some(failure) = &self.failure {
            rows.push(vec![format!("FAILED: {failure}")]);
        }
        (header.map(str::to_owned).to_vec(), rows)
    }

    fn to_json(&self) -> Value {
        let mut value = Map::new();
        value.insert("title".to_owned(), json!(self.work.title()));
        for series in &self.series {
            let put = |of: fn(&Measured) -> f64| summary_to_json(series.summary(of));
            let ratios = [Figure::Cpu, Figure::Rate, Figure::Latency].map(|figure| {
                let to = |base| summary_to_json(self.ratio(series.kind, figure, base));
                json!({ "nats-server": to(Kind::Nats), "nats-server-synced": to(Kind::Synced) })
            });
            let [cpu, rate, latency] = ratios;
            #[expect(clippy::cast_precision_loss)]
            let figures = json!({
                "per_second": put(|measured| measured.per_second), "seconds": put(|measured| measured.seconds),
                "cpu_us": put(|measured| measured.cpu.total), "cpu_user_us": put(|measured| measured.cpu.user),
                "cpu_system_us": put(|measured| measured.cpu.system),
                "p50_us": put(|measured| measured.latency.map_or(f64::NAN, |latency| latency.0)),
                "p99_us": put(|measured| measured.latency.map_or(f64::NAN, |latency| latency.1)),
                "rss_kib": put(|measured| measured.memory.map_or(f64::NAN, |memory| memory.rss as f64)),
                "messages": put(|measured| measured.messages as f64),
                "ratio_of_cpu_to": cpu, "ratio_of_rate_to": rate, "ratio_of_p50_to": latency,
            });
            value.insert(series.kind.id().to_owned(), figures);
        }
        if let Some(failure) = &self.failure {
            value.insert("failure".to_owned(), json!(failure));
        }
        value.into()
    }

    /// 1 is just met, less is better.
    fn distance(&self) -> Option<(f64, f64, Goal)> {
        let goal = self.work.goal()?;
        let ratio = self.ratio(Kind::Atoll, goal.figure, goal.base)?.median;
        let distance = if goal.figure == Figure::Rate { goal.bound / ratio } else { ratio / goal.bound };
        Some((distance, ratio, goal))
    }
}

pub(super) fn to_json(machine: &Value, options: &Options, sections: &[Section]) -> Value {
    let works: Map<String, Value> = sections.iter().map(|section| (section.work.id(), section.to_json())).collect();
    json!({
        "bench": "broker",
        "date": Timestamp::now().strftime("%Y-%m-%d").to_string(),
        "machine": machine,
        "settings": { "rounds": options.rounds, "seconds": options.seconds, "delay_of_slow_syncs_us": super::server::DELAY_US },
        "works": works,
    })
}

/// One bar for each goal, as long as what is asked for by what is.
pub(super) fn draw(sections: &[Section]) -> String {
    let bars: Vec<_> = sections.iter().filter_map(|section| Some((section, section.distance()?))).collect();
    #[expect(clippy::cast_precision_loss)]
    let height = TOP + STEP * bars.len() as f64 + 8.0;
    let mut svg = open("The broker beside nats-server 2.15: how far each goal is met", height);
    let _ = writeln!(
        svg,
        "<text class=\"quiet\" x=\"{LEFT}\" y=\"54\">up to the line: met; shorter is better</text>\n\
         <path d=\"M{MET} {} V{}\" stroke=\"#8b949e\" stroke-dasharray=\"3 3\"/>",
        TOP - 8.0,
        height - 8.0
    );
    let mut y = TOP;
    for (section, (distance, ratio, goal)) in bars {
        let figure = match goal.figure {
            Figure::Cpu => "CPU",
            Figure::Rate => "rate",
            Figure::Latency => "p50",
        };
        let (base, width) = (y + BAR * 0.7, (MET - LEFT) * distance.min(LONGEST));
        let name = escape(section.work.title());
        let _ = writeln!(
            svg,
            "<g class=\"bar\"><title>{name}: {figure} {ratio:.2} × {}</title>\
             <text class=\"text\" x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>\
             <rect class=\"user\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>\
             <text class=\"text own\" x=\"{:.1}\" y=\"{base:.1}\">{ratio:.2} <tspan class=\"quiet\">× {figure}</tspan></text></g>",
            goal.base.title(),
            LEFT - 10.0,
            LEFT + width + 8.0,
        );
        y += STEP;
    }
    svg + CLOSE
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::Work;
    use crate::usage::Cpu;

    fn section(work: Work, figures: &[(Kind, f64)]) -> Section {
        let series = |(kind, rate): &(Kind, f64)| {
            let measured =
                Measured { per_second: *rate, cpu: Cpu { total: *rate, ..Cpu::default() }, ..Measured::default() };
            Series { kind: *kind, measured: vec![measured] }
        };
        Section { work, series: figures.iter().map(series).collect(), failure: None }
    }

    #[test]
    fn a_goal_that_is_just_met_is_as_far_away_as_the_line() {
        let rate = section(Work::PublishRaw, &[(Kind::Atoll, 150.0), (Kind::Synced, 10.0)]);
        assert_eq!(rate.distance().map(|(distance, ratio, _)| (distance, ratio)), Some((1.0, 15.0)));
        let cpu = section(Work::Pull, &[(Kind::Atoll, 5.0), (Kind::Nats, 10.0)]);
        assert_eq!(cpu.distance().map(|(distance, ratio, _)| (distance, ratio)), Some((0.5, 0.5)));
        let svg = draw(&[rate, cpu, section(Work::Retain, &[(Kind::Atoll, 1.0)])]);
        assert_eq!(svg.matches("<g class=\"bar\">").count(), 2);
        assert!(svg.contains("width=\"150.0\"") && svg.contains("width=\"75.0\""), "{svg}");
    }

    #[test]
    fn what_failed_is_told_and_has_no_bar() {
        let failed = Section { failure: Some("no disk".to_owned()), ..section(Work::Pull, &[]) };
        assert_eq!(failed.to_json()["failure"], "no disk");
        assert!(failed.table().1.concat().concat().contains("no disk"));
        assert!(failed.distance().is_none());
    }
}
