//! Some members of a part, without the rest of it.

use super::*;

/// Files of 8000 bytes in frames of 4000, with a folder and a small file
/// between them.
fn written() -> (Scratch, BackupReader, PartName) {
    let scratch = Scratch::new();
    let mut writer = scratch.begin(small(1 << 20, 4000));
    let mut archive = writer.archive(Archive::Base).unwrap();
    let member = |name: &str, kind: MemberKind, size: u64| Member {
        path: path(name),
        kind,
        mode: 0o600,
        uid: 0,
        gid: 0,
        mtime: 0,
        size,
    };
    for number in 0..20 {
        let folder = member(&format!("base/{number}"), MemberKind::Directory, 0);
        archive.append_empty(&folder).unwrap();
        let file = member(&format!("base/{number}/1"), MemberKind::File, 8000);
        archive
            .append_member(&file, noise(8000, number + 1).as_slice())
            .unwrap();
    }
    for name in ["backup_label", "global/pg_control"] {
        let file = member(name, MemberKind::File, 3);
        archive.append_member(&file, &b"abc"[..]).unwrap();
    }
    archive.finish().unwrap();
    let info = writer.commit(details()).unwrap();
    let reader = scratch.catalog.open(info.label).unwrap().unwrap();
    let part = info.parts[0].name;
    (scratch, reader, part)
}

/// Names of all members, and the data of some.
type Picked = (Vec<String>, BTreeMap<String, Vec<u8>>);

/// Every member by name; the data of those in `wanted`.
fn pick(
    reader: &BackupReader,
    part: &PartName,
    wanted: &[&str],
) -> Result<Picked, BackupReadError> {
    let mut names = Vec::new();
    let mut found = BTreeMap::new();
    reader.pick(part, |member, data| -> Result<(), BackupReadError> {
        let name = member.path.to_string();
        names.push(name.clone());
        if wanted.contains(&name.as_str()) {
            let mut bytes = Vec::new();
            let read = data.read_to_end(&mut bytes);
            read.map_err(|error| BackupReadError::recover(error).unwrap())?;
            found.insert(name, bytes);
        }
        Ok(())
    })?;
    Ok((names, found))
}

#[test]
fn every_member_is_seen_and_the_wanted_ones_are_read() {
    let (_scratch, reader, part) = written();
    let mut all = Vec::new();
    reader
        .unpack(&part, |member, _| -> Result<(), BackupReadError> {
            all.push(member.path.to_string());
            Ok(())
        })
        .unwrap();
    let wanted = ["base/0/1", "base/7/1", "global/pg_control"];
    let (names, found) = pick(&reader, &part, &wanted).unwrap();
    assert_eq!(names, all);
    assert_eq!(found["base/0/1"], noise(8000, 1));
    assert_eq!(found["base/7/1"], noise(8000, 8));
    assert_eq!(found["global/pg_control"], b"abc");
    assert_eq!(found.len(), 3);
}

#[test]
fn what_is_not_wanted_is_not_read() {
    let (scratch, reader, part) = written();
    let object = scratch
        .backups()
        .join(reader.label().to_string())
        .join(part.to_string());
    // a frame that no header lies in: the second half of a file
    let damaged = (0..20)
        .find(|number| {
            let name = path(&format!("base/{number}/1"));
            let (_, entry) = reader.index().find(&name).unwrap();
            let first = entry.offset.div_ceil(4000);
            let inside = (first + 1) * 4000 <= entry.offset + entry.length;
            if inside {
                let bytes = fs::read(&object).unwrap();
                let table = SeekableReader::open(bytes.as_slice()).unwrap();
                let span = table.table().frame_at(first * 4000).unwrap();
                let mut bytes = bytes.clone();
                bytes[usize::try_from(span.compressed.start).unwrap() + 20] ^= 0xFF;
                fs::write(&object, bytes).unwrap();
            }
            inside
        })
        .unwrap();
    let damaged = format!("base/{damaged}/1");
    assert!(reader.verify_part(&part).is_err());
    pick(&reader, &part, &["base/19/1"]).unwrap();
    let error = pick(&reader, &part, &[damaged.as_str()]).unwrap_err();
    assert!(matches!(error, BackupReadError::Part { .. }), "{error}");
}
