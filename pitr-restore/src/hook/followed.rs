//! The timeline that recovery follows, and where a requested segment stands on
//! it.

use pitr_core::{
    Lsn, SegmentName, SegmentPlacement, TimelineHistory, TimelineId, WalFileNameError,
    WalSegmentSize,
};

/// What is known of the timeline that the asking server follows.
///
/// The server keeps the history file of the timeline that it follows in
/// `pg_wal`, and does so before it asks for the first segment; timeline 1 alone
/// has none. So no history there means timeline 1, and one there means the
/// newest line that the requested timeline is part of. Files of several lines
/// that have nothing to do with each other can be left by an older recovery in
/// the same directory: then the server's choice cannot be told from outside,
/// and a segment is only judged where all of them agree.
///
/// Source: `readTimeLineHistory` (which ends in `KeepFileRestoredFromArchive`)
/// and `restoreTimeLineHistoryFiles`, src/backend/access/transam/timeline.c;
/// `XLogFileReadAnyTLI`, src/backend/access/transam/xlogrecovery.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Followed {
    /// `--timeline` said so.
    Named {
        /// Its history.
        history: TimelineHistory,
        /// Those in `pg_wal`, for a request of a timeline that it does not
        /// include: the server follows another by now.
        kept: Vec<TimelineHistory>,
    },
    /// These histories lie in `pg_wal`.
    Kept(Vec<TimelineHistory>),
    /// No data directory is near: nothing is known.
    Unknown,
}

/// Where a segment stands on the followed timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Recovery needs it.
    OnPath {
        /// Whether its timeline is the followed one itself, so that no child's
        /// copy can take its place.
        last: bool,
        /// The branch behind it, where its timeline is an ancestor's: the log
        /// is known to have gone on at least to there.
        branch: Option<Branch>,
    },
    /// The segment's timeline ends in it, so recovery needs the child's copy.
    Switch {
        /// First position that no longer belongs to the path.
        switch_lsn: Lsn,
        /// The copy that holds both sides of the branch.
        child: SegmentName,
        /// Who branched off.
        followed: TimelineId,
    },
    /// The segment's timeline ended before it.
    Beyond {
        /// First position that no longer belongs to the path.
        switch_lsn: Lsn,
        /// Who branched off.
        followed: TimelineId,
    },
    /// Two lines in `pg_wal` give different answers.
    Undecided {
        /// Their newest timelines.
        lines: [TimelineId; 2],
    },
}

/// Where the followed timeline, or an ancestor of it, left another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Branch {
    /// First position that no longer belongs to the ancestor.
    pub(crate) switch_lsn: Lsn,
    /// The timeline that is followed.
    pub(crate) followed: TimelineId,
}

impl Followed {
    /// Judges `segment`, in a cluster with segments of `size`.
    ///
    /// # Errors
    /// If no cluster with this segment size has such a segment.
    pub(crate) fn standing(
        &self,
        segment: &SegmentName,
        size: WalSegmentSize,
    ) -> Result<Standing, WalFileNameError> {
        let asked = segment.timeline();
        segment.number(size)?;
        let kept = match self {
            Self::Named { history, kept } if history.includes(asked) => {
                return among_descendants(history, kept, segment, size);
            }
            Self::Named { kept, .. } | Self::Kept(kept) => kept,
            Self::Unknown => {
                return Ok(Standing::OnPath {
                    last: false,
                    branch: None,
                });
            }
        };
        let lines = kept.iter().filter(|line| {
            line.includes(asked)
                && !kept.iter().any(|other| {
                    other.timeline() != line.timeline() && other.includes(line.timeline())
                })
        });
        let mut verdict: Option<(TimelineId, Standing)> = None;
        for line in lines {
            let standing = stand(line, segment, size)?;
            match &verdict {
                None => verdict = Some((line.timeline(), standing)),
                Some((_, before)) if same_answer(before, &standing) => {}
                Some((other, _)) => {
                    return Ok(Standing::Undecided {
                        lines: [*other, line.timeline()],
                    });
                }
            }
        }
        Ok(match verdict {
            Some((_, standing)) => standing,
            // no line that includes it: timeline 1, or one that the server has
            // just begun to follow
            None => Standing::OnPath {
                last: asked == TimelineId::FIRST,
                branch: None,
            },
        })
    }
}

/// The judgement by the named timeline. Where `pg_wal` keeps the history of one
/// that came from it, the server may have gone on to follow that one, and the
/// option been left as it was: then both have to agree.
fn among_descendants(
    named: &TimelineHistory,
    kept: &[TimelineHistory],
    segment: &SegmentName,
    size: WalSegmentSize,
) -> Result<Standing, WalFileNameError> {
    let standing = stand(named, segment, size)?;
    let descendants = kept
        .iter()
        .filter(|line| line.timeline() != named.timeline() && line.includes(named.timeline()));
    for line in descendants {
        if !same_answer(&standing, &stand(line, segment, size)?) {
            return Ok(Standing::Undecided {
                lines: [named.timeline(), line.timeline()],
            });
        }
    }
    Ok(standing)
}

/// Whether two lines mean the same for the request: where both branch off at
/// the same place, either child's number may differ.
fn same_answer(one: &Standing, other: &Standing) -> bool {
    std::mem::discriminant(one) == std::mem::discriminant(other)
        && !matches!((one, other), (Standing::Switch { child: a, .. }, Standing::Switch { child: b, .. }) if a != b)
}

fn stand(
    line: &TimelineHistory,
    segment: &SegmentName,
    size: WalSegmentSize,
) -> Result<Standing, WalFileNameError> {
    Ok(match line.placement(segment, size)? {
        SegmentPlacement::SwitchSegment { switch_lsn, child } => Standing::Switch {
            switch_lsn,
            child: segment.on_timeline(child),
            followed: line.timeline(),
        },
        SegmentPlacement::BeyondBranch { switch_lsn, .. } => Standing::Beyond {
            switch_lsn,
            followed: line.timeline(),
        },
        SegmentPlacement::OnPath => Standing::OnPath {
            last: line.timeline() == segment.timeline(),
            branch: line
                .switch_point(segment.timeline())
                .map(|switch_lsn| Branch {
                    switch_lsn,
                    followed: line.timeline(),
                }),
        },
        SegmentPlacement::BeforeBegin { .. } | SegmentPlacement::OtherTimeline => {
            Standing::OnPath {
                last: line.timeline() == segment.timeline(),
                branch: None,
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: WalSegmentSize = WalSegmentSize::DEFAULT;

    fn history(timeline: u32, text: &str) -> TimelineHistory {
        TimelineHistory::parse(TimelineId::new(timeline).unwrap(), text.as_bytes()).unwrap()
    }

    const ON_WAY: Standing = Standing::OnPath {
        last: false,
        branch: None,
    };
    const LAST: Standing = Standing::OnPath {
        last: true,
        branch: None,
    };

    /// Where the segment stands; the branch behind it is a test of its own.
    fn standing(followed: &Followed, name: &str) -> Standing {
        match followed.standing(&name.parse().unwrap(), SIZE).unwrap() {
            Standing::OnPath { last, .. } => Standing::OnPath { last, branch: None },
            other => other,
        }
    }

    fn named(history: TimelineHistory) -> Followed {
        Followed::Named {
            history,
            kept: Vec::new(),
        }
    }

    #[test]
    fn a_parents_segment_beyond_the_branch_is_told() {
        let two = history(2, "1\t0/9012DD0\treason\n");
        for followed in [named(two.clone()), Followed::Kept(vec![two])] {
            assert_eq!(standing(&followed, "000000010000000000000008"), ON_WAY);
            assert!(matches!(
                standing(&followed, "000000010000000000000009"),
                Standing::Switch { child, .. } if child.to_string() == "000000020000000000000009"
            ));
            assert!(matches!(
                standing(&followed, "00000001000000000000000A"),
                Standing::Beyond { .. }
            ));
            assert_eq!(standing(&followed, "00000002000000000000000A"), LAST);
        }
    }

    #[test]
    fn the_branch_behind_an_ancestors_segment_is_known() {
        let two = history(2, "1\t0/9012DD0\treason\n");
        let branch = |name: &str| match stand(&two, &name.parse().unwrap(), SIZE).unwrap() {
            Standing::OnPath { branch, .. } => branch.map(|branch| branch.switch_lsn),
            other => panic!("{other:?}"),
        };
        let switch_lsn = "0/9012DD0".parse().ok();
        assert_eq!(branch("000000010000000000000008"), switch_lsn);
        assert_eq!(branch("000000020000000000000009"), None);
        // before the timeline begins, and on another one
        assert_eq!(branch("000000020000000000000008"), None);
        assert_eq!(branch("000000030000000000000008"), None);
    }

    #[test]
    fn without_any_history_it_is_timeline_1() {
        let first = Followed::Kept(Vec::new());
        assert_eq!(standing(&first, "000000010000000000000009"), LAST);
        assert_eq!(standing(&first, "000000020000000000000009"), ON_WAY);
        assert_eq!(
            standing(&Followed::Unknown, "000000010000000000000009"),
            ON_WAY
        );
    }

    #[test]
    fn the_newest_of_one_line_is_followed() {
        let kept = Followed::Kept(vec![
            history(2, "1\t0/9000100\tr\n"),
            history(3, "1\t0/9000100\tr\n\n2\t0/B000100\tr\n"),
        ]);
        assert!(matches!(
            standing(&kept, "00000002000000000000000C"),
            Standing::Beyond { followed, .. } if followed.get() == 3
        ));
    }

    #[test]
    fn lines_that_disagree_decide_nothing() {
        let kept = Followed::Kept(vec![
            history(2, "1\t0/9000100\tr\n"),
            history(3, "1\t0/5000100\tr\n"),
        ]);
        assert!(matches!(
            standing(&kept, "000000010000000000000007"),
            Standing::Undecided { .. }
        ));
        assert_eq!(standing(&kept, "000000010000000000000004"), ON_WAY);
        // each child knows itself
        assert_eq!(standing(&kept, "00000002000000000000000A"), LAST);
    }

    #[test]
    fn a_named_timeline_settles_what_the_directory_leaves_open() {
        let kept = vec![
            history(2, "1\t0/9000100\tr\n"),
            history(3, "1\t0/5000100\tr\n"),
        ];
        let followed = Followed::Named {
            history: kept[0].clone(),
            kept,
        };
        assert_eq!(standing(&followed, "000000010000000000000007"), ON_WAY);
        // ... and is not asked about a timeline that it does not include
        assert_eq!(standing(&followed, "00000003000000000000000C"), LAST);
    }

    #[test]
    fn a_server_that_went_on_from_the_named_timeline_is_not_misled() {
        let followed = Followed::Named {
            history: TimelineHistory::root(TimelineId::FIRST),
            kept: vec![history(2, "1\t0/9000100\tr\n")],
        };
        assert!(matches!(
            standing(&followed, "00000001000000000000000C"),
            Standing::Undecided { .. }
        ));
        assert_eq!(standing(&followed, "000000010000000000000007"), LAST);
    }

    #[test]
    fn a_name_of_another_segment_size_is_refused() {
        let name: SegmentName = "0000000100000000000001FF".parse().unwrap();
        let size = WalSegmentSize::DEFAULT;
        assert!(Followed::Unknown.standing(&name, size).is_err());
    }
}
