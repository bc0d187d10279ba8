//! Product images: one SVG per product, drawn from its category, style and colour, with small differences from model to
//! model.
//! Pure and deterministic. No text of a product gets into the image, so that there is nothing to escape.

mod canvas;
mod carry;
mod color;
mod desk;
mod kitchen;
mod living;
mod sound;

use canvas::Canvas;
use color::Palette;

/// Changes with the drawings, and so belongs to the entity tag of an image.
pub(crate) const REVISION: u32 = 1;

/// What an image depends on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject<'a> {
    /// The name without the colour: the same model has the same shape in every colour.
    pub(crate) model: &'a str,
    pub(crate) category: &'a str,
    pub(crate) style: &'a str,
    pub(crate) color: &'a str,
}

/// Draws a product. One of an unknown category is a parcel, one of an unknown style the first of its category, and one of
/// an unknown colour gets one by its model.
pub(crate) fn draw(subject: Subject<'_>) -> String {
    let traits = Traits(fingerprint(subject.model));
    let mut canvas = Canvas::new(Palette::of(subject.color, traits.of(0) + subject.color.len()));
    let draw: fn(&mut Canvas, &str, Traits) = match subject.category {
        "lamps" => living::lamp,
        "chairs" => living::chair,
        "vases" => living::vase,
        "mugs" => kitchen::mug,
        "teapots" => kitchen::teapot,
        "cookware" => kitchen::cookware,
        "bags" => carry::bag,
        "bottles" => carry::bottle,
        "headphones" => sound::headphones,
        "speakers" => sound::speaker,
        "notebooks" => desk::notebook,
        "clocks" => desk::clock,
        _ => desk::parcel,
    };
    draw(&mut canvas, subject.style, traits);
    canvas.finish()
}

/// Small numbers by which two drawings of one style differ.
#[derive(Clone, Copy, Debug)]
struct Traits(u64);

impl Traits {
    /// The number of a place from 0 to 7: 0 to 255.
    fn of(self, place: u32) -> usize {
        usize::from(self.0.to_le_bytes()[place as usize % 8])
    }

    /// One of `count` choices.
    fn choice(self, place: u32, count: usize) -> usize {
        self.of(place) % count
    }

    /// A number from `from` to `to`.
    fn between(self, place: u32, from: f64, to: f64) -> f64 {
        from + (to - from) * self.of(place) as f64 / 255.0
    }
}

/// FNV-1a, and a last mix so that every byte of it
fn fingerprint(id: &str) -> u64 {
    let hash = id
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    (hash ^ (hash >> 32)).wrapping_mul(0xd6e8_feb8_6659_fd93)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drawing_is_the_same_every_time_and_differs_between_models() {
        let subject = Subject { model: "Luma Desk Lamp", category: "lamps", style: "Desk Lamp", color: "Sage" };
        assert_eq!(draw(subject), draw(subject));
        assert_ne!(draw(subject), draw(Subject { model: "Vega Desk Lamp", ..subject }));
        assert_ne!(draw(subject), draw(Subject { color: "Ink", ..subject }));
    }

    #[test]
    fn anything_can_be_drawn_and_no_text_gets_in() {
        for category in ["lamps", "clocks", "<script>", ""] {
            let svg = draw(Subject { model: "<b>", category, style: "<i>", color: "\"&" });
            assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
            assert!(!svg.contains("<b>") && !svg.contains("<i>") && !svg.contains("script") && !svg.contains("NaN"));
        }
    }
}
