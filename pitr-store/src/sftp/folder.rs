//! Folders of an SFTP store: made, listed, synced.

use std::sync::Arc;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{File, FileAttributes, OpenFlags, StatusCode};

use super::absence::Found;
use super::connect::Link;
use super::session::{Failure, Session};
use super::{FOLDER_MODE, kind_of, wrong_kind};
use crate::key::ObjectKey;
use crate::store::{Entry, EntryKind, NodeKind, Operation, StoreError};

impl Link {
    /// Path of `key` on the server.
    pub(super) fn path(&self, key: Option<&ObjectKey>) -> String {
        match key {
            Some(key) => format!("{}/{key}", self.root),
            None => self.root.clone(),
        }
    }

    /// Everything in a folder, `.` and `..` left out.
    pub(super) async fn names(&self, path: &str) -> Result<Vec<File>, SftpError> {
        let folder = self.sftp.opendir(path).await?.handle;
        let mut files = Vec::new();
        let end = loop {
            match self.sftp.readdir(folder.as_str()).await {
                Ok(answer) => files.extend(
                    answer
                        .files
                        .into_iter()
                        .filter(|file| !matches!(file.filename.as_str(), "." | "..")),
                ),
                Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => {
                    break Ok(());
                }
                Err(error) => break Err(error),
            }
        };
        let closed = self.sftp.close(folder).await;
        end?;
        closed?;
        Ok(files)
    }

    /// Makes the entries of a folder durable, where the server can do that: it
    /// opens folders as files, and syncs. Where it cannot, nothing is left to
    /// be done from here.
    pub(super) async fn sync_folder(&self, path: &str) -> Result<(), SftpError> {
        if !self.has_fsync {
            return Ok(());
        }
        let opened = self
            .sftp
            .open(path, OpenFlags::READ, FileAttributes::empty())
            .await;
        let folder = match opened {
            Ok(folder) => folder.handle,
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Failure => {
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let synced = self.sftp.fsync(folder.as_str()).await;
        let closed = self.sftp.close(folder).await;
        match synced {
            // EINVAL and ENOSYS: a file system whose folders cannot be synced.
            Err(SftpError::Status(status))
                if matches!(
                    status.status_code,
                    StatusCode::BadMessage | StatusCode::OpUnsupported
                ) => {}
            Err(error) => return Err(error),
            Ok(_) => {}
        }
        closed.map(|_| ())
    }

    /// Syncs the folder of `key` and every one above it.
    pub(super) async fn sync_way(&self, folder: Option<&ObjectKey>) -> Result<(), SftpError> {
        let mut next = folder.cloned();
        loop {
            self.sync_folder(&self.path(next.as_ref())).await?;
            match next {
                Some(key) => next = key.parent(),
                None => return Ok(()),
            }
        }
    }

    /// Makes one folder; one that is there is fine.
    async fn make_one(&self, path: &str) -> Result<bool, SftpError> {
        let attributes = FileAttributes {
            permissions: Some(FOLDER_MODE),
            ..FileAttributes::empty()
        };
        match self.sftp.mkdir(path, attributes).await {
            Ok(_) => Ok(true),
            Err(error @ SftpError::Status(_)) if super::session::broken(&error).is_none() => {
                // The answer for "exists already" differs from server to server.
                match self.sftp.stat(path).await {
                    Ok(found) if !matches!(kind_of(&found.attrs), Some(NodeKind::Object)) => {
                        Ok(false)
                    }
                    _ => Err(error),
                }
            }
            Err(error) => Err(error),
        }
    }
}

impl Session {
    /// Makes the store's folder and what is missing above it.
    pub(super) fn make_root(&self) -> Result<(), StoreError> {
        let location = self.text(None);
        self.block(async {
            self.call(Operation::Create, &location, |link, _| async move {
                let mut missing = Vec::new();
                let mut path = link.root.clone();
                loop {
                    match link.sftp.stat(path.as_str()).await {
                        Ok(_) => break,
                        Err(SftpError::Status(status))
                            if status.status_code == StatusCode::NoSuchFile => {}
                        Err(error) => return Err(error),
                    }
                    let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
                    missing.push(path);
                    match parent {
                        Some(parent) if !parent.is_empty() => path = parent,
                        _ => break,
                    }
                }
                for path in missing.iter().rev() {
                    link.make_one(path).await?;
                    let parent = path.rsplit_once('/').map_or("/", |(parent, _)| parent);
                    let parent = if parent.is_empty() { "/" } else { parent };
                    // The folder above may be one that we may enter and write,
                    // but not read.
                    match link.sync_folder(parent).await {
                        Err(SftpError::Status(status))
                            if status.status_code == StatusCode::PermissionDenied => {}
                        other => other?,
                    }
                }
                Ok(())
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Create, location.clone()))?;
            match self.look(None).await? {
                Found::There(attributes) => match kind_of(&attributes) {
                    Some(NodeKind::Folder) | None => Ok(()),
                    Some(found) => Err(wrong_kind(location.clone(), NodeKind::Folder, found)),
                },
                Found::Absent => Err(StoreError::RootMissing {
                    location: location.clone(),
                }),
            }
        })
    }

    /// Makes the folder `key` where it is missing; never the root.
    ///
    /// # Errors
    /// `RootMissing`; a name on the way that is no folder.
    pub(super) async fn make_folder(&self, key: &ObjectKey) -> Result<(), StoreError> {
        // Says what is wrong where something else is in the way, or the root missing.
        let _ = self.look(Some(key)).await?;
        let location = self.text(Some(key));
        self.call(Operation::Create, &location, |link, _| async move {
            let mut path = link.root.clone();
            for name in key.components() {
                path = format!("{path}/{name}");
                link.make_one(&path).await?;
            }
            Ok(())
        })
        .await
        .map_err(|failure| failure.into_store(Operation::Create, location.clone()))
    }

    pub(super) fn list_folder(&self, key: Option<&ObjectKey>) -> Result<Vec<Entry>, StoreError> {
        let location = self.text(key);
        let listed = self.block(async {
            self.call(Operation::List, &location, |link, _| async move {
                let path = link.path(key);
                let mut files = link.names(&path).await?;
                files.retain(|file| ObjectKey::parse(&file.filename).is_ok());
                for file in &mut files {
                    complete(&link, &path, file).await?;
                }
                Ok(files)
            })
            .await
        });
        let files = match listed {
            Ok(files) => files,
            Err(failure) if failure.is_no_such_file() => {
                return self.block(async {
                    match self.look(key).await? {
                        Found::Absent => Ok(Vec::new()),
                        Found::There(attributes) => Err(match kind_of(&attributes) {
                            Some(found) if found != NodeKind::Folder => {
                                wrong_kind(location, NodeKind::Folder, found)
                            }
                            _ => StoreError::Busy {
                                operation: Operation::List,
                                location,
                            },
                        }),
                    }
                });
            }
            Err(failure) => {
                // A file in the folder's place, most likely.
                if let Failure::Answered(status) = &failure
                    && status.status_code == StatusCode::Failure
                    && let Ok(Found::There(attributes)) = self.block(self.look(key))
                    && let Some(found) = kind_of(&attributes)
                    && found != NodeKind::Folder
                {
                    return Err(wrong_kind(location, NodeKind::Folder, found));
                }
                return Err(failure.into_store(Operation::List, location));
            }
        };
        let mut entries: Vec<Entry> = files
            .into_iter()
            // Removed since the folder was read.
            .filter_map(|file| Some((file.filename, kind_of(&file.attrs)?, file.attrs.size)))
            .map(|(name, kind, size)| Entry {
                name,
                kind: match kind {
                    NodeKind::Object => EntryKind::Object {
                        size: size.unwrap_or(0),
                    },
                    NodeKind::Folder => EntryKind::Folder,
                    NodeKind::Link | NodeKind::Special => EntryKind::Other,
                },
            })
            .collect();
        entries.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }
}

/// Asks for what a listing has not told.
async fn complete(link: &Arc<Link>, folder: &str, file: &mut File) -> Result<(), SftpError> {
    if kind_of(&file.attrs).is_some() && file.attrs.size.is_some() {
        return Ok(());
    }
    match link.sftp.lstat(format!("{folder}/{}", file.filename)).await {
        Ok(answer) => {
            file.attrs = answer.attrs;
            Ok(())
        }
        Err(SftpError::Status(status)) if status.status_code == StatusCode::NoSuchFile => {
            file.attrs = FileAttributes::empty();
            Ok(())
        }
        Err(error) => Err(error),
    }
}
