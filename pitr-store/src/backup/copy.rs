//! Copying a backup from one repository into another, checked.

use std::io::{self, Read, Write as _};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::BackupCatalog;
use super::document;
use super::info::{BackupInfo, PartInfo};
use super::label::Label;
use super::object::BackupObject;
use super::read_error::BackupReadError;
use super::reader::BackupReader;
use super::write_error::BackupWriteError;
use super::writer::{DOCUMENT, MANIFEST};
use crate::{EntryKind, ObjectKey, Operation, Store, StoreError};

/// A backup is in the other repository too, and survives power loss there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackupCopied {
    /// It was stored now.
    Stored {
        /// Parts that were copied now.
        parts: usize,
        /// Parts that were there already: left by an interrupted copy, read back
        /// and found sound, or those of a backup that had lost others.
        kept_parts: usize,
    },
    /// It was there already.
    AlreadyPresent,
}

/// Why a backup was not copied. It does not exist in the target.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BackupCopyError {
    /// There is no complete backup of this label in the source.
    #[error("there is no backup {label} in \"{location}\"")]
    Absent {
        /// The label.
        label: Label,
        /// The source.
        location: String,
    },
    /// The repositories hold different backups of the same label.
    #[error("backup {label} is another one in \"{from}\" than in \"{to}\"")]
    Conflict {
        /// The label.
        label: Label,
        /// The document in the source.
        from: String,
        /// The document in the target.
        to: String,
    },
    /// Another process works on the same backup in the target.
    #[error("another process is writing \"{location}\"")]
    Busy {
        /// The backup's folder.
        location: String,
    },
    /// The target's backup is the same, but for one object that has another size.
    #[error("\"{location}\" has {found} bytes, backup {label} says {expected}")]
    Damaged {
        /// The label.
        label: Label,
        /// The object in the target.
        location: String,
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// The backup cannot be read whole.
    #[error(transparent)]
    Read(#[from] BackupReadError),
    /// It cannot be written.
    #[error(transparent)]
    Write(#[from] BackupWriteError),
    /// Another part has failed.
    #[error("another part of the backup could not be copied")]
    GivenUp,
}

impl From<StoreError> for BackupCopyError {
    fn from(error: StoreError) -> Self {
        Self::Write(error.into())
    }
}

impl BackupCopyError {
    /// Whether both repositories are in order as stores, and only this backup
    /// cannot be copied.
    pub fn is_of_one_backup(&self) -> bool {
        match self {
            Self::Absent { .. }
            | Self::Conflict { .. }
            | Self::Busy { .. }
            | Self::Damaged { .. } => true,
            Self::Read(BackupReadError::Store(_)) | Self::Write(_) | Self::GivenUp => false,
            Self::Read(_) => true,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Conflict { .. } => Some(
                "Two backups were begun within the same second. Neither is overwritten.".to_owned(),
            ),
            Self::Damaged { location, .. } => Some(format!(
                "Keep a copy of \"{location}\" and delete it: the next sync puts an intact one in its place."
            )),
            Self::Busy { .. } => Some("Run it again when that process has ended.".to_owned()),
            Self::Read(error) => error.hint(),
            Self::Write(error) => error.hint(),
            Self::Absent { .. } | Self::GivenUp => None,
        }
    }
}

impl BackupCatalog {
    /// Stores the backup `label` as it lies in the catalog `from` of the same
    /// cluster, with several threads; `progress` is told of stored bytes.
    ///
    /// Every part is unpacked while it is copied, and each file of it compared
    /// with the index before the part shows. `backup.json` comes last: until
    /// then the backup does not exist, and what an interrupted copy left is
    /// used by the next one, after it was read back. Where the target has this
    /// very backup, all its objects must be there with their sizes; one that has
    /// got lost is copied again.
    ///
    /// # Errors
    /// `Conflict` if another backup has the label, `Damaged` if an object of the
    /// same one has another size, `Busy`; nothing is ever overwritten.
    pub fn copy_from(
        &self,
        from: &Self,
        label: Label,
        threads: usize,
        progress: &(dyn Fn(u64) + Sync),
    ) -> Result<BackupCopied, BackupCopyError> {
        let absent = || BackupCopyError::Absent {
            label,
            location: from.store().location(),
        };
        let (from_location, document) = from.read_document(label)?.ok_or_else(absent)?;
        if self.standing(label, &from_location, &document)? == Standing::Whole {
            return Ok(BackupCopied::AlreadyPresent);
        }
        let folder = self.folder_of(label).map_err(BackupReadError::from)?;
        let busy = || BackupCopyError::Busy {
            location: self.store().object_location(&folder),
        };
        let _hold = self.store().hold(&folder)?.ok_or_else(busy)?;
        // somebody may have finished between the look and the hold
        let standing = self.standing(label, &from_location, &document)?;
        if standing == Standing::Whole {
            return Ok(BackupCopied::AlreadyPresent);
        }
        let parse = || {
            document::parse(&document, label).map_err(|source| BackupReadError::Document {
                location: from_location.clone(),
                source,
            })
        };
        let reader = from.open(label)?.ok_or_else(absent)?;
        let (info, index) = parse()?;
        let copy = Copy {
            store: self.store(),
            folder: &folder,
            // what the copy will be, once its document is there
            copied: BackupReader::new(Arc::clone(self.store()), folder.clone(), info, index),
            reader: &reader,
            progress,
            give_up: AtomicBool::new(false),
            exists: standing == Standing::Incomplete,
        };
        if !copy.exists {
            copy.clear_foreign()?;
        }
        let kept_parts = copy.parts(threads)?;
        copy.manifest()?;
        copy.check_objects()?;
        copy.put(DOCUMENT, &document)?;
        Ok(BackupCopied::Stored {
            parts: reader.info().parts.len().saturating_sub(kept_parts),
            kept_parts,
        })
    }

    /// How much this catalog has of the very backup that `document` describes.
    /// What has the right size is taken to be whole: whether it is, `verify` tells.
    fn standing(
        &self,
        label: Label,
        from: &str,
        document: &[u8],
    ) -> Result<Standing, BackupCopyError> {
        let Some((to, standing)) = self.read_document(label)? else {
            return Ok(Standing::Absent);
        };
        if standing != document {
            return Err(BackupCopyError::Conflict {
                label,
                from: from.to_owned(),
                to,
            });
        }
        let info =
            document::parse_info(&standing, label).map_err(|source| BackupReadError::Document {
                location: to,
                source,
            })?;
        let folder = self.folder_of(label).map_err(BackupReadError::from)?;
        let entries = self.store().list(Some(&folder))?;
        let mut is_whole = true;
        for (name, expected) in objects(&info) {
            let key = folder.join(&name).map_err(BackupReadError::from)?;
            let found = entries.iter().find(|entry| entry.name == name);
            match found.map(|entry| entry.kind) {
                Some(EntryKind::Object { size }) if size == expected => {}
                Some(EntryKind::Object { size }) => {
                    return Err(BackupCopyError::Damaged {
                        label,
                        location: self.store().object_location(&key),
                        expected,
                        found: size,
                    });
                }
                // what stands in its place, the copying finds out
                Some(_) | None => is_whole = false,
            }
        }
        if !is_whole {
            return Ok(Standing::Incomplete);
        }
        let key = folder.join(DOCUMENT).map_err(BackupReadError::from)?;
        // its writer may have been killed before the folder's sync
        self.store().make_durable(&key)?;
        Ok(Standing::Whole)
    }
}

/// How much of a backup a catalog has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// It does not exist there; parts of it may.
    Absent,
    /// It does, and has lost objects.
    Incomplete,
    Whole,
}

/// The names of a backup's objects but for the document, and their sizes.
fn objects(info: &BackupInfo) -> impl Iterator<Item = (String, u64)> {
    let parts = info.parts.iter();
    let parts = parts.map(|part| (part.name.to_string(), part.stored_bytes));
    let manifest = info.manifest.iter();
    let manifest = manifest.map(|manifest| (MANIFEST.to_owned(), manifest.bytes));
    parts.chain(manifest)
}

/// One backup on its way.
struct Copy<'c> {
    store: &'c Arc<dyn Store>,
    folder: &'c ObjectKey,
    copied: BackupReader,
    reader: &'c BackupReader,
    progress: &'c (dyn Fn(u64) + Sync),
    give_up: AtomicBool,
    /// Whether the backup exists in the target, and only lacks objects: then
    /// nothing of it is removed.
    exists: bool,
}

impl Copy<'_> {
    fn key(&self, name: &str) -> Result<ObjectKey, BackupCopyError> {
        let key = self.folder.join(name);
        Ok(key.map_err(BackupReadError::from)?)
    }

    /// Removes what is no part of this backup: left by one of the same label
    /// that was never finished.
    fn clear_foreign(&self) -> Result<(), BackupCopyError> {
        let info = self.reader.info();
        for entry in self.store.list(Some(self.folder))? {
            let is_ours = entry.name == MANIFEST
                || info
                    .parts
                    .iter()
                    .any(|part| part.name.to_string() == entry.name);
            if !is_ours && matches!(entry.kind, EntryKind::Object { .. }) {
                self.store.delete(&self.key(&entry.name)?)?;
            }
        }
        Ok(())
    }

    /// Copies all parts; gives how many were there already.
    fn parts(&self, threads: usize) -> Result<usize, BackupCopyError> {
        let mut parts: Vec<&PartInfo> = self.reader.info().parts.iter().collect();
        // the largest first, so that none is left for the end
        parts.sort_by_key(|part| std::cmp::Reverse(part.stored_bytes));
        let (next, kept) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let work = || -> Result<(), BackupCopyError> {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                if self.give_up.load(Ordering::Relaxed) {
                    return Err(BackupCopyError::GivenUp);
                }
                match self.part(part) {
                    Ok(true) => {
                        kept.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(false) => {}
                    Err(error) => {
                        self.give_up.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                }
            }
            Ok(())
        };
        let threads = threads.clamp(1, parts.len().max(1));
        let results: Vec<Result<(), BackupCopyError>> = std::thread::scope(|scope| {
            let others: Vec<_> = (1..threads)
                .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, work).ok())
                .collect();
            let mut results = vec![work()];
            results.extend(
                others
                    .into_iter()
                    .map(|thread| thread.join().unwrap_or(Err(BackupCopyError::GivenUp))),
            );
            results
        });
        // the one that failed by itself, and not because of another
        let mut errors: Vec<BackupCopyError> =
            results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| matches!(error, BackupCopyError::GivenUp));
        match errors.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(kept.load(Ordering::Relaxed)),
        }
    }

    /// Copies one part; whether a sound one was there already.
    fn part(&self, part: &PartInfo) -> Result<bool, BackupCopyError> {
        let key = self.key(&part.name.to_string())?;
        if self.store.stat(&key)?.is_some() {
            if self.exists {
                (self.progress)(part.stored_bytes);
                return Ok(true);
            }
            // left by an interrupted copy. The hold keeps others away, and
            // without its document the backup does not exist yet.
            match self.copied.verify_part(&part.name) {
                Ok(_) => {
                    self.store.make_durable(&key)?;
                    (self.progress)(part.stored_bytes);
                    return Ok(true);
                }
                Err(BackupReadError::Store(error)) if !error.is_locked() => {
                    return Err(error.into());
                }
                // damaged, or encrypted for others: it is copied again
                Err(_) => self.store.delete(&key)?,
            }
        }
        let slot = Slot(Arc::new(Mutex::new(Writing {
            object: Some(BackupObject::create(self.store, key.clone())?),
            failure: None,
        })));
        let verified = self.reader.verify_part_through(&part.name, |stored| {
            Box::new(Through {
                stored,
                slot: Slot(Arc::clone(&slot.0)),
            })
        });
        let mut writing = slot.lock();
        if let Some(error) = writing.failure.take() {
            let location = self.store.object_location(&key);
            return Err(StoreError::from_io(error, Operation::Write, &location).into());
        }
        verified?;
        let Some(object) = writing.object.take() else {
            return Err(BackupCopyError::GivenUp);
        };
        drop(writing);
        if object.bytes() != part.stored_bytes {
            return Err(BackupWriteError::Changed {
                location: object.location(),
                expected: part.stored_bytes,
                found: Some(object.bytes()),
            }
            .into());
        }
        object.publish()?;
        (self.progress)(part.stored_bytes);
        Ok(false)
    }

    fn manifest(&self) -> Result<(), BackupCopyError> {
        let Some(bytes) = self.reader.manifest()? else {
            return Ok(());
        };
        match self.put(MANIFEST, &bytes) {
            // of one that was never finished, as above
            Err(BackupCopyError::Write(BackupWriteError::Foreign { .. })) if !self.exists => {
                self.store.delete(&self.key(MANIFEST)?)?;
                self.put(MANIFEST, &bytes)
            }
            put => put,
        }
    }

    /// Publishes a small object. The same one may be there already.
    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), BackupCopyError> {
        let key = self.key(name)?;
        let location = self.store.object_location(&key);
        let mut object = BackupObject::create(self.store, key)?;
        object
            .write_all(bytes)
            .map_err(|error| StoreError::from_io(error, Operation::Write, &location))?;
        Ok(object.publish()?)
    }

    /// That everything is still there, before the backup begins to exist: the
    /// hold does not reach machines that cannot see it.
    fn check_objects(&self) -> Result<(), BackupCopyError> {
        for (name, expected) in objects(self.reader.info()) {
            let key = self.key(&name)?;
            let found = self.store.stat(&key)?.map(|meta| meta.size);
            if found != Some(expected) {
                return Err(BackupWriteError::Changed {
                    location: self.store.object_location(&key),
                    expected,
                    found,
                }
                .into());
            }
        }
        Ok(())
    }
}

/// The object that is being written, shared with the one who reads.
struct Slot(Arc<Mutex<Writing>>);

struct Writing {
    object: Option<BackupObject>,
    /// Why it does not take more; the reader is told something vaguer.
    failure: Option<io::Error>,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, Writing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes what is read through it.
struct Through {
    stored: Box<dyn Read + Send>,
    slot: Slot,
}

impl Read for Through {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.stored.read(buffer)?;
        let bytes = buffer.get(..length).unwrap_or(&[]);
        let mut writing = self.slot.lock();
        let written = match &mut writing.object {
            Some(object) => object.write_all(bytes),
            None => Ok(()),
        };
        if let Err(error) = written {
            writing.failure = Some(error);
            return Err(io::Error::other("the copy cannot be written"));
        }
        Ok(length)
    }
}
