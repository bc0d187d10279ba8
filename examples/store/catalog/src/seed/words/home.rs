//! The vocabulary of what is used in the living room and the kitchen.

use super::{Kind, Style};

pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        category: "lamps",
        styles: &[
            Style {
                name: "Pendant Lamp",
                sizes: &["28 cm", "34 cm", "42 cm"],
                prices: (79, 289),
                grams: (900, 2800),
                openings: &[
                    "{name} hangs low over a table and keeps the light on the plates, not in your eyes.",
                    "A wide, quiet shade that gathers a room around it.",
                ],
            },
            Style {
                name: "Desk Lamp",
                sizes: &["42 cm", "48 cm", "55 cm"],
                prices: (69, 249),
                grams: (1100, 2400),
                openings: &[
                    "{name} moves where you point it and stays there, with two joints and no springs to squeak.",
                    "A reading light with a patient arm and a head the size of a hand.",
                ],
            },
            Style {
                name: "Floor Lamp",
                sizes: &["142 cm", "150 cm", "160 cm"],
                prices: (129, 389),
                grams: (3800, 7200),
                openings: &[
                    "{name} stands behind the sofa like a good host: present, and never in the way.",
                    "One slim stem, one generous shade, and the corner you never used becomes the best seat.",
                ],
            },
            Style {
                name: "Table Lamp",
                sizes: &["24 cm", "30 cm", "36 cm"],
                prices: (59, 219),
                grams: (900, 2600),
                openings: &[
                    "A small mushroom of light for shelves, bedsides and long dinners.",
                    "{name} glows rather than shines, which is all that an evening asks for.",
                ],
            },
        ],
        brands: &["Northlight", "Halden & Daughters", "Oak & Ember", "Foundry Nine", "Signal & Pine"],
        materials: &[
            ("Powder-coated steel", "The spun steel is powder-coated in {color}, matt to the touch and easy to dust."),
            ("Aluminium", "Its shade is turned from a single sheet of recycled aluminium and finished in {color}."),
            ("Linen and oak", "Washed linen in {color} softens the light, and the oak darkens a little every year."),
            ("Opal glass", "Mouth-blown glass, tinted {color}, spreads the light without a single bright spot."),
        ],
        endings: &[
            "Takes an ordinary E27 bulb, so it will outlive the one it comes with.",
            "The textile cable is two metres long and has a dimmer you can find in the dark.",
            "Every part can be unscrewed, and every part can be ordered again.",
            "A dimmable LED of 2,700 kelvin is in the box.",
        ],
        colors: &["Chalk", "Clay", "Ochre", "Sage", "Forest", "Ink", "Charcoal", "Brass", "Blush", "Mist", "Rust"],
    },
    Kind {
        category: "chairs",
        styles: &[
            Style {
                name: "Dining Chair",
                sizes: &["Seat height 45 cm", "Seat height 46 cm"],
                prices: (119, 349),
                grams: (3800, 5900),
                openings: &[
                    "{name} is made for the second hour of dinner, when a lesser chair begins to be noticed.",
                    "A straightforward chair with a curved back that finds the right spot on its own.",
                ],
            },
            Style {
                name: "Lounge Chair",
                sizes: &["Seat height 36 cm", "Seat height 38 cm"],
                prices: (289, 749),
                grams: (7200, 14500),
                openings: &[
                    "Low, deep and a little tilted: {name} makes it hard to get up again, on purpose.",
                    "A chair for one book, one lamp and no plans.",
                ],
            },
            Style {
                name: "Stool",
                sizes: &["Seat height 45 cm", "Seat height 64 cm"],
                prices: (79, 199),
                grams: (2600, 4300),
                openings: &[
                    "{name} is a seat, a bedside table, and the thing you stand on to change a bulb.",
                    "Three legs never wobble; this stool relies on it.",
                ],
            },
            Style {
                name: "Armchair",
                sizes: &["Seat height 41 cm", "Seat height 43 cm"],
                prices: (259, 699),
                grams: (6800, 12500),
                openings: &[
                    "{name} wraps its arms around you just enough to nap without sliding.",
                    "A rounded shell on slender legs that looks good from behind, too.",
                ],
            },
        ],
        brands: &["Halden & Daughters", "Lindqvist Works", "Oak & Ember", "Studio Pell", "Grovelane"],
        materials: &[
            ("Solid oak", "The oak frame is oiled, not lacquered, so scratches can simply be rubbed out."),
            ("Ash and wool", "A frame of pale ash carries a seat in {color} wool that does not mind a spill."),
            ("Moulded plywood", "Nine layers of beech are pressed into one shell and stained {color}."),
            ("Recycled felt", "The {color} felt began as bottles, though neither hand nor eye would guess it."),
        ],
        endings: &[
            "Arrives in one piece, with felt glides already under the feet.",
            "Tested to 160 kilograms, and to children.",
            "The joints are pegged and glued, and guaranteed for fifteen years.",
            "Stacks four high when the guests have gone.",
        ],
        colors: &["Oat", "Clay", "Ochre", "Sage", "Forest", "Teal", "Ink", "Charcoal", "Walnut", "Blush", "Plum"],
    },
    Kind {
        category: "vases",
        styles: &[
            Style {
                name: "Bottle Vase",
                sizes: &["16 cm", "21 cm", "27 cm"],
                prices: (19, 89),
                grams: (420, 1300),
                openings: &[
                    "A narrow neck that makes a single stem look like a decision.",
                    "{name} asks for one branch and gives it the whole stage.",
                ],
            },
            Style {
                name: "Round Vase",
                sizes: &["14 cm", "18 cm", "22 cm"],
                prices: (24, 99),
                grams: (520, 1700),
                openings: &[
                    "{name} is as round as the wheel that made it, with a mouth just wide enough for a handful of tulips.",
                    "A calm, full shape that looks finished even when it is empty.",
                ],
            },
            Style {
                name: "Tall Vase",
                sizes: &["27 cm", "34 cm", "45 cm"],
                prices: (34, 139),
                grams: (900, 2900),
                openings: &[
                    "For the long stems that fall out of everything else.",
                    "{name} stands straight on the floor or the sideboard and holds a whole armful.",
                ],
            },
        ],
        brands: &["Kiln Street", "Atelier Ruhe", "Tidewater", "Aster House", "Fennel"],
        materials: &[
            ("Stoneware", "Thrown in stoneware and dipped in a {color} glaze that breaks lighter along the edges."),
            ("Porcelain", "The porcelain is cast thin, tinted {color} in the clay itself, and left bare outside."),
            ("Recycled glass", "Blown from recycled glass in {color}; the small bubbles are part of the bargain."),
            ("Terracotta", "Rough terracotta, washed in {color} slip and sealed inside so that it holds water."),
        ],
        endings: &[
            "No two come out of the kiln alike.",
            "Watertight, heavy at the foot, and safe with a cat in the house.",
            "Rinse it by hand and let it dry upside down.",
            "The maker's mark is pressed into the base.",
        ],
        colors: &[
            "Chalk",
            "Oat",
            "Terracotta",
            "Rust",
            "Ochre",
            "Olive",
            "Sage",
            "Teal",
            "Sky",
            "Plum",
            "Blush",
            "Ink",
        ],
    },
    Kind {
        category: "mugs",
        styles: &[
            Style {
                name: "Mug",
                sizes: &["240 ml", "320 ml", "400 ml"],
                prices: (16, 39),
                grams: (280, 430),
                openings: &[
                    "{name} holds a proper cup of coffee and has a handle for three fingers, not two.",
                    "The mug you will reach past the others for.",
                ],
            },
            Style {
                name: "Espresso Cup",
                sizes: &["60 ml", "80 ml"],
                prices: (11, 26),
                grams: (120, 190),
                openings: &[
                    "Small, thick-walled and quick to warm: a cup that takes an espresso seriously.",
                    "{name} is four sips tall and keeps the crema to the last of them.",
                ],
            },
            Style {
                name: "Tumbler",
                sizes: &["180 ml", "240 ml", "320 ml"],
                prices: (14, 34),
                grams: (200, 330),
                openings: &[
                    "No handle, no fuss: {name} is shaped to be held with both hands.",
                    "A straight tumbler for flat whites, tea, or the toothbrush.",
                ],
            },
        ],
        brands: &["Kiln Street", "Hearthmade", "Atelier Ruhe", "Fennel", "Wren & Co"],
        materials: &[
            ("Stoneware", "Its {color} glaze pools at the foot and thins at the rim, where the clay shows through."),
            ("Porcelain", "Fine porcelain in {color} outside and plain white within, so tea looks like tea."),
            ("Enamelled steel", "Two coats of {color} enamel over steel make it nearly impossible to ruin."),
        ],
        endings: &[
            "Happy in the dishwasher and in the microwave.",
            "Stacks neatly, and does not ring when it is set down.",
            "Balanced so that it tips towards your mouth and never towards your lap.",
            "Thrown, trimmed and glazed in one small workshop.",
        ],
        colors: &["Chalk", "Oat", "Sand", "Terracotta", "Mustard", "Sage", "Forest", "Sky", "Ink", "Plum", "Charcoal"],
    },
    Kind {
        category: "teapots",
        styles: &[
            Style {
                name: "Teapot",
                sizes: &["0.6 l", "0.8 l", "1.0 l"],
                prices: (34, 129),
                grams: (650, 1500),
                openings: &[
                    "{name} pours in one clean arc and stops when you do.",
                    "A round-bellied pot for three cups and an unhurried afternoon.",
                ],
            },
            Style {
                name: "Kettle",
                sizes: &["1.2 l", "1.4 l", "1.8 l"],
                prices: (39, 149),
                grams: (900, 1600),
                openings: &[
                    "{name} sings one low note when the water is ready, and only one.",
                    "A stovetop kettle with a broad base that boils sooner than you expect.",
                ],
            },
            Style {
                name: "Carafe",
                sizes: &["0.5 l", "0.7 l", "1.0 l"],
                prices: (29, 89),
                grams: (420, 820),
                openings: &[
                    "{name} goes from the filter to the table, and looks right in both places.",
                    "A waisted carafe that is easy to hold, even when it is full.",
                ],
            },
        ],
        brands: &["Hearthmade", "Kiln Street", "Foundry Nine", "Aster House", "Tidewater"],
        materials: &[
            ("Cast iron", "Cast iron in {color} keeps the heat for an hour; the inside is enamelled against rust."),
            ("Stoneware", "Glazed {color} stoneware is thick enough to keep warm, thin enough to lift full."),
            ("Steel", "The brushed steel is coated in {color}, and the handle never gets hot."),
        ],
        endings: &[
            "The strainer lifts out and goes into the dishwasher.",
            "The lid locks with a quarter turn, so it stays on for the last cup.",
            "Works on gas, electric and induction hobs, wherever its material allows.",
            "Spare lids and knobs are kept for ten years.",
        ],
        colors: &["Chalk", "Clay", "Mustard", "Olive", "Sage", "Forest", "Teal", "Ink", "Charcoal", "Rust", "Copper"],
    },
    Kind {
        category: "cookware",
        styles: &[
            Style {
                name: "Casserole",
                sizes: &["20 cm", "24 cm", "28 cm"],
                prices: (99, 299),
                grams: (3200, 5900),
                openings: &[
                    "{name} starts on the hob, finishes in the oven, and ends up in the middle of the table.",
                    "A heavy pot with a heavier lid: what goes in tough comes out tender.",
                ],
            },
            Style {
                name: "Saucepan",
                sizes: &["16 cm", "18 cm", "20 cm"],
                prices: (49, 169),
                grams: (1100, 1900),
                openings: &[
                    "{name} is the pan for porridge, for caramel, and for everything between the two.",
                    "Straight walls, a sharp pouring edge and a long cool handle.",
                ],
            },
            Style {
                name: "Frying Pan",
                sizes: &["20 cm", "24 cm", "28 cm"],
                prices: (44, 159),
                grams: (1000, 2400),
                openings: &[
                    "A pan that wants to get hot and stay hot, for a crust that crackles.",
                    "{name} has sloping sides, for those who toss, and a helper handle for those who do not.",
                ],
            },
        ],
        brands: &["Foundry Nine", "Hearthmade", "Oak & Ember", "Marlowe"],
        materials: &[
            (
                "Enamelled cast iron",
                "Three coats of {color} enamel protect the iron from you, and dinner from the iron.",
            ),
            ("Five-ply steel", "Five layers of steel and aluminium carry the heat right up to the {color} rim."),
            ("Carbon steel", "Carbon steel under a {color} coat takes on seasoning, and with it a character."),
        ],
        endings: &[
            "Safe in the oven up to 260 °C, knob included.",
            "Fits every hob, induction too.",
            "Guaranteed for as long as you cook with it.",
            "Wash it by hand, dry it well, and leave it to your children.",
        ],
        colors: &["Chalk", "Terracotta", "Rust", "Mustard", "Sage", "Forest", "Teal", "Ink", "Charcoal", "Plum"],
    },
];
