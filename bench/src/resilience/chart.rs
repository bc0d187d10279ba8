//! The overload as a picture: one bar for each case, how much of the peak is still of use. In the style of the other chart.

use std::fmt::Write;

use serde_json::Value;

use crate::chart::{BAR, CLOSE, STEP, TOP, escape, open};

/// Where bars begin, and where one of 100 % ends.
const LEFT: f64 = 230.0;
const RIGHT: f64 = 560.0;

/// An SVG of what [`super::overload`] has found.
pub(super) fn draw(overload: &Value) -> String {
    let cases: Vec<&Value> = overload.as_object().map(|cases| cases.values().collect()).unwrap_or_default();
    #[expect(clippy::cast_precision_loss)]
    let height = TOP + STEP * cases.len() as f64 + 8.0;
    let mut svg = open("Five times what a service can do: useful answers, in % of its peak", height);
    let _ = writeln!(
        svg,
        "<text class=\"quiet\" x=\"{LEFT}\" y=\"54\">answers within a second, more is better; their p99</text>\n\
         <path d=\"M{RIGHT} {} V{}\" stroke=\"#8b949e\" stroke-dasharray=\"3 3\"/>",
        TOP - 8.0,
        height - 8.0
    );
    let mut y = TOP;
    for case in cases {
        bar(&mut svg, case, y);
        y += STEP;
    }
    svg + CLOSE
}

fn bar(svg: &mut String, case: &Value, y: f64) {
    let name = escape(case["name"].as_str().unwrap_or_default());
    let median = |key: &str| case[key]["median"].as_f64().unwrap_or_default();
    let (percent, p99) = (median("good_percent_of_peak"), median("p99_ms"));
    let own = if name.contains("Atoll") { " own" } else { "" };
    let (base, width) = (y + BAR * 0.7, (RIGHT - LEFT) * percent / 100.0);
    let latency = if percent < 0.5 { String::new() } else { format!("p99 {p99:.0} ms") };
    let _ = writeln!(
        svg,
        "<g class=\"bar\"><title>{name}: {percent:.0} %, {latency}</title>\
         <text class=\"text{own}\" x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>\
         <rect class=\"user\" x=\"{LEFT}\" y=\"{y}\" width=\"{width:.1}\" height=\"{BAR}\"/>\
         <text class=\"text{own}\" x=\"{:.1}\" y=\"{base:.1}\">{percent:.0} % <tspan class=\"quiet\">{latency}</tspan></text></g>",
        LEFT - 10.0,
        LEFT + width + 8.0,
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_case_has_a_bar_as_long_as_its_share() {
        let case = |name: &str, percent: f64| json!({ "name": name, "good_percent_of_peak": { "median": percent }, "p99_ms": { "median": 23.4 } });
        let svg = draw(&json!({ "a": case("Atoll <1>", 90.0), "b": case("HAProxy", 0.0) }));
        assert_eq!(svg.matches("<g class=\"bar\">").count(), 2);
        assert!(svg.contains("width=\"297.0\"") && svg.contains("width=\"0.0\""), "{svg}");
        assert!(svg.contains("Atoll &lt;1&gt;") && svg.contains("p99 23 ms") && svg.ends_with("</svg>\n"), "{svg}");
    }

    #[test]
    fn a_chart_of_nothing_is_still_a_picture() {
        let svg = draw(&Value::Null);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN"));
    }
}
