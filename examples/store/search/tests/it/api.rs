//! Events in, answers out: convergence, filters, facets, marks, hostile input.

use axum::http::StatusCode;
use search::api;
use serde_json::{Value, json};
use store_kit::openapi;

use crate::world::{World, catalog_events};

fn product(id: &str, version: i64, name: &str) -> Value {
    json!({
        "id": id, "version": version, "slug": id, "name": name, "description": "Plain & <good>.", "category": "mugs",
        "brand": "Kiln", "attributes": { "color": "Sage" }, "price": 1990, "currency": "EUR", "image": "/i",
        "created_at": "2024-03-01T08:00:00Z", "updated_at": "2024-03-01T08:00:00Z",
    })
}

fn names(found: &Value) -> Vec<&str> {
    found["items"].as_array().unwrap().iter().map(|item| item["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn whatever_comes_twice_or_late_the_newest_version_stays() {
    let world = World::new();
    let (created, changed) = (product("p1", 1, "Tin Mug"), product("p1", 2, "Red Mug"));
    let history = [
        ("catalog.product.created", &created),
        ("catalog.product.changed", &changed),
        ("catalog.product.removed", &product("p2", 4, "Gone")),
    ];
    // Once in order, once in the wrong order, and a replay.
    for at in [0, 1, 2, 2, 1, 0, 0, 1, 2] {
        assert_eq!(world.tell(history[at].0, history[at].1).await, StatusCode::NO_CONTENT);
    }
    assert_eq!(names(&world.find("", "").await), ["Red Mug"]);
    assert_eq!(world.find("tin", "").await["total"], 0);
    // Older than its removal.
    world.tell("catalog.product.created", &product("p2", 1, "Gone")).await;
    assert_eq!(world.find("gone", "").await["total"], 0);
    world.tell("catalog.product.removed", &changed).await;
    world.tell("catalog.product.changed", &changed).await;
    assert_eq!(world.find("", "").await["total"], 0);
}

#[tokio::test]
async fn a_replay_ends_with_what_the_stream_says_last() {
    let world = World::new();
    let (first, second) = (product("p1", 1, "Tin Mug"), product("p1", 2, "Red Mug"));
    let removed = product("p2", 9, "Gone");
    // The same version with other words, as of an index that went wrong; versions of a catalog that was then restored.
    world.tell("catalog.product.changed", &product("p1", 2, "Wrong Mug")).await;
    world.tell("catalog.product.changed", &product("p3", 7, "Lost Mug")).await;
    world.tell("catalog.product.removed", &removed).await;
    let stream = [
        ("catalog.product.created", &first),
        ("catalog.product.changed", &second),
        ("catalog.product.removed", &removed),
        ("catalog.product.created", &product("p2", 3, "Kept Mug")),
        ("catalog.product.changed", &product("p3", 7, "Lost Mug")),
        ("catalog.product.changed", &product("p3", 4, "Restored Mug")),
    ];
    for _ in 0..2 {
        for (kind, data) in stream {
            assert_eq!(world.replay(kind, data).await, StatusCode::NO_CONTENT);
        }
        let found = world.find("", "").await;
        let mut found = names(&found);
        found.sort_unstable();
        assert_eq!(found, ["Kept Mug", "Red Mug", "Restored Mug"]);
    }
    for words in ["wrong", "lost", "gone", "tin"] {
        assert_eq!(world.find(words, "").await["total"], 0, "{words}");
    }
    // What comes then goes by its version again.
    world.tell("catalog.product.changed", &product("p3", 3, "Late Mug")).await;
    world.tell("catalog.product.changed", &product("p2", 4, "Next Mug")).await;
    assert_eq!(
        (world.find("late", "").await["total"].clone(), names(&world.find("next", "").await).len()),
        (json!(0), 1)
    );
}

#[tokio::test]
async fn a_replay_onto_what_is_there_changes_nothing() {
    let world = World::full().await;
    let before = world.find("sage lamp", "&limit=100").await;
    world.tell_all(catalog_events()).await;
    assert_eq!(world.find("sage lamp", "&limit=100").await, before);
    assert!(before["total"].as_u64().unwrap() > 5);
}

#[tokio::test]
async fn words_are_found_by_their_beginning_and_in_spite_of_mistakes() {
    let world = World::new();
    for (number, name) in ["Luma Desk Lamp", "Steady Teapot", "Quiet Headphones", "Café Noir"].into_iter().enumerate()
    {
        world.tell("catalog.product.created", &product(&format!("p{number}"), 1, name)).await;
    }
    for (words, name, corrected) in [
        ("lamps", "Luma Desk Lamp", None),
        ("luma", "Luma Desk Lamp", None),
        ("desk la", "Luma Desk Lamp", None),
        ("desklamp", "Luma Desk Lamp", Some("desk lamp")),
        ("tea pot", "Steady Teapot", None),
        ("tepaot", "Steady Teapot", Some("teapot")),
        ("headfones", "Quiet Headphones", Some("headphones")),
        ("the headphones", "Quiet Headphones", None),
        ("CAFE", "Café Noir", None),
        ("café", "Café Noir", None),
    ] {
        let found = world.find(words, "").await;
        assert_eq!(names(&found), [name], "{words}");
        assert_eq!(found["corrected"].as_str(), corrected, "{words}");
    }
    let found = world.find("purple headphones", "").await;
    assert_eq!((names(&found), &found["ignored"]), (vec!["Quiet Headphones"], &json!(["purple"])));
    let found = world.find("luma teapot", "").await;
    assert_eq!((found["total"].as_u64(), &found["relaxed"]), (Some(2), &json!(true)));
    // A word that is whole does not stand for longer ones, and a short one not for its neighbours.
    assert_eq!(world.find("desk la ", "").await["ignored"], json!(["la"]));
    for words in ["lup", "zzzzzzzz"] {
        assert_eq!(world.find(words, "").await["total"], 0, "{words}");
    }
}

#[tokio::test]
async fn what_was_found_is_marked_and_everything_else_escaped() {
    let world = World::new();
    world.tell("catalog.product.created", &product("p1", 1, "<script>alert(1)</script> & \u{2}Mug\u{3}")).await;
    let found = world.find("mugs alert good", "").await;
    let marked = &found["items"][0]["marked"];
    let name = "&lt;script&gt;<mark>alert</mark>(1)&lt;/script&gt; &amp;  <mark>Mug</mark> ";
    assert_eq!(*marked, json!({ "name": name, "description": "Plain &amp; &lt;<mark>good</mark>&gt;." }));
}

#[tokio::test]
async fn facets_count_what_another_choice_would_give() {
    let world = World::full().await;
    let all = world.find("sage", "&limit=1").await;
    let categories = all["facets"]["category"].as_array().unwrap().clone();
    assert!(categories.len() > 5);
    let sum = |facet: &Value| facet.as_array().unwrap().iter().map(|c| c["count"].as_u64().unwrap()).sum::<u64>();
    assert_eq!(sum(&all["facets"]["category"]), all["total"].as_u64().unwrap());
    assert_eq!(sum(&all["facets"]["price"]), all["total"].as_u64().unwrap());
    assert_eq!(all["facets"]["available"], json!({ "yes": all["total"], "no": 0 }));
    for category in &categories {
        let filter = format!("&category={}", category["value"].as_str().unwrap());
        let found = world.find("sage", &filter).await;
        assert_eq!(found["total"], category["count"]);
        // The other categories may still be chosen.
        assert_eq!(found["facets"]["category"], json!(categories));
        for band in found["facets"]["price"].as_array().unwrap() {
            let max = band["max"].as_i64().map(|max| format!("&max_price={max}")).unwrap_or_default();
            let filter = format!("{filter}&min_price={}{max}", band["min"]);
            assert_eq!(world.find("sage", &filter).await["total"], band["count"]);
        }
    }
}

#[tokio::test]
async fn pages_have_every_product_once_and_without_words_everything_is_there() {
    let world = World::full().await;
    let total = catalog_events().len();
    for (query, expected) in [("sort=-price&limit=100", Some(total)), ("q=lamp&limit=7&sort=relevance", None)] {
        let mut path = format!("/search?{query}");
        let mut ids = Vec::new();
        let said = loop {
            let (_, page) = world.get(&path).await;
            ids.extend(page["items"].as_array().unwrap().iter().map(|item| item["id"].as_str().unwrap().to_owned()));
            match page["next"].as_str() {
                Some(next) => path = format!("/search{next}"),
                None => break page["total"].as_u64().unwrap(),
            }
        };
        assert_eq!(ids.len() as u64, said);
        assert!(expected.is_none_or(|expected| expected == ids.len()));
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len() as u64, said);
    }
}

#[tokio::test]
async fn hostile_words_find_nothing_and_break_nothing() {
    let world = World::full().await;
    for words in [
        "\"",
        "'; DROP TABLE products; --",
        "NEAR(lamp, 3)",
        "name : lamp",
        "lamp*",
        "* OR *",
        "^lamp",
        "((((",
        "-lamp",
        "AND",
        "OR NOT",
        "\0",
        "茶",
        "🦀",
        "%",
        "_",
        "{name}",
        "a".repeat(100).as_str(),
        "x y z w v u t s r q p",
    ] {
        let (status, _) = world.get(&format!("/search?q={}", store_kit::client::escape(words))).await;
        assert_eq!(status, 200, "{words}");
    }
    for (query, parameter) in [
        ("limit=0", "limit"),
        ("page=x", "page"),
        ("min_price=9&max_price=3", "min_price"),
        ("sort=best", "sort"),
        ("x=1", "x"),
    ] {
        let (status, problem) = world.get(&format!("/search?{query}")).await;
        assert_eq!((status, problem["parameter"].as_str()), (StatusCode::BAD_REQUEST, Some(parameter)));
    }
    assert_eq!(world.get(&format!("/search?q={}", "a".repeat(101))).await.0, 400);
    assert_eq!(world.tell("catalog.product.created", &json!({ "id": 1 })).await, 422);
    assert_eq!(world.tell("catalog.product.created", &json!("x".repeat(70_000))).await, 413);
    assert_eq!(world.tell("catalog.product.praised", &json!({})).await, 204);
}

#[tokio::test]
async fn the_document_has_every_route() {
    let world = World::new();
    let differences =
        openapi::differences(world.router.clone(), &api::paths(&world.pool), api::DOCUMENT).await.unwrap();
    assert_eq!(differences, Vec::<String>::new());
}
