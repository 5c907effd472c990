//! Keeping servers, and other restores, out of a data directory that is being
//! changed.

use std::io::{self, Write as _};

use super::failure::{LayDownError, failed, write_failed};
use super::root::Root;
use crate::postmaster::PostmasterFile;

/// The file by which a server keeps others out.
pub(super) const LOCK_FILE: &[u8] = b"postmaster.pid";

/// A lock file that somebody else's death has left is taken away; two who do
/// so at once try again.
const ATTEMPTS: u32 = 3;

/// This process's own `postmaster.pid` in the data directory: a server of the
/// same user that is started meanwhile finds a living process in it and gives up.
///
/// Source: `CreateLockFile`, src/backend/utils/init/miscinit.c.
#[derive(Debug)]
pub(super) struct Interlock;

impl Interlock {
    /// # Errors
    /// `Running` if a server, or another restore, has the directory.
    pub(super) fn take(base: &Root) -> Result<Self, LayDownError> {
        let path = base.path_of(LOCK_FILE);
        let mut attempts = 0;
        loop {
            let found = PostmasterFile::read(base.path()).map_err(failed("read", &path))?;
            if let Some(file) = found
                && file.is_alive()
            {
                return Err(LayDownError::Running {
                    path: base.path().to_owned(),
                    pid: file.pid.as_raw_pid(),
                });
            }
            match base.remove_file(LOCK_FILE) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(failed("remove", &path)(error));
                }
                _ => {}
            }
            attempts += 1;
            match base.file(LOCK_FILE, super::FILE_MODE) {
                Ok(mut file) => {
                    let text = format!("{}\n{}\n", std::process::id(), base.path().display());
                    file.write_all(text.as_bytes())
                        .map_err(write_failed(base, &path))?;
                    return Ok(Self);
                }
                Err(error)
                    if error.kind() == io::ErrorKind::AlreadyExists && attempts < ATTEMPTS => {}
                Err(error) => return Err(failed("create", &path)(error)),
            }
        }
    }

    /// Lets servers in again.
    pub(super) fn release(self, base: &Root) -> io::Result<()> {
        base.remove_file(LOCK_FILE)
    }
}
