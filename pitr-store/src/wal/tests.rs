//! Promises of the log's archive, on captured segments and on made ones of 1 MiB.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Barrier};

use pitr_core::{TimelineId, WalFileNameError};

use super::*;
use crate::codec::{Codec, DecodeError, Encoding};
use crate::conformance::noise;
use crate::local::LocalStore;
use crate::made_wal::{SYSTEM_IDENTIFIER, made_cluster, made_segment};
use crate::repository::Repository;
use crate::store::ErrorClass;

const CODECS: [Codec; 3] = [
    Codec::Zstd { level: 1 },
    Codec::Xz { level: 1 },
    Codec::None,
];

fn name(text: &str) -> WalFileName {
    text.parse().unwrap()
}

/// A repository of a cluster with segments of 1 MiB.
fn archive() -> (tempfile::TempDir, WalArchive) {
    archive_of(made_cluster())
}

fn archive_of(cluster: ClusterIdentity) -> (tempfile::TempDir, WalArchive) {
    let dir = tempfile::tempdir().unwrap();
    let store: Arc<dyn Store> = Arc::new(LocalStore::new(dir.path().join("repo")));
    let repository = Repository::init(store).unwrap().into_repository();
    let wal = repository.claim(&cluster).unwrap().wal();
    (dir, wal)
}

fn segment(text: &str, seed: u64) -> Vec<u8> {
    made_segment(text, seed)
}

fn source(bytes: &[u8]) -> WalBytes<Vec<u8>> {
    WalBytes::new(bytes.to_vec(), "pg_wal/test")
}

fn push(wal: &WalArchive, text: &str, bytes: &[u8], codec: Codec) -> Result<Pushed, PushError> {
    wal.push(&name(text), &mut source(bytes), codec)
}

fn fetch(wal: &WalArchive, text: &str) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    wal.fetch_to(&name(text), &mut bytes)?;
    Ok(bytes)
}

/// Every file below the repository's `wal` folder with its content.
fn snapshot(dir: &tempfile::TempDir) -> Vec<(PathBuf, Vec<u8>)> {
    fn walk(folder: &Path, files: &mut Vec<(PathBuf, Vec<u8>)>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, files);
            } else {
                files.push((path.clone(), fs::read(path).unwrap()));
            }
        }
    }
    let mut files = Vec::new();
    walk(&dir.path().join("repo"), &mut files);
    files.sort();
    files
}

fn fixture(file: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("fixtures")
        .join(file);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(path).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    bytes
}

const SEGMENT: &str = "000000010000000000000004";

#[test]
fn a_captured_segment_comes_back_byte_for_byte_and_opens_with_stock_tools() {
    let bytes = fixture("v14.000000010000000000000004.gz");
    let identity = identify(&name(SEGMENT), &bytes, 16 << 20).unwrap();
    assert_eq!(identity.cluster.major.get(), 14);
    assert_eq!(identity.start.to_string(), "0/4000000");
    for codec in CODECS {
        let (_dir, wal) = archive_of(identity.cluster);
        let pushed = push(&wal, SEGMENT, &bytes, codec).unwrap();
        let Pushed::Stored { object, .. } = &pushed else {
            panic!("{pushed:?}")
        };
        assert_eq!(object.encoding, codec.encoding());
        let on_disk = fs::metadata(&object.location).unwrap().len();
        assert_eq!(object.stored_bytes, on_disk);
        assert_eq!(fetch(&wal, SEGMENT).unwrap(), bytes);
        let tool = match codec.encoding() {
            Encoding::Zstd => "zstd",
            Encoding::Xz => "xz",
            Encoding::Plain => continue,
        };
        match Command::new(tool).arg("-dc").arg(&object.location).output() {
            Ok(output) => assert!(output.status.success() && output.stdout == bytes, "{tool}"),
            Err(e) => println!("skipped: stock {tool} is not installed ({e})"),
        }
    }
}

#[test]
fn a_zstd_object_states_its_size_and_has_a_checksum() {
    let (_dir, wal) = archive();
    let pushed = push(&wal, SEGMENT, &segment(SEGMENT, 1), Codec::default()).unwrap();
    let stored = fs::read(&pushed.object().location).unwrap();
    assert_eq!(
        zstd::zstd_safe::get_frame_content_size(&stored).unwrap(),
        Some(1 << 20)
    );
    // Frame_Header_Descriptor: Content_Checksum_flag
    assert_eq!(stored[4] & 0x04, 0x04);
}

#[test]
fn the_same_bytes_again_are_success_whatever_codec_holds_them() {
    let bytes = segment(SEGMENT, 1);
    for first in CODECS {
        let (dir, wal) = archive();
        push(&wal, SEGMENT, &bytes, first).unwrap();
        let before = snapshot(&dir);
        for again in CODECS {
            let pushed = push(&wal, SEGMENT, &bytes, again).unwrap();
            assert!(matches!(&pushed, Pushed::AlreadyPresent(o) if o.encoding == first.encoding()));
        }
        assert_eq!(snapshot(&dir), before);
    }
}

#[test]
fn other_bytes_are_refused_and_both_origins_named() {
    let bytes = segment(SEGMENT, 1);
    for first in CODECS {
        for again in CODECS {
            let (dir, wal) = archive();
            push(&wal, SEGMENT, &bytes, first).unwrap();
            let before = snapshot(&dir);
            let mut other = bytes.clone();
            other[777_777] ^= 1;
            let error = push(&wal, SEGMENT, &other, again).unwrap_err();
            let PushError::Conflict {
                first_difference,
                lsn,
                stored,
                offered,
                ..
            } = &error
            else {
                panic!("{error}")
            };
            assert_eq!(*first_difference, Some(777_777));
            assert_eq!(lsn.unwrap().get(), 0x40_0000 + 777_777);
            assert_eq!(
                (stored.content_bytes, offered.content_bytes),
                (Some(1 << 20), Some(1 << 20))
            );
            let text = error.to_string();
            assert!(
                text.contains("pg_wal/test") && text.contains("/wal/00000001/"),
                "{text}"
            );
            assert_eq!(snapshot(&dir), before);
        }
    }
}

#[test]
fn text_files_are_stored_as_they_are_and_once() {
    let history = "1\t0/430028\tno recovery target specified\n";
    let backup = "START WAL LOCATION: 0/400028 (file 000000010000000000000004)\nLABEL: x\n";
    for (file, text, at) in [
        ("00000002.history", history, "wal/00000002.history"),
        (
            "000000010000000000000004.00000028.backup",
            backup,
            "wal/00000001/00000000/000000010000000000000004.00000028.backup",
        ),
    ] {
        let (dir, wal) = archive();
        push(&wal, file, text.as_bytes(), Codec::default()).unwrap();
        let path = dir.path().join(format!("repo/{SYSTEM_IDENTIFIER}/{at}"));
        assert_eq!(fs::read_to_string(path).unwrap(), text);
        assert_eq!(fetch(&wal, file).unwrap(), text.as_bytes());
        assert!(matches!(
            push(&wal, file, text.as_bytes(), Codec::None),
            Ok(Pushed::AlreadyPresent(_))
        ));
        for other in [
            format!("{text}\n"),
            text.replace('x', "y").replace("no ", "a "),
        ] {
            let error = push(&wal, file, other.as_bytes(), Codec::default()).unwrap_err();
            assert!(
                matches!(error, PushError::Conflict { lsn: None, .. }),
                "{error}"
            );
        }
        assert_eq!(fetch(&wal, file).unwrap(), text.as_bytes());
    }
}

#[test]
fn another_servers_partial_segment_is_refused_with_the_way_out() {
    let partial = format!("{SEGMENT}.partial");
    let (_dir, wal) = archive();
    push(&wal, &partial, &segment(SEGMENT, 1), Codec::default()).unwrap();
    let other = segment(SEGMENT, 2);
    let error = push(&wal, &partial, &other, Codec::default()).unwrap_err();
    let PushError::Conflict { stored, .. } = &error else {
        panic!("{error}")
    };
    let hint = error.hint().unwrap();
    assert!(hint.contains(&stored.location), "{hint}");
    // as it says
    fs::remove_file(&stored.location).unwrap();
    push(&wal, &partial, &other, Codec::default()).unwrap();
}

#[test]
fn a_partial_segment_is_no_substitute_for_the_whole_one() {
    let partial = fixture("000000010000000000000009.partial.gz");
    let partial_name = "000000010000000000000009.partial";
    let identity = identify(&name(partial_name), &partial, 16 << 20).unwrap();
    let (_dir, wal) = archive_of(identity.cluster);
    let pushed = push(&wal, partial_name, &partial, Codec::default()).unwrap();
    assert!(pushed.object().location.ends_with(".partial.zst"));
    assert_eq!(fetch(&wal, partial_name).unwrap(), partial);
    let whole = name("000000010000000000000009");
    assert_eq!(wal.locate(&whole).unwrap(), None);
    let error = wal.fetch_to(&whole, &mut Vec::new()).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Absent);
    assert_eq!(wal.ranges(TimelineId::FIRST).unwrap(), []);
}

#[test]
fn what_is_certainly_wrong_is_refused_and_changes_nothing() {
    let (dir, wal) = archive();
    let good = segment(SEGMENT, 1);
    let before = snapshot(&dir);
    let patched = |at: usize, bytes: &[u8]| {
        let mut patched = good.clone();
        patched[at..at + bytes.len()].copy_from_slice(bytes);
        patched
    };
    let text = b"#!/bin/sh\necho this is no WAL at all\n".repeat(100);
    type Expected = fn(&IdentifyError) -> bool;
    let cases: [(&str, &str, Vec<u8>, Expected); 14] = [
        ("empty", SEGMENT, vec![], |e| {
            matches!(e, IdentifyError::Empty { .. })
        }),
        ("three bytes", SEGMENT, good[..3].to_vec(), |e| {
            matches!(e, IdentifyError::NotWal { .. })
        }),
        ("cut off", SEGMENT, good[..900_000].to_vec(), |e| {
            matches!(
                e,
                IdentifyError::Length {
                    expected_bytes: 1_048_576,
                    found_bytes: 900_000,
                    ..
                }
            )
        }),
        ("too long", SEGMENT, [&good[..], b"x"].concat(), |e| {
            matches!(e, IdentifyError::Length { .. })
        }),
        ("text", SEGMENT, text, |e| {
            matches!(e, IdentifyError::NotWal { .. })
        }),
        ("zeros", SEGMENT, vec![0; 1 << 20], |e| {
            matches!(e, IdentifyError::NotWal { .. })
        }),
        ("garbage", SEGMENT, noise(1 << 20, 3), |e| {
            matches!(e, IdentifyError::NotWal { .. })
        }),
        ("not the first page", SEGMENT, patched(2, &[0]), |e| {
            matches!(e, IdentifyError::NotAtSegmentStart { .. })
        }),
        (
            "renamed",
            "000000010000000000000005",
            good.clone(),
            |e| matches!(e, IdentifyError::PageAddress { content, .. } if content.to_string() == SEGMENT),
        ),
        (
            "timeline above the name's",
            SEGMENT,
            patched(4, &[2]),
            |e| matches!(e, IdentifyError::TimelineAboveName { .. }),
        ),
        ("another cluster", SEGMENT, patched(24, &[9]), |e| {
            matches!(e, IdentifyError::OtherCluster { .. })
        }),
        (
            "another version",
            SEGMENT,
            patched(0, &0xD10D_u16.to_le_bytes()),
            |e| matches!(e, IdentifyError::OtherMajor { .. }),
        ),
        (
            "an impossible name",
            "000000010000000000001004",
            good.clone(),
            |e| {
                matches!(
                    e,
                    IdentifyError::Name(WalFileNameError::LowOutOfRange { .. })
                )
            },
        ),
        (
            "a segment size that does not exist",
            SEGMENT,
            patched(32, &[1]),
            |e| matches!(e, IdentifyError::NotWal { .. }),
        ),
    ];
    for (case, file, bytes, expected) in cases {
        for file in [file.to_owned(), format!("{file}.partial")] {
            match push(&wal, &file, &bytes, Codec::default()) {
                Err(PushError::Identify(error)) => assert!(expected(&error), "{case}: {error}"),
                other => panic!("{case}: {other:?}"),
            }
        }
    }
    for (file, text) in [
        ("00000002.history", &b"garbage"[..]),
        ("00000002.history", b""),
        ("00000001.history", b"1\t0/430028\tx\n"),
        ("000000010000000000000004.00000028.backup", b"START"),
        ("000000010000000000000004.00000028.backup", &good),
    ] {
        let error = push(&wal, file, text, Codec::default()).unwrap_err();
        assert!(matches!(error, PushError::TextFile(_)), "{file}: {error}");
    }
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn the_first_segment_of_a_timeline_may_begin_with_its_parents_pages() {
    let (_dir, wal) = archive();
    let file = "000000020000000000000004";
    let mut bytes = segment(file, 1);
    bytes[4] = 1;
    push(&wal, file, &bytes, Codec::default()).unwrap();
    assert_eq!(fetch(&wal, file).unwrap(), bytes);
}

#[test]
fn a_source_that_changes_while_it_is_read_is_not_stored() {
    for (codec, length) in CODECS
        .into_iter()
        .flat_map(|c| [(c, 500_000), (c, 0), (c, 1 << 21)])
    {
        let (dir, wal) = archive();
        let before = snapshot(&dir);
        let path = dir.path().join(SEGMENT);
        fs::write(&path, segment(SEGMENT, 1)).unwrap();
        let mut source = WalFile::open(&path).unwrap();
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(length)
            .unwrap();
        let error = wal.push(&name(SEGMENT), &mut source, codec).unwrap_err();
        assert!(
            matches!(
                error,
                PushError::SourceChanged { .. } | PushError::Identify(_)
            ),
            "{codec} {length}: {error}"
        );
        assert_eq!(snapshot(&dir), before);
    }
}

#[test]
fn no_damage_to_a_stored_segment_gives_other_bytes() {
    let bytes = segment(SEGMENT, 1);
    for codec in [Codec::default(), Codec::Xz { level: 1 }] {
        let (_dir, wal) = archive();
        let pushed = push(&wal, SEGMENT, &bytes, codec).unwrap();
        let path = Path::new(&pushed.object().location);
        let stored = fs::read(path).unwrap();
        let step = stored.len() / 150;
        for place in (0..stored.len()).filter(|p| *p < 24 || p + 24 > stored.len() || p % step == 0)
        {
            let mut damaged = stored.clone();
            damaged[place] ^= 0x10;
            fs::write(path, &damaged).unwrap();
            match fetch(&wal, SEGMENT) {
                Ok(back) => assert_eq!(back, bytes, "{codec}: byte {place}"),
                Err(error) => assert_eq!(error.class(), ErrorClass::Permanent, "{error}"),
            }
            fs::write(path, &stored[..place]).unwrap();
            let error = fetch(&wal, SEGMENT).unwrap_err();
            assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
        }
    }
}

/// Puts `bytes` beside what is stored as [`SEGMENT`], as a writer with another
/// codec can have left it where there are no locks.
fn put_beside(wal: &WalArchive, bytes: &[u8], codec: Codec) {
    let (_dir, elsewhere) = archive();
    let pushed = push(&elsewhere, SEGMENT, bytes, codec).unwrap();
    let object = pushed.object();
    let key = &object.key;
    let stored = fs::read(&object.location).unwrap();
    wal.store.put(key, &[], &stored).unwrap();
}

#[test]
fn of_two_copies_with_other_content_none_is_served() {
    let (one, mut other) = (segment(SEGMENT, 1), segment(SEGMENT, 1));
    other[654_321] ^= 1;
    for (first, second) in [(0, 1), (0, 2), (1, 2), (2, 0)] {
        let (_dir, wal) = archive();
        let ours = push(&wal, SEGMENT, &one, CODECS[first]).unwrap();
        put_beside(&wal, &other, CODECS[second]);
        let error = fetch(&wal, SEGMENT).unwrap_err();
        assert!(
            matches!(
                error,
                FetchError::Contradiction {
                    first_difference: Some(654_321),
                    ..
                }
            ),
            "{error}"
        );
        assert_eq!(error.class(), ErrorClass::Permanent);
        assert!(error.hint().is_some());
        let text = error.to_string();
        assert!(text.contains(&ours.object().location), "{text}");
        assert!(text.contains("0/49FBF1") && !text.contains('\n'), "{text}");
        // nor is either of them acknowledged any more
        for offered in [&one, &other] {
            let error = push(&wal, SEGMENT, offered, CODECS[first]).unwrap_err();
            assert!(matches!(error, PushError::Conflict { .. }), "{error}");
        }
        let (_dir, target) = archive();
        let error = target.copy_from(&wal, &name(SEGMENT)).unwrap_err();
        assert!(error.to_string().contains("stored twice"), "{error}");
        assert!(error.is_of_one_file());
    }
}

#[test]
fn two_copies_with_the_same_content_are_as_good_as_one() {
    let bytes = segment(SEGMENT, 1);
    let (_dir, wal) = archive();
    push(&wal, SEGMENT, &bytes, CODECS[0]).unwrap();
    put_beside(&wal, &bytes, CODECS[1]);
    put_beside(&wal, &bytes, CODECS[2]);
    assert_eq!(fetch(&wal, SEGMENT).unwrap(), bytes);
    let again = push(&wal, SEGMENT, &bytes, CODECS[1]).unwrap();
    assert!(matches!(again, Pushed::AlreadyPresent(_)));
    // one that cannot be read may have been another
    let xz = wal.locate_all(&name(SEGMENT)).unwrap().remove(1);
    let mut stored = fs::read(&xz.location).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    fs::write(&xz.location, stored).unwrap();
    let error = fetch(&wal, SEGMENT).unwrap_err();
    assert!(error.to_string().contains(&xz.location), "{error}");
    assert_eq!(error.class(), ErrorClass::Permanent);
    fs::remove_file(&xz.location).unwrap();
    let plain = wal.locate_all(&name(SEGMENT)).unwrap().remove(1);
    fs::write(&plain.location, &bytes[..900_000]).unwrap();
    let error = fetch(&wal, SEGMENT).unwrap_err();
    assert!(error.to_string().contains("one is longer"), "{error}");
}

#[test]
fn what_was_encoded_ahead_is_stored_as_any_other() {
    let bytes = fixture("v14.000000010000000000000004.gz");
    let cluster = identify(&name(SEGMENT), &bytes, 16 << 20).unwrap().cluster;
    for codec in CODECS {
        let ahead = EncodedAhead::of(&name(SEGMENT), &mut source(&bytes), codec).unwrap();
        let (_dir, wal) = archive_of(cluster);
        let pushed = wal.push_encoded(&name(SEGMENT), &mut source(&bytes), codec, Some(ahead));
        let Pushed::Stored { object, summary } = pushed.unwrap() else {
            panic!("{codec}: it was there");
        };
        assert_eq!(object.encoding, codec.encoding());
        assert_eq!(
            fs::metadata(&object.location).unwrap().len(),
            object.stored_bytes
        );
        assert_eq!(fetch(&wal, SEGMENT).unwrap(), bytes);
        let (_dir, usual) = archive_of(cluster);
        let Pushed::Stored {
            summary: expected, ..
        } = push(&usual, SEGMENT, &bytes, codec).unwrap()
        else {
            panic!("{codec}: it was there");
        };
        assert_eq!(summary, expected);
        if codec.encoding() == Encoding::Zstd {
            assert_eq!(
                wal.summary(&name(SEGMENT)).unwrap(),
                expected.map(|summary| *summary)
            );
            let stored = fs::read(&object.location).unwrap();
            // one frame, with its content's size and a checksum
            assert_eq!(stored[..4], [0x28, 0xb5, 0x2f, 0xfd]);
            assert_eq!(stored[4] & 0x04, 0x04);
            let size = zstd::zstd_safe::get_frame_content_size(&stored).unwrap();
            assert_eq!(size, Some(16 << 20));
        }
        let again = EncodedAhead::of(&name(SEGMENT), &mut source(&bytes), codec);
        let again = wal.push_encoded(&name(SEGMENT), &mut source(&bytes), codec, again);
        assert!(matches!(again, Ok(Pushed::AlreadyPresent(_))), "{again:?}");
        let mut other = bytes.clone();
        other[1_000_000] ^= 1;
        let ahead = EncodedAhead::of(&name(SEGMENT), &mut source(&bytes), codec);
        let refused = wal.push_encoded(&name(SEGMENT), &mut source(&other), codec, ahead);
        assert!(
            matches!(refused, Err(PushError::Conflict { .. })),
            "{refused:?}"
        );
    }
}

#[test]
fn what_is_not_sound_is_not_encoded_ahead() {
    let bytes = fixture("v14.000000010000000000000004.gz");
    let ahead = |bytes: &[u8], text: &str| {
        EncodedAhead::of(&name(text), &mut source(bytes), Codec::default()).is_some()
    };
    assert!(ahead(&bytes, SEGMENT));
    assert!(
        !ahead(&bytes, "000000010000000000000005"),
        "of another name"
    );
    assert!(!ahead(&bytes[..1 << 20], SEGMENT), "cut short");
    assert!(
        !ahead(b"1\t0/4000060\tx\n", "00000002.history"),
        "no segment"
    );
    let mut damaged = bytes.clone();
    damaged[100_000] ^= 1;
    assert!(!ahead(&damaged, SEGMENT), "damaged");
}

#[test]
fn an_uncompressed_segment_that_is_not_whole_is_not_served() {
    let bytes = segment(SEGMENT, 1);
    let (_dir, wal) = archive();
    let pushed = push(&wal, SEGMENT, &bytes, Codec::None).unwrap();
    let path = &pushed.object().location;
    for (damaged, case) in [
        (bytes[..999_999].to_vec(), "cut off"),
        (vec![], "empty"),
        ([&bytes[..], b"x"].concat(), "too long"),
        (segment("000000010000000000000005", 1), "renamed"),
        (vec![0; 1 << 20], "zeros"),
    ] {
        fs::write(path, damaged).unwrap();
        let error = fetch(&wal, SEGMENT).unwrap_err();
        assert_eq!(error.class(), ErrorClass::Permanent, "{case}: {error}");
    }
}

#[test]
fn a_segment_of_another_cluster_put_there_by_hand_is_not_served() {
    let (_dir, wal) = archive();
    let pushed = push(&wal, SEGMENT, &segment(SEGMENT, 1), Codec::default()).unwrap();
    let mut foreign = segment(SEGMENT, 1);
    foreign[24] ^= 1;
    let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&foreign).unwrap();
    fs::write(&pushed.object().location, encoder.finish().unwrap()).unwrap();
    assert!(matches!(
        fetch(&wal, SEGMENT),
        Err(FetchError::Foreign {
            source: IdentifyError::OtherCluster { .. },
            ..
        })
    ));
}

#[test]
fn nobody_is_told_to_delete_a_copy_for_which_memory_was_short() {
    let unreadable = |source| PushError::StoredUnreadable {
        name: name(SEGMENT),
        location: "/repo/object".to_owned(),
        source,
    };
    let encoding = Encoding::Zstd;
    let short = unreadable(DecodeError::Setup {
        encoding,
        source: std::io::ErrorKind::OutOfMemory.into(),
    });
    assert!(!short.hint().unwrap().contains("delete"));
    let cut = unreadable(DecodeError::Truncated { encoding });
    assert!(cut.hint().unwrap().contains("delete"));
}

#[test]
fn a_damaged_stored_copy_is_neither_a_conflict_nor_success() {
    let (dir, wal) = archive();
    let bytes = segment(SEGMENT, 1);
    let pushed = push(&wal, SEGMENT, &bytes, Codec::default()).unwrap();
    let path = &pushed.object().location;
    let mut stored = fs::read(path).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 0xFF;
    fs::write(path, stored).unwrap();
    let before = snapshot(&dir);
    let error = push(&wal, SEGMENT, &bytes, Codec::Xz { level: 0 }).unwrap_err();
    assert!(
        matches!(error, PushError::StoredUnreadable { .. }),
        "{error}"
    );
    assert!(error.hint().unwrap().contains(path.as_str()));
    assert_eq!(snapshot(&dir), before);
}

#[test]
fn archivers_of_the_same_bytes_all_succeed_and_leave_one_object() {
    for round in 0..8 {
        let (dir, wal) = archive();
        let bytes = segment(SEGMENT, round);
        let results = race(
            &wal,
            &[
                (&bytes, CODECS[0]),
                (&bytes, CODECS[1]),
                (&bytes, CODECS[2]),
                (&bytes, CODECS[0]),
            ],
        );
        let stored = results
            .iter()
            .filter(|r| matches!(r, Ok(Pushed::Stored { .. })))
            .count();
        assert_eq!(stored, 1, "{results:?}");
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        assert_eq!(objects_and_debris(&dir), 1);
        assert_eq!(fetch(&wal, SEGMENT).unwrap(), bytes);
    }
}

#[test]
fn of_archivers_of_other_bytes_exactly_one_succeeds() {
    for round in 0..8 {
        let (dir, wal) = archive();
        let contents: Vec<_> = (0..3).map(|n| segment(SEGMENT, round * 3 + n)).collect();
        let offers: Vec<_> = contents.iter().map(Vec::as_slice).zip(CODECS).collect();
        let results = race(&wal, &offers);
        let winners: Vec<_> = (0..3).filter(|n| results[*n].is_ok()).collect();
        assert_eq!(winners.len(), 1, "{results:?}");
        for error in results.iter().filter_map(|r| r.as_ref().err()) {
            assert!(matches!(error, PushError::Conflict { .. }), "{error}");
        }
        assert_eq!(objects_and_debris(&dir), 1);
        assert_eq!(fetch(&wal, SEGMENT).unwrap(), contents[winners[0]]);
    }
}

fn race(wal: &WalArchive, offers: &[(&[u8], Codec)]) -> Vec<Result<Pushed, PushError>> {
    let barrier = Barrier::new(offers.len());
    std::thread::scope(|scope| {
        let archivers: Vec<_> = offers
            .iter()
            .map(|(bytes, codec)| {
                let barrier = &barrier;
                scope.spawn(move || {
                    barrier.wait();
                    push(wal, SEGMENT, bytes, *codec)
                })
            })
            .collect();
        archivers.into_iter().map(|a| a.join().unwrap()).collect()
    })
}

/// Files below `wal`, temporary ones included.
fn objects_and_debris(dir: &tempfile::TempDir) -> usize {
    snapshot(dir)
        .iter()
        .filter(|(path, _)| path.components().any(|c| c.as_os_str() == "wal"))
        .count()
}

#[test]
fn ranges_and_gaps_follow_the_names() {
    let (_dir, wal) = archive();
    for file in [
        "000000010000000000000FFE",
        "000000010000000000000FFF",
        "000000010000000100000000",
        "000000010000000100000003",
        "000000010000000100000004.partial",
        "000000020000000100000003",
    ] {
        push(&wal, file, &segment(file, 1), Codec::default()).unwrap();
    }
    push(
        &wal,
        "00000003.history",
        b"2\t1/300028\tx\n",
        Codec::default(),
    )
    .unwrap();
    let size = wal.cluster().segment_size;

    let timelines: Vec<_> = wal.timelines().unwrap().iter().map(|t| t.get()).collect();
    assert_eq!(timelines, [1, 2, 3]);

    let ranges = wal.ranges(TimelineId::FIRST).unwrap();
    let shown: Vec<_> = ranges
        .iter()
        .map(|r| {
            format!(
                "{}..{} {} {}-{}",
                r.first, r.last, r.segments, r.begin, r.end
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "000000010000000000000FFE..000000010000000100000000 3 0/FFE00000-1/100000",
            "000000010000000100000003..000000010000000100000003 1 1/300000-1/400000",
        ]
    );
    let gaps = WalRange::gaps(&ranges, size);
    assert_eq!(gaps.len(), 1);
    assert_eq!(gaps[0].first.to_string(), "000000010000000100000001");
    assert_eq!(gaps[0].last.to_string(), "000000010000000100000002");
    assert_eq!(gaps[0].segments, 2);

    let content = wal.content(TimelineId::FIRST).unwrap();
    assert_eq!(content.files.len(), 5);
    assert_eq!(wal.ranges(TimelineId::new(3).unwrap()).unwrap(), []);
}

#[test]
fn foreign_names_among_the_segments_are_passed_over() {
    let (dir, wal) = archive();
    push(&wal, SEGMENT, &segment(SEGMENT, 1), Codec::default()).unwrap();
    let folder = dir
        .path()
        .join(format!("repo/{SYSTEM_IDENTIFIER}/wal/00000001/00000000"));
    for foreign in [
        "notes.txt",
        ".hidden",
        "000000010000000000000005.gz",
        "000000010000000100000005.zst",
        "000000020000000000000005.zst",
    ] {
        fs::write(folder.join(foreign), "x").unwrap();
    }
    fs::create_dir(folder.join("000000010000000000000006.zst")).unwrap();
    let ranges = wal.ranges(TimelineId::FIRST).unwrap();
    assert_eq!(ranges.len(), 1);
    assert_eq!(ranges[0].segments, 1);
    assert_eq!(wal.content(TimelineId::FIRST).unwrap().files.len(), 1);
}

#[test]
fn histories_are_read_and_checked() {
    let (dir, wal) = archive();
    let two = TimelineId::new(2).unwrap();
    assert_eq!(wal.history(two).unwrap(), None);
    assert_eq!(
        wal.history(TimelineId::FIRST)
            .unwrap()
            .unwrap()
            .entries()
            .len(),
        0
    );
    let text =
        fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/00000002.history")).unwrap();
    push(&wal, "00000002.history", &text, Codec::default()).unwrap();
    let history = wal.history(two).unwrap().unwrap();
    assert_eq!(history.entries()[0].switch_lsn.to_string(), "0/9031898");
    let path = dir
        .path()
        .join(format!("repo/{SYSTEM_IDENTIFIER}/wal/00000002.history"));
    fs::write(path, "torn").unwrap();
    assert!(matches!(
        wal.history(two),
        Err(FetchError::ForeignText { .. })
    ));
    assert!(
        wal.fetch_to(&name("00000002.history"), &mut Vec::new())
            .is_err()
    );
}

#[test]
fn something_else_in_a_segments_place_is_an_error_and_no_absence() {
    let (dir, wal) = archive();
    let folder = dir
        .path()
        .join(format!("repo/{SYSTEM_IDENTIFIER}/wal/00000001/00000000"));
    fs::create_dir_all(folder.join(format!("{SEGMENT}.zst"))).unwrap();
    let error = fetch(&wal, SEGMENT).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
    assert!(error.hint().is_some());
    let error = push(&wal, SEGMENT, &segment(SEGMENT, 1), Codec::default()).unwrap_err();
    assert!(
        matches!(error, PushError::Store(StoreError::WrongKind { .. })),
        "{error}"
    );
}

#[test]
fn a_repository_that_goes_away_makes_no_segment_absent() {
    let (dir, wal) = archive();
    push(&wal, SEGMENT, &segment(SEGMENT, 1), Codec::default()).unwrap();
    fs::rename(dir.path().join("repo"), dir.path().join("elsewhere")).unwrap();
    // The open root follows; a new process finds no repository at all.
    assert!(fetch(&wal, SEGMENT).is_ok());
    let store = LocalStore::new(dir.path().join("repo"));
    let wal = WalArchive {
        store: Arc::new(store),
        ..wal
    };
    let error = fetch(&wal, SEGMENT).unwrap_err();
    assert_eq!(error.class(), ErrorClass::Permanent, "{error}");
}

/// A disk that gives a wrong byte the first time that it is read.
struct WrongOnce {
    right: WalBytes<Vec<u8>>,
    readings: u32,
    read_bytes: usize,
}

impl WalSource for WrongOnce {
    fn origin(&self) -> String {
        self.right.origin()
    }

    fn content_bytes(&self) -> u64 {
        self.right.content_bytes()
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.right.read(buffer)?;
        let wrong = 700_000;
        if self.readings == 1 && (self.read_bytes..self.read_bytes + length).contains(&wrong) {
            buffer[wrong - self.read_bytes] ^= 1;
        }
        self.read_bytes += length;
        Ok(length)
    }

    fn rewind(&mut self) -> std::io::Result<()> {
        self.readings += 1;
        self.read_bytes = 0;
        self.right.rewind()
    }
}

#[test]
fn a_segment_that_seems_damaged_is_read_once_more_before_it_is_believed() {
    let (_dir, wal) = archive();
    let right = segment("000000010000000000000001", 7);
    let mut source = WrongOnce {
        right: source(&right),
        readings: 0,
        read_bytes: 0,
    };
    wal.push(
        &name("000000010000000000000001"),
        &mut source,
        Codec::Zstd { level: 1 },
    )
    .unwrap();
    assert_eq!(source.readings, 2);
    assert_eq!(fetch(&wal, "000000010000000000000001").unwrap(), right);
}

#[test]
fn every_changed_byte_of_an_object_is_noticed_and_never_changes_the_segment() {
    let (dir, wal) = archive();
    let right = segment("000000010000000000000001", 7);
    let file = name("000000010000000000000001");
    let pushed = push(
        &wal,
        "000000010000000000000001",
        &right,
        Codec::Zstd { level: 1 },
    )
    .unwrap();
    let path = dir.path().join("repo").join(pushed.object().key.as_str());
    let whole = fs::read(&path).unwrap();
    let summary = wal.summary(&file).unwrap().unwrap();
    let frame = super::summary::summary_to_frame(&summary).unwrap().len();
    let data = (0..whole.len() - frame).step_by(whole.len() / 40);
    for at in data.chain(whole.len() - frame..whole.len()) {
        let mut changed = whole.clone();
        changed[at] ^= 0x40;
        fs::write(&path, &changed).unwrap();
        let mut read = Vec::new();
        match wal.fetch_to(&file, &mut read) {
            Ok(fetched) => {
                assert!(read == right, "byte {at}");
                assert!(
                    fetched.summary_damage.is_some(),
                    "byte {at} was not noticed"
                );
            }
            Err(FetchError::Absent { .. }) => panic!("byte {at}: absence was not proven"),
            Err(_) => {}
        }
        if let Ok(Some(read)) = wal.summary(&file) {
            assert_eq!(read, summary, "byte {at}");
        }
    }
}
