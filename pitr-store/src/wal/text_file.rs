//! History and backup history files: small texts that PostgreSQL archives like
//! segments.

use pitr_core::{
    Lsn, SegmentName, TimelineHistory, TimelineHistoryError, TimelineId, WalFileName,
    WalFileNameError, WalSegmentSize,
};

/// Longest history or backup history file that is taken or served. A line for
/// each of ten thousand timelines fits.
pub const MAX_TEXT_FILE_BYTES: u64 = 1 << 20;

/// Why a text is not the history or backup history file that its name says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TextFileError {
    /// The name is that of a segment.
    #[error("\"{name}\" is no history file")]
    NotATextFileName {
        /// The name.
        name: WalFileName,
    },
    /// Longer than any such file.
    #[error(
        "\"{name}\" has {found_bytes} bytes, more than the {MAX_TEXT_FILE_BYTES} that such a file can have"
    )]
    TooLong {
        /// The name.
        name: WalFileName,
        /// Its length.
        found_bytes: u64,
    },
    /// Not a timeline history.
    #[error("\"{name}\" is not the history of timeline {timeline}: {source}")]
    History {
        /// The name.
        name: WalFileName,
        /// The timeline of the name.
        timeline: TimelineId,
        /// What is wrong.
        source: TimelineHistoryError,
    },
    /// A history without a line: every timeline that has a file has a parent.
    #[error("\"{name}\" names no parent of timeline {timeline}")]
    NoParent {
        /// The name.
        name: WalFileName,
        /// The timeline of the name.
        timeline: TimelineId,
    },
    /// Not a backup history: the first line is another.
    #[error(
        "\"{name}\" is not a backup history file: its first line is not \"START WAL LOCATION: ... (file {segment})\""
    )]
    NotBackupHistory {
        /// The name.
        name: WalFileName,
        /// The segment of the name.
        segment: SegmentName,
    },
    /// The history of another backup.
    #[error("\"{name}\" is about a backup that began at {found}, its name says {expected}")]
    OtherBackup {
        /// The name.
        name: WalFileName,
        /// Start of the backup by the name.
        expected: Lsn,
        /// Start of the backup by the text.
        found: Lsn,
    },
    /// No cluster with this segment size makes such a name.
    #[error(transparent)]
    Name(WalFileNameError),
}

/// Checks that `bytes` are the text file that `name` says, of a cluster with
/// segments of `segment_size`.
///
/// # Errors
/// [`TextFileError`].
///
/// Source: `readTimeLineHistory`, src/backend/access/transam/timeline.c;
/// `build_backup_content`, src/backend/access/transam/xlogbackup.c.
pub fn check_text_file(
    name: &WalFileName,
    bytes: &[u8],
    segment_size: WalSegmentSize,
) -> Result<(), TextFileError> {
    let name = *name;
    let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if length > MAX_TEXT_FILE_BYTES {
        return Err(TextFileError::TooLong {
            name,
            found_bytes: length,
        });
    }
    match name {
        WalFileName::History(timeline) => parse_history(timeline, bytes).map(|_| ()),
        WalFileName::Backup { segment, offset } => {
            check_backup_history(name, segment, offset, bytes, segment_size)
        }
        WalFileName::Segment(_) | WalFileName::Partial(_) => {
            Err(TextFileError::NotATextFileName { name })
        }
    }
}

/// The history of a timeline that has a file.
pub(super) fn parse_history(
    timeline: TimelineId,
    bytes: &[u8],
) -> Result<TimelineHistory, TextFileError> {
    let name = WalFileName::History(timeline);
    let history =
        TimelineHistory::parse(timeline, bytes).map_err(|source| TextFileError::History {
            name,
            timeline,
            source,
        })?;
    if history.entries().is_empty() {
        return Err(TextFileError::NoParent { name, timeline });
    }
    Ok(history)
}

fn check_backup_history(
    name: WalFileName,
    segment: SegmentName,
    offset: u32,
    bytes: &[u8],
    segment_size: WalSegmentSize,
) -> Result<(), TextFileError> {
    let not_history = || TextFileError::NotBackupHistory { name, segment };
    let text = std::str::from_utf8(bytes.split(|&b| b == b'\n').next().unwrap_or(&[]))
        .map_err(|_| not_history())?;
    let (lsn, file) = text
        .trim_end_matches('\r')
        .strip_prefix("START WAL LOCATION: ")
        .and_then(|rest| rest.split_once(" (file "))
        .and_then(|(lsn, rest)| Some((lsn, rest.strip_suffix(')')?)))
        .ok_or_else(not_history)?;
    let found: Lsn = lsn.parse().map_err(|_| not_history())?;
    if file != segment.to_string() {
        return Err(not_history());
    }
    let start = segment.start(segment_size).map_err(TextFileError::Name)?;
    let expected = start
        .checked_add(u64::from(offset))
        .filter(|_| u64::from(offset) < segment_size.bytes())
        .ok_or_else(not_history)?;
    if found != expected {
        return Err(TextFileError::OtherBackup {
            name,
            expected,
            found,
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKUP: &str = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
        STOP WAL LOCATION: 0/6000138 (file 000000010000000000000006)\n\
        CHECKPOINT LOCATION: 0/6000060\nBACKUP METHOD: streamed\n";

    fn check(name: &str, text: &str) -> Result<(), TextFileError> {
        check_text_file(
            &name.parse().unwrap(),
            text.as_bytes(),
            WalSegmentSize::DEFAULT,
        )
    }

    #[test]
    fn a_backup_history_must_be_that_of_its_name() {
        check("000000010000000000000006.00000028.backup", BACKUP).unwrap();
        assert!(matches!(
            check("000000010000000000000006.00000060.backup", BACKUP),
            Err(TextFileError::OtherBackup { .. })
        ));
        for (name, text) in [
            ("000000010000000000000007.00000028.backup", BACKUP),
            ("000000010000000000000006.00000028.backup", ""),
            ("000000010000000000000006.00000028.backup", "\0\0\0\0"),
            (
                "000000010000000000000006.00000028.backup",
                "STOP WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n",
            ),
        ] {
            assert!(matches!(
                check(name, text),
                Err(TextFileError::NotBackupHistory { .. })
            ));
        }
    }

    #[test]
    fn a_timeline_history_must_be_that_of_its_name() {
        check("00000002.history", "1\t0/70231F0\tafter transaction 779\n").unwrap();
        for text in ["2\t0/70231F0\tx\n", "garbage\n", "1\tnowhere\tx\n"] {
            assert!(matches!(
                check("00000002.history", text),
                Err(TextFileError::History { .. })
            ));
        }
        assert!(matches!(
            check("00000002.history", "\n"),
            Err(TextFileError::NoParent { .. })
        ));
    }
}
