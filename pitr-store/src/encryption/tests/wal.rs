//! The log of a cluster in an encrypted repository.

use pitr_core::WalFileName;
use pitr_core::crc32c;

use super::*;
use crate::codec::Codec;
use crate::made_wal::{made_cluster, made_segment};
use crate::wal::{EncodedAhead, FetchError, PushError, Pushed, WalArchive, WalBytes};

const SEGMENT: &str = "000000010000000000000004";
const HISTORY: &str = "00000002.history";
const CODECS: [Codec; 3] = [
    Codec::Zstd { level: 1 },
    Codec::Xz { level: 1 },
    Codec::None,
];

fn archive(repository: &Repository) -> WalArchive {
    repository.claim(&made_cluster()).unwrap().wal()
}

fn push(wal: &WalArchive, name: &str, bytes: &[u8], codec: Codec) -> Result<Pushed, PushError> {
    let mut source = WalBytes::new(bytes.to_vec(), "pg_wal/test");
    wal.push(&name.parse().unwrap(), &mut source, codec)
}

fn fetch(wal: &WalArchive, name: &str) -> Result<Vec<u8>, FetchError> {
    let mut bytes = Vec::new();
    wal.fetch_to(&name.parse().unwrap(), &mut bytes)?;
    Ok(bytes)
}

#[test]
fn an_offered_again_segment_is_recognised_without_the_private_key() {
    let bytes = made_segment(SEGMENT, 1);
    let mut other = bytes.clone();
    other[777_777] ^= 1;
    for first in CODECS {
        let scene = Scene::new();
        let wal = archive(&scene.locked());
        assert!(matches!(
            push(&wal, SEGMENT, &bytes, first),
            Ok(Pushed::Stored { .. })
        ));
        let stored = fs::read(wal.locate(&name(SEGMENT)).unwrap().unwrap().location).unwrap();
        for again in CODECS {
            let pushed = push(&wal, SEGMENT, &bytes, again).unwrap();
            assert!(matches!(pushed, Pushed::AlreadyPresent(_)), "{pushed:?}");
            let error = push(&wal, SEGMENT, &other, again).unwrap_err();
            assert!(matches!(error, PushError::Conflict { .. }), "{error}");
            let text = error.to_string();
            assert!(
                text.contains("their digests differ") && text.contains("(encrypted)"),
                "{text}"
            );
            // with the key the very byte is found
            let error = push(&archive(&scene.unlocked()), SEGMENT, &other, again).unwrap_err();
            assert!(error.to_string().contains("777777"), "{error}");
        }
        let again = fs::read(wal.locate(&name(SEGMENT)).unwrap().unwrap().location).unwrap();
        assert_eq!(again, stored);
        assert!(matches!(fetch(&wal, SEGMENT), Err(FetchError::Store(e)) if e.is_locked()));
        assert_eq!(fetch(&archive(&scene.unlocked()), SEGMENT).unwrap(), bytes);
    }
}

#[test]
fn what_was_encoded_ahead_is_recognised_without_the_private_key_too() {
    use std::io::Read as _;
    let fixture = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/fixtures/v14.000000010000000000000004.gz"
    );
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(fs::File::open(fixture).unwrap())
        .read_to_end(&mut bytes)
        .unwrap();
    let source = |bytes: &[u8]| WalBytes::new(bytes.to_vec(), "pg_wal/test");
    let identity = crate::wal::identify(&name(SEGMENT), &bytes, 16 << 20).unwrap();
    let scene = Scene::new();
    let of = |repository: Repository| repository.claim(&identity.cluster).unwrap().wal();
    let wal = of(scene.locked());
    let ahead = EncodedAhead::of(&name(SEGMENT), &mut source(&bytes), CODECS[0]).unwrap();
    // read again for its digest, it is not what was encoded: then it is encoded anew
    let mut other = bytes.clone();
    other[16_000_000] ^= 1;
    let pushed = wal.push_encoded(&name(SEGMENT), &mut source(&other), CODECS[0], Some(ahead));
    assert!(matches!(pushed, Ok(Pushed::Stored { .. })), "{pushed:?}");
    assert!(fetch(&of(scene.unlocked()), SEGMENT).unwrap() == other);

    let scene = Scene::new();
    let of = |repository: Repository| repository.claim(&identity.cluster).unwrap().wal();
    let wal = of(scene.locked());
    let ahead = EncodedAhead::of(&name(SEGMENT), &mut source(&bytes), CODECS[0]);
    assert!(ahead.is_some());
    let pushed = wal.push_encoded(&name(SEGMENT), &mut source(&bytes), CODECS[0], ahead);
    assert!(matches!(pushed, Ok(Pushed::Stored { .. })), "{pushed:?}");
    let again = wal.push(&name(SEGMENT), &mut source(&bytes), CODECS[0]);
    assert!(matches!(again, Ok(Pushed::AlreadyPresent(_))), "{again:?}");
    assert!(fetch(&of(scene.unlocked()), SEGMENT).unwrap() == bytes);
}

#[test]
fn histories_are_recognised_and_read_in_the_same_way() {
    let scene = Scene::new();
    let wal = archive(&scene.locked());
    let text = b"1\t0/4000060\tno recovery target specified\n";
    assert!(matches!(
        push(&wal, HISTORY, text, Codec::None),
        Ok(Pushed::Stored { .. })
    ));
    assert!(matches!(
        push(&wal, HISTORY, text, Codec::None),
        Ok(Pushed::AlreadyPresent(_))
    ));
    let other = b"1\t0/5000060\tno recovery target specified\n";
    assert!(matches!(
        push(&wal, HISTORY, other, Codec::None),
        Err(PushError::Conflict { .. })
    ));
    let timeline = pitr_core::TimelineId::new(2).unwrap();
    assert!(matches!(wal.history(timeline), Err(FetchError::Store(e)) if e.is_locked()));
    assert!(
        archive(&scene.unlocked())
            .history(timeline)
            .unwrap()
            .is_some()
    );
}

#[test]
fn a_summary_is_read_by_ranges_and_damage_is_told_with_its_place() {
    let scene = Scene::new();
    let bytes = made_segment(SEGMENT, 1);
    push(&archive(&scene.locked()), SEGMENT, &bytes, CODECS[0]).unwrap();
    let wal = archive(&scene.unlocked());
    let summary = wal.summary(&name(SEGMENT)).unwrap().unwrap();
    assert_eq!(summary.segment, name(SEGMENT));
    assert_eq!(summary.crc32c, crc32c::crc32c(&bytes));
    let object = wal.locate(&name(SEGMENT)).unwrap().unwrap();
    let mut stored = fs::read(&object.location).unwrap();
    stored[100_000] ^= 1;
    fs::write(&object.location, &stored).unwrap();
    let error = fetch(&wal, SEGMENT).unwrap_err();
    assert!(error.to_string().contains("chunk 1 was changed"), "{error}");
    assert_eq!(error.class(), crate::ErrorClass::Permanent);
}

#[test]
fn nothing_of_a_segment_and_no_codec_s_magic_lies_in_the_store() {
    let scene = Scene::new();
    let bytes = made_segment(SEGMENT, 1);
    let wal = archive(&scene.locked());
    push(&wal, SEGMENT, &bytes, Codec::None).unwrap();
    let next = "000000010000000000000005";
    push(&wal, next, &made_segment(next, 1), CODECS[0]).unwrap();
    let plain = fs::read(wal.locate(&name(SEGMENT)).unwrap().unwrap().location).unwrap();
    for at in [0, 40, 4096, 300_000, 900_000] {
        let needle = &bytes[at..at + 32];
        assert!(
            !plain.windows(32).any(|window| window == needle),
            "byte {at}"
        );
    }
    let packed = fs::read(wal.locate(&name(next)).unwrap().unwrap().location).unwrap();
    assert_eq!(&packed[..7], b"pitrenc");
    // the summary at the end begins with this
    assert!(!packed.windows(9).any(|window| window == b"{\"format\""));
}

fn name(text: &str) -> WalFileName {
    text.parse().unwrap()
}
