//! Reaching and asking real servers of every major that is found.
#![cfg(test)]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pitr_core::TimelineId;
use pitr_postgres::{
    ConnectError, ConnectFailure, ConnectOptions, Connection, Mode, ProcessEnvironment, QueryError,
};
use pitr_testbed::{Cluster, PostgresInstall, StopMode, TestDir};

fn options(conninfo: &str, variables: &[(&str, &str)]) -> ConnectOptions {
    let mut environment: BTreeMap<String, String> = variables
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect();
    environment
        .entry("PGUSER".to_owned())
        .or_insert("postgres".to_owned());
    environment
        .entry("PGDATABASE".to_owned())
        .or_insert("postgres".to_owned());
    ConnectOptions::resolve(Some(conninfo).filter(|text| !text.is_empty()), &environment).unwrap()
}

fn connect(conninfo: &str) -> Result<Connection, ConnectError> {
    Connection::connect(&options(conninfo, &[]), Mode::Sql)
}

#[test]
fn every_major_answers_sql_and_replication_commands() {
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
        cluster.start().unwrap();
        let reached = options(&cluster.conninfo(), &[]).with_program_name("pitr test");
        let mut sql = Connection::connect(&reached, Mode::Sql).unwrap();
        assert_eq!(
            sql.server_version_num() / 10_000,
            u32::from(install.major())
        );
        assert_eq!(sql.major().unwrap().get(), install.major());
        assert!(sql.parameter("TimeZone").is_some());
        let rows = sql
            .query("SELECT 1 AS a, NULL AS b, 'é' AS c; SELECT current_setting('application_name')")
            .unwrap();
        assert_eq!(rows.len(), 2);
        assert_eq!(rows[0].columns(), ["a", "b", "c"]);
        assert_eq!(rows[0].named("c"), Some("é"));
        assert_eq!(rows[0].named("b"), None);
        assert_eq!(rows[1].get(0), Some("pitr test"));
        assert!(sql.query("").unwrap().is_empty());
        assert_eq!(sql.show("wal_level").unwrap(), "replica");

        let tcp = format!("host=127.0.0.1 port={}", cluster.port());
        let mut replication = Connection::connect(&options(&tcp, &[]), Mode::Replication).unwrap();
        let system = replication.identify_system().unwrap();
        let expected = sql
            .query("SELECT system_identifier FROM pg_control_system()")
            .unwrap();
        assert_eq!(
            system.system_identifier.to_string(),
            expected[0].get(0).unwrap()
        );
        assert_eq!(system.timeline, TimelineId::FIRST);
        assert!(system.flushed.is_valid());
        assert_eq!(replication.show("wal_segment_size").unwrap(), "16MB");
        // timeline 1 has no history, and an error leaves the connection usable
        let error = replication.timeline_history(TimelineId::FIRST).unwrap_err();
        assert_eq!(error.code(), Some("58P01"), "{error}");
        replication.identify_system().unwrap();
    }
}

#[test]
fn the_history_of_a_timeline_is_fetched_as_the_server_has_it() {
    for install in PostgresInstall::all_found() {
        let mut cluster = Cluster::builder(&install).create().unwrap();
        // once as a primary: recovery compares max_connections with that of the last start
        cluster.start().unwrap();
        cluster.stop(StopMode::Fast).unwrap();
        let signal = cluster.data_dir().join("standby.signal");
        fs::write(&signal, "").unwrap();
        pitr_testbed::chown_to_server_user(&signal).unwrap();
        cluster.start().unwrap();
        cluster.promote().unwrap();
        let mut connection =
            Connection::connect(&options(&cluster.conninfo(), &[]), Mode::Replication).unwrap();
        cluster
            .wait_until("timeline 2", Duration::from_secs(10), |_| {
                let now = connection.identify_system().unwrap();
                now.timeline.get() == 2
            })
            .unwrap();
        let file = connection
            .timeline_history(TimelineId::new(2).unwrap())
            .unwrap();
        assert_eq!(file.name, "00000002.history");
        let on_disk = fs::read(cluster.data_dir().join("pg_wal/00000002.history")).unwrap();
        assert_eq!(file.content, on_disk);
    }
}

#[test]
fn an_error_of_the_server_comes_with_all_its_fields() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).create().unwrap();
    cluster.start().unwrap();
    let mut connection = connect(&cluster.conninfo()).unwrap();
    let notices = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&notices);
    connection.on_notice(move |notice| heard.lock().unwrap().push(notice.clone()));
    let error = connection
        .query(
            "DO $$ BEGIN RAISE WARNING 'careful'; \
             RAISE EXCEPTION 'no' USING DETAIL = 'some', HINT = 'other', ERRCODE = 'PT001'; END $$",
        )
        .unwrap_err();
    assert_eq!(error.detail().as_deref(), Some("some"));
    assert_eq!(error.hint().as_deref(), Some("other"));
    assert_eq!(error.code(), Some("PT001"));
    assert_eq!(error.to_string(), "ERROR:  no (SQLSTATE PT001)");
    assert_eq!(notices.lock().unwrap()[0].message, "careful");
    assert_eq!(connection.query("SELECT 2").unwrap()[0].get(0), Some("2"));
    assert!(connection.show("no_such_setting").is_err());
    assert!(connection.query("SELECT 1\0").is_err());
    assert!(connection.query("COPY (SELECT 1) TO STDOUT").is_err());
    assert!(matches!(
        connection.query("SELECT 1"),
        Err(QueryError::Closed)
    ));
}

#[test]
fn a_session_that_the_server_ended_tells_the_reason() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).create().unwrap();
    cluster.start().unwrap();
    let mut connection = connect(&cluster.conninfo()).unwrap();
    cluster.execute(&format!(
        "SELECT pg_terminate_backend({})",
        connection.process_id()
    ));
    cluster
        .wait_for_sql(
            &format!(
                "SELECT count(*) = 0 FROM pg_stat_activity WHERE pid = {}",
                connection.process_id()
            ),
            Duration::from_secs(10),
        )
        .unwrap();
    let error = connection.query("SELECT 1").unwrap_err();
    assert_eq!(error.code(), Some("57P01"), "{error}");
    assert!(matches!(
        connection.query("SELECT 1"),
        Err(QueryError::Closed)
    ));
}

#[test]
fn every_way_to_log_in_takes_the_right_password_and_no_other() {
    for install in PostgresInstall::all_found() {
        let mut builder = Cluster::builder(&install).tcp();
        for method in ["password", "md5", "scram-sha-256"] {
            let role = method.replace('-', "_");
            for kind in [
                "local {db} {role} {method}",
                "host {db} {role} 127.0.0.1/32 {method}",
            ] {
                for database in ["all", "replication"] {
                    builder = builder.hba(
                        kind.replace("{db}", database)
                            .replace("{role}", &role)
                            .replace("{method}", method),
                    );
                }
            }
        }
        let mut cluster = builder.create().unwrap();
        cluster.start().unwrap();
        cluster.execute(
            r"SET password_encryption = 'md5';
              CREATE ROLE md5 LOGIN REPLICATION PASSWORD 'pa ss''é\';
              SET password_encryption = 'scram-sha-256';
              CREATE ROLE password LOGIN REPLICATION PASSWORD 'pa ss''é\';
              CREATE ROLE scram_sha_256 LOGIN REPLICATION PASSWORD 'pa ss''é\';",
        );
        for host in [cluster.socket_dir().to_str().unwrap(), "127.0.0.1"] {
            for user in ["md5", "password", "scram_sha_256"] {
                let conninfo = format!("host={host} port={} user={user}", cluster.port());
                for mode in [Mode::Sql, Mode::Replication] {
                    let right = options(&conninfo, &[("PGPASSWORD", r"pa ss'é\")]);
                    Connection::connect(&right, mode).unwrap();

                    let wrong = options(&conninfo, &[("PGPASSWORD", "hunter2")]);
                    let error = Connection::connect(&wrong, mode).unwrap_err();
                    assert_eq!(error.attempts.len(), 1);
                    let ConnectFailure::Server(refusal) = &*error.attempts[0].failure else {
                        panic!("{error}");
                    };
                    assert_eq!(refusal.message.code, "28P01", "{error}");
                    assert!(error.hint().unwrap().contains("PGPASSWORD"));
                    assert!(!format!("{error} {error:?}").contains("hunter2"));

                    let none = options(&conninfo, &[]);
                    let error = Connection::connect(&none, mode).unwrap_err();
                    assert!(
                        matches!(
                            *error.attempts[0].failure,
                            ConnectFailure::PasswordMissing { .. }
                        ),
                        "{error}"
                    );
                    let database = match mode {
                        Mode::Sql => "postgres",
                        Mode::Replication => "replication",
                    };
                    let line = format!("{host}:{}:{database}:{user}:PASSWORD", cluster.port());
                    assert!(error.hint().unwrap().contains(&line), "{:?}", error.hint());
                }
            }
        }
    }
}

#[test]
fn the_password_file_and_the_service_file_are_enough_to_log_in() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .hba("local all all scram-sha-256")
        .hba("local replication all scram-sha-256")
        .create()
        .unwrap();
    // through trust on a line above, which `hba` cannot come after
    cluster
        .configure("password_encryption", "scram-sha-256")
        .unwrap();
    let hba = cluster.data_dir().join("pg_hba.conf");
    let strict = fs::read_to_string(&hba).unwrap();
    fs::write(&hba, "local all all trust\n").unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE ROLE app LOGIN REPLICATION PASSWORD 'a:b'");
    fs::write(&hba, strict).unwrap();
    cluster.reload().unwrap();

    let home = TestDir::new().unwrap();
    let socket = cluster.socket_dir().to_str().unwrap();
    let pgpass = home
        .file(".pgpass", format!("{socket}:5432:*:app:a\\:b\n"))
        .unwrap();
    fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o600)).unwrap();
    home.file(
        ".pg_service.conf",
        format!("[test]\nhost={socket}\nport=5432\nuser=app\ndbname=postgres\n"),
    )
    .unwrap();
    let environment: BTreeMap<String, String> = [
        ("HOME".to_owned(), home.path().to_str().unwrap().to_owned()),
        ("PGSERVICE".to_owned(), "test".to_owned()),
    ]
    .into();
    let options = ConnectOptions::resolve(None, &environment).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    // a reload takes a moment
    while Connection::connect(&self::options(&cluster.conninfo(), &[]), Mode::Sql).is_ok() {
        assert!(Instant::now() < deadline);
    }
    for mode in [Mode::Sql, Mode::Replication] {
        Connection::connect(&options, mode).unwrap();
    }
    fs::set_permissions(&pgpass, fs::Permissions::from_mode(0o640)).unwrap();
    let options = ConnectOptions::resolve(None, &environment).unwrap();
    assert!(options.warnings()[0].to_string().contains("group or world"));
    assert!(Connection::connect(&options, Mode::Sql).is_err());
}

#[test]
fn peer_authentication_lets_the_operating_systems_user_in() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .hba("local all peer_role peer map=m")
        .hba("local all postgres trust")
        .hba("local all all peer")
        .create()
        .unwrap();
    let me = String::from_utf8(
        std::process::Command::new("id")
            .arg("-un")
            .output()
            .unwrap()
            .stdout,
    )
    .unwrap();
    let ident = cluster.data_dir().join("pg_ident.conf");
    fs::write(&ident, format!("m {} peer_role\n", me.trim())).unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE ROLE peer_role LOGIN; CREATE ROLE other LOGIN");
    let conninfo = cluster.conninfo();
    connect(&format!("{conninfo} user=peer_role")).unwrap();
    let error = connect(&format!("{conninfo} user=other")).unwrap_err();
    assert!(error.hint().unwrap().contains("Peer"), "{error}");
}

#[test]
fn refusals_come_with_what_to_do() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .tcp()
        .hba("host replication all 127.0.0.1/32 reject")
        .hba("host all nobody 127.0.0.1/32 reject")
        .setting("max_connections", "5")
        .setting("max_wal_senders", "1")
        .setting("superuser_reserved_connections", "0")
        .create()
        .unwrap();
    cluster.start().unwrap();
    cluster.execute("CREATE ROLE plain LOGIN");
    let local = cluster.conninfo();
    let tcp = format!("host=127.0.0.1 port={}", cluster.port());
    // a session that was refused holds its place for a moment longer, so both ask again
    let expect_hint = |conninfo: &str, mode, expected: &str| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            let error = Connection::connect(&options(conninfo, &[]), mode).unwrap_err();
            let found = error.hint();
            if found.as_ref().is_some_and(|hint| hint.contains(expected)) {
                return;
            }
            assert!(Instant::now() < deadline, "{error} {found:?}");
        }
    };
    let hold = |mode| {
        let deadline = Instant::now() + Duration::from_secs(20);
        loop {
            match Connection::connect(&options(&local, &[]), mode) {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    };
    let line = "host   replication  postgres  127.0.0.1/32  scram-sha-256";
    expect_hint(&tcp, Mode::Replication, line);
    let plain = format!("{local} user=plain");
    expect_hint(
        &plain,
        Mode::Replication,
        "ALTER ROLE \"plain\" REPLICATION",
    );
    expect_hint(&format!("{local} user=missing"), Mode::Sql, "PGUSER");
    expect_hint(&format!("{local} dbname=missing"), Mode::Sql, "PGDATABASE");
    let held = hold(Mode::Replication);
    expect_hint(&local, Mode::Replication, "max_wal_senders");
    drop(held);
    let held: Vec<Connection> = (0..5).map(|_| hold(Mode::Sql)).collect();
    expect_hint(&local, Mode::Sql, "max_connections");
    drop(held);
}

#[test]
fn servers_that_are_not_there_are_passed_over() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install).tcp().create().unwrap();
    cluster.start().unwrap();
    let dir = TestDir::new().unwrap();
    let gone = dir.path().display();
    let port = cluster.port();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let free = listener.local_addr().unwrap().port();
    drop(listener);
    let connection = connect(&format!(
        "host={gone},127.0.0.1,127.0.0.1 port={port},{free},{port}"
    ))
    .unwrap();
    assert!(
        connection
            .endpoint()
            .to_string()
            .contains(&port.to_string())
    );

    let error = connect(&format!(
        "host={gone},127.0.0.1,no-such-host.invalid port={port},{free},{port}"
    ))
    .unwrap_err();
    assert_eq!(error.attempts.len(), 3);
    let text = error.to_string();
    assert!(
        text.contains("no such socket") && text.contains("connection refused"),
        "{text}"
    );
    assert!(text.contains("no-such-host.invalid"), "{text}");
    assert!(error.hint().is_some() || error.attempts.len() == 3);

    // one primary and nothing else
    for (target, is_met) in [
        ("any", true),
        ("read-write", true),
        ("primary", true),
        ("prefer-standby", true),
        ("standby", false),
        ("read-only", false),
    ] {
        let conninfo = format!("{} target_session_attrs={target}", cluster.conninfo());
        assert_eq!(connect(&conninfo).is_ok(), is_met, "{target}");
    }
}

#[test]
fn a_server_that_never_answers_runs_into_the_time_limit() {
    // takes connections into its backlog, and says nothing
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let begin = Instant::now();
    let error = connect(&format!("host=127.0.0.1 port={port} connect_timeout=1")).unwrap_err();
    assert!(begin.elapsed() < Duration::from_secs(5));
    assert!(
        matches!(*error.attempts[0].failure, ConnectFailure::TimedOut(limit) if limit.as_secs() == 1),
        "{error}"
    );
}

#[test]
fn what_is_no_postgres_is_an_error_and_allocates_nothing_on_its_word() {
    use std::io::{Read as _, Write as _};
    for answer in [
        &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..],
        b"R\x7f\xff\xff\xff",
        b"E\x00\x00\x00\x03",
        b"",
        b"R\x00\x00\x00\x0c\x00\x00\x00\x0b\x00\x00\x00\x00",
    ] {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 64];
            let _ = client.read(&mut request);
            let _ = client.write_all(answer);
        });
        let conninfo = format!("host=127.0.0.1 port={port} sslmode=disable connect_timeout=5");
        let error = connect(&conninfo).unwrap_err();
        assert!(
            matches!(
                *error.attempts[0].failure,
                ConnectFailure::Protocol(_) | ConnectFailure::Closed
            ),
            "{error}"
        );
        server.join().unwrap();
    }
}

#[test]
fn the_process_environment_gives_a_user_and_a_home() {
    use pitr_postgres::Environment as _;
    assert!(ProcessEnvironment.user_name().is_some());
    assert!(ProcessEnvironment.home().is_some());
}
