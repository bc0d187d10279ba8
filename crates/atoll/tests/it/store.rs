//! The reference shop, built and run as README says, on ports of its own.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, curl, ended, tools};
use crate::nats::Nats;

/// The store's own manifest with another gateway address, in a folder of its own so that nobody's data is touched.
pub fn store() -> Application {
    store_with("")
}

/// The same with something at the end of its manifest.
fn store_with(more: &str) -> Application {
    let store = concat!(env!("CARGO_MANIFEST_DIR"), "/../../examples/store");
    let manifest = std::fs::read_to_string(format!("{store}/atoll.toml")).unwrap();
    assert!(manifest.contains("[gateway]"), "the test writes its own address there");
    let manifest = manifest
        .replace("[gateway]", "[gateway]\nlisten = \"127.0.0.1:{GATEWAY}\"")
        .replace("include = [\"", &format!("include = [\"{store}/"));
    Application::new(&[("atoll.toml", &format!("{manifest}{more}"))])
}

#[test]
fn the_shop_sells() {
    sells(&store());
}

#[test]
fn the_shop_sells_on_another_nats_with_one_changed_line() {
    let nats = Nats::start();
    sells(&store_with(&format!("\n[broker]\nurl = \"{}\"\n", nats.url)));
}

fn sells(app: &Application) {
    app.atoll(&["up", "-d", "--wait"]).succeeded();
    let instances = app.instances();
    assert_eq!(instances.len(), 7);
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

    finds_what_changed(app, &product, &page["total"]);
    app.atoll(&["stop", "cart"]).succeeded();
    assert_eq!(app.get("/").0, 200, "the shop opens without its carts");
}

/// A change in the catalog is found, by programs and by people: outbox, broker, subscription, search, pages.
fn finds_what_changed(app: &Application, product: &str, total: &Value) {
    let everything = || {
        let (_, body) = app.get("/api/search?limit=1");
        Some(serde_json::from_str::<Value>(&body).ok()?["total"] == *total).filter(|all| *all)
    };
    until_blocking("the search to know all products", BOUND, everything);
    // As an administrator: writing is not routed.
    let instances = app.instances();
    let catalog = instances.iter().find(|instance| instance["service"] == "catalog").unwrap();
    let url = format!("http://127.0.0.1:{}/products/{product}", catalog["port"]);
    let (_, head, body) = curl(&[], &url);
    let tag = head.lines().find_map(|line| line.strip_prefix("etag: ")).unwrap();
    let mut draft: Value = serde_json::from_str(&body).unwrap();
    let fields = ["name", "description", "category", "brand", "attributes", "price", "currency"];
    draft.as_object_mut().unwrap().retain(|name, _| fields.contains(&name.as_str()));
    draft["name"] = "Quillwood Zephyr".into();
    let (tag, draft) = (format!("if-match: {tag}"), draft.to_string());
    let put = ["-X", "PUT", "-H", &tag, "-H", "content-type: application/json", "-d", &draft];
    let (status, head, body) = curl(&put, &url);
    assert_eq!(status, 200, "{head} {body}");
    let began = Instant::now();
    for path in ["/api/search?q=quillwood", "/search?q=quillwood"] {
        let found = || Some(app.get(path).1.contains("Zephyr")).filter(|found| *found);
        until_blocking("what changed to be found", BOUND, found);
        println!("{path} {} ms after the change", began.elapsed().as_millis());
    }
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
        "mails=/mail".to_owned(),
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

/// What a shopper does, each with its status when all is well.
const SHOPPING: [(&str, u16); 6] =
    [("home page", 200), ("product page", 200), ("image", 200), ("cart page", 200), ("add to cart", 303), ("api", 200)];

/// No page is slower, whatever the catalog does: three calls one after the other, each within the 2 s that a page gives
/// it, and some time for a busy machine.
const PAGE_MAX: Duration = Duration::from_secs(8);

/// A shopper who has something in the cart.
struct Shopper<'a> {
    app: &'a Application,
    jar: String,
    product: String,
    name: String,
}

impl Shopper<'_> {
    /// Does everything once: statuses and times, in the order of [`SHOPPING`].
    fn shops(&self) -> [(u16, Duration); 6] {
        let form = format!("product_id={}&quantity=1", self.product);
        let page = ["-b", &self.jar, "-c", &self.jar];
        let add = [&page[..], &["-d", &form, "-H", "sec-fetch-site: same-origin"]].concat();
        let (product, image) = (format!("/product/{}", self.product), format!("/images/{}.svg", self.product));
        let asked: [(&[&str], &str, &str); 6] = [
            (&page, "/", "<html"),
            (&page, &product, "<html"),
            // Drawn, or a quiet surface.
            (&[], &image, "<svg"),
            // With the name that was seen, whoever is away.
            (&page, "/cart", &self.name),
            (&add, "/cart/items", ""),
            (&[], "/api/catalog/products?limit=1", ""),
        ];
        asked.map(|(arguments, path, expected)| {
            let began = Instant::now();
            let (status, head, body) = self.app.request(arguments, path);
            assert!(body.contains(expected), "{path}: {head}\n{body}");
            (status, began.elapsed())
        })
    }

    /// Waits until everything is as ever: breakers close by themselves.
    fn recovers(&self) {
        let all_well = || self.shops().map(|(status, _)| status) == SHOPPING.map(|(_, status)| status);
        until_blocking("the shop to recover", BOUND, || all_well().then_some(()));
    }
}

#[test]
fn whatever_becomes_of_the_catalog_the_shop_shows_what_it_can_and_no_page_hangs() {
    let app = store();
    app.atoll(&["up", "-d", "--wait"]).succeeded();
    let page: Value = serde_json::from_str(&app.get("/api/catalog/products?limit=1").1).unwrap();
    let of = |key: &str| page["items"][0][key].as_str().unwrap().to_owned();
    let jar = app.path("cookies").to_str().unwrap().to_owned();
    let shopper = Shopper { app: &app, jar, product: of("id"), name: String::new() };
    shopper.recovers();
    let shopper = Shopper { name: of("name"), ..shopper };
    let well = SHOPPING.map(|(_, status)| status);
    for (state, command, expected) in [
        ("well", "ps", Some(well)),
        // What one instance does not answer, the other does; then only that one is asked.
        ("one slow", "fault set catalog.0 --delay 3s", Some(well)),
        ("one failing", "fault set catalog.0 --abort 503", Some(well)),
        ("half failing", "fault set catalog --abort 503 --share 50%", None),
        // Carts with the prices of before, surfaces in place of pictures, and pages that say what is missing.
        ("slow", "fault set catalog --delay 3s", Some([503, 503, 200, 200, 503, 504])),
        ("failing", "fault set catalog --abort 503", Some([503, 503, 200, 200, 503, 503])),
        ("stopped", "stop catalog", Some([503, 503, 200, 200, 503, 503])),
    ] {
        app.atoll(&command.split(' ').collect::<Vec<_>>()).succeeded();
        for round in 1..=3 {
            let seen = shopper.shops();
            let told = SHOPPING.iter().zip(seen);
            let told = told.map(|((what, _), (status, took))| format!("{what} {status} {} ms", took.as_millis()));
            println!("{state} {round}: {}", told.collect::<Vec<_>>().join(", "));
            assert!(seen.iter().all(|(_, took)| *took < PAGE_MAX), "{state}");
            let statuses = seen.map(|(status, _)| status);
            match expected {
                Some(expected) => assert_eq!(statuses, expected, "{state}"),
                None => assert_eq!((statuses[2], statuses[3]), (200, 200), "{state}"),
            }
        }
        app.atoll(&["fault", "clear", "--all"]).succeeded();
        if state != "stopped" {
            shopper.recovers();
        }
    }
    app.atoll(&["start", "catalog"]).succeeded();
    shopper.recovers();
}
