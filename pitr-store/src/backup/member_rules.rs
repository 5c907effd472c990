//! What a member must not do to whoever unpacks it.

use std::collections::HashSet;

use thiserror::Error;

use super::member::{Member, MemberKind};
use super::member_path::{MemberPath, parse_oid};
use super::part_name::Archive;

/// A member that no base backup has.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RuleError {
    /// A directory or link with data, a file or link that is the directory itself.
    #[error("\"{path}\" has contents that its kind cannot have")]
    UnexpectedData {
        /// The member.
        path: String,
    },
    /// A symbolic link other than `pg_tblspc/<oid>`.
    #[error("\"{path}\" is a symbolic link, which only tablespaces may be")]
    UnexpectedLink {
        /// The link.
        path: String,
    },
    /// A member whose path leads through a link of the same archive.
    #[error("\"{path}\" would be written through a symbolic link")]
    ThroughLink {
        /// The member.
        path: String,
    },
}

/// Holds the members of one archive to the rules, in their order.
///
/// A link is only ever `pg_tblspc/<oid>` of the data directory, and nothing
/// lies below one: so no archive can write outside of the folder that it is
/// unpacked into.
#[derive(Debug)]
pub(super) struct MemberRules {
    archive: Archive,
    links: HashSet<u32>,
    /// Tablespaces that are directories here (`allow_in_place_tablespaces`).
    directories: HashSet<u32>,
}

impl MemberRules {
    pub(super) fn new(archive: Archive) -> Self {
        Self {
            archive,
            links: HashSet::new(),
            directories: HashSet::new(),
        }
    }

    pub(super) fn check(&mut self, member: &Member) -> Result<(), RuleError> {
        let path = || member.path.to_string();
        let no_data = member.kind != MemberKind::File && member.size != 0;
        let not_root = member.path.is_root() && member.kind != MemberKind::Directory;
        if no_data || not_root {
            return Err(RuleError::UnexpectedData { path: path() });
        }
        if let MemberKind::Symlink { .. } = member.kind {
            let link = member.path.tablespace_link();
            let Some(oid) = link.filter(|_| self.archive == Archive::Base) else {
                return Err(RuleError::UnexpectedLink { path: path() });
            };
            if self.directories.contains(&oid) {
                return Err(RuleError::ThroughLink { path: path() });
            }
            self.links.insert(oid);
        } else if let Some(oid) = tablespace_of(&member.path) {
            if self.links.contains(&oid) {
                return Err(RuleError::ThroughLink { path: path() });
            }
            self.directories.insert(oid);
        }
        Ok(())
    }
}

/// The tablespace that `path` is, or lies in.
fn tablespace_of(path: &MemberPath) -> Option<u32> {
    let mut components = path.components();
    match components.next() {
        Some(b"pg_tblspc") => parse_oid(components.next()?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(path: &str, kind: MemberKind) -> Member {
        Member {
            path: path.parse().unwrap(),
            kind,
            mode: 0o600,
            uid: 0,
            gid: 0,
            mtime: 0,
            size: 0,
        }
    }

    fn link() -> MemberKind {
        MemberKind::Symlink {
            target: b"/etc".to_vec(),
        }
    }

    #[test]
    fn nothing_is_written_through_a_link() {
        let mut rules = MemberRules::new(Archive::Base);
        rules.check(&member("pg_tblspc/16384", link())).unwrap();
        rules
            .check(&member("pg_tblspc/16385/PG_15/x", MemberKind::File))
            .unwrap();
        for (path, kind) in [
            ("pg_tblspc/16384/passwd", MemberKind::File),
            ("pg_tblspc/16384", MemberKind::Directory),
            ("pg_tblspc/16385", link()),
        ] {
            let error = rules.check(&member(path, kind)).unwrap_err();
            assert!(matches!(error, RuleError::ThroughLink { .. }), "{path}");
        }
        for path in ["base", "pg_tblspc", "pg_tblspc/16386/x", "pg_tblspc/x"] {
            let error = rules.check(&member(path, link())).unwrap_err();
            assert!(matches!(error, RuleError::UnexpectedLink { .. }), "{path}");
        }
        let mut rules = MemberRules::new(Archive::Tablespace(16384));
        let error = rules.check(&member("pg_tblspc/16384", link())).unwrap_err();
        assert!(matches!(error, RuleError::UnexpectedLink { .. }));
    }
}
