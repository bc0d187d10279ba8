//! The vocabulary of what is carried, listened to, and used at the desk.

use super::{Kind, Style};

pub(crate) const KINDS: [Kind; 6] = [
    Kind {
        category: "bags",
        styles: &[
            Style {
                name: "Backpack",
                sizes: &["16 l", "20 l", "24 l"],
                prices: (69, 199),
                grams: (620, 1300),
                openings: &[
                    "{name} carries a laptop, a lunch and a jumper, and still sits flat against the back.",
                    "A daily backpack with one big pocket, one small one, and one you will only find by accident.",
                ],
            },
            Style {
                name: "Rucksack",
                sizes: &["18 l", "22 l", "26 l"],
                prices: (79, 229),
                grams: (740, 1450),
                openings: &[
                    "Roll the top down for the office, roll it up for the weekend.",
                    "{name} has a single buckle, so that it opens with one hand in the rain.",
                ],
            },
            Style {
                name: "Tote Bag",
                sizes: &["12 l", "16 l", "20 l"],
                prices: (29, 149),
                grams: (280, 720),
                openings: &[
                    "{name} is long enough in the strap for a winter coat and wide enough for a baguette and its friends.",
                    "An open bag for open plans: groceries, books, swimming things.",
                ],
            },
        ],
        brands: &["Summit Supply", "Port Sable", "Common Thread", "Kestrel", "Wren & Co"],
        materials: &[
            ("Waxed canvas", "The {color} canvas is waxed, keeps out the rain, and earns its creases."),
            ("Recycled nylon", "Woven from old fishing nets and dyed {color}, it weighs next to nothing."),
            (
                "Vegetable-tanned leather",
                "Vegetable-tanned leather in {color} is stiff in the first week and yours from the second.",
            ),
            ("Organic cotton", "Heavy organic cotton in {color} softens with every wash."),
        ],
        endings: &[
            "The padded sleeve takes a 15-inch laptop.",
            "Every seam is bound, and every buckle can be replaced without a needle.",
            "Repairs are free for five years, because they are seldom needed.",
            "Folds flat into the bottom drawer.",
        ],
        colors: &["Oat", "Sand", "Clay", "Mustard", "Olive", "Forest", "Teal", "Ink", "Charcoal", "Rust", "Mist"],
    },
    Kind {
        category: "bottles",
        styles: &[
            Style {
                name: "Water Bottle",
                sizes: &["500 ml", "750 ml", "1 l"],
                prices: (17, 42),
                grams: (210, 390),
                openings: &[
                    "{name} fits the side pocket, the cup holder and the hand.",
                    "A plain, well-made bottle for tap water and long days.",
                ],
            },
            Style {
                name: "Vacuum Flask",
                sizes: &["500 ml", "750 ml", "1 l"],
                prices: (29, 59),
                grams: (340, 620),
                openings: &[
                    "Soup at noon, still too hot to eat: {name} takes its work seriously.",
                    "Two walls with nothing in between keep tea hot until the summit.",
                ],
            },
            Style {
                name: "Travel Cup",
                sizes: &["240 ml", "350 ml", "450 ml"],
                prices: (19, 39),
                grams: (210, 340),
                openings: &[
                    "{name} opens with one thumb and closes without a drop on the shirt.",
                    "A cup for the train that drinks like one from the café.",
                ],
            },
        ],
        brands: &["Summit Supply", "Tidewater", "Kestrel", "Fennel"],
        materials: &[
            ("Stainless steel", "The steel is powder-coated in {color} and does not sweat on the desk."),
            ("Borosilicate glass", "Clear glass in a {color} sleeve: no taste, no smell, no secrets."),
            ("Recycled steel", "Nine tenths of the steel has been something else before; the {color} coat is new."),
        ],
        endings: &[
            "Leak-proof in any position, which we tried in our own bags first.",
            "The lid comes apart into three pieces and all of them go into the dishwasher.",
            "Keeps cold for 24 hours and hot for 12.",
            "A spare seal is hidden under the base.",
        ],
        colors: &[
            "Chalk",
            "Sand",
            "Terracotta",
            "Mustard",
            "Sage",
            "Forest",
            "Teal",
            "Sky",
            "Ink",
            "Charcoal",
            "Blush",
            "Steel",
        ],
    },
    Kind {
        category: "headphones",
        styles: &[
            Style {
                name: "Over-Ear Headphones",
                sizes: &["One size"],
                prices: (149, 389),
                grams: (220, 310),
                openings: &[
                    "{name} shuts the office door, even when there is none.",
                    "Large soft cushions, a light frame, and forty hours before you think of a cable.",
                ],
            },
            Style {
                name: "On-Ear Headphones",
                sizes: &["One size"],
                prices: (69, 199),
                grams: (120, 190),
                openings: &[
                    "Small enough for a coat pocket and honest enough for the music you know by heart.",
                    "{name} sits lightly on the ear and leaves the hair alone.",
                ],
            },
            Style {
                name: "Earbuds",
                sizes: &["Tips in S, M and L"],
                prices: (49, 199),
                grams: (38, 62),
                openings: &[
                    "{name} disappears into the ear and its case into the palm.",
                    "Tiny, tuned by ear, and quick to find each other again.",
                ],
            },
        ],
        brands: &["Quiet Machines", "Signal & Pine", "Bureau Otto", "Kestrel"],
        materials: &[
            (
                "Aluminium and leather",
                "Anodised aluminium in {color} meets leather that will look better in three years.",
            ),
            ("Recycled polymer", "The {color} shell was a batch of old headphones not long ago."),
            ("Walnut and steel", "Walnut gives the sound its warmth, and the {color} finish its contrast."),
        ],
        endings: &[
            "The battery, the cushions and the cable can be changed with one screwdriver.",
            "Noise cancelling turns off completely, which is rarer than it should be.",
            "Plays on two devices at once and knows which one you mean.",
            "Comes with a cloth pouch and a cable for aeroplanes.",
        ],
        colors: &["Chalk", "Oat", "Clay", "Sage", "Forest", "Teal", "Ink", "Charcoal", "Copper", "Mist", "Plum"],
    },
    Kind {
        category: "speakers",
        styles: &[
            Style {
                name: "Bookshelf Speaker",
                sizes: &["24 × 15 × 18 cm", "31 × 19 × 24 cm"],
                prices: (149, 459),
                grams: (2600, 5300),
                openings: &[
                    "{name} is no bigger than a dictionary and has more to say.",
                    "Two drivers in one sealed box, with voices where voices should be.",
                ],
            },
            Style {
                name: "Portable Speaker",
                sizes: &["12 × 12 × 6 cm", "16 × 16 × 8 cm"],
                prices: (59, 229),
                grams: (380, 980),
                openings: &[
                    "{name} goes to the kitchen, the balcony and the lake, and floats in the last of them.",
                    "A round little speaker with a leather loop and a surprisingly deep voice.",
                ],
            },
            Style {
                name: "Radio",
                sizes: &["18 × 12 × 8 cm", "24 × 14 × 9 cm"],
                prices: (69, 249),
                grams: (780, 1900),
                openings: &[
                    "One knob for the station, one for the volume, and nothing that needs updating.",
                    "{name} is on before the coffee is, and asks for no password.",
                ],
            },
        ],
        brands: &["Quiet Machines", "Signal & Pine", "Bureau Otto", "Northlight"],
        materials: &[
            ("Walnut and wool", "Walnut from one plank, book-matched, behind a front of {color} wool."),
            ("Lacquered birch", "The birch cabinet is lacquered {color} and rubbed down by hand between coats."),
            ("Aluminium", "A seamless {color} aluminium body keeps out dust and keeps in the bass."),
        ],
        endings: &[
            "Pairs into stereo with another of its kind at the touch of a button.",
            "Runs for eighteen hours, or for ever on a cable.",
            "Has a real headphone socket and a real off switch.",
            "The grille is held by magnets, so the colour can change with the room.",
        ],
        colors: &["Chalk", "Oat", "Terracotta", "Ochre", "Sage", "Forest", "Teal", "Ink", "Charcoal", "Walnut", "Mist"],
    },
    Kind {
        category: "notebooks",
        styles: &[
            Style {
                name: "Notebook",
                sizes: &["A6", "A5", "B5"],
                prices: (9, 32),
                grams: (120, 420),
                openings: &[
                    "{name} lies flat from the first page to the last, and so do your thoughts.",
                    "A stitched notebook with numbered pages and an honest index.",
                ],
            },
            Style {
                name: "Sketchbook",
                sizes: &["A5", "A4"],
                prices: (12, 38),
                grams: (260, 640),
                openings: &[
                    "Heavy paper on a sturdy spiral, for pencils, ink, and a little water.",
                    "{name} folds right round, so it can be held in one hand on a windy pier.",
                ],
            },
            Style {
                name: "Planner",
                sizes: &["A5", "B5"],
                prices: (16, 48),
                grams: (240, 480),
                openings: &[
                    "One week on two pages, undated, so that a lazy month wastes nothing.",
                    "{name} leaves more room for what you did than for what you meant to do.",
                ],
            },
        ],
        brands: &["Papier Nord", "Bureau Otto", "Common Thread", "Wren & Co"],
        materials: &[
            ("Linen cover", "Bound in {color} book linen, with a ribbon that does not fray."),
            ("Recycled card", "The {color} cover is made of old cartons and stiff enough to write on your knee."),
            ("Leather cover", "A soft {color} leather cover picks up the marks of wherever you take it."),
        ],
        endings: &[
            "The paper is 100 gsm, ivory, and holds fountain-pen ink without feathering.",
            "Round corners, sewn binding, 192 pages.",
            "Printed and bound under one roof, with plant-based inks.",
            "The last twelve pages are perforated, for lists that leave the house.",
        ],
        colors: &[
            "Oat", "Clay", "Rust", "Mustard", "Olive", "Sage", "Forest", "Sky", "Ink", "Plum", "Charcoal", "Blush",
        ],
    },
    Kind {
        category: "clocks",
        styles: &[
            Style {
                name: "Wall Clock",
                sizes: &["25 cm", "30 cm", "36 cm"],
                prices: (39, 159),
                grams: (480, 1350),
                openings: &[
                    "{name} can be read from across the kitchen and heard from nowhere.",
                    "A large clear face with hands you can tell apart.",
                ],
            },
            Style {
                name: "Desk Clock",
                sizes: &["9 cm", "12 cm"],
                prices: (29, 99),
                grams: (180, 520),
                openings: &[
                    "A small clock that lets you put the telephone in another room.",
                    "{name} leans back a little, as if to say that there is time.",
                ],
            },
            Style {
                name: "Alarm Clock",
                sizes: &["8 cm", "10 cm"],
                prices: (24, 79),
                grams: (180, 460),
                openings: &[
                    "{name} begins softly and only insists if it has to.",
                    "Two bells, one hammer, and no snooze: it works.",
                ],
            },
        ],
        brands: &["Northlight", "Bureau Otto", "Studio Pell", "Marlowe", "Papier Nord"],
        materials: &[
            ("Aluminium", "The rim is turned from aluminium and anodised in {color}."),
            ("Ash", "A ring of ash, stained {color}, frames a dial of matt paper."),
            ("Powder-coated steel", "Folded steel in {color}, with every edge rounded by hand."),
        ],
        endings: &[
            "The movement sweeps without a tick and runs for two years on one cell.",
            "The hands light up at a touch and go dark again on their own.",
            "Hangs from a single nail; the template is in the box.",
            "The glass is domed mineral crystal and does not glare.",
        ],
        colors: &["Chalk", "Clay", "Ochre", "Olive", "Sage", "Teal", "Sky", "Ink", "Charcoal", "Brass", "Blush"],
    },
];
