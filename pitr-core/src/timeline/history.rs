//! The ancestors of a timeline.

use nom::Parser;

use crate::line::{blanks, excerpt, lsn, numbered_lines, timeline};
use crate::lsn::Lsn;
use crate::timeline::id::TimelineId;

/// A timeline and the ancestors that it branched off from, as its history file lists them.
///
/// The file `NNNNNNNN.history` has one line for each ancestor, oldest first:
/// its number, a tab, the switch LSN, a tab, the reason. The switch LSN is the
/// first position that no longer belongs to the ancestor. Timeline 1 has no
/// file: [`TimelineHistory::root`].
///
/// Switch positions normally ascend, but a server that follows timeline 2 and
/// is stopped by its target before 2 begins still writes 2 as the parent of
/// the new timeline, with the lower LSN. So everything here but
/// [`TimelineHistory::entries`] speaks of the history as it is: of the ranges
/// that a reader of the log on this timeline passes, where an ancestor ends at
/// the lowest switch LSN from its own line on, and may be left with no range.
///
/// Source: `readTimeLineHistory`, src/backend/access/transam/timeline.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistory {
    timeline: TimelineId,
    entries: Vec<HistoryEntry>,
    /// For each entry, where its timeline really ends.
    ends: Vec<Lsn>,
    /// The file; `None` where there is none.
    file: Option<Vec<u8>>,
}

/// One ancestor: a line of a history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The ancestor.
    pub parent: TimelineId,
    /// First position that belongs to the next timeline: the exclusive end of the ancestor.
    pub switch_lsn: Lsn,
    /// What the server wrote about why it branched off, as in `before transaction 779`.
    ///
    /// For people only. Bytes that are not UTF-8 are replaced, white space around it is cut.
    pub reason: String,
}

impl TimelineHistory {
    /// The history of a timeline that branched off from nothing: timeline 1.
    pub const fn root(timeline: TimelineId) -> Self {
        TimelineHistory {
            timeline,
            entries: Vec::new(),
            ends: Vec::new(),
            file: None,
        }
    }

    /// Reads the history file of `timeline`.
    ///
    /// Blank lines, lines that begin with `#`, and what follows the LSN on a
    /// line are passed over, as the server does: the first are normal.
    ///
    /// # Errors
    /// `Syntax` for a line that does not begin with a timeline and an LSN;
    /// `NotIncreasing` and `NotBelowChild` if the numbers don't ascend up to
    /// `timeline`.
    ///
    /// Source: `readTimeLineHistory`, src/backend/access/transam/timeline.c.
    pub fn parse(timeline: TimelineId, bytes: &[u8]) -> Result<Self, TimelineHistoryError> {
        let mut entries: Vec<HistoryEntry> = Vec::new();
        for (number, line) in numbered_lines(bytes) {
            let line = line.trim_ascii();
            if line.is_empty() || line.starts_with(b"#") {
                continue;
            }
            let entry = entry(line).ok_or_else(|| TimelineHistoryError::Syntax {
                line: number,
                text: excerpt(line),
            })?;
            if let Some(previous) = entries
                .last()
                .filter(|previous| previous.parent >= entry.parent)
            {
                return Err(TimelineHistoryError::NotIncreasing {
                    line: number,
                    found: entry.parent,
                    previous: previous.parent,
                });
            }
            entries.push(entry);
        }
        if let Some(last) = entries.last().filter(|last| last.parent >= timeline) {
            return Err(TimelineHistoryError::NotBelowChild {
                timeline,
                found: last.parent,
            });
        }
        let mut lowest = Lsn::new(u64::MAX);
        let mut ends: Vec<Lsn> = entries
            .iter()
            .rev()
            .map(|entry| {
                lowest = lowest.min(entry.switch_lsn);
                lowest
            })
            .collect();
        ends.reverse();
        Ok(TimelineHistory {
            timeline,
            entries,
            ends,
            file: Some(bytes.to_vec()),
        })
    }

    /// The history of a new timeline that branches off from `parent` at `switch_lsn`.
    ///
    /// Its [`TimelineHistory::to_bytes`] are what PostgreSQL up to 18 writes:
    /// the parent's file as it is, an empty line after it, and the new line.
    ///
    /// # Errors
    /// `NotBelowChild` if `timeline` is not above the parent's number;
    /// `Reason` if the reason's text would read as further lines of the file.
    ///
    /// Source: `writeTimeLineHistory`, src/backend/access/transam/timeline.c.
    pub fn child_of(
        parent: &TimelineHistory,
        timeline: TimelineId,
        switch_lsn: Lsn,
        reason: &str,
    ) -> Result<Self, TimelineHistoryError> {
        // reasons of the server for time and LSN targets end with a newline of their own
        if reason.strip_suffix('\n').unwrap_or(reason).contains('\n') {
            return Err(TimelineHistoryError::Reason);
        }
        let mut file = parent.to_bytes();
        if parent.file.is_some() {
            file.push(b'\n');
        }
        file.extend_from_slice(format!("{}\t{switch_lsn}\t{reason}\n", parent.timeline).as_bytes());
        TimelineHistory::parse(timeline, &file)
    }

    /// The timeline whose history this is.
    pub const fn timeline(&self) -> TimelineId {
        self.timeline
    }

    /// The lines of the file: ancestors, oldest first.
    pub fn entries(&self) -> &[HistoryEntry] {
        &self.entries
    }

    /// The file as it was read, or as PostgreSQL would write it; empty for a root, which has none.
    pub fn to_bytes(&self) -> Vec<u8> {
        self.file.clone().unwrap_or_default()
    }

    /// Whether `timeline` is this timeline or an ancestor of it.
    pub fn includes(&self, timeline: TimelineId) -> bool {
        timeline == self.timeline || self.index_of(timeline).is_some()
    }

    /// The timeline that the byte at `lsn` belongs to on this history.
    ///
    /// Source: `tliOfPointInHistory`, src/backend/access/transam/timeline.c.
    pub fn owner(&self, lsn: Lsn) -> TimelineId {
        let owner = self
            .ends
            .iter()
            .position(|&end| lsn < end)
            .and_then(|index| self.entries.get(index));
        owner.map_or(self.timeline, |entry| entry.parent)
    }

    /// Where `timeline` ends on this history, exclusive: the first position of the next one.
    ///
    /// `None` if it does not end (it is this timeline) or is not on this history at all.
    ///
    /// Source: `tliSwitchPoint`, src/backend/access/transam/timeline.c.
    pub fn switch_point(&self, timeline: TimelineId) -> Option<Lsn> {
        self.index_of(timeline)
            .and_then(|index| self.ends.get(index))
            .copied()
    }

    /// The first position of `timeline` on this history: 0/0 for the oldest. `None` if it is not on this history.
    pub fn begin_of(&self, timeline: TimelineId) -> Option<Lsn> {
        let index = if timeline == self.timeline {
            self.entries.len()
        } else {
            self.index_of(timeline)?
        };
        Some(
            index
                .checked_sub(1)
                .and_then(|before| self.ends.get(before))
                .copied()
                .unwrap_or(Lsn::INVALID),
        )
    }

    /// Whether the byte at `lsn` on `timeline` belongs to this history.
    pub fn contains(&self, timeline: TimelineId, lsn: Lsn) -> bool {
        self.owner(lsn) == timeline
    }

    /// The timelines that have a range on this history, oldest first, each with its begin and its exclusive end.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (TimelineId, Lsn, Option<Lsn>)> {
        let begins = std::iter::once(Lsn::INVALID).chain(self.ends.iter().copied());
        let ends = self
            .ends
            .iter()
            .copied()
            .map(Some)
            .chain(std::iter::once(None));
        let timelines = self
            .entries
            .iter()
            .map(|entry| entry.parent)
            .chain(std::iter::once(self.timeline));
        timelines
            .zip(begins.zip(ends))
            .map(|(timeline, (begin, end))| (timeline, begin, end))
            .filter(|(_, begin, end)| end.is_none_or(|end| *begin < end))
    }

    fn index_of(&self, timeline: TimelineId) -> Option<usize> {
        self.entries
            .binary_search_by_key(&timeline, |entry| entry.parent)
            .ok()
    }
}

fn entry(line: &[u8]) -> Option<HistoryEntry> {
    let (rest, (parent, _, switch_lsn)) = (timeline, blanks, lsn).parse(line).ok()?;
    let reason = String::from_utf8_lossy(rest.trim_ascii()).into_owned();
    Some(HistoryEntry {
        parent,
        switch_lsn,
        reason,
    })
}

/// Why bytes are not the history of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimelineHistoryError {
    /// A line that is neither blank nor a comment, and not an ancestor either.
    #[error(
        "line {line} of the history file is not a timeline and the LSN where it ends: \"{text}\""
    )]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Its text (shortened if long).
        text: String,
    },
    /// Ancestors must be listed in ascending order.
    #[error("line {line} of the history file names timeline {found} after timeline {previous}")]
    NotIncreasing {
        /// Line, from 1.
        line: usize,
        /// The ancestor on this line.
        found: TimelineId,
        /// The ancestor before it.
        previous: TimelineId,
    },
    /// A timeline's number is higher than those of its ancestors.
    #[error("the history file of timeline {timeline} names timeline {found} as its ancestor")]
    NotBelowChild {
        /// Whose history it is.
        timeline: TimelineId,
        /// The last ancestor listed.
        found: TimelineId,
    },
    /// A reason has a line break within it.
    #[error("the reason for a timeline switch must be a single line")]
    Reason,
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn timeline(number: u32) -> TimelineId {
        TimelineId::new(number).unwrap()
    }

    fn at(text: &str) -> Lsn {
        text.parse().unwrap()
    }

    fn parse(number: u32, text: &str) -> Result<TimelineHistory, TimelineHistoryError> {
        TimelineHistory::parse(timeline(number), text.as_bytes())
    }

    #[test]
    fn files_of_real_servers_are_read() {
        for (text, lsn, reason) in [
            (
                "1\t0/70231F0\tafter transaction 779\n",
                "0/70231F0",
                "after transaction 779",
            ),
            (
                "1\t0/7023258\tat restore point \"rpdup\"\n",
                "0/7023258",
                "at restore point \"rpdup\"",
            ),
            (
                "1\t0/70232A0\tafter LSN 0/7023258\n\n",
                "0/70232A0",
                "after LSN 0/7023258",
            ),
            (
                "1\t0/6000100\treached consistency\n",
                "0/6000100",
                "reached consistency",
            ),
            (
                "1\t0/06000100\treached consistency\n",
                "0/6000100",
                "reached consistency",
            ),
        ] {
            let history = parse(2, text).unwrap();
            let entry = HistoryEntry {
                parent: timeline(1),
                switch_lsn: at(lsn),
                reason: reason.to_owned(),
            };
            assert_eq!(history.entries(), [entry]);
            assert_eq!(history.to_bytes(), text.as_bytes());
        }
    }

    #[test]
    fn blank_lines_comments_and_what_follows_the_lsn_are_passed_over() {
        let history = parse(
            5,
            "\n# a comment\n  1\t0/5000000\n \t \n3 \t 0/7000000 anything # at all\r\n",
        )
        .unwrap();
        let entries: Vec<_> = history
            .entries()
            .iter()
            .map(|entry| (entry.parent.get(), entry.switch_lsn.get()))
            .collect();
        assert_eq!(entries, [(1, 0x500_0000), (3, 0x700_0000)]);
        assert_eq!(history.entries()[1].reason, "anything # at all");
    }

    #[test]
    fn an_empty_file_is_a_timeline_without_ancestors() {
        assert!(parse(7, "").unwrap().entries().is_empty());
        assert!(parse(1, "\n").unwrap().entries().is_empty());
    }

    #[test]
    fn numbers_must_ascend_up_to_the_child() {
        assert!(matches!(
            parse(5, "2\t0/1\tx\n1\t0/2\ty\n"),
            Err(TimelineHistoryError::NotIncreasing { line: 2, .. })
        ));
        assert!(matches!(
            parse(5, "2\t0/1\tx\n2\t0/2\ty\n"),
            Err(TimelineHistoryError::NotIncreasing { .. })
        ));
        assert!(matches!(
            parse(2, "2\t0/1\tx\n"),
            Err(TimelineHistoryError::NotBelowChild { .. })
        ));
        assert!(matches!(
            parse(1, "1\t0/1\tx\n"),
            Err(TimelineHistoryError::NotBelowChild { .. })
        ));
    }

    #[test]
    fn a_line_without_timeline_and_lsn_is_refused() {
        for text in [
            "x\n",
            "1\n",
            "1\t\n",
            "1\t5000000\n",
            "0\t0/1\n",
            "4294967296\t0/1\n",
            "-1\t0/1\n",
            "1\t/1\n",
            "10/1\n",
        ] {
            assert!(
                matches!(
                    parse(9, text),
                    Err(TimelineHistoryError::Syntax { line: 1, .. })
                ),
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_reason_that_is_not_utf8_is_no_error() {
        let history =
            TimelineHistory::parse(timeline(2), b"1\t0/1000\tat restore point \"\xE9t\xE9\"\n")
                .unwrap();
        assert_eq!(
            history.entries()[0].reason,
            "at restore point \"\u{FFFD}t\u{FFFD}\""
        );
        assert!(history.to_bytes().contains(&0xE9));
    }

    #[test]
    fn each_position_has_one_owner_and_the_switch_lsn_is_the_childs() {
        let history = parse(4, "1\t0/5000000\tx\n\n3\t0/7000000\ty\n").unwrap();
        for (lsn, owner) in [
            ("0/0", 1),
            ("0/4FFFFFF", 1),
            ("0/5000000", 3),
            ("0/6FFFFFF", 3),
            ("0/7000000", 4),
            ("FF/0", 4),
        ] {
            assert_eq!(history.owner(at(lsn)), timeline(owner), "{lsn}");
            assert!(history.contains(timeline(owner), at(lsn)));
        }
        assert_eq!(history.switch_point(timeline(1)), Some(at("0/5000000")));
        assert_eq!(history.switch_point(timeline(3)), Some(at("0/7000000")));
        assert_eq!(history.switch_point(timeline(4)), None);
        assert_eq!(history.switch_point(timeline(2)), None);
        assert_eq!(history.begin_of(timeline(1)), Some(Lsn::INVALID));
        assert_eq!(history.begin_of(timeline(3)), Some(at("0/5000000")));
        assert_eq!(history.begin_of(timeline(4)), Some(at("0/7000000")));
        assert_eq!(history.begin_of(timeline(2)), None);
        assert!(history.includes(timeline(3)) && !history.includes(timeline(2)));
    }

    #[test]
    fn an_ancestor_that_recovery_never_reached_has_no_range() {
        // what a server writes that follows timeline 2 and stops before 2 begins
        let history = parse(3, "1\t0/5000000\tx\n\n2\t0/4000000\ty\n").unwrap();
        assert_eq!(history.owner(at("0/3FFFFFF")), timeline(1));
        assert_eq!(history.owner(at("0/4000000")), timeline(3));
        assert_eq!(history.owner(at("0/5000000")), timeline(3));
        assert_eq!(history.switch_point(timeline(1)), Some(at("0/4000000")));
        let ranges: Vec<_> = history
            .ranges()
            .map(|(timeline, ..)| timeline.get())
            .collect();
        assert_eq!(ranges, [1, 3]);
    }

    #[test]
    fn a_childs_file_is_byte_for_byte_what_postgres_writes() {
        let first = TimelineHistory::root(TimelineId::FIRST);
        let second = TimelineHistory::child_of(
            &first,
            timeline(2),
            at("0/70232A0"),
            "after LSN 0/7023258\n",
        )
        .unwrap();
        assert_eq!(second.to_bytes(), b"1\t0/70232A0\tafter LSN 0/7023258\n\n");
        let third = TimelineHistory::child_of(
            &second,
            timeline(3),
            at("0/8000000"),
            "no recovery target specified",
        )
        .unwrap();
        assert_eq!(
            third.to_bytes(),
            b"1\t0/70232A0\tafter LSN 0/7023258\n\n\n2\t0/8000000\tno recovery target specified\n"
        );
        assert_eq!(third.entries().len(), 2);
    }

    #[test]
    fn a_reason_cannot_smuggle_in_an_ancestor() {
        let first = TimelineHistory::root(TimelineId::FIRST);
        let child = TimelineHistory::child_of(&first, timeline(9), at("0/1"), "x\n5\t0/5\ty");
        assert_eq!(child, Err(TimelineHistoryError::Reason));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(number in 1u32.., bytes: Vec<u8>, lsn: u64) {
            if let Ok(history) = TimelineHistory::parse(timeline(number), &bytes) {
                history.owner(Lsn::new(lsn));
            }
        }

        #[test]
        fn ranges_cover_every_position_once(steps in proptest::collection::vec((1u32..5, 0u64..1000), 0..6), lsn in 0u64..1200) {
            let mut history = TimelineHistory::root(TimelineId::FIRST);
            for (gap, switch) in steps {
                let child = timeline(history.timeline().get() + gap);
                history = TimelineHistory::child_of(&history, child, Lsn::new(switch), "x").unwrap();
            }
            let lsn = Lsn::new(lsn);
            let owners: Vec<_> = history
                .ranges()
                .filter(|(_, begin, end)| *begin <= lsn && end.is_none_or(|end| lsn < end))
                .map(|(timeline, ..)| timeline)
                .collect();
            prop_assert_eq!(&owners, &[history.owner(lsn)]);
            // what the server does: the newest line whose range has the position, by the lines as they stand
            let mut begins = vec![Lsn::INVALID];
            begins.extend(history.entries().iter().map(|entry| entry.switch_lsn));
            let mut timelines: Vec<_> = history.entries().iter().map(|entry| (entry.parent, Some(entry.switch_lsn))).collect();
            timelines.push((history.timeline(), None));
            let newest = timelines.iter().zip(&begins).rev().find(|((_, end), begin)| **begin <= lsn && end.is_none_or(|end| lsn < end));
            prop_assert_eq!(newest.map(|((timeline, _), _)| *timeline), Some(history.owner(lsn)));
        }
    }
}
