//! Real servers of every major that is found.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::process::Command;
use std::time::Duration;

use pitr_testbed::{Cluster, PostgresInstall, StopMode, TestDir, TestbedError, as_server_user};

#[test]
fn a_server_of_every_major_starts_stops_and_leaves_nothing() {
    let installs = PostgresInstall::all_found();
    assert!(!installs.is_empty());
    for install in installs {
        let mut cluster = Cluster::builder(&install)
            .segment_size(1 << 20)
            .checksums(true)
            .setting("application_name", r"it's \ odd")
            .create()
            .unwrap();
        cluster.start().unwrap();
        let major = install.major();
        assert_eq!(
            cluster.sql("SELECT current_setting('server_version_num')::int / 10000"),
            major.to_string()
        );
        assert_eq!(cluster.sql("SHOW wal_segment_size"), "1MB");
        assert_eq!(cluster.sql("SHOW data_checksums"), "on");
        assert_eq!(cluster.sql("SHOW fsync"), "off");
        assert_eq!(cluster.sql("SELECT 1, NULL, 'x'; SELECT 2"), "1||x\n2");
        cluster.stop(StopMode::Fast).unwrap();
        assert!(!cluster.is_running());
        cluster.start().unwrap();
        let folder = cluster.dir().path().to_owned();
        drop(cluster);
        assert!(!folder.exists());
    }
}

#[test]
fn a_killed_server_is_gone_with_all_its_children_and_recovers_at_the_next_start() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).create().unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE TABLE t AS SELECT 42 AS a");
    let pids = cluster.sql("SELECT string_agg(pid::text, ' ') FROM pg_stat_activity WHERE backend_type <> 'client backend'");
    assert!(pids.split(' ').count() > 3, "{pids}");
    cluster.kill_9();
    for pid in pids.split(' ') {
        let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        assert!(state.is_empty() || state.contains(") Z "), "{state}");
    }
    cluster.start().unwrap();
    assert!(cluster.log().contains("was interrupted"));
    assert_eq!(cluster.sql("SELECT a FROM t"), "42");
}

#[test]
fn settings_change_by_reload_and_a_failed_statement_tells_why() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
    cluster.start().unwrap();
    cluster.configure("work_mem", "5MB").unwrap();
    cluster.reload().unwrap();
    cluster
        .wait_for_sql(
            "SELECT current_setting('work_mem') = '5MB'",
            Duration::from_secs(10),
        )
        .unwrap();
    let error = cluster.psql("SELECT 1/0; SELECT 2").unwrap_err();
    assert!(error.to_string().contains("division by zero"), "{error}");
    let error = cluster
        .wait_for_sql("SELECT false", Duration::from_millis(100))
        .unwrap_err();
    assert!(matches!(error, TestbedError::TimedOut { .. }));
    assert!(std::net::TcpStream::connect(("127.0.0.1", cluster.port())).is_ok());
}

#[test]
fn a_copied_data_directory_is_adopted_and_left_in_place() {
    let install = PostgresInstall::any().unwrap();
    let mut first = Cluster::builder(&install).create().unwrap();
    first.start().unwrap();
    first.execute("CREATE TABLE t AS SELECT 7 AS a");
    first.stop(StopMode::Fast).unwrap();
    let dir = TestDir::new().unwrap();
    let copy = dir.join("copy");
    let status = Command::new("cp")
        .arg("-a")
        .arg(first.data_dir())
        .arg(&copy)
        .status()
        .unwrap();
    assert!(status.success());
    first.start().unwrap();
    let mut second = Cluster::adopt(&install, &copy).unwrap();
    second.start().unwrap();
    assert_eq!(second.sql("SELECT a FROM t"), "7");
    drop(second);
    assert!(copy.join("PG_VERSION").exists());
}

#[test]
fn a_program_and_files_of_the_test_are_usable_by_the_servers_user() {
    let dir = TestDir::new().unwrap();
    let program = dir.reachable("/bin/echo").unwrap();
    let folder = dir.folder("a/b").unwrap();
    let file = dir.file("a/secret", "content").unwrap();
    assert_eq!(
        fs::metadata(&folder).unwrap().uid(),
        fs::metadata(&file).unwrap().uid()
    );
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!(
        "{} hello > {}/out && cat {}",
        program.display(),
        folder.display(),
        file.display()
    ));
    let output = as_server_user(command).unwrap().output().unwrap();
    assert!(output.status.success());
    assert_eq!(output.stdout, b"content");
    assert_eq!(fs::read(folder.join("out")).unwrap(), b"hello\n");
}
