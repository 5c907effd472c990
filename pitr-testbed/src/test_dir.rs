//! Folders that both the test and the server's user can use.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::{TestbedError, chown_to_server_user, server_user};

/// A temporary folder owned by the user who runs the servers; removed on drop.
///
/// It lies in `PITR_TEST_TMP`, else in `/tmp`, whatever `TMPDIR` says: the
/// path of a server's socket may have 107 bytes, and the folders above it must
/// be open to the server's user.
#[derive(Debug)]
pub struct TestDir {
    folder: tempfile::TempDir,
}

impl TestDir {
    /// Makes an empty folder with mode 0755.
    ///
    /// # Errors
    /// [`TestbedError::File`] if it cannot be made or given away.
    pub fn new() -> Result<Self, TestbedError> {
        let parent = std::env::var_os("PITR_TEST_TMP").map_or("/tmp".into(), PathBuf::from);
        let folder = tempfile::Builder::new()
            .prefix("pitr-test.")
            .tempdir_in(&parent)
            .map_err(TestbedError::file("make a folder in", &parent))?;
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))
            .map_err(TestbedError::file("open", folder.path()))?;
        chown_to_server_user(folder.path())?;
        Ok(Self { folder })
    }

    /// The folder.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Path of `name` in the folder; nothing is made.
    #[must_use]
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Makes a folder, with those above it, that the server's user owns.
    ///
    /// # Errors
    /// [`TestbedError::File`] if it cannot be made or given away.
    pub fn folder(&self, name: impl AsRef<Path>) -> Result<PathBuf, TestbedError> {
        let path = self.join(name);
        fs::create_dir_all(&path).map_err(TestbedError::file("make", &path))?;
        // the topmost new folder brings the ones below it along
        if let Ok(below) = path.strip_prefix(self.path())
            && let Some(top) = below.components().next()
        {
            chown_to_server_user(&self.path().join(top))?;
        }
        Ok(path)
    }

    /// Writes a file that the server's user owns.
    ///
    /// # Errors
    /// [`TestbedError::File`] if it cannot be written or given away.
    pub fn file(
        &self,
        name: impl AsRef<Path>,
        content: impl AsRef<[u8]>,
    ) -> Result<PathBuf, TestbedError> {
        let path = self.join(name);
        fs::write(&path, content).map_err(TestbedError::file("write", &path))?;
        chown_to_server_user(&path)?;
        Ok(path)
    }

    /// Path under which the server's user can run the program `binary`.
    ///
    /// The workspace may lie where that user cannot enter (`/root/...`). As
    /// root the program is therefore copied into this folder, once; an
    /// ordinary user gets `binary` itself.
    ///
    /// # Errors
    /// [`TestbedError::File`] if it cannot be copied.
    pub fn reachable(&self, binary: impl AsRef<Path>) -> Result<PathBuf, TestbedError> {
        let binary = binary.as_ref();
        if !server_user::differs_from_us() {
            return std::path::absolute(binary).map_err(TestbedError::file("find", binary));
        }
        let folder = self.folder("bin")?;
        let name = binary.file_name().unwrap_or(binary.as_os_str());
        let copy = folder.join(name);
        if !copy.exists() {
            fs::copy(binary, &copy).map_err(TestbedError::file("copy", binary))?;
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))
                .map_err(TestbedError::file("open", &copy))?;
        }
        Ok(copy)
    }
}
