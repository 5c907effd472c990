//! Taking away what the backup does not hold, or holds otherwise.

use std::collections::HashSet;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{AtFlags, Dir, FileType};
use rustix::io::Errno;

use super::failure::{LayDownError, failed};
use super::root::Root;

/// Folders one in the other, at most: no cluster has more than six.
const MAX_DEPTH: usize = 64;

/// A folder of every file system of its own, which belongs to it.
const LOST_AND_FOUND: &[u8] = b"lost+found";

/// Empties a folder of everything that is not to stay.
///
/// No link is followed: one that is in the way is taken away itself, and what
/// it leads to stays as it is.
pub(super) struct Sweep<'a> {
    pub(super) root: &'a Root,
    /// Whether a file with this path stays.
    pub(super) stays: &'a dyn Fn(&[u8]) -> bool,
    /// Folders that stay.
    pub(super) folders: HashSet<&'a [u8]>,
    /// Whether a link with this path and target stays.
    pub(super) link_stays: &'a dyn Fn(&[u8], &[u8]) -> bool,
    /// Whether the backup has a file of this path: it is written anew.
    pub(super) in_backup: &'a dyn Fn(&[u8]) -> bool,
    /// Count only.
    pub(super) dry_run: bool,
}

/// What was taken away.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Swept {
    /// Files that the backup does not have.
    pub(crate) files: u64,
    /// Links to folders, which a server may have used.
    pub(crate) links: Vec<PathBuf>,
}

impl Sweep<'_> {
    /// Sweeps the member folder `start`, which stays itself.
    pub(super) fn run(&self, start: &[u8]) -> Result<Swept, LayDownError> {
        let mut swept = Swept::default();
        let folder = match self.root.existing_folder(start) {
            Ok(folder) => folder,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(swept),
            Err(error) => return Err(failed("open", &self.root.path_of(start))(error)),
        };
        self.folder(&folder, start, 0, &mut swept)?;
        Ok(swept)
    }

    fn folder(
        &self,
        folder: &OwnedFd,
        path: &[u8],
        depth: usize,
        swept: &mut Swept,
    ) -> Result<(), LayDownError> {
        let shown = self.root.path_of(path);
        if depth > MAX_DEPTH {
            let error = io::Error::other(format!("more than {MAX_DEPTH} folders in each other"));
            return Err(failed("empty", &shown)(error));
        }
        let device = rustix::fs::fstat(folder).map_err(|e| failed("read", &shown)(e.into()))?;
        // the whole list first: what is deleted meanwhile confuses no reader
        let mut names = Vec::new();
        let entries = Dir::read_from(folder).map_err(|e| failed("read", &shown)(e.into()))?;
        for entry in entries {
            let entry = entry.map_err(|e| failed("read", &shown)(e.into()))?;
            let name = entry.file_name().to_bytes();
            if name != b"." && name != b".." {
                names.push(name.to_vec());
            }
        }
        for name in names {
            let member = match path {
                b"" => name.clone(),
                path => [path, &name].join(&b'/'),
            };
            let shown = self.root.path_of(&member);
            let found = match rustix::fs::statat(folder, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) => found,
                Err(Errno::NOENT) => continue,
                Err(error) => return Err(failed("examine", &shown)(error.into())),
            };
            match FileType::from_raw_mode(found.st_mode) {
                FileType::Directory => {
                    let is_mount = depth == 0 || is_mount_point(folder, device.st_dev);
                    if name == LOST_AND_FOUND && is_mount {
                        continue;
                    }
                    let below = super::root::open_folder(folder, &name)
                        .map_err(|error| failed("open", &shown)(error.into()))?;
                    self.folder(&below, &member, depth + 1, swept)?;
                    drop(below);
                    if !self.folders.contains(member.as_slice()) {
                        self.remove_folder(folder, &name, &shown)?;
                    }
                }
                FileType::RegularFile if (self.stays)(&member) => {}
                FileType::Symlink => {
                    let target = rustix::fs::readlinkat(folder, &*name, Vec::new())
                        .map_err(|error| failed("read", &shown)(error.into()))?;
                    if (self.link_stays)(&member, target.as_bytes()) {
                        continue;
                    }
                    if std::fs::metadata(&shown).is_ok_and(|found| found.is_dir()) {
                        swept.links.push(shown.clone());
                    }
                    self.remove_file(folder, &name, &member, swept)?;
                }
                _ => self.remove_file(folder, &name, &member, swept)?,
            }
        }
        Ok(())
    }

    fn remove_file(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        member: &[u8],
        swept: &mut Swept,
    ) -> Result<(), LayDownError> {
        if !(self.in_backup)(member) {
            swept.files += 1;
        }
        if self.dry_run {
            return Ok(());
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(failed("remove", &self.root.path_of(member))(error.into())),
        }
    }

    /// Removes a folder that is empty by now. One that something is mounted on,
    /// or that holds a file system's own folder, stays.
    fn remove_folder(
        &self,
        folder: &OwnedFd,
        name: &[u8],
        shown: &std::path::Path,
    ) -> Result<(), LayDownError> {
        if self.dry_run {
            return Ok(());
        }
        match rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT | Errno::BUSY | Errno::NOTEMPTY) => Ok(()),
            Err(error) => Err(failed("remove", shown)(error.into())),
        }
    }
}

/// Whether another file system begins at this folder.
fn is_mount_point(folder: &OwnedFd, device: u64) -> bool {
    rustix::fs::statat(folder, "..", AtFlags::SYMLINK_NOFOLLOW)
        .is_ok_and(|above| above.st_dev != device)
}
