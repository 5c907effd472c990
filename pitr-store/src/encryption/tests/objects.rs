//! Objects: what comes back, and what is noticed.

use std::io::{Read as _, Write as _};

use proptest::prelude::*;

use super::*;
use crate::conformance::{self, noise};
use crate::encryption::format::{CHUNK_BYTES, HEADER_BYTES, SEALED_CHUNK_BYTES, TRAILER_BYTES};
use crate::store::{ContentDigest, Entry, Hold, ObjectMeta, ObjectWriter};

const SECRET: [u8; 32] = [0x42; 32];

fn seal(name: &str, content: &[u8]) -> Vec<u8> {
    let public = RepositorySecret::from_bytes(&SECRET).public_key();
    let mut writer = SealingWriter::new(Vec::new(), &public, &key(name), String::new).unwrap();
    writer.write_all(content).unwrap();
    writer.finish(Some([7; 32])).unwrap()
}

fn open(name: &str, object: &[u8]) -> Result<Vec<u8>, StoreError> {
    let secret = RepositorySecret::from_bytes(&SECRET);
    let mut reader = DecryptingReader::new(object, &secret, &key(name), "place".to_owned())?;
    let mut content = Vec::new();
    match reader.read_to_end(&mut content) {
        Ok(_) => Ok(content),
        Err(error) => {
            // once damaged, always damaged: no caller may read on behind it
            assert!(reader.read(&mut [0; 10]).is_err());
            Err(StoreError::from_io(error, crate::Operation::Read, "place"))
        }
    }
}

fn assert_noticed(opened: Result<Vec<u8>, StoreError>, what: &str) {
    match opened {
        Err(StoreError::Encryption(error)) => assert!(error.is_damage(), "{what}: {error}"),
        Err(other) => panic!("{what}: {other}"),
        Ok(_) => panic!("{what}: it was not noticed"),
    }
}

#[test]
fn an_encrypted_store_keeps_every_promise_of_a_store() {
    let scene = Scene::new();
    conformance::run(scene.unlocked().content(), &key("suite"));
}

#[test]
fn every_length_around_a_chunk_s_end_comes_back_with_its_size_and_every_range() {
    let scene = Scene::new();
    let repository = scene.unlocked();
    let store = repository.content();
    for (number, length) in [
        0,
        1,
        CHUNK_BYTES - 1,
        CHUNK_BYTES,
        CHUNK_BYTES + 1,
        2 * CHUNK_BYTES,
        2 * CHUNK_BYTES + 77,
    ]
    .into_iter()
    .enumerate()
    {
        let name = key(&format!("folder/{number}"));
        let content = noise(length, number as u64);
        store.put(&name, &[], &content).unwrap();
        assert_eq!(store.read_whole(&name, 1 << 20).unwrap(), content);
        assert_eq!(store.stat(&name).unwrap().unwrap().size, length as u64);
        let stored = fs::metadata(scene.root().join(name.as_str()))
            .unwrap()
            .len();
        let chunks = length.div_ceil(CHUNK_BYTES).max(1);
        assert_eq!(stored, (80 + length + 16 * chunks) as u64);
        for begin in [0, length / 3, length.saturating_sub(3)] {
            for end in [begin, (begin + 5).min(length), length] {
                let range = store.read_range(&name, begin as u64..end as u64);
                assert_eq!(range.unwrap(), content[begin..end]);
            }
        }
    }
}

#[test]
fn cutting_an_object_off_or_adding_to_it_is_noticed_wherever_it_happens() {
    let object = seal("a/b", &noise(2 * CHUNK_BYTES + 5, 1));
    assert!(open("a/b", &object).is_ok());
    let ends = [0, 1, HEADER_BYTES - 1, HEADER_BYTES];
    let chunk_ends = [1, 2].map(|n| HEADER_BYTES + n * SEALED_CHUNK_BYTES);
    let with_trailers = chunk_ends.map(|end| end + TRAILER_BYTES);
    let last = [
        object.len() - 1,
        object.len() - TRAILER_BYTES,
        object.len() - 61,
    ];
    for end in ends
        .into_iter()
        .chain(chunk_ends)
        .chain(with_trailers)
        .chain(last)
    {
        assert_noticed(open("a/b", &object[..end]), &format!("cut at {end}"));
    }
    let mut longer = object.clone();
    longer.push(0);
    assert_noticed(open("a/b", &longer), "one byte more");
    // a whole chunk left out before the end, the trailer kept
    for end in chunk_ends {
        let mut cut = object[..end].to_vec();
        cut.extend_from_slice(&object[object.len() - TRAILER_BYTES..]);
        assert_noticed(
            open("a/b", &cut),
            &format!("cut at {end}, with the trailer"),
        );
    }
}

#[test]
fn moved_chunks_and_objects_under_other_names_are_noticed() {
    let object = seal("a/b", &noise(3 * CHUNK_BYTES, 2));
    let chunk = |n: usize| {
        HEADER_BYTES + n * SEALED_CHUNK_BYTES..HEADER_BYTES + (n + 1) * SEALED_CHUNK_BYTES
    };
    let mut swapped = object.clone();
    swapped[chunk(0)].copy_from_slice(&object[chunk(1)]);
    swapped[chunk(1)].copy_from_slice(&object[chunk(0)]);
    assert_noticed(open("a/b", &swapped), "two chunks changed places");
    let mut without = object[..HEADER_BYTES + SEALED_CHUNK_BYTES].to_vec();
    without.extend_from_slice(&object[HEADER_BYTES + 2 * SEALED_CHUNK_BYTES..]);
    assert_noticed(open("a/b", &without), "a chunk was left out");
    let other = seal("a/b", &noise(3 * CHUNK_BYTES, 3));
    let mut spliced = object.clone();
    spliced[chunk(1)].copy_from_slice(&other[chunk(1)]);
    assert_noticed(open("a/b", &spliced), "a chunk of another object");
    let mut trailer = object.clone();
    let end = trailer.len();
    trailer[end - TRAILER_BYTES..end - 8].copy_from_slice(&[9; 32]);
    assert_noticed(open("a/b", &trailer), "another digest");
    assert_noticed(open("a/c", &object), "another name");
    // the same of an object in a store, whose ranges are read each by itself
    let scene = Scene::new();
    let content = noise(3 * CHUNK_BYTES, 2);
    let repository = scene.unlocked();
    let store = repository.content();
    store.put(&key("a/b"), &[], &content).unwrap();
    fs::copy(scene.root().join("a/b"), scene.root().join("a/c")).unwrap();
    assert_noticed(store.read_range(&key("a/c"), 0..5), "another name, a range");
}

#[test]
fn no_two_objects_share_a_byte_of_key_or_header() {
    let content = noise(1000, 5);
    let (first, second) = (seal("a/b", &content), seal("a/b", &content));
    assert_ne!(first[8..HEADER_BYTES], second[8..HEADER_BYTES]);
    assert_ne!(
        first[HEADER_BYTES..][..1000],
        second[HEADER_BYTES..][..1000]
    );
}

#[test]
fn an_object_that_was_replaced_since_its_last_range_is_read_anew() {
    let scene = Scene::new();
    let (reader, writer) = (scene.unlocked(), scene.locked());
    let name = key("folder/object");
    writer
        .content()
        .put(&name, &[], &noise(200_000, 1))
        .unwrap();
    let first = reader.content().read_range(&name, 0..10).unwrap();
    writer.content().delete(&name).unwrap();
    let content = noise(300_000, 2);
    writer.content().put(&name, &[], &content).unwrap();
    let second = reader.content().read_range(&name, 250_000..250_010);
    assert_eq!(second.unwrap(), content[250_000..250_010]);
    assert_ne!(first, content[..10]);
}

#[test]
fn plain_text_in_an_encrypted_repository_is_damage_and_no_content() {
    let scene = Scene::new();
    let plain = scene.root().join("folder");
    fs::create_dir(&plain).unwrap();
    for (name, length) in [("short", 10), ("long", 100_000)] {
        fs::write(plain.join(name), noise(length, 1)).unwrap();
        let name = key(&format!("folder/{name}"));
        let repository = scene.unlocked();
        let store = repository.content();
        assert_noticed(store.read_whole(&name, 1 << 20), "whole");
        assert_noticed(store.read_range(&name, 0..1), "a range");
    }
}

/// A store whose answer to every publish is lost: it says that the object is
/// there already, as a remote one does when it tries again by itself.
#[derive(Debug)]
struct LostAnswers(Arc<dyn Store>);

struct LostAnswer(Box<dyn ObjectWriter>, ObjectKey);

impl std::io::Write for LostAnswer {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush()
    }
}

impl ObjectWriter for LostAnswer {
    fn publish(self: Box<Self>) -> Result<(), StoreError> {
        self.0.publish()?;
        Err(StoreError::AlreadyExists {
            key: self.1,
            location: "there".to_owned(),
        })
    }
}

impl Store for LostAnswers {
    fn location(&self) -> String {
        self.0.location()
    }
    fn establish(&self) -> Result<(), StoreError> {
        self.0.establish()
    }
    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let writer = self.0.create(key, rivals)?;
        Ok(Box::new(LostAnswer(writer, key.clone())))
    }
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn std::io::Read + Send>, StoreError> {
        self.0.open(key)
    }
    fn read_range(
        &self,
        key: &ObjectKey,
        range: std::ops::Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        self.0.read_range(key, range)
    }
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.0.stat(key)
    }
    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        self.0.list(folder)
    }
    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.make_durable(key)
    }
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete(key)
    }
    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        self.0.delete_folder(folder)
    }
    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        self.0.hold(key)
    }
}

#[test]
fn a_writer_knows_its_own_object_again_without_a_key_and_no_other() {
    let scene = Scene::new();
    let lossy: Arc<dyn Store> = Arc::new(LostAnswers(scene.store()));
    let encryption = scene.locked().encryption().unwrap().clone();
    let store = EncryptedStore::new(lossy, encryption, KeySource::default());
    store.put(&key("a/b"), &[], b"content").unwrap();
    let read = scene.unlocked().content().read_whole(&key("a/b"), 100);
    assert_eq!(read.unwrap(), b"content");
    // the same content, written by somebody else: its writer has to compare
    assert!(matches!(
        store.put(&key("a/b"), &[], b"content"),
        Err(StoreError::AlreadyExists { .. })
    ));
}

#[test]
fn a_digest_tells_contents_apart_without_a_key_and_is_told_nowhere_else() {
    let scene = Scene::new();
    let repository = scene.locked();
    let store = repository.content();
    let digest = |bytes: &[u8]| {
        let mut hasher = store.content_hasher().unwrap();
        bytes.chunks(3).for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    };
    let mut writer = store.create(&key("a/b"), &[]).unwrap();
    writer.write_all(b"compressed").unwrap();
    writer.set_content_digest(&digest(b"content"));
    writer.publish().unwrap();
    let has = |bytes| store.has_content(&key("a/b"), &digest(bytes)).unwrap();
    assert_eq!(has(b"content"), Some(true));
    assert_eq!(has(b"contents"), Some(false));
    // salted: the digest itself does not lie there
    let ContentDigest(bare) = digest(b"content");
    let stored = fs::read(scene.root().join("a/b")).unwrap();
    assert!(!stored.windows(32).any(|window| window == bare));
    store.put(&key("a/c"), &[], b"x").unwrap();
    assert_eq!(store.has_content(&key("a/c"), &digest(b"x")).unwrap(), None);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn any_changed_bit_is_noticed(
        length in 0_usize..2 * CHUNK_BYTES + 100,
        place in any::<prop::sample::Index>(),
        bit in 0_u8..8,
    ) {
        let mut object = seal("a/b", &vec![3; length]);
        let place = place.index(object.len());
        object[place] ^= 1 << bit;
        assert_noticed(open("a/b", &object), &format!("byte {place} of {length}"));
    }

    #[test]
    fn bytes_that_are_no_object_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(open("a/b", &bytes).is_err());
        let mut begun = seal("a/b", b"")[..HEADER_BYTES].to_vec();
        begun.extend_from_slice(&bytes);
        prop_assert!(open("a/b", &begun).is_err());
    }
}

/// Cannot write once, as a disk that is full for a moment.
struct FullForAMoment {
    writes_before: usize,
    written: Vec<u8>,
}

impl std::io::Write for FullForAMoment {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let is_full = self.writes_before == 0;
        self.writes_before = self.writes_before.wrapping_sub(1);
        if is_full {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        self.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_object_of_which_a_part_was_not_written_is_never_ended() {
    let public = RepositorySecret::from_bytes(&SECRET).public_key();
    for writes_before in 1..4 {
        let disk = FullForAMoment {
            writes_before,
            written: Vec::new(),
        };
        let mut writer = SealingWriter::new(disk, &public, &key("1/a"), String::new).unwrap();
        let error = writer.write_all(&vec![1; 4 * CHUNK_BYTES]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
        // as whatever compresses does when it is dropped
        for _ in 0..3 {
            assert!(writer.write(&vec![2; 2 * CHUNK_BYTES]).is_err());
        }
        assert!(writer.finish(None).is_err());
    }
}
