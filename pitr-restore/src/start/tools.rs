//! The server's programs, of the right major.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use pitr_console::Explain;
use pitr_core::PostgresMajor;

/// A folder whose `pg_ctl` is of the major that was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerTools {
    bin: PathBuf,
    version: String,
}

/// Why there is nothing to start the server with.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ToolsError {
    /// The folder that was named holds no `pg_ctl` that runs.
    #[error("\"{}\" is no PostgreSQL program that runs", path.display())]
    NotThere {
        /// The program that was tried.
        path: PathBuf,
    },
    /// The folder that was named holds another major.
    #[error("\"{}\" is of PostgreSQL {found}, and the backup of PostgreSQL {expected}", path.display())]
    OtherMajor {
        /// The program that was tried.
        path: PathBuf,
        /// Its version.
        found: String,
        /// Major of the backup.
        expected: PostgresMajor,
    },
    /// None of the usual places has it.
    #[error("found no pg_ctl of PostgreSQL {expected}")]
    NotFound {
        /// Major of the backup.
        expected: PostgresMajor,
        /// What was found of other majors.
        others: Vec<String>,
    },
}

impl Explain for ToolsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotThere { .. } | Self::OtherMajor { .. } => {
                "--pg-bin names the folder of pg_ctl, as in /usr/lib/postgresql/15/bin.".to_owned()
            }
            Self::NotFound { expected, others } => {
                let found = if others.is_empty() {
                    String::new()
                } else {
                    format!(" Found: {}.", others.join(", "))
                };
                format!(
                    "Install the server of PostgreSQL {expected}, or name its folder with --pg-bin.{found}"
                )
            }
        })
    }
}

impl ServerTools {
    /// Finds the programs of `major`: in `named` and nowhere else where a
    /// folder was named, else on the `PATH`, where `pg_config` says, and where
    /// distributions put them.
    pub(crate) fn find(major: PostgresMajor, named: Option<&Path>) -> Result<Self, ToolsError> {
        if let Some(bin) = named {
            let path = bin.join("pg_ctl");
            let Some(version) = version_of(&path) else {
                return Err(ToolsError::NotThere { path });
            };
            if !is_of(&version, major) {
                return Err(ToolsError::OtherMajor {
                    path,
                    found: version,
                    expected: major,
                });
            }
            return Ok(Self {
                bin: bin.to_owned(),
                version,
            });
        }
        let mut others = Vec::new();
        for bin in usual_places(major) {
            let path = bin.join("pg_ctl");
            match version_of(&path) {
                Some(version) if is_of(&version, major) => return Ok(Self { bin, version }),
                Some(version) => others.push(format!("{} ({version})", path.display())),
                None => {}
            }
        }
        Err(ToolsError::NotFound {
            expected: major,
            others,
        })
    }

    /// Path of one program.
    pub(crate) fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// Full version, as `15.14`.
    pub(crate) fn version(&self) -> &str {
        &self.version
    }
}

fn usual_places(major: PostgresMajor) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = env::var_os("PATH")
        .map(|path| env::split_paths(&path).collect())
        .unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output()
        && output.status.success()
    {
        let folder = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        places.push(folder.into());
    }
    places.extend(
        [
            format!("/usr/lib/postgresql/{major}/bin"),
            format!("/usr/pgsql-{major}/bin"),
            format!("/usr/libexec/postgresql{major}"),
            format!("/opt/homebrew/opt/postgresql@{major}/bin"),
            "/usr/local/pgsql/bin".to_owned(),
        ]
        .map(PathBuf::from),
    );
    places.retain(|place| place.is_absolute());
    places
}

/// `15.14` from `pg_ctl (PostgreSQL) 15.14 (Debian …)`; `None` if it does not run.
fn version_of(program: &Path) -> Option<String> {
    if !program.is_file() {
        return None;
    }
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let (_, version) = text.split_once("(PostgreSQL) ")?;
    Some(version.split_whitespace().next()?.to_owned())
}

/// `15.14` and `15beta2` are of 15.
fn is_of(version: &str, major: PostgresMajor) -> bool {
    let digits = version
        .split(|c: char| !c.is_ascii_digit())
        .next()
        .unwrap_or_default();
    digits == major.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn fake(version: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pg_ctl");
        std::fs::write(
            &path,
            format!("#!/bin/sh\necho 'pg_ctl (PostgreSQL) {version}'\n"),
        )
        .unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        dir
    }

    fn major(number: u16) -> PostgresMajor {
        PostgresMajor::new(number).unwrap()
    }

    #[test]
    fn a_named_folder_is_taken_only_with_the_right_major() {
        let bin = fake("15.14 (Debian 15.14-1)");
        let tools = ServerTools::find(major(15), Some(bin.path())).unwrap();
        assert_eq!(tools.version(), "15.14");
        assert!(matches!(
            ServerTools::find(major(16), Some(bin.path())),
            Err(ToolsError::OtherMajor { found, .. }) if found == "15.14"
        ));
        assert!(matches!(
            ServerTools::find(major(15), Some(Path::new("/nonexistent"))),
            Err(ToolsError::NotThere { .. })
        ));
    }

    #[test]
    fn a_beta_is_of_its_major() {
        assert!(is_of("19beta4", major(19)));
        assert!(!is_of("150.1", major(15)));
    }
}
