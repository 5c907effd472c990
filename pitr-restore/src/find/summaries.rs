//! What the summaries of segments say, without the segments.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use pitr_core::SegmentSummary;

use super::stretch::Piece;
use crate::archived_log::ArchivedLog;

/// What a search needs to know of a segment before it reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Hint {
    /// Whether catalogs were changed or files removed in it; `true` where
    /// nothing tells.
    pub(super) has_changes: bool,
    /// Whether a summary told.
    pub(super) is_told: bool,
}

/// Asks the summaries of `pieces`, on several threads; also gives the files
/// that catalogs have moved to.
pub(super) fn hints(log: &ArchivedLog, pieces: &[Piece], threads: usize) -> (Vec<Hint>, Vec<u32>) {
    let next = AtomicUsize::new(0);
    let asked: Mutex<Vec<(usize, Hint)>> = Mutex::new(Vec::with_capacity(pieces.len()));
    let moved: Mutex<Vec<u32>> = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.clamp(1, pieces.len().max(1)) {
            scope.spawn(|| {
                let (mut own, mut own_moved) = (Vec::new(), Vec::new());
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    let Some(piece) = pieces.get(index) else {
                        break;
                    };
                    // whatever is wrong with it shows when the segment is read
                    let summary = log.summary(&piece.name).ok().flatten();
                    if let Some(changes) = summary.as_ref().and_then(|s| s.catalog_changes.as_ref())
                    {
                        own_moved.extend_from_slice(&changes.moved);
                    }
                    own.push((index, hint(summary.as_ref())));
                }
                if let (Ok(mut asked), Ok(mut moved)) = (asked.lock(), moved.lock()) {
                    asked.extend(own);
                    moved.extend(own_moved);
                }
            });
        }
    });
    let mut hints = vec![hint(None); pieces.len()];
    for (index, told) in asked.into_inner().unwrap_or_default() {
        if let Some(hint) = hints.get_mut(index) {
            *hint = told;
        }
    }
    (hints, moved.into_inner().unwrap_or_default())
}

fn hint(summary: Option<&SegmentSummary>) -> Hint {
    let Some(changes) = summary.and_then(|summary| summary.catalog_changes.as_ref()) else {
        return Hint {
            has_changes: true,
            is_told: false,
        };
    };
    let has_drops = summary.is_some_and(|summary| {
        !summary.storage_drops.is_empty()
            || !summary.databases.is_empty()
            // what could not be read may be anything
            || summary.is_damaged()
    });
    Hint {
        has_changes: changes.records > 0 || !changes.moved.is_empty() || has_drops,
        is_told: true,
    }
}
