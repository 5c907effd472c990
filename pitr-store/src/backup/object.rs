//! An object of a backup on its way into the store.

use pitr_core::crc32c;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::write_error::BackupWriteError;
use crate::{ObjectKey, ObjectWriter, Operation, Store, StoreError};

/// Writes one object of a backup, and knows it again.
///
/// A remote store whose answer was lost may report `AlreadyExists` for the
/// object that this writer has just published itself. So the contents are
/// followed while they are written, and compared if that happens.
pub(super) struct BackupObject {
    store: Arc<dyn Store>,
    key: ObjectKey,
    object: Box<dyn ObjectWriter>,
    bytes: u64,
    crc32c: u32,
    /// Counts the bytes of all objects of the backup.
    total: Option<Arc<AtomicU64>>,
}

impl BackupObject {
    pub(super) fn create(store: &Arc<dyn Store>, key: ObjectKey) -> Result<Self, StoreError> {
        Ok(Self {
            object: store.create(&key, &[])?,
            store: Arc::clone(store),
            key,
            bytes: 0,
            crc32c: 0,
            total: None,
        })
    }

    /// The same, adding what is written to `total`.
    pub(super) fn counted_in(mut self, total: &Arc<AtomicU64>) -> Self {
        self.total = Some(Arc::clone(total));
        self
    }

    /// Where it will lie, for messages.
    pub(super) fn location(&self) -> String {
        self.store.object_location(&self.key)
    }

    /// Bytes written so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// CRC-32C of what was written so far.
    pub(super) fn crc32c(&self) -> u32 {
        self.crc32c
    }

    /// Shows the object under its key, durably. `Ok` also if it is there
    /// already with the same contents.
    ///
    /// # Errors
    /// `Foreign` if other contents are there, `Store`.
    pub(super) fn publish(self) -> Result<(), BackupWriteError> {
        match self.object.publish() {
            Err(StoreError::AlreadyExists { .. }) => {}
            published => return Ok(published?),
        }
        let is_ours = match contents(self.store.as_ref(), &self.key, self.bytes) {
            Ok(found) => found == (self.bytes, self.crc32c),
            // an encrypted store knows its own object by itself
            Err(StoreError::Encryption(_)) => false,
            Err(error) => return Err(error.into()),
        };
        if !is_ours {
            return Err(BackupWriteError::Foreign {
                location: self.store.object_location(&self.key),
            });
        }
        Ok(self.store.make_durable(&self.key)?)
    }
}

/// Length and CRC-32C of what is stored, read to one byte beyond `expected`.
fn contents(store: &dyn Store, key: &ObjectKey, expected: u64) -> Result<(u64, u32), StoreError> {
    let mut stored = store.open(key)?.take(expected.saturating_add(1));
    let (mut bytes, mut crc32c) = (0, 0);
    let mut buffer = vec![0; 256 << 10];
    loop {
        match stored.read(&mut buffer) {
            Ok(0) => return Ok((bytes, crc32c)),
            Ok(read) => {
                bytes += read as u64;
                crc32c = crc32c::crc32c_append(crc32c, &buffer[..read]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                let location = store.object_location(key);
                return Err(StoreError::from_io(error, Operation::Read, &location));
            }
        }
    }
}

impl Write for BackupObject {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.object.write(bytes)?;
        self.bytes += written as u64;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes[..written]);
        if let Some(total) = &self.total {
            total.fetch_add(written as u64, Ordering::Relaxed);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.object.flush()
    }
}

impl std::fmt::Debug for BackupObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupObject")
            .field("key", &self.key)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}
