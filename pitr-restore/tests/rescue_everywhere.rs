//! `pitr-restore table` on every major, as every user, out of every kind of
//! repository. Without `PITR_TEST_MAJORS` the oldest and the newest major are
//! tried, with it those that it names, as in `PITR_TEST_MAJORS="15 16 17"`.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests fail by panicking, and say what they pass over"
)]

mod original;

use std::process::{Command, Output};

use original::{Original, names, succeeded};
use pitr_testbed::{PostgresInstall, TestDir, as_server_user, chown_to_server_user};
use serde_json::Value;

/// Tables of every kind that a rescue knows, in a tablespace of their own some of them.
const MADE: &str = "
    CREATE TABLE sales (id int GENERATED ALWAYS AS IDENTITY, day date NOT NULL, v text,
        PRIMARY KEY (id, day, v)) PARTITION BY RANGE (day);
    CREATE TABLE sales_2025 PARTITION OF sales FOR VALUES FROM ('2025-01-01') TO ('2026-01-01')
        PARTITION BY LIST (v);
    CREATE SCHEMA cellar;
    CREATE TABLE cellar.red PARTITION OF sales_2025 FOR VALUES IN ('red') TABLESPACE space;
    CREATE TABLE sales_2025_rest PARTITION OF sales_2025 DEFAULT;
    CREATE TABLE sales_2026 PARTITION OF sales FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE INDEX by_day ON sales (day);
    CREATE STATISTICS sales_together ON day, v FROM sales;
    INSERT INTO sales (day, v) SELECT date '2025-01-01' + g % 700, CASE WHEN g % 3 = 0 THEN 'red' ELSE 'v' || g END
        FROM generate_series(1, 3000) g;
    CREATE TABLE \"Far Away\" (id serial PRIMARY KEY, big text) TABLESPACE space;
    ALTER TABLE \"Far Away\" ALTER big SET STORAGE EXTERNAL;
    INSERT INTO \"Far Away\" (big) SELECT repeat(md5(g::text), 200) FROM generate_series(1, 40) g;
    CREATE SCHEMA depot;
    CREATE TABLE depot.shelves (id int PRIMARY KEY, v text);
    CREATE TABLE depot.boxes (id int REFERENCES depot.shelves, v text);
    CREATE MATERIALIZED VIEW depot.full AS SELECT id FROM depot.shelves;
    CREATE FUNCTION depot.twice(int) RETURNS int LANGUAGE sql AS 'SELECT 2 * $1';
    INSERT INTO depot.shelves SELECT g, 'shelf ' || g FROM generate_series(1, 60) g;
    INSERT INTO depot.boxes SELECT g, 'box' FROM generate_series(1, 60) g;
    CREATE DATABASE doomed;
    \\connect doomed
    CREATE TABLE hoard (id int PRIMARY KEY, v text);
    INSERT INTO hoard SELECT g, 'coin ' || g FROM generate_series(1, 77) g;
";

fn fingerprint(table: &str) -> String {
    format!(
        "SELECT count(*) || ' ' || md5(string_agg(o::text, ',' ORDER BY o::text)) FROM {table} o"
    )
}

struct Scene {
    original: Original,
    /// Options that lead to the repository and into it.
    options: Vec<String>,
    as_root: bool,
}

impl Scene {
    fn new(original: Original, options: Vec<String>) -> Self {
        let scene = Self {
            original,
            options,
            as_root: false,
        };
        let space = scene.original.places.folder("space").unwrap();
        let cluster = &scene.original.cluster;
        cluster.execute(&format!(
            "CREATE TABLESPACE space LOCATION '{}'",
            space.display()
        ));
        cluster.execute(MADE);
        scene.original.backup();
        // what came after it is in the log alone
        cluster.execute(
            "INSERT INTO sales (day, v) VALUES ('2026-05-05', 'later'); \
             UPDATE depot.shelves SET v = 'moved' WHERE id < 10; \
             DELETE FROM \"Far Away\" WHERE id = 7;",
        );
        scene
    }

    fn run(&self, words: &[&str]) -> Output {
        let mut command = Command::new(&self.original.restore);
        command
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .arg("--repo")
            .arg(&self.original.repository)
            .args(&self.options)
            .args(words);
        if self.as_root {
            command.output().unwrap()
        } else {
            as_server_user(command).unwrap().output().unwrap()
        }
    }

    /// Does what `sql` says, and gives the id of what is found of it.
    fn lose(&self, sql: &str, words: &[&str]) -> String {
        let begin = self.original.cluster.sql("SELECT pg_current_wal_lsn()");
        self.original.cluster.execute(sql);
        self.original.archive_all();
        let output = self.run(&[&["find", "--json", "--from", &begin], words].concat());
        succeeded(&output);
        let document: Value = serde_json::from_slice(&output.stdout).unwrap();
        let findings = document["findings"].as_array().unwrap();
        assert_eq!(findings[0]["reachable"], true, "{document:#}");
        findings[0]["id"].as_str().unwrap().to_owned()
    }

    #[track_caller]
    fn rescue(&self, what: &[&str], id: &str, into: &str, more: &[&str]) -> Value {
        let scratch = self.original.place("scratch");
        if !scratch.exists() {
            std::fs::create_dir(&scratch).unwrap();
            chown_to_server_user(&scratch).unwrap();
        }
        let bin = self.original.cluster.install().bin().to_owned();
        let places = [
            "--scratch",
            scratch.to_str().unwrap(),
            "--pg-bin",
            bin.to_str().unwrap(),
        ];
        let words = ["--before", id, "--into", into, "--json"];
        let output = self.run(&[&["table"], what, &words, &places, more].concat());
        succeeded(&output);
        assert_eq!(names(&scratch), Vec::<String>::new(), "something is left");
        serde_json::from_slice(&output.stdout).unwrap()
    }
}

/// Everything that can be rescued, and where it can be put.
fn everything_comes_back(scene: &Scene) {
    let cluster = &scene.original.cluster;
    let conninfo = cluster.conninfo();
    let sales = cluster.sql(&fingerprint("sales"));
    let red = cluster.sql(&fingerprint("cellar.red"));
    let far = cluster.sql(&fingerprint("\"Far Away\""));
    let shelves = cluster.sql(&fingerprint("depot.shelves"));

    // a partitioned table beside the one that is still there, with its partitions, their
    // indexes and all else that has a name
    let id = scene.lose(
        "DELETE FROM sales",
        &["--table", "public.sales_2026", "--min-rows", "1"],
    );
    let words = ["--as", "sales_then"];
    let report = scene.rescue(&["public.sales"], &id, &conninfo, &words);
    assert_eq!(cluster.sql(&fingerprint("sales_then")), sales, "{report:#}");
    assert_eq!(cluster.sql(&fingerprint("cellar.sales_then_red")), red);
    assert_eq!(cluster.sql("SELECT count(*) FROM sales"), "0");
    let partitions = "SELECT string_agg(relid::text, ' ' ORDER BY relid::text) FROM pg_partition_tree('sales_then')";
    assert_eq!(
        cluster.sql(partitions),
        "cellar.sales_then_red sales_then sales_then_2025 sales_then_2025_rest sales_then_2026"
    );
    let tablespace = "SELECT spcname FROM pg_class c JOIN pg_tablespace t ON t.oid = c.reltablespace \
                      WHERE c.oid = 'cellar.sales_then_red'::regclass";
    assert_eq!(cluster.sql(tablespace), "space");
    cluster.execute("INSERT INTO sales_then (day, v) VALUES ('2025-06-06', 'red')");

    // another schema, by a URI
    let uri = format!(
        "postgresql://postgres@/postgres?host={}&port={}",
        cluster.socket_dir().display(),
        cluster.port()
    );
    let words = ["--as-schema", "Then"];
    scene.rescue(&["sales", "Far Away"], &id, &uri, &words);
    assert_eq!(cluster.sql(&fingerprint("\"Then\".sales")), sales);
    assert_eq!(cluster.sql(&fingerprint("\"Then\".red")), red);
    assert_eq!(cluster.sql(&fingerprint("\"Then\".\"Far Away\"")), far);

    // a table in a tablespace, into a file
    let id = scene.lose("DROP TABLE \"Far Away\"", &["--dropped"]);
    let file = scene.original.place("far.sql");
    let report = scene.rescue(&["public.Far Away"], &id, file.to_str().unwrap(), &[]);
    assert_eq!(report["tables"][0]["rows"], 39, "{report:#}");
    // root's file is root's
    chown_to_server_user(&file).unwrap();
    cluster.execute(&format!("\\i {}", file.display()));
    assert_eq!(cluster.sql(&fingerprint("\"Far Away\"")), far);

    // a schema, also beside itself
    let id = scene.lose("TRUNCATE depot.shelves CASCADE", &["--dropped"]);
    let beside = ["--as-schema", "depot_then"];
    scene.rescue(&["--schema", "depot"], &id, &conninfo, &beside);
    assert_eq!(cluster.sql(&fingerprint("depot_then.shelves")), shelves);
    assert_eq!(cluster.sql("SELECT depot_then.twice(21)"), "42");
    assert_eq!(cluster.sql("SELECT count(*) FROM depot_then.full"), "60");
    cluster.execute("DROP SCHEMA depot CASCADE");
    scene.rescue(&["--schema", "depot"], &id, &conninfo, &[]);
    assert_eq!(cluster.sql(&fingerprint("depot.shelves")), shelves);

    // a database, into a new one
    let id = scene.lose("DROP DATABASE doomed", &["--dropped"]);
    cluster.execute("CREATE DATABASE reborn");
    let reborn = conninfo.replace("dbname=postgres", "dbname=reborn");
    scene.rescue(&["--database", "doomed"], &id, &reborn, &[]);
    let hoard = cluster.psql_in("reborn", "SELECT count(*) || ' ' || max(v) FROM hoard");
    assert_eq!(hoard.unwrap(), "77 coin 9");
}

#[test]
fn what_was_lost_comes_back_on_every_major() {
    let majors = std::env::var("PITR_TEST_MAJORS").unwrap_or_else(|_| "14 18".to_owned());
    for major in majors.split([' ', ',']).filter(|major| !major.is_empty()) {
        let Ok(install) = PostgresInstall::find(major.parse().unwrap()) else {
            eprintln!("passed over: PostgreSQL {major} is not installed");
            continue;
        };
        eprintln!("PostgreSQL {major}");
        let mut scene = Scene::new(Original::start_on(&install, |builder| builder), Vec::new());
        // every other one by root, who gives the copy to the server's user
        scene.as_root = install.major() % 2 == 0 && rustix::process::geteuid().is_root();
        everything_comes_back(&scene);
    }
}

#[test]
fn what_was_lost_comes_back_out_of_an_encrypted_repository() {
    let Ok(made) = Command::new("age-keygen").output() else {
        eprintln!("passed over: age is not installed");
        return;
    };
    let text = String::from_utf8(made.stdout).unwrap();
    let recipient = text.split("public key: ").nth(1).unwrap();
    let recipient = recipient.lines().next().unwrap();
    let places = TestDir::new().unwrap();
    let identity = places.file("identity", text.as_bytes()).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&identity, mode).unwrap();
    let install = PostgresInstall::any().unwrap();
    let init = ["--encrypt-to", recipient];
    let original = Original::start_in(places, &init, &install, |builder| builder);
    let options = vec![
        "--identity".to_owned(),
        identity.to_str().unwrap().to_owned(),
    ];
    let scene = Scene::new(original, options);
    let cluster = &scene.original.cluster;
    let sales = cluster.sql(&fingerprint("sales"));
    let id = scene.lose("DROP TABLE sales", &["--dropped"]);
    scene.rescue(&["sales"], &id, &cluster.conninfo(), &[]);
    assert_eq!(cluster.sql(&fingerprint("sales")), sales);
}
