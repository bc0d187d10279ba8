//! How good the answers are: fifty queries with what their askers mean, over everything that the catalog sells. Printed
//! with `--nocapture`; held to a floor, so that a change that makes finding worse is seen.

use serde_json::Value;

use crate::world::{World, catalog_events};

/// What was typed, and conditions that a product must meet to be meant: an attribute or `category`, `brand` or `model`,
/// and its values, one of which it must have.
const QUERIES: [(&str, &[(&str, &str)]); 50] = [
    ("lamp", &[("category", "lamps")]),
    ("lamps", &[("category", "lamps")]),
    ("desk lamp", &[("style", "Desk Lamp")]),
    ("floor lamp brass", &[("style", "Floor Lamp"), ("color", "Brass")]),
    ("pendant lamp opal glass", &[("style", "Pendant Lamp"), ("material", "Opal glass")]),
    ("table lamp linen", &[("style", "Table Lamp"), ("material", "Linen and oak")]),
    ("northlight lamp", &[("category", "lamps"), ("brand", "Northlight")]),
    ("luma", &[("model", "Luma")]),
    ("chair", &[("category", "chairs"), ("style", "Dining Chair|Lounge Chair|Armchair")]),
    ("dining chairs", &[("style", "Dining Chair")]),
    ("oak dining chair", &[("style", "Dining Chair"), ("material", "Solid oak")]),
    ("stool", &[("style", "Stool")]),
    ("lounge chair teal", &[("style", "Lounge Chair"), ("color", "Teal")]),
    ("armchair recycled felt", &[("style", "Armchair"), ("material", "Recycled felt")]),
    ("vase", &[("category", "vases")]),
    ("tall vases", &[("style", "Tall Vase")]),
    ("round vase porcelain", &[("style", "Round Vase"), ("material", "Porcelain")]),
    ("mug", &[("category", "mugs"), ("style", "Mug")]),
    ("mugs sage", &[("category", "mugs"), ("color", "Sage")]),
    ("espresso cup", &[("style", "Espresso Cup")]),
    ("espresso cups for two", &[("style", "Espresso Cup")]),
    ("kiln street mug", &[("brand", "Kiln Street"), ("category", "mugs")]),
    ("teapot", &[("style", "Teapot")]),
    ("tea pot", &[("style", "Teapot")]),
    ("cast iron teapot", &[("style", "Teapot"), ("material", "Cast iron")]),
    ("kettle charcoal", &[("style", "Kettle"), ("color", "Charcoal")]),
    ("carafe", &[("style", "Carafe")]),
    ("frying pan", &[("style", "Frying Pan")]),
    ("fryingpan", &[("style", "Frying Pan")]),
    ("sauce pan", &[("style", "Saucepan")]),
    ("casserole mustard", &[("style", "Casserole"), ("color", "Mustard")]),
    ("carbon steel pan", &[("category", "cookware"), ("material", "Carbon steel")]),
    ("backpack", &[("style", "Backpack")]),
    ("bagpack", &[("style", "Backpack")]),
    ("waxed canvas rucksack", &[("style", "Rucksack"), ("material", "Waxed canvas")]),
    ("tote bag olive", &[("style", "Tote Bag"), ("color", "Olive")]),
    ("leather bag", &[("category", "bags"), ("material", "Vegetable-tanned leather")]),
    ("water bottle", &[("style", "Water Bottle")]),
    ("vacum flask", &[("style", "Vacuum Flask")]),
    ("travel cup", &[("style", "Travel Cup")]),
    ("headphones", &[("category", "headphones"), ("style", "Over-Ear Headphones|On-Ear Headphones")]),
    ("headfones", &[("category", "headphones"), ("style", "Over-Ear Headphones|On-Ear Headphones")]),
    ("over ear headphones", &[("style", "Over-Ear Headphones")]),
    ("earbuds ink", &[("style", "Earbuds"), ("color", "Ink")]),
    ("portable speaker", &[("style", "Portable Speaker")]),
    ("boookshelf speakers", &[("style", "Bookshelf Speaker")]),
    ("radio walnut", &[("style", "Radio"), ("material", "Walnut and steel|Walnut and wool")]),
    ("notebook", &[("style", "Notebook")]),
    ("skechbook", &[("style", "Sketchbook")]),
    ("alarm clok", &[("style", "Alarm Clock")]),
];

/// Products that a reader sees without looking further.
const TOP: usize = 5;

#[tokio::test]
async fn fifty_queries_find_what_is_meant() {
    let world = World::full().await;
    let products: Vec<&Value> = catalog_events().iter().map(|(_, product)| product).collect();
    let (mut precision, mut reciprocal) = (0.0, 0.0);
    println!("{:>5} {:>5} {:>5}  query", "P@5", "RR", "meant");
    for (query, meant) in QUERIES {
        let relevant: Vec<&Value> =
            products.iter().copied().filter(|product| is_meant(product, meant)).map(|p| &p["id"]).collect();
        assert!(!relevant.is_empty(), "nothing is meant by {query}");
        let found = world.find(query, "&limit=10").await;
        let hits: Vec<bool> =
            found["items"].as_array().unwrap().iter().map(|item| relevant.contains(&&item["id"])).collect();
        let top = TOP.min(relevant.len());
        let at_top = hits.iter().take(top).filter(|hit| **hit).count() as f64 / top as f64;
        let first = hits.iter().position(|hit| *hit).map_or(0.0, |at| 1.0 / (at + 1) as f64);
        println!("{at_top:>5.2} {first:>5.2} {:>5}  {query}", relevant.len());
        precision += at_top / QUERIES.len() as f64;
        reciprocal += first / QUERIES.len() as f64;
    }
    println!("precision@{TOP} {precision:.3}, MRR {reciprocal:.3} over {} queries", QUERIES.len());
    assert!(precision >= 0.9, "precision {precision:.3}");
    assert!(reciprocal >= 0.95, "MRR {reciprocal:.3}");
}

fn is_meant(product: &Value, conditions: &[(&str, &str)]) -> bool {
    conditions.iter().all(|(field, values)| {
        let value = match *field {
            "category" | "brand" => product[*field].as_str().unwrap(),
            "model" => product["name"].as_str().unwrap().split(' ').next().unwrap(),
            attribute => product["attributes"][attribute].as_str().unwrap(),
        };
        values.split('|').any(|wanted| wanted == value)
    })
}
