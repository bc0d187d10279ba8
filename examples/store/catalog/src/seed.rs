//! Fills an empty catalog with the same products every time. Instances may start at once on one file: the first one fills
//! it in one transaction and the others find it done.

mod random;
mod words;

use std::collections::BTreeMap;

use rusqlite::{OptionalExtension, Transaction};

use crate::product::{self, Draft};
use random::Random;
use words::{Kind, MODELS};

/// Changing it, or anything drawn from it, makes another shop.
const SEED: u64 = 0x0a70_11a7_011a_7011;
/// A family is one model of one style, in several colours. A category has this many, and up to twelve more.
const FAMILIES_MIN: usize = 54;
const FAMILIES_MORE: usize = 12;
const COLORS_PER_FAMILY: usize = 3;
/// 2024-03-01T08:00:00Z, the day of the first product.
const OPENING: i64 = 1_709_280_000;
const DAYS_OPEN: usize = 600;

/// Puts the products in, unless that was done before.
///
/// # Errors
/// When a statement fails; then nothing was put in.
pub fn fill(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let done = transaction.query_row("SELECT 1 FROM seeds WHERE name = 'products'", [], |_| Ok(())).optional()?;
    if done.is_some() {
        return Ok(());
    }
    let mut random = Random::new(SEED);
    let mut created = created_at(transaction)?;
    for kind in words::kinds() {
        let models = random.order(MODELS.len());
        for family in 0..FAMILIES_MIN + random.below(FAMILIES_MORE + 1) {
            for draft in family_of(kind, family, MODELS[models[family]], &mut random) {
                let id = format!("p{:012x}", random.next() >> 16);
                let moment = created(&mut random)?;
                product::insert(transaction, &id, &draft, &moment)?;
            }
        }
    }
    transaction.execute("INSERT INTO seeds VALUES ('products', strftime('%Y-%m-%dT%H:%M:%SZ'))", [])?;
    Ok(())
}

/// Gives moments at random since the opening, as text.
fn created_at<'t>(
    transaction: &'t Transaction<'_>,
) -> rusqlite::Result<impl FnMut(&mut Random) -> rusqlite::Result<String> + 't> {
    let mut format = transaction.prepare("SELECT strftime('%Y-%m-%dT%H:%M:%SZ', ?1, 'unixepoch')")?;
    Ok(move |random: &mut Random| {
        let seconds = OPENING + random.below(DAYS_OPEN * 86_400) as i64;
        format.query_row([seconds], |row| row.get(0))
    })
}

fn family_of(kind: &Kind, number: usize, model: &str, random: &mut Random) -> Vec<Draft> {
    let style = &kind.styles[number % kind.styles.len()];
    let brand = random.pick(kind.brands);
    let (material, sentence) = random.pick(kind.materials);
    let description = [*random.pick(style.openings), sentence, *random.pick(kind.endings)].join(" ");
    let size = random.pick(style.sizes);
    let (least, most) = style.grams;
    let grams = (least + random.below(most - least)) / 10 * 10;
    let price = price(style.prices, random);
    let colors = random.order(kind.colors.len());
    let in_color = |&color: &usize| {
        let color = kind.colors[color];
        let attribute = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        Draft {
            name: format!("{model} {}, {color}", style.name),
            description: description.replace("{name}", model).replace("{color}", &color.to_lowercase()),
            category: kind.category.to_owned(),
            brand: (*brand).to_owned(),
            attributes: BTreeMap::from([
                attribute("color", color),
                attribute("material", material),
                attribute("size", size),
                attribute("style", style.name),
                attribute("weight", &weight(grams)),
            ]),
            price,
            currency: "EUR".to_owned(),
        }
    };
    colors.iter().take(COLORS_PER_FAMILY).map(in_color).collect()
}

/// More cheap things than dear ones, and prices as shops write them: 24.90, 129.00.
fn price((least, most): (i64, i64), random: &mut Random) -> i64 {
    let span = (most - least) as usize;
    let units = least + random.below(span + 1).min(random.below(span + 1)) as i64;
    match units {
        ..60 => units * 100 + 90,
        60..150 => units * 100,
        _ => (units / 5 * 5 + 4) * 100,
    }
}

fn weight(grams: usize) -> String {
    match grams {
        ..1000 => format!("{grams} g"),
        _ => format!("{}.{} kg", grams / 1000, grams % 1000 / 100),
    }
}
