//! What the repository asks of the medium that it lies on.

mod address;
pub(crate) mod digest;
mod error;
#[cfg(any(feature = "sftp", feature = "ftp"))]
pub(crate) mod lease;
mod medium;
mod options;
mod remote_problem;
#[cfg(any(feature = "sftp", feature = "ftp"))]
pub(crate) mod retry;
mod secret;
#[cfg(any(feature = "sftp", feature = "ftp"))]
pub(crate) mod secret_file;
#[cfg(any(feature = "sftp", feature = "ftp"))]
pub(crate) mod server_address;
pub(crate) mod server_error;
pub(crate) mod shown;
#[cfg(any(feature = "sftp", feature = "ftp"))]
pub(crate) mod temp_name;
mod trace;

use std::any::Any;
use std::fmt;
use std::io::{Read, Write};
use std::ops::Range;

use crate::key::ObjectKey;

pub use address::{AddressError, open_store};
pub use digest::{ContentDigest, ContentHasher};
pub use error::{ErrorClass, NodeKind, Operation, SpaceLimit, StoreError};
pub use medium::{Medium, Promises};
pub use options::{AzOptions, FtpOptions, GsOptions, S3Options, SftpOptions, StoreOptions};
pub use remote_problem::RemoteProblem;
pub use secret::Secret;
pub use server_error::ServerError;
pub use shown::Shown;
pub use trace::ObjectTrace;

/// A place that keeps whole objects under keys, each written once.
///
/// Every implementation passes [`crate::conformance`]. What all promise:
///
/// - An object is there whole or not at all, whatever was killed.
/// - An object is never overwritten: of several writers one wins, the others
///   get [`StoreError::AlreadyExists`].
/// - `Ok` of [`ObjectWriter::publish`] means durable (synced, or acknowledged
///   by a remote store).
/// - Absence is only reported where it is proven; every doubt is an error.
///
/// A store that learns of its own lost answer may report `AlreadyExists` for
/// the object that it has just written itself. Who gets `AlreadyExists`
/// compares contents, calls [`Store::make_durable`], and takes equal contents
/// as success.
pub trait Store: Send + Sync + fmt::Debug {
    /// Where the store lies, for messages. Never holds a secret.
    fn location(&self) -> String;

    /// Where one object lies, for messages.
    fn object_location(&self, key: &ObjectKey) -> String {
        format!("{}/{key}", self.location())
    }

    /// Which of the promises that depend on the medium this store keeps, as far
    /// as it knows: those that [`Store::adopt`] told it of, and before that what
    /// such a medium usually keeps. A store around another passes this on, and
    /// [`Store::probe`], [`Store::adopt`] and [`Store::which_of`] too.
    fn promises(&self) -> Promises {
        Promises::ALL
    }

    /// Finds out what the medium keeps, by trying it with objects that no key
    /// names; leaves nothing behind. Only `init` calls this, after
    /// [`Store::establish`]; `pitr.json` records the outcome. `Ok(None)`: such a
    /// medium keeps all of [`Promises::ALL`] by its nature.
    ///
    /// # Errors
    /// The place cannot be written or read.
    fn probe(&self) -> Result<Option<Medium>, StoreError> {
        Ok(None)
    }

    /// Takes note of what [`Store::probe`] has found once: from now on
    /// [`Store::promises`] says so, and where a promise is missing, objects are
    /// published with the care that takes its place.
    fn adopt(&self, _medium: &Medium) {}

    /// Makes the place itself, when it does not exist: only `init` calls this.
    /// Nothing else ever does, because a missing place is an unmounted disk
    /// until proven otherwise.
    ///
    /// # Errors
    /// The place cannot be made, or is no place for objects.
    fn establish(&self) -> Result<(), StoreError>;

    /// Begins a new object. Nothing shows under `key` before
    /// [`ObjectWriter::publish`].
    ///
    /// `rivals` are other keys in the same folder that stand for the same
    /// thing (the same segment under another codec): if one of them exists,
    /// `publish` fails with `AlreadyExists` for that key. Of two writers that
    /// name each other as rivals only one wins, where the medium can hold a
    /// lock ([`Promises::exclusive_rivals`]); elsewhere at most one wins.
    /// Folders on the way are made.
    ///
    /// # Errors
    /// The place cannot be written. Not `AlreadyExists`, which `publish`
    /// reports.
    fn create(
        &self,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Box<dyn ObjectWriter>, StoreError>;

    /// Opens an object for reading from its first byte to its last.
    ///
    /// Errors while reading arrive as [`std::io::Error`] around a [`StoreError`]
    /// ([`StoreError::from_io`] takes it out).
    ///
    /// # Errors
    /// `NotFound` if absence is proven.
    fn open(&self, key: &ObjectKey) -> Result<Box<dyn Read + Send>, StoreError>;

    /// Reads the bytes `range` of an object, exactly as many as asked for.
    ///
    /// # Errors
    /// `NotFound`; `OutOfRange` if the object ends before the range does.
    fn read_range(&self, key: &ObjectKey, range: Range<u64>) -> Result<Vec<u8>, StoreError>;

    /// Size of an object. `Ok(None)` only if its absence is proven.
    ///
    /// # Errors
    /// Anything in doubt, also a folder or link in the object's place.
    fn stat(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError>;

    /// What tells the object from any other that may take its place, found out
    /// without reading it. `Ok(None)` only if its absence is proven.
    ///
    /// Two equal traces are taken as the same object by [`crate::wal::Recollection`],
    /// and by nobody else. Where a medium tells no more than the size, that is all.
    /// A store around another passes this on, and [`Store::shows_at_once`] too.
    ///
    /// # Errors
    /// As [`Store::stat`].
    fn trace(&self, key: &ObjectKey) -> Result<Option<ObjectTrace>, StoreError> {
        Ok(self.stat(key)?.map(|meta| ObjectTrace::of_size(meta.size)))
    }

    /// Whether showing an object takes no time once it is written and synced, as
    /// a rename does. Then many are written at the same time and shown in their
    /// order. Where the object travels when it is shown, order would cost the time of
    /// each, and unpublished objects lie in memory.
    fn shows_at_once(&self) -> bool {
        false
    }

    /// Those of `keys` that are there, in their order: each one's place among
    /// `keys`, and its size. The keys lie in one folder and begin with the first
    /// one's plain name, as the codecs' names of one file do. A key is left out
    /// only if its absence is proven.
    ///
    /// # Errors
    /// As [`Store::stat`].
    fn which_of(&self, keys: &[ObjectKey]) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        let mut there = Vec::new();
        for (place, key) in keys.iter().enumerate() {
            if let Some(meta) = self.stat(key)? {
                there.push((place, meta));
            }
        }
        Ok(there)
    }

    /// The first of those.
    ///
    /// # Errors
    /// As [`Store::stat`].
    fn first_of(&self, keys: &[ObjectKey]) -> Result<Option<(usize, ObjectMeta)>, StoreError> {
        Ok(self.which_of(keys)?.into_iter().next())
    }

    /// Says that the caller is about to read the small objects `documents`, and
    /// to ask [which of](Store::which_of) `names` are there. A store far away
    /// begins with all of it at once, and says so: the caller has something
    /// better to do than to wait. For every other this is nothing.
    fn expect(&self, _documents: &[ObjectKey], _names: &[ObjectKey]) -> bool {
        false
    }

    /// What lies directly in `folder` (`None`: in the root), sorted by name.
    ///
    /// Objects being written, held names and whatever has a name that no key
    /// can have are invisible. A folder that does not exist is empty.
    ///
    /// # Errors
    /// The folder cannot be read, or the root does not exist.
    fn list(&self, folder: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError>;

    /// Makes sure that an object which is there survives power loss.
    ///
    /// For one who found what he wanted to write: its writer may have been
    /// killed between showing it and making it durable. Where an object shows
    /// only once it is durable this does nothing.
    ///
    /// # Errors
    /// `NotFound`, or the object could not be made durable.
    fn make_durable(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Removes one object, durably.
    ///
    /// # Errors
    /// `NotFound` if it is not there.
    fn delete(&self, key: &ObjectKey) -> Result<(), StoreError>;

    /// Removes a folder with everything in it, debris of dead writers
    /// included, durably. A folder that does not exist is success.
    ///
    /// Not atomic: when it fails or is killed, a part may be left.
    ///
    /// # Errors
    /// Something in it could not be removed.
    fn delete_folder(&self, folder: &ObjectKey) -> Result<(), StoreError>;

    /// Marks `key` as being worked on by this process until the [`Hold`] is
    /// dropped or the process dies. `Ok(None)`: somebody who may be alive
    /// holds it.
    ///
    /// Neither `key` nor anything else becomes visible. `key` may be a folder
    /// that does not exist yet; its parent is made.
    ///
    /// # Errors
    /// The mark could not be set or read.
    fn hold(&self, key: &ObjectKey) -> Result<Option<Hold>, StoreError>;

    /// Makes sure that what is stored can be read: an encrypted store gets its
    /// key now, where it would do so at the first object otherwise.
    ///
    /// # Errors
    /// [`StoreError::Encryption`] where there is no key, or not the right one.
    fn check_readable(&self) -> Result<(), StoreError> {
        Ok(())
    }

    /// What digests the content of objects, where the store keeps a digest
    /// because nobody may be able to read the object itself. `None`: nobody has
    /// to.
    ///
    /// Content is what an object stands for: a segment's own bytes, not the
    /// compressed ones that are stored. A store around another passes this on,
    /// and [`Store::has_content`], [`Store::check_readable`] and
    /// [`ObjectWriter::set_content_digest`] too.
    fn content_hasher(&self) -> Option<ContentHasher> {
        None
    }

    /// Whether the content of the object has this digest, found out without
    /// any key. `None` where its writer left no digest
    /// ([`ObjectWriter::set_content_digest`]).
    ///
    /// # Errors
    /// `NotFound` if absence is proven.
    fn has_content(
        &self,
        _key: &ObjectKey,
        _digest: &ContentDigest,
    ) -> Result<Option<bool>, StoreError> {
        Ok(None)
    }

    /// Publishes a small object in one step: [`Store::create`], write,
    /// [`ObjectWriter::publish`].
    ///
    /// # Errors
    /// Those of the three steps, `AlreadyExists` among them.
    fn put(&self, key: &ObjectKey, rivals: &[ObjectKey], bytes: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.create(key, rivals)?;
        writer
            .write_all(bytes)
            .map_err(|e| StoreError::from_io(e, Operation::Write, &self.object_location(key)))?;
        writer.publish()
    }

    /// Reads a small object whole.
    ///
    /// # Errors
    /// `TooLarge` if it has more than `max_bytes`: nothing in a store is
    /// trusted to be as small as it should be.
    fn read_whole(&self, key: &ObjectKey, max_bytes: u64) -> Result<Vec<u8>, StoreError> {
        let reader = self.open(key)?;
        let location = self.object_location(key);
        let mut bytes = Vec::with_capacity(1024);
        let length = reader
            .take(max_bytes.saturating_add(1))
            .read_to_end(&mut bytes)
            .map_err(|e| StoreError::from_io(e, Operation::Read, &location))?;
        if u64::try_from(length).map_or(true, |length| length > max_bytes) {
            return Err(StoreError::TooLarge {
                location,
                max_bytes,
            });
        }
        Ok(bytes)
    }
}

/// A new object on its way into the store.
///
/// Dropping it without [`publish`](Self::publish) leaves nothing behind. After
/// an error of `write` it can only be dropped.
pub trait ObjectWriter: Write + Send {
    /// Shows the object under its key, durably and once.
    ///
    /// # Errors
    /// `AlreadyExists` if the key or a rival is taken; nothing is overwritten.
    /// After any other error the object may or may not be there; trying again
    /// from the beginning is safe.
    fn publish(self: Box<Self>) -> Result<(), StoreError>;

    /// Makes the content durable where that can be done before it shows. Nothing
    /// is written after it. [`publish`](Self::publish) and [`publish_beside`](Self::publish_beside) do
    /// it themselves; who has to wait before he shows the object calls it before
    /// he waits.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); after one the object can only be dropped.
    fn sync(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    /// The same as [`publish`](Self::publish), but for the object's name in its
    /// folder: that survives power loss only once [`Shown::settle_all`] has said
    /// so, which serves many objects of a folder at once.
    ///
    /// # Errors
    /// As [`publish`](Self::publish).
    fn publish_beside(self: Box<Self>) -> Result<Shown, StoreError> {
        self.publish().map(|()| Shown::durable())
    }

    /// Leaves the digest of the content with the object, for
    /// [`Store::has_content`]; made by [`Store::content_hasher`].
    fn set_content_digest(&mut self, _digest: &ContentDigest) {}
}

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectMeta {
    /// Stored size in bytes (compressed, where a codec was used; without what
    /// encryption adds).
    pub size: u64,
}

/// One name in a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Last component of the key: [`ObjectKey::join`] takes it.
    pub name: String,
    /// What carries the name.
    pub kind: EntryKind,
}

/// What a name in a folder stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EntryKind {
    /// An object.
    Object {
        /// Stored size in bytes.
        size: u64,
    },
    /// A folder.
    Folder,
    /// Something that no store makes: a link, a device. It can be neither
    /// opened nor written.
    Other,
}

/// Proof that this process works on a key; given up when dropped.
pub struct Hold(#[expect(dead_code, reason = "kept for its drop")] Box<dyn Any + Send + Sync>);

impl Hold {
    /// Wraps what gives up the mark when it is dropped.
    pub fn new(guard: impl Any + Send + Sync) -> Self {
        Self(Box::new(guard))
    }
}

impl fmt::Debug for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hold")
    }
}
