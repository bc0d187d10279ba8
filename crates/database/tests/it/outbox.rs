//! The outbox relay on real files: order, failures of whoever takes events, kills, databases that come, go and change.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use database::outbox::{self, Config, Handle, Limits, Message, Outbox, OutboxReading, Refusal, Relay};
use kit::{drain, readiness};
use rusqlite::{Connection, params};
use tempfile::TempDir;
use testkit::wait::until;
use tokio::sync::mpsc;

const BOUND: Duration = Duration::from_secs(60);

const TABLE: &str = "CREATE TABLE outbox (
    id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, data NOT NULL, type TEXT, subject TEXT, event_id TEXT,
    time TEXT, content_type TEXT, traceparent TEXT, extensions TEXT, note TEXT
)";

/// What was published, in order, each event once: a broker that knows what it has seen.
#[derive(Clone, Default)]
struct Stream(Arc<Mutex<Published>>);

#[derive(Default)]
struct Published {
    events: Vec<(String, Message)>,
    seen: BTreeSet<String>,
}

impl Stream {
    fn publish(&self, topic: &str, event: Message) {
        let published = &mut *self.0.lock().expect("whole");
        if published.seen.insert(event.id.clone()) {
            published.events.push((topic.to_owned(), event));
        }
    }

    fn data(&self) -> Vec<String> {
        self.events().iter().map(|(_, event)| String::from_utf8_lossy(&event.data).into_owned()).collect()
    }

    fn events(&self) -> Vec<(String, Message)> {
        self.0.lock().expect("whole").events.clone()
    }
}

struct World {
    directory: TempDir,
    stream: Stream,
}

struct Running {
    handle: Handle,
    trigger: drain::Trigger,
    engine: tokio::task::JoinHandle<()>,
}

impl World {
    fn new() -> Self {
        Self { directory: tempfile::tempdir().expect("a folder"), stream: Stream::default() }
    }

    fn with_table() -> Self {
        let world = Self::new();
        world.open().execute_batch(TABLE).expect("made");
        world
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("shop.db")
    }

    fn open(&self) -> Connection {
        open(&self.path())
    }

    fn config(&self) -> Config {
        let outbox = Outbox { database: "shop".to_owned(), path: self.path(), table: "outbox".to_owned() };
        Config { outboxes: vec![outbox], limits: Limits::standard() }
    }

    /// Runs the relay, with what `taker` makes of each event.
    fn start(&self, taker: impl Fn(&Stream, &Relay) -> Result<(), Refusal> + Send + 'static) -> Running {
        let (running, receiver) = self.start_untaken();
        tokio::spawn(take_all(receiver, self.stream.clone(), taker));
        running
    }

    /// Runs the relay, and leaves to the test what becomes of each event.
    fn start_untaken(&self) -> (Running, mpsc::Receiver<Relay>) {
        let (relays, receiver) = mpsc::channel(64);
        let bound = outbox::bind(self.config(), relays).expect("bound");
        let handle = bound.handle();
        let (trigger, drain) = drain::channel();
        let (token, _) = readiness::channel();
        (Running { handle, trigger, engine: tokio::spawn(bound.run(token, drain)) }, receiver)
    }

    async fn drained(&self) {
        until("an empty outbox", BOUND, || async { (count(&self.open(), "outbox") == 0).then_some(()) }).await;
    }
}

impl Running {
    fn reading(&self) -> OutboxReading {
        self.handle.read().into_values().next().unwrap_or_default()
    }

    async fn paused(&self, why: &str) {
        let is_so = || async { self.reading().paused.filter(|paused| paused.contains(why)) };
        until(&format!("a pause: {why}"), BOUND, is_so).await;
    }

    async fn stop(self) {
        self.trigger.start();
        self.engine.await.expect("ended");
    }
}

async fn take_all(
    mut relays: mpsc::Receiver<Relay>,
    stream: Stream,
    taker: impl Fn(&Stream, &Relay) -> Result<(), Refusal>,
) {
    while let Some(relay) = relays.recv().await {
        if relay.ticket.is_wanted() {
            let result = taker(&stream, &relay);
            relay.ticket.settle(result);
            tokio::task::yield_now().await;
        }
    }
}

fn accept(stream: &Stream, relay: &Relay) -> Result<(), Refusal> {
    stream.publish(&relay.topic, relay.event.clone());
    Ok(())
}

fn open(path: &Path) -> Connection {
    let connection = Connection::open(path).expect("opened");
    connection.busy_timeout(BOUND).expect("set");
    connection.pragma_update(None, "journal_mode", "wal").expect("set");
    connection.pragma_update(None, "synchronous", "off").expect("set");
    connection
}

fn insert(connection: &Connection, data: &str) {
    let sql = "INSERT INTO outbox (topic, data) VALUES ('orders.placed', ?1)";
    connection.execute(sql, [data]).expect("inserted");
}

fn count(connection: &Connection, table: &str) -> i64 {
    connection.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).expect("counted")
}

fn numbers(range: std::ops::Range<i32>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn rows_become_events_in_their_order_and_leave_the_table() {
    let world = World::with_table();
    let connection = world.open();
    let sql = "INSERT INTO outbox (topic, data, type, subject, event_id, time, content_type, traceparent, extensions, note)
               VALUES ('orders.placed', x'00ff', 'placed', 's', 'own', '2026-01-01T00:00:00Z', 'image/png', '00-a', ?1, 'n')";
    connection.execute(sql, params![r#"{"tenant":"a"}"#]).expect("inserted");
    for number in numbers(0..2_000) {
        insert(&connection, &number);
    }
    let running = world.start(accept);
    world.drained().await;
    let events = world.stream.events();
    let first = Message {
        id: "own".to_owned(),
        kind: Some("placed".to_owned()),
        subject: Some("s".to_owned()),
        time: Some("2026-01-01T00:00:00Z".to_owned()),
        content_type: "image/png".to_owned(),
        extensions: [("tenant".to_owned(), "a".to_owned())].into(),
        traceparent: Some("00-a".to_owned()),
        data: vec![0, 255],
    };
    assert_eq!(events[0], ("orders.placed".to_owned(), first));
    assert_eq!(world.stream.data()[1..], numbers(0..2_000));
    let reading = until("it to be counted", BOUND, || async {
        Some(running.reading()).filter(|reading| reading.relayed == 2_001)
    });
    let reading = reading.await;
    assert_eq!((reading.refused, reading.in_flight, reading.backlog, reading.paused), (0, 0, 0, None));
    running.stop().await;
}

#[tokio::test]
async fn a_commit_wakes_the_relay() {
    let world = World::with_table();
    let running = world.start(accept);
    let connection = world.open();
    // A commit is seen only after it was synced, and that is not told of.
    connection.pragma_update(None, "synchronous", "full").expect("set");
    let mut took = Vec::new();
    for number in 0..50 {
        let start = Instant::now();
        insert(&connection, &number.to_string());
        until("the event", BOUND, || async { (world.stream.data().len() > number).then_some(()) }).await;
        took.push(start.elapsed());
    }
    took.sort();
    // It would be half a second on average if it only looked now and then.
    assert!(took[45] < Duration::from_millis(250), "{took:?}");
    running.stop().await;
}

#[tokio::test]
async fn while_nobody_takes_events_rows_wait_and_keep_their_order() {
    let world = World::with_table();
    let connection = world.open();
    for number in numbers(0..500) {
        insert(&connection, &number);
    }
    let calls = Mutex::new(fastrand::Rng::with_seed(1));
    let running = world.start(move |stream, relay| {
        let outcome = calls.lock().expect("whole").u8(0..100);
        if outcome < 99 {
            return accept(stream, relay);
        }
        // It was published, and nobody knows.
        accept(stream, relay).and(Err(Refusal::Away("the broker is away".to_owned())))
    });
    world.drained().await;
    assert_eq!(world.stream.data(), numbers(0..500));
    running.stop().await;
}

#[tokio::test]
async fn a_pause_is_told_of_and_ends() {
    let world = World::with_table();
    insert(&world.open(), "1");
    let is_away = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let away = Arc::clone(&is_away);
    let running = world.start(move |stream, relay| match away.load(std::sync::atomic::Ordering::Relaxed) {
        true => Err(Refusal::Away("the broker is away".to_owned())),
        false => accept(stream, relay),
    });
    running.paused("the broker is away").await;
    assert_eq!(count(&world.open(), "outbox"), 1);
    is_away.store(false, std::sync::atomic::Ordering::Relaxed);
    world.drained().await;
    until("the end of the pause", BOUND, || async { running.reading().paused.is_none().then_some(()) }).await;
    running.stop().await;
}

#[tokio::test]
async fn rows_that_can_never_be_published_are_put_aside_and_the_rest_goes_on() {
    let world = World::with_table();
    let connection = world.open();
    insert(&connection, "1");
    connection.execute("INSERT INTO outbox (topic, data) VALUES ('secret', 'undeclared')", []).expect("inserted");
    connection.execute("INSERT INTO outbox (topic, data) VALUES ('orders.placed', zeroblob(5000000))", []).expect("ok");
    connection
        .execute("INSERT INTO outbox (topic, data, subject, extensions) VALUES ('a', 'x', 'me', 'no json')", [])
        .expect("inserted");
    insert(&connection, "2");
    let running = world.start(|stream, relay| match relay.topic.as_str() {
        "orders.placed" => accept(stream, relay),
        topic => Err(Refusal::Refused(format!("{topic} is not declared"))),
    });
    world.drained().await;
    assert_eq!(world.stream.data(), ["1", "2"]);
    let mut aside =
        connection.prepare("SELECT row_id, topic, length(data), subject, reason FROM outbox_refused").expect("there");
    let aside = aside.query_map([], |row| {
        let (id, topic, bytes): (i64, String, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (subject, reason): (Option<String>, String) = (row.get(3)?, row.get(4)?);
        Ok(format!("{id} {topic} {bytes} {} {reason}", subject.unwrap_or_default()))
    });
    let aside: Vec<_> = aside.expect("read").map(|row| row.expect("read")).collect();
    assert_eq!(
        aside,
        [
            "2 secret 10  secret is not declared",
            "3 orders.placed 5000000  data is 5000000 bytes, more than 1048576",
            "4 a 1 me extensions is not a JSON object",
        ]
    );
    let reading =
        until("it to be counted", BOUND, || async { Some(running.reading()).filter(|reading| reading.refused == 3) });
    assert_eq!(reading.await.refused_last.as_deref(), Some("row 4: extensions is not a JSON object"));
    running.stop().await;
}

/// A kill ends everything of the relay and of the taker at once, wherever they are; the database and the stream stay.
#[test]
fn a_hundred_kills_lose_nothing_repeat_nothing_and_keep_the_order() {
    let world = World::with_table();
    let path = world.path();
    let writer = std::thread::spawn(move || {
        let connection = open(&path);
        for number in numbers(0..3_000) {
            insert(&connection, &number);
        }
    });
    for seed in 0..100 {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("made");
        let random = Mutex::new(fastrand::Rng::with_seed(seed));
        let life = Duration::from_micros(random.lock().expect("whole").u64(0..30_000));
        runtime.block_on(async {
            let running = world.start(move |stream, relay| match random.lock().expect("whole").u8(0..50) {
                0 => Err(Refusal::Away("away".to_owned())),
                _ => accept(stream, relay),
            });
            let _ = tokio::time::timeout(life, running.engine).await;
        });
        runtime.shutdown_background();
    }
    writer.join().expect("written");
    let runtime = tokio::runtime::Runtime::new().expect("made");
    runtime.block_on(async {
        let running = world.start(accept);
        world.drained().await;
        running.stop().await;
    });
    assert_eq!(world.stream.data(), numbers(0..3_000));
}

#[tokio::test]
async fn a_database_may_come_go_and_be_made_anew() {
    let world = World::new();
    let running = world.start(accept);
    running.paused("is not there").await;
    world.open().execute_batch("CREATE TABLE other (a)").expect("made");
    running.paused("it has no table outbox").await;
    world.open().execute_batch("CREATE TABLE outbox (id INTEGER PRIMARY KEY, topic, data)").expect("made");
    running.paused("id of the table outbox is not INTEGER PRIMARY KEY AUTOINCREMENT").await;
    world.open().execute_batch(&format!("DROP TABLE outbox; {TABLE}")).expect("made");
    insert(&world.open(), "first");
    world.drained().await;

    // The same numbers come again, and are other events.
    for file in ["shop.db", "shop.db-wal", "shop.db-shm"] {
        let _ = std::fs::remove_file(world.directory.path().join(file));
    }
    world.open().execute_batch(TABLE).expect("made");
    insert(&world.open(), "second");
    world.drained().await;
    world.open().execute_batch(&format!("DROP TABLE outbox; {TABLE}")).expect("made");
    insert(&world.open(), "third");
    world.drained().await;
    assert_eq!(world.stream.data(), ["first", "second", "third"]);
    running.stop().await;
}

#[tokio::test]
async fn damage_is_told_of_and_an_exchange_of_the_file_helps() {
    let world = World::new();
    std::fs::write(world.path(), vec![b'x'; 9_000]).expect("written");
    let running = world.start(accept);
    running.paused("is not a sound SQLite database").await;
    let whole = World::with_table();
    insert(&whole.open(), "1");
    std::fs::rename(whole.path(), world.path()).expect("moved");
    until("the event", BOUND, || async { (world.stream.data() == ["1"]).then_some(()) }).await;
    running.stop().await;
}

#[tokio::test]
async fn a_writer_that_holds_the_lock_delays_the_cleaning_alone() {
    let world = World::with_table();
    let connection = world.open();
    let running = world.start(accept);
    insert(&connection, "1");
    world.drained().await;
    insert(&connection, "2");
    connection.execute_batch("BEGIN IMMEDIATE").expect("locked");
    running.paused("stayed locked by another program").await;
    assert_eq!(world.stream.data(), ["1", "2"]);
    connection.execute_batch("COMMIT").expect("unlocked");
    world.drained().await;
    assert_eq!(world.stream.data(), ["1", "2"]);
    running.stop().await;
}

#[tokio::test]
async fn a_restored_backup_gives_new_events_ids_of_their_own() {
    let world = World::with_table();
    insert(&world.open(), "1");
    let running = world.start(accept);
    world.drained().await;
    let backup = world.directory.path().join("backup.db");
    world.open().execute("VACUUM INTO ?1", [backup.to_string_lossy()]).expect("copied");
    insert(&world.open(), "2");
    world.drained().await;
    running.stop().await;
    for file in ["shop.db-wal", "shop.db-shm"] {
        let _ = std::fs::remove_file(world.directory.path().join(file));
    }
    std::fs::rename(backup, world.path()).expect("restored");
    insert(&world.open(), "another 2");
    let running = world.start(accept);
    world.drained().await;
    assert_eq!(world.stream.data(), ["1", "2", "another 2"]);
    running.stop().await;
}

#[tokio::test]
async fn a_long_backlog_is_relayed_within_the_window() {
    const ROWS: i64 = 100_000;
    let world = World::with_table();
    let fill = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?1)
                INSERT INTO outbox (topic, data) SELECT 'orders.placed', i FROM n";
    world.open().execute(&fill.replace("', i", "', CAST(i AS TEXT)"), [ROWS]).expect("filled");
    let running = world.start(accept);
    let mut most = 0;
    until("an empty outbox", BOUND, || {
        let reading = running.reading();
        most = most.max(reading.in_flight);
        async move { (reading.relayed == ROWS.cast_unsigned()).then_some(()) }
    })
    .await;
    assert!((1..=256).contains(&most), "{most}");
    assert!(world.stream.data().into_iter().map(|data| data.parse::<i64>().expect("a number")).eq(1..=ROWS));
    running.stop().await;
}

#[tokio::test]
async fn outboxes_are_replaced_while_the_relay_runs() {
    let world = World::with_table();
    let running = world.start(accept);
    let empty = Config { outboxes: Vec::new(), limits: Limits::standard() };
    running.handle.apply(&empty).expect("applied");
    until("nothing to be told", BOUND, || async { running.handle.read().is_empty().then_some(()) }).await;
    insert(&world.open(), "1");
    running.handle.apply(&world.config()).expect("applied");
    world.drained().await;
    let mut bad = world.config();
    bad.outboxes[0].table = "sqlite_master".to_owned();
    let error = running.handle.apply(&bad).expect_err("refused");
    assert_eq!(error.to_string(), "\"sqlite_master\" cannot be the name of the outbox of shop");
    running.stop().await;
}

#[tokio::test]
async fn a_table_made_anew_while_rows_are_on_their_way_loses_none_of_its_own() {
    let world = World::with_table();
    insert(&world.open(), "old");
    let (running, mut relays) = world.start_untaken();
    let old = relays.recv().await.expect("the old row");
    // The same number, in another table; woken, the relay looks there while the old row is still on its way.
    let anew =
        format!("BEGIN; DROP TABLE outbox; {TABLE}; INSERT INTO outbox (topic, data) VALUES ('a', 'new'); COMMIT");
    world.open().execute_batch(&anew).expect("made anew");
    let new = relays.recv().await.expect("the new row");
    assert_eq!((old.event.data.as_slice(), new.event.data.as_slice()), (&b"old"[..], &b"new"[..]));
    assert_ne!(old.event.id, new.event.id);
    old.ticket.settle(Ok(()));
    until("the table to be looked into again", BOUND, || async { (running.reading().in_flight == 1).then_some(()) })
        .await;
    assert_eq!(count(&world.open(), "outbox"), 1, "what was said of the old row is not said of the new one");
    new.ticket.settle(Ok(()));
    world.drained().await;
    running.stop().await;
}

#[tokio::test]
async fn a_taker_that_lets_go_of_events_or_ends_delays_them() {
    let world = World::with_table();
    for number in numbers(0..10) {
        insert(&world.open(), &number);
    }
    let (running, mut relays) = world.start_untaken();
    let first = relays.recv().await.expect("a row");
    let second = relays.recv().await.expect("a row");
    drop(first);
    assert!(!second.ticket.is_wanted());
    drop(second);
    running.paused("nobody took it").await;
    let again = loop {
        let relay = relays.recv().await.expect("a row");
        if relay.ticket.is_wanted() {
            break relay;
        }
    };
    assert_eq!(again.event.data, b"0");
    drop((again, relays));
    running.paused("nobody took it").await;
    assert_eq!(count(&world.open(), "outbox"), 10);
    // Nor does it keep the relay from ending.
    running.stop().await;
}

#[tokio::test]
async fn at_the_end_what_was_acknowledged_is_deleted_and_the_rest_kept() {
    let world = World::with_table();
    for number in numbers(0..10) {
        insert(&world.open(), &number);
    }
    let (running, mut relays) = world.start_untaken();
    let mut taken = Vec::new();
    for _ in 0..4 {
        taken.push(relays.recv().await.expect("a row"));
    }
    let engine = tokio::spawn(running.stop());
    for relay in taken {
        relay.ticket.settle(Ok(()));
    }
    // The others are let go of.
    while relays.recv().await.is_some() {}
    engine.await.expect("ended");
    let connection = world.open();
    let left = connection.query_row("SELECT min(data) FROM outbox", [], |row| row.get::<_, String>(0));
    assert_eq!((count(&connection, "outbox"), left.expect("read")), (6, "4".to_owned()));
}
