//! Bags and bottles.

use super::Traits;
use super::canvas::{BODY, Canvas, FACE, FLOOR, METAL, WOOD};

pub(crate) fn bag(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 176.0, 128.0);
    match style {
        "Rucksack" => rucksack(canvas, traits),
        "Tote Bag" => tote(canvas, traits),
        _ => backpack(canvas, traits),
    }
}

fn backpack(canvas: &mut Canvas, traits: Traits) {
    let (half, top) = (traits.between(1, 74.0, 86.0), traits.between(2, 100.0, 118.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    let (dark, light) = (canvas.palette.base.darker(0.35), canvas.palette.base.lighter(0.3));
    canvas.shadow(200.0, half * 2.2);
    canvas.line(format_args!("M176 {} C176 {} 224 {} 224 {}", top + 8.0, top - 34.0, top - 34.0, top + 8.0), dark, 8.0);
    for (edge, out) in [(left, left - 16.0), (right, right + 16.0)] {
        canvas.line(
            format_args!("M{edge} {} C{out} {} {out} {} {edge} {}", top + 74.0, top + 96.0, base - 60.0, base - 34.0),
            dark,
            11.0,
        );
    }
    canvas.path(
        format_args!("M{left} {} C{left} {top} {} {top} 200 {top} S{right} {top} {right} {} V{} Q{right} {base} {} {base} H{} Q{left} {base} {left} {} Z",
            top + 84.0, left + 10.0, top + 84.0, base - 24.0, right - 26.0, left + 26.0, base - 24.0),
        BODY,
    );
    let zip = top + 34.0;
    canvas.line(
        format_args!(
            "M{} {} C{} {zip} {} {zip} 200 {zip} S{} {zip} {} {}",
            left + 18.0,
            top + 104.0,
            left + 20.0,
            left + 40.0,
            right - 20.0,
            right - 18.0,
            top + 104.0
        ),
        dark,
        2.4,
    );
    let pocket = base - traits.between(3, 84.0, 104.0);
    canvas.rect([left + 16.0, pocket, half * 2.0 - 32.0, base - pocket - 10.0], 16.0, FACE);
    canvas.line(format_args!("M{} {} H{}", left + 26.0, pocket + 18.0, right - 26.0), dark, 3.0);
    canvas.line(format_args!("M{} {} v14", right - 38.0, pocket + 19.0), canvas.palette.metal, 4.0);
    canvas.rect([182.0, zip + 24.0, 36.0, 24.0], 3.0, canvas.palette.wood);
    canvas.rect([187.0, zip + 33.0, 26.0, 3.0], 1.0, canvas.palette.wood.darker(0.4));
    canvas.faint(0.3, |canvas| {
        canvas.line(format_args!("M{} {} V{}", left + 9.0, top + 90.0, base - 30.0), light, 4.0);
    });
}

fn rucksack(canvas: &mut Canvas, traits: Traits) {
    let (half, top) = (traits.between(1, 70.0, 82.0), traits.between(2, 92.0, 108.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    let dark = canvas.palette.base.darker(0.35);
    canvas.shadow(200.0, half * 2.3);
    for (edge, out) in [(left, left - 18.0), (right, right + 18.0)] {
        canvas.line(format_args!("M{edge} 180 C{out} 204 {out} {} {edge} {}", base - 50.0, base - 26.0), dark, 11.0);
    }
    canvas.path(
        format_args!(
            "M{left} 132 H{right} L{} {} Q{} {base} {} {base} H{} Q{} {base} {} {} Z",
            right + 5.0,
            base - 22.0,
            right + 5.0,
            right - 20.0,
            left + 20.0,
            left - 5.0,
            left - 5.0,
            base - 22.0
        ),
        BODY,
    );
    canvas.rect([left - 4.0, top, half * 2.0 + 8.0, 46.0], 20.0, FACE);
    canvas.line(format_args!("M{} {} H{}", left + 8.0, top + 26.0, right - 8.0), canvas.palette.base.darker(0.2), 2.0);
    let pocket = base - 82.0;
    canvas.rect([left + 18.0, pocket, half * 2.0 - 36.0, 66.0], 8.0, FACE);
    canvas.path(
        format_args!(
            "M{} {} H{} V{} Q200 {} {} {} Z",
            left + 14.0,
            pocket - 4.0,
            right - 14.0,
            pocket + 18.0,
            pocket + 36.0,
            left + 14.0,
            pocket + 18.0
        ),
        canvas.palette.base.darker(0.14),
    );
    let strap = canvas.palette.wood;
    for x in if traits.choice(3, 2) == 0 { vec![200.0] } else { vec![166.0, 234.0] } {
        canvas.rect([x - 6.0, top + 6.0, 12.0, pocket - top + 6.0], 3.0, strap.darker(0.12));
        canvas.rect([x - 10.0, pocket - 40.0, 20.0, 20.0], 4.0, METAL);
        canvas.rect([x - 5.0, pocket - 35.0, 10.0, 10.0], 2.0, strap);
    }
}

fn tote(canvas: &mut Canvas, traits: Traits) {
    let (half, top) = (traits.between(1, 86.0, 102.0), traits.between(2, 164.0, 186.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    let leather = if traits.choice(3, 2) == 0 { canvas.palette.wood } else { canvas.palette.base.darker(0.3) };
    let rise = top - traits.between(4, 98.0, 120.0);
    canvas.shadow(200.0, half * 2.1);
    canvas.line(
        format_args!("M156 {top} C154 {} 246 {} 244 {top}", rise + 14.0, rise + 14.0),
        leather.darker(0.3),
        9.0,
    );
    canvas.ellipse(200.0, top + 1.0, half - 3.0, 8.0, canvas.palette.base.darker(0.5));
    canvas.path(
        format_args!(
            "M{left} {top} Q200 {} {right} {top} L{} {} Q{} {base} {} {base} H{} Q{} {base} {} {} Z",
            top + 13.0,
            right - 12.0,
            base - 16.0,
            right - 14.0,
            right - 30.0,
            left + 30.0,
            left + 14.0,
            left + 12.0,
            base - 16.0
        ),
        BODY,
    );
    canvas.line(format_args!("M152 {} C150 {rise} 250 {rise} 248 {}", top + 34.0, top + 34.0), leather, 9.0);
    for x in [152.0, 248.0] {
        canvas.rect([x - 8.0, top + 20.0, 16.0, 26.0], 3.0, leather);
        canvas.circle(x, top + 38.0, 2.4, canvas.palette.metal.lighter(0.3));
    }
    canvas.line(
        format_args!("M{} {} Q200 {} {} {}", left + 4.0, top + 13.0, top + 25.0, right - 4.0, top + 13.0),
        canvas.palette.base.darker(0.22),
        1.6,
    );
    if traits.choice(5, 2) == 0 {
        canvas.rect([176.0, top + 72.0, 48.0, 30.0], 3.0, canvas.palette.base.lighter(0.5));
        canvas.rect([185.0, top + 85.0, 30.0, 3.0], 1.0, canvas.palette.base.darker(0.4));
    }
}

pub(crate) fn bottle(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 176.0, 120.0);
    match style {
        "Vacuum Flask" => flask(canvas, traits),
        "Travel Cup" => travel_cup(canvas, traits),
        _ => water_bottle(canvas, traits),
    }
}

fn water_bottle(canvas: &mut Canvas, traits: Traits) {
    let (half, shoulder) = (traits.between(1, 38.0, 48.0), traits.between(2, 136.0, 162.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    canvas.shadow(200.0, half * 2.4);
    canvas.line("M186 78 C186 48 214 48 214 78", canvas.palette.metal.darker(0.1), 6.0);
    canvas.rect([178.0, 72.0, 44.0, 32.0], 7.0, if traits.choice(3, 2) == 0 { WOOD } else { METAL });
    canvas.rect([183.0, 100.0, 34.0, 14.0], 2.0, METAL);
    canvas.path(format_args!("M182 112 H218 C222 128 {right} {} {right} {shoulder} V{} Q{right} {base} {} {base} H{} Q{left} {base} {left} {} V{shoulder} C{left} {} 178 128 182 112 Z", shoulder - 22.0, base - 14.0, right - 14.0, left + 14.0, base - 14.0, shoulder - 22.0), BODY);
    match traits.choice(4, 3) {
        0 => canvas.rect([left, base - 52.0, half * 2.0, 9.0], 0.0, canvas.palette.base.lighter(0.4)),
        1 => canvas.rect([left, shoulder + 8.0, half * 2.0, 3.0], 0.0, canvas.palette.base.darker(0.2)),
        _ => {}
    }
    canvas.faint(0.28, |canvas| {
        canvas.line(format_args!("M{} {} V{}", left + 13.0, shoulder + 8.0, base - 26.0), "#fff", 6.0);
    });
}

fn flask(canvas: &mut Canvas, traits: Traits) {
    let half = traits.between(1, 42.0, 50.0);
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    let cup = traits.between(2, 64.0, 80.0);
    canvas.shadow(200.0, half * 2.6);
    if traits.choice(3, 2) == 0 {
        canvas.line(
            format_args!("M{right} 172 H{} V262 H{right}", right + 30.0),
            canvas.palette.metal.darker(0.25),
            11.0,
        );
    }
    canvas.path(
        format_args!(
            "M{} {cup} Q{} {} {} {} H{} Q{} {} {} {cup} V{} H{} Z",
            left + 4.0,
            left + 4.0,
            cup - 14.0,
            left + 18.0,
            cup - 14.0,
            right - 18.0,
            right - 4.0,
            cup - 14.0,
            right - 4.0,
            cup + 62.0,
            left + 4.0
        ),
        METAL,
    );
    canvas.rect([left + 6.0, cup + 62.0, half * 2.0 - 12.0, 12.0], 0.0, canvas.palette.metal.darker(0.35));
    canvas.rect([left, cup + 74.0, half * 2.0, base - cup - 74.0], 12.0, BODY);
    canvas.rect([left, base - 28.0, half * 2.0, 4.0], 0.0, canvas.palette.base.darker(0.25));
    canvas.faint(0.28, |canvas| {
        canvas.line(format_args!("M{} {} V{}", left + 14.0, cup + 92.0, base - 44.0), "#fff", 7.0);
    });
}

fn travel_cup(canvas: &mut Canvas, traits: Traits) {
    let (half, foot) = (traits.between(1, 52.0, 60.0), traits.between(2, 38.0, 44.0));
    let (left, right, base) = (200.0 - half, 200.0 + half, FLOOR - 2.0);
    let top = traits.between(3, 132.0, 154.0);
    canvas.shadow(200.0, foot * 2.8);
    canvas.path(
        format_args!(
            "M{left} {top} H{right} L{} {} Q{} {base} {} {base} H{} Q{} {base} {} {} Z",
            200.0 + foot,
            base - 10.0,
            199.0 + foot,
            188.0 + foot,
            212.0 - foot,
            201.0 - foot,
            200.0 - foot,
            base - 10.0
        ),
        BODY,
    );
    let (from, to) = (top + 48.0, top + 108.0);
    let at = |y: f64| half + (foot - half) * (y - top) / (base - top);
    canvas.path(
        format_args!(
            "M{} {from} H{} L{} {to} H{} Z",
            200.0 - at(from) - 2.0,
            200.0 + at(from) + 2.0,
            200.0 + at(to) + 2.0,
            200.0 - at(to) - 2.0
        ),
        if traits.choice(4, 2) == 0 { WOOD } else { FACE },
    );
    canvas.rect([left - 5.0, top - 12.0, half * 2.0 + 10.0, 17.0], 7.0, canvas.palette.base.darker(0.4));
    canvas.path(
        format_args!(
            "M{} {} L{} {} H{} L{} {} Z",
            left + 6.0,
            top - 11.0,
            left + 15.0,
            top - 32.0,
            right - 15.0,
            right - 6.0,
            top - 11.0
        ),
        canvas.palette.base.darker(0.3),
    );
    canvas.rect([left + 26.0, top - 36.0, 24.0, 8.0], 4.0, canvas.palette.base.darker(0.5));
}
