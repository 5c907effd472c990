//! Removing objects and folders of an SFTP store.

use std::pin::Pin;

use futures_util::stream::{self, StreamExt};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::StatusCode;

use super::absence::Found;
use super::connect::Link;
use super::session::{Failure, Session};
use super::{kind_of, wrong_kind};
use crate::key::ObjectKey;
use crate::store::{NodeKind, Operation, StoreError};

/// Deepest folder that is removed below the one named.
const MAX_DEPTH: usize = 16;

/// How many files are being removed at once.
const AT_ONCE: usize = 16;

impl Session {
    pub(super) fn remove_object(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = self.text(Some(key));
        self.block(async {
            let removed = self
                .call(Operation::Delete, &location, |link, tried| async move {
                    match link.sftp.remove(link.path(Some(key))).await {
                        Err(SftpError::Status(status))
                            if tried > 0 && status.status_code == StatusCode::NoSuchFile => {}
                        other => {
                            other?;
                        }
                    }
                    link.sync_folder(&link.path(key.parent().as_ref())).await
                })
                .await;
            match removed {
                Ok(()) => Ok(()),
                Err(failure) if failure.is_no_such_file() => {
                    Err(self.proven(key, Operation::Delete).await)
                }
                Err(failure) => {
                    if matches!(failure, Failure::Answered(_))
                        && let Found::There(attributes) = self.look(Some(key)).await?
                        && let Some(found) = kind_of(&attributes)
                        && found == NodeKind::Folder
                    {
                        return Err(wrong_kind(location.clone(), NodeKind::Object, found));
                    }
                    Err(failure.into_store(Operation::Delete, location.clone()))
                }
            }
        })
    }

    pub(super) fn remove_folder(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = self.text(Some(key));
        self.block(async {
            match self.look(Some(key)).await? {
                Found::Absent => return Ok(()),
                Found::There(attributes) => match kind_of(&attributes) {
                    Some(NodeKind::Folder) | None => {}
                    Some(found) => {
                        return Err(wrong_kind(location.clone(), NodeKind::Folder, found));
                    }
                },
            }
            self.call(Operation::Delete, &location, |link, _| async move {
                remove_all(&link, link.path(Some(key)), MAX_DEPTH).await?;
                link.sync_folder(&link.path(key.parent().as_ref())).await
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Delete, location.clone()))
        })
    }
}

type Removing<'a> = Pin<Box<dyn Future<Output = Result<(), SftpError>> + Send + 'a>>;

/// Removes a folder with everything in it. Links are removed, never followed.
fn remove_all(link: &Link, folder: String, depth: usize) -> Removing<'_> {
    Box::pin(async move {
        let Some(below) = depth.checked_sub(1) else {
            return Err(SftpError::Limited(format!("\"{folder}\" is too deep")));
        };
        let files = match link.names(&folder).await {
            Ok(files) => files,
            Err(error) => return gone(Err(error)),
        };
        let mut folders = Vec::new();
        let mut others = Vec::new();
        for file in files {
            // Nothing that leads out of this folder, whatever the server says.
            if file.filename.contains('/') {
                continue;
            }
            let path = format!("{folder}/{}", file.filename);
            let kind = match kind_of(&file.attrs) {
                Some(kind) => Some(kind),
                None => match link.sftp.lstat(path.as_str()).await {
                    Ok(answer) => kind_of(&answer.attrs),
                    Err(error) => {
                        gone(Err(error))?;
                        continue;
                    }
                },
            };
            if kind == Some(NodeKind::Folder) {
                folders.push(path);
            } else {
                others.push(path);
            }
        }
        for path in folders {
            remove_all(link, path, below).await?;
        }
        let mut removals = stream::iter(others)
            .map(|path| async move { gone(link.sftp.remove(path).await.map(|_| ())) })
            .buffer_unordered(AT_ONCE);
        while let Some(removed) = removals.next().await {
            removed?;
        }
        gone(link.sftp.rmdir(folder).await.map(|_| ()))
    })
}

/// What is gone already need not be removed.
fn gone(result: Result<(), SftpError>) -> Result<(), SftpError> {
    match result {
        Err(SftpError::Status(status)) if status.status_code == StatusCode::NoSuchFile => Ok(()),
        other => other,
    }
}
