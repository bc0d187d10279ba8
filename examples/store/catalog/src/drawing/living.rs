//! Lamps, chairs and vases.

use super::Traits;
use super::canvas::{BALL, BODY, Canvas, FACE, FLOOR, METAL};
use super::color::Rgb;

pub(crate) fn lamp(canvas: &mut Canvas, style: &str, traits: Traits) {
    match style {
        "Desk Lamp" => desk_lamp(canvas, traits),
        "Floor Lamp" => floor_lamp(canvas, traits),
        "Table Lamp" => table_lamp(canvas, traits),
        _ => pendant_lamp(canvas, traits),
    }
}

fn pendant_lamp(canvas: &mut Canvas, traits: Traits) {
    let (half, top) = (traits.between(1, 84.0, 112.0), traits.between(2, 112.0, 142.0));
    let rim = 226.0;
    let (left, right) = (200.0 - half, 200.0 + half);
    canvas
        .path(format_args!("M{left} {rim} L{} 400 L{} 400 L{right} {rim} Z", left - 50.0, right + 50.0), "url(#glow)");
    canvas.line(format_args!("M200 0 V{top}"), canvas.palette.base.darker(0.55), 2.5);
    canvas.rect([190.0, top - 16.0, 20.0, 24.0], 6.0, METAL);
    let shade = match traits.choice(3, 3) {
        0 => format!("M{left} {rim} C{left} {top} {} {top} 200 {top} S{right} {top} {right} {rim} Z", left + 40.0),
        1 => format!(
            "M{left} {rim} Q{} {} 182 {top} H218 Q{} {} {right} {rim} Z",
            left + 46.0,
            top + 26.0,
            right - 46.0,
            top + 26.0
        ),
        _ => format!("M{left} {rim} L{} {top} H{} L{right} {rim} Z", 200.0 - half * 0.42, 200.0 + half * 0.42),
    };
    canvas.path(shade, BODY);
    canvas.ellipse(200.0, rim, half, 13.0, canvas.palette.base.darker(0.28));
    canvas.ellipse(200.0, rim + 2.5, half - 7.0, 9.0, "#fff1cc");
    canvas.ellipse(200.0, rim + 4.0, 26.0, 6.0, "#fffaf0");
}

fn desk_lamp(canvas: &mut Canvas, traits: Traits) {
    let (elbow, head) = (traits.between(1, 112.0, 140.0), traits.between(2, 216.0, 246.0));
    let arm = canvas.palette.base.darker(0.22);
    canvas.path(
        format_args!("M{} 168 L{} {FLOOR} H{} L{} 150 Z", head + 2.0, head - 26.0, head + 104.0, head + 62.0),
        "url(#glow)",
    );
    canvas.shadow(172.0, 120.0);
    canvas.ellipse(172.0, FLOOR - 3.0, 58.0, 10.0, canvas.palette.base.darker(0.25));
    canvas.ellipse(172.0, FLOOR - 9.0, 58.0, 10.0, FACE);
    canvas.line(format_args!("M172 {} L{elbow} 212 L{head} 116", FLOOR - 12.0), arm, 6.5);
    canvas.line(format_args!("M172 {} L{elbow} 212 L{head} 116", FLOOR - 14.0), canvas.palette.base.lighter(0.12), 2.0);
    canvas.circle(elbow, 212.0, 9.0, METAL);
    canvas.circle(172.0, FLOOR - 16.0, 8.0, METAL);
    canvas.turned(-22.0, head, 116.0, |canvas| {
        let (x, y) = (head, 116.0);
        canvas.ellipse(x + 28.0, y + 58.0, 48.0, 11.0, "#fff1cc");
        canvas.path(
            format_args!(
                "M{} {} C{} {} {} {} {x} {} H{} C{} {} {} {} {} {} Z",
                x - 22.0,
                y + 58.0,
                x - 20.0,
                y + 10.0,
                x + 6.0,
                y - 6.0,
                y - 12.0,
                x + 54.0,
                x + 64.0,
                y + 4.0,
                x + 76.0,
                y + 24.0,
                x + 78.0,
                y + 58.0
            ),
            BODY,
        );
        canvas.rect([x + 16.0, y - 28.0, 24.0, 18.0], 7.0, METAL);
    });
}

fn floor_lamp(canvas: &mut Canvas, traits: Traits) {
    let (half, height) = (traits.between(1, 58.0, 78.0), traits.between(2, 74.0, 98.0));
    let (top, narrow) = (52.0, half * traits.between(3, 0.62, 1.0));
    let rim = top + height;
    canvas.shadow(200.0, 104.0);
    if traits.choice(4, 2) == 0 {
        canvas.ellipse(200.0, FLOOR - 3.0, 46.0, 8.0, canvas.palette.metal.darker(0.3));
        canvas.ellipse(200.0, FLOOR - 6.0, 46.0, 8.0, METAL);
        canvas.rect([197.0, rim - 8.0, 6.0, FLOOR - rim], 2.0, METAL);
    } else {
        for (foot, width) in [(146.0, 5.5), (256.0, 5.5), (204.0, 6.5)] {
            canvas.line(format_args!("M200 {} L{foot} {}", rim + 12.0, FLOOR - 3.0), canvas.palette.wood, width);
        }
        canvas.rect([190.0, rim - 6.0, 20.0, 26.0], 5.0, METAL);
    }
    canvas.faint(0.6, |canvas| {
        canvas.path(
            format_args!("M{} {rim} L{} 330 H{} L{} {rim} Z", 200.0 - half, 88.0, 312.0, 200.0 + half),
            "url(#glow)",
        );
    });
    canvas.path(
        format_args!("M{} {top} H{} L{} {rim} H{} Z", 200.0 - narrow, 200.0 + narrow, 200.0 + half, 200.0 - half),
        BODY,
    );
    canvas.ellipse(200.0, rim, half, 8.0, "#fff1cc");
    canvas.ellipse(200.0, top, narrow, 6.0, canvas.palette.base.lighter(0.3));
}

fn table_lamp(canvas: &mut Canvas, traits: Traits) {
    let (half, stem) = (traits.between(1, 82.0, 104.0), traits.between(2, 20.0, 38.0));
    let rim = traits.between(3, 186.0, 206.0);
    canvas.sun(200.0, 176.0, 138.0);
    canvas.shadow(200.0, stem * 3.4);
    let (left, right) = (200.0 - stem, 200.0 + stem);
    let flare = traits.between(4, 0.0, 26.0);
    canvas.path(
        format_args!(
            "M{left} {rim} C{left} 260 {} 300 {} {} Q200 {} {} {} C{} 300 {right} 260 {right} {rim} Z",
            left - flare,
            left - flare,
            FLOOR - 4.0,
            FLOOR + 7.0,
            right + flare,
            FLOOR - 4.0,
            right + flare
        ),
        BODY,
    );
    let (left, right) = (200.0 - half, 200.0 + half);
    canvas.faint(0.75, |canvas| {
        canvas
            .path(format_args!("M{left} {rim} L{} 300 H{} L{right} {rim} Z", left + 10.0, right - 10.0), "url(#glow)");
    });
    canvas.path(
        format_args!("M{left} {rim} C{left} {} {right} {} {right} {rim} Z", rim - half * 1.35, rim - half * 1.35),
        BALL,
    );
    canvas.ellipse(200.0, rim, half, 11.0, canvas.palette.base.darker(0.22));
    canvas.ellipse(200.0, rim + 2.0, half - 7.0, 7.5, "#fff1cc");
}

pub(crate) fn chair(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(if traits.choice(7, 2) == 0 { 150.0 } else { 250.0 }, 160.0, 104.0);
    match style {
        "Lounge Chair" => lounge_chair(canvas, traits),
        "Stool" => stool(canvas, traits),
        "Armchair" => armchair(canvas, traits),
        _ => dining_chair(canvas, traits),
    }
}

fn dining_chair(canvas: &mut Canvas, traits: Traits) {
    let wood = canvas.palette.wood;
    canvas.shadow(200.0, 150.0);
    canvas.line(format_args!("M158 206 L150 {}", FLOOR - 16.0), wood.darker(0.35), 8.0);
    canvas.line(format_args!("M246 206 L254 {}", FLOOR - 16.0), wood.darker(0.35), 8.0);
    canvas.line("M146 208 C142 160 138 120 136 76", wood.darker(0.12), 9.0);
    canvas.line("M256 208 C260 160 264 120 266 76", wood.darker(0.12), 9.0);
    match traits.choice(1, 3) {
        0 => canvas.path("M132 70 Q200 54 270 70 L266 118 Q200 104 136 118 Z", FACE),
        1 => {
            canvas.path("M131 66 Q200 52 271 66 L269 88 Q200 76 133 88 Z", FACE);
            for x in [158.0, 179.0, 201.0, 223.0, 244.0] {
                canvas.line(format_args!("M{x} 84 V200"), wood, 5.0);
            }
        }
        _ => {
            for y in [70.0, 108.0, 146.0] {
                canvas.path(
                    format_args!(
                        "M134 {y} Q200 {} 268 {y} L267 {} Q200 {} 136 {} Z",
                        y - 12.0,
                        y + 20.0,
                        y + 9.0,
                        y + 20.0
                    ),
                    FACE,
                );
            }
        }
    }
    canvas.path("M136 198 Q200 188 264 198 L280 224 Q200 238 120 224 Z", FACE);
    canvas.path("M120 224 Q200 238 280 224 V233 Q200 248 120 233 Z", canvas.palette.base.darker(0.3));
    canvas.line(format_args!("M128 236 L116 {}", FLOOR - 2.0), wood, 10.0);
    canvas.line(format_args!("M272 236 L284 {}", FLOOR - 2.0), wood, 10.0);
}

fn lounge_chair(canvas: &mut Canvas, traits: Traits) {
    let wood = canvas.palette.wood;
    let lean = traits.between(1, -10.0, 12.0);
    canvas.shadow(204.0, 200.0);
    canvas.line(format_args!("M262 222 L286 {}", FLOOR - 2.0), wood.darker(0.3), 8.0);
    canvas.line(format_args!("M140 240 L118 {}", FLOOR - 2.0), wood.darker(0.3), 8.0);
    canvas.path(
        format_args!(
            "M{} 92 C{} 74 {} 84 {} 104 L288 214 C296 236 282 246 264 244 L128 254 C108 254 102 238 114 228 L228 212 Z",
            214.0 + lean,
            224.0 + lean,
            250.0 + lean,
            254.0 + lean
        ),
        canvas.palette.base.darker(0.24),
    );
    canvas.path(
        format_args!(
            "M{} 96 C{} 80 {} 84 {} 108 L270 208 C274 226 258 232 246 230 Z",
            206.0 + lean,
            212.0 + lean,
            240.0 + lean,
            246.0 + lean
        ),
        FACE,
    );
    canvas.path("M112 222 C112 210 122 204 136 203 L246 196 C262 196 268 206 266 216 C264 228 254 232 244 233 L136 242 C118 243 112 234 112 222 Z", BODY);
    canvas.line("M112 190 H236 C250 190 262 196 266 208", wood, 9.0);
    canvas.line(format_args!("M124 192 L100 {FLOOR}"), wood, 9.0);
    canvas.line(format_args!("M240 192 L268 {FLOOR}"), wood, 9.0);
}

fn stool(canvas: &mut Canvas, traits: Traits) {
    let (top, half) = (traits.between(1, 150.0, 186.0), traits.between(2, 66.0, 82.0));
    let wood = canvas.palette.wood;
    let spread = half + traits.between(3, 2.0, 20.0);
    canvas.shadow(200.0, half * 2.0);
    canvas.line(format_args!("M206 {top} L214 {}", FLOOR - 14.0), wood.darker(0.35), 9.0);
    let rung = top + (FLOOR - top) * 0.62;
    canvas.line(format_args!("M{} {rung} H{}", 200.0 - spread * 0.76, 200.0 + spread * 0.76), wood.darker(0.15), 6.0);
    canvas.line(format_args!("M{} {top} L{} {FLOOR}", 200.0 - half * 0.55, 200.0 - spread), wood, 10.0);
    canvas.line(format_args!("M{} {top} L{} {FLOOR}", 200.0 + half * 0.55, 200.0 + spread), wood.darker(0.12), 10.0);
    let thick = traits.between(4, 12.0, 30.0);
    canvas.path(
        format_args!(
            "M{} {top} V{} A{half} 19 0 0 0 {} {} V{top} Z",
            200.0 - half,
            top + thick - 14.0,
            200.0 + half,
            top + thick - 14.0
        ),
        BODY,
    );
    canvas.ellipse(200.0, top, half, 19.0, canvas.palette.base.lighter(0.2));
    canvas.ellipse(196.0, top - 1.0, half * 0.82, 13.0, canvas.palette.base.lighter(0.28));
}

fn armchair(canvas: &mut Canvas, traits: Traits) {
    let (half, top) = (traits.between(1, 98.0, 114.0), traits.between(2, 92.0, 118.0));
    let (left, right) = (200.0 - half, 200.0 + half);
    let wood = canvas.palette.wood;
    canvas.shadow(200.0, half * 2.0);
    for (from, to) in [(156.0, 142.0), (244.0, 258.0)] {
        canvas.line(format_args!("M{from} 268 L{to} {}", FLOOR - 12.0), wood.darker(0.35), 9.0);
    }
    for (from, to) in [(126.0, 112.0), (274.0, 288.0)] {
        canvas.line(format_args!("M{from} 270 L{to} {FLOOR}"), wood, 10.0);
    }
    canvas.path(
        format_args!(
            "M{left} 196 C{left} {top} {} {top} 200 {top} S{right} {top} {right} 196 L{} 258 Q200 290 {} 258 Z",
            200.0 - half * 0.7,
            right - 14.0,
            left + 14.0
        ),
        BODY,
    );
    canvas.path(
        format_args!(
            "M{} 200 C{} {} {} {} 200 {} S{} {} {} 200 L{} 240 H{} Z",
            left + 32.0,
            left + 34.0,
            top + 30.0,
            200.0 - half * 0.5,
            top + 22.0,
            top + 22.0,
            right - 34.0,
            top + 30.0,
            right - 32.0,
            right - 40.0,
            left + 40.0
        ),
        canvas.palette.base.darker(0.16),
    );
    canvas.path(
        format_args!(
            "M{} 226 Q200 202 {} 226 L{} 254 Q200 276 {} 254 Z",
            left + 30.0,
            right - 30.0,
            right - 34.0,
            left + 34.0
        ),
        FACE,
    );
    for (edge, inward, fill) in
        [(left, 1.0, FACE.to_owned()), (right, -1.0, canvas.palette.base.darker(0.1).to_string())]
    {
        let x = |distance: f64| edge + inward * distance;
        let [back, front, inner, seat, toe, heel] = [x(8.0), x(34.0), x(36.0), x(42.0), x(26.0), x(14.0)];
        canvas.path(
            format_args!("M{edge} 190 C{back} 176 {front} 184 {inner} 200 L{seat} 262 Q{toe} 268 {heel} 258 Z"),
            fill,
        );
    }
}

pub(crate) fn vase(canvas: &mut Canvas, style: &str, traits: Traits) {
    canvas.sun(200.0, 170.0, 122.0);
    let (mouth, neck, half, shoulder) = match style {
        "Round Vase" => (traits.between(1, 22.0, 40.0), 190.0, traits.between(2, 74.0, 88.0), 262.0),
        "Tall Vase" => (traits.between(1, 36.0, 46.0), 128.0, traits.between(2, 42.0, 56.0), 210.0),
        _ => (traits.between(1, 11.0, 17.0), 138.0, traits.between(2, 58.0, 72.0), 268.0),
    };
    let foot = half * traits.between(3, 0.5, 0.72);
    branches(canvas, neck, mouth, traits);
    canvas.shadow(200.0, half * 1.8);
    let lip = mouth + 4.0;
    let side = |sign: f64| (200.0 + sign * lip, 200.0 + sign * mouth, 200.0 + sign * half, 200.0 + sign * foot);
    let ((ll, lm, lh, lf), (rl, rm, rh, rf)) = (side(-1.0), side(1.0));
    let (dip, waist, base) = (neck + 12.0, neck + (shoulder - neck) * 0.55, FLOOR - 4.0);
    canvas.path(
        format_args!("M{ll} {neck} Q{lm} {dip} {lm} {} C{lm} {waist} {lh} {} {lh} {shoulder} C{lh} {} {lf} {} {lf} {base} Q200 {} {rf} {base} C{rf} {} {rh} {} {rh} {shoulder} C{rh} {} {rm} {waist} {rm} {} Q{rm} {dip} {rl} {neck} Z",
            dip + 6.0, shoulder - 40.0, shoulder + 26.0, base - 14.0, base + 9.0, base - 14.0, shoulder + 26.0, shoulder - 40.0, dip + 6.0),
        BODY,
    );
    canvas.ellipse(200.0, neck, lip, lip * 0.2 + 1.5, canvas.palette.base.darker(0.45));
    match traits.choice(4, 3) {
        0 => canvas.faint(0.5, |canvas| {
            let y = shoulder + 4.0;
            canvas.line(
                format_args!("M{} {y} Q200 {} {} {y}", lh + 1.0, y + 17.0, rh - 1.0),
                canvas.palette.base.lighter(0.6),
                3.0,
            );
            canvas.line(
                format_args!("M{} {} Q200 {} {} {}", lh + 1.5, y + 9.0, y + 26.0, rh - 1.5, y + 9.0),
                canvas.palette.base.lighter(0.6),
                1.6,
            );
        }),
        1 => canvas.faint(0.16, |canvas| {
            canvas.ellipse(200.0 - half * 0.5, shoulder - 6.0, half * 0.14, 34.0, "#fff");
        }),
        _ => {}
    }
}

/// Something in the vase: two or three stems with leaves or buds.
fn branches(canvas: &mut Canvas, neck: f64, mouth: f64, traits: Traits) {
    let green = Rgb(0x6f, 0x83, 0x66).mix(canvas.palette.ground, 0.1);
    let bud = [Rgb(0xd9, 0x8f, 0x7c), Rgb(0xe3, 0xbf, 0x6b), Rgb(0xf2, 0xe6, 0xd8)][traits.choice(5, 3)];
    let stems = 2 + traits.choice(6, 2);
    for stem in 0..stems {
        let lean = (stem as f64 - (stems - 1) as f64 / 2.0) * 56.0 + traits.between(stem as u32 + 1, -12.0, 12.0);
        let from = 200.0 + (lean * 0.2).clamp(-mouth + 3.0, mouth - 3.0);
        let (tip, top) = (200.0 + lean, neck - traits.between(stem as u32 + 2, 74.0, 104.0));
        let bend = from + (tip - from) * 0.25;
        canvas.line(
            format_args!("M{from:.1} {} Q{bend:.1} {} {tip:.1} {top:.1}", neck + 8.0, neck - 40.0),
            green.darker(0.2),
            2.4,
        );
        for leaf in 1..7_u32 {
            let along = f64::from(leaf) / 6.5;
            let rest = 1.0 - along;
            let x = rest * rest * from + 2.0 * rest * along * bend + along * along * tip;
            let y = rest * rest * neck + 2.0 * rest * along * (neck - 40.0) + along * along * top;
            let side = if leaf % 2 == 0 { 1.0 } else { -1.0 };
            let size = 15.0 - along * 6.0;
            canvas.turned(side * 48.0 + lean * 0.4, x, y, |canvas| {
                canvas.ellipse(x, y - size, size * 0.42, size, if leaf % 3 == 0 { green.lighter(0.18) } else { green });
            });
        }
        canvas.circle(tip, top, 6.5, bud);
        canvas.circle(tip - 1.5, top - 2.0, 3.0, bud.lighter(0.35));
    }
}
