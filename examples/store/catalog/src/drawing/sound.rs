//! Headphones and speakers.

use super::Traits;
use super::canvas::{BALL, BODY, Canvas, FACE, FLOOR, METAL, WOOD};

pub(crate) fn headphones(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 190.0, 130.0);
    match style {
        "Earbuds" => earbuds(canvas, traits),
        "On-Ear Headphones" => band(canvas, traits, 40.0, 50.0),
        _ => band(canvas, traits, 50.0, 68.0),
    }
}

/// A band with a cushion on each side, `rx` by `ry` large.
fn band(canvas: &mut Canvas, traits: Traits, rx: f64, ry: f64) {
    let (half, top) = (traits.between(1, 86.0, 98.0), traits.between(2, 72.0, 90.0));
    let (left, right) = (200.0 - half, 200.0 + half);
    let y = 226.0;
    let dark = canvas.palette.base.darker(0.5);
    canvas.ellipse(206.0, FLOOR - 6.0, half * 1.2, 13.0, "url(#shade)");
    let arc = |lift: f64| format!("M{left} {y} C{left} {} {right} {} {right} {y}", top - lift, top - lift);
    canvas.line(arc(28.0), dark, 15.0);
    canvas.line(arc(31.0), canvas.palette.base, 9.0);
    canvas.line(arc(34.0), canvas.palette.base.lighter(0.3), 2.5);
    for (x, turn) in [(left, 7.0), (right, -7.0)] {
        let inward = if x < 200.0 { 1.0 } else { -1.0 };
        canvas.turned(turn, x, y, |canvas| {
            canvas.rect([x - 5.0, y - ry - 34.0, 10.0, 52.0], 4.0, METAL);
            canvas.ellipse(x + inward * 15.0, y, rx * 0.5, ry * 0.96, dark.darker(0.2));
            canvas.ellipse(x + inward * 8.0, y, rx * 0.56, ry, dark);
            canvas.ellipse(x - inward * 4.0, y, rx * 0.58, ry * 0.95, BALL);
            canvas.ellipse(
                x - inward * 9.0,
                y,
                rx * 0.36,
                ry * 0.66,
                if traits.choice(3, 2) == 0 { WOOD } else { FACE },
            );
            canvas.ellipse(x - inward * 10.0, y, rx * 0.1, ry * 0.2, canvas.palette.metal);
        });
    }
}

fn earbuds(canvas: &mut Canvas, traits: Traits) {
    let half = traits.between(1, 70.0, 80.0);
    let (left, base) = (200.0 - half, FLOOR - 2.0);
    let top = base - traits.between(2, 78.0, 90.0);
    let dark = canvas.palette.base.darker(0.5);
    canvas.shadow(200.0, half * 2.0);
    canvas.turned(traits.between(3, -10.0, -4.0), left, top, |canvas| {
        canvas.rect([left + 2.0, top - 68.0, half * 2.0 - 4.0, 66.0], 26.0, canvas.palette.base.darker(0.12));
        canvas.rect([left + 12.0, top - 58.0, half * 2.0 - 24.0, 50.0], 18.0, canvas.palette.base.darker(0.3));
    });
    for (x, lean) in [(168.0, -8.0), (232.0, 8.0)] {
        canvas.turned(lean, x, top, |canvas| {
            canvas.rect([x - 8.0, top - 46.0, 16.0, 56.0], 8.0, METAL);
            canvas.circle(x, top - 48.0, 21.0, BALL);
            canvas.ellipse(x + lean * 1.9, top - 50.0, 10.0, 13.0, dark);
        });
    }
    canvas.rect([left, top, half * 2.0, base - top], 30.0, BODY);
    canvas.rect([left + 3.0, top, half * 2.0 - 6.0, 7.0], 3.5, canvas.palette.base.darker(0.32));
    canvas.circle(200.0, top + 34.0, 4.0, canvas.palette.base.lighter(0.6));
}

pub(crate) fn speaker(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 180.0, 126.0);
    match style {
        "Portable Speaker" => portable(canvas, traits),
        "Radio" => radio(canvas, traits),
        _ => bookshelf(canvas, traits),
    }
}

fn cone(canvas: &mut Canvas, x: f64, y: f64, radius: f64) {
    let base = canvas.palette.base;
    canvas.circle(x, y, radius, base.darker(0.55));
    canvas.circle(x, y, radius * 0.88, base.darker(0.7));
    canvas.circle(x, y, radius * 0.74, base.darker(0.5));
    canvas.circle(x, y, radius * 0.36, BALL);
    canvas.faint(0.22, |canvas| {
        let r = radius * 0.8;
        canvas.line(format_args!("M{:.1} {y} A{r:.1} {r:.1} 0 0 1 {x} {:.1}", x - r, y - r), "#fff", 3.0);
    });
}

fn bookshelf(canvas: &mut Canvas, traits: Traits) {
    let (half, height) = (traits.between(1, 66.0, 78.0), traits.between(2, 204.0, 226.0));
    let (left, base) = (186.0 - half, FLOOR - 3.0);
    let top = base - height;
    let side = left + half * 2.0;
    canvas.shadow(204.0, half * 2.4);
    canvas
        .path(format_args!("M{side} {top} l26 14 V{} L{side} {base} Z", base - 10.0), canvas.palette.wood.darker(0.4));
    canvas.rect([left, top, half * 2.0, height], 5.0, WOOD);
    canvas.rect([left + 7.0, top + 7.0, half * 2.0 - 14.0, height - 14.0], 4.0, FACE);
    cone(canvas, 186.0, top + height * 0.66, half * 0.66);
    cone(canvas, 186.0, top + height * 0.25, half * 0.32);
    canvas.circle(186.0, base - 17.0, 3.0, canvas.palette.metal.lighter(0.2));
}

fn portable(canvas: &mut Canvas, traits: Traits) {
    let radius = traits.between(1, 88.0, 100.0);
    let y = FLOOR - 3.0 - radius;
    canvas.shadow(200.0, radius * 1.7);
    let x = 200.0 + radius * 0.62;
    canvas.line(
        format_args!(
            "M{x} {} C{} {} {} {} {} {}",
            y - radius * 0.7,
            x + 46.0,
            y - radius - 22.0,
            x + 62.0,
            y - 30.0,
            x + 24.0,
            y - 12.0
        ),
        canvas.palette.wood,
        8.0,
    );
    canvas.circle(200.0, y, radius, BALL);
    canvas.circle(200.0, y, radius * 0.83, canvas.palette.base.darker(0.28));
    canvas.circle(200.0, y, radius * 0.79, FACE);
    let hole = canvas.palette.base.darker(0.5);
    for ring in 0..6_u32 {
        let count = if ring == 0 { 1 } else { ring * 6 };
        for step in 0..count {
            let angle = f64::from(step) / f64::from(count) * std::f64::consts::TAU;
            let distance = f64::from(ring) * radius * 0.125;
            canvas.circle(200.0 + angle.cos() * distance, y + angle.sin() * distance, 2.3, hole);
        }
    }
}

fn radio(canvas: &mut Canvas, traits: Traits) {
    let (half, height) = (traits.between(1, 104.0, 116.0), traits.between(2, 122.0, 142.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 8.0);
    let top = base - height;
    canvas.shadow(200.0, half * 2.1);
    for x in [left + 26.0, right - 40.0] {
        canvas.rect([x, base - 4.0, 14.0, 12.0], 3.0, canvas.palette.wood.darker(0.35));
    }
    if traits.choice(3, 2) == 0 {
        canvas.line(
            format_args!("M{} {top} L{} {}", right - 30.0, right + 14.0, top - 96.0),
            canvas.palette.metal,
            3.5,
        );
        canvas.circle(right + 14.0, top - 96.0, 4.0, canvas.palette.metal);
    } else {
        canvas.line(
            format_args!(
                "M{} {} C{} {} {} {} {} {}",
                left + 40.0,
                top + 6.0,
                left + 44.0,
                top - 40.0,
                right - 44.0,
                top - 40.0,
                right - 40.0,
                top + 6.0
            ),
            canvas.palette.wood,
            9.0,
        );
    }
    canvas.rect([left, top, half * 2.0, height], 22.0, BODY);
    let grille = canvas.palette.base.darker(0.42);
    let split = left + half * 1.18;
    for line in 0..9_u32 {
        let y = top + 22.0 + f64::from(line) * (height - 44.0) / 8.0;
        canvas.line(format_args!("M{} {y:.1} H{split}", left + 22.0), grille, 3.6);
    }
    let x = (split + right) / 2.0 + 2.0;
    canvas.circle(x, top + height * 0.36, 30.0, canvas.palette.base.darker(0.3));
    canvas.circle(x, top + height * 0.36, 26.0, "#f4ecdc");
    canvas.line(format_args!("M{x} {} l11 -15", top + height * 0.36), "#b5523a", 3.0);
    for side in [-20.0, 20.0] {
        canvas.circle(x + side, top + height * 0.78, 11.0, if side < 0.0 { METAL } else { WOOD });
    }
}
