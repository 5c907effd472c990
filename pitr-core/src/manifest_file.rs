//! One file in a backup manifest.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::NaiveDateTime;
use serde::Deserialize;

use crate::text::excerpt;
use crate::timestamp::Timestamp;

/// One regular file of a base backup, as its manifest lists it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawFile<'_>")]
pub struct ManifestFile {
    /// Path in the data directory, with slashes; in a tablespace, by way of `pg_tblspc/OID/`.
    ///
    /// Bytes as the file system has them. Relative, without empty, `.` and
    /// `..` parts and without NUL: joined to a folder it stays in it, as long
    /// as nothing on the way is a link.
    pub path: Vec<u8>,
    /// Bytes in the file.
    pub size: u64,
    /// When the server's file was last changed; whole seconds. `None` if the text is none that a server writes.
    pub last_modified: Option<Timestamp>,
    /// Its checksum; `None` if the backup was taken without.
    pub checksum: Option<FileChecksum>,
}

/// The checksum of a file's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileChecksum {
    /// How it was computed.
    pub algorithm: ChecksumAlgorithm,
    /// Its bytes; exactly as many as the algorithm gives.
    pub value: Vec<u8>,
}

/// How a manifest's checksums are computed.
///
/// Source: `pg_checksum_type`, src/include/common/checksum_helper.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// CRC-32C, the default.
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ChecksumAlgorithm {
    const ALL: [ChecksumAlgorithm; 5] = [
        ChecksumAlgorithm::Crc32c,
        ChecksumAlgorithm::Sha224,
        ChecksumAlgorithm::Sha256,
        ChecksumAlgorithm::Sha384,
        ChecksumAlgorithm::Sha512,
    ];

    /// The name in the manifest and in `MANIFEST_CHECKSUMS`.
    pub const fn as_str(self) -> &'static str {
        match self {
            ChecksumAlgorithm::Crc32c => "CRC32C",
            ChecksumAlgorithm::Sha224 => "SHA224",
            ChecksumAlgorithm::Sha256 => "SHA256",
            ChecksumAlgorithm::Sha384 => "SHA384",
            ChecksumAlgorithm::Sha512 => "SHA512",
        }
    }

    /// Bytes in a checksum.
    pub const fn value_len(self) -> usize {
        match self {
            ChecksumAlgorithm::Crc32c => 4,
            ChecksumAlgorithm::Sha224 => 28,
            ChecksumAlgorithm::Sha256 => 32,
            ChecksumAlgorithm::Sha384 => 48,
            ChecksumAlgorithm::Sha512 => 64,
        }
    }
}

impl fmt::Display for ChecksumAlgorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for ChecksumAlgorithm {
    type Err = ManifestFileError;

    /// Reads the name in any case, as the server does.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|algorithm| algorithm.as_str().eq_ignore_ascii_case(name))
            .ok_or_else(|| ManifestFileError::Algorithm {
                name: excerpt(name),
            })
    }
}

impl FileChecksum {
    /// The value as a number, if it is a CRC-32C.
    ///
    /// The manifest has its bytes as they lie in the server's memory, lowest first.
    pub fn crc32c(&self) -> Option<u32> {
        match self.algorithm {
            ChecksumAlgorithm::Crc32c => self
                .value
                .as_slice()
                .try_into()
                .ok()
                .map(u32::from_le_bytes),
            _ => None,
        }
    }

    /// The checksum of this CRC-32C.
    pub fn from_crc32c(crc: u32) -> Self {
        FileChecksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            value: crc.to_le_bytes().to_vec(),
        }
    }
}

impl fmt::Display for FileChecksum {
    /// The value in lower-case hex, as the manifest has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value
            .iter()
            .try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl ManifestFile {
    /// The path for people: bytes that are not UTF-8 are replaced.
    pub fn path_text(&self) -> Cow<'_, str> {
        String::from_utf8_lossy(&self.path)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile<'a> {
    #[serde(rename = "Path", borrow)]
    path: Option<Cow<'a, str>>,
    #[serde(rename = "Encoded-Path", borrow)]
    encoded_path: Option<Cow<'a, str>>,
    #[serde(rename = "Size")]
    size: u64,
    #[serde(rename = "Last-Modified", borrow)]
    last_modified: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum-Algorithm", borrow)]
    algorithm: Option<Cow<'a, str>>,
    #[serde(rename = "Checksum", borrow)]
    checksum: Option<Cow<'a, str>>,
}

impl TryFrom<RawFile<'_>> for ManifestFile {
    type Error = ManifestFileError;

    /// Source: `json_manifest_finalize_file`, src/common/parse_manifest.c.
    fn try_from(raw: RawFile<'_>) -> Result<Self, Self::Error> {
        let path = match (raw.path, raw.encoded_path) {
            (Some(path), None) => path.into_owned().into_bytes(),
            (None, Some(encoded)) => {
                from_hex(&encoded).ok_or_else(|| ManifestFileError::EncodedPath {
                    text: excerpt(&encoded),
                })?
            }
            (None, None) => return Err(ManifestFileError::NoPath),
            (Some(path), Some(_)) => {
                return Err(ManifestFileError::TwoPaths {
                    path: excerpt(&path),
                });
            }
        };
        if !stays_inside(&path) {
            return Err(ManifestFileError::UnsafePath {
                path: excerpt(&String::from_utf8_lossy(&path)),
            });
        }
        let checksum = match (raw.algorithm, raw.checksum) {
            (Some(name), Some(digits)) => Some(checksum(&name, &digits)?),
            (None, Some(_)) => return Err(ManifestFileError::ChecksumWithoutAlgorithm),
            (_, None) => None,
        };
        let last_modified = raw.last_modified.and_then(|text| last_modified(&text));
        Ok(ManifestFile {
            path,
            size: raw.size,
            last_modified,
            checksum,
        })
    }
}

fn checksum(name: &str, digits: &str) -> Result<FileChecksum, ManifestFileError> {
    let algorithm: ChecksumAlgorithm = name.parse()?;
    let value = from_hex(digits).filter(|value| value.len() == algorithm.value_len());
    let value = value.ok_or_else(|| ManifestFileError::Checksum {
        algorithm,
        text: excerpt(digits),
    })?;
    Ok(FileChecksum { algorithm, value })
}

fn stays_inside(path: &[u8]) -> bool {
    !path.contains(&0)
        && path
            .split(|&byte| byte == b'/')
            .all(|part| !matches!(part, b"" | b"." | b".."))
}

fn last_modified(text: &str) -> Option<Timestamp> {
    let naive =
        NaiveDateTime::parse_from_str(text.strip_suffix(" GMT")?, "%Y-%m-%d %H:%M:%S").ok()?;
    Some(Timestamp::from_datetime(naive.and_utc()))
}

fn from_hex(digits: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        b'A'..=b'F' => Some(byte - b'A' + 10),
        _ => None,
    };
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| match *pair {
            [high, low] => Some((digit(high)? << 4) | digit(low)?),
            _ => None,
        })
        .collect()
}

/// Why an entry of a manifest is not that of a file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestFileError {
    /// No file name.
    #[error("the entry has neither Path nor Encoded-Path")]
    NoPath,
    /// Two file names.
    #[error("the entry for \"{path}\" has both Path and Encoded-Path")]
    TwoPaths {
        /// The plain one (shortened if long).
        path: String,
    },
    /// A file name that is not hex.
    #[error("the Encoded-Path \"{text}\" is not made of pairs of hex digits")]
    EncodedPath {
        /// What stands there (shortened if long).
        text: String,
    },
    /// A file name that would leave the folder.
    #[error("the path \"{path}\" is not a plain path within the data directory")]
    UnsafePath {
        /// What stands there (shortened if long).
        path: String,
    },
    /// An algorithm that is not known.
    #[error(
        "\"{name}\" is not a checksum algorithm: expected CRC32C, SHA224, SHA256, SHA384 or SHA512"
    )]
    Algorithm {
        /// What stands there (shortened if long).
        name: String,
    },
    /// A checksum that nobody can compute again.
    #[error("the entry has a checksum, but no algorithm")]
    ChecksumWithoutAlgorithm,
    /// A checksum that the algorithm does not make.
    #[error("\"{text}\" is not a {algorithm} checksum: expected {} hex digits", .algorithm.value_len() * 2)]
    Checksum {
        /// How it should have been computed.
        algorithm: ChecksumAlgorithm,
        /// What stands there (shortened if long).
        text: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<ManifestFile, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    fn with_path(path: &str) -> Result<ManifestFile, String> {
        parse(&format!(
            "{{\"Path\": {}, \"Size\": 0}}",
            serde_json::to_string(path).unwrap()
        ))
    }

    #[test]
    fn paths_that_leave_their_folder_are_refused() {
        for path in [
            "",
            "/",
            "/etc/passwd",
            "..",
            "../x",
            "a/../../x",
            "a//b",
            "a/",
            "./a",
            "a/./b",
            "a\0b",
        ] {
            assert!(with_path(path).is_err(), "{path:?}");
        }
        for path in [
            "PG_VERSION",
            "base/1/1255",
            "pg_tblspc/16384/PG_15_202209061/5/1",
            "..a",
            "a..",
            "a b\\c",
            "\u{e9}t\u{e9}",
        ] {
            assert_eq!(with_path(path).unwrap().path, path.as_bytes());
        }
    }

    #[test]
    fn a_path_that_is_not_utf8_is_hex() {
        let file =
            parse(r#"{"Encoded-Path": "62617365ff", "Size": 18446744073709551615}"#).unwrap();
        assert_eq!(
            (file.path.as_slice(), file.size),
            (&b"base\xFF"[..], u64::MAX)
        );
        assert_eq!(file.path_text(), "base\u{FFFD}");
        for encoded in ["6", "6x", "2e2e", "\u{e9}"] {
            assert!(
                parse(&format!(r#"{{"Encoded-Path": "{encoded}", "Size": 0}}"#)).is_err(),
                "{encoded}"
            );
        }
    }

    #[test]
    fn a_checksum_needs_its_algorithm_and_its_length() {
        let with = |algorithm: &str, checksum: &str| {
            parse(&format!(
                r#"{{"Path": "a", "Size": 0, "Checksum-Algorithm": "{algorithm}", "Checksum": "{checksum}"}}"#
            ))
        };
        assert_eq!(
            with("CRC32C", "64440205").unwrap().checksum,
            Some(FileChecksum::from_crc32c(0x0502_4464))
        );
        assert_eq!(
            with("CRC32C", "64440205")
                .unwrap()
                .checksum
                .unwrap()
                .to_string(),
            "64440205"
        );
        for algorithm in ChecksumAlgorithm::ALL {
            let digits = "ab".repeat(algorithm.value_len());
            assert_eq!(
                with(algorithm.as_str(), &digits)
                    .unwrap()
                    .checksum
                    .unwrap()
                    .to_string(),
                digits
            );
            assert!(with(algorithm.as_str(), &digits[2..]).is_err());
        }
        assert!(with("MD5", "00000000").is_err());
        assert!(parse(r#"{"Path": "a", "Size": 0, "Checksum": "64440205"}"#).is_err());
        assert_eq!(parse(r#"{"Path": "a", "Size": 0}"#).unwrap().checksum, None);
    }

    #[test]
    fn sizes_are_whole_and_not_negative() {
        for size in ["-1", "1.5", "1e3", "18446744073709551616", "\"1\"", "null"] {
            assert!(
                parse(&format!(r#"{{"Path": "a", "Size": {size}}}"#)).is_err(),
                "{size}"
            );
        }
    }
}
