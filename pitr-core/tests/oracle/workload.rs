//! A server that writes records of every kind.

use pitr_testbed::{Cluster, PostgresInstall, StopMode};

/// Tables, indexes of every kind, rows in every way.
const TABLES: &str = "
    CREATE TABLE copied (id int, text text, numbers int[], place point);
    INSERT INTO copied SELECT n, repeat('text ', n % 40), ARRAY[n % 7, n % 11], point(n % 100, n % 77)
        FROM generate_series(1, 4000) n;
    CREATE INDEX ON copied USING hash (id);
    CREATE INDEX ON copied USING gin (numbers);
    CREATE INDEX ON copied USING gist (place);
    CREATE INDEX ON copied USING spgist (place);
    CREATE INDEX ON copied USING brin (id);
    CREATE TABLE again AS SELECT * FROM copied;
    COPY again (id) FROM PROGRAM 'seq 1 5000';
    UPDATE again SET text = text || '!' WHERE id % 3 = 0;
    DELETE FROM again WHERE id % 5 = 0;
    VACUUM again;
    VACUUM FULL copied;
    CREATE INDEX by_id ON copied (id);
    CLUSTER copied USING by_id;
    VACUUM FREEZE again;
    TRUNCATE again CASCADE;
    CREATE SEQUENCE counter;
    SELECT count(nextval('counter')) FROM generate_series(1, 200);
    ALTER TABLE copied ALTER COLUMN id TYPE bigint;
    DROP TABLE again;
    VACUUM FULL pg_class;
    CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS one;
    SELECT pg_create_restore_point('a point to go back to');
    SELECT pg_logical_emit_message(true, 'kind', 'content');
    SELECT pg_logical_emit_message(false, 'kind', '');
    CREATE DATABASE other;
    DROP DATABASE other;
";

/// Subtransactions, more than a snapshot keeps, some of them rolled back; two-phase commit.
const TRANSACTIONS: &str = "
    CREATE TABLE parts (id int PRIMARY KEY, text text);
    DO $$ BEGIN
        FOR i IN 1..150 LOOP
            BEGIN
                INSERT INTO parts VALUES (i);
                IF i % 4 = 0 THEN RAISE EXCEPTION 'not this one'; END IF;
            EXCEPTION WHEN raise_exception THEN NULL;
            END;
        END LOOP;
    END $$;
    BEGIN; CREATE TABLE gone (id int); INSERT INTO gone VALUES (1); ROLLBACK;
    BEGIN; INSERT INTO parts VALUES (1000); SAVEPOINT a; DROP TABLE copied; PREPARE TRANSACTION 'kept';
    COMMIT PREPARED 'kept';
    BEGIN; INSERT INTO parts VALUES (1001); PREPARE TRANSACTION 'dropped';
    ROLLBACK PREPARED 'dropped';
    BEGIN; LOCK TABLE parts; SELECT * FROM parts WHERE id = 3 FOR UPDATE; INSERT INTO parts VALUES (2000)
        ON CONFLICT DO NOTHING; COMMIT;
    SELECT 1 FROM pg_switch_wal();
";

/// How many segments to write at least: `PITR_TEST_ORACLE_SEGMENTS`, or a few.
pub(crate) fn wanted(few: usize) -> usize {
    std::env::var("PITR_TEST_ORACLE_SEGMENTS").map_or(few, |count| count.parse().expect("a number"))
}

/// A cluster with segments of 1 MiB, stopped, all of whose log is in `pg_wal`: at least so many.
pub(crate) fn written_by(install: &PostgresInstall, least: usize) -> Cluster {
    let mut cluster = Cluster::builder(install)
        .segment_size(1 << 20)
        .setting("wal_level", "logical")
        .setting("max_prepared_transactions", "5")
        .setting("track_commit_timestamp", "on")
        .setting("wal_keep_size", "4GB")
        .setting("max_wal_size", "4GB")
        .setting("autovacuum", "off")
        .create()
        .expect("a cluster");
    cluster.start().expect("a server");
    // those before may be gone
    let first = segment(&cluster);
    cluster.execute(TABLES);
    cluster.execute(TRANSACTIONS);
    let methods = compression_methods(&cluster);
    let mut rounds = 0;
    for method in methods.iter().cycle() {
        rounds += 1;
        if rounds > methods.len() && segment(&cluster) >= first + least {
            break;
        }
        cluster
            .configure("wal_compression", method)
            .expect("a setting");
        cluster.reload().expect("a reload");
        cluster.execute("SELECT pg_sleep(0.2); CHECKPOINT");
        pgbench(&cluster, &["--initialize", "--quiet", "--scale=1"]);
        pgbench(
            &cluster,
            &["--no-vacuum", "--client=2", "--transactions=150"],
        );
    }
    // records over several segments; images that are there for comparison alone
    cluster.execute(
        "SELECT length(pg_logical_emit_message(true, 'big', repeat('much ', 700000))::text);
         SET wal_consistency_checking = 'all';
         UPDATE parts SET text = 'checked' WHERE id < 20;
         DELETE FROM parts WHERE id < 10;",
    );
    // what follows a crash
    cluster.kill_9();
    cluster.start().expect("recovery");
    cluster.execute("INSERT INTO parts SELECT n FROM generate_series(3000, 3200) n");
    cluster.stop(StopMode::Fast).expect("a stop");
    cluster
}

/// Number of the segment that the server writes to.
fn segment(cluster: &Cluster) -> usize {
    let number = cluster.sql("SELECT div(pg_current_wal_insert_lsn() - '0/0', 1048576)");
    number.parse().expect("a number")
}

/// The methods that this server was built with: `on` and `off` up to 14.
fn compression_methods(cluster: &Cluster) -> Vec<String> {
    let list =
        "SELECT array_to_string(enumvals, ' ') FROM pg_settings WHERE name = 'wal_compression'";
    let methods = cluster.sql(list);
    let mut methods: Vec<String> = methods
        .split_whitespace()
        .filter(|method| ["off", "pglz", "lz4", "zstd"].contains(method))
        .map(str::to_owned)
        .collect();
    if methods.is_empty() {
        methods = vec!["off".to_owned(), "on".to_owned()];
    }
    methods
}

fn pgbench(cluster: &Cluster, arguments: &[&str]) {
    let output = cluster
        .install()
        .command("pgbench")
        .expect("a user for servers")
        .arg("--host")
        .arg(cluster.socket_dir())
        .args(["--port", &cluster.port().to_string(), "--username=postgres"])
        .args(arguments)
        .arg("postgres")
        .output()
        .expect("pgbench runs");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "pgbench: {stderr}");
}
