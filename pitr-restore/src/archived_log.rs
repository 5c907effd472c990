//! The log of one cluster wherever it lies: in one or several repositories, and
//! in what a receiver on this machine has not brought into them yet.

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use pitr_core::{
    SegmentName, SegmentSummary, SegmentSummaryBuilder, TimelineHistory, TimelineId, WalFileName,
};
use pitr_store::backup::BackupReadError;
use pitr_store::spool::{Spool, SpoolError, SpooledSegment};
use pitr_store::wal::{FetchError, SummaryError, WalArchive};
use pitr_store::{ClusterIdentity, StoreError};

/// Bytes of a spooled segment that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;
/// More than any history file has.
const MAX_HISTORY_BYTES: u64 = 1 << 20;

/// Why the log could not be looked at.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LogError {
    /// No copy of a segment can be read as one.
    #[error(transparent)]
    Damaged(FetchError),
    /// The store failed.
    #[error(transparent)]
    Store(StoreError),
    /// The receiver's spool failed.
    #[error(transparent)]
    Spool(#[from] SpoolError),
    /// The backup's own segments could not be read.
    #[error(transparent)]
    Backup(BackupReadError),
}

impl From<FetchError> for LogError {
    fn from(error: FetchError) -> Self {
        match error {
            FetchError::Store(error) => Self::Store(error),
            error => Self::Damaged(error),
        }
    }
}

impl pitr_console::Explain for LogError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Damaged(error) => error.hint(),
            Self::Store(error) => error.hint(),
            Self::Spool(error) => error.hint(),
            Self::Backup(error) => error.hint(),
        }
    }
}

/// The log of one cluster: of each segment the first copy that is whole.
///
/// There are as many copies as repositories, and one more where there is a
/// spool. What one of them lacks, or has damaged, is taken from the next.
#[derive(Debug, Clone)]
pub(crate) struct ArchivedLog {
    identity: ClusterIdentity,
    /// In the order of the setting.
    archives: Vec<WalArchive>,
    spooled: Option<SpooledLog>,
}

/// What lay in a receiver's spool at one moment.
///
/// Files move on from there into the repositories: whoever looks into the
/// spool first, and then into them, misses none.
#[derive(Debug, Clone)]
pub(crate) struct SpooledLog {
    spool: Spool,
    files: Vec<WalFileName>,
}

impl SpooledLog {
    /// Lists what lies in the spool of `cluster` below `directory`, which need
    /// not exist. Unfinished segments of which nothing was received are left
    /// out.
    ///
    /// # Errors
    /// The spool cannot be read, or holds what no receiver leaves.
    pub(crate) fn look_into(
        directory: &Path,
        cluster: &ClusterIdentity,
    ) -> Result<Self, SpoolError> {
        let spool = Spool::new(directory, cluster.system_identifier);
        let mut files = Vec::new();
        for name in spool.files()? {
            let holds_something = match name {
                WalFileName::Partial(segment) => spool.segment(segment, cluster)?.is_some(),
                WalFileName::Segment(_) | WalFileName::History(_) => true,
                WalFileName::Backup { .. } => false,
            };
            if holds_something {
                files.push(name);
            }
        }
        Ok(Self { spool, files })
    }

    /// The folder.
    pub(crate) fn folder(&self) -> &Path {
        self.spool.folder()
    }

    /// Whole and unfinished segments that lay in it.
    pub(crate) fn segments(&self) -> impl Iterator<Item = WalFileName> + '_ {
        let files = self.files.iter().copied();
        files.filter(|name| name.segment().is_some())
    }

    /// The histories that lay in it.
    ///
    /// # Errors
    /// One of them cannot be read. What is no history is passed over: its
    /// timeline is not known then.
    pub(crate) fn histories(&self) -> Result<Vec<TimelineHistory>, SpoolError> {
        let mut histories = Vec::new();
        for name in &self.files {
            let WalFileName::History(timeline) = *name else {
                continue;
            };
            let path = self.spool.path(name);
            match read_bounded(&path) {
                Ok(bytes) => histories.extend(TimelineHistory::parse(timeline, &bytes).ok()),
                // it went over into the repository, which is looked into later
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => {
                    return Err(SpoolError::Io {
                        operation: "read",
                        path,
                        source,
                    });
                }
            }
        }
        Ok(histories)
    }
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path)?;
    file.take(MAX_HISTORY_BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A place where a segment may lie.
enum Copy<'l> {
    Archived(&'l WalArchive, WalFileName),
    Spooled(&'l SpooledLog, SegmentName),
}

impl ArchivedLog {
    /// The log in one repository.
    pub(crate) fn of(archive: WalArchive) -> Self {
        Self {
            identity: archive.cluster(),
            archives: vec![archive],
            spooled: None,
        }
    }

    /// Adds the copies in other repositories, behind those that are known.
    pub(crate) fn join(&mut self, other: Self) {
        self.archives.extend(other.archives);
        if self.spooled.is_none() {
            self.spooled = other.spooled;
        }
    }

    /// Adds what a receiver has not brought into the repositories.
    pub(crate) fn add_spooled(&mut self, spooled: SpooledLog) {
        self.spooled = Some(spooled);
    }

    /// Whose log it is.
    pub(crate) fn identity(&self) -> &ClusterIdentity {
        &self.identity
    }

    /// What lies in the spool, where there is one.
    pub(crate) fn spooled(&self) -> Option<&SpooledLog> {
        self.spooled.as_ref()
    }

    /// Which folders of 4 GiB of log `timeline` has in the repositories; one
    /// listing each. Ascending, one of several repositories more than once.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn log_folders(&self, timeline: TimelineId) -> Result<Vec<u32>, StoreError> {
        let mut logs = Vec::new();
        for archive in &self.archives {
            logs.extend(archive.log_folders(timeline)?);
        }
        logs.sort_unstable();
        Ok(logs)
    }

    /// Segments and partial segments in one such folder of any repository.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn files_of(
        &self,
        timeline: TimelineId,
        log: u32,
    ) -> Result<BTreeSet<(SegmentName, WalFileName)>, StoreError> {
        let mut names = BTreeSet::new();
        for archive in &self.archives {
            let files = archive.content_of(timeline, [log])?.files.into_iter();
            names.extend(files.filter_map(|file| match file.name {
                WalFileName::Segment(segment) | WalFileName::Partial(segment) => {
                    Some((segment, file.name))
                }
                WalFileName::History(_) | WalFileName::Backup { .. } => None,
            }));
        }
        Ok(names)
    }

    /// The first summary that is stored with a copy of the segment; `Ok(None)`
    /// where none is, or the segment is in no repository.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, StoreError> {
        for archive in &self.archives {
            match archive.summary(name) {
                Ok(Some(summary)) => return Ok(Some(summary)),
                Err(SummaryError::Store(error)) => return Err(error),
                // whatever is wrong with it shows when the segment is read
                Ok(None) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// The summary of a segment, made of its records where none is stored;
    /// `Ok(None)` where the segment is nowhere.
    ///
    /// # Errors
    /// `Damaged` where no copy can be read; the store or the spool failed.
    pub(crate) fn summary_or_scan(
        &self,
        name: &WalFileName,
    ) -> Result<Option<SegmentSummary>, LogError> {
        let mut damaged = None;
        for archive in &self.archives {
            match archive.summary_or_scan(name) {
                Ok(summary) => return Ok(Some(summary)),
                Err(SummaryError::Fetch(error)) => match LogError::from(error) {
                    LogError::Damaged(error) => damaged = Some(error),
                    error => return Err(error),
                },
                Err(SummaryError::Store(error)) => return Err(LogError::Store(error)),
                // it is not there; what is wrong with a summary was passed over
                Err(_) => {}
            }
        }
        if self.spooled.is_some()
            && let Some(mut builder) = self.builder(name)
            && self.read(name, &mut |bytes| {
                builder.feed(bytes);
                true
            })?
        {
            return Ok(Some(builder.finish()));
        }
        damaged.map_or(Ok(None), |error| Err(LogError::Damaged(error)))
    }

    fn builder(&self, name: &WalFileName) -> Option<SegmentSummaryBuilder> {
        let size = self.identity.segment_size;
        match *name {
            WalFileName::Segment(segment) => SegmentSummaryBuilder::new(segment, size).ok(),
            WalFileName::Partial(segment) => SegmentSummaryBuilder::of_partial(segment, size).ok(),
            WalFileName::History(_) | WalFileName::Backup { .. } => None,
        }
    }

    /// Where a segment may lie, in the order in which it is looked for.
    fn copies(&self, name: &WalFileName) -> Vec<Copy<'_>> {
        let archived = |name| self.archives.iter().map(move |a| Copy::Archived(a, name));
        match (*name, &self.spooled) {
            // it may have gone over into a repository since that was asked
            (WalFileName::Segment(segment), Some(spooled)) => archived(*name)
                .chain([Copy::Spooled(spooled, segment)])
                .chain(archived(*name))
                .collect(),
            // it may have been finished since
            (WalFileName::Partial(segment), Some(spooled)) => {
                std::iter::once(Copy::Spooled(spooled, segment))
                    .chain(archived(WalFileName::Segment(segment)))
                    .chain(archived(*name))
                    .collect()
            }
            _ => archived(*name).collect(),
        }
    }

    /// Hands the bytes of a segment to `sink`, from a copy that is whole;
    /// `Ok(false)` where there is none. Ends early, without an error, when
    /// `sink` does not want more.
    ///
    /// Where it may lie in several places a copy is proven before anything of
    /// it is handed out.
    ///
    /// # Errors
    /// `Damaged` where every copy is; the store or the spool failed.
    pub(crate) fn read(
        &self,
        name: &WalFileName,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, LogError> {
        let mut copy = 0;
        if self.copies(name).len() == 1 {
            return self.read_copy(name, &mut copy, sink);
        }
        let mut damaged = None;
        loop {
            match self.read_copy(name, &mut copy, &mut |_| true) {
                Ok(true) => return self.read_copy(name, &mut copy, sink),
                Ok(false) => {
                    return damaged.map_or(Ok(false), |error| Err(LogError::Damaged(error)));
                }
                Err(LogError::Damaged(error)) => damaged = damaged.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
    }

    /// The same from one copy: the first that is there at the place `copy` or
    /// behind it. What was handed out before an error is worthless, and
    /// whoever asks again begins anew; after `Damaged` the next one is asked.
    ///
    /// # Errors
    /// `Damaged` where this copy is; the store or the spool failed.
    pub(crate) fn read_copy(
        &self,
        name: &WalFileName,
        copy: &mut usize,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, LogError> {
        for (place, lies_in) in self.copies(name).iter().enumerate().skip(*copy) {
            *copy = place;
            let read = match lies_in {
                Copy::Archived(archive, name) => read_archived(archive, name, sink),
                Copy::Spooled(spooled, segment) => match self.held(spooled, name, *segment)? {
                    Some(found) => hand_out(&found, sink).map(|()| true),
                    None => Ok(false),
                },
            };
            match read {
                Ok(false) => {}
                Ok(true) => return Ok(true),
                Err(error @ LogError::Damaged(_)) => {
                    *copy = place + 1;
                    return Err(error);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// What the spool holds under this name: an unfinished segment only where it
    /// is no shorter than one that is archived, since both agree as far as the
    /// shorter one goes.
    fn held(
        &self,
        spooled: &SpooledLog,
        name: &WalFileName,
        segment: SegmentName,
    ) -> Result<Option<SpooledSegment>, LogError> {
        let found = spooled.spool.segment(segment, &self.identity)?;
        let Some(found) =
            found.filter(|found| !found.is_partial || matches!(name, WalFileName::Partial(_)))
        else {
            return Ok(None);
        };
        if !found.is_partial {
            return Ok(Some(found));
        }
        for archive in &self.archives {
            let (mut read_bytes, mut content_bytes) = (0_u64, 0_u64);
            let read = read_archived(archive, name, &mut |bytes| {
                if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                    content_bytes = read_bytes + last as u64 + 1;
                }
                read_bytes += bytes.len() as u64;
                true
            });
            match read {
                Ok(true) if content_bytes > found.received_bytes => return Ok(None),
                Ok(_) | Err(LogError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Some(found))
    }
}

fn read_archived(
    archive: &WalArchive,
    name: &WalFileName,
    sink: &mut dyn FnMut(&[u8]) -> bool,
) -> Result<bool, LogError> {
    let mut has_enough = false;
    let mut writer = Sink {
        sink,
        has_enough: &mut has_enough,
    };
    match archive.fetch_to(name, &mut writer) {
        Ok(_) => Ok(true),
        Err(FetchError::Absent { .. }) => Ok(false),
        Err(FetchError::Sink(_)) if has_enough => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// All of a spooled segment; what was not received of it is zeros.
fn hand_out(found: &SpooledSegment, sink: &mut dyn FnMut(&[u8]) -> bool) -> Result<(), LogError> {
    let failed = |path: &PathBuf| {
        let path = path.clone();
        move |source| {
            LogError::Spool(SpoolError::Io {
                operation: "read",
                path,
                source,
            })
        }
    };
    let mut chunk = vec![0; CHUNK_BYTES];
    let mut offset = 0;
    loop {
        let read = match found.file.read_at(&mut chunk, offset) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(failed(&found.path)(error)),
        };
        let bytes = chunk.get(..read).unwrap_or_default();
        if bytes.is_empty() || !sink(bytes) {
            return Ok(());
        }
        offset += bytes.len() as u64;
    }
}

/// Takes bytes until it has enough.
struct Sink<'s, 'f> {
    sink: &'s mut (dyn FnMut(&[u8]) -> bool + 'f),
    has_enough: &'s mut bool,
}

impl Write for Sink<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if (self.sink)(bytes) {
            Ok(bytes.len())
        } else {
            *self.has_enough = true;
            Err(io::ErrorKind::Other.into())
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
