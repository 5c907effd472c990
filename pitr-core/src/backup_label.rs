//! `backup_label`: where a base backup begins.

use std::borrow::Cow;

use nom::Parser;
use nom::bytes::complete::{tag, take};
use nom::combinator::all_consuming;
use nom::sequence::delimited;

use crate::line::{decimal_u32, excerpt, lsn, numbered_lines};
use crate::lsn::Lsn;
use crate::timeline::id::TimelineId;
use crate::wal::segment_name::SegmentName;

/// The file `backup_label` of a base backup.
///
/// With it in the data directory, a server starts recovery at the backup's
/// checkpoint and not at the one in `pg_control`; a hot copy started without
/// it is silently corrupt.
///
/// Source: `build_backup_content`, src/backend/access/transam/xlogbackup.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupLabel {
    /// Where WAL is needed from: the checkpoint's redo position.
    pub start_wal: Lsn,
    /// The segment with that position, on the backup's timeline.
    pub start_segment: SegmentName,
    /// Where the checkpoint's record begins.
    pub checkpoint: Lsn,
    /// How the backup was taken.
    pub method: Option<BackupMethod>,
    /// What kind of server it was taken from.
    pub from: Option<BackupFrom>,
    /// When it began, in the server's `log_timezone`: text, whole seconds, as in `2026-11-20 07:25:00 UTC`.
    pub start_time: Option<String>,
    /// The label that was given to it. Bytes in the server's encoding: see [`BackupLabel::label_text`].
    pub label: Option<Vec<u8>>,
    /// Timeline at its start, where the file says so: always that of `start_segment`.
    pub start_timeline: Option<TimelineId>,
    /// The backup that this one is a difference to (17 and later).
    pub incremental_from: Option<IncrementalFrom>,
}

/// How a base backup was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupMethod {
    /// `BASE_BACKUP` or the functions for a non-exclusive backup: recovery must see its end.
    Streamed,
    /// The functions for an exclusive backup, which 14 still had.
    PgStartBackup,
    /// Made by `pg_rewind`.
    PgRewind,
}

/// What kind of server a base backup was taken from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupFrom {
    /// A primary. 13 writes `master`, which is read as the same.
    Primary,
    /// A standby: the backup is consistent only at the end that its `pg_control` names.
    Standby,
}

/// The backup that an incremental one is a difference to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IncrementalFrom {
    /// Where that backup began.
    pub lsn: Lsn,
    /// Timeline on which it began.
    pub timeline: TimelineId,
}

const START_WAL: &str = "START WAL LOCATION: ";
const CHECKPOINT: &str = "CHECKPOINT LOCATION: ";
const METHOD: &str = "BACKUP METHOD: ";
const FROM: &str = "BACKUP FROM: ";
const START_TIME: &str = "START TIME: ";
const LABEL: &str = "LABEL: ";
const START_TIMELINE: &str = "START TIMELINE: ";
const INCREMENTAL_LSN: &str = "INCREMENTAL FROM LSN: ";
const INCREMENTAL_TIMELINE: &str = "INCREMENTAL FROM TLI: ";

impl BackupLabel {
    /// Reads the file.
    ///
    /// The first two lines must be there, in order; of the others each may be
    /// missing, and lines that are not known are passed over, as the server
    /// does. Of a line that comes twice, the first counts.
    ///
    /// # Errors
    /// `Missing` and `Syntax` for a line that the server would not accept
    /// either; `Timeline` if the file names two timelines.
    ///
    /// Source: `read_backup_label`, src/backend/access/transam/xlogrecovery.c.
    pub fn parse(bytes: &[u8]) -> Result<BackupLabel, BackupLabelError> {
        let mut lines = numbered_lines(bytes);
        let (start_wal, start_segment) = value(lines.next(), START_WAL, |value| {
            let segment = delimited(tag(" (file "), take(SegmentName::LEN), tag(")"));
            let (_, (start_wal, digits)) = all_consuming((lsn, segment)).parse(value).ok()?;
            Some((
                start_wal,
                std::str::from_utf8(digits)
                    .ok()?
                    .parse::<SegmentName>()
                    .ok()?,
            ))
        })?;
        let checkpoint = value(lines.next(), CHECKPOINT, whole_lsn)?;
        let mut label = BackupLabel {
            start_wal,
            start_segment,
            checkpoint,
            method: None,
            from: None,
            start_time: None,
            label: None,
            start_timeline: None,
            incremental_from: None,
        };
        let (mut incremental_lsn, mut incremental_timeline) = (None, None);
        for line in lines {
            let starts = |prefix: &str| line.1.starts_with(prefix.as_bytes());
            if starts(METHOD) && label.method.is_none() {
                label.method = Some(value(Some(line), METHOD, BackupMethod::from_bytes)?);
            } else if starts(FROM) && label.from.is_none() {
                label.from = Some(value(Some(line), FROM, BackupFrom::from_bytes)?);
            } else if starts(START_TIME) && label.start_time.is_none() {
                label.start_time = Some(value(Some(line), START_TIME, |time| {
                    Some(String::from_utf8_lossy(time).into_owned())
                })?);
            } else if starts(LABEL) && label.label.is_none() {
                label.label = Some(value(Some(line), LABEL, |label| Some(label.to_vec()))?);
            } else if starts(START_TIMELINE) && label.start_timeline.is_none() {
                label.start_timeline = Some(value(Some(line), START_TIMELINE, whole_timeline)?);
            } else if starts(INCREMENTAL_LSN) && incremental_lsn.is_none() {
                incremental_lsn = Some(value(Some(line), INCREMENTAL_LSN, whole_lsn)?);
            } else if starts(INCREMENTAL_TIMELINE) && incremental_timeline.is_none() {
                incremental_timeline =
                    Some(value(Some(line), INCREMENTAL_TIMELINE, whole_timeline)?);
            }
        }
        if let Some(stated) = label
            .start_timeline
            .filter(|&stated| stated != start_segment.timeline())
        {
            return Err(BackupLabelError::Timeline {
                segment: start_segment,
                stated,
            });
        }
        label.incremental_from = match (incremental_lsn, incremental_timeline) {
            (None, None) => None,
            (Some(lsn), Some(timeline)) => Some(IncrementalFrom { lsn, timeline }),
            (Some(_), None) => {
                return Err(BackupLabelError::Missing {
                    line: INCREMENTAL_TIMELINE.trim_end(),
                });
            }
            (None, Some(_)) => {
                return Err(BackupLabelError::Missing {
                    line: INCREMENTAL_LSN.trim_end(),
                });
            }
        };
        Ok(label)
    }

    /// The file as PostgreSQL 14 to 18 writes it: lines in the server's order, each with a newline.
    ///
    /// A line break within label or time, which the server would not read back, becomes a space.
    ///
    /// Source: `build_backup_content`, src/backend/access/transam/xlogbackup.c.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut line = |name: &str, value: &[u8]| {
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend(
                value
                    .iter()
                    .map(|&byte| if byte == b'\n' { b' ' } else { byte }),
            );
            bytes.push(b'\n');
        };
        line(
            START_WAL,
            format!("{} (file {})", self.start_wal, self.start_segment).as_bytes(),
        );
        line(CHECKPOINT, self.checkpoint.to_string().as_bytes());
        if let Some(method) = self.method {
            line(METHOD, method.as_str().as_bytes());
        }
        if let Some(from) = self.from {
            line(FROM, from.as_str().as_bytes());
        }
        if let Some(start_time) = &self.start_time {
            line(START_TIME, start_time.as_bytes());
        }
        if let Some(label) = &self.label {
            line(LABEL, label);
        }
        if let Some(timeline) = self.start_timeline {
            line(START_TIMELINE, timeline.to_string().as_bytes());
        }
        if let Some(from) = self.incremental_from {
            line(INCREMENTAL_LSN, from.lsn.to_string().as_bytes());
            line(INCREMENTAL_TIMELINE, from.timeline.to_string().as_bytes());
        }
        bytes
    }

    /// Timeline on which the backup began.
    pub const fn timeline(&self) -> TimelineId {
        self.start_segment.timeline()
    }

    /// The label for people: bytes that are not UTF-8 are replaced.
    pub fn label_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(self.label.as_deref().unwrap_or_default())
    }
}

impl BackupMethod {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupMethod::Streamed => "streamed",
            BackupMethod::PgStartBackup => "pg_start_backup",
            BackupMethod::PgRewind => "pg_rewind",
        }
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        [
            BackupMethod::Streamed,
            BackupMethod::PgStartBackup,
            BackupMethod::PgRewind,
        ]
        .into_iter()
        .find(|method| method.as_str().as_bytes() == word)
    }
}

impl BackupFrom {
    /// The word in the file.
    pub const fn as_str(self) -> &'static str {
        match self {
            BackupFrom::Primary => "primary",
            BackupFrom::Standby => "standby",
        }
    }

    fn from_bytes(word: &[u8]) -> Option<Self> {
        match word {
            b"primary" | b"master" => Some(BackupFrom::Primary),
            b"standby" => Some(BackupFrom::Standby),
            _ => None,
        }
    }
}

fn whole_lsn(value: &[u8]) -> Option<Lsn> {
    all_consuming(lsn).parse(value).ok().map(|(_, lsn)| lsn)
}

fn whole_timeline(value: &[u8]) -> Option<TimelineId> {
    all_consuming(decimal_u32)
        .parse(value)
        .ok()
        .and_then(|(_, number)| TimelineId::new(number))
}

/// Reads what follows `name` on a line.
fn value<T>(
    line: Option<(usize, &[u8])>,
    name: &'static str,
    read: impl FnOnce(&[u8]) -> Option<T>,
) -> Result<T, BackupLabelError> {
    let (number, text) = line
        .filter(|(_, text)| text.starts_with(name.as_bytes()))
        .ok_or(BackupLabelError::Missing {
            line: name.trim_end(),
        })?;
    text.get(name.len()..)
        .and_then(read)
        .ok_or_else(|| BackupLabelError::Syntax {
            line: number,
            text: excerpt(text),
        })
}

/// Why bytes are not a backup label.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupLabelError {
    /// A line that must be there is not in its place.
    #[error("backup_label lacks the line \"{line}\"")]
    Missing {
        /// Its beginning.
        line: &'static str,
    },
    /// A known line with a value that cannot be read.
    #[error("line {line} of backup_label cannot be read: \"{text}\"")]
    Syntax {
        /// Line, from 1.
        line: usize,
        /// Its text (shortened if long).
        text: String,
    },
    /// The first segment and the line for the timeline disagree.
    #[error("backup_label names timeline {stated}, but {segment} as the first segment")]
    Timeline {
        /// The first segment.
        segment: SegmentName,
        /// What the line for the timeline says.
        stated: TimelineId,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STREAMED: &str = "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n\
        CHECKPOINT LOCATION: 0/6000060\n\
        BACKUP METHOD: streamed\n\
        BACKUP FROM: primary\n\
        START TIME: 2026-11-20 07:25:00 UTC\n\
        LABEL: nightly (all of it)\n\
        START TIMELINE: 1\n";

    fn parse(text: &str) -> Result<BackupLabel, BackupLabelError> {
        BackupLabel::parse(text.as_bytes())
    }

    #[test]
    fn a_servers_file_is_read_and_written_byte_for_byte() {
        let label = parse(STREAMED).unwrap();
        assert_eq!(label.start_wal.to_string(), "0/6000028");
        assert_eq!(label.start_segment.to_string(), "000000010000000000000006");
        assert_eq!(label.checkpoint.to_string(), "0/6000060");
        assert_eq!(label.method, Some(BackupMethod::Streamed));
        assert_eq!(label.from, Some(BackupFrom::Primary));
        assert_eq!(label.start_time.as_deref(), Some("2026-11-20 07:25:00 UTC"));
        assert_eq!(label.label_text(), "nightly (all of it)");
        assert_eq!(label.timeline(), TimelineId::FIRST);
        assert_eq!(label.incremental_from, None);
        assert_eq!(label.to_bytes(), STREAMED.as_bytes());
    }

    #[test]
    fn an_incremental_backup_names_its_prior() {
        let text = format!("{STREAMED}INCREMENTAL FROM LSN: 0/4000028\nINCREMENTAL FROM TLI: 1\n");
        let label = parse(&text).unwrap();
        let expected = IncrementalFrom {
            lsn: Lsn::new(0x400_0028),
            timeline: TimelineId::FIRST,
        };
        assert_eq!(label.incremental_from, Some(expected));
        assert_eq!(label.to_bytes(), text.as_bytes());
        let half = format!("{STREAMED}INCREMENTAL FROM LSN: 0/4000028\n");
        assert!(matches!(
            parse(&half),
            Err(BackupLabelError::Missing {
                line: "INCREMENTAL FROM TLI:"
            })
        ));
    }

    #[test]
    fn spellings_of_13_and_19_mean_the_same() {
        assert_eq!(
            parse(&STREAMED.replace("primary", "master")).unwrap(),
            parse(STREAMED).unwrap()
        );
        assert_eq!(
            parse(&STREAMED.replace("0/6000", "0/06000")).unwrap(),
            parse(STREAMED).unwrap()
        );
        assert_eq!(
            parse(&STREAMED.replace("primary", "standby")).unwrap().from,
            Some(BackupFrom::Standby)
        );
    }

    #[test]
    fn pg_rewinds_file_has_no_label_and_no_timeline() {
        let text = "START WAL LOCATION: 0/3000028 (file 000000020000000000000003)\nCHECKPOINT LOCATION: 0/3000060\n\
            BACKUP METHOD: pg_rewind\nBACKUP FROM: standby\nSTART TIME: 2026-11-20 07:25:00 UTC\n";
        let label = parse(text).unwrap();
        assert_eq!(
            (label.method, label.label.as_deref()),
            (Some(BackupMethod::PgRewind), None)
        );
        assert_eq!(label.timeline().get(), 2);
        assert_eq!(label.to_bytes(), text.as_bytes());
    }

    #[test]
    fn two_timelines_in_one_file_are_refused() {
        let text = STREAMED.replace("START TIMELINE: 1", "START TIMELINE: 2");
        assert!(matches!(
            parse(&text),
            Err(BackupLabelError::Timeline { .. })
        ));
    }

    #[test]
    fn what_the_server_would_not_start_from_is_refused() {
        for text in [
            "",
            "\n",
            "CHECKPOINT LOCATION: 0/6000060\n",
            "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\n",
            "START WAL LOCATION: 0/6000028 (file 00000001000000000000000)\nCHECKPOINT LOCATION: 0/6000060\n",
            "START WAL LOCATION: 0/6000028\nCHECKPOINT LOCATION: 0/6000060\n",
            "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\r\nCHECKPOINT LOCATION: 0/6000060\r\n",
            "START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\nCHECKPOINT LOCATION: 6000060\n",
            " START WAL LOCATION: 0/6000028 (file 000000010000000000000006)\nCHECKPOINT LOCATION: 0/6000060\n",
        ] {
            assert!(parse(text).is_err(), "{text:?}");
        }
        assert!(matches!(
            parse(&STREAMED.replace("streamed", "guessed")),
            Err(BackupLabelError::Syntax { line: 3, .. })
        ));
    }

    #[test]
    fn a_label_in_another_encoding_survives() {
        let mut bytes = STREAMED.as_bytes().to_vec();
        let at = STREAMED.find("nightly").unwrap();
        bytes[at] = 0xE9;
        let label = BackupLabel::parse(&bytes).unwrap();
        assert!(label.label_text().starts_with('\u{FFFD}'));
        assert_eq!(label.to_bytes(), bytes);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..220, change: Vec<u8>) {
            let mut bytes = STREAMED.as_bytes().to_vec();
            let at = at.min(bytes.len());
            bytes.splice(at..at, change);
            if let Ok(label) = BackupLabel::parse(&bytes) {
                prop_assert_eq!(BackupLabel::parse(&label.to_bytes()).unwrap(), label);
            }
        }
    }
}
