//! The broker behind a real application: what services publish and read over restarts and changes of the manifest, what
//! they may not, and what the command line says of it.

use std::process::Stdio;

use serde_json::{Value, json};
use testkit::wait::until_blocking;

use crate::application::{Application, BOUND, free_port, is_running};

const BUS: &str = include_str!("bus.py");

const SERVICES: &str = r#"
[broker]
listen = "127.0.0.1:0"

[[routes]]
name = "ordering"
matches = [{ path = { prefix = "/ordering" } }]
backends = [{ service = "ordering" }]

[[routes]]
name = "warehouse"
matches = [{ path = { prefix = "/warehouse" } }]
backends = [{ service = "warehouse" }]

[services.ordering]
command = "python3 bus.py"
publishes = ["orders.placed"]

[services.warehouse]
command = "python3 bus.py"
subscribes = ["orders.placed"]
"#;

fn application(more: &str) -> Application {
    let app = Application::with_manifest(&format!("{more}{SERVICES}"));
    app.write("bus.py", BUS);
    app
}

impl Application {
    /// Has a service ask the broker.
    fn ask(&self, service: &str, subject: &str, body: &str) -> Value {
        let (_, _, answer) = self.request(&["-X", "POST", "-d", body], &format!("/{service}/ask/{subject}"));
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error}: {answer}"))
    }

    /// The same of what answers JSON.
    fn ask_json(&self, service: &str, subject: &str, body: &Value) -> Value {
        let answer = self.ask(service, subject, &body.to_string());
        let text = answer["body"].as_str().unwrap_or_else(|| panic!("{subject}: {answer}"));
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    fn consume(&self, consumer: &str) -> Value {
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.ORDERS_PLACED.{consumer}");
        self.ask("warehouse", &subject, &json!({ "batch": 1, "expires": 5_000_000_000_u64 }).to_string())
    }

    fn change(&self, from: &str, to: &str) {
        let manifest = std::fs::read_to_string(self.path("atoll.toml")).unwrap();
        assert!(manifest.contains(from), "{from}");
        self.write("atoll.toml", &manifest.replace(from, to));
        self.up();
    }

    fn described(&self) -> Value {
        self.atoll(&["describe", "broker", "-o", "json"]).succeeded().json()
    }

    fn stream(&self, name: &str) -> Option<Value> {
        let described = self.described();
        described["streams"].as_array().unwrap().iter().find(|stream| stream["name"] == name).cloned()
    }
}

#[test]
fn what_was_acknowledged_is_there_after_the_daemon_was_killed_and_services_go_on() {
    let app = application("");
    app.up();
    let consumer =
        json!({ "stream_name": "ORDERS_PLACED", "config": { "durable_name": "w", "ack_policy": "explicit" } });
    let made = app.ask_json("warehouse", "$JS.API.CONSUMER.DURABLE.CREATE.ORDERS_PLACED.w", &consumer);
    assert_eq!(made["name"], "w", "{made}");
    for sequence in 1..=2 {
        let ack = app.ask_json("ordering", "orders.placed", &json!({ "order": sequence }));
        assert_eq!((&ack["stream"], &ack["seq"]), (&json!("ORDERS_PLACED"), &json!(sequence)), "{ack}");
    }
    let first = app.consume("w");
    assert_eq!(first["body"], r#"{"order":1}"#, "{first}");
    // Acknowledged once that is on disk, too.
    let acked = app.ask("warehouse", first["reply"].as_str().unwrap(), "+ACK");
    assert_eq!(acked["body"], "", "{acked}");
    let pids = || (app.pid("ordering", 0), app.pid("warehouse", 0));
    let before = pids();
    app.kill_daemon();
    app.up();
    assert_eq!(pids(), before, "the password is the same, so that nothing was started anew");
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({ "order": 3 }))["seq"], 3);
    assert_eq!(app.consume("w")["body"], r#"{"order":2}"#);
    let info = app.atoll(&["consumer", "info", "ORDERS_PLACED", "w", "-o", "json"]).succeeded().json();
    assert_eq!((&info["ack_floor"]["stream_seq"], &info["num_pending"]), (&json!(1), &json!(1)), "{info}");
    let listed = app.atoll(&["consumer", "ls", "ORDERS_PLACED"]).succeeded().stdout;
    assert!(listed.contains("pull, durable"), "{listed}");
}

#[test]
fn a_service_may_do_what_the_manifest_says_and_nothing_else() {
    let app = application("");
    app.up();
    for (service, subject) in [
        ("warehouse", "orders.placed"),
        ("ordering", "orders.other"),
        ("ordering", "$JS.API.STREAM.DELETE.ORDERS_PLACED"),
        ("ordering", "$JS.API.STREAM.CREATE.MINE"),
        ("ordering", "$JS.API.CONSUMER.LIST.ORDERS_PLACED"),
        ("warehouse", "$JS.API.STREAM.PURGE.ORDERS_PLACED"),
    ] {
        let answer = app.ask(service, subject, "{}");
        let error = answer["error"].as_str().unwrap_or_else(|| panic!("{service} {subject}: {answer}"));
        assert!(error.contains("Permissions Violation"), "{service} {subject}: {error}");
    }
    let names = app.ask_json("ordering", "$JS.API.STREAM.NAMES", &json!({}));
    assert_eq!(names["streams"], json!(["ORDERS_PLACED"]), "{names}");
    let url = |service: &str| {
        let (_, body) = app.get(&format!("/{service}"));
        serde_json::from_str::<Value>(&body).unwrap()["url"].as_str().unwrap().to_owned()
    };
    let (ordering, warehouse) = (url("ordering"), url("warehouse"));
    assert!(ordering.starts_with("nats://ordering:") && warehouse.starts_with("nats://warehouse:"));
    // Neither password is anywhere but in its file's making, and with its service.
    let password = |url: &str| url.split([':', '@']).nth(2).unwrap().to_owned();
    let mut shown = String::new();
    for arguments in
        [&["plan"][..], &["plan", "-o", "json"], &["describe", "ordering"], &["describe", "broker"], &["events"]]
    {
        shown.push_str(&app.atoll(arguments).succeeded().stdout);
    }
    for entry in std::fs::read_dir(app.path(".atoll/logs")).unwrap() {
        shown.push_str(&String::from_utf8_lossy(&std::fs::read(entry.unwrap().path()).unwrap()));
    }
    assert!(!shown.contains(&password(&ordering)) && !shown.contains(&password(&warehouse)));
    let full = app.atoll(&["describe", "broker", "--show-secrets", "-o", "json"]).succeeded().json();
    assert!(full["url"].as_str().unwrap().starts_with("nats://atoll:"), "{full}");
    assert!(app.described().get("url").is_none());
}

#[test]
fn a_changed_manifest_reaches_a_broker_that_runs() {
    let app = application("");
    app.up();
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({}))["seq"], 1);
    let ordering = app.pid("ordering", 0);
    // More rights need no new process.
    app.change("publishes = [\"orders.placed\"]", "publishes = [\"orders.placed\", \"carts.filled\"]");
    assert_eq!(app.ask_json("ordering", "carts.filled", &json!({}))["stream"], "CARTS_FILLED");
    assert_eq!(app.pid("ordering", 0), ordering);
    // A topic that is gone leaves its stream.
    app.change(", \"carts.filled\"]", "]");
    let refused = until_blocking("the right's end", BOUND, || {
        let answer = app.ask("ordering", "carts.filled", "{}");
        answer["error"].as_str().map(str::to_owned)
    });
    assert!(refused.contains("Permissions Violation"), "{refused}");
    let kept = app.stream("CARTS_FILLED").unwrap();
    assert_eq!((&kept["topic"], &kept["messages"]), (&Value::Null, &json!(1)));
    let doctor = app.atoll(&["doctor"]).succeeded().stdout;
    assert!(doctor.contains("no topic declares the stream CARTS_FILLED"), "{doctor}");
    // Other bounds for one that stays; a family that takes the place of a topic.
    app.change("[services.ordering]", "[topics.\"carts.>\"]\nretention = { messages = 5 }\n[services.ordering]");
    let events = app.atoll(&["events"]).succeeded().stdout;
    assert!(events.contains("gives its subjects to CARTS; its 1 messages stay in it"), "{events}");
    let family = app.stream("CARTS").unwrap();
    assert_eq!((&family["subjects"], &family["refused"]), (&json!(["carts.>"]), &Value::Null), "{family}");
    assert_eq!(app.stream("CARTS_FILLED").unwrap()["messages"], 1);
    let published = app.atoll(&["publish", "carts.filled", "x", "--count", "9", "-o", "json"]).succeeded().json();
    assert_eq!((&published["stream"], &published["sequence"]), (&json!("CARTS"), &json!(9)));
    assert_eq!(app.stream("CARTS").unwrap()["messages"], 5);
    app.change("messages = 5", "messages = 2");
    assert_eq!(app.stream("CARTS").unwrap()["messages"], 2);
    // The broker's own settings: it is opened anew, with what it has kept.
    assert_eq!(app.described()["sync"], "always");
    app.change(
        "listen = \"127.0.0.1:0\"\n\n[[routes]]",
        "listen = \"127.0.0.1:0\"\nsync = \"interval:50ms\"\n\n[[routes]]",
    );
    let described = app.described();
    assert_eq!(described["sync"], "interval:50ms");
    assert!(described["warnings"][0].as_str().unwrap().contains("power cut"), "{described}");
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({}))["seq"], 2);
    assert_eq!(app.pid("ordering", 0), ordering);
    assert!(app.atoll(&["doctor"]).succeeded().stdout.contains("`sync` is `interval:50ms`"));
    // What a stream cannot become is said, and it goes on as it was.
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    app.write("atoll.toml", &format!("{manifest}\n[topics.\"orders.placed\"]\nstorage = \"memory\"\n"));
    let told = app.atoll(&["up", "-d"]).succeeded().stderr;
    assert!(told.contains("its stream ORDERS_PLACED stays as it is"), "{told}");
    // It is tried again, and told each time.
    let told = app.atoll(&["up", "-d", "--wait"]);
    assert!(told.code() == 3 && told.stderr.contains("its stream ORDERS_PLACED stays as it is"), "{}", told.stderr);
    let refused = app.stream("ORDERS_PLACED").unwrap();
    assert!(refused["refused"].is_string() && refused["storage"] == "file", "{refused}");
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({}))["seq"], 3);
    assert_eq!(app.atoll(&["doctor"]).code(), 1);
    let consumer =
        json!({ "stream_name": "ORDERS_PLACED", "config": { "durable_name": "w", "ack_policy": "explicit" } });
    app.ask_json("warehouse", "$JS.API.CONSUMER.DURABLE.CREATE.ORDERS_PLACED.w", &consumer);
    app.atoll(&["consumer", "rm", "ORDERS_PLACED", "w"]).succeeded();
    assert_eq!(app.atoll(&["consumer", "info", "ORDERS_PLACED", "w"]).code(), 1);
    // What no topic declares any more can go; what one declares cannot.
    let refused = app.atoll(&["stream", "rm", "ORDERS_PLACED", "--force"]);
    assert!(refused.code() == 1 && refused.stderr.contains("is the stream of the topic"), "{}", refused.stderr);
    let refused = app.atoll(&["stream", "rm", "CARTS_FILLED"]);
    assert!(refused.code() == 1 && refused.stderr.contains("still has 1 messages"), "{}", refused.stderr);
    app.atoll(&["stream", "rm", "CARTS_FILLED", "--force"]).succeeded();
    assert_eq!(app.stream("CARTS_FILLED"), None);
}

/// A client of the broker's protocol as a service has one: connected once, and never again.
struct Connected(std::io::BufReader<std::net::TcpStream>);

impl Connected {
    fn new(url: &str) -> Self {
        let (credentials, address) = url.trim_start_matches("nats://").split_once('@').unwrap();
        let (user, password) = credentials.split_once(':').unwrap();
        let socket = std::net::TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(BOUND)).unwrap();
        let mut connected = Self(std::io::BufReader::new(socket));
        assert!(connected.line().starts_with("INFO "));
        let connect = json!({ "user": user, "pass": password, "verbose": false, "protocol": 0 });
        connected.send(&format!("CONNECT {connect}\r\nSUB _INBOX.me 1\r\n"));
        assert_eq!(connected.said(), Vec::<String>::new());
        connected
    }

    fn send(&mut self, text: &str) {
        std::io::Write::write_all(self.0.get_mut(), text.as_bytes()).unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        assert!(std::io::BufRead::read_line(&mut self.0, &mut line).unwrap() > 0, "the connection was closed");
        line.trim_end().to_owned()
    }

    /// What comes until the broker answers a PING.
    fn said(&mut self) -> Vec<String> {
        self.send("PING\r\n");
        std::iter::from_fn(|| Some(self.line()).filter(|line| line != "PONG")).collect()
    }

    /// Publishes and gives the acknowledgement, or the refusal.
    fn publish(&mut self, subject: &str) -> Result<Value, String> {
        self.send(&format!("PUB {subject} _INBOX.me 2\r\n{{}}\r\n"));
        loop {
            let line = self.line();
            if line.starts_with("-ERR") {
                return Err(line);
            }
            if line.starts_with('{') {
                return Ok(serde_json::from_str(&line).unwrap());
            }
        }
    }
}

#[test]
fn a_connection_of_a_service_lives_through_every_change_of_rights_topics_and_address() {
    let app = application("");
    app.up();
    let (_, body) = app.get("/ordering");
    let url = serde_json::from_str::<Value>(&body).unwrap()["url"].as_str().unwrap().to_owned();
    let mut live = Connected::new(&url);
    let mut sequence = 0;
    let mut goes_on = |live: &mut Connected| {
        sequence += 1;
        assert_eq!(live.publish("orders.placed").unwrap()["seq"], sequence);
    };
    goes_on(&mut live);
    app.change("publishes = [\"orders.placed\"]", "publishes = [\"orders.placed\", \"carts.filled\"]");
    assert_eq!(live.publish("carts.filled").unwrap()["stream"], "CARTS_FILLED");
    goes_on(&mut live);
    app.change("\"carts.filled\"]", "\"carts.left\"]");
    let refused = until_blocking("the right's end", BOUND, || live.publish("carts.filled").err());
    assert!(refused.contains("Permissions Violation for Publish"), "{refused}");
    goes_on(&mut live);
    // A table for a topic, and out again: what it keeps stays.
    app.change(
        "[services.ordering]",
        "[topics.\"orders.placed\"]\nretention = { size = \"2GiB\" }\n[services.ordering]",
    );
    let bytes = |app: &Application| {
        let info = app.atoll(&["stream", "info", "ORDERS_PLACED", "-o", "json"]).succeeded().json();
        info["config"]["max_bytes"].as_u64().unwrap()
    };
    assert_eq!(bytes(&app), 2 << 30);
    app.change("[topics.\"orders.placed\"]\nretention = { size = \"2GiB\" }\n", "");
    assert_eq!(bytes(&app), 2 << 30);
    goes_on(&mut live);
    // What was so anyway, written down; then another address, while the service has not been renewed.
    let address = app.described()["address"].as_str().unwrap().trim_start_matches("nats://").to_owned();
    app.change("[broker]\nlisten = \"127.0.0.1:0\"", &format!("[broker]\nlisten = \"{address}\""));
    goes_on(&mut live);
    let (port, _reserved) = free_port();
    app.change(&format!("listen = \"{address}\""), &format!("listen = \"127.0.0.1:{port}\""));
    goes_on(&mut live);
    assert_eq!(app.described()["address"], format!("nats://127.0.0.1:{port}"));
    until_blocking("the address's end", BOUND, || std::net::TcpStream::connect(&address).err());
    goes_on(&mut live);
    assert_eq!(live.said(), Vec::<String>::new());
}

#[test]
fn another_address_is_told_to_services_by_starting_them_anew_and_a_taken_one_changes_nothing() {
    let app = application("");
    app.up();
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({}))["seq"], 1);
    let ordering = app.pid("ordering", 0);
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    let moved = |port: u16| {
        manifest.replace("[broker]\nlisten = \"127.0.0.1:0\"", &format!("[broker]\nlisten = \"127.0.0.1:{port}\""))
    };
    app.write("atoll.toml", &moved(taken.local_addr().unwrap().port()));
    let refused = app.atoll(&["up", "-d"]);
    assert_eq!(refused.code(), 1, "{}", refused.stderr);
    assert!(refused.stderr.contains("cannot listen on"), "{}", refused.stderr);
    assert_eq!(app.ask_json("ordering", "orders.placed", &json!({}))["seq"], 2);
    let (port, _reserved) = free_port();
    app.write("atoll.toml", &moved(port));
    app.up();
    until_blocking("the new address", BOUND, || {
        let answer = app.ask("ordering", "orders.placed", "{}");
        let ack: Value = serde_json::from_str(answer["body"].as_str()?).ok()?;
        (ack["seq"].as_u64()? >= 3).then_some(())
    });
    assert_ne!(app.pid("ordering", 0), ordering);
    assert_eq!(app.described()["address"], format!("nats://127.0.0.1:{port}"));
    assert!(app.atoll(&["ps"]).succeeded().stdout.contains(&format!("nats://127.0.0.1:{port}")));
    // Nothing needs it any more: it ends with the last instance that did.
    let without = manifest.replace("[broker]\nlisten = \"127.0.0.1:0\"\n", "");
    let without =
        without.replace("publishes = [\"orders.placed\"]", "").replace("subscribes = [\"orders.placed\"]", "");
    app.write("atoll.toml", &without);
    app.up();
    until_blocking("the broker's end", BOUND, || (app.atoll(&["describe", "broker"]).code() == 1).then_some(()));
    let absent = app.atoll(&["publish", "orders.placed", "x"]);
    assert!(absent.code() == 1 && absent.stderr.contains("has no broker"), "{}", absent.stderr);
}

#[test]
fn messages_are_published_followed_and_read_on_the_command_line() {
    let app = application("");
    assert_eq!(app.atoll(&["publish", "orders.placed", "x"]).code(), 3, "it does not run");
    app.up();
    let follow =
        |arguments: &[&str]| app.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut live = follow(&["sub", "orders.>", "--count", "2", "-o", "json"]);
    let said = std::io::BufRead::lines(std::io::BufReader::new(live.stderr.take().unwrap())).next().unwrap().unwrap();
    assert_eq!(said, "subscribed to orders.>");
    let publish = |body: &str| app.atoll(&["publish", "orders.placed", body, "-H", "Nats-Msg-Id: 7", "-o", "json"]);
    let (first, second) = (publish("one").succeeded().json(), publish("two").succeeded().json());
    assert_eq!((&first["sequence"], &first["duplicates"]), (&json!(1), &json!(0)));
    assert_eq!((&second["sequence"], &second["duplicates"]), (&json!(1), &json!(1)));
    let output = live.wait_with_output().unwrap();
    let lines: Vec<Value> =
        output.stdout.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
    assert!(output.status.success() && lines.len() == 2, "{lines:?}");
    assert_eq!((&lines[0]["data"], &lines[0]["headers"]["Nats-Msg-Id"]), (&json!("one"), &json!(["7"])));

    assert_eq!(
        app.atoll(&["publish", "orders.placed", "b\u{1b}[2J", "--count", "3"]).succeeded().stdout,
        "ORDERS_PLACED  3 messages, the last at 4\n"
    );
    let read = app.atoll(&["sub", "orders.placed", "--from", "2", "--count", "3"]).succeeded().stdout;
    assert!(read.lines().count() == 3 && read.contains("ORDERS_PLACED 4  b\\u{1b}[2J"), "{read}");
    assert_eq!(
        app.atoll(&["sub", "orders.placed", "--from", "first", "--count", "1", "--raw"]).succeeded().stdout,
        "one\n"
    );
    let streams = app.atoll(&["stream", "ls", "-o", "json"]).succeeded().json();
    assert_eq!(streams[0]["state"]["messages"], 4);
    let purged = app.atoll(&["stream", "purge", "ORDERS_PLACED", "--keep", "1", "-o", "json"]).succeeded().json();
    assert_eq!(purged["purged"], 3);
    assert!(app.atoll(&["stream", "info", "ORDERS_PLACED"]).succeeded().stdout.contains("4 at "));

    let nobody = app.atoll(&["publish", "nobody.listens", "x"]).succeeded();
    assert!(nobody.stdout.is_empty() && nobody.stderr.contains("no stream keeps nobody.listens"), "{}", nobody.stderr);
    for (arguments, code, says) in [
        (&["stream", "info", "NONE"][..], 1, "stream not found"),
        (&["consumer", "info", "ORDERS_PLACED", "none"], 1, "consumer not found"),
        (&["sub", "nobody.listens", "--from", "first"], 1, "no stream keeps nobody.listens"),
        (&["publish", "a..b", "x"], 2, "a subject is words"),
        (&["publish", "a.>", "x"], 2, "a subject is words"),
        (&["sub", "a", "--from", "yesterday"], 2, "it is first, last"),
        (&["stream", "info", "a.b"], 2, "a name has no dots"),
    ] {
        let ended = app.atoll(arguments);
        assert!(
            ended.code() == code && ended.stderr.contains(says),
            "{arguments:?}: {} {}",
            ended.code(),
            ended.stderr
        );
    }

    // Who follows sees the end.
    let mut live = follow(&["sub", "orders.>"]);
    let said = std::io::BufRead::lines(std::io::BufReader::new(live.stderr.take().unwrap())).next().unwrap().unwrap();
    assert_eq!(said, "subscribed to orders.>");
    let daemon = app.daemon_pid();
    app.atoll(&["down"]).succeeded();
    assert!(!is_running(daemon));
    assert_eq!(live.wait().unwrap().code(), Some(3));
}
