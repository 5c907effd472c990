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
    while low < high {
        let middle = low + (high - low) / 2;
        match nearest_answer(middle, low, high, ask)? {
            Some((index, true)) => high = index,
            Some((index, false)) => low = index + 1,
            // nothing in between says anything
            None => break,
        }
    }
    Ok(high)
}

/// The answer of the segment nearest to `middle` that gives one.
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
        for index in after.into_iter().chain(before) {
            if let Some(answer) = ask(index)? {
                return Ok(Some((index, answer)));
            }
        }
        // a bulk load fills many segments without a commit
        if distance >= 4 {
            step *= 2;
        }
        distance += step;
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
