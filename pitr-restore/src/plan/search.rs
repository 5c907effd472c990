//! In which segment something happened, by as few summaries as may be.

use pitr_core::{SegmentSummary, Timestamp, TransactionId};

use super::log::{Log, LogError};

/// Segments before a found one that are looked at one by one: times and
/// numbers of neighbouring transactions are not in the order of the log.
const NEIGHBOURS: u64 = 8;
/// How often a search begins again because an earlier segment qualifies too.
const REPEATS: usize = 8;

/// The first segment of which `qualifies` is true, where it is false for the
/// segments before and true for those after: nearly, since neither times nor
/// numbers are in order, and not every segment says anything (`None`).
/// `log.way().len()` where none is.
///
/// Halves the way, then looks at the neighbours before what was found, and at
/// places ever further back, so that a clock that was set back is noticed.
pub(crate) fn first_that(
    log: &Log<'_>,
    qualifies: &dyn Fn(&SegmentSummary) -> Option<bool>,
) -> Result<u64, LogError> {
    let ask = |index: u64| -> Result<Option<bool>, LogError> {
        Ok(log.summary(index)?.and_then(|summary| qualifies(&summary)))
    };
    let mut end = log.way().len();
    for _ in 0..REPEATS {
        end = halve(end, &ask)?;
        match earlier(end, &ask)? {
            Some(earlier) => end = earlier.saturating_add(1),
            None => break,
        }
    }
    Ok(end)
}

type Ask<'q> = dyn Fn(u64) -> Result<Option<bool>, LogError> + 'q;

/// The first segment before `end` that qualifies, if they are in order; else `end`.
fn halve(end: u64, ask: &Ask<'_>) -> Result<u64, LogError> {
    let (mut low, mut high) = (0, end);
    // between these something may be told that is not known yet
    let (mut lower, mut upper) = (0, end);
    while lower < upper {
        let middle = lower + (upper - lower) / 2;
        match nearest_answer(middle, lower, upper, ask)? {
            Some((index, true)) => {
                high = index;
                // as far on the other side nothing was told
                upper = index.min((middle + 1).saturating_sub(index.saturating_sub(middle)));
            }
            Some((index, false)) => {
                low = index + 1;
                lower = (index + 1).max(middle.saturating_add(middle.saturating_sub(index)));
            }
            // nothing in between says anything
            None => break,
        }
    }
    // what was passed over there may hold a lonely commit: no server passes it over
    for index in low..high {
        if ask(index)? == Some(true) {
            return Ok(index);
        }
    }
    Ok(high)
}

/// The answer of a segment near `middle` that gives one: a bulk load fills many
/// segments without a commit.
fn nearest_answer(
    middle: u64,
    low: u64,
    high: u64,
    ask: &Ask<'_>,
) -> Result<Option<(u64, bool)>, LogError> {
    let (mut distance, mut step) = (0_u64, 1_u64);
    loop {
        let after = middle.checked_add(distance).filter(|index| *index < high);
        let before = middle
            .checked_sub(distance)
            .filter(|index| *index >= low && distance > 0);
        if after.is_none() && before.is_none() {
            return Ok(None);
        }
        // far away one that says nothing has neighbours that may
        let neighbours = if distance > 4 { 3 } else { 1 };
        for index in after.into_iter().chain(before) {
            for index in index..index.saturating_add(neighbours).min(high) {
                if let Some(answer) = ask(index)? {
                    return Ok(Some((index, answer)));
                }
            }
        }
        if distance >= 4 {
            step = step.saturating_mul(3);
        }
        distance = distance.saturating_add(step);
    }
}

/// A segment before `found` that qualifies all the same.
fn earlier(found: u64, ask: &Ask<'_>) -> Result<Option<u64>, LogError> {
    let near = 1..=NEIGHBOURS;
    let far = (0..).map(|power| (NEIGHBOURS * 2) << power);
    for distance in near.chain(far) {
        let Some(index) = found.checked_sub(distance) else {
            break;
        };
        if ask(index)? == Some(true) {
            return Ok(Some(index));
        }
    }
    Ok(None)
}

/// The first segment in which a transaction ends past `time`: later, or as
/// late where the target is exclusive.
pub(crate) fn first_past(log: &Log<'_>, time: Timestamp, inclusive: bool) -> Result<u64, LogError> {
    first_that(log, &|summary| {
        let latest = summary.latest_end?.time;
        Some(if inclusive {
            latest > time
        } else {
            latest >= time
        })
    })
}

/// The first segment by whose end `xid` may have ended: numbers as high had
/// been given out.
pub(crate) fn first_given_out(log: &Log<'_>, xid: TransactionId) -> Result<u64, LogError> {
    first_that(log, &|summary| {
        let highest = summary.ended_xids.map(|span| span.highest);
        let next = summary.running.map(|running| running.next_xid);
        let passed = |number: u32, or_equal: bool| {
            TransactionId::new(number)
                .is_some_and(|number| xid.precedes(number) || (or_equal && number == xid))
        };
        if highest.is_none() && next.is_none() {
            return None;
        }
        Some(
            highest.is_some_and(|highest| passed(highest, true))
                || next.is_some_and(|next| passed(next, false)),
        )
    })
}

/// Whether `xid` had ended before the last account of running transactions in
/// the segment.
pub(crate) fn has_ended(summary: &SegmentSummary, xid: TransactionId) -> bool {
    summary
        .running
        .and_then(|running| TransactionId::new(running.oldest_running_xid))
        .is_some_and(|oldest| xid.precedes(oldest))
}

/// Whether `xid` had not been given out at an account of running transactions
/// in the segment.
pub(crate) fn is_to_come(summary: &SegmentSummary, xid: TransactionId) -> bool {
    summary
        .running
        .and_then(|running| TransactionId::new(running.next_xid))
        .is_some_and(|next| next == xid || next.precedes(xid))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;
    use std::sync::atomic::{AtomicU64, Ordering};

    use pitr_core::{
        Lsn, Moment, SegmentNumber, SegmentSummaryBuilder, SystemIdentifier, TimelineHistory,
        TimelineId, WalFileName, WalSegmentSize, XidSpan,
    };

    use super::super::log::SegmentSource;
    use super::super::wal::ArchivedWal;
    use super::super::way::Way;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    /// An archive in which the segment of index `i` ends with what `last` says:
    /// a time in seconds, and a transaction; `None` where nothing ends in it.
    struct Made {
        last: fn(u64) -> Option<(i64, u32)>,
        touched: AtomicU64,
    }

    impl SegmentSource for Made {
        fn summary(&self, name: &WalFileName) -> Result<Option<SegmentSummary>, LogError> {
            self.touched.fetch_add(1, Ordering::Relaxed);
            let segment = name.segment().unwrap();
            let builder = SegmentSummaryBuilder::new(segment, SIZE).unwrap();
            let mut summary = builder.finish();
            let index = segment.number(SIZE).unwrap().get() - 1;
            if let Some((seconds, xid)) = (self.last)(index) {
                summary.latest_end = Some(Moment {
                    time: Timestamp::new(seconds * 1_000_000),
                    lsn: Lsn::INVALID,
                });
                summary.ended_xids = TransactionId::new(xid).map(XidSpan::of);
            }
            Ok(Some(summary))
        }

        fn read(
            &self,
            _: &WalFileName,
            _: &mut dyn FnMut(&[u8]) -> bool,
        ) -> Result<bool, LogError> {
            Ok(false)
        }
    }

    /// What a search of `count` segments finds, and how many it touches.
    fn search(
        count: u64,
        last: fn(u64) -> Option<(i64, u32)>,
        look: impl FnOnce(&Log<'_>) -> u64,
    ) -> (u64, u64) {
        let source = Made {
            last,
            touched: AtomicU64::new(0),
        };
        let mut wal = ArchivedWal::new(SIZE);
        let all = SegmentNumber::new(1)..=SegmentNumber::new(count);
        wal.add(TimelineId::FIRST, [all], []);
        let path = TimelineHistory::root(TimelineId::FIRST)
            .path(TimelineId::FIRST, SegmentNumber::new(1).start(SIZE))
            .unwrap();
        let way = Way::new(&path, &wal, &BTreeSet::new());
        assert_eq!(way.len(), count);
        let log = Log::new(&source, way, SystemIdentifier::new(7));
        let found = look(&log);
        (found, source.touched.load(Ordering::Relaxed))
    }

    fn at(seconds: i64) -> impl FnOnce(&Log<'_>) -> u64 {
        move |log| first_past(log, Timestamp::new(seconds * 1_000_000), true).unwrap()
    }

    #[test]
    fn a_hundred_thousand_segments_are_searched_by_a_handful() {
        fn minute(index: u64) -> Option<(i64, u32)> {
            Some((
                i64::try_from(index).unwrap() * 60,
                u32::try_from(index).unwrap() + 3,
            ))
        }
        for wanted in [0, 1, 17, 4_711, 50_000, 99_998, 99_999] {
            let (found, touched) =
                search(100_000, minute, at(i64::try_from(wanted).unwrap() * 60 - 1));
            assert_eq!(found, wanted);
            assert!(touched < 60, "{touched}");
            let (found, touched) = search(100_000, minute, |log| {
                let xid = TransactionId::new(u32::try_from(wanted).unwrap() + 3).unwrap();
                first_given_out(log, xid).unwrap()
            });
            assert_eq!(found, wanted);
            assert!(touched < 60, "{touched}");
        }
        // nothing is that late
        let (found, touched) = search(100_000, minute, at(60 * 100_000));
        assert_eq!(found, 100_000);
        assert!(touched < 60, "{touched}");
    }

    #[test]
    fn segments_in_which_nothing_ends_say_nothing() {
        fn load(index: u64) -> Option<(i64, u32)> {
            let idle = (2_000..9_000).contains(&index) || !index.is_multiple_of(3);
            (!idle).then(|| (i64::try_from(index).unwrap(), 3))
        }
        for (wanted, found) in [(0, 3), (1_500, 1_503), (5_000, 9_000), (9_500, 9_501)] {
            assert_eq!(search(10_000, load, at(wanted)).0, found);
        }
        // one commit in a long load is found all the same
        fn lonely(index: u64) -> Option<(i64, u32)> {
            let speaks = !(2_000..9_000).contains(&index) || index == 3_333;
            speaks.then(|| (i64::try_from(index).unwrap(), 3))
        }
        assert_eq!(search(10_000, lonely, at(2_500)).0, 3_333);
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_hide_what_came_first() {
        // an hour ahead for the first half, then right
        fn ahead(index: u64) -> Option<(i64, u32)> {
            let time = i64::try_from(index).unwrap() * 60;
            Some((if index < 500 { time + 3_600 } else { time }, 3))
        }
        // past in segment 451, and again from 511 on
        let (found, _) = search(1_000, ahead, at(450 * 60 + 3_600));
        assert_eq!(found, 451);
    }
}
