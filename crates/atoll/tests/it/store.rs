//! The reference shop, built and run as README says, on ports of its own.

use std::process::Command;

use serde_json::Value;

use crate::application::{Application, curl, ended, tools};

/// The store's own manifest with another gateway address, in a folder of its own so that nobody's data is touched.
fn store() -> Application {
    let store = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/store");
    let manifest = std::fs::read_to_string(format!("{store}/atoll.toml")).unwrap();
    assert!(manifest.contains("[gateway]"), "the test writes its own address there");
    let manifest = manifest
        .replace("[gateway]", "[gateway]\nlisten = \"127.0.0.1:{GATEWAY}\"")
        .replace("include = [\"", &format!("include = [\"{store}/"));
    Application::new(&[("atoll.toml", &manifest)])
}

#[test]
fn the_shop_sells() {
    let app = store();
    app.atoll(&["up", "-d", "--wait"]).succeeded();
    let instances = app.instances();
    assert_eq!(instances.len(), 4);
    assert!(instances.iter().all(|instance| instance["ready"] == true));

    let (status, body) = app.get("/api/catalog/products?limit=3");
    assert_eq!(status, 200, "{body}");
    let page: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(page["items"].as_array().unwrap().len(), 3);
    assert!(page["total"].as_u64().unwrap() >= 2000);
    let product = page["items"][0]["id"].as_str().unwrap().to_owned();

    let (status, _, body) = app.request(&["-X", "DELETE"], &format!("/api/catalog/products/{product}"));
    assert!(status == 404 || status == 405, "no write through the gateway: {status} {body}");

    let (status, home) = app.get("/");
    assert_eq!(status, 200);
    assert!(home.contains("<html") && home.contains("/product/"), "{home}");
    let (status, head, image) = app.request(&[], &format!("/images/{product}.svg"));
    assert_eq!(status, 200, "{head}");
    assert!(head.contains("image/svg+xml") && image.contains("<svg"));

    let jar = app.path("cookies");
    let jar = jar.to_str().unwrap();
    let shop = format!("http://127.0.0.1:{}", app.gateway);
    let form = format!("product_id={product}&quantity=2");
    let add = ["-b", jar, "-c", jar, "-d", &form, "-H", "sec-fetch-site: same-origin"];
    let (status, head, body) = curl(&add, &format!("{shop}/cart/items"));
    assert_eq!(status, 303, "{head} {body}");
    let (status, _, cart) = curl(&["-b", jar], &format!("{shop}/cart"));
    assert_eq!(status, 200);
    assert!(cart.contains(page["items"][0]["name"].as_str().unwrap()), "{cart}");

    app.atoll(&["stop", "cart"]).succeeded();
    assert_eq!(app.get("/").0, 200, "the shop opens without its carts");
}

#[test]
fn its_pages_fit_a_desk_and_a_phone_and_are_accessible() {
    let app = store();
    app.atoll(&["up", "-d", "--wait"]).succeeded();
    let (_, home) = app.get("/");
    let product = home.split("href=\"/product/").nth(1).and_then(|rest| rest.split('"').next()).unwrap();
    let pages = [
        "shop=/".to_owned(),
        "category=/category/lamps".to_owned(),
        format!("product=/product/{product}"),
        "search=/search?q=lamp".to_owned(),
        "cart=/cart".to_owned(),
        "missing=/nowhere".to_owned(),
    ];
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/pages.mjs");
    let base = format!("http://127.0.0.1:{}", app.gateway);
    let seen = Command::new("node").arg(script).arg(tools()).arg(base).args(&pages).output().unwrap();
    let seen = ended(seen).succeeded().stdout;
    let found: Vec<Value> = seen.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(found.len(), 2 * pages.len());
    for page in found {
        let expected = if page["name"] == "missing" { 404 } else { 200 };
        assert_eq!(page["status"], expected, "{page}");
        assert!(page["overflow"].as_i64().unwrap() <= 0, "{page}");
        assert_eq!(page["violations"], Value::Array(vec![]), "{page}");
    }
}
