//! What lies in the folder that `pg_basebackup` wrote.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io;
use std::path::{Path, PathBuf};

use super::compressed::Compression;

/// A backup as `pg_basebackup` left it.
#[derive(Debug)]
pub(super) enum Source {
    /// `-Fp`: a data directory, tablespaces behind the links in `pg_tblspc`.
    Plain {
        /// The data directory.
        root: PathBuf,
        /// Tablespaces: OID, and the folder that the link leads to.
        tablespaces: BTreeMap<u32, PathBuf>,
    },
    /// `-Ft`: `base.tar`, one `<oid>.tar` for each tablespace, and `pg_wal.tar`
    /// with `-X stream`.
    Tar {
        /// `base.tar`.
        base: Archive,
        /// Tablespaces by OID.
        tablespaces: BTreeMap<u32, Archive>,
        /// `pg_wal.tar`.
        wal: Option<Archive>,
    },
}

/// One tar file of a backup.
#[derive(Debug, Clone)]
pub(super) struct Archive {
    pub(super) path: PathBuf,
    pub(super) compression: Compression,
}

/// Why a folder is no backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("could not read \"{}\"", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("\"{}\" holds no backup: neither PG_VERSION nor base.tar is in it", path.display())]
    NoBackup { path: PathBuf },
    #[error("\"{}\" holds both \"{first}\" and \"{second}\"", path.display())]
    Twice {
        path: PathBuf,
        first: String,
        second: String,
    },
    #[error("\"{}\" is in the middle of a backup folder and is no part of one", path.display())]
    Foreign { path: PathBuf },
    #[error("\"{}\" has no backup_manifest", path.display())]
    NoManifest { path: PathBuf },
    #[error("\"{}\" has no backup_label: it is a data directory, not a backup", path.display())]
    NoLabel { path: PathBuf },
    #[error("\"{}\" is a running server's data directory", path.display())]
    Running { path: PathBuf },
}

impl SourceError {
    pub(crate) fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::Unreadable { .. } => {
                    "Run the import as a user who may read the backup, usually the one who took it."
                }
                Self::NoBackup { .. } => {
                    "Name the folder that was given to pg_basebackup with -D (--pgdata)."
                }
                Self::Twice { .. } => "Take away the one that does not belong to this backup.",
                Self::Foreign { .. } => {
                    "Only what pg_basebackup wrote may be in the folder: base.tar, <oid>.tar, \
                     pg_wal.tar and backup_manifest."
                }
                Self::NoManifest { .. } => {
                    "Without the manifest nothing proves that the backup is whole. \
                     pg_basebackup writes one unless --no-manifest is given."
                }
                Self::NoLabel { .. } => {
                    "A copy of a data directory is no backup. Take one with \"pitr-archive backup\" \
                     or pg_basebackup."
                }
                Self::Running { .. } => {
                    "Take a backup of a running server with \"pitr-archive backup\"."
                }
            }
            .to_owned(),
        )
    }
}

impl Source {
    /// Looks at `path` and tells what kind of backup lies there.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub(super) fn find(path: &Path) -> Result<Self, SourceError> {
        if path.join("PG_VERSION").exists() {
            return Self::plain(path);
        }
        Self::tar(path)
    }

    fn plain(root: &Path) -> Result<Self, SourceError> {
        if root.join("postmaster.pid").exists() {
            return Err(SourceError::Running {
                path: root.to_owned(),
            });
        }
        if !root.join("backup_label").exists() {
            return Err(SourceError::NoLabel {
                path: root.to_owned(),
            });
        }
        let mut tablespaces = BTreeMap::new();
        let links = root.join("pg_tblspc");
        for (name, path) in entries(&links)? {
            let oid = name
                .parse()
                .map_err(|_| SourceError::Foreign { path: path.clone() })?;
            let target = path
                .canonicalize()
                .map_err(|source| SourceError::Unreadable { path, source })?;
            tablespaces.insert(oid, target);
        }
        Ok(Self::Plain {
            root: root.to_owned(),
            tablespaces,
        })
    }

    fn tar(folder: &Path) -> Result<Self, SourceError> {
        let mut base = None;
        let mut wal = None;
        let mut tablespaces = BTreeMap::new();
        // a folder without base.tar is told so, whatever else lies in it
        let mut foreign = None;
        for (name, path) in entries(folder)? {
            if name == "backup_manifest" {
                continue;
            }
            let (stem, compression) = Compression::split(&name);
            let archive = Archive {
                path: path.clone(),
                compression,
            };
            let before = match stem.strip_suffix(".tar") {
                Some("base") => base.replace(archive),
                Some("pg_wal") => wal.replace(archive),
                Some(oid) => match oid.parse::<u32>() {
                    Ok(oid) => tablespaces.insert(oid, archive),
                    Err(_) => {
                        foreign.get_or_insert(path);
                        continue;
                    }
                },
                None => {
                    foreign.get_or_insert(path);
                    continue;
                }
            };
            if let Some(before) = before {
                return Err(SourceError::Twice {
                    path: folder.to_owned(),
                    first: file_name(&before.path),
                    second: name,
                });
            }
        }
        match (base, foreign) {
            (Some(_), Some(path)) => Err(SourceError::Foreign { path }),
            (Some(base), None) => Ok(Self::Tar {
                base,
                tablespaces,
                wal,
            }),
            (None, _) => Err(SourceError::NoBackup {
                path: folder.to_owned(),
            }),
        }
    }
}

/// The entries of a folder with their names, sorted; a name that is not UTF-8
/// is nothing that `pg_basebackup` writes.
fn entries(folder: &Path) -> Result<Vec<(String, PathBuf)>, SourceError> {
    let unreadable = |source| SourceError::Unreadable {
        path: folder.to_owned(),
        source,
    };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        match path.file_name().and_then(OsStr::to_str) {
            Some(name) => found.push((name.to_owned(), path)),
            None => return Err(SourceError::Foreign { path }),
        }
    }
    found.sort();
    Ok(found)
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(names: &[&str]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in names {
            std::fs::write(dir.path().join(name), b"").unwrap();
        }
        dir
    }

    #[test]
    fn tar_backups_are_told_by_their_files() {
        let dir = folder(&[
            "backup_manifest",
            "base.tar.gz",
            "16389.tar.gz",
            "pg_wal.tar.gz",
        ]);
        let Source::Tar {
            base,
            tablespaces,
            wal,
        } = Source::find(dir.path()).unwrap()
        else {
            panic!("not taken for a tar backup");
        };
        assert_eq!(base.compression, Compression::Gzip);
        assert_eq!(tablespaces.keys().copied().collect::<Vec<_>>(), [16389]);
        assert!(wal.is_some());
    }

    #[test]
    fn what_is_no_backup_is_refused() {
        let find = |names: &[&str]| Source::find(folder(names).path()).unwrap_err();
        assert!(matches!(find(&[]), SourceError::NoBackup { .. }));
        assert!(matches!(find(&["notes.txt"]), SourceError::NoBackup { .. }));
        assert!(matches!(find(&["PG_VERSION"]), SourceError::NoLabel { .. }));
        assert!(matches!(
            find(&["PG_VERSION", "postmaster.pid"]),
            SourceError::Running { .. }
        ));
        assert!(matches!(
            find(&["base.tar", "base.tar.gz"]),
            SourceError::Twice { .. }
        ));
        assert!(matches!(
            find(&["base.tar", "other.tar"]),
            SourceError::Foreign { .. }
        ));
    }
}
