//! `backup_manifest`: every file of a base backup, and the WAL that it needs.

use std::collections::HashSet;

use nom::bytes::complete::{tag, take_while_m_n};
use nom::combinator::all_consuming;
use nom::sequence::delimited;
use nom::{IResult, Parser};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use crate::lsn::Lsn;
use crate::manifest_file::ManifestFile;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;

/// The file `backup_manifest` of a base backup, of version 1 (PostgreSQL 13 to 16) or 2 (17 and later).
///
/// Its own checksum was right, every path is relative and stays within the
/// data directory, and no path comes twice. The bytes themselves are not kept:
/// the checksum covers them as they stand, so store the file as it came and
/// never write it anew.
///
/// Source: src/backend/backup/backup_manifest.c, src/common/parse_manifest.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupManifest {
    /// Version of the format: 1 or 2.
    pub version: u32,
    /// The cluster; absent in version 1.
    pub system_identifier: Option<SystemIdentifier>,
    /// Every regular file of the backup but those in `pg_wal` and the manifest itself, in the order of the manifest.
    pub files: Vec<ManifestFile>,
    /// WAL that is needed to make the backup consistent. Several ranges if the timeline changed while it was taken.
    pub wal_ranges: Vec<WalRange>,
}

/// A range of WAL on one timeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawWalRange")]
pub struct WalRange {
    /// Its timeline.
    pub timeline: TimelineId,
    /// First position.
    pub start: Lsn,
    /// First position after it; never before `start`.
    pub end: Lsn,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawWalRange {
    #[serde(rename = "Timeline")]
    timeline: TimelineId,
    #[serde(rename = "Start-LSN")]
    start: Lsn,
    #[serde(rename = "End-LSN")]
    end: Lsn,
}

impl TryFrom<RawWalRange> for WalRange {
    type Error = String;

    fn try_from(raw: RawWalRange) -> Result<Self, Self::Error> {
        let RawWalRange {
            timeline,
            start,
            end,
        } = raw;
        if end < start {
            return Err(format!(
                "the WAL range ends at {end}, before its start at {start}"
            ));
        }
        Ok(WalRange {
            timeline,
            start,
            end,
        })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawManifest {
    #[serde(rename = "PostgreSQL-Backup-Manifest-Version")]
    version: u32,
    // a u64 is read digit by digit here, never by way of a double
    #[serde(rename = "System-Identifier")]
    system_identifier: Option<u64>,
    #[serde(rename = "Files")]
    files: Vec<ManifestFile>,
    #[serde(rename = "WAL-Ranges")]
    wal_ranges: Vec<WalRange>,
    #[serde(rename = "Manifest-Checksum")]
    _checksum: serde::de::IgnoredAny,
}

impl BackupManifest {
    /// Reads the file and verifies its checksum.
    ///
    /// # Errors
    /// `ChecksumLine` and `Checksum` if the file is cut off or changed; `Json`
    /// if it is whole, but not a manifest; `Version` and
    /// `SystemIdentifierMissing` if it is one of a kind that is not known;
    /// `PathTwice` if two entries speak of one file.
    ///
    /// Source: `json_parse_manifest`, src/common/parse_manifest.c.
    pub fn parse(bytes: &[u8]) -> Result<BackupManifest, BackupManifestError> {
        verify_checksum(bytes)?;
        let raw: RawManifest =
            serde_json::from_slice(bytes).map_err(BackupManifestError::from_json)?;
        if !(1..=2).contains(&raw.version) {
            return Err(BackupManifestError::Version { found: raw.version });
        }
        if raw.version >= 2 && raw.system_identifier.is_none() {
            return Err(BackupManifestError::SystemIdentifierMissing);
        }
        let mut seen: HashSet<&[u8]> = HashSet::with_capacity(raw.files.len());
        if let Some(twice) = raw.files.iter().find(|file| !seen.insert(&file.path)) {
            return Err(BackupManifestError::PathTwice {
                path: twice.path_text().into_owned(),
            });
        }
        Ok(BackupManifest {
            version: raw.version,
            system_identifier: raw.system_identifier.map(SystemIdentifier::new),
            files: raw.files,
            wal_ranges: raw.wal_ranges,
        })
    }

    /// Bytes in all files together; at most `u64::MAX`.
    pub fn total_size(&self) -> u64 {
        self.files
            .iter()
            .fold(0, |total, file| total.saturating_add(file.size))
    }
}

/// The last line has the SHA-256 of all bytes before it.
///
/// Source: `verify_manifest_checksum`, src/common/parse_manifest.c.
fn verify_checksum(bytes: &[u8]) -> Result<(), BackupManifestError> {
    let lines = bytes
        .strip_suffix(b"\n")
        .ok_or(BackupManifestError::ChecksumLine)?;
    let last_line = lines
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |newline| newline + 1);
    let (covered, last_line) = lines
        .split_at_checked(last_line)
        .ok_or(BackupManifestError::ChecksumLine)?;
    let (_, digits) = checksum_line(last_line).map_err(|_| BackupManifestError::ChecksumLine)?;
    let stored = String::from_utf8_lossy(digits).into_owned();
    let computed = format!("{:x}", Sha256::digest(covered));
    if stored.eq_ignore_ascii_case(&computed) {
        Ok(())
    } else {
        Err(BackupManifestError::Checksum { stored, computed })
    }
}

fn checksum_line(line: &[u8]) -> IResult<&[u8], &[u8]> {
    let digits = take_while_m_n(64, 64, |byte: u8| byte.is_ascii_hexdigit());
    all_consuming(delimited(
        tag("\"Manifest-Checksum\": \""),
        digits,
        tag("\"}"),
    ))
    .parse(line)
}

/// Why bytes are not a backup manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BackupManifestError {
    /// The last line is not the manifest's checksum: usually the file is cut off.
    #[error("backup_manifest does not end with a line for its own checksum")]
    ChecksumLine,
    /// The bytes were changed after the server wrote them.
    #[error("backup_manifest is damaged: SHA-256 {stored} is stored, {computed} computed")]
    Checksum {
        /// Hex digits that stand in the file.
        stored: String,
        /// Hex digits that its bytes give.
        computed: String,
    },
    /// The JSON is not that of a manifest.
    #[error("backup_manifest cannot be read before line {line}, column {column}: {reason}")]
    Json {
        /// Line up to which it was read, from 1.
        line: usize,
        /// Column up to which it was read, in bytes, from 1.
        column: usize,
        /// What is wrong there.
        reason: String,
    },
    /// A version of the format that is not known.
    #[error("backup_manifest has version {found}: expected 1 or 2")]
    Version {
        /// What stands there.
        found: u32,
    },
    /// Version 2 must name its cluster.
    #[error("backup_manifest of version 2 lacks the system identifier")]
    SystemIdentifierMissing,
    /// Two entries for one file.
    #[error("backup_manifest lists \"{path}\" twice")]
    PathTwice {
        /// The file.
        path: String,
    },
}

impl BackupManifestError {
    fn from_json(error: serde_json::Error) -> Self {
        let (line, column) = (error.line(), error.column());
        let mut reason = error.to_string();
        // serde_json says the place at the end, which our own text says already
        if let Some(at) = reason.rfind(" at line ") {
            reason.truncate(at);
        }
        BackupManifestError::Json {
            line,
            column,
            reason,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            BackupManifestError::ChecksumLine | BackupManifestError::Checksum { .. } => {
                Some("The backup is incomplete or was changed; take a new one.".to_owned())
            }
            BackupManifestError::Version { .. } => Some(
                "The backup comes from a version of PostgreSQL that this build does not know."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::manifest_file::ChecksumAlgorithm;

    const FILE: &str = r#"{ "Path": "PG_VERSION", "Size": 3, "Last-Modified": "2026-11-20 07:25:00 GMT", "Checksum-Algorithm": "CRC32C", "Checksum": "64440205" }"#;
    const RANGE: &str = r#"{ "Timeline": 1, "Start-LSN": "0/6000028", "End-LSN": "0/6000100" }"#;

    fn sealed(body: &str) -> Vec<u8> {
        format!(
            "{body}\"Manifest-Checksum\": \"{:x}\"}}\n",
            Sha256::digest(body)
        )
        .into_bytes()
    }

    fn manifest(head: &str, files: &str, ranges: &str) -> Vec<u8> {
        sealed(&format!(
            "{{ {head},\n\"Files\": [\n{files}\n],\n\"WAL-Ranges\": [\n{ranges}\n],\n"
        ))
    }

    const V1: &str = "\"PostgreSQL-Backup-Manifest-Version\": 1";
    const V2: &str =
        "\"PostgreSQL-Backup-Manifest-Version\": 2,\n\"System-Identifier\": 18446744073709551615";

    #[test]
    fn both_versions_are_read() {
        let first = BackupManifest::parse(&manifest(V1, FILE, RANGE)).unwrap();
        assert_eq!((first.version, first.system_identifier), (1, None));
        let file = &first.files[0];
        assert_eq!((file.path.as_slice(), file.size), (&b"PG_VERSION"[..], 3));
        assert_eq!(
            file.last_modified.unwrap().to_string(),
            "2026-11-20 07:25:00.000000+00"
        );
        let checksum = file.checksum.as_ref().unwrap();
        assert_eq!(
            (checksum.algorithm, checksum.crc32c()),
            (ChecksumAlgorithm::Crc32c, Some(0x0502_4464))
        );
        let range = WalRange {
            timeline: TimelineId::FIRST,
            start: Lsn::new(0x600_0028),
            end: Lsn::new(0x600_0100),
        };
        assert_eq!(first.wal_ranges, [range]);
        assert_eq!(first.total_size(), 3);

        let second = BackupManifest::parse(&manifest(V2, FILE, RANGE)).unwrap();
        assert_eq!(
            second.system_identifier.map(SystemIdentifier::get),
            Some(u64::MAX)
        );
    }

    #[test]
    fn a_changed_byte_anywhere_is_found() {
        let sound = manifest(V2, FILE, RANGE);
        for offset in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[offset] ^= 0x01;
            assert!(BackupManifest::parse(&damaged).is_err(), "{offset}");
        }
    }

    #[test]
    fn a_manifest_that_is_cut_off_is_told_as_such() {
        let sound = manifest(V2, FILE, RANGE);
        for len in 0..sound.len() {
            assert_eq!(
                BackupManifest::parse(&sound[..len]),
                Err(BackupManifestError::ChecksumLine),
                "{len}"
            );
        }
    }

    #[test]
    fn unknown_versions_and_fields_are_refused() {
        let version = V1.replace('1', "3");
        assert_eq!(
            BackupManifest::parse(&manifest(&version, FILE, RANGE)),
            Err(BackupManifestError::Version { found: 3 })
        );
        let nameless = V1.replace('1', "2");
        assert_eq!(
            BackupManifest::parse(&manifest(&nameless, FILE, RANGE)),
            Err(BackupManifestError::SystemIdentifierMissing)
        );
        let more = format!("{V1}, \"Colour\": 7");
        assert!(matches!(
            BackupManifest::parse(&manifest(&more, FILE, RANGE)),
            Err(BackupManifestError::Json { .. })
        ));
    }

    #[test]
    fn an_error_in_an_entry_names_its_place() {
        let odd = FILE.replace("PG_VERSION", "../../etc/passwd");
        match BackupManifest::parse(&manifest(V1, &format!("{FILE},\n{odd}"), RANGE)) {
            Err(BackupManifestError::Json {
                line: 4..=5,
                reason,
                ..
            }) => {
                assert!(
                    reason.contains("../../etc/passwd") && !reason.contains("at line"),
                    "{reason}"
                );
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_file_listed_twice_is_refused() {
        let encoded = FILE.replace(
            "\"Path\": \"PG_VERSION\"",
            "\"Encoded-Path\": \"50475f56455253494f4e\"",
        );
        assert_eq!(
            BackupManifest::parse(&manifest(V1, &format!("{FILE},{encoded}"), RANGE)),
            Err(BackupManifestError::PathTwice {
                path: "PG_VERSION".to_owned()
            })
        );
    }

    #[test]
    fn a_range_that_ends_before_it_starts_is_refused() {
        for range in [
            RANGE.replace("0/6000028", "0/7000028"),
            RANGE.replace("\"Timeline\": 1", "\"Timeline\": 0"),
            RANGE.replace("0/6000028", "6000028"),
        ] {
            assert!(matches!(
                BackupManifest::parse(&manifest(V1, FILE, &range)),
                Err(BackupManifestError::Json { .. })
            ));
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(at in 0usize..400, change: Vec<u8>) {
            let body = format!("{{ {V2},\n\"Files\": [\n{FILE}\n],\n\"WAL-Ranges\": [\n{RANGE}\n],\n");
            let mut body = body.into_bytes();
            let at = at.min(body.len());
            body.splice(at..at, change);
            let digest = format!("\"Manifest-Checksum\": \"{:x}\"}}\n", Sha256::digest(&body));
            body.extend_from_slice(digest.as_bytes());
            let _ = BackupManifest::parse(&body);
        }
    }
}
