//! What of the log is in the repository, by listing names alone.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitr_core::{Lsn, SegmentName, SegmentNumber, TimelineId, WalFileName, WalSegmentSize};

use super::{WalArchive, layout};
use crate::codec::Encoding;
use crate::store::{EntryKind, StoreError};

/// Folders that are listed at once, where there are many: a store over a
/// network takes its time for each.
const LISTED_AT_ONCE: usize = 4;
/// Folders from which on that is worth a thread.
const FEW_FOLDERS: usize = 16;

/// A file in a timeline's folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredSegment {
    /// What PostgreSQL calls it: a segment, partial segment or backup history.
    pub name: WalFileName,
    /// How it is stored.
    pub encoding: Encoding,
    /// Bytes that it takes in the store.
    pub stored_bytes: u64,
}

/// Everything in one timeline's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TimelineContent {
    /// The timeline.
    pub timeline: TimelineId,
    /// Its files by name.
    pub files: Vec<StoredSegment>,
    segment_size: WalSegmentSize,
}

/// Segments that follow each other without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalRange {
    /// First segment.
    pub first: SegmentName,
    /// Last segment; the first one if there is only one.
    pub last: SegmentName,
    /// Start of the first segment.
    pub begin: Lsn,
    /// End (exclusive) of the last segment.
    pub end: Lsn,
    /// How many segments.
    pub segments: u64,
    /// Bytes that they take in the store.
    pub stored_bytes: u64,
}

/// Segments missing between two ranges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalGap {
    /// First missing segment.
    pub first: SegmentName,
    /// Last missing segment.
    pub last: SegmentName,
    /// How many are missing.
    pub segments: u64,
}

impl WalRange {
    /// What is missing between each of `ranges` and the next.
    pub fn gaps(ranges: &[Self], segment_size: WalSegmentSize) -> Vec<WalGap> {
        let gap = |before: &Self, after: &Self| {
            let first = before.last.number(segment_size).ok()?.next();
            let last = after.first.number(segment_size).ok()?.prev()?;
            let timeline = before.first.timeline();
            Some(WalGap {
                first: SegmentName::new(timeline, first, segment_size),
                last: SegmentName::new(timeline, last, segment_size),
                segments: last.get().saturating_sub(first.get()).saturating_add(1),
            })
        };
        ranges
            .iter()
            .zip(ranges.iter().skip(1))
            .filter_map(|(before, after)| gap(before, after))
            .collect()
    }
}

impl TimelineContent {
    /// The runs of whole segments without a gap. Partial segments don't count.
    pub fn ranges(&self) -> Vec<WalRange> {
        let size = self.segment_size;
        let mut ranges: Vec<WalRange> = Vec::new();
        let mut previous: Option<SegmentNumber> = None;
        for file in &self.files {
            let WalFileName::Segment(segment) = file.name else {
                continue;
            };
            // Of another segment size: no segment of this cluster.
            let Ok(number) = segment.number(size) else {
                continue;
            };
            match ranges.last_mut() {
                // The same segment once more, under another codec.
                Some(range) if previous == Some(number) => {
                    range.stored_bytes = range.stored_bytes.saturating_add(file.stored_bytes);
                }
                Some(range) if previous.map(SegmentNumber::next) == Some(number) => {
                    range.last = segment;
                    range.end = number.end(size);
                    range.segments += 1;
                    range.stored_bytes = range.stored_bytes.saturating_add(file.stored_bytes);
                }
                _ => ranges.push(WalRange {
                    first: segment,
                    last: segment,
                    begin: number.start(size),
                    end: number.end(size),
                    segments: 1,
                    stored_bytes: file.stored_bytes,
                }),
            }
            previous = Some(number);
        }
        ranges
    }
}

impl WalArchive {
    /// Every timeline of which there is a segment folder or a history file,
    /// ascending.
    ///
    /// # Errors
    /// The store failed.
    pub fn timelines(&self) -> Result<Vec<TimelineId>, StoreError> {
        let mut timelines: Vec<TimelineId> = self
            .store
            .list(Some(&self.folder))?
            .into_iter()
            .filter_map(|entry| match entry.kind {
                EntryKind::Folder => TimelineId::from_hex(&entry.name),
                EntryKind::Object { .. } => match entry.name.parse() {
                    Ok(WalFileName::History(timeline)) => Some(timeline),
                    _ => None,
                },
                EntryKind::Other => None,
            })
            .collect();
        timelines.sort_unstable();
        timelines.dedup();
        Ok(timelines)
    }

    /// What lies in the folder of `timeline`, by name. Foreign names are left
    /// out.
    ///
    /// # Errors
    /// The store failed.
    pub fn content(&self, timeline: TimelineId) -> Result<TimelineContent, StoreError> {
        let logs = self.log_folders(timeline)?;
        self.content_of(timeline, logs)
    }

    /// Which folders of 4 GiB of log `timeline` has, ascending: the upper half
    /// of the LSNs in them. One listing, however long the log is.
    ///
    /// # Errors
    /// The store failed.
    pub fn log_folders(&self, timeline: TimelineId) -> Result<Vec<u32>, StoreError> {
        let folder = layout::timeline_folder(&self.folder, timeline);
        let mut logs: Vec<u32> = self
            .store
            .list(Some(&folder))?
            .into_iter()
            .filter(|entry| entry.kind == EntryKind::Folder)
            .filter_map(|entry| layout::parse_log_name(&entry.name))
            .collect();
        logs.sort_unstable();
        Ok(logs)
    }

    /// What lies in these folders of `timeline`, by name; one listing each.
    /// One that is not there is empty.
    ///
    /// # Errors
    /// The store failed.
    pub fn content_of(
        &self,
        timeline: TimelineId,
        logs: impl IntoIterator<Item = u32>,
    ) -> Result<TimelineContent, StoreError> {
        let logs: Vec<u32> = logs.into_iter().collect();
        let mut files = Vec::new();
        if logs.len() < FEW_FOLDERS {
            for log in logs {
                self.list_log(timeline, log, &mut files)?;
            }
        } else {
            files = self.list_logs(timeline, &logs)?;
        }
        files.sort_unstable_by_key(|file| (file.name.segment(), file.name, file.encoding));
        Ok(TimelineContent {
            timeline,
            files,
            segment_size: self.cluster.segment_size,
        })
    }

    fn list_log(
        &self,
        timeline: TimelineId,
        log: u32,
        files: &mut Vec<StoredSegment>,
    ) -> Result<(), StoreError> {
        let folder = layout::log_folder_of(&self.folder, timeline, log);
        for entry in self.store.list(Some(&folder))? {
            let EntryKind::Object { size } = entry.kind else {
                continue;
            };
            let Some((name, encoding)) = layout::parse_stored_name(&entry.name) else {
                continue;
            };
            // Only where `locate` would look for it.
            if name
                .segment()
                .is_some_and(|segment| layout::lies_in(&segment, timeline, log))
            {
                files.push(StoredSegment {
                    name,
                    encoding,
                    stored_bytes: size,
                });
            }
        }
        Ok(())
    }

    fn list_logs(
        &self,
        timeline: TimelineId,
        logs: &[u32],
    ) -> Result<Vec<StoredSegment>, StoreError> {
        let next = AtomicUsize::new(0);
        let listed: Mutex<Result<Vec<StoredSegment>, StoreError>> = Mutex::new(Ok(Vec::new()));
        let list = || {
            let mut own = Vec::new();
            let mut outcome = Ok(());
            while let Some(log) = logs.get(next.fetch_add(1, Ordering::Relaxed)) {
                outcome = self.list_log(timeline, *log, &mut own);
                if outcome.is_err() {
                    // nobody needs the rest
                    next.store(logs.len(), Ordering::Relaxed);
                    break;
                }
            }
            let mut listed = listed.lock().unwrap_or_else(|poison| poison.into_inner());
            match (outcome, &mut *listed) {
                (Ok(()), Ok(files)) => files.extend(own),
                (Err(error), Ok(_)) => *listed = Err(error),
                (_, Err(_)) => {}
            }
        };
        std::thread::scope(|scope| {
            for _ in 1..LISTED_AT_ONCE {
                // where no thread is to be had, this one does it all
                let _ = std::thread::Builder::new().spawn_scoped(scope, list);
            }
            list();
        });
        listed
            .into_inner()
            .unwrap_or_else(|poison| poison.into_inner())
    }

    /// The last whole segment of `timeline`, by listing the folders from the
    /// last one back to the first that holds one: of a long log no more than
    /// its end.
    ///
    /// # Errors
    /// The store failed.
    pub fn last_segment(&self, timeline: TimelineId) -> Result<Option<SegmentName>, StoreError> {
        for log in self.log_folders(timeline)?.into_iter().rev() {
            let last = self.content_of(timeline, [log])?.ranges().pop();
            if let Some(range) = last {
                return Ok(Some(range.last));
            }
        }
        Ok(None)
    }

    /// The runs of whole segments of `timeline` without a gap.
    ///
    /// # Errors
    /// The store failed.
    pub fn ranges(&self, timeline: TimelineId) -> Result<Vec<WalRange>, StoreError> {
        Ok(self.content(timeline)?.ranges())
    }
}
