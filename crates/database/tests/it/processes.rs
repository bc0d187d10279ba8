//! Several preparations at once, a killed one, a cancelled one, and other programs that hold the file.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use database::{Database, Report};
use testkit::wait::until_blocking;

use crate::world::World;

/// Tells a copy of this test binary which folder to prepare.
const FOLDER: &str = "DATABASE_TEST_FOLDER";

const ENDLESS: &str = "CREATE TABLE started (x);
    INSERT INTO started WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT zeroblob(4000) FROM n;";

/// Alone it starts a copy of itself; the copy, and what [`spawn`] runs elsewhere, finds the folder and prepares it.
#[tokio::test]
async fn a_preparation_works_in_a_process_of_its_own() {
    let Some(folder) = std::env::var_os(FOLDER).map(PathBuf::from) else {
        let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);")]);
        assert!(spawn(&world).0.wait().expect("waited").success());
        return assert_eq!(world.tables(), ["a", "atoll_migrations"]);
    };
    let migrations = Some(folder.join("migrations"));
    let database = Database { name: "orders".to_owned(), path: folder.join("data/orders.db"), migrations };
    database::prepare(&database).await.expect("prepared");
}

/// A copy of this binary that does not outlive its test: an endless migration would fill the disk.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn spawn(world: &World) -> Process {
    let child = Command::new(std::env::current_exe().expect("this binary"))
        .args(["--exact", "processes::a_preparation_works_in_a_process_of_its_own"])
        .env(FOLDER, world.root())
        .stdout(Stdio::null())
        .spawn();
    Process(child.expect("spawned"))
}

#[tokio::test(flavor = "multi_thread")]
async fn many_at_once_apply_each_migration_once() {
    let world = World::new();
    for number in 1..=20 {
        world.write(
            &format!("{number:04}_x.sql"),
            format!("CREATE TABLE t{number} (x); INSERT INTO t{number} VALUES (1);"),
        );
    }
    let children: Vec<Process> = (0..3).map(|_| spawn(&world)).collect();
    let inside = futures(&world, 3).await;
    for mut child in children {
        assert!(child.0.wait().expect("waited").success());
    }
    assert!(inside.iter().all(|report| report.version == Some(20)), "{inside:?}");
    let rows: i64 =
        world.connect().query_row("SELECT count(*) FROM atoll_migrations", [], |row| row.get(0)).expect("a count");
    assert_eq!(rows, 20);
}

async fn futures(world: &World, count: usize) -> Vec<Report> {
    let running: Vec<_> = (0..count)
        .map(|_| {
            let database = world.database();
            tokio::spawn(async move { database::prepare(&database).await })
        })
        .collect();
    let mut reports = Vec::new();
    for handle in running {
        reports.push(handle.await.expect("no panic").expect("prepared"));
    }
    reports
}

#[test]
fn a_killed_preparation_leaves_nothing_of_its_migration() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);"), ("0002_b.sql", ENDLESS)]);
    let child = spawn(&world);
    let wal = world.root().join("data/orders.db-wal");
    until_blocking("the second migration to reach the disk", Duration::from_secs(30), || {
        let written = std::fs::metadata(&wal).map_or(0, |metadata| metadata.len());
        (written > 16 << 20).then_some(())
    });
    drop(child);
    assert_eq!(world.tables(), ["a", "atoll_migrations"]);
    world.write("0002_b.sql", "CREATE TABLE b (x);");
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    assert_eq!(runtime.block_on(world.prepare()).expect("prepared").applied, ["0002_b.sql"]);
}

#[tokio::test]
async fn a_dropped_preparation_stops_and_leaves_nothing_of_its_migration() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);"), ("0002_b.sql", ENDLESS)]);
    let wal = world.root().join("data/orders.db-wal");
    tokio::select! {
        result = world.prepare() => panic!("it never ends by itself: {result:?}"),
        () = testkit::wait::until("the second migration to run", Duration::from_secs(30), async || {
            std::fs::metadata(&wal).is_ok_and(|metadata| metadata.len() > 16 << 20).then_some(())
        }) => {}
    }
    world.write("0002_b.sql", "CREATE TABLE b (x);");
    // Waits for the lock, which the interrupted one gives back.
    assert_eq!(world.prepare().await.expect("prepared").applied, ["0002_b.sql"]);
    assert_eq!(world.tables(), ["a", "atoll_migrations", "b"]);
}

#[tokio::test]
async fn a_migration_waits_for_a_writer_to_finish() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);")]);
    world.prepare().await.expect("prepared");
    world.write("0002_b.sql", "CREATE TABLE b (x);");
    let writer = world.connect();
    writer.execute_batch("BEGIN IMMEDIATE; INSERT INTO a VALUES (1);").expect("a transaction");
    let database = world.database();
    let waiting = tokio::spawn(async move { database::prepare(&database).await });
    let lock = world.root().join("data/orders.db.lock");
    testkit::wait::until("the preparation to begin", Duration::from_secs(10), async || {
        let file = std::fs::File::open(&lock).expect("the lock file");
        file.try_lock().is_err().then_some(())
    })
    .await;
    assert!(!waiting.is_finished());
    writer.execute_batch("COMMIT").expect("committed");
    assert_eq!(waiting.await.expect("no panic").expect("prepared").applied, ["0002_b.sql"]);
}
