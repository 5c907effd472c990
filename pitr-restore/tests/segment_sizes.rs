//! The whole loop with segments of every size that is in use: archive, back
//! up, lose everything, recover.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something that it needs fails"
)]

use std::process::Output;
use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, Site};

fn succeeded(output: &Output) {
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn a_cluster_of_any_segment_size_comes_back_to_the_moment_before_the_mistake() {
    let install = PostgresInstall::any().unwrap();
    for mib in [1_u64, 16, 64] {
        let site = Site::new().unwrap();
        let mut cluster = site
            .archiving(Cluster::builder(&install).segment_size(mib << 20))
            .setting("max_wal_size", "512MB")
            .setting("min_wal_size", "160MB")
            .create()
            .unwrap();
        cluster.start().unwrap();
        cluster.execute(
            "CREATE TABLE empleados AS SELECT i, md5(i::text) FROM generate_series(1, 50000) i",
        );
        let mut backup = site.archive().unwrap();
        succeeded(
            &site
                .run(backup.args(["backup", "-d", &cluster.conninfo()]))
                .unwrap(),
        );
        // more than one segment of any size
        cluster.execute(
            "INSERT INTO empleados SELECT i, repeat(md5(i::text), 8) FROM generate_series(50001, 250000) i",
        );
        let sum =
            cluster.sql("SELECT count(*) || ' ' || sum(hashtext(md5)::bigint) FROM empleados");
        let before = cluster.sql("SELECT now()");
        cluster.execute("DELETE FROM empleados");
        cluster.archive_all().unwrap();
        cluster.kill_9();
        drop(cluster);

        let to = site.dir().join("restored");
        let mut restore = site.restore().unwrap();
        restore.args(["--to", to.to_str().unwrap(), "--target-time", &before]);
        restore.args(["--target-action", "promote"]);
        succeeded(&site.run(&mut restore).unwrap());
        let mut restored = Cluster::adopt(&install, &to).unwrap();
        restored.start().unwrap();
        restored
            .wait_for_sql("SELECT NOT pg_is_in_recovery()", Duration::from_secs(120))
            .unwrap();
        assert_eq!(
            restored.sql("SELECT count(*) || ' ' || sum(hashtext(md5)::bigint) FROM empleados"),
            sum,
            "segments of {mib} MiB"
        );
        assert_eq!(
            restored.sql(
                "SELECT setting::bigint / 1048576 FROM pg_settings WHERE name = 'wal_segment_size'"
            ),
            mib.to_string()
        );
    }
}
