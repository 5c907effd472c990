//! What goes in comes out: through tar, through members, by index.

use pitr_core::crc32c;
use std::sync::Mutex;

use super::*;

#[test]
fn every_file_comes_back_by_index_and_by_part() {
    let sample = Sample::new(small(200_000, 30_000));
    let reader = sample.reader();
    let files = sample.files();
    assert_eq!(reader.index().len(), files.len());
    for (name, contents) in &files {
        let read = read_all(reader.open_member(&path(name)).unwrap());
        assert_eq!(&read, contents, "{name}");
        assert_eq!(
            &reader.read_member(&path(name), 10 << 20).unwrap(),
            contents
        );
    }
    let mut seen = BTreeMap::new();
    for part in &reader.info().parts {
        reader
            .unpack::<BackupReadError>(&part.name, |member, data| {
                if member.kind == MemberKind::File {
                    let name = part.name.archive().manifest_path(&member.path).to_string();
                    assert_eq!(member.mode, 0o600);
                    assert!(seen.insert(name, read_all(data)).is_none());
                }
                Ok(())
            })
            .unwrap();
        let verified = reader.verify_part(&part.name).unwrap();
        assert_eq!(
            (verified.files, verified.raw_bytes),
            (part.files, part.raw_bytes)
        );
    }
    assert_eq!(seen, files);
    assert_eq!(
        reader.manifest().unwrap().unwrap(),
        b"{ \"PostgreSQL-Backup-Manifest-Version\": 1 }\n"
    );
}

#[test]
fn parts_stay_within_their_size_unless_one_member_is_larger() {
    let sample = Sample::new(small(200_000, 30_000));
    let reader = sample.reader();
    let parts = &reader.info().parts;
    assert!(parts.len() > 6, "{}", parts.len());
    for part in parts {
        let members = reader.index().part(&part.name).unwrap();
        let one_large = members.files.iter().any(|file| file.length > 190_000);
        assert!(part.raw_bytes <= 200_000 || one_large, "{part:?}");
        assert_eq!(part.raw_bytes % 512, 0);
    }
    // tablespaces came first and stay first; each archive counts from 1
    let names: Vec<String> = parts.iter().map(|part| part.name.to_string()).collect();
    assert_eq!(names[0], "16384-00001.tar.zst");
    assert!(names.contains(&"base-00001.tar.zst".to_owned()));
    let (last, _) = reader.index().find(&path("global/pg_control")).unwrap();
    assert_eq!(
        last,
        parts.last().unwrap().name,
        "pg_control is in the last part"
    );
    let (label, _) = reader.index().find(&path("backup_label")).unwrap();
    assert_eq!(label.to_string(), "base-00001.tar.zst");
}

#[test]
fn a_header_is_stored_as_it_came() {
    let data = TempDir::new().unwrap();
    data_directory(data.path());
    let tar = real_tar(
        data.path(),
        &["--format=ustar", "--owner=postgres:26"],
        None,
    );
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(u64::MAX, 30_000));
    writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
    let info = writer.commit(details()).unwrap();
    let reader = scratch.catalog.open(info.label).unwrap().unwrap();
    let stored = read_all(reader.open_part(&info.parts[0].name).unwrap());
    let end = members_end(&tar);
    assert_eq!(stored[..end], tar[..end]);
    assert_eq!(stored[end..], [0; 1024]);
}

#[test]
fn an_archive_without_its_end_blocks_is_taken() {
    // servers up to 14 send none
    let data = TempDir::new().unwrap();
    data_directory(data.path());
    let tar = real_tar(data.path(), &["--format=ustar"], None);
    let end = members_end(&tar);
    for length in [end, end + 512, end + 1024] {
        let scratch = Scratch::new();
        let mut writer = scratch.begin(small(100_000, 30_000));
        writer.add_tar(Archive::Base, &tar[..length]).unwrap();
        let info = writer.commit(details()).unwrap();
        let reader = scratch.catalog.open(info.label).unwrap().unwrap();
        for part in &info.parts {
            reader.verify_part(&part.name).unwrap();
        }
    }
}

#[test]
fn an_archive_cut_anywhere_else_is_refused() {
    let data = TempDir::new().unwrap();
    write(data.path(), "backup_label", b"label\n");
    write(data.path(), "global/pg_control", &noise(8192, 4));
    let tar = real_tar(data.path(), &["--format=ustar"], None);
    let scratch = Scratch::new();
    let whole: Vec<u64> = ::tar::Archive::new(tar.as_slice())
        .entries()
        .unwrap()
        .map(|entry| entry.unwrap().raw_header_position())
        .collect();
    for length in (0..members_end(&tar)).step_by(128) {
        let mut writer = scratch.begin(small(100_000, 30_000));
        let added = writer.add_tar(Archive::Base, &tar[..length]);
        if whole.contains(&(length as u64)) {
            // between two members it looks like an archive of old; then what
            // is missing shows at the commit
            added.unwrap();
            let error = writer.commit(details()).unwrap_err();
            assert!(
                matches!(error, BackupWriteError::Missing { .. }),
                "{length}: {error}"
            );
        } else {
            let error = added.unwrap_err();
            assert!(
                matches!(error, BackupWriteError::Tar { .. }),
                "{length}: {error}"
            );
        }
    }
    assert_eq!(names(&scratch.backups()), [""; 0]);
}

#[test]
fn a_stream_that_breaks_off_gives_its_own_error() {
    struct Broken;
    impl Read for Broken {
        fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
            Err(std::io::ErrorKind::ConnectionReset.into())
        }
    }
    let data = TempDir::new().unwrap();
    data_directory(data.path());
    let tar = real_tar(data.path(), &[], None);
    let scratch = Scratch::new();
    for length in [0, 700, 100_000] {
        let mut writer = scratch.begin(small(100_000, 30_000));
        let error = writer
            .add_tar(Archive::Base, tar[..length].chain(Broken))
            .unwrap_err();
        let BackupWriteError::Tar {
            source: TarError::Read(source),
            ..
        } = error
        else {
            panic!("{error}");
        };
        assert_eq!(source.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(matches!(
            writer.commit(details()),
            Err(BackupWriteError::Unfinished { .. })
        ));
    }
}

#[test]
fn long_names_of_gnu_and_pax_survive() {
    let data = TempDir::new().unwrap();
    data_directory(data.path());
    let long = format!("{}/{}/file", "d".repeat(90), "e".repeat(200));
    write(data.path(), &long, b"far away");
    for format in ["--format=gnu", "--format=pax"] {
        let tar = real_tar(data.path(), &[format], None);
        let scratch = Scratch::new();
        let mut writer = scratch.begin(small(100_000, 30_000));
        writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
        let info = writer.commit(details()).unwrap();
        let reader = scratch.catalog.open(info.label).unwrap().unwrap();
        assert_eq!(reader.read_member(&path(&long), 100).unwrap(), b"far away");
        for part in &info.parts {
            reader.verify_part(&part.name).unwrap();
        }
    }
}

#[test]
fn members_can_be_handed_in_one_by_one() {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(10_000, 3_000));
    let member = |name: &str, kind, size| Member {
        path: path(name),
        kind,
        mode: 0o640,
        uid: 3_000_000,
        gid: 26,
        mtime: 1_795_000_000,
        size,
    };
    let target = format!("/srv/{}", "t".repeat(150));
    let mut archive = writer.archive(Archive::Base).unwrap();
    let mut expected = Vec::new();
    for (name, size) in [
        ("backup_label", 10),
        ("base/1/x", 9_000),
        ("global/pg_control", 8192),
    ] {
        let file = member(name, MemberKind::File, size);
        let contents = noise(usize::try_from(size).unwrap(), size);
        archive.append_member(&file, contents.as_slice()).unwrap();
        expected.push(file);
    }
    let link = MemberKind::Symlink {
        target: target.clone().into_bytes(),
    };
    for empty in [
        member("pg_wal", MemberKind::Directory, 0),
        member("pg_tblspc/16384", link, 0),
    ] {
        archive.append_empty(&empty).unwrap();
        expected.push(empty);
    }
    let error = archive
        .append_member(&member("base/1/y", MemberKind::File, 100), &b"short"[..])
        .unwrap_err();
    assert!(matches!(
        error,
        BackupWriteError::SourceLength { found: 5, .. }
    ));
    drop(writer);

    let mut writer = scratch.begin(small(10_000, 3_000));
    let mut archive = writer.archive(Archive::Base).unwrap();
    for member in &expected {
        let contents = noise(usize::try_from(member.size).unwrap(), member.size);
        archive.append_member(member, contents.as_slice()).unwrap();
    }
    archive.finish().unwrap();
    let info = writer.commit(details()).unwrap();
    let reader = scratch.catalog.open(info.label).unwrap().unwrap();
    let mut found = Vec::new();
    for part in &info.parts {
        reader
            .unpack::<BackupReadError>(&part.name, |member, data| {
                assert_eq!(
                    read_all(data),
                    noise(usize::try_from(member.size).unwrap(), member.size)
                );
                found.push(member.clone());
                Ok(())
            })
            .unwrap();
    }
    assert_eq!(found, expected);
    assert_eq!(info.manifest, None);
    assert_eq!(reader.manifest().unwrap(), None);
}

#[test]
fn the_files_that_describe_the_backup_are_kept_while_they_pass() {
    let data = TempDir::new().unwrap();
    data_directory(data.path());
    let tar = real_tar(data.path(), &[], None);
    let scratch = Scratch::new();
    let mut options = small(100_000, 30_000);
    options.collect.insert(path("PG_VERSION"));
    options.collect.insert(path("base/5/16500"));
    options.collect.insert(path("not/there"));
    let mut writer = scratch.begin(options);
    let told = Arc::new(Mutex::new(Vec::new()));
    writer.on_progress({
        let told = Arc::clone(&told);
        move |progress| told.lock().unwrap().push(progress)
    });
    writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
    let file = |name: &str| fs::read(data.path().join(name)).unwrap();
    for name in [
        "backup_label",
        "tablespace_map",
        "global/pg_control",
        "PG_VERSION",
    ] {
        assert_eq!(
            writer.collected(name),
            Some(file(name).as_slice()),
            "{name}"
        );
    }
    assert_eq!(writer.collected("base/5/16500").unwrap().len(), 1_000_000);
    assert_eq!(writer.collected("not/there"), None);
    assert_eq!(writer.collected("base/1/1259"), None);
    let last = writer.progress();
    let info = writer.commit(details()).unwrap();

    let told = told.lock().unwrap();
    assert!(told.is_sorted_by_key(|progress| progress.raw_bytes));
    assert!(told.is_sorted_by_key(|progress| progress.stored_bytes));
    assert_eq!(last.raw_bytes, members_end(&tar) as u64);
    let end_blocks = 1024 * info.parts.len() as u64;
    assert_eq!(info.sizes.raw_bytes, last.raw_bytes + end_blocks);
}

#[test]
fn the_document_is_readable_and_says_what_was_stored() {
    let sample = Sample::new(small(200_000, 30_000));
    let text = fs::read_to_string(sample.folder().join("backup.json")).unwrap();
    let value: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["format"], 1);
    assert_eq!(value["label"], "20261120T074502Z");
    assert_eq!(value["system_identifier"], "7000000000000000001");
    assert_eq!(value["start_lsn"], "0/4000028");
    assert_eq!(value["stop_time"], "2026-11-20T07:46:10.500Z");
    assert_eq!(value["tablespaces"][0]["oid"], 16384);
    let part = &value["parts"][0];
    assert_eq!(part["tablespace"], 16384);
    let size = fs::metadata(sample.folder().join(part["name"].as_str().unwrap()))
        .unwrap()
        .len();
    assert_eq!(part["stored_bytes"], size);
    // one file a line
    let line = text
        .lines()
        .find(|line| line.contains("\"backup_label\""))
        .unwrap();
    let crc = crc32c::crc32c(&fs::read(sample.data.path().join("backup_label")).unwrap());
    assert_eq!(
        line.trim().trim_end_matches(','),
        format!("[\"backup_label\",1536,62,\"{crc:08x}\"]")
    );
    // what was returned is what is read
    assert_eq!(sample.reader().info(), &sample.info);
    assert_eq!(
        sample
            .scratch
            .catalog
            .get(sample.info.label)
            .unwrap()
            .unwrap(),
        sample.info
    );
}

#[test]
fn file_names_need_not_be_utf8() {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(100_000, 30_000));
    let mut archive = writer.archive(Archive::Base).unwrap();
    for name in [
        &b"backup_label"[..],
        b"global/pg_control",
        b"base/\xff\xfe\"\\\n",
    ] {
        let file = Member {
            path: MemberPath::parse(name).unwrap(),
            kind: MemberKind::File,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 3,
        };
        archive.append_member(&file, &b"abc"[..]).unwrap();
    }
    archive.finish().unwrap();
    let info = writer.commit(details()).unwrap();
    let reader = scratch.catalog.open(info.label).unwrap().unwrap();
    let odd = MemberPath::parse(b"base/\xff\xfe\"\\\n").unwrap();
    assert_eq!(reader.read_member(&odd, 3).unwrap(), b"abc");
    assert!(matches!(
        reader.read_member(&odd, 2),
        Err(BackupReadError::FileTooLarge {
            bytes: 3,
            limit: 2,
            ..
        })
    ));
}

#[test]
fn a_backup_that_nobody_could_restore_is_never_committed() {
    let scratch = Scratch::new();
    let data = TempDir::new().unwrap();
    write(data.path(), "backup_label", b"label\n");
    let tar = real_tar(data.path(), &[], None);

    let writer = scratch.begin(BackupOptions::default());
    assert!(matches!(
        writer.commit(details()),
        Err(BackupWriteError::Missing { .. })
    ));

    let mut writer = scratch.begin(BackupOptions::default());
    writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
    let error = writer.commit(details()).unwrap_err();
    assert!(matches!(
        error,
        BackupWriteError::Missing {
            path: "global/pg_control"
        }
    ));

    let mut writer = scratch.begin(BackupOptions::default());
    writer.add_tar(Archive::Base, tar.as_slice()).unwrap();
    let error = writer.add_tar(Archive::Base, tar.as_slice()).unwrap_err();
    assert!(matches!(error, BackupWriteError::Twice { .. }));
    drop(writer);

    // the same path twice in one archive
    write(data.path(), "global/pg_control", b"control");
    let tar = real_tar(data.path(), &[], None);
    let twice = [&tar[..members_end(&tar)], &tar].concat();
    let mut writer = scratch.begin(BackupOptions::default());
    writer.add_tar(Archive::Base, twice.as_slice()).unwrap();
    let error = writer.commit(details()).unwrap_err();
    assert!(
        matches!(error, BackupWriteError::Index(IndexError::Duplicate { .. })),
        "{error}"
    );
    assert_eq!(names(&scratch.backups()), [""; 0]);
}
