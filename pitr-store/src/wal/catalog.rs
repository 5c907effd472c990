//! What of the log is in the repository, by listing names alone.

use pitr_core::{Lsn, SegmentName, SegmentNumber, TimelineId, WalFileName, WalSegmentSize};

use super::{WalArchive, layout};
use crate::codec::Encoding;
use crate::store::{EntryKind, StoreError};

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
        let mut files = Vec::new();
        for log in logs {
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
        }
        files.sort_unstable_by_key(|file| (file.name.segment(), file.name, file.encoding));
        Ok(TimelineContent {
            timeline,
            files,
            segment_size: self.cluster.segment_size,
        })
    }

    /// The runs of whole segments of `timeline` without a gap.
    ///
    /// # Errors
    /// The store failed.
    pub fn ranges(&self, timeline: TimelineId) -> Result<Vec<WalRange>, StoreError> {
        Ok(self.content(timeline)?.ranges())
    }
}
