//! Laying a backup down: every file checked, `pg_control` last.
//!
//! A server does not start without `global/pg_control`, so a directory that
//! an interrupted restore leaves cannot be mistaken for a whole one. A marker
//! says so to people, and to the next restore.

mod comparison;
mod copy;
mod delta;
mod durability;
mod failure;
mod interlock;
pub(crate) mod marker;
pub(crate) mod root;
mod sweep;
mod writeback;

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, Read, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use pitr_console::Progress;
use pitr_core::{PostgresMajor, TablespaceMap, TablespaceMapEntry};
use pitr_store::backup::{Archive, BackupInfo, BackupReader, Member, MemberKind, PartInfo};
use rustix::fs::AtFlags;
use rustix::io::Errno;

use crate::layout::Layout;
pub(crate) use comparison::Comparison;
use copy::Folders;
pub(crate) use delta::survey;
use delta::sweep;
pub(crate) use failure::LayDownError;
use failure::{failed, read_failed, write_failed};
use interlock::{Interlock, LOCK_FILE};
use marker::{MARKER, UnfinishedRestore};
use root::Root;
pub(crate) use sweep::Swept;
use writeback::Writeback;

const CONTROL_FILE: &[u8] = b"global/pg_control";
const TABLESPACE_MAP: &[u8] = b"tablespace_map";
const MANIFEST: &[u8] = b"backup_manifest";
/// What a backup may hold and a restored cluster must not: a standby's backup
/// would go on following its primary instead of recovering to the target.
const LEFT_OUT: [&[u8]; 4] = [
    b"standby.signal",
    b"recovery.signal",
    LOCK_FILE,
    MARKER.as_bytes(),
];

/// No control file or tablespace map is larger.
const MAX_HELD_BYTES: u64 = 1 << 20;
const BUFFER_BYTES: usize = 256 << 10;
/// Mode of a file that the backup does not hold, and of the marker.
const FILE_MODE: u32 = 0o600;

/// A data directory that is being filled. No server starts in it.
#[derive(Debug)]
pub(crate) struct UnfinishedCluster<'a> {
    layout: &'a Layout,
    base: Root,
    tablespaces: BTreeMap<u32, Root>,
    held: Mutex<Held>,
    /// Where a data directory was there before.
    interlock: Option<Interlock>,
}

/// Files of the data directory's archive that are never compared: made anew
/// each time, last, or not at all.
fn is_made_anew(archive: Archive, member: &[u8]) -> bool {
    archive == Archive::Base
        && (member == CONTROL_FILE || member == TABLESPACE_MAP || LEFT_OUT.contains(&member))
}

/// What of one part was laid down from a copy of it.
#[derive(Debug, Default)]
struct LaidDown {
    /// Files that are whole.
    files: HashSet<Vec<u8>>,
    /// A file that was begun, and perhaps made.
    begun: Option<Vec<u8>>,
}

/// What is kept back, or was learned on the way.
#[derive(Debug, Default)]
struct Held {
    control_file: Option<HeldFile>,
    /// Mode of the data directory, by that of `global`.
    folder_mode: u32,
    /// A folder of every file system that something was laid down on.
    devices: BTreeMap<u64, (Archive, Vec<u8>)>,
}

#[derive(Debug)]
struct HeldFile {
    bytes: Vec<u8>,
    mode: u32,
}

impl<'a> UnfinishedCluster<'a> {
    /// Makes the directories, or takes those that are there, and marks them as
    /// unfinished. A data directory that was there is none from here on:
    /// its control file is gone, durably.
    pub(crate) fn begin(layout: &'a Layout, info: &BackupInfo) -> Result<Self, LayDownError> {
        let owner = layout.owner.as_ref().map(|user| user.owner);
        let make = |path: &Path| Root::make(path, owner).map_err(failed("create", path));
        let base = make(layout.directory.path())?;
        let marker = UnfinishedRestore {
            label: info.label.to_string(),
            system_identifier: Some(info.system_identifier),
            folders: layout
                .folders()
                .map(|folder| folder.path().to_owned())
                .collect(),
        };
        let text = serde_json::to_vec(&marker).unwrap_or_default();
        let mut unfinished = Self {
            layout,
            base,
            tablespaces: BTreeMap::new(),
            held: Mutex::default(),
            interlock: None,
        };
        if layout.directory.is_occupied() {
            unfinished.interlock = Some(Interlock::take(&unfinished.base)?);
            let name = MARKER.as_bytes();
            let path = unfinished.base.path_of(name);
            unfinished
                .base
                .put(name, &text, FILE_MODE)
                .map_err(failed("write", &path))?;
            unfinished.remove_control_file()?;
        } else {
            unfinished.write(MARKER.as_bytes(), &text)?;
        }
        for tablespace in &layout.tablespaces {
            let root = make(tablespace.directory.path())?;
            unfinished.tablespaces.insert(tablespace.oid, root);
        }
        Ok(unfinished)
    }

    /// No server starts without it: before anything else changes.
    fn remove_control_file(&self) -> Result<(), LayDownError> {
        let (folder, name) = root::split(CONTROL_FILE);
        let path = self.base.path_of(CONTROL_FILE);
        let removed = match self.base.existing_folder(folder) {
            Ok(global) => match rustix::fs::unlinkat(&global, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => rustix::fs::fsync(&global).map_err(io::Error::from),
                Err(error) => Err(error.into()),
            },
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // a link in its place: what it leads to is no business of ours
            Err(_) => self
                .base
                .remove_file(folder)
                .and_then(|()| self.base.sync_folder(b"")),
        };
        removed.map_err(failed("remove", &path))
    }

    /// Compares what is there with the backup; `None` where nothing was.
    pub(crate) fn compare(
        &self,
        reader: &BackupReader,
        threads: usize,
        progress: &Progress,
    ) -> Result<Option<Comparison>, LayDownError> {
        if self.interlock.is_none() {
            return Ok(None);
        }
        Comparison::take(|archive| self.root_of(archive), reader, threads, progress).map(Some)
    }

    /// Takes away what differs from the backup, and what it does not hold.
    pub(crate) fn sweep(
        &self,
        reader: &BackupReader,
        comparison: &Comparison,
    ) -> Result<Swept, LayDownError> {
        let roots = std::iter::once((Archive::Base, &self.base)).chain(
            self.tablespaces
                .iter()
                .map(|(oid, root)| (Archive::Tablespace(*oid), root)),
        );
        sweep(self.layout, roots, reader, comparison, false)
    }

    fn root_of(&self, archive: Archive) -> Option<&Root> {
        match archive {
            Archive::Base => Some(&self.base),
            Archive::Tablespace(oid) => self.tablespaces.get(&oid),
        }
    }

    /// Unpacks all parts, with as many `threads` as given, and the manifest.
    /// What is `in_place` already is left as it is.
    pub(crate) fn unpack(
        &self,
        reader: &BackupReader,
        in_place: Option<&Comparison>,
        threads: usize,
        progress: &Progress,
    ) -> Result<(), LayDownError> {
        let mut parts: Vec<_> = reader.info().parts.iter().collect();
        // the largest first, so that none is left for the end
        parts.sort_by_key(|part| std::cmp::Reverse(part.raw_bytes));
        let next = AtomicUsize::new(0);
        let give_up = AtomicBool::new(false);
        let (writeback, flusher) = Writeback::new();
        let work = |writeback: Writeback| -> Result<(), LayDownError> {
            while let Some(part) = parts.get(next.fetch_add(1, Ordering::Relaxed)) {
                self.unpack_part(reader, part, in_place, progress, &writeback, &give_up)
                    .inspect_err(|_| give_up.store(true, Ordering::Relaxed))?;
            }
            Ok(())
        };
        let work = &work;
        let threads = threads.clamp(1, parts.len().max(1));
        let results: Vec<Result<(), LayDownError>> = std::thread::scope(|scope| {
            scope.spawn(|| flusher.serve());
            let workers: Vec<_> = (1..threads)
                .map(|_| {
                    let writeback = writeback.clone();
                    scope.spawn(move || work(writeback))
                })
                .collect();
            let mut results = vec![work(writeback)];
            results.extend(
                workers
                    .into_iter()
                    .map(|worker| worker.join().unwrap_or(Err(LayDownError::GivenUp))),
            );
            results
        });
        // the one that failed by itself, and not because of another
        let mut errors: Vec<LayDownError> = results.into_iter().filter_map(Result::err).collect();
        errors.sort_by_key(|error| matches!(error, LayDownError::GivenUp));
        if !errors.is_empty() {
            return Err(errors.swap_remove(0));
        }
        if let Some(manifest) = reader.manifest()? {
            self.write(MANIFEST, &manifest)?;
        }
        self.link_tablespaces()
    }

    /// Unpacks a part, from another copy of the backup where this one turns out
    /// damaged: what was laid down by then was checked, and stays.
    fn unpack_part(
        &self,
        reader: &BackupReader,
        part: &PartInfo,
        in_place: Option<&Comparison>,
        progress: &Progress,
        writeback: &Writeback,
        give_up: &AtomicBool,
    ) -> Result<(), LayDownError> {
        let mut laid = LaidDown::default();
        let unpack = |copy: &BackupReader| {
            self.unpack_copy(
                copy, part, in_place, &mut laid, progress, writeback, give_up,
            )
        };
        reader.from_any_copy(unpack, |error| match error {
            LayDownError::Backup(error) => Some(error),
            _ => None,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "all of one step of one loop")]
    fn unpack_copy(
        &self,
        reader: &BackupReader,
        part: &PartInfo,
        in_place: Option<&Comparison>,
        laid: &mut LaidDown,
        progress: &Progress,
        writeback: &Writeback,
        give_up: &AtomicBool,
    ) -> Result<(), LayDownError> {
        let archive = part.name.archive();
        let is_base = archive == Archive::Base;
        let root = self
            .root_of(archive)
            .ok_or(LayDownError::UnknownTablespace { part: part.name })?;
        let mut folders = Folders::new(root);
        let mut buffer = vec![0; BUFFER_BYTES];
        if let Some(path) = laid.begun.take() {
            root.remove_file(&path)
                .map_err(failed("remove", &root.path_of(&path)))?;
        }
        let visit = |member: &Member, data: &mut dyn Read| {
            if give_up.load(Ordering::Relaxed) {
                return Err(LayDownError::GivenUp);
            }
            let path = member.path.as_bytes();
            if laid.files.contains(path) {
                return Ok(());
            }
            match &member.kind {
                MemberKind::Directory => {
                    self.make_folder(root, archive, member)?;
                }
                // made anew from the list of tablespaces
                MemberKind::Symlink { .. } => {}
                MemberKind::File if is_base && path == CONTROL_FILE => {
                    let bytes = hold(member, data)?;
                    let mode = member.mode;
                    self.held().control_file = Some(HeldFile { bytes, mode });
                }
                MemberKind::File if is_base && LEFT_OUT.contains(&path) => {
                    // read to its end, so that it is checked as well
                    io::copy(data, &mut io::sink()).map_err(read_failed)?;
                }
                MemberKind::File if is_base && path == TABLESPACE_MAP => {
                    let major = reader.info().postgres_major;
                    let map = self.moved(&hold(member, data)?, major)?;
                    self.write(TABLESPACE_MAP, &map)?;
                }
                MemberKind::File if in_place.is_some_and(|files| files.has(archive, path)) => {
                    root.adopt(path, member.mode)
                        .map_err(failed("set the mode of", &root.path_of(path)))?;
                }
                MemberKind::File => {
                    laid.begun = Some(path.to_vec());
                    folders.copy(member, data, &mut buffer, writeback)?;
                    laid.begun = None;
                }
            }
            if member.kind == MemberKind::File {
                laid.files.insert(path.to_vec());
            }
            progress.advance(member.size);
            Ok(())
        };
        match in_place {
            // frame by frame where little is wanted, in one stream where much is
            Some(files) if files.bytes_wanted_of(&part.name) < part.raw_bytes / 2 => {
                reader.pick(&part.name, visit)
            }
            _ => reader.unpack(&part.name, visit),
        }
    }

    fn make_folder(
        &self,
        root: &Root,
        archive: Archive,
        member: &Member,
    ) -> Result<(), LayDownError> {
        let path = member.path.as_bytes();
        let device = root
            .folder_with_mode(path, member.mode)
            .map_err(failed("create", &root.path_of(path)))?;
        let mut held = self.held();
        held.devices
            .entry(device)
            .or_insert_with(|| (archive, path.to_vec()));
        if archive == Archive::Base && path == b"global" {
            held.folder_mode = member.mode;
        }
        Ok(())
    }

    /// The tablespace map with the places of this machine, and no others: the
    /// server makes its links from it, and replays into what they lead to.
    fn moved(&self, original: &[u8], major: PostgresMajor) -> Result<Vec<u8>, LayDownError> {
        let map = TablespaceMap::parse_for(major, original).map_err(LayDownError::TablespaceMap)?;
        let entries: Vec<TablespaceMapEntry> = map
            .entries()
            .iter()
            .map(|entry| {
                let folder = self
                    .layout
                    .folder_of(Archive::Tablespace(entry.oid))
                    .ok_or_else(|| LayDownError::UnmappedTablespace {
                        oid: entry.oid,
                        path: OsStr::from_bytes(&entry.path).into(),
                    })?;
                Ok(TablespaceMapEntry {
                    oid: entry.oid,
                    path: folder.path().as_os_str().as_bytes().to_vec(),
                })
            })
            .collect::<Result<_, LayDownError>>()?;
        if entries == map.entries() {
            return Ok(original.to_vec());
        }
        Ok(TablespaceMap::new(entries)
            .map_err(LayDownError::TablespaceMap)?
            .to_bytes_for(major))
    }

    /// The links in `pg_tblspc`. The server makes them anew from
    /// `tablespace_map` at the start of recovery; until then `pg_verifybackup`
    /// finds the tablespaces by them.
    fn link_tablespaces(&self) -> Result<(), LayDownError> {
        for tablespace in &self.layout.tablespaces {
            let member = format!("pg_tblspc/{}", tablespace.oid);
            self.base
                .link(member.as_bytes(), tablespace.directory.path())
                .map_err(failed("create", &self.base.path_of(member.as_bytes())))?;
        }
        Ok(())
    }

    /// The data directory.
    pub(crate) fn path(&self) -> &Path {
        self.base.path()
    }

    /// What a member file of the data directory holds by now; `None` where
    /// there is none.
    pub(crate) fn read(&self, member: &str) -> Result<Option<Vec<u8>>, LayDownError> {
        let path = self.base.path_of(member.as_bytes());
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed("read", &path)(error)),
        }
    }

    /// Makes a member file of the data directory, in place of the one that the
    /// backup holds.
    pub(crate) fn replace(&self, member: &str, bytes: &[u8]) -> Result<(), LayDownError> {
        let member = member.as_bytes();
        match self.base.remove_file(member) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove", &self.base.path_of(member))(error))
            }
            _ => self.write(member, bytes),
        }
    }

    fn write(&self, member: &[u8], bytes: &[u8]) -> Result<(), LayDownError> {
        let path = self.base.path_of(member);
        let mut file = self
            .base
            .file(member, FILE_MODE)
            .map_err(failed("create", &path))?;
        file.write_all(bytes)
            .map_err(write_failed(&self.base, &path))
    }

    /// Makes everything durable, then the control file, then takes the marker
    /// away: from here on it is a cluster.
    pub(crate) fn finish(mut self) -> Result<(), LayDownError> {
        let (control_file, folder_mode, mut devices) = {
            let mut held = self.held();
            let devices = std::mem::take(&mut held.devices);
            (held.control_file.take(), held.folder_mode, devices)
        };
        let HeldFile { bytes, mode } = control_file.ok_or(LayDownError::NoControlFile)?;
        let base_path = self.base.path().to_owned();
        let roots: Vec<&Root> = std::iter::once(&self.base)
            .chain(self.tablespaces.values())
            .collect();
        for root in &roots {
            let device = root
                .folder_with_mode(b"", folder_mode)
                .map_err(failed("set the mode of", root.path()))?;
            devices.remove(&device);
        }
        // a pg_wal that is mounted below a directory that was there
        let mounted: Vec<OwnedFd> = devices
            .into_values()
            .filter_map(|(archive, member)| Some((self.root_of(archive)?, member)))
            .map(|(root, member)| {
                let opened = root.existing_folder(&member);
                opened.map_err(failed("open", &root.path_of(&member)))
            })
            .collect::<Result<_, _>>()?;
        durability::sync_everything(&roots, &mounted).map_err(failed("synchronize", &base_path))?;

        let path = self.base.path_of(CONTROL_FILE);
        let mut file = self
            .base
            .file(CONTROL_FILE, mode)
            .map_err(failed("create", &path))?;
        file.write_all(&bytes)
            .map_err(write_failed(&self.base, &path))?;
        file.sync_all().map_err(failed("synchronize", &path))?;
        self.base
            .sync_folder(b"global")
            .map_err(failed("synchronize", &path))?;
        if let Some(interlock) = self.interlock.take() {
            let path = self.base.path_of(LOCK_FILE);
            interlock
                .release(&self.base)
                .map_err(failed("remove", &path))?;
        }
        self.base
            .remove_file(MARKER.as_bytes())
            .and_then(|()| self.base.sync_folder(b""))
            .map_err(failed("synchronize", &base_path))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        // a thread that panicked has left it whole: each field is set at once
        self.held
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

impl Drop for UnfinishedCluster<'_> {
    fn drop(&mut self) {
        if let Some(interlock) = self.interlock.take() {
            // a dead process's lock file keeps nobody out in any case
            let _ = interlock.release(&self.base);
        }
    }
}

/// A small file that is kept in memory.
fn hold(member: &Member, data: &mut dyn Read) -> Result<Vec<u8>, LayDownError> {
    if member.size > MAX_HELD_BYTES {
        return Err(LayDownError::TooLarge {
            path: member.path.to_string(),
            bytes: member.size,
        });
    }
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes).map_err(read_failed)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layout::TablespaceTarget;
    use crate::target_directory::TargetDirectory;

    fn layout(dir: &Path) -> Layout {
        let vacant = |name: &str| TargetDirectory::examine(&dir.join(name)).unwrap();
        Layout {
            directory: vacant("data"),
            tablespaces: vec![TablespaceTarget {
                oid: 16384,
                old: "/srv/old\\place".into(),
                directory: vacant("space"),
            }],
            owner: None,
            version_directory: None,
            needed_bytes: 0,
            available_bytes: 0,
        }
    }

    #[test]
    fn no_tablespace_goes_where_nobody_was_asked() {
        let dir = tempfile::tempdir().unwrap();
        let layout = layout(dir.path());
        let base = Root::make(layout.directory.path(), None).unwrap();
        let cluster = UnfinishedCluster {
            layout: &layout,
            base,
            tablespaces: BTreeMap::new(),
            held: Mutex::default(),
            interlock: None,
        };
        let major = |number| PostgresMajor::new(number).unwrap();
        let space = layout.tablespaces[0].directory.path().display().to_string();
        let there = format!("16384 {space}\n").into_bytes();
        // 14 and newer write a backslash in front of a backslash, 13 does not
        for (number, map) in [
            (13, &b"16384 /srv/old\\place\n"[..]),
            (15, b"16384 /srv/old\\\\place\n"),
            (15, &there),
        ] {
            assert_eq!(cluster.moved(map, major(number)).unwrap(), there);
        }
        let hostile = [&there[..], b"16385 /srv/production/space\n"].concat();
        assert!(matches!(
            cluster.moved(&hostile, major(15)),
            Err(LayDownError::UnmappedTablespace { oid: 16385, .. })
        ));
    }
}
