//! What products are called and what is said of them. Texts only; [`super`] puts them together.
//! In a sentence `{name}` is the product's model, `{color}` its colour in lower case.

mod away;
mod home;

/// The vocabularies of all categories.
pub(crate) fn kinds() -> impl Iterator<Item = &'static Kind> {
    home::KINDS.iter().chain(&away::KINDS)
}

/// One category's vocabulary.
#[derive(Debug)]
pub(crate) struct Kind {
    pub(crate) category: &'static str,
    pub(crate) styles: &'static [Style],
    pub(crate) brands: &'static [&'static str],
    pub(crate) materials: &'static [(&'static str, &'static str)],
    pub(crate) endings: &'static [&'static str],
    pub(crate) colors: &'static [&'static str],
}

/// A sort of thing within a category, and sentences that open its description.
#[derive(Debug)]
pub(crate) struct Style {
    pub(crate) name: &'static str,
    pub(crate) sizes: &'static [&'static str],
    /// Lowest and highest price, in whole units of the currency.
    pub(crate) prices: (i64, i64),
    pub(crate) grams: (usize, usize),
    pub(crate) openings: &'static [&'static str],
}

/// At least as many as a category has families, so that no two share one.
pub(crate) const MODELS: [&str; 66] = [
    "Aldea", "Alma", "Arbo", "Arden", "Aven", "Birk", "Bracken", "Brisa", "Calma", "Cedro", "Cove", "Dalen", "Dorn",
    "Duna", "Elder", "Enna", "Eske", "Faro", "Fjell", "Flint", "Gale", "Glen", "Hale", "Havn", "Heath", "Holm", "Ilex",
    "Iona", "Juno", "Kelda", "Kivi", "Koto", "Lago", "Larch", "Lind", "Luma", "Lyng", "Marl", "Mira", "Nara", "Nevis",
    "Noor", "Ora", "Osier", "Palma", "Pell", "Quill", "Rill", "Rowan", "Runa", "Salka", "Senna", "Sola", "Sorrel",
    "Tarn", "Thea", "Tilia", "Torv", "Ula", "Vale", "Vega", "Vireo", "Wick", "Wilder", "Yarrow", "Zella",
];
