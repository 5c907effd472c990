//! The major version of a server.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A major version of PostgreSQL whose files this crate reads: 13 to 19.
///
/// 14 to 18 are supported fully. The numbers for 19 are those of its fourth
/// beta. In JSON it is the number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PostgresMajor(u16);

/// `(major, XLOG_PAGE_MAGIC, CATALOG_VERSION_NO)`: neither changes between minor releases.
///
/// Source: src/include/access/xlog_internal.h, src/include/catalog/catversion.h.
const KNOWN: [(u16, u16, u32); 7] = [
    (13, 0xD106, 202_007_201),
    (14, 0xD10D, 202_107_181),
    (15, 0xD110, 202_209_061),
    (16, 0xD113, 202_307_071),
    (17, 0xD116, 202_406_281),
    (18, 0xD118, 202_506_291),
    (19, 0xD122, 202_609_165),
];

impl PostgresMajor {
    /// The major version of this number; `None` unless it is 13 to 19.
    pub fn new(major: u16) -> Option<Self> {
        Self::known(|known| known.0 == major)
    }

    /// The major version whose WAL pages begin with this magic.
    ///
    /// The only mark of the version on every page of the log.
    ///
    /// Source: `XLOG_PAGE_MAGIC`, src/include/access/xlog_internal.h.
    pub fn from_magic(magic: u16) -> Option<Self> {
        Self::known(|known| known.1 == magic)
    }

    /// The major version with this catalog version, as it stands in `pg_control`.
    ///
    /// `pg_control_version` would not do: 13 to 16 share 1300.
    ///
    /// Source: `CATALOG_VERSION_NO`, src/include/catalog/catversion.h.
    pub fn from_catalog_version(catalog_version: u32) -> Option<Self> {
        Self::known(|known| known.2 == catalog_version)
    }

    /// The major version of a server that reports this `server_version_num`, as in 150020.
    pub fn from_server_version_num(version_num: u32) -> Option<Self> {
        u16::try_from(version_num / 10_000).ok().and_then(Self::new)
    }

    /// Whether the final release of this version may still differ from what is known here.
    ///
    /// Log and control file of such a version are read all the same; whoever
    /// relies on it wants to be told.
    pub const fn is_provisional(self) -> bool {
        self.0 == 19
    }

    /// The number.
    pub const fn get(self) -> u16 {
        self.0
    }

    fn known(matches: impl Fn(&(u16, u16, u32)) -> bool) -> Option<Self> {
        KNOWN
            .iter()
            .find(|known| matches(known))
            .map(|known| PostgresMajor(known.0))
    }
}

impl fmt::Display for PostgresMajor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl TryFrom<u16> for PostgresMajor {
    type Error = String;

    fn try_from(major: u16) -> Result<Self, Self::Error> {
        PostgresMajor::new(major)
            .ok_or_else(|| format!("PostgreSQL {major} is not known: expected 13 to 19"))
    }
}

impl From<PostgresMajor> for u16 {
    fn from(major: PostgresMajor) -> Self {
        major.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_mark_names_its_major() {
        for (major, magic, catalog_version) in KNOWN {
            let expected = PostgresMajor::new(major);
            assert!(expected.is_some());
            assert_eq!(PostgresMajor::from_magic(magic), expected);
            assert_eq!(
                PostgresMajor::from_catalog_version(catalog_version),
                expected
            );
            assert_eq!(
                PostgresMajor::from_server_version_num(u32::from(major) * 10_000 + 4),
                expected
            );
        }
    }

    #[test]
    fn unknown_versions_are_not_guessed() {
        assert_eq!(PostgresMajor::new(12), None);
        assert_eq!(PostgresMajor::new(20), None);
        assert_eq!(PostgresMajor::from_magic(0), None);
        assert_eq!(PostgresMajor::from_server_version_num(90_624), None);
        assert_eq!(PostgresMajor::from_server_version_num(u32::MAX), None);
        assert!(serde_json::from_str::<PostgresMajor>("12").is_err());
    }

    #[test]
    fn json_form_is_the_number() {
        let major = PostgresMajor::new(15).unwrap();
        assert_eq!(serde_json::to_string(&major).unwrap(), "15");
        assert_eq!(serde_json::from_str::<PostgresMajor>("15").unwrap(), major);
    }
}
