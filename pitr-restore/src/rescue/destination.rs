//! Where rescued tables go: a file, or a server.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use pitr_console::{Explain, Failure};
use pitr_postgres::{ConnectOptions, Connection, Mode, ProcessEnvironment, variables_of};

use super::child;
use super::sql::{identifier, literal};

/// Where rescued tables go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// A file of SQL, which is not there yet.
    File(PathBuf),
    /// A server.
    Server(String),
}

/// Why nothing can be put there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DestinationError {
    /// Nothing is overwritten.
    #[error("\"{}\" is there already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// There is no folder for it.
    #[error("there is no folder \"{}\" for \"{}\"", folder.display(), path.display())]
    NoFolder {
        /// The file.
        path: PathBuf,
        /// Its folder.
        folder: PathBuf,
    },
    /// The server has a table of that name.
    #[error("the server has {name} already")]
    TableExists {
        /// Its name.
        name: String,
    },
    /// psql did not load it.
    #[error("psql could not load the tables, and nothing was changed: {said}")]
    Load {
        /// What it said.
        said: String,
    },
    /// The file could not be written.
    #[error("could not write \"{}\": {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system answered.
        source: io::Error,
    },
}

impl Explain for DestinationError {
    fn hint(&self) -> Option<String> {
        match self {
            Self::Exists { .. } => Some("Name another file with --into.".to_owned()),
            Self::TableExists { .. } => Some(
                "--as NAME loads it under another name, --as-schema SCHEMA into another schema."
                    .to_owned(),
            ),
            Self::Load { .. } => Some(
                "Where roles are missing there, --no-owner leaves owners and privileges out. \
                 --into FILE writes the same to a file."
                    .to_owned(),
            ),
            Self::NoFolder { .. } | Self::Write { .. } => None,
        }
    }
}

impl Destination {
    /// What `--into` says: a connection string has an equals sign or is a URI.
    pub(crate) fn parse(text: &str) -> Self {
        let is_server = text.starts_with("postgres://")
            || text.starts_with("postgresql://")
            || (text.contains('=') && !text.contains('/') || is_pairs(text));
        if is_server {
            Self::Server(text.to_owned())
        } else {
            Self::File(text.into())
        }
    }

    /// Where it is, without anything secret.
    pub(crate) fn place(&self) -> String {
        match self {
            Self::File(path) => path.display().to_string(),
            Self::Server(connection) => {
                ConnectOptions::resolve(Some(connection), &ProcessEnvironment)
                    .map_or_else(|_| "the server".to_owned(), |options| options.to_string())
            }
        }
    }

    /// Looks whether there is room for what comes, before anything is restored.
    pub(crate) fn check(&self, tables: &[(Option<String>, String)]) -> Result<(), Failure> {
        match self {
            Self::File(path) => {
                if path.symlink_metadata().is_ok() {
                    return Err(DestinationError::Exists { path: path.clone() }.into());
                }
                let folder = folder_of(path);
                if !folder.is_dir() {
                    let path = path.clone();
                    return Err(DestinationError::NoFolder { path, folder }.into());
                }
                Ok(())
            }
            Self::Server(_) => {
                let mut connection = self.connect()?;
                for (schema, name) in tables {
                    let in_schema = schema.as_ref().map_or_else(
                        || "pg_table_is_visible(c.oid)".to_owned(),
                        |schema| format!("n.nspname = {}", literal(schema)),
                    );
                    let rows = connection.query(&format!(
                        "SELECT n.nspname || '.' || c.relname FROM pg_class c \
                         JOIN pg_namespace n ON n.oid = c.relnamespace \
                         WHERE c.relname = {} AND {in_schema}",
                        literal(name)
                    ));
                    let rows = rows.map_err(|error| Failure::from_error(&error))?;
                    if let Some(name) = rows.first().and_then(|row| row.get(0)) {
                        let name = name.to_owned();
                        return Err(DestinationError::TableExists { name }.into());
                    }
                }
                Ok(())
            }
        }
    }

    fn connect(&self) -> Result<Connection, Failure> {
        let Self::Server(connection) = self else {
            return Err(Failure::new("a file is no server"));
        };
        let options = ConnectOptions::resolve(Some(connection), &ProcessEnvironment)
            .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?
            .with_program_name("pitr-restore");
        Connection::connect(&options, Mode::Sql)
            .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))
    }

    /// Puts a finished dump there: whole, or not at all.
    pub(crate) fn put(&self, dump: &Path, psql: &Path) -> Result<(), Failure> {
        match self {
            Self::File(path) => {
                write_once(dump, path).map_err(|source| match source.kind() {
                    io::ErrorKind::AlreadyExists => DestinationError::Exists { path: path.clone() },
                    _ => DestinationError::Write {
                        path: path.clone(),
                        source,
                    },
                })?;
                Ok(())
            }
            Self::Server(connection) => {
                let variables = variables_of(connection)
                    .map_err(|error| Failure::from_error(&error).with_hint_of(error.hint()))?;
                let mut command = Command::new(psql);
                command
                    .args(["--no-psqlrc", "--quiet", "--no-password"])
                    .args(["--set", "ON_ERROR_STOP=1", "--single-transaction", "--file"])
                    .arg(dump)
                    .envs(variables)
                    .stdin(Stdio::null())
                    .stdout(Stdio::null())
                    .stderr(Stdio::piped());
                let output = child::run(&mut command).map_err(|error| {
                    Failure::new(format!("could not run \"{}\": {error}", psql.display()))
                })?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(DestinationError::Load { said }.into())
            }
        }
    }

    /// Rows of a table there; `None` for a file.
    pub(crate) fn count(&self, schema: &str, name: &str) -> Result<Option<u64>, Failure> {
        if matches!(self, Self::File(_)) {
            return Ok(None);
        }
        let table = format!("{}.{}", identifier(schema), identifier(name));
        let rows = self
            .connect()?
            .query(&format!("SELECT count(*) FROM {table}"))
            .map_err(|error| Failure::from_error(&error))?;
        let count = rows.first().and_then(|row| row.get(0)?.parse().ok());
        Ok(count)
    }
}

/// `name=value name=value`, as libpq takes it.
fn is_pairs(text: &str) -> bool {
    let first = text.split('=').next().unwrap_or_default().trim();
    text.contains('=')
        && [
            "host", "hostaddr", "port", "dbname", "user", "service", "password", "sslmode",
        ]
        .contains(&first)
}

fn folder_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}

/// Copies `from` to `to`, which must not be there: written beside it, synced,
/// and linked to its name, which never replaces.
fn write_once(from: &Path, to: &Path) -> io::Result<()> {
    let folder = folder_of(to);
    let mut name = to.file_name().unwrap_or_default().to_owned();
    name.push(format!(".pitr-{}", std::process::id()));
    let beside = folder.join(name);
    let written = copy_synced(from, &beside)
        .and_then(|()| fs::hard_link(&beside, to))
        .and_then(|()| fs::File::open(&folder)?.sync_all());
    let removed = fs::remove_file(&beside);
    written.and(removed)
}

fn copy_synced(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut source = fs::File::open(from)?;
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        // it holds what the table holds
        .mode(0o600)
        .open(to)?;
    io::copy(&mut source, &mut file)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_is_told_from_a_file() {
        for server in [
            "host=/run/postgresql dbname=shop",
            "dbname=shop",
            "postgresql://ana@db1/shop",
            "service=shop",
        ] {
            assert!(
                matches!(Destination::parse(server), Destination::Server(_)),
                "{server}"
            );
        }
        for file in ["orders.sql", "/srv/a=b/orders.sql", "./x"] {
            assert!(
                matches!(Destination::parse(file), Destination::File(_)),
                "{file}"
            );
        }
    }

    #[test]
    fn no_secret_is_shown() {
        let place = Destination::parse("host=/tmp user=ana password=hunter2 dbname=shop").place();
        assert!(
            !place.contains("hunter2") && place.contains("shop"),
            "{place}"
        );
    }

    #[test]
    fn a_file_is_written_once() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "rows").unwrap();
        write_once(&from, &to).unwrap();
        assert_eq!(fs::read_to_string(&to).unwrap(), "rows");
        fs::write(&from, "others").unwrap();
        let again = write_once(&from, &to).unwrap_err();
        assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(fs::read_to_string(&to).unwrap(), "rows");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert!(Destination::File(to).check(&[]).is_err());
        let nowhere = folder.path().join("no/where");
        assert!(Destination::File(nowhere).check(&[]).is_err());
    }
}
