//! What migrations do, and how each mistake in them reads.

use expect_test::{Expect, expect};

use crate::world::World;

async fn check(files: &[(&str, &str)], expected: Expect) -> World {
    let world = World::with(files);
    expected.assert_eq(&world.outcome().await);
    world
}

#[tokio::test]
async fn migrations_are_applied_once_in_the_order_of_their_numbers() {
    let world = check(
        &[
            ("10_third.sql", "INSERT INTO item VALUES (2); -- no semicolon needed\nINSERT INTO item VALUES (3)"),
            ("0001_first.sql", "\u{feff}CREATE TABLE item (id INTEGER PRIMARY KEY);"),
            ("0002_second-one.sql", "-- only a comment\n"),
            ("README.md", "not a migration"),
            (".0003_hidden.sql.swp", "not one either"),
        ],
        expect![[r#"
            applied ["0001_first.sql", "0002_second-one.sql", "10_third.sql"], now at Some(10)
        "#]],
    )
    .await;
    expect![[r#"
        applied [], now at Some(10)
    "#]]
    .assert_eq(&world.outcome().await);
    world.write("0011_fourth.sql", "DROP TABLE item;");
    expect![[r#"
        applied ["0011_fourth.sql"], now at Some(11)
    "#]]
    .assert_eq(&world.outcome().await);
    assert_eq!(world.tables(), ["atoll_migrations"]);
}

#[tokio::test]
async fn the_ledger_keeps_name_checksum_and_time() {
    let world = World::with(&[("0001_first.sql", "SELECT 1;")]);
    world.prepare().await.expect("prepared");
    let row = world.connect().query_row("SELECT * FROM atoll_migrations", [], |row| {
        Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, String>(2)?, row.get::<_, String>(3)?))
    });
    let (version, name, checksum, applied_at) = row.expect("one row");
    assert_eq!((version, name.as_str()), (1, "first"));
    // printf 'SELECT 1;' | sha256sum
    assert_eq!(checksum, "17db4fd369edb9244b9f91d9aeed145c3d04ad8ba6e95d06247f07a63527d11a");
    assert!(applied_at.starts_with("20") && applied_at.ends_with('Z') && applied_at.len() == 24, "{applied_at}");
}

#[tokio::test]
async fn a_folder_without_migrations_makes_an_empty_database() {
    let world = check(
        &[],
        expect![[r#"
        applied [], now at None
    "#]],
    )
    .await;
    assert!(world.tables().is_empty());
}

#[tokio::test]
async fn names_that_are_not_a_migrations_are_refused() {
    for name in [
        "1.sql",
        "_x.sql",
        "0001-x.sql",
        "0001_.sql",
        "0001_ä.sql",
        "0001_x.SQL",
        "0001_x.sql~",
        "0001_x.up.sql",
        "x.sql",
    ] {
        let world = World::with(&[(name, "")]);
        let seen = world.outcome().await;
        assert!(seen.starts_with(&format!("$DIR/migrations/{name} is not named as a migration\nhint: ")), "{seen}");
        assert!(!world.database().path.exists(), "{name}");
    }
    let huge = "99999999999999999999_x.sql";
    assert!(World::with(&[(huge, "")]).outcome().await.contains("is not named as a migration"));
}

#[tokio::test]
async fn two_files_with_one_number_are_refused() {
    check(
        &[("0002_b.sql", ""), ("2_a.sql", "")],
        expect![[r#"
            $DIR/migrations/0002_b.sql and $DIR/migrations/2_a.sql have the same number
            hint: give $DIR/migrations/2_a.sql the next free number
        "#]],
    )
    .await;
}

#[tokio::test]
async fn an_error_names_its_line_and_leaves_nothing_of_its_migration() {
    let good = ("0001_good.sql", "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT NOT NULL);");
    let cases = [
        (
            "CREATE TABLE a (x);\r\nINSERT INTO a VALUES (1);\r\n\r\n/* third\r\n statement */\r\nINSERT INTO b\r\n  VALUES (2);\r\n",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:6: no such table: b
                     6 | INSERT INTO b
                hint: correct $DIR/migrations/0002_bad.sql:6; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);\nINSERT INTO a\n  VALUES (1), (y);\n",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:3: no such column: y
                     3 | VALUES (1), (y);
                hint: correct $DIR/migrations/0002_bad.sql:3; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);;;\n-- a comment; with 'quotes\n\n;INSERT INTO item VALUES (1, 'one');\n\n-- why\nINSERT INTO item\n  VALUES (2, NULL);",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:7: NOT NULL constraint failed: item.name
                     7 | INSERT INTO item
                hint: correct $DIR/migrations/0002_bad.sql:7; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);\nCREATE TRIGGER t AFTER INSERT ON a BEGIN\n  DELETE FROM a; SELECT 1;\nEND;\nCREAT TABLE c (x);",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:5: near "CREAT": syntax error
                     5 | CREAT TABLE c (x);
                hint: correct $DIR/migrations/0002_bad.sql:5; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);\nCREATE TABLE c (\n",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:2: incomplete input
                     2 | CREATE TABLE c (
                hint: correct $DIR/migrations/0002_bad.sql:2; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);\n\nCREATE TABLE item (x);",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:3: table item already exists
                     3 | CREATE TABLE item (x);
                hint: correct $DIR/migrations/0002_bad.sql:3; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x);\nVACUUM;",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:2: cannot VACUUM from within a transaction
                     2 | VACUUM;
                hint: correct $DIR/migrations/0002_bad.sql:2; nothing of this migration was kept
            "#]],
        ),
        (
            "CREATE TABLE a (x UNIQUE); INSERT INTO a VALUES (1);\nINSERT OR ROLLBACK INTO a VALUES (1);",
            expect![[r#"
                cannot apply the migration $DIR/migrations/0002_bad.sql:2: UNIQUE constraint failed: a.x
                     2 | INSERT OR ROLLBACK INTO a VALUES (1);
                hint: correct $DIR/migrations/0002_bad.sql:2; nothing of this migration was kept
            "#]],
        ),
    ];
    for (sql, expected) in cases {
        let world =
            check(&[good, ("0002_bad.sql", sql), ("0003_never.sql", "CREATE TABLE never (x);")], expected).await;
        assert_eq!(world.tables(), ["atoll_migrations", "item"], "{sql}");
        world.write("0002_bad.sql", "SELECT 1;");
        let report = world.prepare().await.expect("the corrected migration is applied");
        assert_eq!(report.applied, ["0002_bad.sql", "0003_never.sql"]);
    }
}

#[tokio::test]
async fn a_migration_may_not_touch_its_own_transaction_or_ledger() {
    let cases = [
        ("BEGIN;", "BEGIN, COMMIT or ROLLBACK"),
        ("COMMIT;", "BEGIN, COMMIT or ROLLBACK"),
        ("end;", "BEGIN, COMMIT or ROLLBACK"),
        ("ROLLBACK;", "BEGIN, COMMIT or ROLLBACK"),
        ("ATTACH '/dev/null' AS other;", "ATTACH"),
        ("DETACH other;", "DETACH"),
        ("PRAGMA foreign_keys = OFF;", "PRAGMA foreign_keys"),
        ("PRAGMA Journal_Mode(delete);", "PRAGMA Journal_Mode"),
        ("DELETE FROM atoll_migrations;", "a change of atoll_migrations"),
        ("DROP TABLE atoll_migrations;", "a change of atoll_migrations"),
        ("ALTER TABLE atoll_migrations RENAME TO mine;", "a change of atoll_migrations"),
        ("INSERT INTO item VALUES (?);", "a parameter (`?`, `:name`)"),
    ];
    for (sql, what) in cases {
        let sql = format!("CREATE TABLE item (id);\n\n{sql}\nCREATE TABLE more (id);");
        let world = World::with(&[("0001_x.sql", &sql)]);
        let seen = world.outcome().await;
        assert!(
            seen.starts_with(&format!("the migration $DIR/migrations/0001_x.sql:3 must not contain {what}\n")),
            "{seen}"
        );
        assert_eq!(world.tables(), ["atoll_migrations"], "{sql}");
    }
}

#[tokio::test]
async fn what_real_schemas_use_is_allowed() {
    let world = World::with(&[
        (
            "0001_a.sql",
            "CREATE TABLE a (id INTEGER PRIMARY KEY, data TEXT) STRICT; CREATE INDEX i ON a (data);
             CREATE VIRTUAL TABLE search USING fts5 (data); INSERT INTO search VALUES ('hello');
             CREATE TABLE b (a INTEGER REFERENCES a (id)); CREATE VIEW v AS SELECT * FROM a;
             CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO search VALUES (new.data); END;
             PRAGMA user_version = 7; PRAGMA table_info(a);
             SAVEPOINT s; INSERT INTO a VALUES (1, 'one') RETURNING id; RELEASE s;",
        ),
        (
            "0002_b.sql",
            "PRAGMA defer_foreign_keys = ON; CREATE TEMP TABLE kept AS SELECT * FROM a;
             INSERT INTO b VALUES (2); ALTER TABLE a RENAME COLUMN data TO body; ALTER TABLE a ADD COLUMN more TEXT;
             INSERT INTO a (id, body) SELECT 2, data FROM kept; ANALYZE; REINDEX;",
        ),
        ("0003_c.sql", "CREATE TEMP TABLE kept (x);"),
    ]);
    assert_eq!(
        world.prepare().await.map_err(|error| kit::Chain(&error).to_string()).expect("prepared").version,
        Some(3)
    );
    let found: i64 = world.connect().query_row("SELECT count(*) FROM search", [], |row| row.get(0)).expect("a count");
    assert_eq!(found, 3);
}

#[tokio::test]
async fn a_broken_foreign_key_fails_at_the_commit() {
    let sql = "CREATE TABLE a (id INTEGER PRIMARY KEY); CREATE TABLE b (a REFERENCES a DEFERRABLE INITIALLY DEFERRED);
               INSERT INTO b VALUES (1);";
    let world = check(
        &[("0001_x.sql", sql)],
        expect![[r#"
            cannot commit the migration $DIR/migrations/0001_x.sql: FOREIGN KEY constraint failed
            hint: make it leave the data consistent; nothing of this migration was kept
        "#]],
    )
    .await;
    assert_eq!(world.tables(), ["atoll_migrations"]);
}

#[tokio::test]
async fn a_folder_that_disagrees_with_the_database_is_refused() {
    let world = World::with(&[("0001_a.sql", "CREATE TABLE a (x);"), ("0003_c.sql", "CREATE TABLE c (x);")]);
    world.prepare().await.expect("prepared");

    world.write("0001_a.sql", "CREATE TABLE a (x, y);");
    expect![[r#"
        the migration $DIR/migrations/0001_a.sql has changed since it was applied: its checksum was 5d4dfde3b9dd and is 7e5a2ce4c998
        hint: undo the change and put it into a new migration; if the data may be lost, start afresh with `atoll down -v`
    "#]]
    .assert_eq(&world.outcome().await);
    world.write("0001_a.sql", "CREATE TABLE a (x);");

    world.write("0002_b.sql", "CREATE TABLE b (x);");
    expect![[r#"
        the migration $DIR/migrations/0002_b.sql comes too late: the database is already at 3
        hint: give it a number greater than 3
    "#]]
    .assert_eq(&world.outcome().await);
    world.remove("0002_b.sql");

    world.remove("0003_c.sql");
    let missing = expect![[r#"
        the database has migration 3 (c), which $DIR/migrations lacks
        hint: restore the file: this version of the service is older than its database; if the data may be lost, start afresh with `atoll down -v`
    "#]];
    missing.assert_eq(&world.outcome().await);
    world.remove("0001_a.sql");
    assert!(world.outcome().await.starts_with("the database has migration 1 (a)"));
    assert_eq!(world.tables(), ["a", "atoll_migrations", "c"]);
}

#[tokio::test]
async fn a_long_list_of_inserts_takes_linear_time() {
    let mut sql = "CREATE TABLE item (id INTEGER PRIMARY KEY, name TEXT);\n".to_owned();
    let filler = "x".repeat(90);
    for id in 0..100_000 {
        sql.push_str(&format!("INSERT INTO item VALUES ({id}, '{filler}');\n"));
    }
    let world = World::with(&[("0001_x.sql", &sql)]);
    // About a second; if SQLite copied the rest of the text for each statement, it would copy 600 GB.
    tokio::time::timeout(std::time::Duration::from_secs(12), world.prepare())
        .await
        .expect("in time")
        .expect("prepared");
}
