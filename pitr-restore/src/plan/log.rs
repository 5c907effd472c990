//! The log of a way: what its summaries say, and its records.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::rc::Rc;

use pitr_core::{
    Lsn, Record, SegmentName, SegmentSummary, SegmentSummaryBuilder, SystemIdentifier, WalFileName,
    WalReader,
};
use pitr_store::backup::BackupReader;
use pitr_store::wal::FetchError;

use super::way::Way;
use crate::archived_log::ArchivedLog;
pub(crate) use crate::archived_log::LogError;

/// Bytes of a brought segment that are read at a time.
const CHUNK_BYTES: usize = 256 << 10;

/// Where segments come from.
pub(crate) trait SegmentSource: Sync {
    /// What is in a segment; `Ok(None)` where it is not there.
    fn summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, LogError>;

    /// The same where it costs little: a summary that is stored, or the
    /// segment where there are few of its kind.
    fn quick_summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, LogError> {
        self.summary(name)
    }

    /// Its bytes; `Ok(false)` where it is not there. Ends early, without an
    /// error, when `sink` does not want more.
    fn read(
        &self,
        name: &WalFileName,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, LogError>;
}

/// The archived log, and what a backup brought along.
pub(crate) struct RepositoryLog<'a> {
    pub(crate) archived: &'a ArchivedLog,
    pub(crate) backup: Option<&'a BackupReader>,
    pub(crate) brought: &'a BTreeSet<SegmentName>,
}

impl RepositoryLog<'_> {
    /// The bytes of a segment that the backup holds itself.
    fn read_brought(
        &self,
        name: &WalFileName,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, LogError> {
        let (Some(reader), WalFileName::Segment(segment)) = (self.backup, name) else {
            return Ok(false);
        };
        if !self.brought.contains(segment) {
            return Ok(false);
        }
        let Ok(path) = format!("pg_wal/{segment}").parse() else {
            return Ok(false);
        };
        let mut data = reader.open_member(&path).map_err(LogError::Backup)?;
        let mut chunk = vec![0; CHUNK_BYTES];
        loop {
            match data.read(&mut chunk) {
                Ok(0) => return Ok(true),
                Ok(bytes) => {
                    if !sink(chunk.get(..bytes).unwrap_or_default()) {
                        return Ok(true);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(LogError::Damaged(FetchError::Sink(error))),
            }
        }
    }
}

impl SegmentSource for RepositoryLog<'_> {
    fn summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, LogError> {
        if let Some(summary) = self.archived.summary_or_scan(name)? {
            return Ok(Some(summary));
        }
        let WalFileName::Segment(segment) = name else {
            return Ok(None);
        };
        let size = self.archived.identity().segment_size;
        let Ok(mut builder) = SegmentSummaryBuilder::of_partial(*segment, size) else {
            return Ok(None);
        };
        let found = self.read_brought(name, &mut |bytes| {
            builder.feed(bytes);
            true
        })?;
        Ok(found.then(|| builder.finish()))
    }

    fn quick_summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, LogError> {
        let stored = self.archived.summary(name).map_err(LogError::Store)?;
        let is_one_of_few = || {
            let mut spooled = self.archived.spooled().into_iter();
            let is_spooled = spooled.any(|spooled| spooled.segments().any(|held| held == *name));
            is_spooled || name.segment().is_some_and(|s| self.brought.contains(&s))
        };
        match stored {
            None if is_one_of_few() => self.summary(name),
            stored => Ok(stored),
        }
    }

    fn read(
        &self,
        name: &WalFileName,
        sink: &mut dyn FnMut(&[u8]) -> bool,
    ) -> Result<bool, LogError> {
        Ok(self.archived.read(name, sink)? || self.read_brought(name, sink)?)
    }
}

/// The log of a way. Counts what it touches, and touches nothing twice.
pub(crate) struct Log<'a> {
    source: &'a dyn SegmentSource,
    way: Way,
    system_identifier: SystemIdentifier,
    summaries: RefCell<BTreeMap<u64, Option<Rc<SegmentSummary>>>>,
    read: Cell<u64>,
}

/// What a plan has looked at in the archive.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Effort {
    /// Segments whose summary was read to find the stop.
    pub(crate) summaries: u64,
    /// Segments on the way whose summary was read for damage and settings.
    pub(crate) passed: u64,
    /// Segments whose records were read.
    pub(crate) segments: u64,
    /// Folders of segments that were listed.
    pub(crate) folders: u64,
}

impl std::ops::Add for Effort {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            summaries: self.summaries.saturating_add(other.summaries),
            passed: self.passed.saturating_add(other.passed),
            segments: self.segments.saturating_add(other.segments),
            folders: self.folders.saturating_add(other.folders),
        }
    }
}

/// Why reading of records came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ReadEnd {
    /// Whoever asked had enough.
    Enough,
    /// Nothing comes after the last segment.
    EndOfWay,
    /// A segment is not there.
    Missing(SegmentName),
    /// A segment or record cannot be read: the end of the log to a server.
    Damaged {
        /// The segment.
        segment: SegmentName,
        /// Where, if the records themselves show it.
        lsn: Option<Lsn>,
        /// What is wrong.
        what: String,
    },
}

impl<'a> Log<'a> {
    pub(crate) fn new(
        source: &'a dyn SegmentSource,
        way: Way,
        system_identifier: SystemIdentifier,
    ) -> Self {
        Self {
            source,
            way,
            system_identifier,
            summaries: RefCell::default(),
            read: Cell::new(0),
        }
    }

    pub(crate) fn way(&self) -> &Way {
        &self.way
    }

    pub(crate) fn source(&self) -> &'a dyn SegmentSource {
        self.source
    }

    /// What was looked at so far.
    pub(crate) fn effort(&self) -> Effort {
        Effort {
            summaries: u64::try_from(self.summaries.borrow().len()).unwrap_or(u64::MAX),
            passed: 0,
            segments: self.read.get(),
            folders: 0,
        }
    }

    /// What is in a segment; `None` where it is not there, or unreadable.
    pub(crate) fn summary(&self, index: u64) -> Result<Option<Rc<SegmentSummary>>, LogError> {
        if index >= self.way.len() {
            return Ok(None);
        }
        if let Some(known) = self.summaries.borrow().get(&index) {
            return Ok(known.clone());
        }
        let summary = match self.source.summary(&self.way.file(index)) {
            Ok(summary) => summary.map(Rc::new),
            Err(LogError::Damaged(_)) => None,
            Err(error) => return Err(error),
        };
        self.summaries.borrow_mut().insert(index, summary.clone());
        Ok(summary)
    }

    /// The summaries that were looked at so far.
    pub(crate) fn seen(&self) -> Vec<(u64, Rc<SegmentSummary>)> {
        self.summaries
            .borrow()
            .iter()
            .filter_map(|(index, summary)| Some((*index, summary.clone()?)))
            .collect()
    }

    /// Hands the records from the segment `from` on to `visit`, with the
    /// segment that they end in, until it answers `false`.
    pub(crate) fn records(
        &self,
        from: u64,
        visit: &mut dyn FnMut(u64, &Record<'_>) -> bool,
    ) -> Result<ReadEnd, LogError> {
        let mut reader = WalReader::new(self.way.number(from), self.way.size())
            .expect_system(self.system_identifier);
        if self.way.may_end() {
            reader = reader.may_end();
        }
        for index in from..self.way.len() {
            let mut end = None;
            let segment = self.way.segment(index);
            self.read.set(self.read.get().saturating_add(1));
            let found = self.source.read(&self.way.file(index), &mut |bytes| {
                // an object is only proven at its end, and recovery needs all of it
                if end.is_some() {
                    return true;
                }
                let mut records = reader.feed(bytes);
                while let Some(record) = records.next_record() {
                    match record {
                        Ok(record) if visit(index, &record) => {}
                        Ok(_) => end = Some(ReadEnd::Enough),
                        Err(damage) => {
                            end = Some(ReadEnd::Damaged {
                                segment,
                                lsn: Some(damage.lsn),
                                what: damage.kind.to_string(),
                            });
                        }
                    }
                    if end.is_some() {
                        break;
                    }
                }
                true
            });
            match found {
                Ok(true) => {}
                Ok(false) => end = Some(ReadEnd::Missing(segment)),
                Err(LogError::Damaged(error)) => {
                    end = Some(ReadEnd::Damaged {
                        segment,
                        lsn: None,
                        what: error.to_string(),
                    });
                }
                Err(error) => return Err(error),
            }
            if let Some(end) = end {
                return Ok(end);
            }
        }
        Ok(ReadEnd::EndOfWay)
    }
}
