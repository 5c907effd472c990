//! Encrypted objects: arbitrary bytes, and whole objects that were changed. What
//! was changed is refused, never handed out, and nothing panics.

#![no_main]

use std::io::{Read, Write};
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use pitr_store::ObjectKey;
use pitr_store::encryption::{DecryptingReader, RepositorySecret, SealingWriter};

const CHUNK: usize = 64 * 1024;

/// A whole object and its content.
struct Sample {
    content: Vec<u8>,
    object: Vec<u8>,
}

static NAME: LazyLock<ObjectKey> = LazyLock::new(|| ObjectKey::parse("1/wal/object").unwrap());
static SECRET: LazyLock<RepositorySecret> =
    LazyLock::new(|| RepositorySecret::from_bytes(&[0x42; 32]));

/// Of every shape: empty, short, one whole chunk, several.
static SAMPLES: LazyLock<Vec<Sample>> = LazyLock::new(|| {
    [0, 1, 500, CHUNK, CHUNK + 1, 2 * CHUNK + 7]
        .into_iter()
        .map(|length| {
            let content: Vec<u8> = (0..length).map(|n| (n % 251) as u8).collect();
            let public = SECRET.public_key();
            let mut writer = SealingWriter::new(Vec::new(), &public, &NAME, String::new).unwrap();
            writer.write_all(&content).unwrap();
            let object = writer.finish(Some([5; 32])).unwrap();
            Sample { content, object }
        })
        .collect()
});

fn open(object: &[u8]) -> Option<Vec<u8>> {
    let mut reader = DecryptingReader::new(object, &SECRET, &NAME, String::new()).ok()?;
    let mut content = Vec::new();
    reader.read_to_end(&mut content).ok()?;
    Some(content)
}

fuzz_target!(|data: &[u8]| {
    let Some((&kind, data)) = data.split_first() else {
        return;
    };
    let Some(sample) = SAMPLES.get(usize::from(kind & 7)) else {
        // no object at all
        assert!(open(data).is_none());
        return;
    };
    let mut object = sample.object.clone();
    let mut edits = data.chunks_exact(5);
    for edit in edits.by_ref() {
        let place = u32::from_le_bytes([edit[1], edit[2], edit[3], 0]) as usize;
        match edit[0] % 4 {
            // change a byte; near the end for small places from there
            0 => {
                if let Some(byte) = object.get_mut(place) {
                    *byte ^= edit[4];
                }
            }
            1 => {
                let end = object.len();
                if let Some(byte) = object.get_mut(end.wrapping_sub(place % 200 + 1)) {
                    *byte ^= edit[4];
                }
            }
            2 => object.truncate(place),
            _ => {
                // one stored chunk in another's place
                let size = CHUNK + 16;
                let at = |n: u8| 40 + usize::from(n % 3) * size;
                let (from, to) = (at(edit[1]), at(edit[4]));
                if from.max(to) + size <= object.len() {
                    object.copy_within(from..from + size, to);
                }
            }
        }
    }
    object.extend_from_slice(edits.remainder());
    match open(&object) {
        Some(content) => {
            assert!(object == sample.object, "a change was not noticed");
            assert!(content == sample.content);
        }
        None => assert!(object != sample.object, "a whole object was refused"),
    }
});
