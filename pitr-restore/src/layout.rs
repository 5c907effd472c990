//! Where everything of a backup goes on this machine, checked before anything
//! is made.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use pitr_console::{ByteCount, Explain};
use pitr_store::backup::{Archive, BackupReadError, BackupReader, EndBlocks, PartName, TarReader};

use crate::os_user::OsUser;
use crate::request::{RestoreRequest, TablespaceMapping};
use crate::target_directory::{OccupiedError, VacantDirectory};

/// Segments that recovery keeps in `pg_wal` at least, on top of the backup.
const WAL_SEGMENTS_KEPT: u64 = 4;

/// The directories that a restore fills.
#[derive(Debug)]
pub(crate) struct Layout {
    /// The data directory.
    pub(crate) directory: VacantDirectory,
    /// The tablespaces outside of it.
    pub(crate) tablespaces: Vec<TablespaceTarget>,
    /// Whom everything is given to; `None` where this user restores for
    /// himself.
    pub(crate) owner: Option<OsUser>,
    /// Bytes that the files take.
    pub(crate) needed_bytes: u64,
    /// Bytes free where the data directory lies.
    pub(crate) available_bytes: u64,
}

/// Where one tablespace goes.
#[derive(Debug)]
pub(crate) struct TablespaceTarget {
    pub(crate) oid: u32,
    /// Where it lay on the original server.
    pub(crate) old: PathBuf,
    /// Where it goes.
    pub(crate) directory: VacantDirectory,
}

/// Why there is no place for the backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LayoutError {
    /// The data directory cannot be filled.
    #[error(transparent)]
    Directory(OccupiedError),
    /// A tablespace's directory cannot be filled.
    #[error("tablespace {oid} cannot be put into \"{}\": {source}", path.display())]
    Tablespace {
        /// The tablespace.
        oid: u32,
        /// Where it was to go.
        path: PathBuf,
        /// Why it cannot.
        source: OccupiedError,
    },
    /// The original place of a tablespace exists on this machine, and nobody
    /// said that it is meant.
    #[error("tablespace {oid} lay in \"{}\", which exists on this machine", path.display())]
    TablespaceExists {
        /// The tablespace.
        oid: u32,
        /// Its place.
        path: PathBuf,
    },
    /// A tablespace's place is no absolute path.
    #[error("tablespace {oid} lay in \"{}\", which is no absolute path", path.display())]
    TablespaceRelative {
        /// The tablespace.
        oid: u32,
        /// Its place.
        path: PathBuf,
    },
    /// `--tablespace` names a place that no tablespace had.
    #[error("the backup has no tablespace in \"{}\"", path.display())]
    UnknownTablespace {
        /// What was named.
        path: PathBuf,
        /// The places that there are.
        known: Vec<PathBuf>,
    },
    /// Two directories would lie one in the other.
    #[error("\"{}\" and \"{}\" lie one in the other", one.display(), other.display())]
    Nested {
        /// One.
        one: PathBuf,
        /// The other.
        other: PathBuf,
    },
    /// The disk is too small.
    #[error(
        "\"{}\" has too little room: {} needed, {} available", path.display(),
        ByteCount(*needed_bytes), ByteCount(*available_bytes)
    )]
    NoRoom {
        /// A directory on that disk.
        path: PathBuf,
        /// Bytes that go there.
        needed_bytes: u64,
        /// Bytes free there.
        available_bytes: u64,
    },
    /// Root restores, and the files' owner is not known here.
    #[error("a server does not run as root, and the backup's files belong to user {uid}, who {}", if *uid == 0 { "is root" } else { "does not exist on this machine" })]
    NoOwner {
        /// The number in the backup.
        uid: u64,
    },
    /// The backup could not be read.
    #[error(transparent)]
    Backup(#[from] BackupReadError),
    /// The backup has no files.
    #[error("the backup holds nothing")]
    Empty,
    /// A directory could not be examined.
    #[error("could not examine \"{}\": {source}", path.display())]
    Io {
        /// The directory.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Explain for LayoutError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Directory(source) => return source.hint(),
            Self::Tablespace { source, path, .. } => {
                let hint = source.hint().unwrap_or_default();
                format!(
                    "{hint} --tablespace {}=NEW puts it elsewhere.",
                    path.display()
                )
                .trim_start()
                .to_owned()
            }
            Self::TablespaceExists { path, .. } => format!(
                "--tablespace {0}=NEW puts it elsewhere; --tablespace {0}={0} puts it there again, if that is empty.",
                path.display()
            ),
            Self::TablespaceRelative { .. } | Self::Empty => return None,
            Self::UnknownTablespace { known, .. } if known.is_empty() => {
                "The backup has no tablespaces: leave --tablespace out.".to_owned()
            }
            Self::UnknownTablespace { known, .. } => format!(
                "There are: {}.",
                known
                    .iter()
                    .map(|path| path.display().to_string())
                    .collect::<Vec<_>>()
                    .join(", ")
            ),
            Self::Nested { .. } => "Name directories side by side.".to_owned(),
            Self::NoRoom { .. } => {
                "Free space there, restore elsewhere, or move tablespaces with --tablespace."
                    .to_owned()
            }
            Self::NoOwner { .. } => {
                "Run it as the user that is to run the server: sudo -u postgres pitr-restore …"
                    .to_owned()
            }
            Self::Backup(source) => return source.hint(),
            Self::Io { .. } => return None,
        })
    }
}

impl Layout {
    /// Finds a place for everything in the backup.
    ///
    /// # Errors
    /// The first reason against it; nothing was made.
    pub(crate) fn arrange(
        reader: &BackupReader,
        request: &RestoreRequest,
    ) -> Result<Self, LayoutError> {
        let directory =
            VacantDirectory::examine(&request.directory).map_err(LayoutError::Directory)?;
        let tablespaces = tablespaces(reader, &request.tablespaces)?;
        check_nesting(&directory, &tablespaces)?;
        let owner = owner(reader, &directory)?;
        let (needed_bytes, available_bytes) = check_room(reader, &directory, &tablespaces)?;
        Ok(Self {
            directory,
            tablespaces,
            owner,
            needed_bytes,
            available_bytes,
        })
    }

    /// Every directory that is filled, the data directory first.
    pub(crate) fn folders(&self) -> impl Iterator<Item = &VacantDirectory> {
        let tablespaces = self
            .tablespaces
            .iter()
            .map(|tablespace| &tablespace.directory);
        std::iter::once(&self.directory).chain(tablespaces)
    }

    /// Where the files of an archive go.
    pub(crate) fn folder_of(&self, archive: Archive) -> Option<&VacantDirectory> {
        match archive {
            Archive::Base => Some(&self.directory),
            Archive::Tablespace(oid) => self
                .tablespaces
                .iter()
                .find(|tablespace| tablespace.oid == oid)
                .map(|tablespace| &tablespace.directory),
        }
    }

    /// Whether any tablespace goes elsewhere than it came from.
    pub(crate) fn moves_tablespaces(&self) -> bool {
        self.tablespaces
            .iter()
            .any(|tablespace| tablespace.old != tablespace.directory.path())
    }
}

fn tablespaces(
    reader: &BackupReader,
    mappings: &[TablespaceMapping],
) -> Result<Vec<TablespaceTarget>, LayoutError> {
    let known = &reader.info().tablespaces;
    for mapping in mappings {
        if !known
            .iter()
            .any(|tablespace| Path::new(&tablespace.location) == mapping.old)
        {
            return Err(LayoutError::UnknownTablespace {
                path: mapping.old.clone(),
                known: known
                    .iter()
                    .map(|tablespace| PathBuf::from(&tablespace.location))
                    .collect(),
            });
        }
    }
    known
        .iter()
        .map(|tablespace| {
            let oid = tablespace.oid;
            let old = PathBuf::from(&tablespace.location);
            if !old.is_absolute() {
                return Err(LayoutError::TablespaceRelative { oid, path: old });
            }
            let mapping = mappings.iter().find(|mapping| mapping.old == old);
            let path = mapping.map_or(&old, |mapping| &mapping.new);
            if mapping.is_none() && std::fs::symlink_metadata(path).is_ok() {
                return Err(LayoutError::TablespaceExists { oid, path: old });
            }
            let directory =
                VacantDirectory::examine(path).map_err(|source| LayoutError::Tablespace {
                    oid,
                    path: path.clone(),
                    source,
                })?;
            Ok(TablespaceTarget {
                oid,
                old,
                directory,
            })
        })
        .collect()
}

fn check_nesting(
    directory: &VacantDirectory,
    tablespaces: &[TablespaceTarget],
) -> Result<(), LayoutError> {
    let mut seen: Vec<&Path> = vec![directory.path()];
    for path in tablespaces
        .iter()
        .map(|tablespace| tablespace.directory.path())
    {
        if let Some(other) = seen
            .iter()
            .find(|other| path.starts_with(other) || other.starts_with(path))
        {
            return Err(LayoutError::Nested {
                one: other.to_path_buf(),
                other: path.to_owned(),
            });
        }
        seen.push(path);
    }
    Ok(())
}

/// As root: the owner of the empty directory that was prepared, else the user
/// whose files the backup has. A server refuses to run as root.
fn owner(
    reader: &BackupReader,
    directory: &VacantDirectory,
) -> Result<Option<OsUser>, LayoutError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    if directory.exists() {
        let prepared = OsUser::owner_of(directory.path()).map_err(|source| LayoutError::Io {
            path: directory.path().to_owned(),
            source,
        })?;
        if let Some(user) = prepared
            && !user.owner.uid.is_root()
        {
            return Ok(Some(user));
        }
    }
    let uid = recorded_uid(reader)?;
    u32::try_from(uid)
        .ok()
        .filter(|uid| *uid != 0)
        .and_then(OsUser::by_uid)
        .map(Some)
        .ok_or(LayoutError::NoOwner { uid })
}

/// The owner of the first member of the data directory's archive.
fn recorded_uid(reader: &BackupReader) -> Result<u64, LayoutError> {
    let first: Option<PartName> = reader
        .info()
        .parts
        .iter()
        .map(|part| part.name)
        .find(|name| name.archive() == Archive::Base);
    let first = first.ok_or(LayoutError::Empty)?;
    let mut tar = TarReader::new(
        reader.open_part(&first)?,
        Archive::Base,
        EndBlocks::Required,
    );
    match tar.next_member() {
        Ok(Some(member)) => Ok(member.uid),
        // damaged: laying it down will say how
        Ok(None) | Err(_) => Err(LayoutError::Empty),
    }
}

/// What goes to each disk must fit on it. Returns the bytes of everything,
/// and those available where the data directory lies.
fn check_room(
    reader: &BackupReader,
    directory: &VacantDirectory,
    tablespaces: &[TablespaceTarget],
) -> Result<(u64, u64), LayoutError> {
    let info = reader.info();
    let bytes_of = |archive: Archive| -> u64 {
        info.parts
            .iter()
            .filter(|part| part.name.archive() == archive)
            .map(|part| part.raw_bytes)
            .sum()
    };
    let room = |folder: &VacantDirectory| {
        folder.room().map_err(|source| LayoutError::Io {
            path: folder.path().to_owned(),
            source,
        })
    };
    let wal_bytes = info.segment_size.bytes().saturating_mul(WAL_SEGMENTS_KEPT);
    let (device, available_bytes) = room(directory)?;
    let needed_in_base = bytes_of(Archive::Base).saturating_add(wal_bytes);
    let mut disks = BTreeMap::from([(device, (directory.path(), needed_in_base, available_bytes))]);
    for tablespace in tablespaces {
        let (device, available) = room(&tablespace.directory)?;
        let bytes = bytes_of(Archive::Tablespace(tablespace.oid));
        let disk = disks
            .entry(device)
            .or_insert((tablespace.directory.path(), 0, available));
        disk.1 = disk.1.saturating_add(bytes);
    }
    let mut total: u64 = 0;
    for (path, needed_bytes, available_bytes) in disks.into_values() {
        if needed_bytes > available_bytes {
            return Err(LayoutError::NoRoom {
                path: path.to_owned(),
                needed_bytes,
                available_bytes,
            });
        }
        total = total.saturating_add(needed_bytes);
    }
    Ok((total, available_bytes))
}
