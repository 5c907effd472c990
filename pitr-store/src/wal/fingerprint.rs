//! Telling one content from another by a number.

use std::fmt;
use std::io;

use twox_hash::xxhash3_128::Hasher;

use super::source::{WalSource, read_full};

/// How much of a source is read at a time.
const CHUNK_BYTES: usize = 256 * 1024;

/// Length and XXH3-128 of the content of a file.
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
        source.rewind()?;
        let mut chunk = vec![0; CHUNK_BYTES];
        let mut fingerprinter = Fingerprinter::new();
        loop {
            let length = read_full(source, &mut chunk)?;
            match chunk.get(..length) {
                None | Some([]) => break,
                Some(bytes) => fingerprinter.update(bytes),
            }
        }
        let is_whole = fingerprinter.content_bytes == source.content_bytes();
        Ok(is_whole.then(|| fingerprinter.finish()))
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:032x}", self.content_bytes, self.hash)
    }
}

/// Takes a content piece by piece.
pub struct Fingerprinter {
    hasher: Hasher,
    content_bytes: u64,
}

impl Fingerprinter {
    /// Of nothing yet.
    #[expect(clippy::new_without_default, reason = "a beginning, not a default")]
    pub fn new() -> Self {
        Self {
            hasher: Hasher::new(),
            content_bytes: 0,
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.hasher.write(bytes);
        self.content_bytes = self
            .content_bytes
            .saturating_add(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    /// The fingerprint of what was taken.
    pub fn finish(&self) -> Fingerprint {
        Fingerprint {
            content_bytes: self.content_bytes,
            hash: self.hasher.finish_128(),
        }
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
    fn it_is_xxh3_128_and_written_as_it_is_read() {
        let of = |bytes: &[u8]| {
            let mut source = WalBytes::new(bytes.to_vec(), "test");
            Fingerprint::of_source(&mut source).unwrap().unwrap()
        };
        // xxhsum -H2 of nothing
        assert_eq!(of(b"").to_string(), "0-99aa06d3014798d86001c324468d497f");
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
    fn a_source_that_has_become_shorter_has_none() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [7; 1000]).unwrap();
        let mut source = crate::wal::WalFile::open(file.path()).unwrap();
        file.as_file().set_len(999).unwrap();
        assert_eq!(Fingerprint::of_source(&mut source).unwrap(), None);
    }
}
