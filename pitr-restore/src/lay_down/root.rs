//! A folder that files are made below, and never outside.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;

/// User and group that everything made is given to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) uid: Uid,
    pub(crate) gid: Gid,
}

/// An open folder, and who shall own what is made in it.
///
/// Every path is walked component by component from the open folder, without
/// following a link, so that neither a hostile name in a backup nor somebody
/// who swaps a folder for a link meanwhile leads outside.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    path: PathBuf,
    owner: Option<Owner>,
}

/// Permission bits that a server's files may have: it refuses to start when
/// the group may write or others may read.
///
/// Source: `checkDataDir`, src/backend/utils/init/miscinit.c;
/// `PG_DIR_MODE_GROUP` and `PG_FILE_MODE_GROUP`, src/include/common/file_perm.h.
const FOLDER_BITS: u32 = 0o750;
const FILE_BITS: u32 = 0o640;
/// What the owner needs whatever a backup says.
const FOLDER_LEAST: u32 = 0o700;
const FILE_LEAST: u32 = 0o600;

impl Root {
    /// Opens the folder at `path`, which must be one and not a link.
    pub(crate) fn open(path: &Path, owner: Option<Owner>) -> io::Result<Self> {
        let folder = rustix::fs::open(path, FOLDER_FLAGS, Mode::empty())?;
        let root = Self {
            folder,
            path: path.to_owned(),
            owner,
        };
        root.give_away(&root.folder)?;
        Ok(root)
    }

    /// Makes the folder at `path` and those above it, and opens it.
    pub(crate) fn make(path: &Path, owner: Option<Owner>) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        if let Some(above) = path.parent()
            && !above.exists()
        {
            Self::make(above, owner)?;
        }
        match std::fs::DirBuilder::new().mode(FOLDER_LEAST).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Self::open(path, owner),
        }
    }

    /// Where it lies, for messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Path of a member below it, for messages.
    pub(crate) fn path_of(&self, member: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(member))
    }

    /// Opens a member folder, making it and those above it where they are
    /// missing.
    pub(crate) fn folder(&self, member: &[u8]) -> io::Result<OwnedFd> {
        let mut folder = self.folder.try_clone()?;
        for name in components(member)? {
            folder = match open_folder(&folder, name) {
                Err(Errno::NOENT) => self.make_folder(&folder, name)?,
                other => other?,
            };
        }
        Ok(folder)
    }

    /// Opens a member folder that is there.
    pub(crate) fn existing_folder(&self, member: &[u8]) -> io::Result<OwnedFd> {
        let mut folder = self.folder.try_clone()?;
        for name in components(member)? {
            folder = open_folder(&folder, name)?;
        }
        Ok(folder)
    }

    /// Opens a member that is there for reading. Neither a link is followed
    /// nor a pipe waited for; it may be anything but that.
    pub(crate) fn open_file(&self, member: &[u8]) -> io::Result<File> {
        let (folder, name) = split(member);
        let flags =
            OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC;
        let folder = self.existing_folder(folder)?;
        Ok(rustix::fs::openat(folder, name, flags, Mode::empty())?.into())
    }

    /// Gives a file that is there the mode and the owner of one made anew.
    pub(crate) fn adopt(&self, member: &[u8], mode: u32) -> io::Result<()> {
        let file = self.open_file(member)?;
        let found = rustix::fs::fstat(&file)?;
        if let Some(owner) = self.owner
            && (found.st_uid, found.st_gid) != (owner.uid.as_raw(), owner.gid.as_raw())
        {
            rustix::fs::fchown(&file, Some(owner.uid), Some(owner.gid))?;
        }
        let mode = mode & FILE_BITS | FILE_LEAST;
        if found.st_mode & 0o7777 != mode {
            set_mode(&file, mode)?;
        }
        Ok(())
    }

    /// Writes a member of the top folder in one step, durably: it holds these
    /// bytes, or what it held before.
    pub(crate) fn put(&self, name: &[u8], bytes: &[u8], mode: u32) -> io::Result<()> {
        use std::io::Write as _;
        let new = [name, b".new"].concat();
        match self.remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = self.file(&new, mode)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        rustix::fs::renameat(&self.folder, &*new, &self.folder, name)?;
        self.sync_folder(b"")
    }

    /// Makes a member folder, or finds it, and gives it `mode`; says which
    /// device it lies on.
    pub(crate) fn folder_with_mode(&self, member: &[u8], mode: u32) -> io::Result<u64> {
        let folder = self.folder(member)?;
        self.give_away(&folder)?;
        set_mode(&folder, mode & FOLDER_BITS | FOLDER_LEAST)?;
        Ok(rustix::fs::fstat(&folder)?.st_dev)
    }

    /// Makes a new file `name` in a folder that [`Root::folder`] opened.
    ///
    /// # Errors
    /// `AlreadyExists`: nothing is ever written over.
    pub(crate) fn file_in(&self, folder: impl AsFd, name: &[u8], mode: u32) -> io::Result<File> {
        let names = components(name)?;
        let [name] = names.as_slice() else {
            return Err(bad_name(name));
        };
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mode = mode & FILE_BITS | FILE_LEAST;
        let file = rustix::fs::openat(folder, *name, flags, Mode::from_raw_mode(FILE_LEAST))?;
        self.give_away(&file)?;
        if mode != FILE_LEAST {
            set_mode(&file, mode)?;
        }
        Ok(File::from(file))
    }

    /// Makes a new file at `member`, with the folders above it.
    pub(crate) fn file(&self, member: &[u8], mode: u32) -> io::Result<File> {
        let (folder, name) = split(member);
        self.file_in(self.folder(folder)?, name, mode)
    }

    /// Makes a symbolic link at `member`, with the folders above it, or finds
    /// it.
    pub(crate) fn link(&self, member: &[u8], target: &Path) -> io::Result<()> {
        let (folder, name) = split(member);
        let folder = self.folder(folder)?;
        match rustix::fs::symlinkat(target, &folder, name) {
            Err(Errno::EXIST) => {
                let found = rustix::fs::readlinkat(&folder, name, Vec::new())?;
                if found.as_bytes() != target.as_os_str().as_bytes() {
                    return Err(Errno::EXIST.into());
                }
            }
            made => made?,
        }
        if let Some(owner) = self.owner {
            let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
            rustix::fs::chownat(&folder, name, Some(owner.uid), Some(owner.gid), flags)?;
        }
        Ok(())
    }

    /// Removes the file at `member`.
    pub(crate) fn remove_file(&self, member: &[u8]) -> io::Result<()> {
        let (folder, name) = split(member);
        let folder = self.folder(folder)?;
        Ok(rustix::fs::unlinkat(
            folder,
            name,
            rustix::fs::AtFlags::empty(),
        )?)
    }

    /// Makes the entries of a member folder durable.
    pub(crate) fn sync_folder(&self, member: &[u8]) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.folder(member)?)?)
    }

    fn make_folder(&self, parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
        match rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(FOLDER_LEAST)) {
            Ok(()) => {
                let folder = open_folder(parent, name)?;
                self.give_away(&folder)?;
                Ok(folder)
            }
            // another thread was faster
            Err(Errno::EXIST) => open_folder(parent, name),
            Err(error) => Err(error),
        }
    }

    fn give_away(&self, made: &OwnedFd) -> Result<(), Errno> {
        match self.owner {
            Some(owner) => rustix::fs::fchown(made, Some(owner.uid), Some(owner.gid)),
            None => Ok(()),
        }
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.folder.as_fd()
    }
}

/// Folder and name of a member; the folder is empty at the top.
pub(crate) fn split(member: &[u8]) -> (&[u8], &[u8]) {
    match member.iter().rposition(|&byte| byte == b'/') {
        Some(slash) => (&member[..slash], &member[slash + 1..]),
        None => (&[], member),
    }
}

const FOLDER_FLAGS: OFlags = OFlags::RDONLY
    .union(OFlags::DIRECTORY)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

pub(super) fn open_folder(parent: &OwnedFd, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(parent, name, FOLDER_FLAGS, Mode::empty())
}

fn set_mode(made: impl AsFd, mode: u32) -> io::Result<()> {
    Ok(rustix::fs::fchmod(made, Mode::from_raw_mode(mode))?)
}

/// The components of a member path, each a plain name.
fn components(member: &[u8]) -> io::Result<Vec<&[u8]>> {
    if member.is_empty() {
        return Ok(Vec::new());
    }
    member
        .split(|&byte| byte == b'/')
        .map(|name| match name {
            b"" | b"." | b".." => Err(bad_name(member)),
            name if name.contains(&0) => Err(bad_name(member)),
            name => Ok(name),
        })
        .collect()
}

fn bad_name(member: &[u8]) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "\"{}\" is no path below a data directory",
            member.escape_ascii()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn root() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let root = Root::open(dir.path(), None).unwrap();
        (dir, root)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn no_name_leads_outside() {
        let (_dir, root) = root();
        for member in [
            &b"../x"[..],
            b"a/../../x",
            b"/etc/passwd",
            b"a//b",
            b"./a",
            b"a/",
            b"a/.",
            b"x\0y",
            b"",
        ] {
            let error = root.file(member, 0o600).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{member:?}");
        }
    }

    #[test]
    fn no_link_is_followed() {
        let (dir, root) = root();
        let outside = tempfile::tempdir().unwrap();
        symlink(outside.path(), dir.path().join("base")).unwrap();
        assert!(root.file(b"base/1/2", 0o600).is_err());
        symlink(outside.path().join("file"), dir.path().join("link")).unwrap();
        assert!(root.file(b"link", 0o600).is_err());
        assert_eq!(std::fs::read_dir(outside.path()).unwrap().count(), 0);
    }

    #[test]
    fn nothing_is_written_over() {
        let (_dir, root) = root();
        root.file(b"a/b", 0o600).unwrap().write_all(b"x").unwrap();
        let error = root.file(b"a/b", 0o600).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
    }

    #[test]
    fn a_mode_is_kept_as_far_as_a_server_may_have_it() {
        let (dir, root) = root();
        root.file(b"group/file", 0o640).unwrap();
        root.folder_with_mode(b"group", 0o750).unwrap();
        assert_eq!(mode(&dir.path().join("group")), 0o750);
        assert_eq!(mode(&dir.path().join("group/file")), 0o640);
        root.file(b"open", 0o4777).unwrap();
        assert_eq!(mode(&dir.path().join("open")), 0o640);
        root.file(b"closed", 0).unwrap();
        assert_eq!(mode(&dir.path().join("closed")), 0o600);
    }

    #[test]
    fn a_member_is_split_at_its_last_slash() {
        assert_eq!(split(b"base/1/2"), (&b"base/1"[..], &b"2"[..]));
        assert_eq!(split(b"PG_VERSION"), (&b""[..], &b"PG_VERSION"[..]));
    }
}
