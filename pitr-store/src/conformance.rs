//! The test suite that every store passes. Not part of the public interface:
//! test support for the stores of this crate.
//!
//! Each check takes a store that is established and empty below the folder it
//! is given, and panics with the broken promise. Where [`Store::promises`] says
//! that the medium cannot keep one, the check holds the store to what it keeps
//! instead.

#![allow(
    clippy::unwrap_used,
    reason = "test support: a panic is how a check reports"
)]

use std::io::{Read, Write};
use std::sync::{Arc, Barrier};
use std::thread;

use crate::{EntryKind, ObjectKey, Shown, Store, StoreError};

type Check = (&'static str, fn(&Arc<dyn Store>, &ObjectKey));

/// Every check with its name, the promise it proves.
pub const CHECKS: &[Check] = &[
    ("an object reads back as written", reads_back),
    ("nothing shows before publish", nothing_shows_before_publish),
    ("a dropped writer leaves nothing", dropped_writer),
    ("an object is never overwritten", never_overwritten),
    ("a rival's key refuses the object", rivals_refuse),
    ("objects are published together", published_together),
    ("a trace tells an object from its successor", tracing),
    ("absence is told, not failed", absence),
    ("a listing has one level, sorted", listing),
    ("ranges are exact", ranges),
    ("what is deleted is gone", deleting),
    ("of equal keys one writer wins", racing_same_key),
    ("of rival keys one writer wins", racing_rivals),
    ("a key is held once", holding),
    ("small objects are bounded", bounded),
    ("a folder is no object", folder_is_no_object),
];

/// Runs all checks, each in a folder of its own below `folder`.
pub fn run(store: &Arc<dyn Store>, folder: &ObjectKey) {
    for (number, (name, check)) in CHECKS.iter().enumerate() {
        let place = folder.join(&format!("check-{number}")).unwrap();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            check(store, &place);
        }));
        if let Err(panic) = result {
            let text = panic
                .downcast_ref::<String>()
                .cloned()
                .or_else(|| panic.downcast_ref::<&str>().map(|s| (*s).to_owned()))
                .unwrap_or_default();
            panic!("{}: \"{name}\" does not hold: {text}", store.location());
        }
    }
}

/// Pseudo-random bytes that do not compress.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2).wrapping_add(1);
    (0..length)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state.to_le_bytes()[3]
        })
        .collect()
}

fn read(store: &Arc<dyn Store>, key: &ObjectKey) -> Vec<u8> {
    let mut bytes = Vec::new();
    store.open(key).unwrap().read_to_end(&mut bytes).unwrap();
    bytes
}

fn reads_back(store: &Arc<dyn Store>, place: &ObjectKey) {
    for (name, length) in [("empty", 0), ("one", 1), ("large", 3_000_001)] {
        let key = place.join("a").unwrap().join(name).unwrap();
        let bytes = noise(length, 1);
        let mut writer = store.create(&key, &[]).unwrap();
        for chunk in bytes.chunks(70_001) {
            writer.write_all(chunk).unwrap();
        }
        writer.publish().unwrap();
        assert_eq!(read(store, &key), bytes);
        let size = store.stat(&key).unwrap().unwrap().size;
        assert_eq!(size, u64::try_from(length).unwrap());
        store.make_durable(&key).unwrap();
    }
}

fn nothing_shows_before_publish(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("late").unwrap();
    let mut writer = store.create(&key, &[]).unwrap();
    writer.write_all(&noise(100_000, 2)).unwrap();
    writer.flush().unwrap();
    assert_eq!(store.stat(&key).unwrap(), None);
    assert!(store.open(&key).err().unwrap().is_absence());
    assert_eq!(store.list(Some(place)).unwrap(), []);
    writer.publish().unwrap();
    assert!(store.stat(&key).unwrap().is_some());
}

fn dropped_writer(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("never").unwrap();
    let mut writer = store.create(&key, &[]).unwrap();
    writer.write_all(b"half").unwrap();
    drop(writer);
    assert_eq!(store.stat(&key).unwrap(), None);
    assert_eq!(store.list(Some(place)).unwrap(), []);
    store.put(&key, &[], b"whole").unwrap();
    assert_eq!(read(store, &key), b"whole");
}

fn never_overwritten(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("once").unwrap();
    store.put(&key, &[], b"first").unwrap();
    for bytes in [&b"first"[..], b"second", b""] {
        match store.put(&key, &[], bytes) {
            Err(StoreError::AlreadyExists { key: taken, .. }) => assert_eq!(taken, key),
            other => panic!("a second put gave {other:?}"),
        }
    }
    assert_eq!(read(store, &key), b"first");
    assert_eq!(store.list(Some(place)).unwrap().len(), 1);
}

fn rivals_refuse(store: &Arc<dyn Store>, place: &ObjectKey) {
    let plain = place.join("name").unwrap();
    let packed = place.join("name.zst").unwrap();
    store
        .put(&plain, std::slice::from_ref(&packed), b"plain")
        .unwrap();
    match store.put(&packed, std::slice::from_ref(&plain), b"packed") {
        Err(StoreError::AlreadyExists { key, .. }) => assert_eq!(key, plain),
        other => panic!("a rival's put gave {other:?}"),
    }
    assert_eq!(store.stat(&packed).unwrap(), None);
}

fn published_together(store: &Arc<dyn Store>, folder: &ObjectKey) {
    let keys: Vec<ObjectKey> = ["a", "b", "c"]
        .iter()
        .map(|name| folder.join(name).unwrap())
        .collect();
    let mut writers = Vec::new();
    for (number, key) in (0..).zip(&keys) {
        let mut writer = store.create(key, &[]).unwrap();
        writer.write_all(&noise(70_000, number)).unwrap();
        writer.sync().unwrap();
        writers.push(writer);
    }
    assert_eq!(store.list(Some(folder)).unwrap(), []);
    let shown: Vec<Shown> = writers
        .into_iter()
        .map(|writer| writer.publish_beside().unwrap())
        .collect();
    Shown::settle_all(shown).unwrap();
    for (number, key) in (0..).zip(&keys) {
        assert_eq!(read(store, key), noise(70_000, number));
    }
    // nor is one overwritten so
    let mut late = store.create(&keys[0], &[]).unwrap();
    late.write_all(b"other").unwrap();
    let outcome = late.sync().and_then(|()| late.publish_beside().map(|_| ()));
    assert!(
        matches!(outcome, Err(StoreError::AlreadyExists { .. })),
        "{outcome:?}"
    );
    assert_eq!(read(store, &keys[0]), noise(70_000, 0));
    // one that was synced and not published leaves nothing
    let key = folder.join("d").unwrap();
    let mut writer = store.create(&key, &[]).unwrap();
    writer.write_all(b"whole").unwrap();
    writer.sync().unwrap();
    drop(writer);
    assert_eq!(store.stat(&key).unwrap(), None);
}

fn tracing(store: &Arc<dyn Store>, folder: &ObjectKey) {
    let key = folder.join("traced").unwrap();
    assert_eq!(store.trace(&key).unwrap(), None);
    store.put(&key, &[], b"one").unwrap();
    let trace = store.trace(&key).unwrap().unwrap();
    assert_eq!(store.trace(&key).unwrap().unwrap(), trace);
    let text = trace.to_string();
    assert!(text.chars().all(|c| c.is_ascii_graphic()), "{text}");
    store.delete(&key).unwrap();
    assert_eq!(store.trace(&key).unwrap(), None);
    store.put(&key, &[], b"other").unwrap();
    assert_ne!(store.trace(&key).unwrap().unwrap(), trace);
}

fn absence(store: &Arc<dyn Store>, place: &ObjectKey) {
    let deep = place
        .join("no")
        .unwrap()
        .join("such")
        .unwrap()
        .join("object")
        .unwrap();
    assert_eq!(store.stat(&deep).unwrap(), None);
    assert!(store.open(&deep).err().unwrap().is_absence());
    assert!(store.read_range(&deep, 0..1).err().unwrap().is_absence());
    assert!(store.delete(&deep).err().unwrap().is_absence());
    assert!(store.make_durable(&deep).err().unwrap().is_absence());
    assert_eq!(store.list(Some(&deep)).unwrap(), []);
    store.delete_folder(&deep).unwrap();
}

fn listing(store: &Arc<dyn Store>, place: &ObjectKey) {
    for name in ["b", "a", "c.zst", "B"] {
        store
            .put(&place.join(name).unwrap(), &[], name.as_bytes())
            .unwrap();
    }
    let below = place.join("folder").unwrap().join("deep").unwrap();
    store.put(&below, &[], b"x").unwrap();
    let unfinished = store.create(&place.join("d").unwrap(), &[]).unwrap();
    let held = store.hold(&place.join("e").unwrap()).unwrap();
    let listed = store.list(Some(place)).unwrap();
    let names: Vec<_> = listed.iter().map(|e| e.name.as_str()).collect();
    assert_eq!(names, ["B", "a", "b", "c.zst", "folder"]);
    assert_eq!(listed[3].kind, EntryKind::Object { size: 5 });
    assert_eq!(listed[4].kind, EntryKind::Folder);
    drop((unfinished, held));
    let parent = store.list(place.parent().as_ref()).unwrap();
    assert!(parent.iter().any(|e| e.name == place.file_name()));
}

fn ranges(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("object").unwrap();
    let bytes = noise(100_000, 3);
    store.put(&key, &[], &bytes).unwrap();
    assert_eq!(store.read_range(&key, 0..10).unwrap(), bytes[..10]);
    assert_eq!(
        store.read_range(&key, 99_990..100_000).unwrap(),
        bytes[99_990..]
    );
    assert_eq!(store.read_range(&key, 5..5).unwrap(), b"");
    assert_eq!(store.read_range(&key, 0..100_000).unwrap(), bytes);
    for (begin, end) in [(99_990, 100_001), (100_001, 100_001), (0, u64::MAX)] {
        match store.read_range(&key, begin..end) {
            Err(StoreError::OutOfRange { size_bytes, .. }) => assert_eq!(size_bytes, 100_000),
            other => panic!("range {begin}..{end} gave {other:?}"),
        }
    }
}

fn deleting(store: &Arc<dyn Store>, place: &ObjectKey) {
    let folder = place.join("folder").unwrap();
    let key = folder.join("object").unwrap();
    store.put(&key, &[], b"one").unwrap();
    store.delete(&key).unwrap();
    assert_eq!(store.stat(&key).unwrap(), None);
    store.put(&key, &[], b"two").unwrap();
    assert_eq!(read(store, &key), b"two");
    let deep = folder.join("a").unwrap().join("b").unwrap();
    store.put(&deep, &[], b"three").unwrap();
    store.delete_folder(&folder).unwrap();
    assert_eq!(store.list(Some(&folder)).unwrap(), []);
    assert_eq!(store.stat(&deep).unwrap(), None);
    assert!(
        !store
            .list(Some(place))
            .unwrap()
            .iter()
            .any(|e| e.name == "folder")
    );
}

/// Publishes one object per writer at the same moment; gives back who won.
fn race(store: &Arc<dyn Store>, keys: &[(ObjectKey, Vec<ObjectKey>)]) -> Vec<usize> {
    let barrier = Arc::new(Barrier::new(keys.len()));
    let writers: Vec<_> = keys
        .iter()
        .cloned()
        .enumerate()
        .map(|(number, (key, rivals))| {
            let (store, barrier) = (Arc::clone(store), Arc::clone(&barrier));
            thread::spawn(move || {
                let bytes = noise(200_000, u64::try_from(number).unwrap() + 10);
                let mut writer = store.create(&key, &rivals).unwrap();
                writer.write_all(&bytes).unwrap();
                barrier.wait();
                match writer.publish() {
                    Ok(()) => Some(number),
                    Err(StoreError::AlreadyExists { .. }) => None,
                    Err(e) => panic!("{e}"),
                }
            })
        })
        .collect();
    writers
        .into_iter()
        .filter_map(|writer| writer.join().unwrap())
        .collect()
}

fn racing_same_key(store: &Arc<dyn Store>, place: &ObjectKey) {
    for round in 0..10 {
        let key = place.join(&format!("object-{round}")).unwrap();
        let won = race(store, &vec![(key.clone(), Vec::new()); 4]);
        let of_writer = |number| noise(200_000, u64::try_from(number).unwrap() + 10);
        let there = read(store, &key);
        if store.promises().create_only {
            assert_eq!(won.len(), 1, "{} writers won", won.len());
            assert_eq!(there, of_writer(won[0]));
        } else {
            // who came last may not know that there were others: but whole it is
            assert!((0..4).any(|writer| there == of_writer(writer)), "torn");
        }
    }
}

fn racing_rivals(store: &Arc<dyn Store>, place: &ObjectKey) {
    for round in 0..10 {
        let all: Vec<_> = ["", ".zst", ".xz"]
            .iter()
            .map(|suffix| place.join(&format!("object-{round}{suffix}")).unwrap())
            .collect();
        let keys: Vec<_> = all
            .iter()
            .map(|key| {
                let rivals = all.iter().filter(|other| *other != key).cloned().collect();
                (key.clone(), rivals)
            })
            .collect();
        let won = race(store, &keys);
        let there: Vec<_> = all
            .iter()
            .filter(|key| store.stat(key).unwrap().is_some())
            .collect();
        if store.promises().exclusive_rivals {
            assert_eq!(won.len(), 1, "{} writers won", won.len());
            assert_eq!(there, [&all[won[0]]]);
        } else {
            assert!(won.len() <= 1, "{} writers won", won.len());
            assert!(!there.is_empty());
            assert!(won.iter().all(|number| there.contains(&&all[*number])));
        }
        let first = store.first_of(&all).unwrap();
        assert_eq!(first.map(|(place, _)| &all[place]), there.first().copied());
    }
}

fn holding(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("20261120T074502Z").unwrap();
    let first = store.hold(&key).unwrap();
    assert!(first.is_some());
    assert!(store.hold(&key).unwrap().is_none());
    assert_eq!(store.stat(&key).unwrap(), None);
    assert_eq!(store.list(Some(place)).unwrap(), []);
    drop(first);
    let again = store.hold(&key).unwrap();
    assert!(again.is_some());
    store.put(&key.join("part").unwrap(), &[], b"x").unwrap();
    store.delete_folder(&key).unwrap();
}

fn bounded(store: &Arc<dyn Store>, place: &ObjectKey) {
    let key = place.join("small").unwrap();
    store.put(&key, &[], b"12345").unwrap();
    assert_eq!(store.read_whole(&key, 5).unwrap(), b"12345");
    assert!(matches!(
        store.read_whole(&key, 4),
        Err(StoreError::TooLarge { max_bytes: 4, .. })
    ));
}

fn folder_is_no_object(store: &Arc<dyn Store>, place: &ObjectKey) {
    store
        .put(&place.join("name").unwrap().join("x").unwrap(), &[], b"x")
        .unwrap();
    let folder = place.join("name").unwrap();
    assert!(!matches!(store.stat(&folder), Ok(Some(_))));
    assert!(store.read_whole(&folder, 100).is_err());
    assert!(store.delete(&folder).is_err());
    assert_eq!(store.list(Some(&folder)).unwrap().len(), 1);
}
