//! `pitr-restore table`: what was lost comes back, row by row, and nothing is left behind.
#![allow(clippy::unwrap_used, reason = "tests fail by panicking")]

mod original;

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use original::{Original, said, succeeded};
use pitr_testbed::{as_server_user, chown_to_server_user};
use serde_json::Value;

struct Scene {
    original: Original,
    /// Folder that scratch copies are made in.
    scratch: PathBuf,
    /// What the tables had before they were lost.
    orders: String,
}

const FINGERPRINT: &str =
    "SELECT count(*) || ' ' || md5(string_agg(o::text, ',' ORDER BY id)) FROM {} o";

fn fingerprint(table: &str) -> String {
    FINGERPRINT.replace("{}", table)
}

impl Scene {
    /// A shop whose orders are dropped after the backup, with more written in between.
    fn new() -> Self {
        let original = Original::start();
        let cluster = &original.cluster;
        cluster.execute(
            "CREATE TABLE orders (id serial PRIMARY KEY, v text); CREATE INDEX by_v ON orders (v); \
             INSERT INTO orders (v) SELECT 'order ' || g FROM generate_series(1, 300) g; \
             CREATE SCHEMA depot; CREATE TABLE depot.shelves (id int); \
             CREATE TABLE depot.boxes (id int) PARTITION BY RANGE (id); \
             CREATE TABLE depot.boxes_1 PARTITION OF depot.boxes FOR VALUES FROM (0) TO (50); \
             CREATE TABLE depot.boxes_2 PARTITION OF depot.boxes FOR VALUES FROM (50) TO (100); \
             INSERT INTO depot.shelves VALUES (1), (2); \
             INSERT INTO depot.boxes SELECT generate_series(0, 99); \
             CREATE DATABASE doomed;",
        );
        let doomed = "CREATE TABLE hoard (id int); INSERT INTO hoard SELECT generate_series(1, 77)";
        cluster.psql_in("doomed", doomed).unwrap();
        original.backup();
        cluster.execute(
            "UPDATE orders SET v = v || ' paid' WHERE id % 3 = 0; DELETE FROM orders WHERE id = 7;",
        );
        let orders = cluster.sql(&fingerprint("orders"));
        let scratch = original.place("scratch");
        std::fs::create_dir(&scratch).unwrap();
        chown_to_server_user(&scratch).unwrap();
        Self {
            original,
            scratch,
            orders,
        }
    }

    /// Does what `sql` says; gives the id of the one finding that `find --dropped` then has more.
    fn lose(&self, sql: &str) -> String {
        let before = self.dropped().len();
        self.original.cluster.execute(sql);
        self.original.archive_all();
        let findings = self.dropped();
        assert_eq!(findings.len(), before + 1, "{findings:#?}");
        findings[before]["id"].as_str().unwrap().to_owned()
    }

    fn dropped(&self) -> Vec<Value> {
        let output = self.original.restore_verb(&["find", "--dropped", "--json"]);
        succeeded(&output);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        document["findings"].as_array().unwrap().clone()
    }

    fn table(&self, words: &[&str]) -> Output {
        let scratch = self.scratch.to_str().unwrap();
        let all = [&["table", "--scratch", scratch], words].concat();
        self.original.restore_verb(&all)
    }

    #[track_caller]
    fn nothing_is_left(&self) {
        assert_eq!(original::names(&self.scratch), Vec::<String>::new());
    }

    /// What psql does with a file.
    fn load(&self, file: &Path) {
        self.original
            .cluster
            .execute(&format!("\\i {}", file.display()));
    }
}

#[test]
fn a_dropped_table_comes_back_with_the_very_rows() {
    let scene = Scene::new();
    let cluster = &scene.original.cluster;
    let id = scene.lose("DROP TABLE orders");

    // into a file
    let file = scene.original.place("orders.sql");
    let into = file.to_str().unwrap();
    let output = scene.table(&["orders", "--before", &id, "--into", into]);
    succeeded(&output);
    assert!(
        said(&output).contains("postgres.public.orders: 299 rows"),
        "{}",
        said(&output)
    );
    scene.nothing_is_left();
    scene.load(&file);
    assert_eq!(cluster.sql(&fingerprint("orders")), scene.orders);
    assert_eq!(cluster.sql("SELECT nextval('orders_id_seq')"), "301");

    // the file is not written twice, and the table is not loaded over another
    let again = scene.table(&["orders", "--before", &id, "--into", into]);
    assert_eq!(again.status.code(), Some(1), "{}", said(&again));
    assert!(
        said(&again).contains("is there already"),
        "{}",
        said(&again)
    );
    let conninfo = cluster.conninfo();
    let over = scene.table(&["orders", "--before", &id, "--into", &conninfo]);
    assert_eq!(over.status.code(), Some(1), "{}", said(&over));
    assert!(
        said(&over).contains("has public.orders already"),
        "{}",
        said(&over)
    );
    scene.nothing_is_left();

    // beside it, under another name and into another schema
    let words = [
        "orders",
        "--before",
        &id,
        "--into",
        &conninfo,
        "--as",
        "orders_then",
    ];
    succeeded(&scene.table(&words));
    assert_eq!(cluster.sql(&fingerprint("orders_then")), scene.orders);
    let words = [
        "orders",
        "--before",
        &id,
        "--into",
        &conninfo,
        "--as-schema",
        "then",
        "--json",
    ];
    let output = scene.table(&words);
    succeeded(&output);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["tables"][0]["rows"], 299);
    assert_eq!(report["tables"][0]["rows_loaded"], 299);
    assert_eq!(cluster.sql(&fingerprint("\"then\".orders")), scene.orders);

    // gone again: under its own name into the server
    cluster.execute("DROP TABLE orders");
    succeeded(&scene.table(&["orders", "--before", &id, "--into", &conninfo]));
    assert_eq!(cluster.sql(&fingerprint("orders")), scene.orders);
    scene.nothing_is_left();
}

#[test]
fn several_tables_a_schema_and_a_database_come_back() {
    let scene = Scene::new();
    let cluster = &scene.original.cluster;
    let conninfo = cluster.conninfo();
    let id = scene.lose("DROP SCHEMA depot CASCADE");
    // partitions come with their parent
    let words = [
        "depot.boxes",
        "depot.shelves",
        "--before",
        &id,
        "--into",
        &conninfo,
        "--as-schema",
        "several",
    ];
    succeeded(&scene.table(&words));
    assert_eq!(cluster.sql("SELECT count(*) FROM several.boxes"), "100");
    assert_eq!(cluster.sql("SELECT count(*) FROM several.shelves"), "2");
    let words = ["--schema", "depot", "--before", &id, "--into", &conninfo];
    succeeded(&scene.table(&words));
    assert_eq!(cluster.sql("SELECT count(*) FROM depot.boxes_2"), "50");

    let id = scene.lose("DROP DATABASE doomed");
    let file = scene.original.place("doomed.sql");
    let words = [
        "--database",
        "doomed",
        "--before",
        &id,
        "--into",
        file.to_str().unwrap(),
    ];
    succeeded(&scene.table(&words));
    cluster.execute("CREATE DATABASE doomed");
    let load = format!("\\i {}", file.display());
    cluster.psql_in("doomed", &load).unwrap();
    let sum = cluster.psql_in("doomed", "SELECT count(*) || ' ' || sum(id) FROM hoard");
    assert_eq!(sum.unwrap(), "77 3003");
    scene.nothing_is_left();
}

#[test]
fn what_fails_or_is_interrupted_leaves_nothing_and_what_is_killed_is_swept() {
    let scene = Scene::new();
    let id = scene.lose("DROP TABLE orders");
    let file = scene.original.place("orders.sql");
    let into = file.to_str().unwrap();
    // a name that was not there is only known once the copy runs
    let output = scene.table(&["public.nothing", "--before", &id, "--into", into]);
    assert_eq!(output.status.code(), Some(1));
    assert!(
        said(&output).contains("had no table \"public.nothing\""),
        "{}",
        said(&output)
    );
    assert!(!file.exists());
    scene.nothing_is_left();

    for signal in ["-TERM", "-KILL"] {
        let mut command = std::process::Command::new(&scene.original.restore);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&scene.original.repository)
            .args([
                "table",
                "orders",
                "--before",
                &id,
                "--into",
                into,
                "--scratch",
            ])
            .arg(&scene.scratch)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = as_server_user(command).unwrap().spawn().unwrap();
        // the server of the copy has begun to run
        let deadline = Instant::now() + Duration::from_secs(60);
        let is_up = || {
            let copies = original::names(&scene.scratch);
            copies.iter().any(|copy| {
                let pid_file = scene.scratch.join(copy).join("data/postmaster.pid");
                pid_file.exists()
            })
        };
        while !is_up() && child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "no server came up");
            std::thread::sleep(Duration::from_millis(5));
        }
        let killed = std::process::Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(killed.success());
        let status = child.wait().unwrap();
        assert!(!file.exists(), "{signal}");
        if signal == "-TERM" {
            assert_eq!(status.code(), Some(1));
            scene.nothing_is_left();
        }
    }
    // the next one finds what the killed one left, its server included
    assert_eq!(original::names(&scene.scratch).len(), 1);
    let output = scene.table(&["orders", "--before", &id, "--into", into]);
    succeeded(&output);
    assert!(said(&output).contains("was removed"), "{}", said(&output));
    scene.nothing_is_left();
}

#[test]
fn nonsense_is_wrong_usage_and_nothing_is_made() {
    let scratch = tempfile::tempdir().unwrap();
    let run = |words: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_pitr-restore"))
            .args([
                "table",
                "--repo",
                "/nonexistent",
                "--into",
                "x.sql",
                "--scratch",
            ])
            .arg(scratch.path())
            .args(words)
            .output()
            .unwrap();
        (output.status.code(), said(&output))
    };
    for (words, text) in [
        (&["--before", "4000028"][..], "nothing was named"),
        (&["a.b.c.d", "--before", "4000028"], "no name of a table"),
        (&["t", "--before", "yesterday"], "no id of a finding"),
        (
            &["a", "b", "--as", "c", "--before", "4000028"],
            "--as renames one table",
        ),
    ] {
        let (code, said) = run(words);
        assert_eq!(code, Some(2), "{said}");
        assert!(said.contains(text), "{said}");
    }
    assert!(original::names(scratch.path()).is_empty());
}
