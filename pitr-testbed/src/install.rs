//! Where PostgreSQL is installed on this machine.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{TestbedError, as_server_user, process};

/// Binaries of one PostgreSQL major, proven to run as the server's user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresInstall {
    major: u16,
    bin: PathBuf,
    version: String,
}

impl PostgresInstall {
    /// Majors that the project supports fully; the tests run on those of them that are found.
    pub const MAJORS: [u16; 5] = [14, 15, 16, 17, 18];

    /// Finds the binaries of `major`.
    ///
    /// Looks for `postgres` in the folder `PITR_TEST_PG_<major>`, in
    /// `/usr/lib/postgresql/<major>/bin`, and in `<major>/bin` below
    /// [`PostgresInstall::cache`]. The first that runs as the server's user and
    /// says that it is of this major is taken.
    ///
    /// # Errors
    /// [`TestbedError::NotInstalled`] if there is none.
    pub fn find(major: u16) -> Result<Self, TestbedError> {
        let cache = Self::cache();
        let named = env::var_os(format!("PITR_TEST_PG_{major}")).map(PathBuf::from);
        let places = named.into_iter().chain([
            format!("/usr/lib/postgresql/{major}/bin").into(),
            cache.join(major.to_string()).join("bin"),
        ]);
        for bin in places {
            if let Some(version) = version_of(&bin.join("postgres"))
                && version.split('.').next() == Some(&major.to_string())
            {
                return Ok(Self {
                    major,
                    bin,
                    version,
                });
            }
        }
        Err(TestbedError::NotInstalled { major, cache })
    }

    /// Every supported major that is found here, in ascending order.
    #[must_use]
    pub fn all_found() -> Vec<Self> {
        Self::MAJORS
            .into_iter()
            .filter_map(|major| Self::find(major).ok())
            .collect()
    }

    /// One installation for a test that does not care which: 15 where it is, else the newest.
    ///
    /// # Errors
    /// [`TestbedError::NotInstalled`] if there is none at all.
    pub fn any() -> Result<Self, TestbedError> {
        Self::find(15).or_else(|error| Self::all_found().pop().ok_or(error))
    }

    /// Folder that `scripts/postgres-majors` fetches to.
    ///
    /// `PITR_TEST_PG_DIR`, else `/var/cache/pitr-postgres` for root (whose
    /// home the server's user cannot enter), else
    /// `${XDG_CACHE_HOME:-~/.cache}/pitr-postgres`.
    #[must_use]
    pub fn cache() -> PathBuf {
        if let Some(folder) = env::var_os("PITR_TEST_PG_DIR") {
            return folder.into();
        }
        if rustix::process::geteuid().is_root() {
            return "/var/cache/pitr-postgres".into();
        }
        let caches = env::var_os("XDG_CACHE_HOME").map_or_else(
            || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
            PathBuf::from,
        );
        caches.join("pitr-postgres")
    }

    /// Major version number.
    #[must_use]
    pub fn major(&self) -> u16 {
        self.major
    }

    /// Full version as the server spells it, e.g. `15.14`.
    #[must_use]
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Folder of the binaries.
    #[must_use]
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// Path of one program, e.g. `pg_verifybackup`.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// A command for one program, run as the server's user, in the C locale.
    ///
    /// # Errors
    /// [`TestbedError::NoServerUser`] if we are root and there is no such user.
    pub fn command(&self, program: &str) -> Result<Command, TestbedError> {
        let mut command = Command::new(self.program(program));
        clean_environment(&mut command);
        as_server_user(command)
    }

    /// psql of this installation, or of any other where this one has none.
    pub(crate) fn psql(&self) -> PathBuf {
        let own = self.program("psql");
        if own.exists() {
            return own;
        }
        Self::all_found()
            .into_iter()
            .map(|install| install.program("psql"))
            .find(|path| path.exists())
            .unwrap_or_else(|| "psql".into())
    }
}

/// Takes away what the environment of the tests would tell libpq, and translations.
pub(crate) fn clean_environment(command: &mut Command) {
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("PG") {
            command.env_remove(name);
        }
    }
    command.env("LC_ALL", "C");
}

/// `15.14` from `postgres (PostgreSQL) 15.14 (Debian ...)`; `None` if it does not run.
fn version_of(postgres: &Path) -> Option<String> {
    if !postgres.is_file() {
        return None;
    }
    let mut command = Command::new(postgres);
    command.arg("--version");
    let output = process::run(as_server_user(command).ok()?).ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    Some(version.split_whitespace().next()?.to_owned())
}
