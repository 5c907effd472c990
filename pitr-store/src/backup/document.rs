//! The bytes of `backup.json`.

use serde::Deserialize;
use serde::de::{self, MapAccess, Visitor};
use thiserror::Error;

use super::index::{BackupIndex, IndexEntry, IndexError, PartIndex};
use super::info::{BackupInfo, FORMAT, Sizes};
use super::label::Label;

/// Why a `backup.json` cannot be used.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// Made by another version of pitr.
    #[error("backup.json has format {found}, this version reads {FORMAT}")]
    UnknownFormat {
        /// The number in the document.
        found: u64,
    },
    /// No JSON, or not the fields that it must have.
    #[error("backup.json does not parse")]
    Json(#[source] serde_json::Error),
    /// It is that of another backup.
    #[error("backup.json in the folder of {expected} is that of {found}")]
    ForeignLabel {
        /// Label of the folder.
        expected: Label,
        /// Label in the document.
        found: Label,
    },
    /// Fields that contradict each other.
    #[error("backup.json contradicts itself: {what}")]
    Contradiction {
        /// Which ones.
        what: &'static str,
    },
    /// The index contradicts itself or the parts.
    #[error("backup.json has an index that cannot be right")]
    Index(#[from] IndexError),
}

impl DocumentError {
    /// What the administrator can do about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::UnknownFormat { .. } => {
                Some("Use the version of pitr that made the backup, or a newer one.".to_owned())
            }
            _ => Some(
                "The parts beside it are plain tar archives compressed with zstd: they can be unpacked by hand."
                    .to_owned(),
            ),
        }
    }
}

/// The document: `info` in readable form, then the index, one file a line.
pub(super) fn to_bytes(info: &BackupInfo, index: &[PartIndex]) -> Result<Vec<u8>, DocumentError> {
    let mut bytes = serde_json::to_vec_pretty(info).map_err(DocumentError::Json)?;
    // open the object again: the index becomes its last member
    bytes.truncate(bytes.len() - b"\n}".len());
    bytes.extend_from_slice(b",\n  \"index\": {");
    for (number, part) in index.iter().enumerate() {
        bytes.extend_from_slice(if number == 0 { b"\n" } else { b",\n" });
        bytes.extend_from_slice(format!("    \"{}\": [", part.name).as_bytes());
        for (number, file) in part.files.iter().enumerate() {
            bytes.extend_from_slice(if number == 0 {
                b"\n      "
            } else {
                b",\n      "
            });
            serde_json::to_writer(&mut bytes, file).map_err(DocumentError::Json)?;
        }
        bytes.extend_from_slice(if part.files.is_empty() {
            b"]"
        } else {
            b"\n    ]"
        });
    }
    bytes.extend_from_slice(b"\n  }\n}\n");
    Ok(bytes)
}

/// Reads all but the index. `expected` is the label of the folder.
pub(super) fn parse_info(bytes: &[u8], expected: Label) -> Result<BackupInfo, DocumentError> {
    #[derive(Deserialize)]
    struct Format {
        format: u64,
    }
    let Format { format } = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
    if format != u64::from(FORMAT) {
        return Err(DocumentError::UnknownFormat { found: format });
    }
    let info: BackupInfo = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
    if info.label != expected {
        return Err(DocumentError::ForeignLabel {
            expected,
            found: info.label,
        });
    }
    check(&info)?;
    Ok(info)
}

/// Reads all of it.
pub(super) fn parse(
    bytes: &[u8],
    expected: Label,
) -> Result<(BackupInfo, BackupIndex), DocumentError> {
    #[derive(Deserialize)]
    struct Tail {
        #[serde(deserialize_with = "index_parts")]
        index: Vec<PartIndex>,
    }
    let info = parse_info(bytes, expected)?;
    let Tail { index } = serde_json::from_slice(bytes).map_err(DocumentError::Json)?;
    let index = BackupIndex::new(index, &info.parts)?;
    Ok((info, index))
}

fn check(info: &BackupInfo) -> Result<(), DocumentError> {
    let contradiction = |what| Err(DocumentError::Contradiction { what });
    let mut sizes = Sizes::default();
    for part in &info.parts {
        if part.tablespace != part.name.archive().tablespace() {
            return contradiction("a part's name and its tablespace");
        }
        let add = |sum: &mut u64, more| match sum.checked_add(more) {
            Some(total) => {
                *sum = total;
                true
            }
            None => false,
        };
        if !add(&mut sizes.raw_bytes, part.raw_bytes)
            || !add(&mut sizes.stored_bytes, part.stored_bytes)
            || !add(&mut sizes.files, part.files)
        {
            return contradiction("sizes of parts that no sum can hold");
        }
    }
    if sizes != info.sizes {
        return contradiction("sizes of the parts and their totals");
    }
    if info.stop_lsn < info.start_lsn {
        return contradiction("stop_lsn lies before start_lsn");
    }
    // parts of an archive lie together and count up from 1
    let mut before = None;
    let mut archives = std::collections::HashSet::new();
    for part in &info.parts {
        let follows = match before {
            Some((archive, number)) if archive == part.name.archive() => {
                part.name.number().checked_sub(1) == Some(number)
            }
            _ => part.name.number() == 1 && archives.insert(part.name.archive()),
        };
        if !follows {
            return contradiction("parts out of order");
        }
        before = Some((part.name.archive(), part.name.number()));
    }
    Ok(())
}

/// The index's object, in the order of the file.
fn index_parts<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<PartIndex>, D::Error> {
    struct PartsVisitor;

    impl<'de> Visitor<'de> for PartsVisitor {
        type Value = Vec<PartIndex>;

        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("an object with the files of each part")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut parts = Vec::new();
            while let Some(name) = map.next_key()? {
                let files: Vec<IndexEntry> = map.next_value().map_err(de::Error::custom)?;
                parts.push(PartIndex { name, files });
            }
            Ok(parts)
        }
    }

    deserializer.deserialize_map(PartsVisitor)
}
