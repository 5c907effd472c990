//! Is it there, is it not, or is that in doubt?
//!
//! OpenSSH says "No such file" for `ENOENT`, but for `ENOTDIR`, `ELOOP` and
//! `EBADF` too. So the answer counts only together with those for every folder
//! on the way and for the store's own, asked in one go.

use futures_util::future::{join, join_all};
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, StatusCode};

use super::session::{Failure, Session};
use super::{kind_of, wrong_kind};
use crate::key::ObjectKey;
use crate::store::{NodeKind, ObjectMeta, Operation, StoreError};

/// What lies under a name. `Absent` is proven.
#[derive(Debug)]
pub(super) enum Found {
    Absent,
    There(FileAttributes),
}

/// The answers for one path, from the root down.
type Answers = Vec<Result<FileAttributes, SftpError>>;

impl Session {
    /// What lies under `key` (`None`: the store's folder), links not followed.
    ///
    /// # Errors
    /// `RootMissing`; a folder on the way that is none; anything in doubt.
    pub(super) async fn look(&self, key: Option<&ObjectKey>) -> Result<Found, StoreError> {
        let location = self.text(key);
        let failed = |failure: Failure| failure.into_store(Operation::Stat, location.clone());
        let answers: Answers = self
            .call(Operation::Stat, &location, |link, _| async move {
                let mut paths = vec![link.root.clone()];
                for name in key.iter().flat_map(|key| key.components()) {
                    paths.push(format!("{}/{name}", paths[paths.len() - 1]));
                }
                // The server answers in the order of asking: the root before
                // and after the rest, so that a disk that goes in between
                // makes nothing look absent.
                let last = async { link.sftp.stat(link.root.as_str()).await };
                let asked = join_all(paths.iter().enumerate().map(|(depth, path)| {
                    let sftp = &link.sftp;
                    async move {
                        let answer = if depth == 0 {
                            sftp.stat(path.as_str()).await
                        } else {
                            sftp.lstat(path.as_str()).await
                        };
                        answer.map(|answer| answer.attrs)
                    }
                }));
                let (mut asked, last) = join(asked, last).await;
                asked.push(last.map(|answer| answer.attrs));
                if let Some(broken) = asked
                    .iter()
                    .filter_map(|answer| answer.as_ref().err())
                    .find(|error| super::session::broken(error).is_some())
                {
                    return Err(broken.clone());
                }
                Ok(asked)
            })
            .await
            .map_err(failed)?;
        self.judge(key, answers)
    }

    fn judge(&self, key: Option<&ObjectKey>, mut answers: Answers) -> Result<Found, StoreError> {
        let again = answers.pop();
        let names: Vec<&str> = key.iter().flat_map(|key| key.components()).collect();
        let count = answers.len();
        for (depth, answer) in answers.into_iter().enumerate() {
            let location = || {
                let mut location = self.text(None);
                for name in names.iter().take(depth) {
                    location = format!("{location}/{name}");
                }
                location
            };
            let attributes = match answer {
                Ok(attributes) => attributes,
                Err(SftpError::Status(status)) if status.status_code == StatusCode::NoSuchFile => {
                    if depth == 0 {
                        return Err(StoreError::RootMissing {
                            location: location(),
                        });
                    }
                    return match again {
                        Some(Ok(_)) => Ok(Found::Absent),
                        _ => Err(StoreError::RootMissing {
                            location: self.text(None),
                        }),
                    };
                }
                Err(SftpError::Status(status)) => {
                    return Err(Failure::Answered(status).into_store(Operation::Stat, location()));
                }
                Err(other) => {
                    return Err(StoreError::Io {
                        operation: Operation::Stat,
                        location: location(),
                        source: std::io::Error::other(other.to_string()),
                    });
                }
            };
            if depth + 1 == count {
                return Ok(Found::There(attributes));
            }
            match kind_of(&attributes) {
                Some(NodeKind::Folder) | None => {}
                Some(found) => return Err(wrong_kind(location(), NodeKind::Folder, found)),
            }
        }
        Err(StoreError::RootMissing {
            location: self.text(None),
        })
    }

    /// The error for `key` after the server said that there is no such file.
    pub(super) async fn proven(&self, key: &ObjectKey, operation: Operation) -> StoreError {
        match self.look(Some(key)).await {
            Ok(Found::Absent) => StoreError::NotFound {
                location: self.text(Some(key)),
            },
            // It was absent a moment ago, and is no longer: nothing is proven.
            Ok(Found::There(_)) => StoreError::Busy {
                operation,
                location: self.text(Some(key)),
            },
            Err(error) => error,
        }
    }

    /// The object `key`: `None` if it is proven to be absent.
    pub(super) async fn find_object(
        &self,
        key: &ObjectKey,
    ) -> Result<Option<ObjectMeta>, StoreError> {
        match self.look(Some(key)).await? {
            Found::Absent => Ok(None),
            Found::There(attributes) => match kind_of(&attributes) {
                Some(NodeKind::Object) | None => Ok(Some(ObjectMeta {
                    size: attributes.size.ok_or_else(|| StoreError::Unsupported {
                        location: self.text(Some(key)),
                        missing: "the server does not tell the size of files",
                    })?,
                })),
                Some(found) => Err(wrong_kind(self.text(Some(key)), NodeKind::Object, found)),
            },
        }
    }

    /// Those of `keys` that are there, all asked at once.
    pub(super) fn which_objects(
        &self,
        keys: &[ObjectKey],
    ) -> Result<Vec<(usize, ObjectMeta)>, StoreError> {
        self.block(async {
            let found = join_all(keys.iter().map(|key| self.find_object(key))).await;
            let mut there = Vec::new();
            for (place, found) in found.into_iter().enumerate() {
                there.extend(found?.map(|meta| (place, meta)));
            }
            Ok(there)
        })
    }

    pub(super) fn stat_object(&self, key: &ObjectKey) -> Result<Option<ObjectMeta>, StoreError> {
        self.block(self.find_object(key))
    }
}
