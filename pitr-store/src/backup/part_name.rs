//! Names of the parts of a base backup.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use thiserror::Error;

use super::member_path::{MemberPath, parse_oid};

/// What PostgreSQL sends as one tar archive: the data directory, or a tablespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Archive {
    /// The data directory (`base.tar`).
    Base,
    /// The tablespace with this object identifier (`<oid>.tar`).
    Tablespace(u32),
}

impl Archive {
    /// Name that the backup manifest has for `path` of this archive.
    #[must_use]
    pub fn manifest_path(&self, path: &MemberPath) -> MemberPath {
        match self {
            Self::Base => path.clone(),
            Self::Tablespace(oid) => path.in_tablespace(*oid),
        }
    }

    /// Object identifier of the tablespace; `None` for the data directory.
    #[must_use]
    pub fn tablespace(&self) -> Option<u32> {
        match self {
            Self::Base => None,
            Self::Tablespace(oid) => Some(*oid),
        }
    }
}

impl fmt::Display for Archive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Base => f.write_str("base"),
            Self::Tablespace(oid) => write!(f, "{oid}"),
        }
    }
}

/// Object name of a part: `base-00001.tar.zst`, `<oid>-00001.tar.zst`.
///
/// Parts of an archive count from 1, with at least five digits; unpacking them
/// in this order gives what PostgreSQL sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PartName {
    archive: Archive,
    number: u32,
}

/// A text that names no part.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{name:?} is no name of a part (base-00001.tar.zst, 16384-00001.tar.zst)")]
pub struct ParsePartNameError {
    /// The text.
    pub name: String,
}

impl PartName {
    /// Part `number` (from 1) of `archive`.
    pub(super) fn new(archive: Archive, number: u32) -> Self {
        Self { archive, number }
    }

    /// The archive that it is a piece of.
    #[must_use]
    pub fn archive(&self) -> Archive {
        self.archive
    }

    /// Its place in the archive, from 1.
    #[must_use]
    pub fn number(&self) -> u32 {
        self.number
    }
}

impl fmt::Display for PartName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{:05}.tar.zst", self.archive, self.number)
    }
}

impl FromStr for PartName {
    type Err = ParsePartNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (archive, number) = name.strip_suffix(".tar.zst")?.rsplit_once('-')?;
            let archive = match archive {
                "base" => Archive::Base,
                oid => Archive::Tablespace(parse_oid(oid.as_bytes())?),
            };
            let part = Self::new(archive, number.parse().ok().filter(|number| *number > 0)?);
            // one spelling for each part
            (part.to_string() == name).then_some(part)
        };
        parse().ok_or_else(|| ParsePartNameError {
            name: name.to_owned(),
        })
    }
}

impl Serialize for PartName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PartName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        name.parse().map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_one_name() {
        for name in [
            "base-00001.tar.zst",
            "16384-00042.tar.zst",
            "base-100000.tar.zst",
        ] {
            assert_eq!(name.parse::<PartName>().unwrap().to_string(), name);
        }
        for name in [
            "base-1.tar.zst",
            "base-000001.tar.zst",
            "base-00000.tar.zst",
            "base-+0001.tar.zst",
            "0-00001.tar.zst",
            "016384-00001.tar.zst",
            "../base-00001.tar.zst",
            "base-00001.tar",
            "4294967296-00001.tar.zst",
        ] {
            assert!(name.parse::<PartName>().is_err(), "{name}");
        }
    }
}
