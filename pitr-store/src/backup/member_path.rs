//! Paths inside a base backup, checked so that none leads out of its folder.

use std::ffi::OsStr;
use std::fmt;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Longest path in bytes: Linux accepts no longer one (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4095;

/// Longest component in bytes (`NAME_MAX`).
const MAX_COMPONENT_BYTES: usize = 255;

/// A path relative to a data directory or a tablespace, which cannot leave it.
///
/// Components joined by single slashes, none of them empty, `.` or `..`; no NUL
/// byte, no leading or trailing slash. The empty path is the directory itself.
/// Bytes, since file names of PostgreSQL need not be UTF-8.
///
/// The check is one of names: whoever creates files under such a path still
/// has to make sure that no component is a symbolic link.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MemberPath(Box<[u8]>);

/// Why a name is no [`MemberPath`].
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum MemberPathError {
    /// No name at all.
    #[error("empty name")]
    Empty,
    /// It starts at the root.
    #[error("name {name:?} is absolute")]
    Absolute {
        /// The name, invalid UTF-8 replaced.
        name: String,
    },
    /// A component is `..`.
    #[error("name {name:?} has a \"..\" component")]
    Parent {
        /// The name, invalid UTF-8 replaced.
        name: String,
    },
    /// A NUL byte, which no file system takes.
    #[error("name {name:?} has a NUL byte")]
    Nul {
        /// The name, invalid UTF-8 replaced.
        name: String,
    },
    /// Longer than a file system takes.
    #[error("name of {bytes} bytes is too long (at most {limit})")]
    TooLong {
        /// Length of the path, or of the component at fault.
        bytes: usize,
        /// What is allowed.
        limit: usize,
    },
}

impl MemberPath {
    /// Takes a name as it stands in a tar header.
    ///
    /// `./` in front, a slash at the end and doubled slashes are taken out:
    /// PostgreSQL sends `./pg_wal/archive_status/` and the like. `.` and `./`
    /// are the directory itself.
    ///
    /// # Errors
    /// Any [`MemberPathError`].
    pub fn parse(name: &[u8]) -> Result<Self, MemberPathError> {
        let text = || String::from_utf8_lossy(name).into_owned();
        if name.is_empty() {
            return Err(MemberPathError::Empty);
        }
        if name.len() > MAX_PATH_BYTES {
            return Err(MemberPathError::TooLong {
                bytes: name.len(),
                limit: MAX_PATH_BYTES,
            });
        }
        if name.starts_with(b"/") {
            return Err(MemberPathError::Absolute { name: text() });
        }
        if name.contains(&0) {
            return Err(MemberPathError::Nul { name: text() });
        }
        let mut path = Vec::with_capacity(name.len());
        for component in name.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => continue,
                b".." => return Err(MemberPathError::Parent { name: text() }),
                _ if component.len() > MAX_COMPONENT_BYTES => {
                    return Err(MemberPathError::TooLong {
                        bytes: component.len(),
                        limit: MAX_COMPONENT_BYTES,
                    });
                }
                _ => {}
            }
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(component);
        }
        Ok(Self(path.into_boxed_slice()))
    }

    /// The directory itself.
    #[must_use]
    pub fn root() -> Self {
        Self(Box::default())
    }

    /// The bytes, components joined by `/`.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text, if it is UTF-8.
    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }

    /// Whether this is the directory itself.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    /// The components from the top; none for the directory itself.
    pub fn components(&self) -> impl Iterator<Item = &[u8]> {
        self.0
            .split(|byte| *byte == b'/')
            .filter(|component| !component.is_empty())
    }

    /// Last component; `None` for the directory itself.
    #[must_use]
    pub fn file_name(&self) -> Option<&[u8]> {
        self.components().last()
    }

    /// The path below `folder`.
    #[must_use]
    pub fn under(&self, folder: &Path) -> PathBuf {
        if self.is_root() {
            return folder.to_path_buf();
        }
        folder.join(OsStr::from_bytes(&self.0))
    }

    /// This path with `pg_tblspc/<oid>/` in front: the name that the backup
    /// manifest gives to a tablespace's file.
    #[must_use]
    pub fn in_tablespace(&self, oid: u32) -> Self {
        let mut path = format!("pg_tblspc/{oid}").into_bytes();
        if !self.is_root() {
            path.push(b'/');
            path.extend_from_slice(&self.0);
        }
        Self(path.into_boxed_slice())
    }

    /// The tablespace whose link this path is: `pg_tblspc/<oid>` and nothing below.
    #[must_use]
    pub fn tablespace_link(&self) -> Option<u32> {
        let oid = self.0.strip_prefix(b"pg_tblspc/")?;
        parse_oid(oid)
    }

    /// Whether this path lies below `other`.
    #[must_use]
    pub fn is_below(&self, other: &Self) -> bool {
        match self.0.strip_prefix(&*other.0) {
            Some(rest) => other.is_root() && !rest.is_empty() || rest.starts_with(b"/"),
            None => false,
        }
    }
}

/// An object identifier as PostgreSQL prints it: decimal, no leading zero, not 0.
pub(super) fn parse_oid(text: &[u8]) -> Option<u32> {
    if text.starts_with(b"0") || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

impl fmt::Display for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_root() {
            return f.write_str(".");
        }
        f.write_str(&String::from_utf8_lossy(&self.0))
    }
}

impl fmt::Debug for MemberPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.0))
    }
}

impl std::str::FromStr for MemberPath {
    type Err = MemberPathError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        Self::parse(name.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(name: &str) -> MemberPath {
        name.parse().unwrap()
    }

    #[test]
    fn names_as_postgresql_sends_them_are_kept() {
        assert_eq!(path("global/pg_control").as_bytes(), b"global/pg_control");
        assert_eq!(
            path("./pg_wal/archive_status/").as_bytes(),
            b"pg_wal/archive_status"
        );
        assert_eq!(path("base/1/").to_string(), "base/1");
        assert!(path("./").is_root() && path(".").is_root());
        assert_eq!(path("a..b/...").as_bytes(), b"a..b/...");
    }

    #[test]
    fn no_name_leads_out_of_its_folder() {
        for name in ["..", "../x", "a/../b", "a/..", "./../x"] {
            assert!(
                matches!(
                    name.parse::<MemberPath>(),
                    Err(MemberPathError::Parent { .. })
                ),
                "{name}"
            );
        }
        for name in ["/", "/etc/passwd", "//x"] {
            assert!(
                matches!(
                    name.parse::<MemberPath>(),
                    Err(MemberPathError::Absolute { .. })
                ),
                "{name}"
            );
        }
        assert_eq!("".parse::<MemberPath>(), Err(MemberPathError::Empty));
        assert!(matches!(
            "a\0b".parse::<MemberPath>(),
            Err(MemberPathError::Nul { .. })
        ));
        assert!("a/".repeat(3000).parse::<MemberPath>().is_err());
        assert!("a".repeat(256).parse::<MemberPath>().is_err());
    }

    #[test]
    fn a_tablespace_link_is_told_from_what_lies_below() {
        assert_eq!(path("pg_tblspc/16384/").tablespace_link(), Some(16384));
        assert_eq!(path("pg_tblspc/16384/PG_15").tablespace_link(), None);
        assert_eq!(path("pg_tblspc/016384").tablespace_link(), None);
        assert_eq!(path("pg_tblspc/+1").tablespace_link(), None);
        assert_eq!(
            path("PG_15_1/5/1").in_tablespace(7).as_bytes(),
            b"pg_tblspc/7/PG_15_1/5/1"
        );
        assert!(path("a/b").is_below(&path("a")) && path("a").is_below(&path(".")));
        assert!(!path("ab").is_below(&path("a")) && !path("a").is_below(&path("a")));
    }

    proptest! {
        #[test]
        fn whatever_parses_stays_inside(name in proptest::collection::vec(any::<u8>(), 0..60)) {
            if let Ok(path) = MemberPath::parse(&name) {
                let under = path.under(Path::new("/data"));
                prop_assert!(under.starts_with("/data"));
                prop_assert!(under.components().all(|c| c != std::path::Component::ParentDir));
                if !path.is_root() {
                    prop_assert_eq!(MemberPath::parse(path.as_bytes()).unwrap(), path);
                }
            }
        }
    }
}
