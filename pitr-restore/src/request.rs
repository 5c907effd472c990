//! What `--to` was asked for, understood.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use chrono::{DateTime, Utc};
use pitr_console::{Explain, ParseTimeError, PointInTime};
use pitr_core::{
    ParseLsnError, ParseRecoveryTargetTimelineError, ParseSystemIdentifierError,
    ParseTransactionIdError, RecoveryTarget, RecoveryTargetKind, RecoveryTargetTimeline,
    RestorePointName, RestorePointNameError, SystemIdentifier, TargetAction, Timestamp,
};
use pitr_store::backup::{Label, ParseLabelError};

use crate::arguments::{ActionArgument, Arguments, RoleArgument};
use crate::find::before::{FindingId, ParseFindingIdError};

/// A restore, with every word of the command line turned into what it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoreRequest {
    /// The data directory to make; absolute.
    pub(crate) directory: PathBuf,
    /// Cluster, where it was named.
    pub(crate) system_identifier: Option<SystemIdentifier>,
    /// Where to stop.
    pub(crate) target: RecoveryTarget,
    /// Before what to stop, where that was named: `target` follows from it.
    pub(crate) before: Option<FindingId>,
    /// The target's time in the zone it was given in, for people.
    pub(crate) target_time: Option<PointInTime>,
    /// Along which timeline.
    pub(crate) timeline: RecoveryTargetTimeline,
    /// What to do there; without effect where there is no target.
    pub(crate) action: TargetAction,
    /// Backup to start from, where it was named.
    pub(crate) backup: Option<Label>,
    /// Where tablespaces go.
    pub(crate) tablespaces: Vec<TablespaceMapping>,
    /// Role, where it was named.
    pub(crate) role: Option<RoleArgument>,
    /// Port of the new server, where it was named.
    pub(crate) port: Option<u16>,
    /// Whether a data directory that is there may be brought to the backup's
    /// state.
    pub(crate) delta: bool,
}

/// `--tablespace OLD=NEW`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TablespaceMapping {
    /// Location in the backup.
    pub(crate) old: PathBuf,
    /// Location to make.
    pub(crate) new: PathBuf,
}

/// A word of the command line that means nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RequestError {
    /// `--to`.
    #[error("--to names no directory: \"{}\"", found.display())]
    Directory {
        /// What was given.
        found: PathBuf,
    },
    /// `--system-identifier`.
    #[error("--system-identifier: {0}")]
    SystemIdentifier(ParseSystemIdentifierError),
    /// `--target-time`.
    #[error("--target-time: {0}")]
    Time(ParseTimeError),
    /// `--target-lsn`.
    #[error("--target-lsn: {0}")]
    Lsn(ParseLsnError),
    /// `--target-xid`.
    #[error("--target-xid: {0}")]
    Xid(ParseTransactionIdError),
    /// `--before`.
    #[error("--before: {0}")]
    Before(ParseFindingIdError),
    /// `--target-name`.
    #[error("--target-name: {0}")]
    Name(RestorePointNameError),
    /// `--target-timeline`.
    #[error("--target-timeline: {0}")]
    Timeline(ParseRecoveryTargetTimelineError),
    /// `--backup`.
    #[error("--backup: {0}")]
    Backup(ParseLabelError),
    /// `--exclusive` with a target that PostgreSQL always includes.
    #[error("--exclusive has no meaning for the {target}")]
    Exclusive {
        /// The target.
        target: RecoveryTarget,
    },
    /// `--tablespace`.
    #[error("--tablespace \"{}\" is not OLD=NEW with two absolute paths", found.display())]
    Tablespace {
        /// What was given.
        found: PathBuf,
    },
    /// The same location mapped twice.
    #[error("--tablespace names \"{}\" twice", path.display())]
    TablespaceTwice {
        /// The location.
        path: PathBuf,
    },
}

impl Explain for RequestError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Time(error) => error.hint(),
            Self::Before(error) => error.hint(),
            Self::Name(_) | Self::Lsn(_) | Self::Xid(_) | Self::Timeline(_) => None,
            Self::Directory { .. } => Some("Name the data directory to make.".to_owned()),
            Self::SystemIdentifier(_) | Self::Backup(_) => {
                Some("\"pitr-archive list\" shows what the repository holds.".to_owned())
            }
            Self::Exclusive { .. } => Some(
                "PostgreSQL stops after a restore point, and at the first consistent record for \
                 --target-immediate. Name a time, an LSN or a transaction to stop before."
                    .to_owned(),
            ),
            Self::Tablespace { .. } => {
                Some("As in --tablespace /srv/old/space=/srv/new/space.".to_owned())
            }
            Self::TablespaceTwice { .. } => None,
        }
    }
}

impl RestoreRequest {
    /// Understands the command line; `to` is `--to`, `now` what "ago" counts
    /// from.
    pub(crate) fn resolve(
        arguments: &Arguments,
        to: &Path,
        now: DateTime<Utc>,
    ) -> Result<Self, RequestError> {
        let restore = &arguments.restore;
        let directory = std::path::absolute(to)
            .ok()
            .filter(|path| path.parent().is_some())
            .ok_or_else(|| RequestError::Directory {
                found: to.to_owned(),
            })?;
        let target_time = restore
            .target_time
            .as_deref()
            .map(|text| PointInTime::parse(text, now).map_err(RequestError::Time))
            .transpose()?;
        let before: Option<FindingId> = restore
            .before
            .as_deref()
            .map(str::parse)
            .transpose()
            .map_err(RequestError::Before)?;
        let kind = if let Some(FindingId(lsn)) = before {
            RecoveryTargetKind::Lsn(lsn)
        } else if let Some(time) = &target_time {
            RecoveryTargetKind::Time(Timestamp::from_datetime(time.utc()))
        } else if let Some(text) = &restore.target_lsn {
            RecoveryTargetKind::Lsn(text.parse().map_err(RequestError::Lsn)?)
        } else if let Some(text) = &restore.target_xid {
            RecoveryTargetKind::Xid(text.parse().map_err(RequestError::Xid)?)
        } else if let Some(text) = &restore.target_name {
            let name = RestorePointName::new(text.as_str()).map_err(RequestError::Name)?;
            RecoveryTargetKind::Name(name)
        } else if restore.target_immediate {
            RecoveryTargetKind::Immediate
        } else {
            RecoveryTargetKind::Latest
        };
        let target = RecoveryTarget {
            kind,
            inclusive: !restore.exclusive && before.is_none(),
        };
        let may_exclude = matches!(
            target.kind,
            RecoveryTargetKind::Time(_) | RecoveryTargetKind::Lsn(_) | RecoveryTargetKind::Xid(_)
        );
        if restore.exclusive && !may_exclude {
            return Err(RequestError::Exclusive { target });
        }
        Ok(Self {
            directory,
            system_identifier: arguments
                .system_identifier()
                .map_err(RequestError::SystemIdentifier)?,
            target,
            before,
            target_time,
            timeline: restore
                .target_timeline
                .as_deref()
                .map_or(Ok(RecoveryTargetTimeline::Latest), str::parse)
                .map_err(RequestError::Timeline)?,
            action: match restore.target_action {
                // a paused server still holds the lock of the very transaction that took a
                // table away: nobody could read it
                None if before.is_some() => TargetAction::Promote,
                None | Some(ActionArgument::Pause) => TargetAction::Pause,
                Some(ActionArgument::Promote) => TargetAction::Promote,
                Some(ActionArgument::Shutdown) => TargetAction::Shutdown,
            },
            backup: restore
                .backup
                .as_deref()
                .map(|text| text.parse().map_err(RequestError::Backup))
                .transpose()?,
            tablespaces: mappings(&restore.tablespace)?,
            role: restore.role,
            port: restore.port,
            delta: restore.delta,
        })
    }

    /// Whether there is a target at which the server does something.
    pub(crate) fn has_target(&self) -> bool {
        self.target.kind != RecoveryTargetKind::Latest
    }
}

fn mappings(words: &[OsString]) -> Result<Vec<TablespaceMapping>, RequestError> {
    let mut mappings: Vec<TablespaceMapping> = Vec::new();
    for word in words {
        let mapping =
            mapping(word).ok_or_else(|| RequestError::Tablespace { found: word.into() })?;
        if mappings.iter().any(|other| other.old == mapping.old) {
            return Err(RequestError::TablespaceTwice { path: mapping.old });
        }
        if mappings.iter().any(|other| other.new == mapping.new) {
            return Err(RequestError::TablespaceTwice { path: mapping.new });
        }
        mappings.push(mapping);
    }
    Ok(mappings)
}

/// Both sides of `OLD=NEW`; a `\=` is an equals sign of the path, as in
/// `pg_basebackup --tablespace-mapping`.
///
/// Source: `tablespace_list_append`, src/bin/pg_basebackup/pg_basebackup.c.
fn mapping(word: &OsString) -> Option<TablespaceMapping> {
    let mut sides = [Vec::new(), Vec::new()];
    let mut side = 0;
    let mut bytes = word.as_bytes().iter().copied().peekable();
    while let Some(byte) = bytes.next() {
        match byte {
            b'\\' if bytes.peek() == Some(&b'=') => {
                bytes.next();
                sides.get_mut(side)?.push(b'=');
            }
            b'=' => side += 1,
            other => sides.get_mut(side)?.push(other),
        }
    }
    let [old, new] = sides.map(|side| plain(Path::new(&OsString::from_vec(side))));
    let (old, new) = (old?, new?);
    (side == 1).then_some(TablespaceMapping { old, new })
}

/// An absolute path without `.`, `..` or a slash at its end.
fn plain(path: &Path) -> Option<PathBuf> {
    use std::path::Component;
    let ok = path.is_absolute()
        && path.parent().is_some()
        && path
            .components()
            .all(|part| matches!(part, Component::RootDir | Component::Normal(_)));
    ok.then(|| path.components().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(words: &[&str]) -> Result<RestoreRequest, RequestError> {
        let words = ["pitr-restore", "--to", "/srv/new"]
            .iter()
            .chain(words)
            .copied();
        let arguments = crate::arguments::parse(words).unwrap();
        let now = "2026-11-20T12:00:00Z".parse().unwrap();
        RestoreRequest::resolve(&arguments, Path::new("/srv/new"), now)
    }

    #[test]
    fn without_a_target_it_is_the_latest() {
        let request = resolve(&[]).unwrap();
        assert_eq!(request.target, RecoveryTarget::LATEST);
        assert!(!request.has_target());
        assert_eq!(request.timeline, RecoveryTargetTimeline::Latest);
    }

    #[test]
    fn every_kind_of_target_is_understood() {
        let target = |words: &[&str]| resolve(words).unwrap().target.to_string();
        assert_eq!(
            target(&["--target-time", "2026-11-20 13:00:00+01", "--exclusive"]),
            "time 2026-11-20 12:00:00.000000+00, exclusive"
        );
        assert_eq!(
            target(&["--target-time", "10 minutes ago"]),
            "time 2026-11-20 11:50:00.000000+00"
        );
        assert_eq!(target(&["--target-lsn", "0/5000028"]), "LSN 0/5000028");
        assert_eq!(target(&["--target-xid", "742"]), "transaction 742");
        assert_eq!(target(&["--before", "4022C10"]), "LSN 0/4022C10, exclusive");
        let action = |words: &[&str]| resolve(words).unwrap().action;
        assert_eq!(action(&["--before", "4022C10"]), TargetAction::Promote);
        let paused = action(&["--before", "4022C10", "--target-action", "pause"]);
        assert_eq!(paused, TargetAction::Pause);
        assert_eq!(target(&["--target-name", "it's"]), "restore point \"it's\"");
        assert_eq!(target(&["--target-immediate"]), "first consistent point");
    }

    #[test]
    fn nonsense_is_named() {
        let refused = |words: &[&str]| resolve(words).unwrap_err().to_string();
        assert!(refused(&["--target-lsn", "x"]).starts_with("--target-lsn: "));
        assert!(refused(&["--target-xid", "2"]).starts_with("--target-xid: "));
        assert!(refused(&["--target-timeline", "0"]).starts_with("--target-timeline: "));
        assert!(refused(&["--target-name", "x", "--exclusive"]).contains("no meaning"));
        assert!(refused(&["--backup", "yesterday"]).starts_with("--backup: "));
        assert!(refused(&["--before", "the drop"]).starts_with("--before: "));
    }

    #[test]
    fn a_tablespace_is_mapped_by_two_absolute_paths() {
        let map = |word: &str| resolve(&["--tablespace", word]).map(|request| request.tablespaces);
        let one = map("/a/b/=/c\\=d").unwrap();
        assert_eq!(one[0].old, Path::new("/a/b"));
        assert_eq!(one[0].new, Path::new("/c=d"));
        for word in ["/a", "a=/b", "/a=b", "/a=/b=/c", "/=/b", "/a=/b/../c", "="] {
            assert!(map(word).is_err(), "{word}");
        }
        assert!(resolve(&["--tablespace", "/a=/b", "--tablespace", "/a=/c"]).is_err());
        assert!(resolve(&["--tablespace", "/a=/b", "--tablespace", "/c=/b"]).is_err());
    }
}
