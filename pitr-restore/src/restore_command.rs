//! The `restore_command` that a restored cluster is given.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use pitr_console::{Explain, RepositoryArguments, Settings};
use pitr_core::{SegmentName, SystemIdentifier, TimelineId, WalFileName};

use crate::os_user::OsUser;
use crate::start::as_user;
use pitr_console::quoting::{shell_word, without_placeholders};

/// This program, with everything that it needs to know in absolute terms: the
/// server runs it in the data directory, with an environment of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RestoreCommand {
    program: PathBuf,
    options: Vec<OsString>,
}

/// Why there is no such command.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RestoreCommandError {
    /// The path of this program is not known.
    #[error("could not find out where this program lies: {0}")]
    Program(io::Error),
    /// The configuration file's path could not be made absolute.
    #[error("could not find the configuration file \"{}\": {source}", path.display())]
    Configuration {
        /// As it was given.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
    /// The repository's address holds a password, which must not stand in
    /// `postgresql.auto.conf`.
    #[error(
        "the repository's address holds a password, and would be written into postgresql.auto.conf"
    )]
    Secret,
    /// It was tried, and does not work.
    #[error("restore_command does not work{}: {reason}", user.as_ref().map(|user| format!(" for user {user}")).unwrap_or_default())]
    DoesNotWork {
        /// The user that it was tried as, where that is another one.
        user: Option<String>,
        /// What came of it.
        reason: String,
    },
}

impl Explain for RestoreCommandError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Program(_) | Self::Configuration { .. } => None,
            Self::Secret => Some(
                "Put the address into the configuration file, and leave out --repo and PITR_REPO."
                    .to_owned(),
            ),
            Self::DoesNotWork { user, .. } => Some(match user {
                Some(user) => format!(
                    "User {user} must be able to run this program and to read the repository (and \
                     the file with its key, if it is encrypted): put pitr-restore into \
                     /usr/local/bin, and let {user} own the repository."
                ),
                None => "The user that restores must be able to read the repository.".to_owned(),
            }),
        }
    }
}

impl RestoreCommand {
    /// The command for a cluster of the repository, following `timeline`.
    pub(crate) fn new(
        settings: &Settings,
        repositories: &[&str],
        system_identifier: SystemIdentifier,
        timeline: TimelineId,
    ) -> Result<Self, RestoreCommandError> {
        let program = std::env::current_exe().map_err(RestoreCommandError::Program)?;
        let mut options: Vec<OsString> = Vec::new();
        if let Some(path) = &settings.file {
            let absolute =
                std::path::absolute(path).map_err(|source| RestoreCommandError::Configuration {
                    path: path.clone(),
                    source,
                })?;
            options.extend(["--config".into(), absolute.into()]);
        }
        match repositories.iter().any(|repo| has_password(repo)) {
            false => {
                for &repo in repositories {
                    options.extend(["--repo".into(), repo.into()]);
                }
            }
            // the configuration file says it, in a place of its own
            true if said_by_file(settings, repositories) => {}
            true => return Err(RestoreCommandError::Secret),
        }
        if let Some(spool) = &settings.spool {
            options.extend(["--spool".into(), spool.into()]);
        }
        if let Some(segments) = settings.prefetch {
            options.extend(["--prefetch".into(), segments.to_string().into()]);
        }
        // paths only: the keys themselves stand nowhere but in their files
        let keys = [
            ("--identity", &settings.keys.identity),
            ("--encryption-key-file", &settings.keys.key_file),
        ];
        for (flag, path) in keys {
            if let Some(path) = path {
                options.extend([flag.into(), path.into()]);
            }
        }
        options.extend([
            "--system-identifier".into(),
            system_identifier.to_string().into(),
            "--timeline".into(),
            timeline.to_string().into(),
        ]);
        Ok(Self { program, options })
    }

    /// The value of the setting, before it is quoted for the file.
    pub(crate) fn setting(&self) -> Vec<u8> {
        let mut words: Vec<Vec<u8>> = vec![shell_word(self.program.as_os_str().as_bytes())];
        words.extend(self.options.iter().map(|word| shell_word(word.as_bytes())));
        let mut value = without_placeholders(&words.join(&b' '));
        value.extend_from_slice(b" %f %p");
        value
    }

    /// Starts to fetch what the server in `directory` is going to ask for, from
    /// `first` on, as the server's user, and does not wait for it.
    ///
    /// # Errors
    /// If it cannot be run.
    pub(crate) fn fetch_ahead(
        &self,
        directory: &Path,
        owner: Option<&OsUser>,
        first: SegmentName,
    ) -> io::Result<Child> {
        let mut command = Command::new(&self.program);
        command
            .arg("--fetch-ahead=from")
            .args(&self.options)
            .arg(first.to_string())
            .arg("pg_wal/RECOVERYXLOG")
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(user) = owner {
            as_user(&mut command, user);
            command.stdout(Stdio::null()).stderr(Stdio::null());
        }
        command.spawn()
    }

    /// Runs it as the server's user, in an empty environment, asking for a
    /// file that does not exist: that it says so shows that it can be run and
    /// reaches the repository.
    pub(crate) fn try_out(&self, owner: Option<&OsUser>) -> Result<(), RestoreCommandError> {
        // the highest timeline there can be
        let absent = TimelineId::new(u32::MAX)
            .map(|timeline| WalFileName::History(timeline).to_string())
            .unwrap_or_default();
        let mut command = Command::new(&self.program);
        command
            .args(&self.options)
            .arg(absent)
            .arg(Path::new("/nonexistent/pitr"))
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null());
        if let Some(user) = owner {
            command
                .gid(user.owner.gid.as_raw())
                .uid(user.owner.uid.as_raw());
        }
        let failed = |reason: String| RestoreCommandError::DoesNotWork {
            user: owner.map(|user| user.name.clone()),
            reason,
        };
        let output = command.output().map_err(|error| {
            failed(format!(
                "could not run \"{}\": {error}",
                self.program.display()
            ))
        })?;
        if output.status.code() == Some(1) {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().next().unwrap_or_default();
        let said = said.trim_start_matches("ERROR:").trim();
        Err(failed(if said.is_empty() {
            output.status.to_string()
        } else {
            said.to_owned()
        }))
    }
}

/// `scheme://user:password@host`.
pub(crate) fn has_password(repo: &str) -> bool {
    repo.split_once("://")
        .map(|(_, rest)| rest.split('/').next().unwrap_or_default())
        .and_then(|authority| authority.rsplit_once('@'))
        .is_some_and(|(user, _)| user.contains(':'))
}

/// Whether the configuration file alone leads to the same repositories.
fn said_by_file(settings: &Settings, repositories: &[&str]) -> bool {
    let arguments = RepositoryArguments {
        repo: Vec::new(),
        config: settings.file.clone(),
        ..RepositoryArguments::default()
    };
    settings.file.is_some()
        && Settings::resolve(&arguments, |_| None)
            .is_ok_and(|alone| alone.repositories == repositories)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(file: Option<PathBuf>) -> Settings {
        let arguments = RepositoryArguments {
            repo: vec!["/srv/repo".to_owned()],
            config: file,
            ..RepositoryArguments::default()
        };
        Settings::resolve(&arguments, |_| None).unwrap()
    }

    fn command(repo: &str, file: Option<PathBuf>) -> Result<RestoreCommand, RestoreCommandError> {
        RestoreCommand::new(
            &settings(file),
            &[repo],
            SystemIdentifier::new(7),
            TimelineId::FIRST,
        )
    }

    #[test]
    fn it_says_everything_in_absolute_terms() {
        let value = command("/srv/my repo/100%f", None).unwrap().setting();
        let value = String::from_utf8(value).unwrap();
        assert!(value.starts_with('/'), "{value}");
        assert!(
            value.ends_with(
                " --repo '/srv/my repo/100%%f' --system-identifier 7 --timeline 1 %f %p"
            ),
            "{value}"
        );
    }

    #[test]
    fn it_says_how_much_is_fetched_ahead_where_that_was_said() {
        let mut settings = settings(None);
        settings.prefetch = Some(3);
        let command = RestoreCommand::new(
            &settings,
            &["/srv/repo"],
            SystemIdentifier::new(7),
            TimelineId::FIRST,
        );
        let value = String::from_utf8(command.unwrap().setting()).unwrap();
        assert!(value.contains(" --prefetch 3 "), "{value}");
    }

    #[test]
    fn it_names_the_keys_by_their_paths() {
        let arguments = RepositoryArguments {
            repo: vec!["/srv/repo".to_owned()],
            identity: Some("/etc/pitr/my identity".into()),
            encryption_key_file: Some("/etc/pitr/key".into()),
            ..RepositoryArguments::default()
        };
        let settings = Settings::resolve(&arguments, |_| None).unwrap();
        let command = RestoreCommand::new(
            &settings,
            &["/srv/repo"],
            SystemIdentifier::new(7),
            TimelineId::FIRST,
        );
        let value = String::from_utf8(command.unwrap().setting()).unwrap();
        let expected =
            " --identity '/etc/pitr/my identity' --encryption-key-file /etc/pitr/key --system";
        assert!(value.contains(expected), "{value}");
    }

    #[test]
    fn a_password_is_never_written() {
        let secret = "sftp://me:secret@host/repo";
        assert!(matches!(
            command(secret, None),
            Err(RestoreCommandError::Secret)
        ));
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), format!("repo = \"{secret}\"\n")).unwrap();
        let value = command(secret, Some(file.path().to_owned()))
            .unwrap()
            .setting();
        let value = String::from_utf8(value).unwrap();
        assert!(
            !value.contains("secret") && value.contains("--config"),
            "{value}"
        );
        assert!(!has_password("s3://bucket/a:b@c"));
    }
}
