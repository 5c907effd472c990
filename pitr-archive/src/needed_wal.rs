//! The segments without which a backup cannot be made consistent.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use pitr_console::{Console, Failure};
use pitr_core::{
    BackupManifest, Lsn, SegmentName, SegmentNumber, TimelineId, WalFileName, WalSegmentSize,
};
use pitr_store::wal::WalArchive;

/// How often the repository is asked again.
const POLL_FIRST: Duration = Duration::from_millis(50);
const POLL_LAST: Duration = Duration::from_secs(2);

/// Most segments that a backup can need: 64 TiB of the usual size.
const MOST_SEGMENTS: u64 = 1 << 22;

/// A stretch of WAL on one timeline; `end` is the first position after it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stretch {
    pub(crate) timeline: TimelineId,
    pub(crate) start: Lsn,
    pub(crate) end: Lsn,
}

/// What the server's manifest says is needed.
pub(crate) fn of_manifest(manifest: &BackupManifest) -> Vec<Stretch> {
    manifest
        .wal_ranges
        .iter()
        .map(|range| Stretch {
            timeline: range.timeline,
            start: range.start,
            end: range.end,
        })
        .collect()
}

/// The segments of `stretches`, in the order of the log. Where the timeline
/// changed inside a segment, the later timeline's copy holds the bytes of both.
///
/// # Errors
/// More segments than any backup can need: the manifest is not to be believed.
pub(crate) fn segments(
    stretches: &[Stretch],
    size: WalSegmentSize,
) -> Result<Vec<SegmentName>, Failure> {
    let mut count = 0_u64;
    let mut by_number: BTreeMap<SegmentNumber, TimelineId> = BTreeMap::new();
    for stretch in stretches {
        if stretch.end <= stretch.start {
            continue;
        }
        let mut number = SegmentNumber::containing(stretch.start, size);
        let last = SegmentNumber::last_before(stretch.end, size);
        count = count.saturating_add(last.get().saturating_sub(number.get()));
        if count > MOST_SEGMENTS {
            return Err(Failure::new(format!(
                "the manifest says that the backup needs the WAL from {} to {} on timeline {}, which cannot be",
                stretch.start, stretch.end, stretch.timeline
            )));
        }
        while number <= last {
            let timeline = by_number.entry(number).or_insert(stretch.timeline);
            *timeline = stretch.timeline.max(*timeline);
            number = number.next();
        }
    }
    Ok(by_number
        .into_iter()
        .map(|(number, timeline)| SegmentName::new(timeline, number, size))
        .collect())
}

/// Those of `needed` that are in none of the archives.
pub(crate) fn missing(
    archives: &[WalArchive],
    needed: &[SegmentName],
) -> Result<Vec<SegmentName>, Failure> {
    let mut missing = Vec::new();
    for segment in needed {
        if !is_in_any(archives, &WalFileName::Segment(*segment))? {
            missing.push(*segment);
        }
    }
    Ok(missing)
}

/// What one of them has is there, whether the others answer or not.
fn is_in_any(archives: &[WalArchive], name: &WalFileName) -> Result<bool, Failure> {
    let mut failure = None;
    for archive in archives {
        match archive.locate(name) {
            Ok(Some(_)) => return Ok(true),
            Ok(None) => {}
            Err(error) => {
                failure.get_or_insert(error);
            }
        }
    }
    match failure {
        Some(error) => Err(error.into()),
        None => Ok(false),
    }
}

/// Waits until each of `needed` is in one of the archives; gives up when for
/// `patience` none has come.
pub(crate) fn wait(
    archives: &[WalArchive],
    needed: &[SegmentName],
    patience: Duration,
    console: Console,
) -> Result<(), Failure> {
    let mut absent: BTreeSet<SegmentName> = needed.iter().copied().collect();
    let mut last_progress = Instant::now();
    let mut pause = POLL_FIRST;
    let mut told = false;
    loop {
        let before = absent.len();
        let asked: Vec<SegmentName> = absent.iter().copied().collect();
        absent = missing(archives, &asked)?.into_iter().collect();
        let Some(first) = absent.first() else {
            return Ok(());
        };
        if absent.len() < before {
            last_progress = Instant::now();
            pause = POLL_FIRST;
        }
        if last_progress.elapsed() >= patience {
            return Err(gave_up(*first, absent.len(), needed, patience));
        }
        if !told && last_progress.elapsed() > Duration::from_secs(2) {
            told = true;
            console.log(format!(
                "waiting for segment {first} to be archived ({} of {} needed are not there yet)",
                absent.len(),
                needed.len()
            ));
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(POLL_LAST);
    }
}

fn gave_up(
    first: SegmentName,
    absent: usize,
    needed: &[SegmentName],
    patience: Duration,
) -> Failure {
    Failure::new(format!(
        "segment {first}, which the backup needs, is not in the repository"
    ))
    .with_detail(format!(
        "{absent} of {} needed segments are missing, and none has come for {} s. \
         Without them the backup cannot be restored, so it was not kept.",
        needed.len(),
        patience.as_secs()
    ))
    .with_hint(
        "Look at pg_stat_archiver and the server's log: does archive_command = 'pitr-archive %p %f' \
         work, with this repository? From a standby, the primary must archive: run \
         SELECT pg_switch_wal() there. A longer wait: --wal-wait.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(timeline: u32, start: &str, end: &str) -> Stretch {
        Stretch {
            timeline: TimelineId::new(timeline).unwrap(),
            start: start.parse().unwrap(),
            end: end.parse().unwrap(),
        }
    }

    fn names(stretches: &[Stretch]) -> Vec<String> {
        segments(stretches, WalSegmentSize::DEFAULT)
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn an_end_on_a_boundary_needs_no_segment_after_it() {
        assert_eq!(
            names(&[stretch(1, "0/2000028", "0/4000000")]),
            ["000000010000000000000002", "000000010000000000000003"]
        );
        assert_eq!(
            names(&[stretch(1, "0/2000028", "0/2000100")]),
            ["000000010000000000000002"]
        );
    }

    #[test]
    fn a_range_beyond_all_reason_is_refused_before_it_is_walked() {
        for end in ["FFFFFFFF/FFFFFFFF", "FFFF/0"] {
            let stretches = [stretch(1, "0/2000028", end)];
            assert!(segments(&stretches, WalSegmentSize::DEFAULT).is_err());
        }
    }

    #[test]
    fn the_segment_of_a_switch_is_taken_from_the_child() {
        assert_eq!(
            names(&[
                stretch(1, "0/2000028", "0/3000100"),
                stretch(2, "0/3000100", "0/4000100"),
            ]),
            [
                "000000010000000000000002",
                "000000020000000000000003",
                "000000020000000000000004"
            ]
        );
    }
}
