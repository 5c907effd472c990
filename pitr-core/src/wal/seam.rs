//! Where one stretch of the log ends and the next begins.

use crate::lsn::Lsn;
use crate::system_identifier::SystemIdentifier;
use crate::wal::reader::damage::{WalDamage, WalDamageKind};
use crate::wal::reader::part::RecordPart;

/// The beginning and the end of a stretch of the log that was read by itself, by which it is joined with its neighbours.
///
/// From [`WalReader::edges`](crate::WalReader::edges) or
/// [`SegmentSummary::edges`](crate::SegmentSummary::edges).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEdges {
    /// Its first byte.
    pub start: Lsn,
    /// The byte behind its last one.
    pub end: Lsn,
    /// The cluster that wrote it.
    pub system_identifier: Option<SystemIdentifier>,
    /// Bytes of an earlier record that were still to come at its beginning, page headers excluded.
    pub continued_bytes: u64,
    /// As much of them as is in this stretch.
    pub continued: Option<RecordPart>,
    /// Whether the rest of an earlier record, or what is left of it here, was lost in a crash and others stand in its place.
    pub overwrites: bool,
    /// Beginning of the record before the first one that begins in it, as that one says.
    pub previous_record: Option<Lsn>,
    /// The last record that begins in it, complete or not.
    pub last_record: Option<Lsn>,
    /// Whether a record goes on behind it.
    pub is_unfinished: bool,
    /// Bytes of that record that are still to come, where its length is known.
    pub missing_bytes: Option<u64>,
    /// What is here of that record; `None` where it begins before this stretch.
    pub begun: Option<RecordPart>,
}

/// Joins stretches of the log that were read by themselves: tells what is damaged where they meet.
///
/// To be shown the stretches in the order of the log. It finds what only shows
/// where both sides are known: a record that goes on with another length than
/// it has, or not at all, a record that does not point back to the one before
/// it, a CRC that is wrong of a record that lies on both sides, and another
/// cluster. Behind a gap it begins anew.
///
/// ```
/// use pitr_core::{LogSeams, SegmentSummary, WalDamage};
///
/// fn damage(summaries: &[SegmentSummary]) -> Vec<WalDamage> {
///     let mut seams = LogSeams::default();
///     let edges = summaries.iter().filter_map(SegmentSummary::edges);
///     edges.filter_map(|edges| seams.add(&edges)).collect()
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct LogSeams {
    /// Of the stretch before.
    before: Option<LogEdges>,
    /// The last record that began in any of them.
    last_record: Option<Lsn>,
    /// What has come of the record that goes on; `None` where its beginning was not seen.
    begun: Option<RecordPart>,
}

impl LogSeams {
    /// Takes the next stretch, and tells what is wrong where it meets the one before.
    pub fn add(&mut self, next: &LogEdges) -> Option<WalDamage> {
        let before = self.before.replace(*next);
        let damage = match before.filter(|before| before.end == next.start) {
            Some(before) => self.meet(&before, next),
            None => {
                (self.last_record, self.begun) = (None, None);
                None
            }
        };
        // a record that fills the whole stretch has neither begun nor ended
        let goes_on = next.last_record.is_none() && next.is_unfinished;
        if !goes_on {
            self.begun = next.begun;
        }
        self.last_record = next.last_record.or(self.last_record);
        damage
    }

    fn meet(&mut self, before: &LogEdges, next: &LogEdges) -> Option<WalDamage> {
        let begun = self.begun.take();
        let (start, unfinished) = (
            next.start,
            self.last_record.filter(|_| before.is_unfinished),
        );
        let damage = |record, kind| {
            Some(WalDamage {
                lsn: start,
                record,
                kind,
            })
        };
        if let (Some(expected), Some(found)) = (before.system_identifier, next.system_identifier)
            && expected != found
        {
            return damage(None, WalDamageKind::SystemIdentifier { expected, found });
        }
        if next.overwrites {
            return None;
        }
        let found = u32::try_from(next.continued_bytes).unwrap_or(u32::MAX);
        match (before.is_unfinished, before.missing_bytes) {
            (true, Some(remaining)) if next.continued_bytes == 0 => {
                return damage(unfinished, WalDamageKind::ContinuationMissing { remaining });
            }
            (true, Some(expected)) if next.continued_bytes != expected => {
                return damage(
                    unfinished,
                    WalDamageKind::ContinuationLength { expected, found },
                );
            }
            (false, _) if next.continued_bytes > 0 => {
                return damage(None, WalDamageKind::ContinuationUnexpected { found });
            }
            _ => {}
        }
        if let (Some(expected), Some(found)) = (self.last_record, next.previous_record)
            && expected != found
        {
            let expected = Some(expected);
            return damage(unfinished, WalDamageKind::PrevLink { expected, found });
        }
        let part = next.continued.filter(|_| before.is_unfinished);
        self.begun = match (begun, part) {
            (Some(begun), Some(part)) => Some(begun.join(&part)),
            _ => None,
        };
        match self.begun.and_then(|record| record.crcs()) {
            Some((expected, computed)) if expected != computed => {
                damage(unfinished, WalDamageKind::Crc { expected, computed })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::reader::WalReader;
    use crate::wal::reader::test_log::{PAGE, SEGMENT, TestLog};
    use crate::wal::segment_name::SegmentName;
    use crate::wal::segment_number::SegmentNumber;
    use crate::wal::summary::SegmentSummary;
    use crate::wal::summary::builder::SegmentSummaryBuilder;

    const SEGMENT_LEN: usize = 1 << 20;

    /// The summaries of a log's segments, each read by itself, as they come back from the repository.
    fn summaries(log: &[u8]) -> Vec<SegmentSummary> {
        let size = TestLog::size();
        let segments = log.chunks(SEGMENT_LEN).zip(4..);
        let summary = segments.map(|(segment, number)| {
            let timeline = crate::timeline::id::TimelineId::FIRST;
            let name = SegmentName::new(timeline, SegmentNumber::new(number), size);
            let mut builder = SegmentSummaryBuilder::new(name, size).unwrap();
            builder.feed(segment);
            let json = serde_json::to_string(&builder.finish()).unwrap();
            serde_json::from_str(&json).unwrap()
        });
        summary.collect()
    }

    fn seams(summaries: &[SegmentSummary]) -> Vec<WalDamage> {
        let mut seams = LogSeams::default();
        let edges = summaries.iter().filter_map(SegmentSummary::edges);
        edges.filter_map(|edges| seams.add(&edges)).collect()
    }

    /// Records over one seam, over one whole segment, and one that ends with its segment.
    fn log() -> TestLog {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        log.push_data(100);
        log.push_data(SEGMENT_LEN);
        log.push_data(2 * SEGMENT_LEN + 5000);
        log.push_data(40);
        // up to the last 16 bytes of the segment, so that the next one's header lies on both sides
        while log.position() % SEGMENT < SEGMENT - 8000 {
            log.push_data(1000);
        }
        let room = SEGMENT - 16 - log.position() % SEGMENT;
        log.push_data(usize::try_from(room - 24 - 5).unwrap());
        assert_eq!(log.position() % SEGMENT, SEGMENT - 16);
        log.push_data(3000);
        log.push_switch();
        log.push_data(9000);
        log.zeros_to(PAGE);
        log
    }

    /// The log up to the last segment that is full.
    fn full(log: &TestLog) -> &[u8] {
        &log.bytes[..log.bytes.len() / SEGMENT_LEN * SEGMENT_LEN]
    }

    #[test]
    fn segments_that_belong_together_meet() {
        let log = log();
        let summaries = summaries(full(&log));
        assert!(summaries.len() >= 4);
        assert!(summaries.iter().all(|summary| !summary.is_damaged()));
        assert_eq!(seams(&summaries), []);
        let unfinished = summaries.iter().filter(|one| one.unfinished.is_some());
        assert!(unfinished.count() >= 4);
    }

    #[test]
    fn every_bit_of_records_that_cross_is_noticed_by_summaries_alone() {
        let log = log();
        let mut bytes = full(&log).to_vec();
        // behind the last record that crosses there is a segment switch, and nothing that counts
        let len = 4 * SEGMENT_LEN + 3000;
        let (segment, page) = (SEGMENT_LEN, usize::try_from(PAGE).unwrap());
        for seam in [segment, 2 * segment, 3 * segment, 4 * segment] {
            // lengths, links and CRCs, data on either side, and page headers
            let near = (seam - 40..seam + 100).chain((seam - page..seam + page).step_by(401));
            for position in near.filter(|position| *position < len) {
                let in_page = position % page;
                let uncovered = (20..24).contains(&in_page) || in_page == 2;
                if uncovered {
                    continue;
                }
                bytes[position] ^= 1 << (position % 8);
                let summaries = summaries(&bytes);
                let noticed = summaries.iter().any(SegmentSummary::is_damaged)
                    || !seams(&summaries).is_empty();
                bytes[position] ^= 1 << (position % 8);
                assert!(noticed, "{position:X}");
            }
        }
    }

    #[test]
    fn a_stretch_that_belongs_elsewhere_does_not_meet() {
        let log = log();
        let mut other = TestLog::new(4 * SEGMENT - 24);
        while other.position() < 6 * SEGMENT {
            other.push_data(48);
        }
        let (ours, theirs) = (summaries(full(&log)), summaries(full(&other)));
        for (one, two) in [(&ours[0], &theirs[1]), (&theirs[0], &ours[1])] {
            assert_eq!(seams(&[one.clone(), two.clone()]).len(), 1);
        }
        // nothing is known of what lies behind a gap
        assert_eq!(
            seams(&[ours[0].clone(), theirs[0].clone(), ours[2].clone()]),
            []
        );
    }

    #[test]
    fn a_record_whose_rest_was_lost_in_a_crash_is_no_damage() {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        while log.position() % SEGMENT < SEGMENT - 9000 {
            log.push_data(4000);
        }
        let (lost, record) = log.record(15, 0, &vec![7; 30_000]);
        log.spread(&record);
        log.bytes.truncate(SEGMENT_LEN);
        log.open_page(8);
        let mut data = lost.to_le_bytes().to_vec();
        data.extend([0; 8]);
        log.push(0, 0xD0, &data);
        while log.position() < 6 * SEGMENT {
            log.push_data(4000);
        }
        let found = summaries(full(&log));
        assert!(found[1].overwrites && !found[1].is_damaged());
        assert_eq!(seams(&found), []);
    }

    #[test]
    fn a_record_of_which_some_was_read_before_the_crash_is_no_damage() {
        let mut log = TestLog::new(4 * SEGMENT - 24);
        while log.position() % SEGMENT < SEGMENT - 9000 {
            log.push_data(4000);
        }
        let (lost, record) = log.record(15, 0, &vec![7; 40_000]);
        log.spread(&record);
        // the second segment has the first of its pages, and others instead of the next
        log.bytes
            .truncate(SEGMENT_LEN + usize::try_from(PAGE).unwrap());
        log.open_page(8);
        let mut data = lost.to_le_bytes().to_vec();
        data.extend([0; 8]);
        log.push(0, 0xD0, &data);
        while log.position() < 6 * SEGMENT {
            log.push_data(4000);
        }
        let found = summaries(full(&log));
        assert!(found.iter().all(|summary| !summary.is_damaged()));
        assert_eq!(seams(&found), []);
    }

    #[test]
    fn summaries_that_say_less_of_their_ends_still_meet() {
        let log = log();
        let mut summaries = summaries(full(&log));
        for summary in &mut summaries {
            summary.previous_record = None;
            summary.overwrites = false;
            if let Some(continued) = &mut summary.continues {
                continued.part = None;
            }
            if let Some(unfinished) = &mut summary.unfinished {
                unfinished.part = None;
            }
        }
        assert_eq!(seams(&summaries), []);
    }

    #[test]
    fn readers_of_neighbouring_stretches_meet() {
        let log = log();
        let mut seams = LogSeams::default();
        for (segment, number) in full(&log).chunks(SEGMENT_LEN).zip(4..) {
            let mut reader = WalReader::new(SegmentNumber::new(number), TestLog::size());
            drop(reader.feed(segment));
            assert_eq!(seams.add(&reader.edges()), None);
        }
    }
}
