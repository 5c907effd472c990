//! Folders of an FTP store, and what is in them.
//!
//! FTP answers 550 to almost everything, and many servers list a folder that
//! does not exist as an empty one. So a folder is entered before it is listed,
//! and a name is absent only if the folder above it was entered, listed, and
//! does not hold it.

use std::time::SystemTime;

use suppaftp::list::ListParser;
use suppaftp::types::Response;
use suppaftp::{FtpError, Status};

use super::connection::{Connection, Failure, Server};
use crate::key::ObjectKey;
use crate::store::{Entry, EntryKind, NodeKind, ObjectMeta, Operation, StoreError};

/// Deepest folder that is removed below the one named.
const MAX_DEPTH: usize = 16;

/// What carries a name.
#[derive(Clone, Debug)]
pub(super) struct Listed {
    pub(super) name: String,
    pub(super) kind: NodeKind,
    pub(super) size: u64,
    /// When it was changed last, by the server's clock, if the server tells it
    /// to the second.
    pub(super) changed: Option<SystemTime>,
}

impl Connection {
    /// Path of `key` on the server.
    pub(super) fn path(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => format!("{}/{key}", self.root),
            None => self.root.clone(),
        }
    }

    /// Everything in a folder; `None` if the server does not let us in, which
    /// it says of a folder that does not exist too.
    pub(super) fn names(&mut self, path: &str) -> Result<Option<Vec<Listed>>, FtpError> {
        match self.ftp.cwd(path) {
            Ok(()) => {}
            Err(FtpError::UnexpectedResponse(response))
                if response.status == Status::FileUnavailable =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
        let mut listed = Vec::new();
        if self.has_mlsd {
            for line in self.ftp.mlsd(None)? {
                let name = line.split_once("; ").map_or("", |(_, name)| name);
                // A line that makes no sense must not pass for an absence.
                let file = match ListParser::parse_mlsd(&line) {
                    Ok(file) => {
                        let kind = if file.is_directory() {
                            NodeKind::Folder
                        } else if file.is_symlink() {
                            NodeKind::Link
                        } else {
                            NodeKind::Object
                        };
                        Listed {
                            name: file.name().to_owned(),
                            kind,
                            size: u64::try_from(file.size()).unwrap_or(0),
                            changed: Some(file.modified())
                                .filter(|time| *time != SystemTime::UNIX_EPOCH),
                        }
                    }
                    Err(_) if !name.is_empty() => Listed {
                        name: name.to_owned(),
                        kind: NodeKind::Special,
                        size: 0,
                        changed: None,
                    },
                    Err(_) => return Err(unreadable(&line)),
                };
                listed.push(file);
            }
        } else {
            // Names that begin with a dot are listed on demand only.
            let mut lines = self.ftp.list(Some("-a"))?;
            listed = posix_or_dos(&lines)?;
            // A server that takes the option for the name of a file lists
            // nothing, which must not pass for an empty folder.
            if !listed.iter().any(|file| file.name == ".") {
                lines = self.ftp.list(None)?;
                for file in posix_or_dos(&lines)? {
                    if !listed.iter().any(|known| known.name == file.name) {
                        listed.push(file);
                    }
                }
            }
        }
        listed.retain(|file| !matches!(file.name.as_str(), "." | "..") && !file.name.is_empty());
        Ok(Some(listed))
    }

    /// Makes a folder that only its owner can enter, where the server can do
    /// that.
    fn make_one(&mut self, path: &str) -> Result<(), FtpError> {
        match self.ftp.mkdir(path) {
            Ok(()) => {
                self.make_private(path, "700");
                Ok(())
            }
            // Perhaps it is there; whoever needs it will see.
            Err(FtpError::UnexpectedResponse(_)) if self.ftp.cwd(path).is_ok() => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Takes `path` from everybody but its owner, where the server can do that.
    pub(super) fn make_private(&mut self, path: &str, mode: &str) {
        // Not every server has it, and there is nothing else to be had.
        let _ = self.ftp.site(format!("CHMOD {mode} {path}"));
    }
}

impl Server {
    /// Where `key` lies, for messages.
    pub(super) fn text(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => format!("{}/{key}", self.address.location()),
            None => self.address.location(),
        }
    }

    /// Everything in the folder `key`; `None` if its absence is proven.
    pub(super) fn look_into(
        &self,
        key: Option<&ObjectKey>,
        operation: Operation,
    ) -> Result<Option<Vec<Listed>>, StoreError> {
        let location = self.text(key);
        let enter = || {
            self.call(operation, &location, |connection, _| {
                let path = connection.path(key);
                connection.names(&path)
            })
            .map_err(|failure| failure.into_store(operation, location.clone()))
        };
        let listed = enter()?;
        if listed.is_some() {
            return Ok(listed);
        }
        let Some(key) = key else {
            return Err(StoreError::RootMissing { location });
        };
        // Not to be entered. The folder above says whether it is there at all.
        match self.find(key, operation)? {
            None => Ok(None),
            // somebody may have made it since
            Some(found) if found.kind == NodeKind::Folder => match enter()? {
                Some(listed) => Ok(Some(listed)),
                None => Err(StoreError::PermissionDenied {
                    operation,
                    location,
                }),
            },
            Some(found) => Err(StoreError::WrongKind {
                location,
                expected: NodeKind::Folder,
                found: found.kind,
            }),
        }
    }

    /// What the folder above `key` says of it; `None` if its absence is proven.
    pub(super) fn find(
        &self,
        key: &ObjectKey,
        operation: Operation,
    ) -> Result<Option<Listed>, StoreError> {
        let Some(listed) = self.look_into(key.parent().as_ref(), operation)? else {
            return Ok(None);
        };
        Ok(listed.into_iter().find(|file| file.name == key.file_name()))
    }

    /// The object `key`, asked for by itself; `None` if its absence is proven.
    pub(super) fn stat_object(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        let location = self.text(Some(key));
        let asked = self.call(Operation::Stat, &location, |connection, _| {
            let path = connection.path(Some(key));
            connection.ftp.size(path)
        });
        match asked {
            Ok(size) => {
                return Ok(Some(ObjectMeta {
                    size: u64::try_from(size).unwrap_or(u64::MAX),
                }));
            }
            Err(Failure::Answered(_)) => {}
            Err(Failure::Store(error)) => return Err(error),
        }
        match self.find(key, Operation::Stat)? {
            None => Ok(None),
            Some(found) if found.kind == NodeKind::Object => {
                Ok(Some(ObjectMeta { size: found.size }))
            }
            Some(found) => Err(StoreError::WrongKind {
                location,
                expected: NodeKind::Object,
                found: found.kind,
            }),
        }
    }

    /// The error for `key` after the server refused its path.
    pub(super) fn proven(
        &self,
        key: &ObjectKey,
        failure: Failure,
        operation: Operation,
    ) -> StoreError {
        let location = self.text(Some(key));
        match self.find(key, operation) {
            Ok(None) => StoreError::NotFound { location },
            Ok(Some(found)) if found.kind != NodeKind::Object => StoreError::WrongKind {
                location,
                expected: NodeKind::Object,
                found: found.kind,
            },
            Ok(Some(_)) => failure.into_store(operation, location),
            Err(error) => error,
        }
    }

    /// Makes the store's folder and what is missing above it.
    pub(super) fn make_root(&self) -> Result<(), StoreError> {
        let location = self.text(None);
        self.call(Operation::Create, &location, |connection, _| {
            let root = connection.root.clone();
            if connection.ftp.cwd(&root).is_ok() {
                return Ok(());
            }
            let mut path = String::new();
            for name in root.split('/').filter(|name| !name.is_empty()) {
                path = format!("{path}/{name}");
                if connection.ftp.cwd(&path).is_err() {
                    connection.make_one(&path)?;
                }
            }
            connection.ftp.cwd(&root)
        })
        .map_err(|failure| failure.into_store(Operation::Create, location.clone()))
    }

    /// Makes the folder `key` where it is missing; never the root.
    pub(super) fn make_folder(&self, key: &ObjectKey) -> Result<(), StoreError> {
        if self.look_into(Some(key), Operation::Create)?.is_some() {
            return Ok(());
        }
        let location = self.text(Some(key));
        self.call(Operation::Create, &location, |connection, _| {
            let mut path = connection.root.clone();
            for name in key.components() {
                path = format!("{path}/{name}");
                connection.make_one(&path)?;
            }
            Ok(())
        })
        .map_err(|failure| failure.into_store(Operation::Create, location.clone()))
    }

    pub(super) fn list_folder(&self, key: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        let listed = self.look_into(key, Operation::List)?.unwrap_or_default();
        let mut entries: Vec<Entry> = listed
            .into_iter()
            .filter(|file| !file.name.contains('/') && ObjectKey::parse(&file.name).is_ok())
            .map(|file| Entry {
                name: file.name,
                kind: match file.kind {
                    NodeKind::Object => EntryKind::Object { size: file.size },
                    NodeKind::Folder => EntryKind::Folder,
                    NodeKind::Link | NodeKind::Special => EntryKind::Other,
                },
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    pub(super) fn remove_object(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = self.text(Some(key));
        let mut tried = 0;
        let removed = self.call(Operation::Delete, &location, |connection, number| {
            tried = number;
            let path = connection.path(Some(key));
            connection.ftp.rm(path)
        });
        match removed {
            Ok(()) => Ok(()),
            Err(failure) if failure.is_refused_path() => {
                match self.proven(key, failure, Operation::Delete) {
                    StoreError::NotFound { .. } if tried > 0 => Ok(()),
                    error => Err(error),
                }
            }
            Err(failure) => Err(failure.into_store(Operation::Delete, location)),
        }
    }

    pub(super) fn remove_folder(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = self.text(Some(key));
        if self.look_into(Some(key), Operation::Delete)?.is_none() {
            return Ok(());
        }
        self.call(Operation::Delete, &location, |connection, _| {
            let path = connection.path(Some(key));
            remove_all(connection, &path, MAX_DEPTH)
        })
        .map_err(|failure| failure.into_store(Operation::Delete, location.clone()))
    }
}

/// Removes a folder with everything in it. Links are removed, never followed.
pub(super) fn remove_all(
    connection: &mut Connection,
    folder: &str,
    depth: usize,
) -> Result<(), FtpError> {
    let Some(below) = depth.checked_sub(1) else {
        return Err(unreadable(folder));
    };
    let Some(files) = connection.names(folder)? else {
        // Gone already, or not to be entered: then removing it says why.
        return connection.ftp.rmdir(folder);
    };
    for file in files {
        // Nothing that leads out of this folder, whatever the server says.
        if file.name.contains('/') {
            continue;
        }
        let path = format!("{folder}/{}", file.name);
        if file.kind == NodeKind::Folder {
            remove_all(connection, &path, below)?;
        } else {
            connection.ftp.rm(&path)?;
        }
    }
    // Servers do not remove the folder that a session stands in.
    let above = folder.rsplit_once('/').map_or("/", |(above, _)| above);
    connection
        .ftp
        .cwd(if above.is_empty() { "/" } else { above })?;
    connection.ftp.rmdir(folder)
}

/// The lines of `LIST`, in the manner of `ls -l` or of DOS.
fn posix_or_dos(lines: &[String]) -> Result<Vec<Listed>, FtpError> {
    let mut listed = Vec::new();
    for line in lines.iter().filter(|line| !line.starts_with("total ")) {
        let Ok(file) = ListParser::parse_posix(line).or_else(|_| ListParser::parse_dos(line))
        else {
            return Err(unreadable(line));
        };
        let kind = if file.is_directory() {
            NodeKind::Folder
        } else if file.is_symlink() {
            NodeKind::Link
        } else {
            NodeKind::Object
        };
        listed.push(Listed {
            name: file.name().to_owned(),
            kind,
            size: u64::try_from(file.size()).unwrap_or(0),
            changed: None,
        });
    }
    Ok(listed)
}

/// The answer that a listing is not readable: trying again does not help.
fn unreadable(line: &str) -> FtpError {
    let text = format!("a listing that cannot be read: {line}");
    FtpError::UnexpectedResponse(Response::new(Status::Unknown, text.into_bytes()))
}
