//! Where the repository is and how the commands behave: flag over
//! environment over file.
//!
//! Nothing is read from the working directory, which under `PostgreSQL` is
//! the data directory.

use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use pitr_store::backup::DEFAULT_PARTS_IN_FLIGHT;
use pitr_store::encryption::{KeySource, PublicKey};
use pitr_store::{AzOptions, FtpOptions, GsOptions, S3Options, SftpOptions, StoreOptions};
use serde::Deserialize;

use crate::Explain;

/// The file that is read where neither `--config` nor `PITR_CONFIG` names one.
const DEFAULT_FILE: &str = "/etc/pitr/pitr.toml";

/// Niceness of a base backup where nobody names one: the server's own processes
/// come first, and it still has what they leave.
const DEFAULT_NICE: u8 = 10;

/// The flags of every command that reaches a repository.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct RepositoryArguments {
    /// Repository: an absolute path, or a URL like s3://BUCKET/PATH or sftp://USER@HOST/PATH;
    /// give it again for each of several that are to hold the same [env: PITR_REPO, one address per
    /// line]
    #[arg(long, value_name = "URL", global = true)]
    pub repo: Vec<String>,

    /// Configuration file [env: PITR_CONFIG] [default: /etc/pitr/pitr.toml]
    #[arg(long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,

    /// Identity that opens an encrypted repository: what age-keygen wrote [env: PITR_IDENTITY]
    #[arg(long, value_name = "FILE", global = true)]
    pub identity: Option<PathBuf>,

    /// Key file that opens an encrypted repository: 32 random bytes [env: PITR_ENCRYPTION_KEY_FILE]
    #[arg(long, value_name = "FILE", global = true)]
    pub encryption_key_file: Option<PathBuf>,
}

/// What the configuration file may say; an unknown key is an error, since a
/// misspelt one would otherwise be ignored silently.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    repo: Option<Repositories>,
    required: Option<usize>,
    compression: Option<String>,
    connection: Option<String>,
    threads: Option<usize>,
    parts_in_flight: Option<NonZeroUsize>,
    max_rate: Option<String>,
    nice: Option<u8>,
    wal_wait_seconds: Option<u64>,
    pg_bin: Option<PathBuf>,
    spool: Option<PathBuf>,
    prefetch: Option<u32>,
    look_ahead: Option<usize>,
    look_ahead_seconds: Option<u64>,
    state: Option<PathBuf>,
    identity: Option<PathBuf>,
    encryption_key_file: Option<PathBuf>,
    repository_key: Option<RepositoryKeys>,
    #[serde(default)]
    s3: S3Options,
    #[serde(default)]
    gs: GsOptions,
    #[serde(default)]
    az: AzOptions,
    #[serde(default)]
    sftp: SftpOptions,
    #[serde(default)]
    ftp: FtpOptions,
}

/// `repo = "/srv/pitr"` or `repo = ["/srv/pitr", "/mnt/other"]`.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged, expecting = "repo must be an address or a list of addresses")]
enum Repositories {
    One(String),
    Several(Vec<String>),
}

impl From<Repositories> for Vec<String> {
    fn from(repositories: Repositories) -> Self {
        match repositories {
            Repositories::One(address) => vec![address],
            Repositories::Several(addresses) => addresses,
        }
    }
}

/// `repository_key = "0123…"`, or a list of them.
#[derive(Debug, Clone, Deserialize)]
#[serde(
    untagged,
    expecting = "repository_key must be a public key of 64 hexadecimal digits, or a list of them"
)]
enum RepositoryKeys {
    One(PublicKey),
    Several(Vec<PublicKey>),
}

impl From<RepositoryKeys> for Vec<PublicKey> {
    fn from(keys: RepositoryKeys) -> Self {
        match keys {
            RepositoryKeys::One(key) => vec![key],
            RepositoryKeys::Several(keys) => keys,
        }
    }
}

/// The settings in force, each with where it came from already decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where the repositories are, all of which hold the same; empty where
    /// nobody said.
    pub repositories: Vec<String>,
    /// How many of the repositories must have what is written before it counts
    /// as done; `None`: all of them. Belongs to the list of the configuration
    /// file, and is not in force where a flag or the environment names others.
    pub required: Option<usize>,
    /// Codec of new objects: `zstd`, `zstd:LEVEL`, `xz`, `xz:LEVEL` or `none`.
    pub compression: String,
    /// Connection string of the server, merged under libpq's environment.
    pub connection: Option<String>,
    /// Threads for compressing, decompressing and copying.
    pub threads: usize,
    /// Parts of a base backup that are on their way to or from the store at
    /// once.
    pub parts_in_flight: NonZeroUsize,
    /// Limit of a base backup's rate, as [`TransferRate`](crate::TransferRate)
    /// reads it.
    pub max_rate: Option<String>,
    /// How far a base backup steps back behind other processes, 0 to 19.
    pub nice: u8,
    /// How long a backup waits for the next segment that it needs, in seconds.
    pub wal_wait_seconds: u64,
    /// Folder of `pg_ctl` and `postgres`.
    pub pg_bin: Option<PathBuf>,
    /// Folder in which "pitr-archive receive" keeps what is not in the
    /// repositories yet; absolute.
    pub spool: Option<PathBuf>,
    /// How many segments are fetched ahead of a server that recovers; 0: none;
    /// `None`: as many as suit their size.
    pub prefetch: Option<u32>,
    /// Files that a push archives together where several are ready; 0 or 1: each by
    /// itself. `None`: as many as the archiver thinks fit.
    pub look_ahead: Option<usize>,
    /// How long a push begins with further files. `None`: as long as the archiver
    /// thinks fit.
    pub look_ahead_seconds: Option<u64>,
    /// Folder in which the archiver keeps what it knows of files that it archived
    /// ahead; absolute. `None`: where such things lie on this system.
    pub state: Option<PathBuf>,
    /// What opens an encrypted repository, and which one it must be. Paths are
    /// absolute.
    pub keys: KeySource,
    /// How remote stores are reached.
    pub stores: StoreOptions,
    /// The configuration file that was read.
    pub file: Option<PathBuf>,
}

/// Why the settings cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file is there, or was named, and cannot be read.
    #[error("could not read configuration file \"{}\"", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: std::io::Error,
    },
    /// The file is not what it should be.
    #[error("configuration file \"{}\" is not valid: {reason}", path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong, and in which line.
        reason: String,
    },
    /// A variable of the environment is not UTF-8.
    #[error("environment variable {name} is not valid UTF-8")]
    NotUtf8 {
        /// The variable.
        name: &'static str,
    },
    /// A relative path of a key, of the spool or of the state, which would mean another file for every caller.
    #[error("{name} \"{}\" is not an absolute path", found.display())]
    RelativeKey {
        /// The setting or variable.
        name: &'static str,
        /// What was given.
        found: PathBuf,
    },
    /// Nobody said where the repository is.
    #[error("no repository was named")]
    NoRepository,
    /// Several are named to one who works on a single one.
    #[error("{} repositories are named, and this works on one", found.len())]
    SeveralRepositories {
        /// Those that are named.
        found: Vec<String>,
    },
    /// The same address twice: what is stored there is there once.
    #[error("repository \"{found}\" is named twice")]
    NamedTwice {
        /// The address.
        found: String,
    },
    /// More copies are required than there are repositories, or none.
    #[error("required is {required}, and {repositories} repositories are named")]
    Required {
        /// What the file says.
        required: usize,
        /// How many it names.
        repositories: usize,
    },
    /// A relative path, which would mean another place for every caller.
    #[error(
        "repository \"{}\" is not an absolute path or URL",
        without_login(found)
    )]
    RelativeRepository {
        /// What was given.
        found: String,
    },
}

impl Explain for SettingsError {
    fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreadable { path, .. } => format!(
                "Check that the file exists and that this user may read it: ls -l {}",
                path.display()
            ),
            Self::Invalid { .. } => "The keys are: repo, required, compression, connection, \
                                     threads, parts_in_flight, max_rate, nice, \
                                     wal_wait_seconds, pg_bin, spool, prefetch, look_ahead, \
                                     look_ahead_seconds, state; \
                                     the tables are: [s3], [gs], [az], [sftp], [ftp]."
                .to_owned(),
            Self::NotUtf8 { name } => format!("Set {name} to plain text, or unset it."),
            Self::RelativeKey { name, .. } => {
                format!(
                    "PostgreSQL runs its commands in the data directory: give {name} a whole path."
                )
            }
            Self::NoRepository => {
                format!("Name it with --repo, in PITR_REPO, or as repo = \"…\" in {DEFAULT_FILE}.")
            }
            Self::SeveralRepositories { .. } => "Name the one that is meant with --repo.".to_owned(),
            Self::NamedTwice { .. } => {
                "Every repository must be a place of its own: two copies on one disk are lost together."
                    .to_owned()
            }
            Self::Required { .. } => {
                "It says how many of the repositories must have a file before the server may \
                 recycle it: from 1 to as many as repo names. Without it all must."
                    .to_owned()
            }
            Self::RelativeRepository { found } => format!(
                "PostgreSQL runs its commands in the data directory: give the whole path, as in /srv/{}.",
                without_login(found).trim_start_matches("./")
            ),
        })
    }
}

/// An address as it may be shown: what stands before a host may be a password.
fn without_login(address: &str) -> &str {
    address.rsplit('@').next().unwrap_or(address)
}

impl Settings {
    /// Reads the settings of this process.
    ///
    /// # Errors
    /// See [`SettingsError`]. A default file that does not exist is none.
    pub fn load(arguments: &RepositoryArguments) -> Result<Self, SettingsError> {
        Self::resolve(arguments, |name| std::env::var_os(name))
    }

    /// Reads the settings with the environment that `variable` answers for.
    ///
    /// # Errors
    /// As [`Settings::load`].
    pub fn resolve(
        arguments: &RepositoryArguments,
        variable: impl Fn(&str) -> Option<OsString>,
    ) -> Result<Self, SettingsError> {
        let named = arguments.config.clone().or_else(|| {
            variable("PITR_CONFIG")
                .filter(|v| !v.is_empty())
                .map(PathBuf::from)
        });
        let must_exist = named.is_some();
        let path = named.unwrap_or_else(|| PathBuf::from(DEFAULT_FILE));
        let (file, read_from) = match read(&path) {
            Ok(file) => (file, Some(path)),
            Err(SettingsError::Unreadable { source, .. })
                if !must_exist && source.kind() == std::io::ErrorKind::NotFound =>
            {
                (File::default(), None)
            }
            Err(error) => return Err(error),
        };
        let text = |name: &'static str| match variable(name) {
            None => Ok(None),
            Some(value) if value.is_empty() => Ok(None),
            Some(value) => value
                .into_string()
                .map(Some)
                .map_err(|_| SettingsError::NotUtf8 { name }),
        };
        let (repositories, required) = if !arguments.repo.is_empty() {
            (arguments.repo.clone(), None)
        } else if let Some(lines) = text("PITR_REPO")? {
            let lines = lines.lines().filter(|line| !line.is_empty());
            (lines.map(str::to_owned).collect(), None)
        } else {
            let repositories = file.repo.map(Vec::from).unwrap_or_default();
            if let Some(required) = file.required
                && !(1..=repositories.len()).contains(&required)
            {
                return Err(SettingsError::Required {
                    required,
                    repositories: repositories.len(),
                });
            }
            (repositories, file.required)
        };
        let key = |flag: &Option<PathBuf>, variable: &'static str, name, file: Option<PathBuf>| {
            if let Some(path) = flag {
                // typed by a person, who means a place below the one he is in
                return Ok(Some(std::path::absolute(path).unwrap_or(path.clone())));
            }
            let (name, path) = match text(variable)? {
                Some(path) => (variable, Some(PathBuf::from(path))),
                None => (name, file),
            };
            match path {
                Some(found) if !found.is_absolute() => {
                    Err(SettingsError::RelativeKey { name, found })
                }
                path => Ok(path),
            }
        };
        let keys = KeySource {
            identity: key(
                &arguments.identity,
                "PITR_IDENTITY",
                "identity",
                file.identity,
            )?,
            key_file: key(
                &arguments.encryption_key_file,
                "PITR_ENCRYPTION_KEY_FILE",
                "encryption_key_file",
                file.encryption_key_file,
            )?,
            repository_keys: file.repository_key.map(Vec::from).unwrap_or_default(),
        };
        let absolute = |name, path: Option<PathBuf>| match path {
            Some(found) if !found.is_absolute() => Err(SettingsError::RelativeKey { name, found }),
            path => Ok(path),
        };
        let spool = absolute("spool", file.spool)?;
        let state = absolute("state", file.state)?;
        Ok(Self {
            keys,
            repositories,
            required,
            compression: file.compression.unwrap_or_else(|| "zstd".to_owned()),
            connection: file.connection,
            threads: file.threads.filter(|n| *n > 0).unwrap_or_else(cores),
            parts_in_flight: file.parts_in_flight.unwrap_or(DEFAULT_PARTS_IN_FLIGHT),
            max_rate: file.max_rate,
            nice: file.nice.unwrap_or(DEFAULT_NICE),
            wal_wait_seconds: file.wal_wait_seconds.unwrap_or(60),
            pg_bin: file.pg_bin,
            spool,
            prefetch: file.prefetch,
            look_ahead: file.look_ahead,
            look_ahead_seconds: file.look_ahead_seconds,
            state,
            stores: StoreOptions {
                s3: file.s3,
                gs: file.gs,
                az: file.az,
                sftp: file.sftp,
                ftp: file.ftp,
            },
            file: read_from,
        })
    }

    /// Where the repository is, for one who works on a single one.
    ///
    /// # Errors
    /// [`SettingsError::SeveralRepositories`] where more are named; else as
    /// [`Settings::repositories`].
    pub fn repository(&self) -> Result<&str, SettingsError> {
        match self.repositories()?.as_slice() {
            [one] => Ok(one),
            several => Err(SettingsError::SeveralRepositories {
                found: several.iter().map(|&address| address.to_owned()).collect(),
            }),
        }
    }

    /// Where all the repositories are, at least one, in the order of the
    /// setting.
    ///
    /// # Errors
    /// [`SettingsError::NoRepository`] where nobody said;
    /// [`SettingsError::RelativeRepository`] for a path that depends on the
    /// working directory; [`SettingsError::NamedTwice`].
    pub fn repositories(&self) -> Result<Vec<&str>, SettingsError> {
        let mut addresses: Vec<&str> = Vec::new();
        for address in &self.repositories {
            if address.is_empty() {
                return Err(SettingsError::NoRepository);
            }
            if !(address.starts_with('/') || address.contains("://")) {
                return Err(SettingsError::RelativeRepository {
                    found: address.clone(),
                });
            }
            if addresses.contains(&address.as_str()) {
                return Err(SettingsError::NamedTwice {
                    found: address.clone(),
                });
            }
            addresses.push(address);
        }
        if addresses.is_empty() {
            return Err(SettingsError::NoRepository);
        }
        Ok(addresses)
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn read(path: &Path) -> Result<File, SettingsError> {
    let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Unreadable {
        path: path.to_owned(),
        source,
    })?;
    toml::from_str(&text).map_err(|error| SettingsError::Invalid {
        path: path.to_owned(),
        reason: reason(&text, &error),
    })
}

/// What is wrong and where, without the line itself: it may hold the password
/// of a connection string.
fn reason(text: &str, error: &toml::de::Error) -> String {
    let message = match error.message().split_once("invalid type: string ") {
        // this one quotes the value
        Some((before, quoted)) => {
            let expected = quoted.rsplit_once(", expected ").map_or("", |(_, e)| e);
            format!("{before}a string stands where {expected} belongs")
        }
        None => error.message().to_owned(),
    };
    let before = error.span().and_then(|span| text.get(..span.start));
    match before {
        Some(before) => {
            let line = before.matches('\n').count() + 1;
            format!("line {line}: {message}")
        }
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn resolve(
        repo: Option<&str>,
        config: Option<&Path>,
        env: &[(&str, &str)],
    ) -> Result<Settings, SettingsError> {
        let env: HashMap<String, OsString> = env
            .iter()
            .map(|(k, v)| ((*k).to_owned(), OsString::from(v)))
            .collect();
        let arguments = RepositoryArguments {
            repo: repo.iter().map(|&address| address.to_owned()).collect(),
            config: config.map(Path::to_owned),
            ..RepositoryArguments::default()
        };
        Settings::resolve(&arguments, |name| env.get(name).cloned())
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), text).unwrap();
        file
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let file = file("repo = \"/from/file\"\n");
        let path = Some(file.path());
        let env = [("PITR_REPO", "/from/env")];
        let repo = |r: Result<Settings, _>| r.unwrap().repository().unwrap().to_owned();
        assert_eq!(repo(resolve(Some("/from/flag"), path, &env)), "/from/flag");
        assert_eq!(repo(resolve(None, path, &env)), "/from/env");
        assert_eq!(repo(resolve(None, path, &[])), "/from/file");
    }

    #[test]
    fn a_named_file_that_is_missing_is_an_error() {
        let gone = Path::new("/nonexistent/pitr.toml");
        assert!(matches!(
            resolve(None, Some(gone), &[]),
            Err(SettingsError::Unreadable { .. })
        ));
    }

    #[test]
    fn a_misspelt_key_is_refused_by_name() {
        let file = file("repos = \"/x\"\n");
        let error = resolve(None, Some(file.path()), &[]).unwrap_err();
        assert!(error.to_string().contains("repos"), "{error}");
    }

    #[test]
    fn a_broken_file_is_told_by_line_and_its_passwords_not_at_all() {
        for text in [
            "repo = \"/r\"\nconnection = \"host=db password=secret",
            "repo = \"/r\"\nconnection = host=db password=secret",
            "repo = \"/r\"\nconnection = 'password=secret' x",
            "repo = \"/r\"\nthreads = \"password=secret\"",
            "repo = \"/r\"\npg_bin = [\"password=secret\"]",
            "repo = \"/r\"\nconnection = [\"password=secret\"]",
            "repo = \"/r\"\nconnection = { password = \"secret\" }",
            "repo = \"/r\"\n[connection]\npassword = \"secret\"",
            "repo = \"/r\"\nconnection = \"a\\secret\"",
        ] {
            let file = file(text);
            let error = resolve(None, Some(file.path()), &[]).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("secret"), "{shown}");
            assert!(error.to_string().contains("line 2"), "{error}");
        }
    }

    #[test]
    fn a_relative_repository_is_refused() {
        let settings = resolve(Some("repo"), None, &[]).unwrap();
        assert!(matches!(
            settings.repository(),
            Err(SettingsError::RelativeRepository { .. })
        ));
    }

    #[test]
    fn a_misspelt_address_is_told_without_its_password() {
        for found in ["sftp:u:hunter2@h/p", "u:hun@ter2@h:/p"] {
            let found = found.to_owned();
            let error = SettingsError::RelativeRepository { found };
            let shown = format!("{error} {:?}", error.hint());
            assert!(shown.contains("h") && !shown.contains("ter2"), "{shown}");
        }
    }

    #[test]
    fn several_repositories_are_a_list_a_repeated_flag_or_lines() {
        let several = |settings: &Settings| {
            let addresses = settings.repositories().unwrap();
            addresses.into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let list = file("repo = [\"/a b\", \"s3://c/d:e\"]\nrequired = 1\n");
        let from_file = resolve(None, Some(list.path()), &[]).unwrap();
        assert_eq!(several(&from_file), ["/a b", "s3://c/d:e"]);
        assert_eq!(from_file.required, Some(1));
        assert!(matches!(
            from_file.repository(),
            Err(SettingsError::SeveralRepositories { .. })
        ));

        // required belongs to the list beside it
        let env = [("PITR_REPO", "/x y\n/z:1\n")];
        let from_env = resolve(None, Some(list.path()), &env).unwrap();
        assert_eq!(several(&from_env), ["/x y", "/z:1"]);
        assert_eq!(from_env.required, None);

        let arguments = RepositoryArguments {
            repo: vec!["/f".to_owned(), "/g".to_owned()],
            config: Some(list.path().to_owned()),
            ..RepositoryArguments::default()
        };
        let from_flags = Settings::resolve(&arguments, |_| None).unwrap();
        assert_eq!(several(&from_flags), ["/f", "/g"]);
        assert_eq!(from_flags.required, None);
    }

    #[test]
    fn a_list_that_cannot_be_meant_is_refused() {
        for (text, why) in [
            ("repo = [\"/a\", \"/b\"]\nrequired = 3\n", "required is 3"),
            ("repo = [\"/a\", \"/b\"]\nrequired = 0\n", "required is 0"),
            ("required = 1\n", "0 repositories"),
            ("repo = [\"/a\", \"/a\"]\n", "named twice"),
            ("repo = [\"/a\", \"b\"]\n", "not an absolute path"),
            ("repo = []\n", "no repository"),
            ("repo = 5\n", "an address or a list"),
        ] {
            let file = file(text);
            let resolved = resolve(None, Some(file.path()), &[]);
            let error = resolved
                .and_then(|settings| settings.repositories().map(|_| ()))
                .unwrap_err();
            assert!(error.to_string().contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn keys_are_named_by_absolute_paths_flag_over_environment_over_file() {
        let file = file("repo = \"/r\"\nidentity = \"/file\"\nencryption_key_file = \"/k\"\n");
        let path = Some(file.path());
        let keys = |env: &[(&str, &str)]| resolve(None, path, env).unwrap().keys;
        assert_eq!(keys(&[]).identity.unwrap(), Path::new("/file"));
        let from_env = keys(&[("PITR_IDENTITY", "/env")]);
        assert_eq!(from_env.identity.unwrap(), Path::new("/env"));
        assert_eq!(from_env.key_file.unwrap(), Path::new("/k"));
        assert!(matches!(
            resolve(None, path, &[("PITR_ENCRYPTION_KEY_FILE", "k")]),
            Err(SettingsError::RelativeKey { .. })
        ));
        let arguments = RepositoryArguments {
            config: path.map(Path::to_owned),
            identity: Some("flag".into()),
            ..RepositoryArguments::default()
        };
        let settings = Settings::resolve(&arguments, |_| Some("/env".into())).unwrap();
        let identity = settings.keys.identity.unwrap();
        assert!(identity.is_absolute() && identity.ends_with("flag"));
    }

    #[test]
    fn the_repository_s_public_key_is_one_or_a_list() {
        let (a, b) = ("a".repeat(64), "b".repeat(64));
        for (text, count) in [
            (format!("repository_key = \"{a}\""), 1),
            (format!("repository_key = [\"{a}\", \"{b}\"]"), 2),
        ] {
            let settings = resolve(None, Some(file(&text).path()), &[]).unwrap();
            assert_eq!(settings.keys.repository_keys.len(), count);
        }
        let wrong = file("repository_key = \"AGE-SECRET-KEY-1QQQ\"\n");
        let error = resolve(None, Some(wrong.path()), &[]).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("64 hexadecimal digits"), "{shown}");
        assert!(!shown.contains("QQQ"), "{shown}");
    }

    #[test]
    fn looking_ahead_is_set_by_number_time_and_an_absolute_folder() {
        let text = "look_ahead = 8\nlook_ahead_seconds = 5\nstate = \"/var/lib/x\"\n";
        let settings = resolve(None, Some(file(text).path()), &[]).unwrap();
        assert_eq!(settings.look_ahead, Some(8));
        assert_eq!(settings.look_ahead_seconds, Some(5));
        assert_eq!(settings.state.as_deref(), Some(Path::new("/var/lib/x")));
        let relative = file("state = \"x\"\n");
        assert!(matches!(
            resolve(None, Some(relative.path()), &[]),
            Err(SettingsError::RelativeKey { name: "state", .. })
        ));
    }

    #[test]
    fn an_empty_environment_is_enough() {
        let settings = resolve(Some("/srv/pitr"), None, &[]).unwrap();
        assert_eq!(settings.repository().unwrap(), "/srv/pitr");
        assert_eq!(settings.compression, "zstd");
    }
}
