//! `init` on the kinds of folders that people have, and `new service` from its first file to an answer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use expect_test::{Expect, expect};
use tempfile::TempDir;

use crate::application::{Application, Ended, command, curl, ended};

/// The template in Rust, compiled with what this workspace depends on: to build it as a package takes minutes.
#[path = "../../src/scaffold/template/rust/src/lib.rs"]
mod hello_service;

const COMPOSE: &str = include_str!("scaffold/compose.yaml");

fn folder(files: &[(&str, &str)]) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = folder.path().join("shop").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn atoll(folder: &Path, arguments: &[&str]) -> Ended {
    ended(command(folder, arguments).output().unwrap())
}

/// Initialises a folder of these files; what is written must pass `check` and be as expected.
#[track_caller]
fn check(files: &[(&str, &str)], expected: &Expect) -> TempDir {
    let folder = folder(files);
    let shop = folder.path().join("shop");
    let printed = atoll(&shop, &["init", "--print"]).succeeded().stdout;
    let told = atoll(folder.path(), &["init", "shop"]).succeeded().stdout;
    assert!(told.contains("Next: `atoll check`"), "{told}");
    let written = std::fs::read_to_string(shop.join("atoll.toml")).unwrap();
    assert_eq!(written, printed);
    expected.assert_eq(&written);
    atoll(&shop, &["check"]).succeeded();
    folder
}

#[test]
fn a_compose_file_of_a_shop_becomes_a_manifest() {
    let files = [
        ("compose.yaml", COMPOSE),
        (".env", "DB_PASSWORD=hidden\n"),
        ("Procfile", "web: x\n"),
        ("users.env", "TOKEN=1\n"),
        ("web/package.json", "{}"),
        ("users/users.py", ""),
        ("orders/Dockerfile", "FROM x\nCMD [\"orders\", \"serve\"]\n"),
        ("mailer/worker.py", ""),
    ];
    let folder = check(
        &files,
        &expect![[r##"
            # Made by `atoll init` from compose.yaml.
            # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
            # networks, volumes of the Compose file have no counterpart: programs share this machine's files, and call only their `upstreams`
            # Procfile was not read: the Compose file says more
            name = "shop-2"

            [[routes]]
            name     = "web"
            matches  = [{ path = { prefix = "/" } }]
            backends = [{ service = "web" }]

            # Not started: proxy
            # a proxy. Atoll's gateway does this: add `[[routes]]`

            # its image is not built: what its Dockerfile installs must be on this machine, and `build` can compile it
            # depends_on `proxy` was left out: Atoll does not start it
            # PORT is chosen by Atoll for each instance (it was `3000`)
            # USERS_API now carries `${USERS_URL}/v1`, the address of an upstream
            # ORDERS_URL now carries `${ORDER_SERVICE_URL}`, the address of an upstream
            # `${SESSION_KEY:?needed}` became `${SESSION_KEY:-}`: only `:-` with a plain default is known
            # was published on port 8000: now it has a route of the gateway
            # not taken over: networks
            [services.web]
            command = "env USERS_API=${USERS_URL}/v1 ORDERS_URL=${ORDER_SERVICE_URL} npm run start -- --port ${PORT}"
            working_dir = "web"
            upstreams = ["order-service", "users"]
            depends_on = { order-service = "started", users = "started" }

            [services.web.environment]
            LOG_LEVEL = "${LOG_LEVEL:-info}"
            NODE_ENV = "production"
            SESSION_KEY = "${SESSION_KEY:-}"

            # depends_on `db` was left out: Atoll does not start it
            # `db` is taken to be at 127.0.0.1:5433: Atoll does not start it
            # REDIS_HOST is taken to be this machine: Atoll does not start `cache`
            # env_file `missing.env` was left out: it is not here
            # not taken over: volumes
            [services.users]
            command = "gunicorn users:app -b ${HOST}:${PORT}"
            working_dir = "users"
            restart = "always"
            stop_signal = "SIGINT"
            stop_grace_period = "90s"
            replicas = 2
            depends_on = { migrate = "completed" }
            env_file = ["users.env"]
            probes = { readiness = { http = "/health", interval = "10s", timeout = "1500ms", failure_threshold = 5 } }

            [services.users.environment]
            DATABASE_URL = "postgres://users:${DB_PASSWORD}@127.0.0.1:5433/users"
            DEBUG = "${DEBUG:-}"
            REDIS_HOST = "127.0.0.1"

            # called `order_service` in the Compose file
            # its image is not built: what its Dockerfile installs must be on this machine, and `build` can compile it
            # HTTP_PORT now carries the port that Atoll chooses
            # `kafka` is taken to be at 127.0.0.1:9092: Atoll does not start it
            # MAIL was left out: it names another service without `http://`; the variables of its upstreams carry their addresses, as http://127.0.0.1:PORT
            [services.order-service]
            command = "env HTTP_PORT=${PORT} orders serve"
            working_dir = "orders"
            upstreams = ["mailer"]
            depends_on = { gateway-service = "started", users = "healthy" }
            probes = { readiness = { exec = "orders ping ${PORT}" } }

            [services.order-service.environment]
            BROKERS = "127.0.0.1:9092"

            # called `gateway` in the Compose file
            [services.gateway-service]
            command = "sh -c 'exec gateway --port $$PORT'"

            # its image is not built: what its Dockerfile installs must be on this machine, and `build` can compile it
            # it must listen on $PORT (in its container it listened on 2525)
            # not taken over: profiles
            [services.mailer]
            command = "python worker.py"
            working_dir = "mailer"

            # its image is not built: what its Dockerfile installs must be on this machine, and `build` can compile it
            # nothing says that it listens, so it is ready once it runs; take `probes` out if it does listen
            [services.migrate]
            command = "python migrate.py 'two words'"
            working_dir = "users"
            restart = "no"
            probes = { readiness = { exec = "true" } }

            # Not started: db
            # a database. For a new service Atoll keeps a SQLite file (`[databases.NAME]`, given as DATABASE_URL); this one goes on running outside, as with `docker compose up -d db`, and is reached at its published port

            # Not started: cache
            # a cache, which this version of Atoll has no part for; this one goes on running outside, as with `docker compose up -d cache`, and is reached at its published port

            # Not started: kafka
            # a broker of another protocol than Atoll's own, which is NATS; this one goes on running outside, as with `docker compose up -d kafka`, and is reached at its published port

            # Not started: closed
            # it is what `vendor/closed:3` starts, and Atoll starts programs: write `[services.closed]` with a `command`
        "##]],
    );
    let shop = folder.path().join("shop");
    let report = atoll(&shop, &["init", "--print", "-o", "json"]).succeeded().json();
    assert_eq!(report["services"][0]["name"], "web");
    assert!(
        report["notes"].as_array().unwrap().iter().any(|note| note.as_str().unwrap().starts_with("db: a database"))
    );
    let again = atoll(&shop, &["init"]);
    assert_eq!(again.code(), 1);
    assert!(again.stderr.contains("exists already") && again.stderr.contains("--print"), "{}", again.stderr);
}

#[test]
fn a_procfile_becomes_a_manifest() {
    let text = "# processes\nweb: gunicorn shop.wsgi --bind 0.0.0.0:$PORT\nworker: celery -A shop worker\n\
                clock: TZ=UTC python clock.py && echo done\nrelease: python manage.py migrate\nHost: x\n";
    check(
        &[("Procfile", text)],
        &expect![[r##"
        # Made by `atoll init` from Procfile.
        # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
        name = "shop"

        [[routes]]
        name     = "web"
        matches  = [{ path = { prefix = "/" } }]
        backends = [{ service = "web" }]

        [services.web]
        command = "gunicorn shop.wsgi --bind ${HOST}:${PORT}"

        # nothing says that it listens, so it is ready once it runs; take `probes` out if it does listen
        [services.worker]
        command = "celery -A shop worker"
        probes = { readiness = { exec = "true" } }

        # nothing says that it listens, so it is ready once it runs; take `probes` out if it does listen
        [services.clock]
        command = "sh -c 'TZ=UTC python clock.py && echo done'"
        probes = { readiness = { exec = "true" } }

        # Not started: release
        # runs once at a release, which Atoll does not do: run `python manage.py migrate` yourself

        # nothing says that it listens, so it is ready once it runs; take `probes` out if it does listen
        [services.host-service]
        command = "x"
        probes = { readiness = { exec = "true" } }
    "##]],
    );
}

#[test]
fn an_npm_workspace_becomes_a_manifest() {
    let files = [
        ("package.json", r#"{"name": "shop", "workspaces": ["packages/*", "../outside"]}"#),
        ("packages/web/package.json", r#"{"name": "@shop/web", "scripts": {"dev": "vite"}}"#),
        ("packages/api/package.json", r#"{"name": "@shop/api", "scripts": {"start": "node index.js", "dev": "x"}}"#),
        ("packages/lib/package.json", r#"{"name": "@shop/lib", "scripts": {"build": "tsc"}}"#),
        ("packages/broken/package.json", "{"),
    ];
    check(
        &files,
        &expect![[r##"
        # Made by `atoll init` from package.json.
        # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
        # packages/broken/package.json was left out: it is no JSON
        # run `npm install` before `atoll up`
        name = "shop"

        [[routes]]
        name     = "api"
        matches  = [{ path = { prefix = "/api" } }]
        filters  = [{ url_rewrite = { prefix = "/" } }]
        backends = [{ service = "api" }]

        [[routes]]
        name     = "web"
        matches  = [{ path = { prefix = "/" } }]
        backends = [{ service = "web" }]

        # `start` must start something that listens on $PORT
        [services.api]
        command = "npm run start"
        working_dir = "packages/api"

        [services.web]
        command = "npm run dev -- --host ${HOST} --port ${PORT} --strictPort"
        working_dir = "packages/web"
    "##]],
    );
}

#[test]
fn a_cargo_workspace_becomes_a_manifest() {
    let files = [
        ("Cargo.toml", "[workspace]\nmembers = [\"crates/*\", \"xtask\"]\nexclude = [\"crates/old\"]\n"),
        ("crates/orders/Cargo.toml", "[package]\nname = \"orders\"\n"),
        ("crates/orders/src/main.rs", ""),
        ("crates/users/Cargo.toml", "[package]\nname = \"users\"\n[[bin]]\nname = \"users-server\"\npath = \"x.rs\"\n"),
        ("crates/users/src/bin/import.rs", ""),
        ("crates/lib/Cargo.toml", "[package]\nname = \"lib\"\n"),
        ("crates/old/Cargo.toml", "[package]\nname = \"old\"\n"),
        ("crates/old/src/main.rs", ""),
        ("xtask/Cargo.toml", "[package]\nname = \"xtask\"\n"),
        ("xtask/src/main.rs", ""),
    ];
    check(
        &files,
        &expect![[r##"
        # Made by `atoll init` from Cargo.toml.
        # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
        # each binary became a service: take out those that are tools
        name = "shop"

        [[routes]]
        name     = "orders"
        matches  = [{ path = { prefix = "/" } }]
        backends = [{ service = "orders" }]

        [[routes]]
        name     = "import"
        matches  = [{ path = { prefix = "/import" } }]
        filters  = [{ url_rewrite = { prefix = "/" } }]
        backends = [{ service = "import" }]

        [[routes]]
        name     = "users-server"
        matches  = [{ path = { prefix = "/users-server" } }]
        filters  = [{ url_rewrite = { prefix = "/" } }]
        backends = [{ service = "users-server" }]

        # it must listen on $PORT
        [services.orders]
        build = "cargo build --package orders --bin orders"
        command = "${CARGO_TARGET_DIR:-target}/debug/orders"

        # it must listen on $PORT
        [services.import]
        build = "cargo build --package users --bin import"
        command = "${CARGO_TARGET_DIR:-target}/debug/import"

        # it must listen on $PORT
        [services.users-server]
        build = "cargo build --package users --bin users-server"
        command = "${CARGO_TARGET_DIR:-target}/debug/users-server"
    "##]],
    );
}

#[test]
fn a_django_application_becomes_a_manifest() {
    let files = [("manage.py", ""), ("shop/wsgi.py", ""), ("requirements.txt", "Django==5\ngunicorn\n")];
    check(
        &files,
        &expect![[r##"
        # Made by `atoll init` from manage.py.
        # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
        name = "shop"

        [[routes]]
        name     = "shop"
        matches  = [{ path = { prefix = "/" } }]
        backends = [{ service = "shop" }]

        # what it requires must be installed where `python3` finds it, or name the python of its environment
        [services.shop]
        command = "python3 -m gunicorn shop.wsgi --bind ${HOST}:${PORT}"
    "##]],
    );
}

#[test]
fn projects_side_by_side_become_a_manifest() {
    let files = [
        ("users/pyproject.toml", "[project]\nname = \"users\"\n"),
        ("users/main.py", "from fastapi import FastAPI\napi = FastAPI(title=\"a.b\")\n"),
        ("web/package.json", r#"{"scripts": {"start": "next start"}}"#),
        ("docs/readme.md", ""),
    ];
    check(
        &files,
        &expect![[r##"
        # Made by `atoll init` from users/main.py, web/package.json.
        # `atoll check` says whether it is right, `atoll up` runs it. Comments say what was not taken over.
        # run `npm install` before `atoll up`
        name = "shop"

        [[routes]]
        name     = "users"
        matches  = [{ path = { prefix = "/users" } }]
        filters  = [{ url_rewrite = { prefix = "/" } }]
        backends = [{ service = "users" }]

        [[routes]]
        name     = "web"
        matches  = [{ path = { prefix = "/" } }]
        backends = [{ service = "web" }]

        # what it requires must be installed where `python3` finds it, or name the python of its environment
        [services.users]
        command = "python3 -m uvicorn main:api --host ${HOST} --port ${PORT}"
        working_dir = "users"

        # `start` must start something that listens on $PORT
        [services.web]
        command = "npm run start"
        working_dir = "web"
    "##]],
    );
}

#[test]
fn a_folder_with_nothing_to_start_is_refused_with_a_hint() {
    for (files, said) in [
        (vec![("readme.md", "")], "has nothing that says what to start"),
        (vec![("compose.yaml", "services:\n  db: {image: postgres}\n")], "has no service that Atoll could start"),
        (vec![("compose.yaml", "services: [")], "cannot use compose.yaml"),
        (vec![("compose.yaml", "a: &a [*a]")], "cannot use compose.yaml"),
        (vec![("compose.yaml", "- 1")], "it has no `services`"),
        (vec![("Procfile", "nothing here")], "it has no line"),
        (vec![("package.json", "{")], "cannot use package.json"),
    ] {
        let folder = folder(&files);
        let refused = atoll(folder.path(), &["init", "shop"]);
        assert_eq!(refused.code(), 1, "{said}");
        assert!(refused.stderr.contains(said) && refused.stderr.contains("hint:"), "{}", refused.stderr);
        assert!(!folder.path().join("shop/atoll.toml").exists());
    }
    let large = format!("services:\n#{}", " ".repeat(3 << 20));
    let folder = folder(&[("compose.yaml", &large)]);
    assert!(atoll(folder.path(), &["init", "shop"]).stderr.contains("is larger than"));
}

/// Makes a service, runs its own tests, and asks it through the gateway.
fn a_template_is_tested_ready_and_answers(language: &str, test: &[&str]) {
    let app =
        Application::with_manifest("# kept\n[[routes]]\nname = \"all\"\nbackends = [{ service = \"price-list\" }]\n");
    app.atoll(&["new", "service", "price-list", "--lang", language]).succeeded();
    let folder = app.path("price-list");
    let mut own = Command::new(test[0]);
    own.args(&test[1..]).current_dir(&folder).env_remove("NODE_TEST_CONTEXT");
    ended(own.output().unwrap()).succeeded();
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    assert!(manifest.contains("include = [\"price-list/service.toml\"]") && manifest.contains("# kept"), "{manifest}");
    assert!(app.atoll(&["check"]).succeeded().stdout.contains("no mistakes"));
    app.up();
    let (status, body) = app.get("/hello?name=Ada");
    assert_eq!((status, body.replace(": ", ":").trim()), (200, r#"{"message":"Hello, Ada!"}"#));
    let (status, head, _) = app.request(&[], "/nothing");
    assert!(status == 404 && head.contains("application/problem+json"), "{head}");
    app.atoll(&["down"]).succeeded();
    let log = app.atoll(&["logs", "price-list"]).succeeded().stdout;
    assert!(log.contains("\"stopped\""), "{log}");
}

#[test]
fn a_new_python_service_is_tested_ready_and_answers() {
    a_template_is_tested_ready_and_answers("python", &["python3", "-m", "unittest"]);
}

#[test]
fn a_new_node_service_is_tested_ready_and_answers() {
    a_template_is_tested_ready_and_answers("node", &["node", "--test"]);
}

#[test]
fn a_new_rust_service_answers_and_stops() {
    let app = Application::with_manifest("");
    app.atoll(&["new", "service", "price-list", "--lang", "rust"]).succeeded();
    assert!(app.atoll(&["check"]).succeeded().stdout.contains("no mistakes"));
    let read = |path: &Path| std::fs::read_to_string(path).unwrap().parse::<toml::Table>().unwrap();
    let package = read(&app.path("price-list/Cargo.toml"));
    assert_eq!(package["package"]["name"].as_str(), Some("price-list"));
    let workspace = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml"));
    for (name, dependency) in package["dependencies"].as_table().unwrap() {
        let version = |value: &toml::Value| value.get("version").unwrap_or(value).as_str().unwrap().to_owned();
        let ours = version(&workspace["workspace"]["dependencies"][name]);
        assert!(ours.starts_with(&version(dependency)), "{name} is not what is compiled here");
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let serving = runtime.spawn(hello_service::serve(listener, async { stopped.await.unwrap() }));
    let (status, _, body) = curl(&[], &format!("{base}/hello?name=Ada"));
    assert_eq!((status, body.as_str()), (200, r#"{"message":"Hello, Ada!"}"#));
    for (arguments, path, expected) in [(&[][..], "/nothing", 404), (&["-X", "DELETE"][..], "/hello", 405)] {
        let (status, head, _) = curl(arguments, &format!("{base}{path}"));
        assert!(status == expected && head.contains("application/problem+json"), "{head}");
    }
    let upstream = hello_service::upstream::Upstream::default();
    let context = hello_service::upstream::Context::of(&http::HeaderMap::new());
    let request = http::Request::get(format!("{base}/readyz")).body(axum::body::Body::empty()).unwrap();
    let body = runtime.block_on(upstream.call(&context, request)).unwrap();
    assert_eq!(&body[..], br#"{"status":"ready"}"#);
    stop.send(()).unwrap();
    let ended = runtime.block_on(async { tokio::time::timeout(Duration::from_secs(10), serving).await });
    ended.unwrap().unwrap().unwrap();
}

#[test]
fn a_new_service_is_refused_where_it_cannot_be() {
    let app = Application::with_manifest("[services.web]\ncommand = \"python3 echo.py\"\n");
    for (name, said) in [
        ("Web_1", "write `web-1`"),
        ("gateway", "platform"),
        ("web", "has a service `web` already"),
        ("../x", "not a valid name"),
        ("", "not a valid name"),
    ] {
        let refused = app.atoll(&["new", "service", name, "--lang", "node"]);
        assert_eq!(refused.code(), 1, "{name}: {}", refused.stderr);
        assert!(refused.stderr.contains(said), "{name}: {}", refused.stderr);
    }
    app.atoll(&["new", "service", "api", "--lang", "node"]).succeeded();
    let again = app.atoll(&["new", "service", "api", "--lang", "node"]);
    assert!(again.code() == 1 && again.stderr.contains("already"), "{}", again.stderr);
    app.write("taken/x", "");
    let taken = app.atoll(&["new", "service", "taken", "--lang", "python"]);
    assert!(taken.code() == 1 && taken.stderr.contains("cannot create"), "{}", taken.stderr);
}

#[test]
fn a_new_service_is_not_included_twice() {
    let app = Application::new(&[("atoll.toml", "name = \"a\"\ninclude = [\"*/service.toml\"]\n")]);
    app.write("first/service.toml", "[services.first]\ncommand = \"true\"\n");
    let made = app.atoll(&["new", "service", "second", "-l", "python", "-o", "json"]).succeeded().json();
    assert_eq!(made["included"], true);
    let manifest = std::fs::read_to_string(app.path("atoll.toml")).unwrap();
    assert_eq!(manifest, "name = \"a\"\ninclude = [\"*/service.toml\"]\n");
    app.write("deep/er/x", "");
    app.atoll(&["new", "service", "third", "-l", "python", "--into", "deep/er"]).succeeded();
    let plan = app.atoll(&["plan", "-o", "json"]).succeeded().json();
    assert!(plan["services"]["third"].is_object());
}
