//! Base backups of real servers of every major that is found.
#![cfg(test)]

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use pitr_postgres::{
    BackupError, BackupMember, BaseBackup, BaseBackupOptions, CheckpointMode, ConnectOptions,
    Connection, ManifestChecksum, Mode,
};
use pitr_testbed::{Cluster, PostgresInstall, TestDir};

fn connect(cluster: &Cluster) -> Connection {
    let options = ConnectOptions::resolve(
        Some(&cluster.conninfo()),
        &pitr_postgres::ProcessEnvironment,
    )
    .unwrap();
    Connection::connect(&options, Mode::Replication).unwrap()
}

fn fast() -> BaseBackupOptions {
    BaseBackupOptions {
        label: "it's a \\ label".to_owned(),
        checkpoint: CheckpointMode::Fast,
        ..BaseBackupOptions::default()
    }
}

/// A cluster with a tablespace and some rows.
fn cluster_with_tablespace(install: &PostgresInstall) -> Cluster {
    let mut cluster = Cluster::builder(install).checksums(true).create().unwrap();
    cluster.start().unwrap();
    let space = cluster.dir().folder("space").unwrap();
    cluster.execute(&format!(
        "CREATE TABLESPACE space LOCATION '{}';
         CREATE TABLE a AS SELECT i, repeat('x', 100) AS t FROM generate_series(1, 20000) i;
         CREATE TABLE b TABLESPACE space AS SELECT i FROM generate_series(1, 20000) i;",
        space.display()
    ));
    cluster
}

/// Unpacks with the program `tar`, as somebody without us would.
fn untar(folder: &Path, mut data: impl io::Read) {
    fs::create_dir_all(folder).unwrap();
    let mut tar = Command::new("tar")
        .arg("-x")
        .arg("-C")
        .arg(folder)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = tar.stdin.take().unwrap();
    io::copy(&mut data, &mut stdin).unwrap();
    stdin.flush().unwrap();
    drop(stdin);
    assert!(tar.wait().unwrap().success());
}

struct Laid {
    data: PathBuf,
    manifest: Vec<u8>,
}

/// Lays the backup down: the data directory, with the tablespace linked in as recovery would do it.
fn lay_down(backup: &mut BaseBackup<'_>, folder: &Path) -> Laid {
    let data = folder.join("data");
    let mut manifest = Vec::new();
    let mut spaces = Vec::new();
    while let Some(member) = backup.next_member().unwrap() {
        match member {
            BackupMember::Archive {
                tablespace,
                data: archive,
            } => match tablespace.location {
                None => untar(&data, archive),
                Some((oid, _)) => {
                    let space = folder.join(tablespace.archive_name());
                    untar(&space, archive);
                    spaces.push((oid, space));
                }
            },
            BackupMember::Manifest(mut bytes) => {
                bytes.read_to_end(&mut manifest).unwrap();
            }
        }
    }
    for (oid, space) in spaces {
        std::os::unix::fs::symlink(space, data.join(format!("pg_tblspc/{oid}"))).unwrap();
    }
    fs::write(data.join("backup_manifest"), &manifest).unwrap();
    Laid { data, manifest }
}

#[test]
fn pg_verifybackup_accepts_what_every_major_sends() {
    for install in PostgresInstall::all_found() {
        let major = install.major();
        let cluster = cluster_with_tablespace(&install);
        let mut connection = connect(&cluster);
        let system = connection.identify_system().unwrap();
        let mut backup = connection.base_backup(&fast()).unwrap();
        let start = backup.start().clone();
        assert!(start.lsn <= system.flushed || start.timeline == system.timeline);
        assert_eq!(start.tablespaces.len(), 2);
        assert_eq!(start.tablespaces[1].location, None);
        let (oid, folder) = start.tablespaces[0].location.clone().unwrap();
        assert_eq!(folder, cluster.dir().join("space"));
        assert_eq!(
            cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'space'"),
            oid.to_string()
        );
        assert!(start.size_kb().unwrap() > 1000);
        assert_eq!(backup.archives_have_trailer(), major >= 15);

        let dir = TestDir::new().unwrap();
        let laid = lay_down(&mut backup, dir.path());
        assert!(backup.received_bytes() > start.size_kb().unwrap() * 1000);
        let end = backup.finish().unwrap();
        assert!(end.lsn > start.lsn, "{major}");
        assert_eq!(end.timeline, start.timeline);

        let label = fs::read_to_string(laid.data.join("backup_label")).unwrap();
        assert!(label.contains("LABEL: it's a \\ label"), "{label}");
        assert!(
            label.contains(&format!("START WAL LOCATION: {}", start.lsn)),
            "{label}"
        );
        let map = fs::read_to_string(laid.data.join("tablespace_map")).unwrap();
        assert_eq!(map, format!("{oid} {}\n", folder.display()));
        assert!(
            laid.manifest
                .starts_with(b"{ \"PostgreSQL-Backup-Manifest-Version\"")
        );

        pitr_testbed::chown_to_server_user(dir.path()).unwrap();
        let mut verify = install.command("pg_verifybackup").unwrap();
        verify.arg("--no-parse-wal").arg(&laid.data);
        let output = verify.output().unwrap();
        assert!(
            output.status.success(),
            "{major}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        // the connection goes on
        assert_eq!(
            connection.identify_system().unwrap().system_identifier,
            system.system_identifier
        );
    }
}

#[test]
fn a_backup_without_manifest_map_and_sizes_has_none() {
    for install in PostgresInstall::all_found() {
        let cluster = cluster_with_tablespace(&install);
        let mut connection = connect(&cluster);
        let options = BaseBackupOptions {
            manifest: None,
            tablespace_map: false,
            progress: false,
            verify_checksums: false,
            max_rate_kb_per_s: Some(1_048_576),
            ..fast()
        };
        let mut backup = connection.base_backup(&options).unwrap();
        assert_eq!(backup.start().size_kb(), None);
        let mut names = Vec::new();
        while let Some(member) = backup.next_member().unwrap() {
            match member {
                // the first is left unread, the second is read in part
                BackupMember::Archive {
                    tablespace,
                    mut data,
                } => {
                    if tablespace.location.is_none() {
                        let mut header = [0; 512];
                        data.read_exact(&mut header).unwrap();
                        assert_eq!(&header[257..262], b"ustar");
                    }
                    names.push(tablespace.archive_name());
                }
                BackupMember::Manifest(_) => panic!("a manifest was not asked for"),
            }
        }
        assert_eq!(names.len(), 2);
        assert_eq!(names[1], "base.tar");
        backup.finish().unwrap();
        connection.identify_system().unwrap();
    }
}

#[test]
fn a_backup_that_is_dropped_midway_ends_on_the_server_too() {
    for install in PostgresInstall::all_found() {
        let cluster = cluster_with_tablespace(&install);
        let mut connection = connect(&cluster);
        let mut backup = connection.base_backup(&fast()).unwrap();
        let mut some = [0; 1000];
        let Some(BackupMember::Archive { mut data, .. }) = backup.next_member().unwrap() else {
            panic!("the first member is an archive");
        };
        data.read_exact(&mut some).unwrap();
        drop(backup);
        assert!(connection.identify_system().is_err());
        cluster
            .wait_for_sql(
                "SELECT count(*) = 0 FROM pg_stat_replication",
                std::time::Duration::from_secs(20),
            )
            .unwrap();
        connect(&cluster)
            .base_backup(&fast())
            .unwrap()
            .finish()
            .unwrap();
    }
}

#[test]
fn a_server_that_dies_midway_is_an_error_and_never_an_end() {
    for install in PostgresInstall::all_found() {
        let mut cluster = cluster_with_tablespace(&install);
        let mut connection = connect(&cluster);
        let mut backup = connection.base_backup(&fast()).unwrap();
        cluster.kill_9();
        let mut failure = None;
        loop {
            match backup.next_member() {
                Ok(Some(
                    BackupMember::Archive {
                        data: mut member, ..
                    }
                    | BackupMember::Manifest(mut member),
                )) => {
                    if let Err(error) = io::copy(&mut member, &mut io::sink()) {
                        failure = Some(BackupError::from_io(error).unwrap());
                        break;
                    }
                }
                Ok(None) => break,
                Err(error) => {
                    failure = Some(error);
                    break;
                }
            }
        }
        let failure = failure.expect("the server was killed");
        assert!(failure.to_string().contains("lost"), "{failure}");
    }
}

#[test]
fn damaged_pages_fail_the_backup_at_its_end_with_warnings_that_name_them() {
    for install in PostgresInstall::all_found() {
        let cluster = cluster_with_tablespace(&install);
        cluster.execute("CHECKPOINT");
        let file = cluster.sql("SELECT pg_relation_filepath('a')");
        let path = cluster.data_dir().join(&file);
        let mut bytes = fs::read(&path).unwrap();
        bytes[8192 + 4000] ^= 0xFF;
        fs::write(&path, bytes).unwrap();

        let mut connection = connect(&cluster);
        let warnings = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&warnings);
        connection.on_notice(move |notice| heard.lock().unwrap().push(notice.clone()));
        let error = connection
            .base_backup(&fast())
            .unwrap()
            .finish()
            .unwrap_err();
        let BackupError::Query(query) = &error else {
            panic!("{error}");
        };
        assert_eq!(query.code(), Some("XX001"), "{error}");
        assert!(error.hint().unwrap().contains("warnings"));
        let warnings = warnings.lock().unwrap();
        assert!(
            warnings
                .iter()
                .any(|warning| warning.severity == "WARNING" && warning.message.contains(&file)),
            "{warnings:?}"
        );
        // without verification it goes through
        let options = BaseBackupOptions {
            verify_checksums: false,
            manifest: Some(ManifestChecksum::Sha256),
            ..fast()
        };
        connection.base_backup(&options).unwrap().finish().unwrap();
    }
}

#[test]
fn a_server_that_cannot_be_backed_up_says_why() {
    let install = PostgresInstall::any().unwrap();
    let mut cluster = Cluster::builder(&install)
        .setting("wal_level", "minimal")
        .setting("max_wal_senders", "0")
        .create()
        .unwrap();
    cluster.start().unwrap();
    let options = ConnectOptions::resolve(
        Some(&cluster.conninfo()),
        &pitr_postgres::ProcessEnvironment,
    )
    .unwrap();
    let error = Connection::connect(&options, Mode::Replication).unwrap_err();
    assert!(error.hint().unwrap().contains("max_wal_senders"), "{error}");

    // a backup is no command of a connection for SQL
    let mut connection = Connection::connect(&options, Mode::Sql).unwrap();
    let error = connection.base_backup(&fast()).unwrap_err();
    assert!(error.to_string().contains("syntax error"), "{error}");
    assert_eq!(connection.query("SELECT 1").unwrap()[0].get(0), Some("1"));
}
