//! `pitr-restore find` against servers that did known things.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they pass over"
)]

mod original;

use original::{Original, said, succeeded};
use pitr_testbed::PostgresInstall;
use serde_json::Value;

/// What `find` tells, in short: kind, objects by name, and rows where there are some.
fn told(finding: &Value) -> String {
    let mut text = finding["kind"].as_str().unwrap().to_owned();
    for object in finding["objects"].as_array().unwrap() {
        let part = |key: &str| object[key].as_str().unwrap_or("?").to_owned();
        text.push(' ');
        text.push_str(&match object["kind"].as_str().unwrap() {
            "database" => part("database"),
            "schema" => format!("{}.{}", part("database"), part("name")),
            "table" => format!("{}.{}.{}", part("database"), part("schema"), part("name")),
            kind => format!(
                "{kind}:{}.{}.{}",
                part("database"),
                part("schema"),
                part("name")
            ),
        });
    }
    for key in ["rows", "name"] {
        if !finding[key].is_null() {
            text.push_str(&format!(" {}", finding[key]));
        }
    }
    text
}

fn find(original: &Original, words: &[&str]) -> Vec<Value> {
    let all = [&["find", "--json"], words].concat();
    let output = original.restore_verb(&all);
    succeeded(&output);
    let document: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}", said(&output)));
    document["findings"].as_array().unwrap().clone()
}

/// What stands before the base backup.
const BEFORE_BACKUP: &str = "
    CREATE TABLE kept (id int PRIMARY KEY, v text);
    INSERT INTO kept SELECT g, 'row ' || g FROM generate_series(1, 2000) g;
    CREATE SCHEMA a; CREATE SCHEMA b;
    CREATE TABLE a.same (id int); INSERT INTO a.same SELECT generate_series(1, 11);
    CREATE TABLE b.same (id int); INSERT INTO b.same SELECT generate_series(1, 22);
    CREATE TABLE first_name (id int); INSERT INTO first_name VALUES (1);
    CREATE TABLE prepared (id int); INSERT INTO prepared SELECT generate_series(1, 33);
    CREATE MATERIALIZED VIEW shown AS SELECT * FROM a.same;
    CREATE DATABASE shop; CREATE DATABASE doomed;
    \\connect shop
    CREATE TABLE orders (id serial PRIMARY KEY, v text);
    INSERT INTO orders (v) SELECT 'order ' || g FROM generate_series(1, 500) g;
    \\connect doomed
    CREATE TABLE hoard (id int); INSERT INTO hoard SELECT generate_series(1, 77);
";

/// What is done after it, and what `find` tells of it; `None` where nothing is to be told.
const STEPS: &[(&str, &[&str])] = &[
    (
        "CREATE TABLE later (id int PRIMARY KEY); INSERT INTO later SELECT generate_series(1, 44);",
        &[],
    ),
    ("BEGIN; DROP TABLE kept; ROLLBACK;", &[]),
    (
        "BEGIN; SAVEPOINT s; DROP TABLE kept; ROLLBACK TO s; INSERT INTO later VALUES (0); COMMIT;",
        &[],
    ),
    (
        "CREATE TEMP TABLE passing AS SELECT generate_series(1, 3000) AS id; \
      DELETE FROM passing; TRUNCATE passing; DROP TABLE passing;",
        &[],
    ),
    (
        "BEGIN; CREATE TABLE brief (id int); INSERT INTO brief VALUES (1); TRUNCATE brief; DROP TABLE brief; COMMIT;",
        &[],
    ),
    ("VACUUM FULL kept;", &["rewrite postgres.public.kept"]),
    (
        "CLUSTER kept USING kept_pkey;",
        &["rewrite postgres.public.kept"],
    ),
    (
        "ALTER TABLE later ALTER id TYPE bigint;",
        &["rewrite postgres.public.later"],
    ),
    (
        "REFRESH MATERIALIZED VIEW shown;",
        &["rewrite materialized view:postgres.public.shown"],
    ),
    (
        "REINDEX INDEX kept_pkey;",
        &["rewrite index:postgres.public.kept_pkey"],
    ),
    (
        "SELECT pg_create_restore_point('before it all');",
        &["restore_point \"before it all\""],
    ),
    (
        "DELETE FROM kept WHERE id <= 1500;",
        &["delete postgres.public.kept 1500"],
    ),
    ("UPDATE kept SET v = 'new';", &[]),
    (
        "INSERT INTO kept SELECT g FROM generate_series(1, 1200) g; UPDATE kept SET v = 'newer';",
        &["update postgres.public.kept 1700"],
    ),
    (
        "BEGIN; DELETE FROM kept WHERE id <= 600; SAVEPOINT s; DELETE FROM kept WHERE id <= 1200; \
      RELEASE s; SAVEPOINT t; DELETE FROM kept; ROLLBACK TO t; COMMIT;",
        &["delete postgres.public.kept 1200"],
    ),
    ("TRUNCATE a.same;", &["truncate postgres.a.same"]),
    ("DROP TABLE b.same;", &["drop postgres.b.same"]),
    (
        "ALTER TABLE first_name RENAME TO second_name; ALTER SCHEMA b RENAME TO c; ALTER TABLE second_name SET SCHEMA c;",
        &[],
    ),
    (
        "DROP TABLE c.second_name;",
        &["drop postgres.c.second_name"],
    ),
    (
        "DROP TABLE later;",
        &["drop postgres.public.later index:postgres.public.later_pkey"],
    ),
    (
        "CREATE TABLE parts (id int) PARTITION BY RANGE (id); \
      CREATE TABLE part_1 PARTITION OF parts FOR VALUES FROM (0) TO (10); INSERT INTO parts VALUES (5);",
        &[],
    ),
    (
        "DROP TABLE parts;",
        &["drop postgres.public.part_1 partitioned table:postgres.public.parts"],
    ),
    (
        "BEGIN; DROP TABLE prepared; PREPARE TRANSACTION 'one';",
        &[],
    ),
    ("COMMIT PREPARED 'one';", &["drop postgres.public.prepared"]),
    (
        "CREATE VIEW seen AS SELECT 1 AS one; CREATE SEQUENCE counted; CREATE INDEX by_v ON kept (v);",
        &[],
    ),
    ("DROP VIEW seen;", &["drop view:postgres.public.seen"]),
    (
        "DROP SEQUENCE counted;",
        &["drop sequence:postgres.public.counted"],
    ),
    ("DROP INDEX by_v;", &["drop index:postgres.public.by_v"]),
    (
        "DROP MATERIALIZED VIEW shown;",
        &["drop materialized view:postgres.public.shown"],
    ),
    (
        "CREATE UNLOGGED TABLE unlogged (id int); INSERT INTO unlogged VALUES (1);",
        &[],
    ),
    ("DROP TABLE unlogged;", &["drop postgres.public.unlogged"]),
    // the catalogs themselves move
    (
        "VACUUM FULL pg_class; VACUUM FULL pg_namespace; CREATE SCHEMA moved; CREATE TABLE moved.late (id int);",
        &[],
    ),
    (
        "DROP SCHEMA moved CASCADE;",
        &["drop postgres.moved postgres.moved.late"],
    ),
    (
        "\\connect shop\nDROP TABLE orders;",
        &[
            "drop shop.public.orders sequence:shop.public.orders_id_seq index:shop.public.orders_pkey",
        ],
    ),
    ("CREATE DATABASE young TEMPLATE shop;", &[]),
    ("\\connect young\nCREATE TABLE fresh (id int);", &[]),
    (
        "\\connect young\nDROP TABLE fresh;",
        &["drop young.public.fresh"],
    ),
    ("DROP DATABASE doomed;", &["drop_database doomed"]),
];

fn scenario(install: &PostgresInstall) {
    let original = Original::start_on(install, |builder| {
        builder
            .setting("max_prepared_transactions", "4")
            .setting("autovacuum", "off")
    });
    let cluster = &original.cluster;
    cluster.execute(BEFORE_BACKUP);
    let backup = original.backup();
    let mut expected = Vec::new();
    for (statements, findings) in STEPS {
        cluster.execute(statements);
        expected.extend(findings.iter().map(|finding| (*finding).to_owned()));
    }
    original.archive_all();
    let findings = find(&original, &["--from", "000000010000000000000001"]);
    let told_of: Vec<String> = findings.iter().map(told).collect();
    assert_eq!(told_of, expected, "PostgreSQL {}", install.major());
    for finding in &findings {
        assert_eq!(finding["reachable"], true, "{finding:#}");
        assert_eq!(finding["backup"], backup.as_str());
        for object in finding["objects"].as_array().unwrap() {
            assert_eq!(object["name_is"], "certain", "{finding:#}");
        }
    }
    // the drops alone are the same
    let is_drop = |text: &&String| {
        ["drop ", "drop_database ", "truncate "]
            .iter()
            .any(|kind| text.starts_with(kind))
    };
    let drops: Vec<String> = find(&original, &["--dropped"]).iter().map(told).collect();
    assert_eq!(
        drops.iter().collect::<Vec<_>>(),
        expected.iter().filter(is_drop).collect::<Vec<_>>(),
        "PostgreSQL {}",
        install.major()
    );
}

#[test]
fn find_tells_exactly_what_happened_on_every_major() {
    for install in PostgresInstall::all_found() {
        eprintln!("PostgreSQL {}", install.version());
        scenario(&install);
    }
}
