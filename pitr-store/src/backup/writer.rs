//! A base backup on its way into the store.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::archive_writer::ArchiveWriter;
use super::document;
use super::frame_pool::FramePool;
use super::index::{BackupIndex, PartIndex};
use super::info::{BackupDetails, BackupInfo, FORMAT, ManifestInfo, PartInfo, Sizes};
use super::label::Label;
use super::member_path::MemberPath;
use super::object::BackupObject;
use super::options::BackupOptions;
use super::part_name::Archive;
use super::part_writer::{PartWriter, WrittenPart};
use super::transfer::Transfers;
use super::write_error::BackupWriteError;
use crate::{Hold, ObjectKey, Operation, Store, StoreError};

/// Name of the document that makes a backup exist.
pub(super) const DOCUMENT: &str = "backup.json";

/// Name of PostgreSQL's manifest beside it.
pub(super) const MANIFEST: &str = "backup_manifest";

/// Largest `backup.json` that is written and read: ten million files fit.
pub(super) const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// Largest manifest that is written and read: ten million files fit.
pub(super) const MAX_MANIFEST_BYTES: u64 = 2 << 30;

/// Largest member that is collected while it passes.
const MAX_COLLECTED_BYTES: u64 = 1 << 20;

/// Files without which a backup cannot be restored.
const INDISPENSABLE: [&str; 2] = ["backup_label", "global/pg_control"];

/// How far the writing is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of tar archives taken in.
    pub raw_bytes: u64,
    /// Compressed bytes handed to the store.
    pub stored_bytes: u64,
}

/// Writes one base backup: archives, manifest, and at last `backup.json`.
///
/// Dropping it before [`BackupWriter::commit`] removes what was written. A
/// process that is killed leaves a folder without `backup.json`, which no
/// reader takes for a backup and
/// [`BackupCatalog::clean_abandoned`](super::BackupCatalog::clean_abandoned)
/// removes; until then the writer's hold keeps the folder from being taken
/// for abandoned.
pub struct BackupWriter {
    pub(super) store: Arc<dyn Store>,
    pub(super) folder: ObjectKey,
    pub(super) options: BackupOptions,
    pub(super) pool: Arc<FramePool>,
    pub(super) unfinished: Option<Archive>,
    label: Label,
    /// Given up last, after the folder is gone or complete.
    _hold: Hold,
    transfers: Arc<Transfers>,
    /// Written whole and being made durable, in order.
    publishing: VecDeque<WrittenPart>,
    archives: BTreeSet<Archive>,
    parts: Vec<PartInfo>,
    index: Vec<PartIndex>,
    manifest: Option<(u64, u32)>,
    collected: BTreeMap<MemberPath, Vec<u8>>,
    raw_bytes: u64,
    stored_bytes: Arc<AtomicU64>,
    progress: Option<Box<dyn FnMut(Progress) + Send>>,
    committed: bool,
    /// Whether somebody else's objects lie in the folder.
    is_shared: bool,
}

impl BackupWriter {
    pub(super) fn new(
        store: Arc<dyn Store>,
        folder: ObjectKey,
        label: Label,
        hold: Hold,
        options: BackupOptions,
    ) -> Result<Self, BackupWriteError> {
        let pool = match options.threads {
            Some(threads) => FramePool::new(threads, options.level),
            None => FramePool::with_all_processors(options.level),
        };
        Ok(Self {
            store,
            folder,
            pool: Arc::new(pool.map_err(BackupWriteError::Threads)?),
            transfers: Arc::new(Transfers::new(options.waiting_bytes)),
            options,
            unfinished: None,
            label,
            _hold: hold,
            publishing: VecDeque::new(),
            archives: BTreeSet::new(),
            parts: Vec::new(),
            index: Vec::new(),
            manifest: None,
            collected: BTreeMap::new(),
            raw_bytes: 0,
            stored_bytes: Arc::default(),
            progress: None,
            committed: false,
            is_shared: false,
        })
    }

    /// Name of the backup.
    #[must_use]
    pub fn label(&self) -> Label {
        self.label
    }

    /// Where it is being written, for messages.
    #[must_use]
    pub fn location(&self) -> String {
        self.store.object_location(&self.folder)
    }

    /// Calls `progress` about every 256 KiB and after every small member.
    pub fn on_progress(&mut self, progress: impl FnMut(Progress) + Send + 'static) {
        self.progress = Some(Box::new(progress));
    }

    /// How far the writing is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        Progress {
            raw_bytes: self.raw_bytes,
            stored_bytes: self.stored_bytes.load(Ordering::Relaxed),
        }
    }

    /// Contents of a file of [`BackupOptions::collect`] that has passed, by its
    /// path in the manifest.
    #[must_use]
    pub fn collected(&self, path: &str) -> Option<&[u8]> {
        let path: MemberPath = path.parse().ok()?;
        self.collected.get(&path).map(Vec::as_slice)
    }

    /// Repacks a whole tar archive, as PostgreSQL sends it, into parts.
    ///
    /// Reads `tar` to its end. The zero blocks at its end may be missing, as
    /// servers up to 14 send it; whatever else is missing is an error.
    ///
    /// # Errors
    /// `Tar`, `Store`, or `Twice` if this archive was there before. The writer
    /// is then of no more use.
    pub fn add_tar(&mut self, archive: Archive, tar: impl Read) -> Result<(), BackupWriteError> {
        let mut writer = self.archive(archive)?;
        writer.append_tar(tar)?;
        writer.finish()
    }

    /// Begins an archive, to be filled member by member.
    ///
    /// # Errors
    /// `Twice` if this archive was there before, `Unfinished` if the one
    /// before it was not finished.
    pub fn archive(&mut self, archive: Archive) -> Result<ArchiveWriter<'_>, BackupWriteError> {
        self.check_finished()?;
        if !self.archives.insert(archive) {
            return Err(BackupWriteError::Twice {
                what: format!("archive \"{archive}\""),
            });
        }
        self.unfinished = Some(archive);
        Ok(ArchiveWriter::new(self, archive))
    }

    /// Stores PostgreSQL's manifest as it is, and returns its size in bytes.
    ///
    /// # Errors
    /// `Manifest` if `manifest` cannot be read, `Store`, `Twice`.
    pub fn put_manifest(&mut self, mut manifest: impl Read) -> Result<u64, BackupWriteError> {
        if self.manifest.is_some() {
            return Err(BackupWriteError::Twice {
                what: "the backup manifest".to_owned(),
            });
        }
        let key = self.folder.join(MANIFEST)?;
        let mut object = BackupObject::create(&self.store, key)?;
        let mut buffer = vec![0; 64 << 10];
        loop {
            let found = match manifest.read(&mut buffer) {
                Ok(0) => break,
                Ok(found) => found,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(BackupWriteError::Manifest(error)),
            };
            object.write_all(&buffer[..found]).map_err(|error| {
                StoreError::from_io(error, Operation::Write, &object.location())
            })?;
        }
        let (bytes, crc32c) = (object.bytes(), object.crc32c());
        check_size(MANIFEST, bytes, MAX_MANIFEST_BYTES)?;
        self.watch(object.publish())?;
        self.manifest = Some((bytes, crc32c));
        Ok(bytes)
    }

    /// Every file stored so far with its length and checksum, part by part;
    /// waits for the parts that are being published.
    ///
    /// # Errors
    /// `Unfinished` while an archive is being filled, `Store` of the last part.
    pub fn files(&mut self) -> Result<&[PartIndex], BackupWriteError> {
        self.check_finished()?;
        self.settle()?;
        Ok(&self.index)
    }

    /// Makes the backup exist: writes `backup.json`, durably and once.
    ///
    /// # Errors
    /// `Missing` without `backup_label` and `global/pg_control`, `Index` if a
    /// path came twice, `Changed` if a part is no longer there, `Unfinished`,
    /// `Store`. Then the backup does not exist.
    pub fn commit(mut self, details: BackupDetails) -> Result<BackupInfo, BackupWriteError> {
        self.check_finished()?;
        self.settle()?;
        let info = self.describe(details);
        let index = BackupIndex::new(std::mem::take(&mut self.index), &info.parts)?;
        for path in INDISPENSABLE {
            let found = path.parse().ok().and_then(|path| index.find(&path));
            found.ok_or(BackupWriteError::Missing { path })?;
        }
        let bytes = document::to_bytes(&info, index.parts())?;
        // nothing is published that could not be read back
        document::parse_info(&bytes, self.label)?;
        check_size(DOCUMENT, bytes.len() as u64, MAX_DOCUMENT_BYTES)?;
        self.check_objects()?;
        let key = self.folder.join(DOCUMENT)?;
        let mut object = BackupObject::create(&self.store, key)?;
        object
            .write_all(&bytes)
            .map_err(|error| StoreError::from_io(error, Operation::Write, &object.location()))?;
        self.watch(object.publish())?;
        self.committed = true;
        Ok(info)
    }

    /// Removes what was written.
    ///
    /// Dropping the writer does the same, but cannot tell whether it worked.
    ///
    /// # Errors
    /// Of the store; the rest is then left for
    /// [`BackupCatalog::clean_abandoned`](super::BackupCatalog::clean_abandoned).
    pub fn abort(mut self) -> Result<(), BackupWriteError> {
        self.remove()?;
        // nothing is left for the drop to do
        self.committed = true;
        Ok(())
    }

    fn describe(&self, details: BackupDetails) -> BackupInfo {
        let sum = |of: fn(&PartInfo) -> u64| self.parts.iter().map(of).sum();
        let manifest = self.manifest.map(|(bytes, crc32c)| ManifestInfo {
            bytes,
            crc32c: format!("{crc32c:08x}"),
            checksums: details.manifest_checksums,
        });
        BackupInfo {
            format: FORMAT,
            label: self.label,
            pitr_version: env!("CARGO_PKG_VERSION").to_owned(),
            postgres_version: details.postgres_version,
            postgres_major: details.postgres_major,
            system_identifier: details.system_identifier,
            segment_size: details.segment_size,
            timeline: details.timeline,
            start_lsn: details.start_lsn,
            stop_lsn: details.stop_lsn,
            checkpoint_lsn: details.checkpoint_lsn,
            start_time: details.start_time,
            stop_time: details.stop_time,
            from: details.from,
            tablespaces: details.tablespaces,
            origin: details.origin,
            settings: details.settings,
            manifest,
            sizes: Sizes {
                raw_bytes: sum(|part| part.raw_bytes),
                stored_bytes: sum(|part| part.stored_bytes),
                files: sum(|part| part.files),
            },
            parts: self.parts.clone(),
        }
    }

    /// That everything which was published is still there.
    ///
    /// A hold keeps others from taking the folder for abandoned, but not those
    /// who cannot see it: another machine on a network disk whose locks are
    /// local. A backup must not be said to exist without its parts.
    fn check_objects(&self) -> Result<(), BackupWriteError> {
        let parts = self.parts.iter();
        let parts = parts.map(|part| (part.name.to_string(), part.stored_bytes));
        let manifest = self.manifest.map(|(bytes, _)| (MANIFEST.to_owned(), bytes));
        for (name, expected) in parts.chain(manifest) {
            let key = self.folder.join(&name)?;
            let found = self.store.stat(&key)?.map(|meta| meta.size);
            if found != Some(expected) {
                return Err(BackupWriteError::Changed {
                    location: self.store.object_location(&key),
                    expected,
                    found,
                });
            }
        }
        Ok(())
    }

    fn check_finished(&self) -> Result<(), BackupWriteError> {
        match self.unfinished {
            Some(archive) => Err(BackupWriteError::Unfinished { archive }),
            None => Ok(()),
        }
    }

    /// Notes raw bytes that were taken in, and tells the caller.
    pub(super) fn advance(&mut self, raw_bytes: u64) {
        self.raw_bytes += raw_bytes;
        let now = self.progress();
        if let Some(progress) = &mut self.progress {
            progress(now);
        }
    }

    /// Whether the file with this manifest path and size is to be collected.
    pub(super) fn collects(&self, path: &MemberPath, size: u64) -> bool {
        size <= MAX_COLLECTED_BYTES && self.options.collect.contains(path)
    }

    pub(super) fn collect(&mut self, path: MemberPath, contents: Vec<u8>) {
        self.collected.insert(path, contents);
    }

    pub(super) fn stored_counter(&self) -> &Arc<AtomicU64> {
        &self.stored_bytes
    }

    pub(super) fn transfers(&self) -> &Arc<Transfers> {
        &self.transfers
    }

    /// Lets `part` be made durable in the background, so that its sync or a
    /// store's answer does not hold up the server's stream. Waits for the
    /// oldest while as many are under way as may be.
    pub(super) fn publish(&mut self, part: PartWriter) -> Result<(), BackupWriteError> {
        let written = part.finish()?;
        self.publishing.push_back(written);
        while self.publishing.len() >= self.options.parts_in_flight.get() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    /// Enters the parts that are durable by now, and notices one that is not
    /// going to be.
    pub(super) fn settle_what_is_over(&mut self) -> Result<(), BackupWriteError> {
        while let Some(oldest) = self.publishing.front()
            && oldest.publishing.is_over()
        {
            self.settle_oldest()?;
        }
        match self.transfers.take_error() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// Waits for all parts under way, and enters them into the index.
    fn settle(&mut self) -> Result<(), BackupWriteError> {
        while !self.publishing.is_empty() {
            self.settle_oldest()?;
        }
        Ok(())
    }

    fn settle_oldest(&mut self) -> Result<(), BackupWriteError> {
        let Some(part) = self.publishing.pop_front() else {
            return Ok(());
        };
        part.publishing.wait()?;
        self.parts.push(part.info);
        self.index.push(part.index);
        Ok(())
    }

    /// Notes an object that somebody else has put there.
    fn watch<T>(&mut self, published: Result<T, BackupWriteError>) -> Result<T, BackupWriteError> {
        if let Err(BackupWriteError::Foreign { .. }) = &published {
            self.is_shared = true;
        }
        published
    }

    fn remove(&mut self) -> Result<(), BackupWriteError> {
        // whatever becomes of them, none must publish after the removal
        self.transfers.give_up();
        for part in self.publishing.drain(..) {
            let _ = part.publishing.wait();
        }
        // another machine that could not see the hold took the same label, and
        // may be about to finish: what is left of this one goes with the next
        // clean_abandoned
        if self.is_shared || self.transfers.saw_foreign() {
            return Ok(());
        }
        // after an error of its publishing the document may be there: a backup
        // must not lose its parts while it seems to exist
        let document = self.folder.join(DOCUMENT)?;
        match self.store.delete(&document) {
            Err(error) if !error.is_absence() => return Err(error.into()),
            _ => {}
        }
        self.store.delete_folder(&self.folder)?;
        Ok(())
    }
}

fn check_size(what: &'static str, bytes: u64, limit: u64) -> Result<(), BackupWriteError> {
    if bytes > limit {
        return Err(BackupWriteError::TooLarge { what, bytes, limit });
    }
    Ok(())
}

impl Drop for BackupWriter {
    fn drop(&mut self) {
        if !self.committed {
            // clean_abandoned tries again
            let _ = self.remove();
        }
    }
}

impl std::fmt::Debug for BackupWriter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BackupWriter")
            .field("label", &self.label)
            .field("folder", &self.folder)
            .field("parts", &self.parts.len())
            .field("progress", &self.progress())
            .finish_non_exhaustive()
    }
}
