//! An object on its way into the store, encrypted as it passes.

use std::fmt;
use std::io::{self, Write};
use std::sync::Arc;

use ring::digest::{Context, Digest, SHA256};

use super::cipher::ObjectCipher;
use super::document::PublicKey;
use super::format::{CHUNK_BYTES, HEADER_BYTES, Header, SEALED_CHUNK_BYTES, Trailer};
use crate::key::ObjectKey;
use crate::store::digest::HashContent;
use crate::store::{
    ContentDigest, ContentHasher, ObjectWriter, Operation, Shown, Store, StoreError,
};

/// Encrypts what is written to it into `output`. Holds one chunk.
pub struct SealingWriter<W> {
    output: W,
    cipher: ObjectCipher,
    header: Header,
    /// The chunk that is being filled.
    chunk: Vec<u8>,
    next_chunk: u64,
    /// A part was not written, or not wholly: the object can never be ended.
    has_failed: bool,
}

impl<W: Write> SealingWriter<W> {
    /// Begins the object named `name`: writes its header.
    ///
    /// # Errors
    /// `Encryption` if there is no key to be had, or `output` fails.
    pub fn new(
        mut output: W,
        public: &PublicKey,
        name: &ObjectKey,
        location: impl Fn() -> String,
    ) -> Result<Self, StoreError> {
        let (header, cipher) = ObjectCipher::for_new_object(public, name, &location)?;
        output
            .write_all(&header.to_bytes())
            .map_err(|e| StoreError::from_io(e, Operation::Write, &location()))?;
        Ok(Self {
            output,
            cipher,
            header,
            chunk: Vec::with_capacity(SEALED_CHUNK_BYTES),
            next_chunk: 0,
            has_failed: false,
        })
    }

    fn seal(&mut self, last: Option<&Trailer>) -> io::Result<()> {
        self.check()?;
        self.has_failed = true;
        self.cipher
            .seal(self.next_chunk, last, &mut self.chunk)
            .ok_or_else(|| io::Error::other("a chunk could not be encrypted"))?;
        self.next_chunk = self.next_chunk.saturating_add(1);
        self.output.write_all(&self.chunk)?;
        self.chunk.clear();
        self.has_failed = false;
        Ok(())
    }

    /// Refuses to go on behind a gap: a compressor writes its end also when it
    /// is dropped after an error.
    fn check(&self) -> io::Result<()> {
        if self.has_failed {
            return Err(io::Error::other("a part of the object was not written"));
        }
        Ok(())
    }

    /// Seals the last chunk, and gives back what the object was written to.
    ///
    /// # Errors
    /// Of the output.
    pub fn finish(mut self, digest: Option<[u8; 32]>) -> io::Result<W> {
        let trailer = Trailer { digest };
        self.seal(Some(&trailer))?;
        self.output.write_all(&trailer.to_bytes())?;
        Ok(self.output)
    }
}

impl<W: Write> Write for SealingWriter<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.check()?;
        // a full chunk waits until it is known not to be the last one
        if self.chunk.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.seal(None)?;
        }
        let length = bytes.len().min(CHUNK_BYTES - self.chunk.len());
        self.chunk.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    /// What is in the unfinished chunk stays there.
    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

impl<W> fmt::Debug for SealingWriter<W> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealingWriter")
            .field("next_chunk", &self.next_chunk)
            .finish_non_exhaustive()
    }
}

/// An object of an [`EncryptedStore`](super::EncryptedStore).
pub(super) struct EncryptedWriter {
    store: Arc<dyn Store>,
    key: ObjectKey,
    header: Header,
    stage: Stage,
    digest: Option<[u8; 32]>,
}

/// How far an object is.
enum Stage {
    Sealing(Box<SealingWriter<Box<dyn ObjectWriter>>>),
    /// Its last chunk is sealed.
    Sealed(Box<dyn ObjectWriter>),
    /// Its end could not be written.
    Failed,
}

impl EncryptedWriter {
    pub(super) fn new(
        store: &Arc<dyn Store>,
        public: &PublicKey,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Self, StoreError> {
        let output = store.create(key, rivals)?;
        let sealing = SealingWriter::new(output, public, key, || store.object_location(key))?;
        Ok(Self {
            store: Arc::clone(store),
            key: key.clone(),
            header: sealing.header,
            stage: Stage::Sealing(Box::new(sealing)),
            digest: None,
        })
    }

    /// The whole object, on its way into the other store.
    fn seal(&mut self) -> Result<&mut Box<dyn ObjectWriter>, StoreError> {
        let failed = |error| {
            let location = self.store.object_location(&self.key);
            StoreError::from_io(error, Operation::Write, &location)
        };
        self.stage = match std::mem::replace(&mut self.stage, Stage::Failed) {
            Stage::Sealing(sealing) => Stage::Sealed(sealing.finish(self.digest).map_err(failed)?),
            other => other,
        };
        match &mut self.stage {
            Stage::Sealed(object) => Ok(object),
            Stage::Sealing(_) | Stage::Failed => Err(failed(has_ended())),
        }
    }

    /// Shows the whole object by `show`.
    fn end<T>(
        mut self,
        show: impl FnOnce(Box<dyn ObjectWriter>) -> Result<T, StoreError>,
        durable: impl FnOnce() -> T,
    ) -> Result<T, StoreError> {
        self.seal()?;
        let Stage::Sealed(object) = self.stage else {
            let location = self.store.object_location(&self.key);
            return Err(StoreError::from_io(
                has_ended(),
                Operation::Write,
                &location,
            ));
        };
        match show(object) {
            // A store whose answer was lost may say so of the object that was
            // written just now. Contents cannot be compared without the private
            // key, but no two objects have the same header.
            Err(StoreError::AlreadyExists { key, location }) if key == self.key => {
                let whole = 0..u64::try_from(HEADER_BYTES).unwrap_or(u64::MAX);
                match self.store.read_range(&key, whole) {
                    Ok(found) if found == self.header.to_bytes() => {
                        self.store.make_durable(&key)?;
                        Ok(durable())
                    }
                    // whoever asks next learns what stands there
                    _ => Err(StoreError::AlreadyExists { key, location }),
                }
            }
            shown => shown,
        }
    }
}

fn has_ended() -> io::Error {
    io::Error::other("the object has ended already")
}

impl Write for EncryptedWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.stage {
            Stage::Sealing(sealing) => sealing.write(bytes),
            Stage::Sealed(_) | Stage::Failed => Err(has_ended()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.stage {
            Stage::Sealing(sealing) => sealing.flush(),
            Stage::Sealed(_) | Stage::Failed => Err(has_ended()),
        }
    }
}

impl ObjectWriter for EncryptedWriter {
    fn publish(self: Box<Self>) -> Result<(), StoreError> {
        (*self).end(|object| object.publish(), || ())
    }

    fn sync(&mut self) -> Result<(), StoreError> {
        self.seal()?.sync()
    }

    fn publish_beside(self: Box<Self>) -> Result<Shown, StoreError> {
        (*self).end(|object| object.publish_beside(), Shown::durable)
    }

    fn set_content_digest(&mut self, digest: &ContentDigest) {
        self.digest = Some(salted(&self.header, digest));
    }
}

/// SHA-256 of a content.
struct Sha256(Context);

impl HashContent for Sha256 {
    fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(self: Box<Self>) -> ContentDigest {
        ContentDigest(array(self.0.finish()))
    }
}

/// What digests the content of objects.
pub(super) fn content_hasher() -> ContentHasher {
    ContentHasher::new(Sha256(Context::new(&SHA256)))
}

/// The digest as it lies in the object with this header: hashed once more
/// behind the object's own public key, so that nothing can be prepared for it.
pub(super) fn salted(header: &Header, digest: &ContentDigest) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    context.update(&header.ephemeral);
    context.update(&digest.0);
    array(context.finish())
}

fn array(digest: Digest) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest.as_ref());
    bytes
}
