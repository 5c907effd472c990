//! The archived log as a whole, and how far a path leads through it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;

use pitr_core::{Lsn, SegmentName, SegmentNumber, TimelineId, TimelinePath, WalSegmentSize};

/// Which segments the archive holds.
#[derive(Debug, Clone)]
pub(crate) struct ArchivedWal {
    size: WalSegmentSize,
    /// Without overlap and in order, for each timeline.
    ranges: BTreeMap<TimelineId, Vec<RangeInclusive<SegmentNumber>>>,
    /// Segments of which the archive has a `.partial`.
    partials: BTreeSet<SegmentName>,
}

/// How far a path is covered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coverage {
    /// The first segment of the path.
    pub(crate) first: SegmentName,
    /// Segments that are there without a gap.
    pub(crate) segments: u64,
    /// End of the last of them: everything on the path before it is there.
    pub(crate) end: Lsn,
    /// The last one, where it is only there as a `.partial`.
    pub(crate) partial: Option<SegmentName>,
    /// The first segment that was looked for and is not there.
    pub(crate) missing: Option<SegmentName>,
    /// The next one on the path that is there again.
    pub(crate) resumes: Option<SegmentName>,
}

impl ArchivedWal {
    pub(crate) fn new(size: WalSegmentSize) -> Self {
        Self {
            size,
            ranges: BTreeMap::new(),
            partials: BTreeSet::new(),
        }
    }

    /// Adds what lies on one timeline.
    pub(crate) fn add(
        &mut self,
        timeline: TimelineId,
        ranges: impl IntoIterator<Item = RangeInclusive<SegmentNumber>>,
        partials: impl IntoIterator<Item = SegmentName>,
    ) {
        let of_timeline = self.ranges.entry(timeline).or_default();
        of_timeline.extend(ranges);
        of_timeline.sort_by_key(|range| *range.start());
        // two repositories overlap
        let mut joined: Vec<RangeInclusive<SegmentNumber>> = Vec::new();
        for range in of_timeline.drain(..) {
            match joined.last_mut() {
                Some(last) if *range.start() <= last.end().next() => {
                    *last = *last.start()..=(*last.end()).max(*range.end());
                }
                _ => joined.push(range),
            }
        }
        *of_timeline = joined;
        self.partials.extend(partials);
    }

    /// Adds all that `other` holds.
    pub(crate) fn join(&mut self, other: Self) {
        for (timeline, ranges) in other.ranges {
            self.add(timeline, ranges, []);
        }
        self.partials.extend(other.partials);
    }

    fn ranges(&self, timeline: TimelineId) -> &[RangeInclusive<SegmentNumber>] {
        self.ranges.get(&timeline).map_or(&[], Vec::as_slice)
    }

    fn has(&self, timeline: TimelineId, number: SegmentNumber) -> bool {
        let ranges = self.ranges(timeline);
        let after = ranges.partition_point(|range| *range.start() <= number);
        after
            .checked_sub(1)
            .and_then(|before| ranges.get(before))
            .is_some_and(|range| range.contains(&number))
    }

    pub(crate) fn size(&self) -> WalSegmentSize {
        self.size
    }

    /// The last `.partial` of a timeline.
    pub(crate) fn last_partial(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        let all = SegmentNumber::new(0)..=SegmentNumber::new(u64::MAX);
        self.partials(timeline, all).max()
    }

    /// The first segment of a timeline, of those that were looked for.
    pub(crate) fn first(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        let whole = self.ranges(timeline).first().map(|range| *range.start());
        let partial = self
            .partials(
                timeline,
                SegmentNumber::new(0)..=SegmentNumber::new(u64::MAX),
            )
            .min();
        whole.into_iter().chain(partial).min()
    }

    /// Whole segments of a timeline within `bounds`, in order.
    pub(crate) fn segments(
        &self,
        timeline: TimelineId,
        bounds: RangeInclusive<SegmentNumber>,
    ) -> impl Iterator<Item = SegmentNumber> + '_ {
        self.ranges(timeline).iter().flat_map(move |range| {
            let first = range.start().get().max(bounds.start().get());
            let last = range.end().get().min(bounds.end().get());
            (first..=last).map(SegmentNumber::new)
        })
    }

    /// Partial segments of a timeline within `bounds`, in order.
    pub(crate) fn partials(
        &self,
        timeline: TimelineId,
        bounds: RangeInclusive<SegmentNumber>,
    ) -> impl Iterator<Item = SegmentNumber> + '_ {
        let of_timeline = self.partials.iter();
        of_timeline
            .filter(move |segment| segment.timeline() == timeline)
            .filter_map(|segment| segment.number(self.size).ok())
            .filter(move |number| bounds.contains(number))
    }

    /// The last segment of a timeline.
    pub(crate) fn last(&self, timeline: TimelineId) -> Option<SegmentNumber> {
        self.ranges(timeline).last().map(|range| *range.end())
    }

    /// Whether the hook would serve the `.partial` in place of this segment,
    /// when this timeline is followed: nothing whole and nothing later is
    /// there.
    fn partial_stands_in(&self, segment: &SegmentName, number: SegmentNumber) -> bool {
        self.partials.contains(segment)
            && self
                .last(segment.timeline())
                .is_none_or(|last| last < number)
    }

    /// Walks `path`: up to `until` where that is given, else as far as the
    /// last timeline's archived log goes, and to its first segment at least.
    ///
    /// `brought` are segments that the backup itself holds, complete up to
    /// `brought_end`.
    pub(crate) fn follow(
        &self,
        path: &TimelinePath,
        until: Option<Lsn>,
        brought: &BTreeSet<SegmentName>,
        brought_end: Lsn,
    ) -> Coverage {
        let until = until.unwrap_or_else(|| self.end_of(path, brought_end));
        let mut coverage = Coverage {
            first: SegmentName::containing(
                path.owner(path.begin()).unwrap_or(TimelineId::FIRST),
                path.begin(),
                self.size,
            ),
            segments: 0,
            end: path.begin(),
            partial: None,
            missing: None,
            resumes: None,
        };
        let final_timeline = path.steps().last().map(|step| step.timeline);
        for segment in path.segments_until(until, self.size) {
            let Ok(number) = segment.number(self.size) else {
                continue;
            };
            let archived = self.has(segment.timeline(), number);
            if coverage.missing.is_some() {
                if archived {
                    coverage.resumes = Some(segment);
                    break;
                }
                continue;
            }
            let end = number.end(self.size);
            if archived {
                coverage.end = end;
            } else if brought.contains(&segment) {
                coverage.end = end.min(brought_end);
                if brought_end < end {
                    // the backup's copy holds no more than the backup needs
                    coverage.missing = (until > brought_end).then_some(segment);
                }
            } else if final_timeline == Some(segment.timeline())
                && self.partial_stands_in(&segment, number)
            {
                coverage.end = end;
                coverage.partial = Some(segment);
            } else {
                coverage.missing = Some(segment);
                continue;
            }
            coverage.segments += 1;
        }
        coverage
    }

    /// Where the archived log of a path's last timeline ends.
    pub(crate) fn end_of(&self, path: &TimelinePath, brought_end: Lsn) -> Lsn {
        let Some(last_step) = path.steps().last() else {
            return path.begin();
        };
        let first = SegmentNumber::containing(last_step.begin, self.size);
        let archived = self.last(last_step.timeline).filter(|last| *last >= first);
        let partial = self
            .last_partial(last_step.timeline)
            .filter(|number| *number >= first);
        match archived.max(partial) {
            Some(last) => last.end(self.size).max(brought_end),
            None if brought_end > first.start(self.size) => brought_end,
            // its first segment is to be looked for, and missed
            None => first.end(self.size),
        }
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

    fn archive(ranges: &[(u32, u64, u64)], partials: &[&str]) -> ArchivedWal {
        let mut wal = ArchivedWal::new(SIZE);
        for (timeline, first, last) in ranges {
            wal.add(
                tli(*timeline),
                [SegmentNumber::new(*first)..=SegmentNumber::new(*last)],
                [],
            );
        }
        wal.add(
            TimelineId::FIRST,
            [],
            partials.iter().map(|name| name.parse().unwrap()),
        );
        wal
    }

    fn lsn(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn forked() -> TimelinePath {
        TimelineHistory::parse(tli(2), b"1\t0/5000100\tr\n")
            .unwrap()
            .path(tli(1), lsn("0/3000028"))
            .unwrap()
    }

    fn straight() -> TimelinePath {
        TimelineHistory::root(tli(1))
            .path(tli(1), lsn("0/3000028"))
            .unwrap()
    }

    fn follow(wal: &ArchivedWal, path: &TimelinePath, until: Option<&str>) -> Coverage {
        wal.follow(path, until.map(lsn), &BTreeSet::new(), Lsn::INVALID)
    }

    #[test]
    fn a_whole_log_is_covered_to_its_end() {
        let coverage = follow(&archive(&[(1, 1, 9)], &[]), &straight(), None);
        assert_eq!(coverage.first.to_string(), "000000010000000000000003");
        assert_eq!(coverage.segments, 7);
        assert_eq!(coverage.end, lsn("0/A000000"));
        assert_eq!(coverage.missing, None);
    }

    #[test]
    fn the_first_missing_segment_is_named_and_where_the_log_goes_on() {
        let wal = archive(&[(1, 1, 5), (1, 7, 9)], &[]);
        let coverage = follow(&wal, &straight(), None);
        assert_eq!(coverage.end, lsn("0/6000000"));
        assert_eq!(
            coverage.missing.unwrap().to_string(),
            "000000010000000000000006"
        );
        assert_eq!(
            coverage.resumes.unwrap().to_string(),
            "000000010000000000000007"
        );
        assert_eq!(follow(&wal, &straight(), Some("0/6000000")).missing, None);
        assert!(
            follow(&wal, &straight(), Some("0/6000001"))
                .missing
                .is_some()
        );
    }

    #[test]
    fn the_log_of_two_repositories_is_one() {
        let mut wal = archive(&[(1, 1, 9)], &[]);
        wal.join(archive(&[(1, 4, 5), (1, 10, 11)], &[]));
        let coverage = follow(&wal, &straight(), None);
        assert_eq!(coverage.end, lsn("0/C000000"));
        assert_eq!(coverage.missing, None);
        let mut wal = archive(&[(1, 1, 3), (1, 6, 7)], &[]);
        wal.join(archive(&[(1, 4, 4)], &[]));
        let missing = follow(&wal, &straight(), None).missing;
        assert_eq!(missing.unwrap().to_string(), "000000010000000000000005");
    }

    #[test]
    fn the_branch_segment_must_be_the_childs() {
        // the parent's own copy of 5 does not count
        let coverage = follow(&archive(&[(1, 1, 9), (2, 6, 7)], &[]), &forked(), None);
        assert_eq!(coverage.end, lsn("0/5000000"));
        assert_eq!(
            coverage.missing.unwrap().to_string(),
            "000000020000000000000005"
        );
        let coverage = follow(&archive(&[(1, 1, 4), (2, 5, 7)], &[]), &forked(), None);
        assert_eq!(coverage.missing, None);
        assert_eq!(coverage.end, lsn("0/8000000"));
    }

    #[test]
    fn a_timeline_without_any_log_misses_its_first_segment() {
        let coverage = follow(&archive(&[(1, 1, 9)], &[]), &forked(), None);
        assert_eq!(
            coverage.missing.unwrap().to_string(),
            "000000020000000000000005"
        );
        assert_eq!(coverage.resumes, None);
    }

    #[test]
    fn a_partial_stands_in_at_the_very_end_only() {
        let name = "000000010000000000000006";
        let coverage = follow(&archive(&[(1, 1, 5)], &[name]), &straight(), None);
        assert_eq!(coverage.partial.unwrap().to_string(), name);
        assert_eq!(coverage.end, lsn("0/7000000"));
        let coverage = follow(
            &archive(&[(1, 1, 5), (1, 7, 7)], &[name]),
            &straight(),
            None,
        );
        assert_eq!(coverage.partial, None);
        assert_eq!(coverage.missing.unwrap().to_string(), name);
    }

    #[test]
    fn what_the_backup_brought_reaches_to_its_own_end() {
        let brought: BTreeSet<SegmentName> = ["000000010000000000000003".parse().unwrap()].into();
        let stop = lsn("0/3000138");
        let wal = archive(&[], &[]);
        let coverage = wal.follow(&straight(), None, &brought, stop);
        assert_eq!((coverage.end, coverage.missing), (stop, None));
        // ... and no further, even where the archive goes on after it
        let wal = archive(&[(1, 4, 5)], &[]);
        let coverage = wal.follow(&straight(), None, &brought, stop);
        assert_eq!(coverage.end, stop);
        assert_eq!(
            coverage.missing.unwrap().to_string(),
            "000000010000000000000003"
        );
        assert!(coverage.resumes.is_some());
        // the archive's own copy is whole
        let wal = archive(&[(1, 3, 5)], &[]);
        let coverage = wal.follow(&straight(), None, &brought, stop);
        assert_eq!(coverage.end, lsn("0/6000000"));
    }
}
