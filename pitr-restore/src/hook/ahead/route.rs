//! Which segments a recovering server is going to ask for.

use pitr_core::{Lsn, SegmentName, TimelineHistory, WalSegmentSize};

use crate::hook::followed::Followed;

/// Where the server is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// It has this segment.
    After(SegmentName),
    /// This is the first one that it will ask for.
    From(SegmentName),
}

/// The way ahead, as far as it can be told. A wrong guess costs time and
/// nothing else: what is asked for decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Route {
    followed: Followed,
    size: WalSegmentSize,
}

impl Route {
    pub(crate) fn new(followed: Followed, size: WalSegmentSize) -> Self {
        Self { followed, size }
    }

    /// The next segments from `place` on, `count` at most.
    ///
    /// The server asks for each segment on the newest timeline of its history
    /// that has begun in it or before it.
    ///
    /// Source: `XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c.
    pub(crate) fn ahead(&self, place: Place, count: usize) -> Vec<SegmentName> {
        let (Place::After(at) | Place::From(at)) = place;
        let Ok(number) = at.number(self.size) else {
            return Vec::new();
        };
        let skipped = usize::from(matches!(place, Place::After(_)));
        if let Some(names) = self
            .followed_line(at)
            .and_then(|line| along(line, at, self.size, skipped, count))
        {
            return names;
        }
        std::iter::successors(Some(number), |number| Some(number.next()))
            .skip(skipped)
            .take(count)
            .map(|number| SegmentName::new(at.timeline(), number, self.size))
            .collect()
    }

    /// The history that leads on from a segment.
    fn followed_line(&self, at: SegmentName) -> Option<&TimelineHistory> {
        let kept = match &self.followed {
            Followed::Named { history, .. } if history.includes(at.timeline()) => {
                return Some(history);
            }
            Followed::Named { kept, .. } | Followed::Kept(kept) => kept,
            Followed::Unknown => return None,
        };
        kept.iter()
            .filter(|line| line.includes(at.timeline()))
            .max_by_key(|line| line.timeline())
    }
}

fn along(
    line: &TimelineHistory,
    at: SegmentName,
    size: WalSegmentSize,
    skipped: usize,
    count: usize,
) -> Option<Vec<SegmentName>> {
    // a branch lies within a segment, and the child's copy begins before it
    let start = at.start(size).ok()?.max(line.begin_of(at.timeline())?);
    let path = line.path(at.timeline(), start).ok()?;
    let names = path.segments_until(Lsn::new(u64::MAX), size);
    Some(names.skip(skipped).take(count).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use pitr_core::{TimelineId, WalFileName};

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
    }

    fn name(text: &str) -> SegmentName {
        match text.parse().unwrap() {
            WalFileName::Segment(name) => name,
            other => panic!("{other}"),
        }
    }

    fn ahead(followed: &Followed, place: Place) -> Vec<String> {
        let route = Route::new(followed.clone(), SIZE);
        let names = route.ahead(place, 3);
        names.iter().map(ToString::to_string).collect()
    }

    const SEVEN: &str = "000000010000000000000007";
    const EIGHT: &str = "000000010000000000000008";
    const NINE_OF_TWO: &str = "000000020000000000000009";
    const TEN_OF_TWO: &str = "00000002000000000000000A";
    const ELEVEN_OF_TWO: &str = "00000002000000000000000B";

    #[test]
    fn a_switch_is_followed_to_the_childs_copy() {
        let two = history(2, "1\t0/9012DD0\treason\n");
        let named = Followed::Named {
            history: two.clone(),
            kept: Vec::new(),
        };
        for followed in [named, Followed::Kept(vec![two])] {
            let after = Place::After(name(SEVEN));
            assert_eq!(ahead(&followed, after), [EIGHT, NINE_OF_TWO, TEN_OF_TWO]);
            let from = Place::From(name(SEVEN));
            assert_eq!(ahead(&followed, from), [SEVEN, EIGHT, NINE_OF_TWO]);
            // its copy of the segment with the branch begins before the branch
            let after = Place::After(name(NINE_OF_TWO));
            assert_eq!(ahead(&followed, after)[..2], [TEN_OF_TWO, ELEVEN_OF_TWO]);
        }
    }

    #[test]
    fn without_a_history_it_goes_on_on_the_same_timeline() {
        for followed in [Followed::Unknown, Followed::Kept(Vec::new())] {
            let names = ahead(&followed, Place::After(name(SEVEN)));
            assert_eq!(names[0], EIGHT);
            assert_eq!(names[1], "000000010000000000000009");
        }
        // the file 00000001000000000000FF is followed by that of the next 4 GiB
        let names = ahead(
            &Followed::Unknown,
            Place::After(name("0000000100000000000000FF")),
        );
        assert_eq!(names[0], "000000010000000100000000");
    }

    #[test]
    fn a_segment_beyond_the_branch_leads_on_by_itself() {
        let two = history(2, "1\t0/5000100\treason\n");
        let names = ahead(&Followed::Kept(vec![two]), Place::After(name(SEVEN)));
        assert_eq!(names[0], EIGHT);
    }

    #[test]
    fn the_end_of_all_segments_is_an_end() {
        let last = name("00000001FFFFFFFF000000FF");
        assert!(ahead(&Followed::Unknown, Place::After(last)).len() <= 3);
    }
}
