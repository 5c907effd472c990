//! The decompressed bytes of one part.

use std::io::{self, BufReader, Read};

use zstd::stream::read::Decoder;

use super::info::PartInfo;
use super::part_name::PartName;
use super::read_error::{BackupReadError, PartDamage};
use super::seekable_reader::SeekableError;
use super::tar_error::TarError;
use crate::{ObjectKey, Store, StoreError};

/// Largest window that a frame may ask for: 64 MiB, as the largest frame.
const WINDOW_LOG_MAX: u32 = 26;

/// Bytes asked of the store at once.
const INPUT_BYTES: usize = 256 << 10;

/// A part's tar archive, decompressed from its first byte to its last.
///
/// Every frame's checksum is verified, and at the end both sizes. Errors come
/// as [`io::Error`] around a [`BackupReadError`]
/// ([`BackupReadError::recover`] takes it out). Holds at most one frame.
pub struct PartReader {
    decoder: Decoder<'static, BufReader<Counted>>,
    place: PartPlace,
    expected_raw_bytes: u64,
    expected_stored_bytes: u64,
    raw_bytes: u64,
}

/// Which part an error is about.
#[derive(Debug, Clone)]
pub(super) struct PartPlace {
    pub(super) part: PartName,
    pub(super) location: String,
}

struct Counted {
    input: Box<dyn Read + Send>,
    bytes: u64,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}

impl PartReader {
    pub(super) fn open(
        store: &dyn Store,
        key: &ObjectKey,
        info: &PartInfo,
    ) -> Result<Self, BackupReadError> {
        Self::open_through(store, key, info, |input| input)
    }

    /// As [`PartReader::open`], with the stored bytes read through what
    /// `through` makes of them: each of them once, to the last.
    pub(super) fn open_through(
        store: &dyn Store,
        key: &ObjectKey,
        info: &PartInfo,
        through: impl FnOnce(Box<dyn Read + Send>) -> Box<dyn Read + Send>,
    ) -> Result<Self, BackupReadError> {
        let place = PartPlace {
            part: info.name,
            location: store.object_location(key),
        };
        place.check_stored_size(store, key, info)?;
        let input = match store.open(key) {
            Ok(input) => Counted {
                input: through(input),
                bytes: 0,
            },
            Err(error) if error.is_absence() => return Err(place.damage(PartDamage::Missing)),
            Err(error) => return Err(error.into()),
        };
        let decoder = Decoder::with_buffer(BufReader::with_capacity(INPUT_BYTES, input))
            .and_then(|mut decoder| {
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Ok(decoder)
            })
            .map_err(|error| place.decode_error(error))?;
        Ok(Self {
            decoder,
            place,
            expected_raw_bytes: info.raw_bytes,
            expected_stored_bytes: info.stored_bytes,
            raw_bytes: 0,
        })
    }

    pub(super) fn place(&self) -> &PartPlace {
        &self.place
    }

    /// At the end: both sizes must be those of `backup.json`. A part cut at a
    /// frame's end decompresses without complaint.
    fn check_end(&self) -> Result<(), PartDamage> {
        let stored_bytes = self.decoder.get_ref().get_ref().bytes;
        if self.raw_bytes != self.expected_raw_bytes {
            return Err(PartDamage::RawSize {
                expected: self.expected_raw_bytes,
                found: self.raw_bytes,
            });
        }
        if stored_bytes != self.expected_stored_bytes {
            return Err(PartDamage::StoredSize {
                expected: self.expected_stored_bytes,
                found: stored_bytes,
            });
        }
        Ok(())
    }
}

impl Read for PartReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let read = match self.decoder.read(buffer) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => return Err(self.place.decode_error(error).into()),
        };
        self.raw_bytes += read as u64;
        let checked = if read == 0 {
            self.check_end()
        } else if self.raw_bytes > self.expected_raw_bytes {
            Err(PartDamage::RawSize {
                expected: self.expected_raw_bytes,
                found: self.raw_bytes,
            })
        } else {
            Ok(())
        };
        checked.map_err(|damage| self.place.damage(damage))?;
        Ok(read)
    }
}

impl PartPlace {
    pub(super) fn damage(&self, damage: PartDamage) -> BackupReadError {
        BackupReadError::Part {
            part: self.part,
            location: self.location.clone(),
            damage,
        }
    }

    /// Compares the object's size with `backup.json` before anything is read.
    pub(super) fn check_stored_size(
        &self,
        store: &dyn Store,
        key: &ObjectKey,
        info: &PartInfo,
    ) -> Result<(), BackupReadError> {
        match store.stat(key)? {
            None => Err(self.damage(PartDamage::Missing)),
            Some(meta) if meta.size != info.stored_bytes => {
                Err(self.damage(PartDamage::StoredSize {
                    expected: info.stored_bytes,
                    found: meta.size,
                }))
            }
            Some(_) => Ok(()),
        }
    }

    /// An error of the decoder, or of the store below it.
    fn decode_error(&self, error: io::Error) -> BackupReadError {
        match BackupReadError::recover(error) {
            Ok(error) => error,
            Err(error) => self.damage(PartDamage::Decode {
                reason: error.to_string(),
            }),
        }
    }

    /// An error of the tar layer, or of those below it.
    pub(super) fn tar_error(&self, error: TarError) -> BackupReadError {
        match error {
            TarError::Read(error) => self.decode_error(error),
            error => self.damage(PartDamage::Tar(error)),
        }
    }

    /// An error of the seekable layer, or of the store below it.
    pub(super) fn seekable_error(&self, error: SeekableError) -> BackupReadError {
        match error {
            SeekableError::Read(error) => self.decode_error(error),
            error => self.damage(PartDamage::Seekable(error)),
        }
    }

    /// Any error that came through a [`Read`].
    pub(super) fn io_error(&self, error: io::Error) -> BackupReadError {
        let error = match error.downcast::<TarError>() {
            Ok(error) => return self.tar_error(error),
            Err(error) => error,
        };
        match error.downcast::<SeekableError>() {
            Ok(error) => self.seekable_error(error),
            Err(error) => self.decode_error(error),
        }
    }
}

impl From<StoreError> for SeekableError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}

impl std::fmt::Debug for PartReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PartReader")
            .field("place", &self.place)
            .field("raw_bytes", &self.raw_bytes)
            .finish_non_exhaustive()
    }
}
