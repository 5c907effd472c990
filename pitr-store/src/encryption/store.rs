//! A store whose objects are encrypted in another one.

use std::collections::VecDeque;
use std::fmt;
use std::io::Read;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::cipher::ObjectCipher;
use super::document::EncryptionDocument;
use super::error::{Damage, EncryptionError};
use super::format::{Extent, HEADER_BYTES, Header, SEALED_CHUNK_BYTES, TRAILER_BYTES, Trailer};
use super::keyring;
use super::keys::KeySource;
use super::reader::DecryptingReader;
use super::secret::RepositorySecret;
use super::writer::{EncryptedWriter, content_hasher, salted};
use crate::key::ObjectKey;
use crate::store::{
    ContentDigest, ContentHasher, Entry, EntryKind, Hold, Medium, ObjectMeta, ObjectTrace,
    ObjectWriter, Promises, Store, StoreError,
};

/// Objects of which header and size are remembered, for the next range.
const REMEMBERED: usize = 32;

/// Encrypts every object on its way into another store, and decrypts it on its
/// way back. Names, and sizes but for what encryption adds, are those of the
/// other store.
///
/// Writing needs the public key alone. The private key is fetched when the
/// first object is read (or by [`Store::check_readable`]), and kept.
///
/// An object is bound to its key: copied as it is to the same key of a store
/// with the same key pair it reads, and nowhere else. Who copies between
/// repositories of different key pairs reads here and writes there.
pub struct EncryptedStore {
    inner: Arc<dyn Store>,
    document: EncryptionDocument,
    keys: KeySource,
    secret: Mutex<Option<Arc<RepositorySecret>>>,
    remembered: Mutex<VecDeque<(ObjectKey, Arc<OpenObject>)>>,
}

/// What is needed for any range of an object.
struct OpenObject {
    cipher: ObjectCipher,
    extent: Extent,
}

impl EncryptedStore {
    /// Encrypts into `inner`. Touches nothing.
    pub fn new(inner: Arc<dyn Store>, document: EncryptionDocument, keys: KeySource) -> Self {
        Self {
            inner,
            document,
            keys,
            secret: Mutex::default(),
            remembered: Mutex::default(),
        }
    }

    /// The private key. A failure is not kept: the next call tries again.
    fn secret(&self) -> Result<Arc<RepositorySecret>, StoreError> {
        let mut known = lock(&self.secret);
        if let Some(secret) = &*known {
            return Ok(Arc::clone(secret));
        }
        let secret = keyring::unlock(&self.inner, &self.document, &self.keys)?;
        Ok(Arc::clone(known.insert(Arc::new(secret))))
    }

    fn damaged(&self, key: &ObjectKey, damage: Damage) -> StoreError {
        EncryptionError::DamagedObject {
            location: self.inner.object_location(key),
            damage,
        }
        .into()
    }

    fn extent(&self, key: &ObjectKey) -> Result<Extent, StoreError> {
        let Some(meta) = self.inner.stat(key)? else {
            return Err(StoreError::NotFound {
                location: self.inner.object_location(key),
            });
        };
        Extent::of_stored(meta.size).ok_or_else(|| self.damaged(key, Damage::End))
    }

    fn header(&self, key: &ObjectKey) -> Result<Header, StoreError> {
        let bytes = self.inner.read_range(key, 0..wide(HEADER_BYTES))?;
        Header::parse(&bytes).map_err(|damage| self.damaged(key, damage))
    }

    /// The object as it was remembered, and whether it was.
    fn open_object(&self, key: &ObjectKey) -> Result<(Arc<OpenObject>, bool), StoreError> {
        let found = lock(&self.remembered)
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, object)| Arc::clone(object));
        if let Some(object) = found {
            return Ok((object, true));
        }
        let secret = self.secret()?;
        let extent = self.extent(key)?;
        let header = self.header(key)?;
        let cipher = ObjectCipher::of_object(&secret, &header, key)
            .map_err(|damage| self.damaged(key, damage))?;
        let object = Arc::new(OpenObject { cipher, extent });
        let mut remembered = lock(&self.remembered);
        remembered.truncate(REMEMBERED - 1);
        remembered.push_front((key.clone(), Arc::clone(&object)));
        Ok((object, false))
    }

    fn forget(&self, key: &ObjectKey) {
        lock(&self.remembered).retain(|(known, _)| known != key);
    }

    fn read_chunks(
        &self,
        key: &ObjectKey,
        object: &OpenObject,
        range: Range<u64>,
    ) -> Result<Vec<u8>, StoreError> {
        let extent = &object.extent;
        if range.start > extent.content_bytes || range.end > extent.content_bytes {
            return Err(StoreError::OutOfRange {
                location: self.inner.object_location(key),
                begin: range.start,
                end: range.end,
                size_bytes: extent.content_bytes,
            });
        }
        let Some(last_byte) = range.end.checked_sub(1).filter(|last| *last >= range.start) else {
            return Ok(Vec::new());
        };
        let (first, last) = (Extent::chunk_of(range.start), Extent::chunk_of(last_byte));
        let with_trailer = extent.is_last(last);
        let stored_end = if with_trailer {
            extent.stored_bytes()
        } else {
            Extent::chunk_offset(last + 1)
        };
        let stored = Extent::chunk_offset(first)..stored_end;
        let mut sealed = self.inner.read_range(key, stored)?;
        let trailer = if with_trailer {
            let split = sealed.len().saturating_sub(TRAILER_BYTES);
            let trailer = sealed.split_off(split);
            Some(Trailer::parse(&trailer).map_err(|damage| self.damaged(key, damage))?)
        } else {
            None
        };
        let mut content = Vec::with_capacity(sealed.len());
        let chunks = sealed.chunks_mut(SEALED_CHUNK_BYTES);
        for (number, chunk) in (first..=last).zip(chunks) {
            let trailer = trailer.as_ref().filter(|_| number == last);
            let opened = object
                .cipher
                .open(number, trailer, chunk)
                .map_err(|damage| self.damaged(key, damage))?;
            content.extend_from_slice(opened);
        }
        let skip = usize::try_from(range.start - Extent::content_offset(first));
        let length = usize::try_from(range.end - range.start);
        content.drain(..skip.unwrap_or(usize::MAX).min(content.len()));
        content.truncate(length.unwrap_or(usize::MAX));
        if length != Ok(content.len()) {
            return Err(self.damaged(key, Damage::End));
        }
        Ok(content)
    }
}

/// What the content of an object with this size has; nothing, where no
/// encrypted object has it: reading tells what is wrong.
fn content_size(stored_bytes: u64) -> u64 {
    Extent::of_stored(stored_bytes).map_or(0, |extent| extent.content_bytes)
}

fn wide(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// A thread that panicked leaves nothing half done in what is locked here.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Store for EncryptedStore {
    fn location(&self) -> String {
        self.inner.location()
    }

    fn object_location(&self, key: &ObjectKey) -> String {
        self.inner.object_location(key)
    }

    fn promises(&self) -> Promises {
        self.inner.promises()
    }

    fn probe(&self) -> Result<Option<Medium>, StoreError> {
        self.inner.probe()
    }

    fn adopt(&self, medium: &Medium) {
        self.inner.adopt(medium);
    }

    fn establish(&self) -> Result<(), StoreError> {
        self.inner.establish()
    }

    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError> {
        let public = &self.document.public_key;
        let writer = EncryptedWriter::new(&self.inner, public, key, rivals)?;
        Ok(Box::new(writer))
    }

    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError> {
        // the object first: that it is absent needs no key
        let input = self.inner.open(key)?;
        let secret = self.secret()?;
        let location = self.inner.object_location(key);
        let reader = DecryptingReader::new(input, &secret, key, location)?;
        Ok(Box::new(reader))
    }

    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let (object, was_remembered) = self.open_object(key)?;
        let content = self.read_chunks(key, &object, range.clone());
        if content.is_ok() || !was_remembered {
            return content;
        }
        // another object may lie there since it was deleted
        self.forget(key);
        let (object, _) = self.open_object(key)?;
        self.read_chunks(key, &object, range)
    }

    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let meta = self.inner.stat(key)?;
        Ok(meta.map(|meta| ObjectMeta {
            size: content_size(meta.size),
        }))
    }

    fn trace(&self, key: &ObjectKey) -> Result<Option<ObjectTrace>, StoreError> {
        self.inner.trace(key)
    }

    fn shows_at_once(&self) -> bool {
        self.inner.shows_at_once()
    }

    fn expect(&self, documents: &[ObjectKey], names: &[ObjectKey]) -> bool {
        self.inner.expect(documents, names)
    }

    fn which_of(&self, keys: &[ObjectKey]) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        let mut there = self.inner.which_of(keys)?;
        for (_, meta) in &mut there {
            meta.size = content_size(meta.size);
        }
        Ok(there)
    }

    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        let mut entries = self.inner.list(folder)?;
        for entry in &mut entries {
            if let EntryKind::Object { size } = &mut entry.kind {
                *size = content_size(*size);
            }
        }
        Ok(entries)
    }

    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.inner.make_durable(key)
    }

    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError> {
        self.forget(key);
        self.inner.delete(key)
    }

    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError> {
        lock(&self.remembered).clear();
        self.inner.delete_folder(folder)
    }

    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
        self.inner.hold(key)
    }

    fn check_readable(&self) -> Result<(), StoreError> {
        self.secret().map(|_| ())
    }

    fn content_hasher(&self) -> Option<ContentHasher> {
        Some(content_hasher())
    }

    fn has_content(
        &self,
        key: &ObjectKey,
        digest: &ContentDigest,
    ) -> Result<Option<bool>, StoreError> {
        let end = self.extent(key)?.stored_bytes();
        let header = self.header(key)?;
        let begin = end.saturating_sub(wide(TRAILER_BYTES));
        let trailer = self.inner.read_range(key, begin..end)?;
        let trailer = Trailer::parse(&trailer).map_err(|damage| self.damaged(key, damage))?;
        Ok(trailer
            .digest
            .map(|stored| stored == salted(&header, digest)))
    }
}

impl fmt::Debug for EncryptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EncryptedStore")
            .field("inner", &self.inner)
            .field("document", &self.document)
            .field("keys", &self.keys)
            .finish_non_exhaustive()
    }
}
