//! The colours of products, and what a drawing derives from one: light, shade, a ground that sets it off.

/// Red, green and blue, 0 to 255.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Rgb(pub(crate) u8, pub(crate) u8, pub(crate) u8);

const NAMED: [(&str, Rgb); 25] = [
    ("Chalk", Rgb(0xf0, 0xeb, 0xe1)),
    ("Oat", Rgb(0xdc, 0xcc, 0xb0)),
    ("Sand", Rgb(0xd0, 0xb5, 0x8e)),
    ("Clay", Rgb(0xbd, 0x70, 0x50)),
    ("Terracotta", Rgb(0xc8, 0x6a, 0x45)),
    ("Rust", Rgb(0x9e, 0x4d, 0x2f)),
    ("Ochre", Rgb(0xcd, 0x98, 0x3a)),
    ("Mustard", Rgb(0xd9, 0xa7, 0x3c)),
    ("Olive", Rgb(0x80, 0x7f, 0x4c)),
    ("Sage", Rgb(0x96, 0xa9, 0x8d)),
    ("Forest", Rgb(0x3f, 0x5f, 0x4d)),
    ("Teal", Rgb(0x35, 0x75, 0x78)),
    ("Mist", Rgb(0xa8, 0xbc, 0xc6)),
    ("Sky", Rgb(0x7f, 0xa9, 0xcb)),
    ("Ink", Rgb(0x2f, 0x3f, 0x5f)),
    ("Plum", Rgb(0x6f, 0x46, 0x5d)),
    ("Blush", Rgb(0xdf, 0xab, 0xa0)),
    ("Charcoal", Rgb(0x41, 0x43, 0x49)),
    ("Walnut", Rgb(0x75, 0x50, 0x3a)),
    ("Brass", Rgb(0xc4, 0xa0, 0x50)),
    ("Copper", Rgb(0xbc, 0x75, 0x50)),
    ("Steel", Rgb(0xab, 0xb1, 0xb7)),
    ("White", Rgb(0xf3, 0xf2, 0xee)),
    ("Black", Rgb(0x2b, 0x2b, 0x2e)),
    ("Red", Rgb(0xb5, 0x3f, 0x3a)),
];

/// Grounds for ordinary and dark things, and deeper ones for things that are almost white.
const GROUNDS: [Rgb; 6] = [
    Rgb(0xf0, 0xe9, 0xdf),
    Rgb(0xe4, 0xea, 0xe6),
    Rgb(0xe9, 0xe5, 0xee),
    Rgb(0xf3, 0xe4, 0xda),
    Rgb(0xe0, 0xe8, 0xee),
    Rgb(0xef, 0xea, 0xd6),
];
const DEEP_GROUNDS: [Rgb; 5] =
    [Rgb(0xb9, 0xc7, 0xbd), Rgb(0xd3, 0xae, 0x97), Rgb(0xa9, 0xbb, 0xc9), Rgb(0xc4, 0xb3, 0xc6), Rgb(0xcf, 0xbd, 0x8f)];

const WHITE: Rgb = Rgb(0xff, 0xff, 0xff);
const NIGHT: Rgb = Rgb(0x20, 0x1c, 0x2b);

impl Rgb {
    /// This colour with a share of another, from 0 to 1.
    pub(crate) fn mix(self, other: Self, share: f64) -> Self {
        let channel = |a: u8, b: u8| (f64::from(a) + (f64::from(b) - f64::from(a)) * share).round() as u8;
        Self(channel(self.0, other.0), channel(self.1, other.1), channel(self.2, other.2))
    }

    pub(crate) fn lighter(self, share: f64) -> Self {
        self.mix(WHITE, share)
    }

    pub(crate) fn darker(self, share: f64) -> Self {
        self.mix(NIGHT, share)
    }

    fn brightness(self) -> f64 {
        (0.299 * f64::from(self.0) + 0.587 * f64::from(self.1) + 0.114 * f64::from(self.2)) / 255.0
    }
}

impl std::fmt::Display for Rgb {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "#{:02x}{:02x}{:02x}", self.0, self.1, self.2)
    }
}

/// The colours of one drawing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Palette {
    pub(crate) base: Rgb,
    pub(crate) ground: Rgb,
    /// Wood, for legs and handles.
    pub(crate) wood: Rgb,
    /// Metal, for rims and joints.
    pub(crate) metal: Rgb,
}

impl Palette {
    /// The palette of a named colour, in one of a few settings.
    pub(crate) fn of(name: &str, setting: usize) -> Self {
        let base =
            NAMED.iter().find(|(known, _)| *known == name).map_or(NAMED[setting % NAMED.len()].1, |(_, rgb)| *rgb);
        let grounds = if base.brightness() > 0.78 { &DEEP_GROUNDS[..] } else { &GROUNDS[..] };
        let wood = [Rgb(0xc6, 0x9c, 0x6d), Rgb(0x8a, 0x5f, 0x43), Rgb(0xd9, 0xb8, 0x8c)][setting % 3];
        let metal = [Rgb(0xc4, 0xa2, 0x5c), Rgb(0x4a, 0x4a, 0x4f), Rgb(0xb4, 0xb8, 0xbc)][setting / 3 % 3];
        Self { base, ground: grounds[setting / 9 % grounds.len()], wood, metal }
    }
}
