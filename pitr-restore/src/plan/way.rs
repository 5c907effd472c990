//! The segments of a path one behind the other, by name alone.

use std::collections::BTreeSet;

use pitr_core::{
    Lsn, SegmentName, SegmentNumber, TimelineId, TimelinePath, WalFileName, WalSegmentSize,
};

use super::wal::ArchivedWal;

/// Every segment from a path's begin to the end of its archived log.
///
/// Numbered from 0 on. Names are computed: nothing says that all of them are
/// there.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    path: TimelinePath,
    size: WalSegmentSize,
    first: SegmentNumber,
    count: u64,
    /// The last one, where it is there as a `.partial` alone.
    partial: Option<SegmentName>,
    may_end: bool,
}

impl Way {
    /// The way along `path`, as far as `wal` knows the end of its last timeline.
    pub(crate) fn new(
        path: &TimelinePath,
        wal: &ArchivedWal,
        brought: &BTreeSet<SegmentName>,
    ) -> Self {
        let size = wal.size();
        let first = SegmentNumber::containing(path.begin(), size);
        let last_step = path.steps().last();
        let begun = last_step.map_or(first, |step| SegmentNumber::containing(step.begin, size));
        let timeline = last_step.map_or(TimelineId::FIRST, |step| step.timeline);
        let archived = wal.last(timeline).filter(|last| *last >= begun);
        let partial = wal
            .last_partial(timeline)
            .filter(|number| *number >= begun && archived.is_none_or(|last| last < *number));
        // before its own first segment the log is the parents'
        let last = partial.or(archived).or_else(|| begun.prev());
        let count = |last: SegmentNumber| {
            last.get()
                .saturating_sub(first.get())
                .saturating_add(u64::from(last >= first))
        };
        let brought_last = brought.last().and_then(|name| name.number(size).ok());
        Self {
            path: path.clone(),
            size,
            first,
            count: last.map_or(0, count).max(brought_last.map_or(0, count)),
            partial: partial.map(|number| SegmentName::new(timeline, number, size)),
            may_end: partial.is_some() || !brought.is_empty(),
        }
    }

    /// How many segments.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    pub(crate) fn size(&self) -> WalSegmentSize {
        self.size
    }

    /// The number of a segment.
    pub(crate) fn number(&self, index: u64) -> SegmentNumber {
        SegmentNumber::new(self.first.get().saturating_add(index))
    }

    /// What a segment is called on this path.
    pub(crate) fn segment(&self, index: u64) -> SegmentName {
        let number = self.number(index);
        let timeline = self
            .path
            .steps()
            .iter()
            .rev()
            .find(|step| SegmentNumber::containing(step.begin, self.size) <= number)
            .map_or(TimelineId::FIRST, |step| step.timeline);
        SegmentName::new(timeline, number, self.size)
    }

    /// What a segment is called in the archive.
    pub(crate) fn file(&self, index: u64) -> WalFileName {
        let segment = self.segment(index);
        if self.partial == Some(segment) {
            WalFileName::Partial(segment)
        } else {
            WalFileName::Segment(segment)
        }
    }

    /// The segment that `lsn` lies in; the first one for what lies before it.
    pub(crate) fn index_of(&self, lsn: Lsn) -> u64 {
        SegmentNumber::containing(lsn, self.size)
            .get()
            .saturating_sub(self.first.get())
    }

    /// Whether the log may end within a segment.
    pub(crate) fn may_end(&self) -> bool {
        self.may_end
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr_core::TimelineHistory;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn tli(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn forked(at: &str) -> TimelinePath {
        let text = format!("1\t{at}\tr\n");
        TimelineHistory::parse(tli(2), text.as_bytes())
            .unwrap()
            .path(tli(1), "0/3000028".parse().unwrap())
            .unwrap()
    }

    fn way(path: &TimelinePath, ranges: &[(u32, u64, u64)], partials: &[&str]) -> Way {
        let mut wal = ArchivedWal::new(SIZE);
        for (timeline, first, last) in ranges {
            let range = SegmentNumber::new(*first)..=SegmentNumber::new(*last);
            wal.add(tli(*timeline), [range], []);
        }
        for partial in partials {
            let name: SegmentName = partial.parse().unwrap();
            wal.add(name.timeline(), [], [name]);
        }
        Way::new(path, &wal, &BTreeSet::new())
    }

    fn names(way: &Way) -> Vec<String> {
        (0..way.len())
            .map(|index| way.file(index).to_string())
            .collect()
    }

    #[test]
    fn the_segment_of_a_branch_is_the_childs() {
        let way = way(&forked("0/4000100"), &[(1, 1, 9), (2, 4, 5)], &[]);
        assert_eq!(
            names(&way),
            [
                "000000010000000000000003",
                "000000020000000000000004",
                "000000020000000000000005"
            ]
        );
        assert_eq!(way.index_of("0/5000000".parse().unwrap()), 2);
        assert_eq!(way.index_of("0/1000000".parse().unwrap()), 0);
    }

    #[test]
    fn a_child_without_a_log_ends_where_it_begins() {
        let way_at = |at: &str| way(&forked(at), &[(1, 1, 9)], &[]);
        assert_eq!(names(&way_at("0/5000100")).len(), 2);
        assert_eq!(
            names(&way_at("0/5000000")),
            ["000000010000000000000003", "000000010000000000000004"]
        );
    }

    #[test]
    fn a_partial_is_the_last_one_where_nothing_later_is_there() {
        let partial = "000000020000000000000006";
        let path = forked("0/4000100");
        let last = |way: &Way| names(way).pop().unwrap();
        let ends = way(&path, &[(1, 1, 9), (2, 4, 5)], &[partial]);
        assert_eq!(last(&ends), format!("{partial}.partial"));
        let goes_on = way(&path, &[(1, 1, 9), (2, 4, 7)], &[partial]);
        assert_eq!(last(&goes_on), "000000020000000000000007");
    }
}
