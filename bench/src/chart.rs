//! The headline as a picture: one bar for each peer, CPU time a request, its user part and its kernel part. Written by hand:
//! rectangles and text need no library. Its colours follow the reader's light or dark scheme.

use std::fmt::Write;

use crate::report::{Entry, Figures};

pub(crate) const WIDTH: f64 = 760.0;
/// Where bars begin, and where the longest one ends.
const LEFT: f64 = 150.0;
const RIGHT: f64 = 600.0;
/// Where the first bar stands, how far it is to the next, and how high each is.
pub(crate) const TOP: f64 = 74.0;
pub(crate) const STEP: f64 = 36.0;
pub(crate) const BAR: f64 = 22.0;

const STYLE: &str = "\
.ground{fill:#fff}.text{fill:#1f2328}.quiet{fill:#59636e}.user{fill:#0969da}.system{fill:#9ec5f0}
.own{font-weight:600}text{font:13px system-ui,sans-serif}.title{font-size:15px;font-weight:600}
@media (prefers-color-scheme:dark){.ground{fill:#0d1117}.text{fill:#f0f6fc}.quiet{fill:#9198a1}.user{fill:#4493f8}.system{fill:#1f4b80}}
";

/// What ends what [`open`] began.
pub(crate) const CLOSE: &str = "</svg>\n";

/// An SVG, the cheapest peer first.
pub(crate) fn draw(figures: &Figures) -> String {
    let mut bars: Vec<(&Entry, f64, f64)> =
        figures.entries.iter().filter_map(|entry| entry.halves().map(|(user, system)| (entry, user, system))).collect();
    bars.sort_by(|a, b| f64::total_cmp(&(a.1 + a.2), &(b.1 + b.2)));
    let longest = bars.iter().map(|(_, user, system)| user + system).fold(f64::MIN_POSITIVE, f64::max);
    let scale = (RIGHT - LEFT) / longest;
    #[expect(clippy::cast_precision_loss)]
    let height = TOP + STEP * bars.len() as f64 + 8.0;
    let mut svg = open(&format!("CPU time a request: {}, {}", figures.work.title(), figures.title), height);
    legend(&mut svg);
    let mut y = TOP;
    for (entry, user, system) in bars {
        bar(&mut svg, entry, (user, system), scale, y);
        y += STEP;
    }
    svg + CLOSE
}

/// Ground, style and title.
pub(crate) fn open(title: &str, height: f64) -> String {
    let title = escape(title);
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-label=\"{title}\">\n<style>{STYLE}</style>\n\
         <rect class=\"ground\" width=\"{WIDTH}\" height=\"{height}\" rx=\"8\"/>\n\
         <text class=\"text title\" x=\"16\" y=\"28\">{title}</text>\n"
    )
}

fn legend(svg: &mut String) {
    let mut x = LEFT;
    for (class, label) in [("user", "user mode"), ("system", "kernel")] {
        let _ = writeln!(
            svg,
            "<rect class=\"{class}\" x=\"{x}\" y=\"44\" width=\"12\" height=\"12\" rx=\"2\"/>\
             <text class=\"quiet\" x=\"{}\" y=\"54\">{label}</text>",
            x + 18.0
        );
        x += 110.0;
    }
    let _ = writeln!(svg, "<text class=\"quiet\" x=\"{x}\" y=\"54\">microseconds, less is better</text>");
}

fn bar(svg: &mut String, entry: &Entry, (user, system): (f64, f64), scale: f64, y: f64) {
    let name = escape(&entry.name);
    let own = if entry.id == "atoll" { " own" } else { "" };
    let base = y + BAR * 0.7;
    let (user_width, system_width) = (user * scale, system * scale);
    let _ = writeln!(
        svg,
        "<g class=\"bar\"><title>{name}: {user:.1} user + {system:.1} kernel</title>\
         <text class=\"text{own}\" x=\"{:.1}\" y=\"{base:.1}\" text-anchor=\"end\">{name}</text>\
         <rect class=\"user\" x=\"{LEFT}\" y=\"{y}\" width=\"{user_width:.1}\" height=\"{BAR}\"/>\
         <rect class=\"system\" x=\"{:.1}\" y=\"{y}\" width=\"{system_width:.1}\" height=\"{BAR}\"/>\
         <text class=\"text{own}\" x=\"{:.1}\" y=\"{base:.1}\">{:.1} <tspan class=\"quiet\">({user:.1} + {system:.1})</tspan></text></g>",
        LEFT - 10.0,
        LEFT + user_width,
        LEFT + user_width + system_width + 8.0,
        user + system,
    );
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::figures;
    use crate::work::Work;

    #[test]
    fn every_peer_has_a_bar_and_the_cheapest_is_the_first() {
        let svg = draw(&figures(Work::Small));
        assert_eq!(svg.matches("<g class=\"bar\">").count(), 3);
        let at = |name: &str| svg.find(name).expect(name);
        assert!(at("Atoll") < at("nginx") && at("nginx") < at("HAProxy"));
        // The longest one, 17 us, reaches the right edge: a quarter of it is user time.
        assert!(svg.contains("width=\"112.5\"") && svg.contains("width=\"337.5\""), "{svg}");
    }

    #[test]
    fn names_are_escaped() {
        let svg = draw(&figures(Work::Small));
        assert!(svg.contains("HAProxy &lt;2.8&gt; &amp; &quot;more&quot;") && !svg.contains("<2.8>"));
        assert_eq!(svg.matches("<g").count(), svg.matches("</g>").count());
    }

    #[test]
    fn a_chart_of_nothing_is_still_a_picture() {
        let mut empty = figures(Work::Small);
        empty.entries.clear();
        let svg = draw(&empty);
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && !svg.contains("NaN") && !svg.contains("inf"));
    }
}
