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

/// What is there again just before a finding: its text, a database, a query and the answer.
const BEFORE: &[(&str, &str, &str, &str)] = &[
    (
        "delete postgres.public.kept 1500",
        "postgres",
        "SELECT count(*) || ' ' || min(v) FROM kept",
        "2000 row 1",
    ),
    (
        "update postgres.public.kept 1700",
        "postgres",
        "SELECT count(*) FROM kept WHERE v = 'newer'",
        "0",
    ),
    (
        "delete postgres.public.kept 1200",
        "postgres",
        "SELECT count(*) FROM kept",
        "1700",
    ),
    (
        "truncate postgres.a.same",
        "postgres",
        "SELECT sum(id) FROM a.same",
        "66",
    ),
    (
        "drop postgres.b.same",
        "postgres",
        "SELECT sum(id) FROM b.same",
        "253",
    ),
    (
        "drop postgres.c.second_name",
        "postgres",
        "SELECT id FROM c.second_name",
        "1",
    ),
    (
        "drop postgres.public.later index:postgres.public.later_pkey",
        "postgres",
        "SELECT count(*) FROM later",
        "45",
    ),
    (
        "drop postgres.public.part_1 partitioned table:postgres.public.parts",
        "postgres",
        "SELECT id FROM parts",
        "5",
    ),
    (
        "drop postgres.public.prepared",
        "postgres",
        "SELECT count(*) FROM prepared",
        "33",
    ),
    (
        "drop view:postgres.public.seen",
        "postgres",
        "SELECT one FROM seen",
        "1",
    ),
    (
        "drop sequence:postgres.public.counted",
        "postgres",
        "SELECT last_value FROM counted",
        "1",
    ),
    (
        "drop index:postgres.public.by_v",
        "postgres",
        "SELECT tablename FROM pg_indexes WHERE indexname = 'by_v'",
        "kept",
    ),
    (
        "drop materialized view:postgres.public.shown",
        "postgres",
        "SELECT sum(id) FROM shown",
        "66",
    ),
    // the table; what was in it is in no log
    (
        "drop postgres.public.unlogged",
        "postgres",
        "SELECT count(*) FROM unlogged",
        "0",
    ),
    (
        "drop postgres.moved postgres.moved.late",
        "postgres",
        "SELECT count(*) FROM moved.late",
        "0",
    ),
    (
        "drop young.public.fresh",
        "young",
        "SELECT count(*) FROM fresh",
        "0",
    ),
    (
        "drop shop.public.orders sequence:shop.public.orders_id_seq index:shop.public.orders_pkey",
        "shop",
        "SELECT count(*) || ' ' || max(v) FROM orders",
        "500 order 99",
    ),
    (
        "drop_database doomed",
        "doomed",
        "SELECT sum(id) FROM hoard",
        "3003",
    ),
];

fn begins_with(text: &str, kinds: &[&str]) -> bool {
    kinds.iter().any(|kind| text.starts_with(kind))
}

/// Whether something was there before this finding that is not there after it.
fn takes_away(text: &str) -> bool {
    begins_with(
        text,
        &["drop ", "drop_database ", "truncate ", "delete ", "update "],
    )
}

/// Restores to just before each of them.
fn everything_was_there_before(original: &Original, findings: &[Value]) {
    for (number, (text, database, query, answer)) in BEFORE.iter().enumerate() {
        let finding = findings
            .iter()
            .find(|finding| told(finding) == *text)
            .unwrap_or_else(|| panic!("{text} was not found"));
        let id = finding["id"].as_str().unwrap();
        let name = format!("before-{number}");
        let copy = original.promoted(&name, &["--before", id]);
        if text.ends_with("prepared") {
            copy.execute("ROLLBACK PREPARED 'one'");
        }
        let found = copy.psql_in(database, query);
        assert_eq!(found.unwrap(), *answer, "before {text}");
        drop(copy);
        std::fs::remove_dir_all(original.place(&name)).unwrap();
    }
}

fn scenario(major: u16) {
    let Ok(install) = PostgresInstall::find(major) else {
        eprintln!("passed over: PostgreSQL {major} is not installed");
        return;
    };
    let original = Original::start_on(&install, |builder| {
        builder
            .setting("max_prepared_transactions", "4")
            .setting("autovacuum", "off")
            // pages travel in every form that there is
            .setting("wal_compression", if major == 15 { "lz4" } else { "on" })
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
    let findings = find(&original, &["--from", &backup_start(&original)]);
    let told_of: Vec<String> = findings.iter().map(told).collect();
    assert_eq!(told_of, expected);
    for finding in &findings {
        assert_eq!(finding["reachable"], true, "{finding:#}");
        assert_eq!(finding["backup"], backup.as_str());
        for object in finding["objects"].as_array().unwrap() {
            assert_eq!(object["name_is"], "certain", "{finding:#}");
        }
    }
    // the drops alone are the same
    let is_drop = |text: &&String| begins_with(text, &["drop ", "drop_database ", "truncate "]);
    let drops: Vec<String> = find(&original, &["--dropped"]).iter().map(told).collect();
    assert_eq!(
        drops.iter().collect::<Vec<_>>(),
        expected.iter().filter(is_drop).collect::<Vec<_>>()
    );
    // a table by its name, a transaction by its number
    let of_table = find(&original, &["--table", "second_name"]);
    assert_eq!(of_table.len(), 1);
    let xid = of_table[0]["xid"].to_string();
    let of_transaction = find(&original, &["--xid", &xid]);
    assert!(
        of_transaction
            .iter()
            .any(|finding| finding["kind"] == "transaction" && finding["committed"] == true),
        "{of_transaction:#?}"
    );
    assert!(
        of_transaction
            .iter()
            .all(|finding| finding["xid"] == of_table[0]["xid"])
    );
    // nothing that takes something away is left out there
    for text in expected.iter().filter(|text| takes_away(text)) {
        assert!(BEFORE.iter().any(|(before, ..)| before == text), "{text}");
    }
    everything_was_there_before(&original, &findings);
}

/// The segment that the backup starts in.
fn backup_start(original: &Original) -> String {
    let path = original.cluster_folder().join("backups");
    let path = path.join(original.newest_backup()).join("backup.json");
    let document: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    document["start_lsn"].as_str().unwrap().to_owned()
}

#[test]
fn find_tells_exactly_what_happened_on_14() {
    scenario(14);
}

#[test]
fn find_tells_exactly_what_happened_on_15() {
    scenario(15);
}

#[test]
fn find_tells_exactly_what_happened_on_16() {
    scenario(16);
}

#[test]
fn find_tells_exactly_what_happened_on_17() {
    scenario(17);
}

#[test]
fn find_tells_exactly_what_happened_on_18() {
    scenario(18);
}

/// Each timeline tells of its own past, and of no other's.
#[test]
fn every_timeline_has_its_own_findings() {
    let original = Original::start();
    let cluster = &original.cluster;
    cluster.execute("CREATE TABLE common (id int); CREATE TABLE fork (id int)");
    original.backup();
    cluster.execute("DROP TABLE common");
    let branch = original.insert("branch");
    cluster.execute("DROP TABLE fork");
    original.archive_all();
    // a second timeline leaves before fork was dropped
    let words = [
        "--target-time",
        &branch,
        "--target-action",
        "promote",
        "--role",
        "primary",
    ];
    let child = original.promoted("child", &words);
    child.execute("ALTER TABLE fork RENAME TO spoon; DROP TABLE spoon");
    original::archive_all(&child);
    let on = |timeline: &str| -> Vec<String> {
        let findings = find(&original, &["--dropped", "--timeline", timeline]);
        findings.iter().map(told).collect()
    };
    assert_eq!(
        on("1"),
        ["drop postgres.public.common", "drop postgres.public.fork"]
    );
    assert_eq!(
        on("2"),
        ["drop postgres.public.common", "drop postgres.public.spoon"]
    );
    // by itself the latest is searched, and a restore goes along it
    let latest = find(&original, &["--dropped"]);
    assert_eq!(told(&latest[1]), "drop postgres.public.spoon");
    let id = latest[1]["id"].as_str().unwrap();
    let copy = original.promoted("copy", &["--before", id]);
    assert_eq!(copy.sql("SELECT count(*) FROM spoon"), "0");
    // what happened on the other timeline is named with it
    let other = find(&original, &["--dropped", "--timeline", "1"]);
    let commands = other[1]["commands"].as_array().unwrap();
    assert!(
        commands[0]
            .as_str()
            .unwrap()
            .contains("--target-timeline 1")
    );
    // an id that is none of the latest timeline's
    let nowhere = original.restore(&original.place("nowhere"), &["--before", "0/1000028"]);
    original::refused(&nowhere, &original.place("nowhere"), "0/1000028");
}

/// Without a backup before it, the log alone tells, and says how sure it is.
#[test]
fn without_a_backup_names_are_those_of_the_log() {
    let original = Original::start();
    let cluster = &original.cluster;
    cluster.execute("CHECKPOINT; CREATE TABLE shown (id int); DROP TABLE shown");
    original.archive_all();
    let findings = find(&original, &["--dropped"]);
    assert_eq!(findings.len(), 1, "{findings:#?}");
    let object = &findings[0]["objects"][0];
    assert_eq!(object["name"], "shown");
    assert_eq!(object["name_is"], "likely");
    assert_eq!(findings[0]["reachable"], false);
    assert!(
        findings[0]["why_not"]["message"]
            .as_str()
            .unwrap()
            .contains("no base backup")
    );
    let text = original.restore_verb(&["find", "--dropped"]);
    assert!(said(&text).contains("cannot be reached"), "{}", said(&text));
}

/// A range of time is cut out of the log, and only its findings are told.
#[test]
fn a_range_of_time_has_its_own_findings_and_no_others() {
    let original = Original::start();
    let cluster = &original.cluster;
    original.backup();
    let mut times = Vec::new();
    for number in 0..4 {
        let name = format!("t{number}");
        cluster.execute(&format!("CREATE TABLE {name} (id int); DROP TABLE {name}"));
        times.push(cluster.sql("SELECT clock_timestamp()"));
        original.archive_all();
    }
    let between = find(
        &original,
        &["--dropped", "--from", &times[0], "--until", &times[2]],
    );
    let told_of: Vec<String> = between.iter().map(told).collect();
    assert_eq!(
        told_of,
        ["drop postgres.public.t1", "drop postgres.public.t2"]
    );
    let lsn = between[0]["lsn"].as_str().unwrap();
    let exactly = find(&original, &["--dropped", "--from", lsn, "--until", lsn]);
    assert_eq!(exactly.len(), 1);
    assert_eq!(exactly[0]["id"], between[0]["id"]);
}

/// Each with its own threshold, and nothing of it where the threshold is higher.
#[test]
fn long_and_large_transactions_and_quiet_spans_are_told() {
    let original = Original::start_with(|builder| builder.setting("autovacuum", "off"));
    let cluster = &original.cluster;
    cluster.execute("CREATE TABLE noted (v text)");
    original.backup();
    cluster.execute("INSERT INTO noted VALUES ('a')");
    // another commits while it runs, and then nobody does until it ends
    let long = std::thread::scope(|scope| {
        let long = scope.spawn(|| {
            cluster.sql(
                "BEGIN; INSERT INTO noted VALUES ('b'); SELECT pg_current_xact_id(); \
                 SELECT FROM pg_sleep(6); COMMIT",
            )
        });
        let runs = "SELECT count(*) FROM pg_stat_activity WHERE backend_xid IS NOT NULL";
        while cluster.sql(runs) != "1" {
            assert!(!long.is_finished(), "it was not seen while it ran");
        }
        // what is less than a second apart counts as one moment
        cluster.execute("SELECT pg_sleep(1.5); INSERT INTO noted VALUES ('c')");
        long.join().unwrap()
    });
    let is_of = |finding: &Value, xid: &str| finding["xid"].as_u64() == xid.trim().parse().ok();
    let large = cluster.sql(
        "BEGIN; INSERT INTO noted SELECT repeat('x', 1000) FROM generate_series(1, 3000); \
         SELECT pg_current_xact_id(); COMMIT",
    );
    original.archive_all();
    let of_kind = |words: &[&str], kind: &str| -> Vec<Value> {
        let found = find(&original, words).into_iter();
        found.filter(|finding| finding["kind"] == kind).collect()
    };
    let longer = of_kind(&["--long", "2"], "long_transaction");
    assert!(longer.len() == 1 && is_of(&longer[0], &long), "{longer:#?}");
    let larger = of_kind(&["--large", "2"], "large_transaction");
    assert!(
        larger.len() == 1 && is_of(&larger[0], &large),
        "{larger:#?}"
    );
    let quiet = of_kind(&["--quiet", "2"], "quiet");
    assert_eq!(quiet.len(), 1, "{quiet:#?}");
    assert_eq!(quiet[0]["lsn"], longer[0]["lsn"]);
    for (words, kind) in [
        (["--long", "600"], "long_transaction"),
        (["--large", "64"], "large_transaction"),
        (["--quiet", "600"], "quiet"),
    ] {
        assert_eq!(of_kind(&words, kind), Vec::<Value>::new());
    }
}

/// A transaction is searched for where it ran, and all that it did is found, however long it ran.
#[test]
fn a_transaction_is_found_whole_and_little_else_is_read() {
    let original = Original::start_with(|builder| {
        builder
            .setting("max_prepared_transactions", "4")
            .setting("autovacuum", "off")
    });
    let cluster = &original.cluster;
    cluster.execute("CREATE TABLE long (v text); CREATE TABLE short (v text)");
    original.backup();
    let busy = |rounds: u32| {
        for _ in 0..rounds {
            cluster.execute(
                "INSERT INTO t SELECT repeat('x', 400) FROM generate_series(1, 1500); CHECKPOINT",
            );
            original.archive_all();
        }
    };
    busy(3);
    // one that is prepared early and committed late, with work of a subtransaction
    let long = cluster.sql(
        "BEGIN; INSERT INTO long SELECT 'a' FROM generate_series(1, 30); SAVEPOINT s; \
         INSERT INTO long SELECT 'b' FROM generate_series(1, 12); RELEASE s; \
         SELECT pg_current_xact_id(); PREPARE TRANSACTION 'long'",
    );
    busy(4);
    // one across several segments, at once
    let short = cluster.sql(
        "BEGIN; INSERT INTO short SELECT repeat('y', 700) FROM generate_series(1, 4000); \
         DELETE FROM short WHERE ctid < '(3,0)'; SELECT pg_current_xact_id(); COMMIT",
    );
    busy(4);
    cluster.execute("COMMIT PREPARED 'long'");
    busy(3);
    let search = |xid: &str, words: &[&str]| -> Value {
        let all = [&["find", "--json", "--xid", xid], words].concat();
        let output = original.restore_verb(&all);
        succeeded(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let everything: Value = {
        let output = original.restore_verb(&["find", "--json", "--large", "0"]);
        succeeded(&output);
        serde_json::from_slice(&output.stdout).unwrap()
    };
    let all = everything["segments"].as_u64().unwrap();
    let tables = |document: &Value| {
        let mut found = document["findings"].as_array().unwrap().iter();
        let found = found.find(|found| found["kind"] == "transaction");
        let found = found.unwrap_or_else(|| panic!("{document:#}"));
        assert_eq!(found["committed"], true);
        found["tables"].clone()
    };
    let told = search(&long, &[]);
    let of_long = tables(&told);
    assert_eq!(of_long[0]["inserted"], 42, "{told:#}");
    let told = search(&short, &[]);
    let of_short = tables(&told);
    assert_eq!(of_short[0]["inserted"], 4000, "{told:#}");
    assert!(of_short[0]["deleted"].as_u64().unwrap() > 0, "{told:#}");
    let read = told["segments_read"].as_u64().unwrap();
    assert!(read * 3 < all * 2, "{read} of {all}");
    // a number that no transaction had is looked for at the end, and not everywhere
    let never = search("4000000", &[]);
    assert_eq!(never["findings"], serde_json::json!([]));
    let read = never["segments_read"].as_u64().unwrap();
    assert!(read * 3 < all * 2, "{read} of {all}");
    // a range that is given narrows it further, and hides nothing in it
    let begin = backup_start(&original);
    assert_eq!(tables(&search(&short, &["--from", &begin])), of_short);
}
