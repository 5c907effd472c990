//! A port for a clone, beside whatever runs on this machine.
//!
//! The usual restore is done beside the server that still works, with that
//! server's own configuration: the copy could not be started on its port.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use pitr_console::{Console, Failure};
use pitr_store::backup::BackupReader;

use crate::role::Role;
use crate::settings_file::SettingsFile;

/// `PostgreSQL`'s own port.
const DEFAULT_PORT: u16 = 5432;
/// Where servers have their sockets unless told otherwise: those of Debian and
/// of the source distribution.
const DEFAULT_SOCKET_FOLDERS: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// How many ports are tried.
const TRIES: u16 = 100;
/// More than any configuration file has.
const MAX_CONFIGURATION_BYTES: u64 = 1 << 20;

/// The port to write into the settings: the one asked for, else, for a clone
/// whose port is taken, the next that is free; `None` where the configured one
/// stays.
///
/// # Errors
/// The configuration in the backup cannot be read.
pub(crate) fn choose(
    asked: Option<u16>,
    role: Role,
    reader: &BackupReader,
    console: Console,
) -> Result<Option<u16>, Failure> {
    if asked.is_some() || role == Role::Primary {
        return Ok(asked);
    }
    let configuration = Configuration::read(reader)?;
    let taken = |port: u16| {
        is_taken_by_tcp(port)
            || configuration
                .socket_folders
                .iter()
                .any(|folder| is_taken_by_socket(folder, port))
    };
    if !taken(configuration.port) {
        return Ok(None);
    }
    let last = configuration.port.saturating_add(TRIES);
    let free = (configuration.port..=last).find(|port| !taken(*port));
    match free {
        Some(port) => {
            console.log(format!(
                "another server here uses port {}: the clone gets port {port}",
                configuration.port
            ));
            Ok(Some(port))
        }
        // whoever starts it is told then
        None => Ok(None),
    }
}

/// What the restored configuration says of where the server listens.
#[derive(Debug, PartialEq, Eq)]
struct Configuration {
    port: u16,
    socket_folders: Vec<PathBuf>,
}

impl Configuration {
    fn read(reader: &BackupReader) -> Result<Self, Failure> {
        let mut files = Vec::new();
        // the second wins over the first
        for name in ["postgresql.conf", "postgresql.auto.conf"] {
            let Ok(path) = name.parse() else { continue };
            if reader.index().find(&path).is_some() {
                let bytes = reader.read_member(&path, MAX_CONFIGURATION_BYTES)?;
                files.push(SettingsFile::parse(&bytes));
            }
        }
        Ok(Self::of(&files))
    }

    fn of(files: &[SettingsFile]) -> Self {
        let value = |name: &str| {
            let found = files.iter().rev().find_map(|file| file.value(name))?;
            String::from_utf8(found).ok()
        };
        let mut socket_folders: Vec<PathBuf> =
            DEFAULT_SOCKET_FOLDERS.iter().map(PathBuf::from).collect();
        if let Some(named) = value("unix_socket_directories") {
            let named = named.split(',').map(|name| name.trim().trim_matches('"'));
            socket_folders.extend(
                named
                    .filter(|name| name.starts_with('/'))
                    .map(PathBuf::from),
            );
        }
        Self {
            port: value("port")
                .and_then(|port| port.trim().parse().ok())
                .unwrap_or(DEFAULT_PORT),
            socket_folders,
        }
    }
}

fn is_taken_by_tcp(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == std::io::ErrorKind::AddrInUse)
}

/// Whether a server listens there. What a dead one left does not count: the
/// server that comes next takes it over.
fn is_taken_by_socket(folder: &Path, port: u16) -> bool {
    let socket = folder.join(format!(".s.PGSQL.{port}"));
    match UnixStream::connect(socket) {
        Ok(_) => true,
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn of(texts: &[&str]) -> Configuration {
        let files: Vec<SettingsFile> = texts
            .iter()
            .map(|text| SettingsFile::parse(text.as_bytes()))
            .collect();
        Configuration::of(&files)
    }

    #[test]
    fn the_automatic_configuration_wins() {
        assert_eq!(of(&[]).port, 5432);
        assert_eq!(of(&["port = 5433\n"]).port, 5433);
        assert_eq!(of(&["port = 5433\n", "port = '5434'\n"]).port, 5434);
        let folders = of(&["unix_socket_directories = '/srv/a, /srv/b'\n"]).socket_folders;
        assert!(folders.contains(&PathBuf::from("/srv/a")));
        assert!(folders.contains(&PathBuf::from("/srv/b")));
    }

    #[test]
    fn a_port_is_taken_by_whoever_listens_and_by_nobody_dead() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join(".s.PGSQL.6543");
        assert!(!is_taken_by_socket(folder.path(), 6543));
        let listener = UnixListener::bind(&socket).unwrap();
        assert!(is_taken_by_socket(folder.path(), 6543));
        drop(listener);
        assert!(!is_taken_by_socket(folder.path(), 6543));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        assert!(is_taken_by_tcp(listener.local_addr().unwrap().port()));
    }
}
