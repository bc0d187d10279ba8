//! A sheet of 400 by 400, seen without its margin, with a wall, a floor and light from the upper left. Drawings put shapes on it, from the back to
//! the front; the floor is at [`FLOOR`].

use std::fmt::{Display, Write};

use super::color::{Palette, Rgb};

/// Where things stand.
pub(crate) const FLOOR: f64 = 322.0;
/// Fills with the product's colour: across a round body, down a flat face, and over a ball.
pub(crate) const BODY: &str = "url(#body)";
pub(crate) const FACE: &str = "url(#face)";
pub(crate) const BALL: &str = "url(#ball)";
/// Fills with wood and with metal, across a round body.
pub(crate) const WOOD: &str = "url(#wood)";
pub(crate) const METAL: &str = "url(#metal)";

/// An image in the making.
#[derive(Debug)]
pub(crate) struct Canvas {
    svg: String,
    pub(crate) palette: Palette,
}

impl Canvas {
    /// The empty room, lit.
    pub(crate) fn new(palette: Palette) -> Self {
        let mut canvas = Self { svg: String::with_capacity(4096), palette };
        canvas.put(
            r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="20 22 360 360" width="800" height="800" role="img"><defs>"#,
        );
        let Palette { base, ground, wood, metal } = palette;
        let across = |color: Rgb| {
            [(0.0, color.lighter(0.14)), (0.28, color.lighter(0.26)), (0.62, color), (1.0, color.darker(0.3))]
        };
        canvas.linear("body", "x2=\"1\" y2=\"0\"", &across(base));
        canvas.linear("wood", "x2=\"1\" y2=\"0\"", &across(wood));
        canvas.linear("metal", "x2=\"1\" y2=\"0\"", &across(metal));
        canvas.linear(
            "face",
            "x2=\".55\" y2=\"1\"",
            &[(0.0, base.lighter(0.16)), (0.5, base), (1.0, base.darker(0.16))],
        );
        canvas.linear("wall", "x2=\".4\" y2=\"1\"", &[(0.0, ground.lighter(0.45)), (1.0, ground)]);
        canvas.linear("floor", "x2=\"0\" y2=\"1\"", &[(0.0, ground.darker(0.07)), (1.0, ground.lighter(0.12))]);
        let ball = [(0.0, base.lighter(0.42)), (0.5, base), (1.0, base.darker(0.32))];
        canvas.radial("ball", "cx=\".36\" cy=\".3\" r=\".78\"", &ball);
        canvas.put(r##"<radialGradient id="shade"><stop offset="0" stop-color="#201c2b" stop-opacity=".38"/>"##);
        canvas.put(r##"<stop offset=".55" stop-color="#201c2b" stop-opacity=".14"/>"##);
        canvas.put(r##"<stop offset="1" stop-color="#201c2b" stop-opacity="0"/></radialGradient>"##);
        canvas.put(
            r##"<linearGradient id="glow" x2="0" y2="1"><stop offset="0" stop-color="#fff3cf" stop-opacity=".85"/>"##,
        );
        canvas.put(r##"<stop offset="1" stop-color="#fff3cf" stop-opacity="0"/></linearGradient></defs>"##);
        canvas.put(r##"<rect width="400" height="400" fill="url(#wall)"/>"##);
        canvas.put(r##"<rect y="296" width="400" height="104" fill="url(#floor)"/>"##);
        canvas
    }

    /// The image.
    pub(crate) fn finish(mut self) -> String {
        self.put("</svg>\n");
        self.svg
    }

    /// A disc on the wall, behind everything.
    pub(crate) fn sun(&mut self, x: f64, y: f64, radius: f64) {
        let fill = self.palette.ground.lighter(0.42);
        self.ellipse(x, y, radius, radius, fill);
    }

    /// The shadow of something that stands on the floor and is `width` wide.
    pub(crate) fn shadow(&mut self, x: f64, width: f64) {
        self.ellipse(x + 10.0, FLOOR, width * 0.62, 15.0, "url(#shade)");
    }

    pub(crate) fn path(&mut self, path: impl Display, fill: impl Display) {
        self.put(format_args!(r#"<path d="{path}" fill="{fill}"/>"#));
    }

    /// A line with round ends along a path.
    pub(crate) fn line(&mut self, path: impl Display, stroke: impl Display, width: f64) {
        self.put(format_args!(
            r#"<path d="{path}" fill="none" stroke="{stroke}" stroke-width="{width:.1}" stroke-linecap="round" stroke-linejoin="round"/>"#
        ));
    }

    pub(crate) fn ellipse(&mut self, x: f64, y: f64, rx: f64, ry: f64, fill: impl Display) {
        self.put(format_args!(r#"<ellipse cx="{x:.1}" cy="{y:.1}" rx="{rx:.1}" ry="{ry:.1}" fill="{fill}"/>"#));
    }

    pub(crate) fn circle(&mut self, x: f64, y: f64, radius: f64, fill: impl Display) {
        self.ellipse(x, y, radius, radius, fill);
    }

    /// A rectangle with round corners: left, top, width, height.
    pub(crate) fn rect(&mut self, [x, y, width, height]: [f64; 4], round: f64, fill: impl Display) {
        self.put(format_args!(
            r#"<rect x="{x:.1}" y="{y:.1}" width="{width:.1}" height="{height:.1}" rx="{round:.1}" fill="{fill}"/>"#
        ));
    }

    /// What `draw` draws, turned about a point.
    pub(crate) fn turned(&mut self, degrees: f64, x: f64, y: f64, draw: impl FnOnce(&mut Self)) {
        self.put(format_args!(r#"<g transform="rotate({degrees:.1} {x:.1} {y:.1})">"#));
        draw(self);
        self.put("</g>");
    }

    /// What `draw` draws, thinned to a share of its strength.
    pub(crate) fn faint(&mut self, strength: f64, draw: impl FnOnce(&mut Self)) {
        self.put(format_args!(r#"<g opacity="{strength:.2}">"#));
        draw(self);
        self.put("</g>");
    }

    fn linear(&mut self, id: &str, to: &str, stops: &[(f64, Rgb)]) {
        self.put(format_args!(r#"<linearGradient id="{id}" x1="0" y1="0" {to}>"#));
        self.stops(stops);
        self.put("</linearGradient>");
    }

    fn radial(&mut self, id: &str, shape: &str, stops: &[(f64, Rgb)]) {
        self.put(format_args!(r#"<radialGradient id="{id}" {shape}>"#));
        self.stops(stops);
        self.put("</radialGradient>");
    }

    fn stops(&mut self, stops: &[(f64, Rgb)]) {
        for (offset, color) in stops {
            self.put(format_args!(r#"<stop offset="{offset}" stop-color="{color}"/>"#));
        }
    }

    fn put(&mut self, text: impl Display) {
        // Writing to a string cannot fail.
        let _ = write!(self.svg, "{text}");
    }
}
