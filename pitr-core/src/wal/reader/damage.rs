//! What can be wrong with a log.

use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::wal::page_header::PageHeaderError;
use crate::wal::record::header::RecordHeaderError;

/// A place where the log is not what a server wrote.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at {lsn}: {kind}")]
pub struct WalDamage {
    /// Where it was noticed: beginning of the page or of the record.
    pub lsn: Lsn,
    /// Beginning of the record that cannot be read because of it, where that is known.
    pub record: Option<Lsn>,
    /// What was found.
    pub kind: WalDamageKind,
}

impl WalDamage {
    /// Up to where the log is good: the beginning of the record that is lost, else where the damage was noticed.
    pub fn good_until(&self) -> Lsn {
        self.record.unwrap_or(self.lsn)
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self.kind {
            WalDamageKind::SystemIdentifier { .. } | WalDamageKind::SegmentSize { .. } => {
                Some("Segments of two clusters have come together.".to_owned())
            }
            _ => Some(format!(
                "Recovery from earlier backups may not get past {}: take a base backup.",
                self.good_until()
            )),
        }
    }
}

/// What is wrong with a place of the log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalDamageKind {
    /// The page does not begin like one.
    #[error(transparent)]
    Page(#[from] PageHeaderError),
    /// The page belongs elsewhere: an old one in a recycled file, or a misplaced write.
    #[error("page of another place: expected address {expected}, found {found}")]
    PageAddress {
        /// Where the page stands.
        expected: Lsn,
        /// Where it says that it stands.
        found: Lsn,
    },
    /// The first page of a segment has the long header, and no other has.
    #[error("page header is of the wrong kind: expected the {} one", if *.expected_long { "long" } else { "short" })]
    HeaderKind {
        /// Whether the page is the first of its segment.
        expected_long: bool,
    },
    /// A page cannot go on with a record and take the place of that record's rest. It is read as if it went on.
    #[error("page flags {info:04X} contradict one another")]
    PageFlags {
        /// `xlp_info`.
        info: u16,
    },
    /// A page of another version than the pages before it.
    #[error("page of PostgreSQL {found} among those of PostgreSQL {expected}")]
    Major {
        /// Version of the pages before.
        expected: PostgresMajor,
        /// Version of this one.
        found: PostgresMajor,
    },
    /// A segment of another cluster. Its records are read all the same.
    #[error("segment of another cluster: expected system identifier {expected}, found {found}")]
    SystemIdentifier {
        /// That of the segments before, or the one asked for.
        expected: SystemIdentifier,
        /// That of this segment.
        found: SystemIdentifier,
    },
    /// A segment that says it is longer or shorter. Its records are read all the same.
    #[error("segment header names a segment size of {found} bytes, expected {expected}")]
    SegmentSize {
        /// Size of the segments that are read.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// A segment that says it has pages of another size. Its records are read all the same.
    #[error("segment header names pages of {found} bytes, expected {expected}")]
    BlockSize {
        /// Bytes in the pages before.
        expected: u64,
        /// What the header says.
        found: u64,
    },
    /// Timelines never go back within a log. The page's records are read all the same.
    #[error("page of timeline {found} after one of timeline {previous}")]
    TimelineBack {
        /// Timeline of the page before.
        previous: TimelineId,
        /// Timeline of this one.
        found: TimelineId,
    },
    /// A new timeline begins with a record that says so. The page's records are read all the same.
    #[error(
        "page of timeline {found} after timeline {previous}, without a record that begins timeline {found}"
    )]
    TimelineUnannounced {
        /// Timeline up to here.
        previous: TimelineId,
        /// Timeline of the page.
        found: TimelineId,
    },
    /// The page does not go on with the record that the page before left unfinished.
    #[error(
        "page does not go on with the record before it, of which {remaining} bytes are missing"
    )]
    ContinuationMissing {
        /// Bytes of the record still to come.
        remaining: u64,
    },
    /// The page goes on with a record although the page before left none unfinished.
    #[error("page goes on with {found} bytes of a record, but none was unfinished")]
    ContinuationUnexpected {
        /// Bytes that it says are to come.
        found: u32,
    },
    /// The page goes on with a record of another length.
    #[error("page goes on with {found} bytes of a record, of which {expected} are missing")]
    ContinuationLength {
        /// Bytes of the record still to come.
        expected: u64,
        /// Bytes that the page says are to come.
        found: u32,
    },
    /// A page that takes the place of a lost one begins with a record that says which record was lost.
    #[error(
        "page is marked as taking the place of a lost one, but does not begin with the record for that"
    )]
    OverwriteMissing,
    /// The record header has a value that no record has.
    #[error(transparent)]
    Record(#[from] RecordHeaderError),
    /// Longer than any server makes a record.
    #[error("invalid record length: expected at most 1069547520, found {found}")]
    RecordTooLong {
        /// What stood there.
        found: u32,
    },
    /// The record does not point back to the one before it.
    #[error("record points back to {found}{}", .expected.map(|lsn| format!(", expected {lsn}")).unwrap_or_default())]
    PrevLink {
        /// Beginning of the record before; `None` where it is not known, but is not after this one.
        expected: Option<Lsn>,
        /// What stood there.
        found: Lsn,
    },
    /// The bytes of the record are not those that were written.
    #[error("record's CRC is {computed:08X}, expected {expected:08X}")]
    Crc {
        /// What the record's header says.
        expected: u32,
        /// What its bytes give.
        computed: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_told_with_its_place_and_what_was_expected() {
        let damage = WalDamage {
            lsn: Lsn::new(0x400_0028),
            record: None,
            kind: WalDamageKind::PrevLink {
                expected: Some(Lsn::new(0x300_0028)),
                found: Lsn::new(7),
            },
        };
        assert_eq!(
            damage.to_string(),
            "at 0/4000028: record points back to 0/7, expected 0/3000028"
        );
        let damage = WalDamage {
            lsn: Lsn::new(0x400_2000),
            record: Some(Lsn::new(0x400_1FF0)),
            kind: RecordHeaderError::Length { found: 0 }.into(),
        };
        assert_eq!(
            damage.to_string(),
            "at 0/4002000: invalid record length: expected at least 24, found 0"
        );
        assert_eq!(
            damage.hint().unwrap(),
            "Recovery from earlier backups may not get past 0/4001FF0: take a base backup."
        );
    }
}
