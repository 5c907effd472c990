//! Whether what is offered is what is stored already.

use std::fmt;

use super::fingerprint::Fingerprinter;
use super::push_error::PushError;
use super::source::{WalSource, read_full};
use super::{StoredObject, WalArchive};
use crate::codec::{DecodeError, Decoder};
use crate::store::{Operation, StoreError};

/// How much of a source is digested at a time.
const DIGEST_CHUNK_BYTES: usize = 256 * 1024;

/// Where one of two copies of a file comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// Path of the source, or location of the stored object.
    pub location: String,
    /// Length of the content, decoded. `None` where it could not be decoded for
    /// want of a key.
    pub content_bytes: Option<u64>,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.content_bytes {
            Some(bytes) => write!(f, "\"{}\" ({bytes} bytes)", self.location),
            None => write!(f, "\"{}\" (encrypted)", self.location),
        }
    }
}

/// Outcome of a comparison that reached both ends.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Comparison {
    Same,
    Different {
        /// First byte that differs, counted in the content from 0. `None` where
        /// only digests could be compared.
        first_difference: Option<u64>,
        /// Length of the stored content; `None` likewise.
        stored_content_bytes: Option<u64>,
    },
    /// The stored object is gone since it was found.
    Vanished,
}

impl WalArchive {
    /// Compares the whole source with a stored object, byte by byte, or by its
    /// digest where it is encrypted and there is no key for it.
    ///
    /// The stored copy is decoded to its end even after a difference: before
    /// its checksum has been seen, a difference may as well be damage.
    /// `fingerprinter` takes what is read of the source: all of it, where both are
    /// the same.
    pub(super) fn compare(
        &self,
        stored: &StoredObject,
        source: &mut dyn WalSource,
        mut fingerprinter: Option<&mut Fingerprinter>,
    ) -> Result<Comparison, PushError> {
        let source_failed = |origin: String| move |source| PushError::Source { origin, source };
        source.rewind().map_err(source_failed(source.origin()))?;
        let object = match self.store.open(&stored.key) {
            Ok(object) => object,
            Err(StoreError::NotFound { .. }) => return Ok(Comparison::Vanished),
            Err(locked) if locked.is_locked() => {
                return self.compare_digests(stored, source, fingerprinter, locked);
            }
            Err(e) => return Err(e.into()),
        };
        let unreadable = |error: DecodeError| match error {
            DecodeError::Source(e) => {
                PushError::Store(StoreError::from_io(e, Operation::Read, &stored.location))
            }
            source => PushError::StoredUnreadable {
                name: stored.name,
                location: stored.location.clone(),
                source,
            },
        };
        let max_bytes = self.max_content_bytes(&stored.name);
        let mut decoder = Decoder::new(stored.encoding, object, max_bytes).map_err(unreadable)?;

        let mut offered = Vec::new();
        let mut compared_bytes = 0_u64;
        let mut first_difference = None;
        loop {
            let chunk = decoder.next_chunk().map_err(unreadable)?;
            if chunk.is_empty() {
                break;
            }
            if first_difference.is_none() {
                offered.resize(chunk.len(), 0);
                let length =
                    read_full(source, &mut offered).map_err(source_failed(source.origin()))?;
                let offered = offered.get(..length).unwrap_or(&[]);
                if let Some(fingerprinter) = &mut fingerprinter {
                    fingerprinter.update(offered);
                }
                if offered != chunk {
                    let same = offered.iter().zip(chunk).take_while(|(a, b)| a == b);
                    first_difference = Some(compared_bytes + to_u64(same.count()));
                }
                compared_bytes += to_u64(length);
            }
        }
        if first_difference.is_none() {
            // The source may go on where the stored copy ends.
            offered.resize(1, 0);
            let more = read_full(source, &mut offered).map_err(source_failed(source.origin()))?;
            if more > 0 {
                first_difference = Some(compared_bytes);
            }
        }
        Ok(match first_difference {
            None => Comparison::Same,
            Some(_) => Comparison::Different {
                first_difference,
                stored_content_bytes: Some(decoder.decoded_bytes()),
            },
        })
    }

    /// Compares the whole source with the digest of an object that is `locked`
    /// for this process. Whether the object is whole besides, only its reader
    /// can tell.
    fn compare_digests(
        &self,
        stored: &StoredObject,
        source: &mut dyn WalSource,
        mut fingerprinter: Option<&mut Fingerprinter>,
        locked: StoreError,
    ) -> Result<Comparison, PushError> {
        let Some(mut hasher) = self.store.content_hasher() else {
            return Err(locked.into());
        };
        let mut chunk = vec![0; DIGEST_CHUNK_BYTES];
        loop {
            let length = read_full(source, &mut chunk).map_err(|e| PushError::Source {
                origin: source.origin(),
                source: e,
            })?;
            match chunk.get(..length) {
                None | Some([]) => break,
                Some(bytes) => {
                    hasher.update(bytes);
                    if let Some(fingerprinter) = &mut fingerprinter {
                        fingerprinter.update(bytes);
                    }
                }
            }
        }
        match self.store.has_content(&stored.key, &hasher.finish()) {
            Ok(Some(true)) => Ok(Comparison::Same),
            Ok(Some(false)) => Ok(Comparison::Different {
                first_difference: None,
                stored_content_bytes: None,
            }),
            Ok(None) => Err(locked.into()),
            Err(StoreError::NotFound { .. }) => Ok(Comparison::Vanished),
            Err(error) => Err(error.into()),
        }
    }
}

pub(super) fn to_u64(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
