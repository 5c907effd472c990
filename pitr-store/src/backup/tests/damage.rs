//! Damaged, truncated, missing and hostile parts: a clear error, never other data.

use std::io::Write;

use proptest::prelude::*;
use serde_json::Value;

use super::*;

/// Reads everything of a backup in every way there is.
fn read_everything(
    reader: &BackupReader,
    files: &BTreeMap<String, Vec<u8>>,
) -> Result<(), BackupReadError> {
    for part in &reader.info().parts {
        reader.unpack::<BackupReadError>(&part.name, |member, data| {
            let mut bytes = Vec::new();
            let name = part.name.archive().manifest_path(&member.path).to_string();
            match data.read_to_end(&mut bytes) {
                // whatever is given out as good is good
                Ok(_) if member.kind == MemberKind::File => assert_eq!(bytes, files[&name]),
                Ok(_) => {}
                Err(error) => return Err(BackupReadError::recover(error).unwrap()),
            }
            Ok(())
        })?;
    }
    for (name, contents) in files {
        assert_eq!(&reader.read_member(&path(name), 10 << 20)?, contents);
    }
    Ok(())
}

fn overwrite(path: &Path, bytes: &[u8]) {
    fs::remove_file(path).unwrap();
    fs::write(path, bytes).unwrap();
}

#[test]
fn a_damaged_part_is_named_and_never_read_as_data() {
    let sample = Sample::new(small(2_000_000, 100_000));
    let (reader, files) = (sample.reader(), sample.files());
    read_everything(&reader, &files).unwrap();
    for part in &sample.info.parts {
        let path = sample.folder().join(part.name.to_string());
        let good = fs::read(&path).unwrap();
        let mut unnoticed = 0;
        for step in 0..40 {
            let mut bytes = good.clone();
            let at = step * good.len() / 40;
            bytes[at] ^= 0x41;
            overwrite(&path, &bytes);
            match read_everything(&reader, &files) {
                Err(error @ BackupReadError::Part { .. }) => {
                    assert!(
                        error.to_string().contains(path.to_str().unwrap()),
                        "{error}"
                    );
                    assert!(error.hint().is_some());
                }
                Err(error) => panic!("byte {at}: {error}"),
                // a bit that zstd does not look at
                Ok(()) => unnoticed += 1,
            }
        }
        assert!(unnoticed <= 1, "{unnoticed} of 40 changes went unnoticed");
        overwrite(&path, &good);
    }
}

#[test]
fn a_truncated_lengthened_or_missing_part_is_named() {
    let sample = Sample::new(small(2_000_000, 100_000));
    let (reader, files) = (sample.reader(), sample.files());
    let part = sample.info.parts.last().unwrap().name;
    let path = sample.folder().join(part.to_string());
    let good = fs::read(&path).unwrap();
    let check = |expected: fn(&PartDamage) -> bool| {
        let error = read_everything(&reader, &files).unwrap_err();
        let BackupReadError::Part {
            part: named,
            damage,
            ..
        } = &error
        else {
            panic!("{error}");
        };
        assert_eq!(*named, part);
        assert!(expected(damage), "{damage}");
        let error = reader.verify_part(&part).unwrap_err();
        assert!(matches!(error, BackupReadError::Part { .. }), "{error}");
    };
    for length in [0, 1, good.len() / 2, good.len() - 1] {
        overwrite(&path, &good[..length]);
        check(|damage| matches!(damage, PartDamage::StoredSize { .. }));
    }
    overwrite(&path, &[&good[..], b"x"].concat());
    check(|damage| matches!(damage, PartDamage::StoredSize { .. }));
    fs::remove_file(&path).unwrap();
    check(|damage| matches!(damage, PartDamage::Missing));
    let error = reader
        .open_member(&super::path("global/pg_control"))
        .unwrap_err();
    assert!(matches!(
        error,
        BackupReadError::Part {
            damage: PartDamage::Missing,
            ..
        }
    ));
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        read_everything(&reader, &files),
        Err(BackupReadError::Store(_))
    ));
}

#[test]
fn a_part_cut_while_it_is_read_is_noticed_at_its_end() {
    // the size was right when it was opened
    let sample = Sample::new(small(2_000_000, 100_000));
    let reader = sample.reader();
    let part = sample.info.parts.last().unwrap();
    let path = sample.folder().join(part.name.to_string());
    let object = fs::read(&path).unwrap();
    let table = SeekableReader::open(object.as_slice())
        .unwrap()
        .table()
        .clone();
    let last_frame = table.frame_at(table.raw_bytes() - 1).unwrap().compressed;
    for end in [last_frame.start, last_frame.end, last_frame.end + 5] {
        overwrite(&path, &object);
        let mut open = reader.open_part(&part.name).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(end)
            .unwrap();
        let mut bytes = Vec::new();
        let error = open.read_to_end(&mut bytes).unwrap_err();
        let error = BackupReadError::recover(error).unwrap();
        assert!(matches!(error, BackupReadError::Part { .. }), "{error}");
    }
}

#[test]
fn a_manifest_that_changed_is_refused() {
    let sample = Sample::new(small(2_000_000, 100_000));
    let reader = sample.reader();
    let path = sample.folder().join("backup_manifest");
    let good = fs::read(&path).unwrap();
    let mut changed = good.clone();
    changed[5] ^= 1;
    for (bytes, expected) in [(&good[1..], "bytes"), (&changed[..], "CRC-32C")] {
        overwrite(&path, bytes);
        let error = reader.manifest().unwrap_err().to_string();
        assert!(
            error.contains(expected) && error.contains("backup_manifest"),
            "{error}"
        );
    }
    fs::remove_file(&path).unwrap();
    assert!(
        reader
            .manifest()
            .unwrap_err()
            .to_string()
            .contains("missing")
    );
}

/// Changes the document of `sample`, and opens the backup again.
fn with_document(
    sample: &Sample,
    change: impl FnOnce(&mut Value),
) -> Result<BackupReader, BackupReadError> {
    let document = sample.folder().join("backup.json");
    let good = fs::read(&document).unwrap();
    let mut value: Value = serde_json::from_slice(&good).unwrap();
    change(&mut value);
    overwrite(&document, &serde_json::to_vec(&value).unwrap());
    let opened = sample.scratch.catalog.open(sample.info.label);
    overwrite(&document, &good);
    opened.map(Option::unwrap)
}

#[test]
fn an_index_that_lies_is_found_out() {
    let sample = Sample::new(small(2_000_000, 100_000));
    let files = sample.files();
    let entry = "/index/base-00001.tar.zst/2";
    let changed = |at: &str, to: Value| {
        let at = at.to_owned();
        with_document(&sample, move |document| {
            *document.pointer_mut(&at).unwrap() = to
        })
    };
    // what contradicts itself is not even opened
    let offset = sample.reader().index().parts()[1].files[2].offset;
    for (field, value) in [
        ("0", Value::from("../../etc/passwd")),
        ("0", Value::from("/etc/passwd")),
        ("0", Value::from("base//1")),
        ("0", Value::from("backup_label")),
        ("1", Value::from(0)),
        ("1", Value::from(offset + 1)),
        ("1", Value::from(offset + 512)),
        ("1", Value::from(u64::MAX - 511)),
        ("2", Value::from(u64::MAX)),
        ("3", Value::from("e306928")),
        ("3", Value::from("+3069283")),
    ] {
        let error = changed(&format!("{entry}/{field}"), value).unwrap_err();
        assert!(matches!(error, BackupReadError::Document { .. }), "{error}");
    }
    for (at, value) in [
        ("/parts/0/files", Value::from(1)),
        ("/parts/0/name", Value::from("../x")),
        ("/parts/0/name", Value::from("base-00009.tar.zst")),
        ("/parts/0/tablespace", Value::from(1)),
        ("/parts/0/raw_bytes", Value::from(u64::MAX)),
        ("/sizes/files", Value::from(1)),
        ("/stop_lsn", Value::from("0/0")),
        ("/label", Value::from("20261120T074503Z")),
        ("/system_identifier", Value::from(7)),
    ] {
        let error = changed(at, value).unwrap_err();
        assert!(
            matches!(error, BackupReadError::Document { .. }),
            "{at}: {error}"
        );
    }
    // what only the archive can tell
    for (field, value) in [
        ("0", Value::from("base/2/renamed")),
        // the header of the directory before it
        ("1", Value::from(offset - 512)),
        ("3", Value::from("00000000")),
    ] {
        let reader = changed(&format!("{entry}/{field}"), value).unwrap();
        let error = reader
            .verify_part(&"base-00001.tar.zst".parse().unwrap())
            .unwrap_err();
        assert!(matches!(error, BackupReadError::Part { .. }), "{error}");
    }
    let reader = changed(&format!("{entry}/3"), Value::from("00000000")).unwrap();
    let name = reader.index().parts()[1].files[2].path.clone();
    let error = reader.read_member(&name, 1 << 20).unwrap_err();
    assert!(matches!(
        error,
        BackupReadError::Part {
            damage: PartDamage::Checksum { expected: 0, .. },
            ..
        }
    ));
    read_everything(&sample.reader(), &files).unwrap();
}

/// Puts `tar` in the place of the first base part, sizes in the document made
/// to agree, and reads it.
fn read_forged(sample: &Sample, tar: &[u8], files: Vec<Value>) -> BackupReadError {
    let pool = Arc::new(FramePool::new(std::num::NonZeroUsize::MIN, 1).unwrap());
    let mut object = SeekableWriter::new(Vec::new(), pool);
    object.write_all(tar).unwrap();
    let (object, totals) = object.finish().unwrap();
    let path = sample.folder().join("base-00001.tar.zst");
    let good = fs::read(&path).unwrap();
    overwrite(&path, &object);
    let reader = with_document(sample, |document| {
        let part = &mut document["parts"][1];
        part["raw_bytes"] = totals.raw_bytes.into();
        part["stored_bytes"] = totals.stored_bytes.into();
        part["files"] = files.len().into();
        document["index"]["base-00001.tar.zst"] = Value::Array(files);
        for field in ["raw_bytes", "stored_bytes", "files"] {
            let parts = document["parts"].as_array().unwrap();
            let sum: u64 = parts.iter().map(|part| part[field].as_u64().unwrap()).sum();
            document["sizes"][field] = sum.into();
        }
    });
    let error = reader
        .unwrap()
        .verify_part(&"base-00001.tar.zst".parse().unwrap())
        .unwrap_err();
    overwrite(&path, &good);
    error
}

/// One header of any kind, with its checksum right.
fn header(name: &str, kind: tar::EntryType, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(0o600);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header.as_old_mut().linkname[..4].copy_from_slice(b"/etc");
    header.set_cksum();
    header
}

#[test]
fn no_member_of_a_forged_part_leads_out_of_its_folder() {
    use tar::EntryType as Kind;
    let sample = Sample::new(small(2_000_000, 100_000));
    let forge = |headers: &[tar::Header]| {
        let mut tar: Vec<u8> = headers
            .iter()
            .flat_map(|header| *header.as_bytes())
            .collect();
        tar.resize(tar.len() + 1024, 0);
        tar
    };
    let through_a_link = [
        header("pg_tblspc/16384", Kind::Symlink, 0),
        header("pg_tblspc/16384/passwd", Kind::Regular, 0),
    ];
    for headers in [
        &[header("../evil", Kind::Regular, 0)][..],
        &[header("/etc/evil", Kind::Regular, 0)],
        &[header("base/../../evil", Kind::Directory, 0)],
        &[header("base", Kind::Symlink, 0)],
        &[header("evil", Kind::Link, 0)],
        &[header("evil", Kind::Char, 0)],
        &[header("evil", Kind::Fifo, 0)],
        &[header("evil", Kind::GNUSparse, 0)],
        &[header("evil", Kind::Directory, 5000)],
        &[header(".", Kind::Regular, 0)],
        &[header("long", Kind::GNULongName, u64::MAX)],
        &[header("long", Kind::GNULongName, 1 << 30)],
        &[header("long", Kind::XHeader, 1 << 30)],
        &through_a_link,
    ] {
        let name = String::from_utf8_lossy(&headers[0].path_bytes()).into_owned();
        // PostgreSQL cannot slip it in either
        let scratch = Scratch::new();
        let mut writer = scratch.begin(small(10_000, 1000));
        let error = writer
            .add_tar(Archive::Base, forge(headers).as_slice())
            .unwrap_err();
        assert!(
            matches!(
                error,
                BackupWriteError::Tar { .. } | BackupWriteError::Member(_)
            ),
            "{name}: {error}"
        );
        let error = read_forged(&sample, &forge(headers), Vec::new());
        assert!(
            matches!(
                error,
                BackupReadError::Part {
                    damage: PartDamage::Tar(_),
                    ..
                }
            ),
            "{name}: {error}"
        );
    }
    // a link in one part, a file below it in another
    let entry = serde_json::json!(["pg_tblspc/16384/passwd", 1024, 0, "00000000"]);
    let parts = [
        header("pg_tblspc/16384", Kind::Symlink, 0),
        header("other", Kind::Regular, 0),
    ];
    let error = read_forged(&sample, &forge(&parts), vec![entry]);
    assert!(error.to_string().contains("symbolic link"), "{error}");
}

#[test]
fn a_part_that_swells_beyond_its_size_is_stopped() {
    let sample = Sample::new(small(2_000_000, 100_000));
    let part = sample.info.parts[1].clone();
    // 1 GiB of zeros in some ten thousand bytes
    let bomb = {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        for _ in 0..64 {
            encoder.write_all(&[0; 16 << 20]).unwrap();
        }
        encoder.finish().unwrap()
    };
    overwrite(&sample.folder().join(part.name.to_string()), &bomb);
    let reader = with_document(&sample, |document| {
        document["parts"][1]["stored_bytes"] = bomb.len().into();
        let stored = sample.info.sizes.stored_bytes - part.stored_bytes + bomb.len() as u64;
        document["sizes"]["stored_bytes"] = stored.into();
    })
    .unwrap();
    let mut bytes = 0;
    let mut data = reader.open_part(&part.name).unwrap();
    let error = loop {
        match data.read(&mut [0; 64 << 10]) {
            Ok(read) => bytes += read as u64,
            Err(error) => break BackupReadError::recover(error).unwrap(),
        }
    };
    assert!(
        matches!(
            error,
            BackupReadError::Part {
                damage: PartDamage::RawSize { .. },
                ..
            }
        ),
        "{error}"
    );
    assert!(bytes <= part.raw_bytes);
}

#[test]
fn an_error_of_the_visitor_comes_back_as_it_is() {
    #[derive(Debug)]
    enum Mine {
        Full,
        Backup,
    }
    impl From<BackupReadError> for Mine {
        fn from(_: BackupReadError) -> Self {
            Self::Backup
        }
    }
    let sample = Sample::new(small(2_000_000, 100_000));
    let reader = sample.reader();
    let mut seen = 0;
    let result = reader.unpack(&sample.info.parts[0].name, |_, _| {
        seen += 1;
        if seen == 3 { Err(Mine::Full) } else { Ok(()) }
    });
    assert!(matches!(result, Err(Mine::Full)));
    fs::remove_file(sample.folder().join(sample.info.parts[0].name.to_string())).unwrap();
    let result = reader.unpack(&sample.info.parts[0].name, |_, _| Err(Mine::Full));
    assert!(matches!(result, Err(Mine::Backup)));
    let unknown: PartName = "base-09999.tar.zst".parse().unwrap();
    assert!(matches!(
        reader.open_part(&unknown),
        Err(BackupReadError::NoSuchPart { .. })
    ));
    let error = reader.open_member(&path("not/there")).unwrap_err();
    assert!(matches!(error, BackupReadError::NoSuchFile { .. }));
}

fn walk(tar: &[u8], end_blocks: EndBlocks) {
    let mut reader = TarReader::new(tar, Archive::Base, end_blocks);
    let mut bytes = 0;
    while let Ok(Some(_)) = reader.next_member() {
        bytes += std::io::copy(&mut reader.data(), &mut std::io::sink()).unwrap_or(0);
    }
    assert!(bytes <= tar.len() as u64);
}

#[test]
fn a_member_larger_than_any_archive_is_a_truncated_one() {
    for size in [u64::MAX, u64::MAX - 511, 1 << 63] {
        let mut tar = header("a", tar::EntryType::Regular, size)
            .as_bytes()
            .to_vec();
        tar.extend_from_slice(&[7; 700]);
        let mut reader = TarReader::new(tar.as_slice(), Archive::Base, EndBlocks::Optional);
        assert_eq!(reader.next_member().unwrap().unwrap().size, size);
        let error = reader.next_member().unwrap_err();
        assert!(
            matches!(error, TarError::TruncatedMember { found: 700, .. }),
            "{error}"
        );
    }
}

proptest! {
    #[test]
    fn no_bytes_make_the_tar_reader_panic(bytes in proptest::collection::vec(any::<u8>(), 0..3000)) {
        walk(&bytes, EndBlocks::Optional);
        walk(&bytes, EndBlocks::Required);
    }

    #[test]
    fn no_change_to_a_tar_makes_its_reader_panic(
        changes in proptest::collection::vec((0usize..4096, any::<u8>()), 1..6), fix in any::<bool>(),
    ) {
        let mut tar: Vec<u8> = [
            header("././@LongLink", tar::EntryType::GNULongName, 20),
            header("a", tar::EntryType::Regular, 1000),
            header("b", tar::EntryType::XHeader, 30),
        ]
        .iter()
        .flat_map(|header| [&header.as_bytes()[..], &[b'x'; 1024]].concat())
        .collect();
        tar.resize(8192, 0);
        for (at, byte) in changes {
            tar[at] = byte;
        }
        if fix {
            // checksums right again, so that the fields are looked at
            for block in tar.chunks_exact_mut(512) {
                let mut header = tar::Header::new_old();
                header.as_mut_bytes().copy_from_slice(block);
                header.set_cksum();
                block.copy_from_slice(header.as_bytes());
            }
        }
        walk(&tar, EndBlocks::Optional);
    }

    #[test]
    fn no_change_to_a_document_makes_its_reader_panic(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
    ) {
        static DOCUMENT: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut bytes = DOCUMENT
            .get_or_init(|| {
                let sample = Sample::new(small(2_000_000, 100_000));
                fs::read(sample.folder().join("backup.json")).unwrap()
            })
            .clone();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let _ = super::super::document::parse(&bytes, "20261120T074502Z".parse().unwrap());
    }
}
