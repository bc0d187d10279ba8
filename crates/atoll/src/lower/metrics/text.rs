//! Families of samples as text: Prometheus' format 0.0.4, and OpenMetrics 1.0.0. Pure. Knows nothing of what is measured.

use std::fmt::Write as _;

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Prometheus,
    OpenMetrics,
}

impl Format {
    /// The one that an `Accept` header asks for (RFC 9110 §12.5.1): the wanted more of the two, and Prometheus' where there
    /// is no difference. OpenMetrics of another version than 1 is none that we speak.
    pub fn accepted(accept: &str) -> Self {
        let weight = |wanted: fn(&str) -> bool, is_version: fn(&str) -> bool| {
            let ranges = accept.split(',').filter_map(|range| {
                let mut parts = range.split(';').map(str::trim);
                if !wanted(&parts.next()?.to_ascii_lowercase()) {
                    return None;
                }
                let mut weight = 1.0_f32;
                for (name, value) in parts.filter_map(|parameter| parameter.split_once('=')) {
                    match name.trim().to_ascii_lowercase().as_str() {
                        "q" => weight = value.trim().parse().ok()?,
                        "version" if !is_version(value.trim().trim_matches('"')) => return None,
                        _ => {}
                    }
                }
                Some(weight)
            });
            ranges.fold(0.0_f32, f32::max)
        };
        let open = weight(|kind| kind == "application/openmetrics-text", |version| matches!(version, "1.0.0" | "1.0"));
        let plain = weight(|kind| matches!(kind, "text/plain" | "text/*" | "*/*"), |_| true);
        if open > 0.0 && open >= plain { Self::OpenMetrics } else { Self::Prometheus }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Self::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
    /// Of sum and count alone.
    Summary,
}

impl Kind {
    const fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
            Self::Summary => "summary",
        }
    }
}

/// Labels in their order. An empty value is as good as no label and is left out.
pub type Labels = Vec<(&'static str, String)>;

#[derive(Clone, Debug)]
pub enum Value {
    Number(f64),
    Count(u64),
    /// Cumulative counts by upper bound, without the infinite one; then the sum and the count of all.
    Distribution {
        buckets: Vec<(f64, u64)>,
        sum: f64,
        count: u64,
    },
}

/// Samples of one name.
#[derive(Clone, Debug)]
pub struct Family {
    /// Without `_total`, which a counter is given; ends in its unit if it has one.
    name: &'static str,
    kind: Kind,
    unit: &'static str,
    help: &'static str,
    samples: Vec<(Labels, Value)>,
}

impl Family {
    pub fn new(kind: Kind, name: &'static str, unit: &'static str, help: &'static str) -> Self {
        debug_assert!(unit.is_empty() || name.ends_with(&format!("_{unit}")), "{name}");
        Self { name, kind, unit, help, samples: Vec::new() }
    }

    pub fn add(&mut self, labels: Labels, value: Value) {
        self.samples.push((labels, value));
    }

    #[must_use]
    pub fn with(mut self, samples: impl IntoIterator<Item = (Labels, Value)>) -> Self {
        self.samples.extend(samples);
        self
    }
}

/// Writes all of them. A family without samples is left out.
pub fn write(families: &[Family], format: Format) -> String {
    let mut out = String::new();
    for family in families.iter().filter(|family| !family.samples.is_empty()) {
        let Family { name, kind, unit, help, samples } = family;
        let total = if *kind == Kind::Counter { "_total" } else { "" };
        // Prometheus describes a counter under the name of its samples, OpenMetrics under that of its family.
        let described = match format {
            Format::Prometheus => format!("{name}{total}"),
            Format::OpenMetrics => (*name).to_owned(),
        };
        let help = if format == Format::OpenMetrics { escaped(help) } else { help.replace('\\', "\\\\") };
        let _ = writeln!(out, "# HELP {described} {help}");
        let _ = writeln!(out, "# TYPE {described} {}", kind.name());
        if format == Format::OpenMetrics && !unit.is_empty() {
            let _ = writeln!(out, "# UNIT {described} {unit}");
        }
        for (labels, value) in samples {
            match value {
                Value::Number(number) => {
                    line(&mut out, &format!("{name}{total}"), labels, None, &shown(*number, format));
                }
                Value::Count(count) => line(&mut out, &format!("{name}{total}"), labels, None, &count.to_string()),
                Value::Distribution { buckets, sum, count } => {
                    if *kind == Kind::Histogram {
                        let name = format!("{name}_bucket");
                        for (bound, count) in buckets {
                            line(&mut out, &name, labels, Some(&shown(*bound, format)), &count.to_string());
                        }
                        line(&mut out, &name, labels, Some("+Inf"), &count.to_string());
                    }
                    line(&mut out, &format!("{name}_sum"), labels, None, &shown(*sum, format));
                    line(&mut out, &format!("{name}_count"), labels, None, &count.to_string());
                }
            }
        }
    }
    if format == Format::OpenMetrics {
        out.push_str("# EOF\n");
    }
    out
}

fn line(out: &mut String, name: &str, labels: &Labels, bound: Option<&str>, value: &str) {
    out.push_str(name);
    let bound = bound.map(|bound| ("le", bound));
    let all = labels.iter().map(|(name, value)| (*name, value.as_str())).filter(|(_, value)| !value.is_empty());
    let mut is_first = true;
    for (name, value) in all.chain(bound) {
        out.push(if is_first { '{' } else { ',' });
        is_first = false;
        let _ = write!(out, "{name}=\"{}\"", escaped(value));
    }
    if !is_first {
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// OpenMetrics wants its canonical form of numbers, in which a whole one has a decimal.
fn shown(number: f64, format: Format) -> String {
    match format {
        Format::Prometheus => format!("{number}"),
        Format::OpenMetrics => format!("{number:?}"),
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    #[test]
    fn the_wanted_more_of_the_two_formats_is_given() {
        // What Prometheus 2.53 sends.
        let prometheus = "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        for accept in [
            prometheus,
            "application/openmetrics-text",
            "application/openmetrics-text; version=1.0.0, text/plain",
            "APPLICATION/OPENMETRICS-TEXT;Version=\"1.0.0\"",
        ] {
            assert_eq!(Format::accepted(accept), Format::OpenMetrics, "{accept}");
        }
        for accept in [
            "",
            "*/*",
            "text/plain",
            "application/json",
            "application/openmetrics-text;version=2.0.0",
            "application/openmetrics-text;q=0",
            "application/openmetrics-text;q=0.1,text/plain;q=0.2",
            "application/openmetrics-text;q=x",
            ";,;q=,",
        ] {
            assert_eq!(Format::accepted(accept), Format::Prometheus, "{accept}");
        }
    }

    #[test]
    fn each_format_has_its_own_rules() {
        let labels = |value: &str| vec![("route", value.to_owned()), ("empty", String::new())];
        let distribution = Value::Distribution { buckets: vec![(0.5, 1), (1.0, 2)], sum: 4.0, count: 3 };
        let families = [
            Family::new(Kind::Counter, "bytes", "", "A \\ and a \"quote\".")
                .with([(labels("a\\b\"c\nd"), Value::Count(7))]),
            Family::new(Kind::Histogram, "wait_seconds", "seconds", "Waits.")
                .with([(labels("x"), distribution.clone()), (Vec::new(), distribution.clone())]),
            Family::new(Kind::Summary, "rest_seconds", "seconds", "Rests.").with([(Vec::new(), distribution)]),
            Family::new(Kind::Gauge, "load", "", "Load.").with([(Vec::new(), Value::Number(2.0))]),
            Family::new(Kind::Gauge, "nothing", "", "Nothing."),
        ];
        expect![[r##"
            # HELP bytes_total A \\ and a "quote".
            # TYPE bytes_total counter
            bytes_total{route="a\\b\"c\nd"} 7
            # HELP wait_seconds Waits.
            # TYPE wait_seconds histogram
            wait_seconds_bucket{route="x",le="0.5"} 1
            wait_seconds_bucket{route="x",le="1"} 2
            wait_seconds_bucket{route="x",le="+Inf"} 3
            wait_seconds_sum{route="x"} 4
            wait_seconds_count{route="x"} 3
            wait_seconds_bucket{le="0.5"} 1
            wait_seconds_bucket{le="1"} 2
            wait_seconds_bucket{le="+Inf"} 3
            wait_seconds_sum 4
            wait_seconds_count 3
            # HELP rest_seconds Rests.
            # TYPE rest_seconds summary
            rest_seconds_sum 4
            rest_seconds_count 3
            # HELP load Load.
            # TYPE load gauge
            load 2
        "##]]
        .assert_eq(&write(&families, Format::Prometheus));
        let open = write(&families, Format::OpenMetrics);
        expect![[r##"
            # HELP bytes A \\ and a \"quote\".
            # TYPE bytes counter
            bytes_total{route="a\\b\"c\nd"} 7
            # HELP wait_seconds Waits.
            # TYPE wait_seconds histogram
            # UNIT wait_seconds seconds
        "##]]
        .assert_eq(&(open.lines().take(6).collect::<Vec<_>>().join("\n") + "\n"));
        assert!(open.contains("wait_seconds_bucket{le=\"1.0\"} 2\n") && open.ends_with("load 2.0\n# EOF\n"), "{open}");
    }
}
