//! Notebooks and clocks, and the parcel that stands for a product of any other category.

use super::Traits;
use super::canvas::{BALL, BODY, Canvas, FACE, FLOOR, METAL, WOOD};

pub(crate) fn notebook(canvas: &mut Canvas, style: &str, traits: Traits) {
    let turn = traits.between(1, -11.0, 9.0);
    let (width, height) = (traits.between(2, 148.0, 166.0), traits.between(3, 206.0, 226.0));
    let (left, top) = (200.0 - width / 2.0, 196.0 - height / 2.0);
    let base = canvas.palette.base;
    canvas.ellipse(212.0, 304.0, width * 0.86, 22.0, "url(#shade)");
    if traits.choice(6, 2) == 0 {
        canvas.turned(turn + 13.0, 200.0, 196.0, |canvas| {
            canvas.rect([left + 5.0, top + 5.0, width, height], 7.0, canvas.palette.wood.darker(0.1));
            canvas.rect([left, top, width, height], 7.0, canvas.palette.wood);
        });
    }
    canvas.turned(turn, 200.0, 196.0, |canvas| {
        canvas.rect([left + 6.0, top + 7.0, width, height], 8.0, base.darker(0.45));
        canvas.rect([left + 5.0, top + 5.0, width - 2.0, height - 1.0], 5.0, "#f6f0e2");
        canvas.rect([left, top, width, height], 8.0, FACE);
        match style {
            "Sketchbook" => spiral(canvas, left, top, height),
            "Planner" => planner(canvas, [left, top, width, height], traits),
            _ => stitched(canvas, [left, top, width, height], traits),
        }
    });
}

fn spiral(canvas: &mut Canvas, left: f64, top: f64, height: f64) {
    for ring in 0..13_u32 {
        let y = top + 16.0 + f64::from(ring) * (height - 32.0) / 12.0;
        canvas.circle(left + 13.0, y, 4.0, canvas.palette.base.darker(0.6));
        canvas.line(
            format_args!("M{} {y:.1} c-6 -9 -24 -9 -25 0", left + 13.0),
            canvas.palette.metal.darker(0.15),
            3.0,
        );
    }
    let ink = canvas.palette.base.lighter(0.62);
    canvas.faint(0.8, |canvas| {
        canvas.line(format_args!("M{} {} q18 -46 40 -12 t40 -8", left + 46.0, top + height * 0.56), ink, 3.0);
    });
}

fn planner(canvas: &mut Canvas, [left, top, width, height]: [f64; 4], traits: Traits) {
    let label = [left + width * 0.24, top + height * 0.2, width * 0.52, 44.0];
    canvas.rect(label, 3.0, "#f6f0e2");
    for line in [14.0, 26.0] {
        canvas.rect([label[0] + 12.0, label[1] + line, label[2] - 24.0, 2.4], 1.0, canvas.palette.base.darker(0.35));
    }
    canvas.rect(
        [left + width - 26.0, top, 7.0, height],
        0.0,
        if traits.choice(4, 2) == 0 { canvas.palette.base.darker(0.45) } else { canvas.palette.metal },
    );
    canvas.rect([left + width * 0.3, top + height - 2.0, 6.0, 26.0], 1.0, "#b5523a");
}

fn stitched(canvas: &mut Canvas, [left, top, width, height]: [f64; 4], traits: Traits) {
    let base = canvas.palette.base;
    canvas.rect([left, top, 26.0, height], 8.0, base.darker(0.28));
    canvas.rect([left + 20.0, top, 6.0, height], 0.0, base.darker(0.28));
    match traits.choice(4, 3) {
        0 => {
            for (row, column) in (0..5_u32).flat_map(|row| (0..4_u32).map(move |column| (row, column))) {
                let (x, y) = (left + 48.0 + f64::from(column) * 28.0, top + 46.0 + f64::from(row) * 32.0);
                canvas.circle(x, y, 4.6, base.lighter(0.38));
            }
        }
        1 => {
            for band in 0..3_u32 {
                let y = top + height * 0.6 + f64::from(band) * 17.0;
                canvas.rect([left + 26.0, y, width - 26.0, 6.0], 0.0, base.lighter(0.34));
            }
        }
        _ => {
            canvas.circle(left + width * 0.58, top + height * 0.4, 30.0, base.lighter(0.34));
            canvas.rect([left + 26.0, top + height * 0.4, width - 26.0, 32.0], 0.0, base);
            canvas.rect([left + 40.0, top + height * 0.4 + 8.0, width - 56.0, 2.4], 1.0, base.lighter(0.34));
        }
    }
}

pub(crate) fn clock(canvas: &mut Canvas, style: &str, traits: Traits) {
    match style {
        "Desk Clock" => {
            let radius = traits.between(1, 72.0, 84.0);
            let y = FLOOR - 22.0 - radius;
            canvas.sun(200.0, 176.0, 124.0);
            canvas.shadow(200.0, radius * 2.0);
            canvas.path(
                format_args!(
                    "M{} {FLOOR} L{} {} H{} L{} {FLOOR} Z",
                    200.0 - radius * 0.8,
                    200.0 - radius * 0.5,
                    FLOOR - 44.0,
                    200.0 + radius * 0.5,
                    200.0 + radius * 0.8
                ),
                WOOD,
            );
            canvas.rect([200.0 - radius * 0.9, FLOOR - 8.0, radius * 1.8, 9.0], 3.0, WOOD);
            dial(canvas, y, radius, traits);
        }
        "Alarm Clock" => alarm(canvas, traits),
        _ => {
            let radius = traits.between(1, 102.0, 118.0);
            canvas.ellipse(214.0, 212.0, radius * 1.16, radius * 1.16, "url(#shade)");
            dial(canvas, 190.0, radius, traits);
        }
    }
}

fn alarm(canvas: &mut Canvas, traits: Traits) {
    let radius = traits.between(1, 74.0, 86.0);
    let y = FLOOR - 20.0 - radius;
    canvas.sun(200.0, 180.0, 124.0);
    canvas.shadow(200.0, radius * 1.9);
    for side in [-1.0, 1.0] {
        canvas.line(
            format_args!(
                "M{} {} L{} {}",
                200.0 + side * radius * 0.6,
                y + radius * 0.7,
                200.0 + side * radius * 0.86,
                FLOOR - 2.0
            ),
            canvas.palette.metal.darker(0.15),
            11.0,
        );
        let (x, top) = (200.0 + side * radius * 0.58, y - radius * 0.96);
        canvas.turned(side * 30.0, x, top, |canvas| {
            canvas.rect([x - 3.0, top - 4.0, 6.0, 22.0], 1.0, canvas.palette.metal.darker(0.2));
            canvas.path(format_args!("M{} {top} A32 30 0 0 1 {} {top} Z", x - 32.0, x + 32.0), BODY);
        });
    }
    canvas.line(format_args!("M200 {} v-22", y - radius), canvas.palette.metal.darker(0.15), 5.0);
    canvas.rect([190.0, y - radius - 30.0, 20.0, 12.0], 5.0, METAL);
    dial(canvas, y, radius, traits);
}

/// A face in a ring of the product's colour, at some time of a good day.
fn dial(canvas: &mut Canvas, y: f64, radius: f64, traits: Traits) {
    let (dark, light) = (canvas.palette.base.darker(0.6), "#faf6ec");
    let on_dark = traits.choice(3, 3) == 0;
    canvas.circle(200.0, y, radius, BALL);
    canvas.circle(200.0, y, radius * 0.88, canvas.palette.base.darker(0.3));
    if on_dark {
        canvas.circle(200.0, y + 1.0, radius * 0.86, dark);
    } else {
        canvas.circle(200.0, y + 1.0, radius * 0.86, light);
    }
    let ink = if on_dark { light.to_owned() } else { dark.to_string() };
    let hand = |canvas: &mut Canvas, turn: f64, [from, to]: [f64; 2], ink: &str, width: f64| {
        let angle = turn * std::f64::consts::TAU;
        let at = |share: f64| (200.0 + angle.sin() * radius * share, y - angle.cos() * radius * share);
        let ((x1, y1), (x2, y2)) = (at(from), at(to));
        canvas.line(format_args!("M{x1:.1} {y1:.1} L{x2:.1} {y2:.1}"), ink, width);
    };
    for mark in 0..12_u32 {
        let is_quarter = mark % 3 == 0;
        let (from, width) = if is_quarter { (0.66, radius * 0.035) } else { (0.71, radius * 0.02) };
        hand(canvas, f64::from(mark) / 12.0, [from, 0.76], &ink, width);
    }
    let minutes = f64::from([10_u32, 8, 50, 35][traits.choice(4, 4)]);
    let hours = f64::from([10_u32, 9, 1, 7][traits.choice(4, 4)]);
    hand(canvas, (hours + minutes / 60.0) / 12.0, [-0.08, 0.42], &ink, radius * 0.06);
    hand(canvas, minutes / 60.0, [-0.1, 0.62], &ink, radius * 0.04);
    hand(canvas, traits.between(5, 0.0, 1.0), [-0.16, 0.66], "#c2553b", radius * 0.018);
    canvas.circle(200.0, y, radius * 0.05, "#c2553b");
}

pub(crate) fn parcel(canvas: &mut Canvas, _style: &str, _traits: Traits) {
    let base = canvas.palette.base;
    canvas.sun(200.0, 180.0, 124.0);
    canvas.shadow(200.0, 200.0);
    canvas.path("M200 152 L304 186 V290 L200 330 Z", base.darker(0.24));
    canvas.path("M200 152 L96 186 V290 L200 330 Z", FACE);
    canvas.path("M200 118 L304 150 V186 L200 222 L96 186 V150 Z", base.darker(0.08));
    canvas.path("M200 118 L304 150 L200 184 L96 150 Z", base.lighter(0.26));
    canvas.path("M148 134 L252 167 V205 L226 214 V175 L122 142 Z", canvas.palette.metal.lighter(0.2));
}
