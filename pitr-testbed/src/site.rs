//! A repository, and the project's two commands where a server can call them.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::{ClusterBuilder, TestDir, TestbedError, as_server_user, program};

/// Everything that a server needs to archive and to recover.
#[derive(Debug)]
pub struct Site {
    dir: TestDir,
    archive: PathBuf,
    restore: PathBuf,
}

impl Site {
    /// Builds the commands, puts them where the server's user can run them,
    /// and makes a repository.
    ///
    /// # Errors
    /// [`TestbedError`] of whichever step fails.
    pub fn new() -> Result<Self, TestbedError> {
        let dir = TestDir::new()?;
        let archive = dir.reachable(program("pitr-archive")?)?;
        let restore = dir.reachable(program("pitr-restore")?)?;
        let site = Self {
            dir,
            archive,
            restore,
        };
        let output = site.run(site.archive()?.arg("init"))?;
        if output.status.success() {
            Ok(site)
        } else {
            Err(TestbedError::Failed {
                program: "pitr-archive init".to_owned(),
                status: output.status.to_string(),
                stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            })
        }
    }

    /// The folder of the site: for restored data directories and the like.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// The repository.
    #[must_use]
    pub fn repo(&self) -> PathBuf {
        self.dir.join("repo")
    }

    /// `pitr-archive`, run by the server's user with nothing in its
    /// environment but the repository and a `PATH`.
    ///
    /// # Errors
    /// [`TestbedError::NoServerUser`].
    pub fn archive(&self) -> Result<Command, TestbedError> {
        self.command(&self.archive)
    }

    /// `pitr-restore`, likewise.
    ///
    /// # Errors
    /// [`TestbedError::NoServerUser`].
    pub fn restore(&self) -> Result<Command, TestbedError> {
        self.command(&self.restore)
    }

    fn command(&self, program: &Path) -> Result<Command, TestbedError> {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("PITR_REPO", self.repo())
            .env("PITR_CONFIG", "/dev/null")
            .current_dir(self.dir.path());
        as_server_user(command)
    }

    /// Runs a command of this site to its end.
    ///
    /// # Errors
    /// [`TestbedError::Spawn`]; a failing command is no error here.
    pub fn run(&self, command: &mut Command) -> Result<Output, TestbedError> {
        let program = command.get_program().to_string_lossy().into_owned();
        command
            .output()
            .map_err(|source| TestbedError::Spawn { program, source })
    }

    /// `archive_command` for a server of this site.
    #[must_use]
    pub fn archive_command(&self) -> String {
        format!(
            "{} --repo {} %p %f",
            self.archive.display(),
            self.repo().display()
        )
    }

    /// `restore_command` for a server of this site.
    #[must_use]
    pub fn restore_command(&self) -> String {
        format!(
            "{} --repo {} %f %p",
            self.restore.display(),
            self.repo().display()
        )
    }

    /// Makes a server archive into this site's repository.
    #[must_use]
    pub fn archiving(&self, builder: ClusterBuilder) -> ClusterBuilder {
        builder
            .setting("wal_level", "replica")
            .setting("archive_mode", "on")
            .setting("archive_command", self.archive_command())
            .setting("max_wal_senders", "4")
    }
}
