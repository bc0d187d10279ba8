//! Folders, permissions, links, and files that are not what they should be.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use database::Database;
use expect_test::expect;

use crate::world::World;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).expect("metadata").permissions().mode() & 0o777
}

#[tokio::test]
async fn the_files_are_for_their_owner_alone() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);")]);
    world.prepare().await.expect("prepared");
    let path = world.database().path;
    let connection = world.connect();
    connection.execute("INSERT INTO a VALUES (1)", []).expect("inserted");
    assert_eq!(mode(path.parent().expect("a folder")), 0o700);
    for name in ["orders.db", "orders.db-wal", "orders.db-shm", "orders.db.lock"] {
        assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
    }
    let journal: String = connection.query_row("PRAGMA journal_mode", [], |row| row.get(0)).expect("a mode");
    assert_eq!(journal, "wal");
}

#[tokio::test]
async fn a_database_without_migrations_is_made_and_otherwise_left_alone() {
    let world = World::new();
    let database = Database { migrations: None, ..world.database() };
    for _ in 0..2 {
        assert_eq!(database::prepare(&database).await.expect("prepared"), database::Report::default());
    }
    assert!(world.tables().is_empty());
}

#[tokio::test]
async fn links_are_followed() {
    let world = World::new();
    let elsewhere = World::with(&[("real.txt", "CREATE TABLE a (x);")]);
    symlink(elsewhere.migration("real.txt"), world.migration("0001_a.sql")).expect("linked");
    let folder = world.root().join("linked");
    symlink(world.root().join("migrations"), &folder).expect("linked");
    let database = Database { migrations: Some(folder), ..world.database() };
    assert_eq!(database::prepare(&database).await.expect("prepared").applied, ["0001_a.sql"]);
}

#[tokio::test]
async fn a_migration_that_is_no_text_file_is_refused() {
    let world = World::new();
    std::fs::create_dir(world.migration("0001_a.sql")).expect("a folder");
    expect![[r#"
        the migration $DIR/migrations/0001_a.sql is not a regular file
        hint: put a text file of SQL there, or a link to one
    "#]]
    .assert_eq(&world.outcome().await);

    let world = World::new();
    symlink("/dev/zero", world.migration("0001_a.sql")).expect("linked");
    assert!(world.outcome().await.contains("is not a regular file"));

    let world = World::new();
    symlink("nowhere", world.migration("0001_a.sql")).expect("linked");
    expect![[r#"
        cannot read the migration $DIR/migrations/0001_a.sql: No such file or directory (os error 2)
        hint: check that you may read $DIR/migrations/0001_a.sql
    "#]]
    .assert_eq(&world.outcome().await);

    for bytes in [b"SELECT 1;\nSELECT '\xff';".as_slice(), b"SELECT 1;\nSELECT\0 2;"] {
        let world = World::new();
        world.write("0001_a.sql", bytes);
        expect![[r#"
            the migration $DIR/migrations/0001_a.sql is not UTF-8 text: see line 2
            hint: save the file as UTF-8 text without NUL bytes
        "#]]
        .assert_eq(&world.outcome().await);
    }

    let world = World::new();
    let file = std::fs::File::create(world.migration("0001_a.sql")).expect("made");
    file.set_len((16 << 20) + 1).expect("sparse");
    expect![[r#"
        the migration $DIR/migrations/0001_a.sql is larger than 16777216 bytes
        hint: split it into several migrations
    "#]]
    .assert_eq(&world.outcome().await);
}

#[tokio::test]
async fn a_missing_folder_leaves_nothing_behind() {
    let world = World::new();
    std::fs::remove_dir(world.root().join("migrations")).expect("removed");
    expect![[r#"
        cannot read the migrations folder $DIR/migrations: No such file or directory (os error 2)
        hint: create $DIR/migrations or correct `migrations`
    "#]]
    .assert_eq(&world.outcome().await);
    assert!(!world.root().join("data").exists());
}

#[tokio::test]
async fn a_place_that_cannot_hold_a_database_is_named() {
    let world = World::new();
    std::fs::write(world.root().join("data"), "a file").expect("written");
    expect![[r#"
        cannot create $DIR/data: File exists (os error 17)
        hint: see what is there and who may write to it: `ls -ld $DIR/data`
    "#]]
    .assert_eq(&world.outcome().await);

    let world = World::new();
    std::fs::create_dir_all(world.database().path).expect("a folder");
    expect![[r#"
        cannot open the database $DIR/data/orders.db: unable to open database file (SQLite code 14)
        hint: see what is there and who may write to it: `ls -ld $DIR/data/orders.db`
    "#]]
    .assert_eq(&world.outcome().await);
}

#[tokio::test]
async fn a_damaged_file_is_reported_and_kept() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);")]);
    let path = world.database().path;
    std::fs::create_dir(path.parent().expect("a folder")).expect("made");
    let garbage = "this is not a database ".repeat(100);
    std::fs::write(&path, &garbage).expect("written");
    expect![[r#"
        $DIR/data/orders.db is not a sound SQLite database: file is not a database
        hint: restore $DIR/data/orders.db from a backup; nothing was changed. If its data may be lost, remove $DIR/data/orders.db and start again
    "#]]
    .assert_eq(&world.outcome().await);
    assert_eq!(std::fs::read_to_string(&path).expect("read"), garbage);

    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);")]);
    world.prepare().await.expect("prepared");
    let path = world.database().path;
    let mut bytes = std::fs::read(&path).expect("read");
    bytes[100..4096].fill(0xee);
    std::fs::write(&path, &bytes).expect("written");
    assert!(world.outcome().await.starts_with("$DIR/data/orders.db is not a sound SQLite database: "));
    assert_eq!(std::fs::read(&path).expect("read"), bytes);
}

#[tokio::test]
async fn a_full_database_is_reported_and_keeps_what_it_had() {
    let world = World::with(&[
        ("0001_a.sql", "CREATE TABLE a (x);"),
        ("0002_b.sql", "PRAGMA max_page_count = 10; CREATE TABLE b (x);\nINSERT INTO b VALUES (randomblob(1000000));"),
    ]);
    expect![[r#"
        no space is left for $DIR/data/orders.db: database or disk is full
        hint: make room: `df -h $DIR/data`
    "#]]
    .assert_eq(&world.outcome().await);
    assert_eq!(world.tables(), ["a", "atoll_migrations"]);
}
