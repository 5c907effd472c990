//! Telling one content from another by a number.

use std::fmt;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use twox_hash::xxhash3_128::Hasher;

use super::source::{WalSource, read_full};

/// How much of a source is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// What one of the two hashers takes before it is the other's turn.
const STRIPE_BYTES: u64 = 1 << 20;

/// Files from this length on are read by two threads: a thread costs less than what it saves.
const BYTES_FOR_TWO: u64 = 4 * STRIPE_BYTES;

/// Length and XXH3-128 of the content of a file.
///
/// There are two hashes, one of every even MiB and one of every odd one, so that two threads can
/// make them; the fingerprint is the hash of both.
///
/// Tells contents apart that differ by accident, by damage or by another history: two
/// of them agree once in 2^64 files. Against somebody who makes two files agree on
/// purpose it proves nothing: he would have to write into `pg_wal`, where he
/// could as well write the log that he wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint {
    content_bytes: u64,
    hash: u128,
}

impl Fingerprint {
    /// Reads what [`fmt::Display`] writes: the length, a dash, and 32 hexadecimal digits.
    pub fn parse(text: &str) -> Option<Self> {
        let (content_bytes, hash) = text.split_once('-')?;
        if hash.len() != 32 || !hash.bytes().all(|b| b.is_ascii_hexdigit()) {
            return None;
        }
        Some(Self {
            content_bytes: content_bytes.parse().ok()?,
            hash: u128::from_str_radix(hash, 16).ok()?,
        })
    }

    /// Length of the content.
    pub fn content_bytes(&self) -> u64 {
        self.content_bytes
    }

    /// Of all bytes of `source`; `None` if it is not as long as it was when it was
    /// opened.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn of_source(source: &mut dyn WalSource) -> io::Result<Option<Self>> {
        let content_bytes = source.content_bytes();
        let found = match source.file() {
            Some(file) if content_bytes >= BYTES_FOR_TWO => of_file(file)?,
            _ => {
                source.rewind()?;
                let mut chunk = vec![0; CHUNK_BYTES];
                let mut fingerprinter = Fingerprinter::new();
                loop {
                    let length = read_full(source, &mut chunk)?;
                    match chunk.get(..length) {
                        None | Some([]) => break fingerprinter.finish(),
                        Some(bytes) => fingerprinter.update(bytes),
                    }
                }
            }
        };
        Ok((found.content_bytes == content_bytes).then_some(found))
    }
}

/// By two threads; where there is only one, by that.
fn of_file(file: &File) -> io::Result<Fingerprint> {
    std::thread::scope(|scope| {
        let second = std::thread::Builder::new().spawn_scoped(scope, || Half::read(file, 1));
        let first = Half::read(file, 0);
        let second = match second {
            Ok(thread) => thread
                .join()
                .unwrap_or_else(|_| Err(io::Error::other("a thread that read it has died"))),
            Err(_) => Half::read(file, 1),
        };
        Ok(join([first?, second?]))
    })
}

/// Every second stripe of a content.
struct Half {
    hasher: Hasher,
    bytes: u64,
}

impl Half {
    fn new() -> Self {
        Self {
            hasher: Hasher::new(),
            bytes: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.bytes = self.bytes.saturating_add(length);
    }

    /// Of all even stripes (`first` is 0) or odd ones (1), to the end of the file.
    fn read(file: &File, first: u64) -> io::Result<Self> {
        let mut half = Self::new();
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut stripe = first * STRIPE_BYTES;
        loop {
            let end = stripe.saturating_add(STRIPE_BYTES);
            let mut offset = stripe;
            while offset < end {
                let room = usize::try_from(end - offset).unwrap_or(usize::MAX);
                let room = chunk.get_mut(..room.min(CHUNK_BYTES)).unwrap_or_default();
                let length = match file.read_at(room, offset) {
                    Ok(0) => return Ok(half),
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error),
                };
                half.update(chunk.get(..length).unwrap_or_default());
                offset = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
            }
            stripe = stripe.saturating_add(2 * STRIPE_BYTES);
        }
    }
}

fn join(halves: [Half; 2]) -> Fingerprint {
    let mut both = Hasher::new();
    let mut content_bytes = 0_u64;
    for half in halves {
        both.write(&half.hasher.finish_128().to_le_bytes());
        content_bytes = content_bytes.saturating_add(half.bytes);
    }
    Fingerprint {
        content_bytes,
        hash: both.finish_128(),
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.content_bytes, self.hash)
    }
}

/// Takes a content piece by piece.
pub struct Fingerprinter {
    halves: [Half; 2],
    content_bytes: u64,
}

impl Fingerprinter {
    /// Of nothing yet.
    #[expect(clippy::new_without_default, reason = "a beginning, not a default")]
    pub fn new() -> Self {
        Self {
            halves: [Half::new(), Half::new()],
            content_bytes: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = STRIPE_BYTES - self.content_bytes % STRIPE_BYTES;
            let room = usize::try_from(room).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            let [even, odd] = &mut self.halves;
            match self.content_bytes / STRIPE_BYTES % 2 {
                0 => even.update(now),
                _ => odd.update(now),
            }
            self.content_bytes += u64::try_from(now.len()).unwrap_or(0);
            bytes = later;
        }
    }

    /// The fingerprint of what was taken.
    pub fn finish(self) -> Fingerprint {
        join(self.halves)
    }
}

impl fmt::Debug for Fingerprinter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fingerprinter")
            .field("content_bytes", &self.content_bytes)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::WalBytes;

    #[test]
    fn it_is_the_same_however_a_content_is_read() {
        let stripe = usize::try_from(STRIPE_BYTES).unwrap();
        for length in [
            0,
            1,
            stripe,
            stripe + 1,
            4 * stripe,
            5 * stripe - 1,
            6 * stripe + 7,
        ] {
            let bytes: Vec<u8> = (0..length)
                .map(|at| (at * 31 % 251).to_le_bytes()[0])
                .collect();
            let mut pieces = Fingerprinter::new();
            bytes.chunks(100_003).for_each(|piece| pieces.update(piece));
            let pieces = pieces.finish();
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), &bytes).unwrap();
            let mut file = crate::wal::WalFile::open(file.path()).unwrap();
            let mut memory = WalBytes::new(bytes, "test");
            assert_eq!(pieces.content_bytes(), length as u64);
            for source in [&mut file as &mut dyn WalSource, &mut memory] {
                assert_eq!(Fingerprint::of_source(source).unwrap(), Some(pieces));
            }
        }
    }

    #[test]
    fn every_place_of_a_long_file_counts() {
        let length = 5 * usize::try_from(STRIPE_BYTES).unwrap() + 5;
        let file = tempfile::NamedTempFile::new().unwrap();
        let mut bytes = vec![0; length];
        let of_bytes = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            let mut source = crate::wal::WalFile::open(file.path()).unwrap();
            Fingerprint::of_source(&mut source).unwrap().unwrap()
        };
        let mut seen = vec![of_bytes(&bytes)];
        for place in (0..length).step_by(length / 11).chain([length - 1]) {
            bytes[place] = 1;
            let changed = of_bytes(&bytes);
            assert!(!seen.contains(&changed), "byte {place}");
            seen.push(changed);
            bytes[place] = 0;
        }
    }

    #[test]
    fn it_is_written_as_it_is_read() {
        let of = |bytes: &[u8]| {
            let mut source = WalBytes::new(bytes.to_vec(), "test");
            Fingerprint::of_source(&mut source).unwrap().unwrap()
        };
        // xxhsum -H2 of twice the bytes of xxhsum -H2 of nothing, little-endian
        assert_eq!(of(b"").to_string(), "0-d3593324e7878738f7b90b699e501037");
        let some = of(b"some bytes");
        assert_ne!(some, of(b"some byteS"));
        assert_eq!(Fingerprint::parse(&some.to_string()), Some(some));
        for text in [
            "",
            "-",
            "0-99aa",
            "99aa06d3014798d86001c324468d497f",
            "0-+9aa06d3014798d86001c324468d497f",
        ] {
            assert_eq!(Fingerprint::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_source_that_has_become_shorter_or_longer_has_none() {
        for length in [1000, 3 << 20, 7 << 20] {
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), vec![7; length]).unwrap();
            let mut source = crate::wal::WalFile::open(file.path()).unwrap();
            for other in [length - 1, length + 1, length + (3 << 20), length / 3] {
                file.as_file().set_len(other as u64).unwrap();
                assert_eq!(Fingerprint::of_source(&mut source).unwrap(), None);
            }
        }
    }
}
