//! Restore points of a way, by its summaries.

use std::sync::atomic::{AtomicU64, Ordering};

use pitr_core::{Lsn, RecordContents, RestorePointSeen, SegmentSummary, WalFileName, XlogRecord};

use super::log::{Log, LogError};
use super::way::Way;

/// Summaries that are read at once.
const READERS: u64 = 8;
/// Longest part of a restore point's record that can lie in the next segment.
const RECORD_BYTES: u64 = 98;
/// Pairs of segments that are read for a record that lies across both.
const ACROSS_LIMIT: usize = 64;

/// The restore points of a way, in the order of the log.
///
/// There is no order to search by: every summary of the way is read, several
/// at once.
///
/// # Errors
/// The store failed.
pub(crate) fn restore_points(log: &Log<'_>) -> Result<RestorePoints, LogError> {
    restore_points_until(log, Lsn::new(u64::MAX))
}

/// The same of the segments before `until`, and of the one that it lies in.
///
/// # Errors
/// The store failed.
pub(crate) fn restore_points_until(log: &Log<'_>, until: Lsn) -> Result<RestorePoints, LogError> {
    let count = log.way().index_of(until).saturating_add(1);
    let source = log.source();
    let summary = |name: &WalFileName| source.summary(name);
    let parts = each_summary(&summary, log.way(), count, &Part::of)?;
    let mut found = RestorePoints {
        points: Vec::new(),
        across: Vec::new(),
        summaries: 0,
    };
    for (index, part) in parts {
        found.summaries += 1;
        if part.capped {
            found.points.extend(in_segment(log, index, index)?);
        } else {
            found.points.extend(part.points);
        }
        if part.begins_another {
            found.across.push(index);
        }
    }
    found.points.sort_by_key(|point| point.lsn);
    found.points.dedup_by_key(|point| point.lsn);
    Ok(found)
}

/// What [`restore_points`] found.
pub(crate) struct RestorePoints {
    pub(crate) points: Vec<RestorePointSeen>,
    /// Segments at whose end a record begins that may be another one.
    across: Vec<u64>,
    /// How many segments have told.
    pub(crate) summaries: u64,
}

impl RestorePoints {
    /// Those whose record lies across two segments, and in no summary.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn across(&self, log: &Log<'_>) -> Result<Vec<RestorePointSeen>, LogError> {
        let mut points = Vec::new();
        for index in self.across.iter().rev().take(ACROSS_LIMIT) {
            points.extend(in_segment(log, *index, index.saturating_add(1))?);
        }
        Ok(points)
    }
}

/// The summary of a segment; `None` where it is not there.
type SummaryOf<'s> = dyn Fn(&WalFileName) -> Result<Option<SegmentSummary>, LogError> + Sync + 's;

struct Part {
    points: Vec<RestorePointSeen>,
    capped: bool,
    begins_another: bool,
}

impl Part {
    fn of(summary: SegmentSummary) -> Self {
        Self {
            capped: summary.capped.iter().any(|list| list == "restore_points"),
            begins_another: summary
                .unfinished
                .is_some_and(|rest| rest.missing_bytes.is_none_or(|bytes| bytes < RECORD_BYTES)),
            points: summary.restore_points,
        }
    }
}

/// What `part_of` makes of what `summary` gives of the first `count` segments,
/// several read at once; nothing of those that are missing or damaged.
///
/// # Errors
/// The store failed.
pub(crate) fn each_summary<T: Send>(
    summary: &SummaryOf<'_>,
    way: &Way,
    count: u64,
    part_of: &(dyn Fn(SegmentSummary) -> T + Sync),
) -> Result<Vec<(u64, T)>, LogError> {
    let next = AtomicU64::new(0);
    let count = count.min(way.len());
    let read = || -> Result<Vec<(u64, T)>, LogError> {
        let mut parts = Vec::new();
        loop {
            let index = next.fetch_add(1, Ordering::Relaxed);
            if index >= count {
                return Ok(parts);
            }
            match summary(&way.file(index)) {
                Ok(Some(summary)) => parts.push((index, part_of(summary))),
                // what is missing or damaged shows where it lies in the way
                Ok(None) | Err(LogError::Damaged(_)) => {}
                Err(error) => return Err(error),
            }
        }
    };
    let mut parts = Vec::new();
    let readers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (1..READERS.min(count))
            .filter_map(|_| std::thread::Builder::new().spawn_scoped(scope, read).ok())
            .collect();
        let mine = read();
        threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .chain([mine])
            .collect()
    });
    for read in readers {
        parts.extend(read?);
    }
    parts.sort_by_key(|(index, _)| *index);
    Ok(parts)
}

/// Restore points in the records that end in the segments from `from` to `last`.
fn in_segment(log: &Log<'_>, from: u64, last: u64) -> Result<Vec<RestorePointSeen>, LogError> {
    let mut points = Vec::new();
    log.records(from, &mut |index, record| {
        if index <= last
            && let Ok(RecordContents::Xlog(XlogRecord::RestorePoint { time, name })) =
                record.contents()
        {
            points.push(RestorePointSeen {
                lsn: record.lsn(),
                time,
                name: String::from_utf8_lossy(name).into_owned(),
            });
        }
        index <= last
    })?;
    Ok(points)
}
