//! Mugs, teapots and cookware.

use super::Traits;
use super::canvas::{BALL, BODY, Canvas, FACE, FLOOR, METAL, WOOD};

pub(crate) fn mug(canvas: &mut Canvas, style: &str, traits: Traits) {
    let (half, height, has_handle) = match style {
        "Espresso Cup" => (traits.between(1, 52.0, 62.0), traits.between(2, 84.0, 98.0), true),
        "Tumbler" => (traits.between(1, 58.0, 68.0), traits.between(2, 124.0, 156.0), false),
        _ => (traits.between(1, 66.0, 80.0), traits.between(2, 124.0, 150.0), true),
    };
    let (base, top) = (FLOOR - 6.0, FLOOR - 6.0 - height);
    let foot = half * traits.between(3, 0.66, 0.96);
    let x = if has_handle { 188.0 } else { 200.0 };
    canvas.sun(x + 12.0, 176.0, 116.0);
    canvas.shadow(x, half * 2.1);
    if style == "Espresso Cup" {
        canvas.ellipse(x, FLOOR + 2.0, half * 1.7, 15.0, canvas.palette.base.darker(0.3));
        canvas.ellipse(x, FLOOR - 3.0, half * 1.7, 15.0, FACE);
        canvas.ellipse(x, FLOOR - 3.0, half * 1.05, 8.0, canvas.palette.base.darker(0.18));
    }
    if has_handle {
        handle(canvas, [x + half, top, height], traits);
    }
    canvas.path(
        format_args!(
            "M{} {top} C{} {} {} {base} {} {base} Q{x} {} {} {base} C{} {base} {} {} {} {top} Z",
            x - half,
            x - half,
            base - 30.0,
            x - foot - 4.0,
            x - foot + 8.0,
            base + 9.0,
            x + foot - 8.0,
            x + foot + 4.0,
            x + half,
            base - 30.0,
            x + half
        ),
        BODY,
    );
    canvas.ellipse(x, top, half, 14.0, canvas.palette.base.lighter(0.34));
    canvas.ellipse(x, top + 1.0, half - 5.0, 11.0, canvas.palette.base.darker(0.4));
    canvas.ellipse(x, top + 4.0, half - 9.0, 8.0, ["#5b3a26", "#8a5a34", "#a9773f"][traits.choice(6, 3)]);
    if traits.choice(7, 2) == 0 {
        let y = base - height * 0.3;
        canvas.faint(0.4, |canvas| {
            canvas.line(
                format_args!("M{} {y} Q{x} {} {} {y}", x - half * 0.985, y + 15.0, x + half * 0.985),
                canvas.palette.base.lighter(0.7),
                3.0,
            );
        });
    }
    steam(canvas, x, top - 14.0);
}

/// At the right edge of a cup of this top and height.
fn handle(canvas: &mut Canvas, [edge, top, height]: [f64; 3], traits: Traits) {
    let (from, to) = (top + height * 0.2, top + height * 0.74);
    let out = edge + height * traits.between(4, 0.32, 0.4);
    canvas.line(
        format_args!("M{} {from} C{out} {} {out} {} {} {to}", edge - 4.0, from - 8.0, to + 12.0, edge - 8.0),
        canvas.palette.base.darker(0.16),
        traits.between(5, 12.0, 16.0),
    );
    canvas.line(
        format_args!(
            "M{} {} C{} {} {} {} {} {}",
            edge,
            from - 3.0,
            out - 6.0,
            from - 10.0,
            out - 2.0,
            to - 20.0,
            out - 8.0,
            to - 16.0
        ),
        canvas.palette.base.lighter(0.2),
        3.0,
    );
}

fn steam(canvas: &mut Canvas, x: f64, y: f64) {
    canvas.faint(0.5, |canvas| {
        for shift in [-18.0, 6.0] {
            let x = x + shift;
            canvas.line(format_args!("M{x} {y} c-14 -16 12 -26 0 -44 s8 -22 2 -34"), "#fff", 5.0);
        }
    });
}

pub(crate) fn teapot(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 180.0, 126.0);
    match style {
        "Kettle" => kettle(canvas, traits),
        "Carafe" => carafe(canvas, traits),
        _ => pot(canvas, traits),
    }
}

fn pot(canvas: &mut Canvas, traits: Traits) {
    let (half, rise) = (traits.between(1, 74.0, 86.0), traits.between(2, 58.0, 68.0));
    let y = FLOOR - 6.0 - rise;
    canvas.shadow(196.0, half * 2.2);
    canvas.line(
        format_args!(
            "M{} {} C{} {} {} {} {} {}",
            196.0 + half - 8.0,
            y - 26.0,
            296.0 + half * 0.3,
            y - 50.0,
            290.0 + half * 0.3,
            y + 40.0,
            196.0 + half - 10.0,
            y + 22.0
        ),
        canvas.palette.base.darker(0.2),
        13.0,
    );
    spout(canvas, 196.0 - half, y);
    canvas.ellipse(196.0, FLOOR - 5.0, half * 0.56, 8.0, canvas.palette.base.darker(0.35));
    canvas.ellipse(196.0, y, half, rise, BALL);
    canvas.ellipse(196.0, y - rise * 0.86, half * 0.52, 9.0, canvas.palette.base.darker(0.3));
    canvas.path(
        format_args!(
            "M{} {} Q196 {} {} {} Z",
            196.0 - half * 0.5,
            y - rise * 0.88,
            y - rise * 1.32,
            196.0 + half * 0.5,
            y - rise * 0.88
        ),
        BODY,
    );
    let knob = if traits.choice(3, 2) == 0 { WOOD } else { METAL };
    canvas.circle(196.0, y - rise * 1.16, 9.0, knob);
}

/// At the left edge of a pot, `y` the middle of its height.
fn spout(canvas: &mut Canvas, tip: f64, y: f64) {
    canvas.path(
        format_args!(
            "M{} {} C{} {} {} {} {} {} L{} {} C{} {} {} {} {} {} Z",
            tip + 20.0,
            y - 10.0,
            tip - 18.0,
            y - 8.0,
            tip - 20.0,
            y - 40.0,
            tip - 44.0,
            y - 54.0,
            tip - 34.0,
            y - 62.0,
            tip - 2.0,
            y - 54.0,
            tip + 2.0,
            y - 46.0,
            tip + 30.0,
            y - 40.0
        ),
        FACE,
    );
    canvas.path(
        format_args!(
            "M{} {} C{} {} {} {} {} {} Z",
            tip + 20.0,
            y - 10.0,
            tip - 10.0,
            y + 4.0,
            tip - 6.0,
            y + 40.0,
            tip + 34.0,
            y + 40.0
        ),
        FACE,
    );
}

fn kettle(canvas: &mut Canvas, traits: Traits) {
    let half = traits.between(1, 84.0, 98.0);
    let top = traits.between(2, 196.0, 214.0);
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 4.0);
    canvas.shadow(200.0, half * 2.1);
    let handle = if traits.choice(3, 2) == 0 { canvas.palette.wood } else { canvas.palette.metal };
    canvas.line(
        format_args!(
            "M{} {} C{} {} {} {} {} {}",
            left + 26.0,
            top + 14.0,
            left + 10.0,
            top - 104.0,
            right - 10.0,
            top - 104.0,
            right - 26.0,
            top + 14.0
        ),
        canvas.palette.metal.darker(0.2),
        6.0,
    );
    canvas.line(
        format_args!(
            "M{} {} C{} {} {} {} {} {}",
            left + 46.0,
            top - 58.0,
            left + 72.0,
            top - 78.0,
            right - 72.0,
            top - 78.0,
            right - 46.0,
            top - 58.0
        ),
        handle,
        14.0,
    );
    canvas.path(
        format_args!(
            "M{} {} L{} {} L{} {} L{} {} Z",
            left + 30.0,
            top + 62.0,
            left - 34.0,
            top + 6.0,
            left - 20.0,
            top - 4.0,
            left + 40.0,
            top + 22.0
        ),
        FACE,
    );
    canvas.path(format_args!("M{} {top} H{} C{} {} {right} {} {right} {} Q{right} {base} {} {base} H{} Q{left} {base} {left} {} C{left} {} {} {} {} {top} Z",
        200.0 - half * 0.46, 200.0 + half * 0.46, 200.0 + half * 0.8, top + 14.0, base - 70.0, base - 26.0, right - 16.0, left + 16.0, base - 26.0, base - 70.0, 200.0 - half * 0.8, top + 14.0, 200.0 - half * 0.46), BODY);
    canvas.ellipse(200.0, top, half * 0.46, 8.0, canvas.palette.base.darker(0.22));
    canvas.ellipse(200.0, top - 3.0, half * 0.42, 7.0, canvas.palette.base.lighter(0.14));
    canvas.circle(200.0, top - 14.0, 9.0, WOOD);
}

fn carafe(canvas: &mut Canvas, traits: Traits) {
    let half = traits.between(1, 66.0, 80.0);
    let (top, waist) = (traits.between(2, 118.0, 138.0), traits.between(3, 188.0, 204.0));
    let mouth = half * 0.72;
    let base = FLOOR - 4.0;
    canvas.shadow(200.0, half * 2.0);
    canvas.path(
        format_args!(
            "M{} {top} L188 {waist} C{} {} {} {base} {} {base} H{} C{} {base} {} {} 212 {waist} L{} {top} Z",
            200.0 - mouth,
            200.0 - half,
            waist + 34.0,
            200.0 - half - 8.0,
            200.0 - half + 18.0,
            200.0 + half - 18.0,
            200.0 + half + 8.0,
            200.0 + half,
            waist + 34.0,
            200.0 + mouth
        ),
        BODY,
    );
    canvas.ellipse(200.0, top, mouth, 11.0, canvas.palette.base.darker(0.42));
    canvas.ellipse(200.0, top + 3.0, mouth - 5.0, 7.0, canvas.palette.base.darker(0.55));
    canvas.path(format_args!("M168 {} H232 L226 {} H174 Z", waist - 20.0, waist + 20.0), WOOD);
    canvas.line(format_args!("M170 {waist} H230"), canvas.palette.wood.darker(0.5), 3.0);
    canvas.circle(200.0, waist + 1.0, 5.0, canvas.palette.wood.lighter(0.4));
}

pub(crate) fn cookware(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 190.0, 118.0);
    match style {
        "Saucepan" => saucepan(canvas, traits),
        "Frying Pan" => frying_pan(canvas, traits),
        _ => casserole(canvas, traits),
    }
}

fn casserole(canvas: &mut Canvas, traits: Traits) {
    let (half, height) = (traits.between(1, 92.0, 108.0), traits.between(2, 78.0, 102.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 4.0);
    let top = base - height;
    canvas.shadow(200.0, half * 2.2);
    for (edge, out) in [(left, left - 24.0), (right, right + 24.0)] {
        canvas.line(
            format_args!("M{edge} {} H{out} V{} H{edge}", top + 16.0, top + 32.0),
            canvas.palette.base.darker(0.22),
            9.0,
        );
    }
    canvas.path(
        format_args!(
            "M{left} {top} H{right} L{} {} Q{} {base} {} {base} H{} Q{} {base} {} {} Z",
            right - 4.0,
            base - 26.0,
            right - 8.0,
            right - 34.0,
            left + 34.0,
            left + 8.0,
            left + 4.0,
            base - 26.0
        ),
        BODY,
    );
    canvas.path(
        format_args!(
            "M{} {} C{} {} {} {} {} {} Z",
            left - 5.0,
            top + 2.0,
            left + 26.0,
            top - 46.0,
            right - 26.0,
            top - 46.0,
            right + 5.0,
            top + 2.0
        ),
        BODY,
    );
    canvas.rect([left - 7.0, top - 3.0, half * 2.0 + 14.0, 10.0], 5.0, canvas.palette.base.darker(0.18));
    canvas.rect([193.0, top - 48.0, 14.0, 14.0], 3.0, METAL);
    canvas.ellipse(200.0, top - 50.0, 19.0, 8.0, if traits.choice(3, 2) == 0 { METAL } else { WOOD });
    canvas.faint(0.2, |canvas| {
        canvas.line(format_args!("M{} {} V{}", left + 26.0, top + 20.0, base - 30.0), "#fff", 8.0);
    });
}

fn saucepan(canvas: &mut Canvas, traits: Traits) {
    let (half, height) = (traits.between(1, 66.0, 76.0), traits.between(2, 84.0, 106.0));
    let (left, right, base) = (160.0 - half, 160.0 + half, FLOOR - 4.0);
    let top = base - height;
    canvas.shadow(166.0, half * 2.2);
    canvas.turned(-9.0, right, top + 18.0, |canvas| {
        canvas.rect([right - 8.0, top + 10.0, 40.0, 13.0], 4.0, METAL);
        canvas.rect([right + 24.0, top + 7.0, 112.0, 19.0], 9.5, canvas.palette.wood);
        canvas.rect([right + 24.0, top + 8.0, 112.0, 6.0], 3.0, canvas.palette.wood.lighter(0.2));
        canvas.circle(right + 124.0, top + 16.5, 4.0, canvas.palette.wood.darker(0.5));
    });
    canvas.path(
        format_args!(
            "M{left} {top} H{right} V{} Q{right} {base} {} {base} H{} Q{left} {base} {left} {} Z",
            base - 20.0,
            right - 20.0,
            left + 20.0,
            base - 20.0
        ),
        BODY,
    );
    canvas.ellipse(160.0, top, half, 15.0, canvas.palette.base.lighter(0.3));
    canvas.ellipse(160.0, top + 1.5, half - 5.0, 12.0, canvas.palette.base.darker(0.42));
    canvas.ellipse(160.0, top + 5.0, half - 9.0, 8.5, canvas.palette.base.darker(0.3));
    steam(canvas, 160.0, top - 14.0);
}

/// Hangs on the wall, seen from the front.
fn frying_pan(canvas: &mut Canvas, traits: Traits) {
    let radius = traits.between(1, 84.0, 100.0);
    let (x, y) = (200.0, 240.0);
    canvas.turned(traits.between(2, -14.0, 14.0), 200.0, 40.0, |canvas| {
        canvas.faint(0.9, |canvas| {
            canvas.ellipse(x + 12.0, y + 16.0, radius * 1.14, radius * 1.14, "url(#shade)");
        });
        let handle = y - radius;
        canvas.rect([x - 7.0, handle - 34.0, 14.0, 46.0], 4.0, METAL);
        canvas.rect([x - 11.0, 44.0, 22.0, handle - 66.0], 11.0, WOOD);
        canvas.circle(x, 58.0, 5.5, canvas.palette.ground.darker(0.1));
        canvas.circle(x, y, radius, FACE);
        canvas.circle(x, y, radius - 7.0, canvas.palette.base.darker(0.42));
        canvas.circle(x, y + 2.0, radius - 20.0, canvas.palette.base.darker(0.55));
        canvas.faint(0.14, |canvas| {
            let inner = radius - 34.0;
            canvas.line(format_args!("M{} {} A{inner} {inner} 0 0 1 {} {}", x - inner, y, x, y - inner), "#fff", 6.0);
        });
        for side in [-6.0, 6.0] {
            canvas.circle(x + side, handle + 14.0, 2.6, canvas.palette.metal);
        }
    });
}
