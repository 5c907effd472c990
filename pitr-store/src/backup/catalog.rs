//! The base backups of one cluster.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::document;
use super::info::BackupInfo;
use super::label::Label;
use super::options::BackupOptions;
use super::read_error::BackupReadError;
use super::reader::BackupReader;
use super::write_error::BackupWriteError;
use super::writer::{BackupWriter, DOCUMENT, MAX_DOCUMENT_BYTES};
use crate::{EntryKind, ObjectKey, ObjectKeyError, Store, StoreError};

/// Seconds that are tried for a free label.
const MAX_LABEL_TRIES: u32 = 3600;

/// The folder `backups` of a cluster: `backups/<label>/backup.json` and what
/// belongs to it.
#[derive(Debug, Clone)]
pub struct BackupCatalog {
    store: Arc<dyn Store>,
    folder: ObjectKey,
}

/// What a catalog holds.
#[derive(Debug, Default)]
pub struct Listing {
    /// Complete backups, oldest first.
    pub backups: Vec<BackupInfo>,
    /// Backups whose `backup.json` is there but cannot be used.
    pub damaged: Vec<DamagedBackup>,
}

/// A backup whose `backup.json` cannot be used.
#[derive(Debug)]
pub struct DamagedBackup {
    /// Its label.
    pub label: Label,
    /// What is wrong.
    pub error: BackupReadError,
}

/// A complete backup, as far as names and sizes tell of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupOutline {
    /// Its label: when it was begun.
    pub label: Label,
    /// Bytes of all its objects.
    pub stored_bytes: u64,
}

/// What [`BackupCatalog::clean_abandoned`] has found.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Cleaned {
    /// Unfinished backups of dead writers, now removed.
    pub removed: Vec<Label>,
    /// Unfinished backups that somebody is still writing.
    pub running: Vec<Label>,
}

impl BackupCatalog {
    /// The catalog in `folder` (`<system identifier>/backups`). Touches nothing.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, folder: ObjectKey) -> Self {
        Self { store, folder }
    }

    /// The store that the backups lie on.
    pub(super) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Complete backups, oldest first. A folder without `backup.json` is none.
    ///
    /// A backup whose document is damaged does not hide the others.
    ///
    /// # Errors
    /// Of the store: then nothing is known of what there is.
    pub fn list(&self) -> Result<Listing, BackupReadError> {
        let mut listing = Listing::default();
        for label in self.labels()? {
            match self.get(label) {
                Ok(Some(info)) => listing.backups.push(info),
                Ok(None) => {}
                Err(error) if error.is_of_one_document() => {
                    listing.damaged.push(DamagedBackup { label, error });
                }
                Err(error) => return Err(error),
            }
        }
        Ok(listing)
    }

    /// Complete backups, oldest first, by their names and sizes alone: for who
    /// cannot read an encrypted repository.
    ///
    /// # Errors
    /// Of the store.
    pub fn outlines(&self) -> Result<Vec<BackupOutline>, BackupReadError> {
        let mut outlines = Vec::new();
        for label in self.labels()? {
            if !self.is_complete(label)? {
                continue;
            }
            let entries = self.store.list(Some(&self.folder_of(label)?))?;
            let sizes = entries.iter().map(|entry| match entry.kind {
                EntryKind::Object { size } => size,
                EntryKind::Folder | EntryKind::Other => 0,
            });
            outlines.push(BackupOutline {
                label,
                stored_bytes: sizes.fold(0, u64::saturating_add),
            });
        }
        Ok(outlines)
    }

    /// One backup; `None` if there is no complete one of this label.
    ///
    /// # Errors
    /// `Store`, or `Document` if its `backup.json` cannot be used.
    pub fn get(&self, label: Label) -> Result<Option<BackupInfo>, BackupReadError> {
        let Some((location, bytes)) = self.read_document(label)? else {
            return Ok(None);
        };
        let info = document::parse_info(&bytes, label);
        info.map(Some)
            .map_err(|source| BackupReadError::Document { location, source })
    }

    /// Opens a backup for reading, index included; `None` if there is no
    /// complete one of this label.
    ///
    /// # Errors
    /// As [`BackupCatalog::get`].
    pub fn open(&self, label: Label) -> Result<Option<BackupReader>, BackupReadError> {
        let Some((location, bytes)) = self.read_document(label)? else {
            return Ok(None);
        };
        let (info, index) = document::parse(&bytes, label)
            .map_err(|source| BackupReadError::Document { location, source })?;
        let folder = self.folder_of(label)?;
        Ok(Some(BackupReader::new(
            Arc::clone(&self.store),
            folder,
            info,
            index,
        )))
    }

    /// Begins a backup named after `now`, or after the first second from then
    /// on that no backup has, finished or not.
    ///
    /// The name is reserved by [`Store::hold`] on its folder before anything
    /// is written; the hold lasts until the writer is dropped or its process
    /// has died.
    ///
    /// # Errors
    /// `NoFreeLabel` if the hour from `now` on is taken, `Store`, `Threads`.
    pub fn begin(
        &self,
        now: DateTime<Utc>,
        options: BackupOptions,
    ) -> Result<BackupWriter, BackupWriteError> {
        let first = Label::new(now).ok_or(BackupWriteError::Time)?;
        let mut label = first;
        for _ in 0..MAX_LABEL_TRIES {
            let folder = self.folder.join(&label.to_string())?;
            if !self.is_taken(label)?
                && let Some(hold) = self.store.hold(&folder)?
                // somebody may have finished between the look and the hold
                && !self.is_taken(label)?
            {
                let store = Arc::clone(&self.store);
                return BackupWriter::new(store, folder, label, hold, options);
            }
            label = label.next().ok_or(BackupWriteError::Time)?;
        }
        Err(BackupWriteError::NoFreeLabel { first, last: label })
    }

    /// Removes what dead writers left: folders without `backup.json` that
    /// nobody holds. One that somebody is still writing is left alone.
    ///
    /// # Errors
    /// Of the store.
    pub fn clean_abandoned(&self) -> Result<Cleaned, BackupReadError> {
        let mut cleaned = Cleaned::default();
        for label in self.labels()? {
            if self.is_complete(label)? {
                continue;
            }
            let folder = self.folder_of(label)?;
            let Some(_hold) = self.store.hold(&folder)? else {
                cleaned.running.push(label);
                continue;
            };
            // its writer may have finished between the look and the hold
            if !self.is_complete(label)? {
                self.store.delete_folder(&folder)?;
                cleaned.removed.push(label);
            }
        }
        Ok(cleaned)
    }

    /// Labels of all folders, finished or not, in order. Other names are none
    /// of ours and passed over.
    fn labels(&self) -> Result<Vec<Label>, StoreError> {
        let entries = self.store.list(Some(&self.folder))?;
        let folders = entries
            .iter()
            .filter(|entry| entry.kind == EntryKind::Folder);
        let mut labels: Vec<Label> = folders
            .filter_map(|entry| entry.name.parse().ok())
            .collect();
        labels.sort_unstable();
        Ok(labels)
    }

    /// Whether anything at all has this name.
    fn is_taken(&self, label: Label) -> Result<bool, StoreError> {
        let name = label.to_string();
        let entries = self.store.list(Some(&self.folder))?;
        Ok(entries.iter().any(|entry| entry.name == name))
    }

    fn is_complete(&self, label: Label) -> Result<bool, BackupReadError> {
        let key = self.folder_of(label)?.join(DOCUMENT)?;
        Ok(self.store.stat(&key)?.is_some())
    }

    pub(super) fn folder_of(&self, label: Label) -> Result<ObjectKey, ObjectKeyError> {
        self.folder.join(&label.to_string())
    }

    /// Location and bytes of `backup.json`; `None` if its absence is proven.
    pub(super) fn read_document(
        &self,
        label: Label,
    ) -> Result<Option<(String, Vec<u8>)>, BackupReadError> {
        let key = self.folder_of(label)?.join(DOCUMENT)?;
        match self.store.read_whole(&key, MAX_DOCUMENT_BYTES) {
            Ok(bytes) => Ok(Some((self.store.object_location(&key), bytes))),
            Err(error) if error.is_absence() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}
