//! The archived log along a path of timelines, segment by segment.

use std::collections::BTreeMap;
use std::ops::Range;

use pitr_core::{
    Lsn, SegmentName, SegmentNumber, TimelineHistory, TimelineId, TimelinePath, WalFileName,
    WalSegmentSize,
};

use crate::plan::inventory::{Inventory, InventoryError};

/// A segment on the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Piece {
    pub(crate) name: WalFileName,
    pub(crate) number: SegmentNumber,
    /// End of what of it belongs to the path.
    pub(crate) until: Lsn,
}

/// Segments that follow one another without a gap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) pieces: Vec<Piece>,
    size: WalSegmentSize,
}

impl Stretch {
    /// The archived segments along `history` that lie in `extent`, oldest
    /// first, divided where segments are missing. No folder beyond it is listed.
    ///
    /// # Errors
    /// The store failed.
    pub(crate) fn along(
        inventory: &mut Inventory,
        history: &TimelineHistory,
        extent: &Range<Lsn>,
    ) -> Result<Vec<Stretch>, InventoryError> {
        let size = inventory.wal().size();
        let mut pieces: BTreeMap<SegmentNumber, Piece> = BTreeMap::new();
        for (timeline, begin, end) in ranges(history) {
            let begin = begin.max(extent.start);
            let until = end.map_or(extent.end, |end| end.min(extent.end));
            if begin >= until {
                continue;
            }
            inventory.look_between(timeline, begin, until)?;
            let first = SegmentNumber::containing(begin, size);
            let bounds = first..=SegmentNumber::last_before(until, size);
            let wal = inventory.wal();
            let whole = wal.segments(timeline, bounds.clone());
            let whole = whole.map(|number| (number, WalFileName::Segment as fn(_) -> _));
            let partial = wal.partials(timeline, bounds);
            let partial = partial.map(|number| (number, WalFileName::Partial as fn(_) -> _));
            for (number, kind) in whole.chain(partial) {
                let piece = Piece {
                    name: kind(SegmentName::new(timeline, number, size)),
                    number,
                    until: end.map_or(number.end(size), |end| end.min(number.end(size))),
                };
                // the whole one before the partial one, the child's before the parent's
                match pieces.get(&number) {
                    Some(known) if !is_better(&piece.name, &known.name) => {}
                    _ => {
                        pieces.insert(number, piece);
                    }
                }
            }
        }
        let mut stretches: Vec<Stretch> = Vec::new();
        for piece in pieces.into_values() {
            match stretches.last_mut() {
                Some(stretch) if stretch.goes_on_with(&piece) => stretch.pieces.push(piece),
                _ => stretches.push(Stretch {
                    pieces: vec![piece],
                    size,
                }),
            }
        }
        Ok(stretches)
    }

    fn goes_on_with(&self, piece: &Piece) -> bool {
        // behind a partial segment, or a branch whose child is missing, there is nothing
        self.pieces.last().is_some_and(|last| {
            last.number.next() == piece.number && last.until == last.number.end(self.size)
        })
    }

    pub(crate) fn segment_bytes(&self) -> u64 {
        self.size.bytes()
    }

    /// Whole segments of 16 MiB of timeline 1.
    #[cfg(test)]
    pub(crate) fn of_numbers(first: u64, last: u64) -> Self {
        let size = WalSegmentSize::DEFAULT;
        let pieces = (first..=last).map(SegmentNumber::new).map(|number| Piece {
            name: WalFileName::Segment(SegmentName::new(TimelineId::FIRST, number, size)),
            number,
            until: number.end(size),
        });
        Self {
            pieces: pieces.collect(),
            size,
        }
    }

    pub(crate) fn begin(&self) -> Lsn {
        self.pieces
            .first()
            .map_or(Lsn::INVALID, |piece| piece.number.start(self.size))
    }

    pub(crate) fn end(&self) -> Lsn {
        self.pieces.last().map_or(Lsn::INVALID, |piece| piece.until)
    }

    pub(crate) fn contains(&self, lsn: Lsn) -> bool {
        self.begin() <= lsn && lsn < self.end()
    }

    /// Index of the piece that `lsn` lies in; that of the first one for what
    /// lies before, their number for what lies behind.
    pub(crate) fn index_of(&self, lsn: Lsn) -> usize {
        let number = SegmentNumber::containing(lsn, self.size);
        self.pieces.partition_point(|piece| piece.number < number)
    }

    /// Name of the first segment behind this stretch, which is missing.
    pub(crate) fn missing_behind(&self) -> Option<SegmentName> {
        let last = self.pieces.last()?;
        let segment = last.name.segment()?;
        let number = last.number.next();
        Some(SegmentName::new(segment.timeline(), number, self.size))
    }
}

fn is_better(new: &WalFileName, known: &WalFileName) -> bool {
    let timeline = |name: &WalFileName| name.segment().map(|segment| segment.timeline());
    let is_whole = |name: &WalFileName| matches!(name, WalFileName::Segment(_));
    (is_whole(new), timeline(new)) > (is_whole(known), timeline(known))
}

/// Each timeline of a history with its first position and the end of its range.
fn ranges(history: &TimelineHistory) -> Vec<(TimelineId, Lsn, Option<Lsn>)> {
    let mut begin = Lsn::INVALID;
    let mut ranges = Vec::new();
    for entry in history.entries() {
        ranges.push((entry.parent, begin, Some(entry.switch_lsn)));
        begin = entry.switch_lsn;
    }
    ranges.push((history.timeline(), begin, None));
    ranges
}

/// The path from a place on a history to its end, where the place is on it.
pub(crate) fn path_from(
    history: &TimelineHistory,
    timeline: TimelineId,
    lsn: Lsn,
) -> Option<TimelinePath> {
    history.path(timeline, lsn).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_timeline_has_its_range() {
        let id = |number| TimelineId::new(number).unwrap();
        let text = b"1\t0/5000100\tr\n2\t0/7000000\tr\n";
        let history = TimelineHistory::parse(id(3), text).unwrap();
        let lsn = |text: &str| text.parse::<Lsn>().unwrap();
        assert_eq!(
            ranges(&history),
            [
                (id(1), Lsn::INVALID, Some(lsn("0/5000100"))),
                (id(2), lsn("0/5000100"), Some(lsn("0/7000000"))),
                (id(3), lsn("0/7000000"), None),
            ]
        );
    }

    #[test]
    fn a_whole_segment_of_the_child_is_the_best() {
        let name = |text: &str| text.parse::<WalFileName>().unwrap();
        let parent = name("000000010000000000000005");
        let child = name("000000020000000000000005");
        let partial = name("000000020000000000000005.partial");
        assert!(is_better(&child, &parent) && !is_better(&parent, &child));
        assert!(is_better(&parent, &partial));
    }
}
