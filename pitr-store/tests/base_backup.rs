//! Base backups of real servers: taken apart, stored, put together, started.

#![allow(
    clippy::unwrap_used,
    reason = "a test stops where something that it needs fails"
)]

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use pitr_core::{
    BackupManifest, ControlFile, PostgresMajor, SystemIdentifier, TimelineId, WalSegmentSize,
};
use pitr_store::backup::{
    Archive, BackupCatalog, BackupDetails, BackupOptions, BackupReader, BackupSource, MemberKind,
    MemberPath, Origin, Settings, Tablespace,
};
use pitr_store::{LocalStore, ObjectKey};
use pitr_testbed::{Cluster, PostgresInstall, StopMode, TestDir, chown_to_server_user};

/// A server with some tables, one of them in a tablespace.
struct Source {
    cluster: Cluster,
    tablespace: PathBuf,
    oid: u32,
}

impl Source {
    fn start(install: &PostgresInstall) -> Self {
        let mut cluster = Cluster::builder(install)
            .segment_size(1 << 20)
            .create()
            .unwrap();
        cluster.start().unwrap();
        let tablespace = cluster.dir().folder("fast").unwrap();
        cluster.execute(&format!(
            "CREATE TABLESPACE fast LOCATION '{}'",
            tablespace.display()
        ));
        cluster.execute(
            "CREATE TABLE here AS SELECT i, repeat(i::text, 20) FROM generate_series(1, 50000) i",
        );
        cluster.execute("CREATE TABLE there TABLESPACE fast AS SELECT * FROM here");
        let oid = cluster.sql("SELECT oid FROM pg_tablespace WHERE spcname = 'fast'");
        Self {
            oid: oid.parse().unwrap(),
            cluster,
            tablespace,
        }
    }

    fn sums(cluster: &Cluster) -> String {
        cluster.sql(
            "SELECT md5(string_agg(t::text, '' ORDER BY i)) FROM here t
             UNION ALL SELECT md5(string_agg(t::text, '' ORDER BY i)) FROM there t",
        )
    }

    /// What `pg_basebackup -Ft` writes: base.tar, `OID.tar`, backup_manifest.
    fn base_backup(&self) -> PathBuf {
        let target = self.cluster.dir().join("taken");
        let mut command = self.cluster.install().command("pg_basebackup").unwrap();
        run(command
            .args(["-Ft", "-Xfetch", "-cfast", "-d"])
            .arg(self.cluster.conninfo())
            .arg("-D")
            .arg(&target));
        target
    }
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}

fn store(folder: &Path, taken: &Path, source: &Source) -> BackupReader {
    let store = Arc::new(LocalStore::new(folder));
    let catalog = BackupCatalog::new(store, ObjectKey::parse("1/backups").unwrap());
    let now: DateTime<Utc> = "2026-11-20T07:45:02Z".parse().unwrap();
    let options = BackupOptions {
        part_bytes: 4 << 20,
        frame_bytes: 256 << 10,
        ..BackupOptions::default()
    };
    let mut writer = catalog.begin(now, options).unwrap();
    let open = |name: &str| File::open(taken.join(name)).unwrap();
    // the order in which servers send them
    let tablespace = open(&format!("{}.tar", source.oid));
    writer
        .add_tar(Archive::Tablespace(source.oid), tablespace)
        .unwrap();
    writer.add_tar(Archive::Base, open("base.tar")).unwrap();
    writer.put_manifest(open("backup_manifest")).unwrap();

    let collected = |name| writer.collected(name).unwrap().to_vec();
    let control = ControlFile::parse(&collected("global/pg_control")).unwrap();
    assert!(collected("backup_label").starts_with(b"START WAL LOCATION: "));
    let map = format!("{} {}\n", source.oid, source.tablespace.display());
    assert_eq!(collected("tablespace_map"), map.into_bytes());

    let number = source.cluster.sql("SHOW server_version_num");
    let info = writer
        .commit(BackupDetails {
            postgres_version: source.cluster.install().version().to_owned(),
            postgres_major: PostgresMajor::from_server_version_num(number.parse().unwrap())
                .unwrap(),
            system_identifier: SystemIdentifier::new(1),
            segment_size: WalSegmentSize::new(1 << 20).unwrap(),
            timeline: TimelineId::FIRST,
            start_lsn: control.redo(),
            stop_lsn: control.redo(),
            checkpoint_lsn: control.checkpoint,
            start_time: now,
            stop_time: now,
            from: BackupSource::Primary,
            tablespaces: vec![Tablespace {
                oid: source.oid,
                location: source.tablespace.display().to_string(),
                size: None,
            }],
            origin: Origin::default(),
            settings: Settings::default(),
            manifest_checksums: Some("CRC32C".to_owned()),
        })
        .unwrap();
    assert!(info.parts.len() > 4, "{:?}", info.parts);
    catalog.open(info.label).unwrap().unwrap()
}

/// Lays every part down, as a restore does, only simpler.
fn lay_down(reader: &BackupReader, data: &Path, tablespace: &Path) {
    for part in &reader.info().parts {
        let target = match part.name.archive() {
            Archive::Base => data,
            Archive::Tablespace(_) => tablespace,
        };
        let unpacked = reader.unpack(&part.name, |member, contents| -> io::Result<()> {
            let path = member.path.under(target);
            match member.kind {
                MemberKind::Directory => fs::create_dir_all(&path)?,
                MemberKind::File => {
                    io::copy(contents, &mut File::create_new(&path)?)?;
                }
                MemberKind::Symlink { .. } => panic!("with TABLESPACE_MAP there is no link"),
            }
            fs::set_permissions(&path, fs::Permissions::from_mode(member.mode))
        });
        unpacked.unwrap();
    }
}

#[test]
fn what_a_server_of_any_major_sends_comes_back_and_starts() {
    for install in PostgresInstall::all_found() {
        let mut source = Source::start(&install);
        let expected = Source::sums(&source.cluster);
        let taken = source.base_backup();
        let repository = TestDir::new().unwrap();
        let reader = store(repository.path(), &taken, &source);

        // the index agrees with PostgreSQL's own checksums
        let manifest = fs::read(taken.join("backup_manifest")).unwrap();
        assert_eq!(reader.manifest().unwrap().unwrap(), manifest);
        let manifest = BackupManifest::parse(&manifest).unwrap();
        for file in &manifest.files {
            let path = MemberPath::parse(&file.path).unwrap();
            let (_, entry) = reader
                .index()
                .find(&path)
                .unwrap_or_else(|| panic!("{path}"));
            assert_eq!(entry.length, file.size, "{path}");
            let checksum = file.checksum.as_ref().unwrap();
            assert_eq!(Some(entry.crc32c), checksum.crc32c(), "{path}");
        }
        // and has nothing beside, but the WAL
        let wal: MemberPath = "pg_wal".parse().unwrap();
        for (_, entry) in reader.index().files() {
            let listed = manifest
                .files
                .iter()
                .any(|file| file.path == entry.path.as_bytes());
            assert!(listed || entry.path.is_below(&wal), "{}", entry.path);
        }

        // PostgreSQL's own judgement of what comes back
        let target = TestDir::new().unwrap();
        let data = target.folder("data").unwrap();
        let tablespace = target.folder("fast").unwrap();
        for folder in [&data, &tablespace] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).unwrap();
        }
        lay_down(&reader, &data, &tablespace);
        let manifest = reader.manifest().unwrap().unwrap();
        fs::write(data.join("backup_manifest"), manifest).unwrap();
        let link = data.join(format!("pg_tblspc/{}", source.oid));
        symlink(&tablespace, &link).unwrap();
        chown_to_server_user(target.path()).unwrap();
        run(install
            .command("pg_verifybackup")
            .unwrap()
            .arg("-n")
            .arg(&data));

        // and it starts, without the server that it came from
        source.cluster.stop(StopMode::Immediate).unwrap();
        fs::remove_file(&link).unwrap();
        fs::remove_dir_all(&source.tablespace).unwrap();
        let map = format!("{} {}\n", source.oid, tablespace.display());
        fs::write(data.join("tablespace_map"), map).unwrap();
        let mut restored = Cluster::adopt(&install, &data).unwrap();
        restored.start().unwrap();
        let found = Source::sums(&restored);
        assert_eq!(found, expected, "major {}", install.major());
    }
}

#[test]
fn one_file_is_read_without_the_rest() {
    let install = PostgresInstall::any().unwrap();
    let source = Source::start(&install);
    let taken = source.base_backup();
    let repository = TestDir::new().unwrap();
    let reader = store(repository.path(), &taken, &source);
    let file = |name: &str| reader.read_member(&name.parse().unwrap(), 8192);
    ControlFile::parse(&file("global/pg_control").unwrap()).unwrap();
    // nothing but the part that it lies in is needed
    let (needed, _) = reader.index().find(&"PG_VERSION".parse().unwrap()).unwrap();
    for part in &reader.info().parts {
        if part.name != needed {
            let path = Path::new(&reader.location()).join(part.name.to_string());
            fs::remove_file(path).unwrap();
        }
    }
    let version = format!("{}\n", install.major());
    assert_eq!(file("PG_VERSION").unwrap(), version.into_bytes());
}
