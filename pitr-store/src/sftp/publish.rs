//! How an object gets onto an SFTP server: whole, durable, once.
//!
//! 1. write under a temporary name of its own, `.NAME.<16 hex>.tmp`, with many
//!    requests on the way at once; what is not acknowledged is kept, so that
//!    an upload goes on where a broken connection left it;
//! 2. sync and close the file; after a break, read it back first;
//! 3. rename to the final name, which the server refuses where it exists;
//! 4. sync the folder;
//! 5. once the name is taken, by us or by another, nobody else can take it:
//!    every temporary file for it is debris, and removed.

use pitr_core::crc32c;
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Arc;

use futures_util::future::join_all;
use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::task::JoinHandle;

use super::FILE_MODE;
use super::absence::Found;
use super::connect::Link;
use super::session::{Failure, Session, broken};
use crate::key::ObjectKey;
use crate::store::retry::Retry;
use crate::store::server_error::ServerError;
use crate::store::temp_name::{is_temp_of, temp_name};
use crate::store::{ObjectMeta, ObjectWriter, Operation, SpaceLimit, StoreError};

/// Bytes that are on the way before the writer waits.
const AHEAD_BYTES: usize = 2 << 20;

/// An object being written under a temporary name.
pub(super) struct SftpWriter {
    session: Arc<Session>,
    key: ObjectKey,
    rivals: Vec<ObjectKey>,
    /// Last component of the temporary name.
    temp: String,
    link: Arc<Link>,
    handle: String,
    /// Whether `handle` has been closed: the server gives its number to the
    /// next file then.
    closed: bool,
    /// Whether the file may still lie under its temporary name.
    unfinished: bool,
    /// Bytes that are not on the way yet.
    pending: Vec<u8>,
    /// Where `pending` begins in the object.
    offset: u64,
    sent: VecDeque<Sent>,
    checksum: u32,
    /// Whether a connection broke since the first byte: the server may have
    /// lost what it had acknowledged.
    broke: bool,
    retry: Retry,
    folder: JoinHandle<Result<FolderState, SftpError>>,
}

/// A write on its way, with its bytes until it is acknowledged.
struct Sent {
    offset: u64,
    bytes: Vec<u8>,
    answer: JoinHandle<Result<(), SftpError>>,
}

/// What the folder held when the writer began.
struct FolderState {
    /// Temporary names of other writers for the same object.
    debris: Vec<String>,
    /// Nothing was published in it: the folder may be new, and not durable in
    /// its own parent.
    is_unused: bool,
}

impl SftpWriter {
    pub(super) fn begin(
        session: &Arc<Session>,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Self, StoreError> {
        if rivals.iter().any(|rival| rival.parent() != key.parent()) {
            return Err(StoreError::Unsupported {
                location: session.text(Some(key)),
                missing: "a key that stands for the same object lies in another folder",
            });
        }
        session.block(async {
            let (link, handle, temp) = match open_temp(session, key).await {
                Err(failure) if failure.is_no_such_file() => {
                    match key.parent() {
                        Some(folder) => session.make_folder(&folder).await?,
                        None => {
                            session.look(None).await?;
                        }
                    }
                    open_temp(session, key).await
                }
                other => other,
            }
            .map_err(|failure| failure.into_store(Operation::Create, session.text(Some(key))))?;
            let folder = tokio::spawn(look_around(
                Arc::clone(&link),
                link.path(key.parent().as_ref()),
                key.file_name().to_owned(),
                temp.clone(),
            ));
            Ok(Self {
                session: Arc::clone(session),
                key: key.clone(),
                rivals: rivals.to_vec(),
                temp,
                link,
                handle,
                closed: false,
                unfinished: true,
                pending: Vec::new(),
                offset: 0,
                sent: VecDeque::new(),
                checksum: 0,
                broke: false,
                retry: Retry::new(session.budget()),
                folder,
            })
        })
    }

    fn location(&self) -> String {
        self.session.text(Some(&self.key))
    }

    fn temp_path(&self) -> String {
        temp_path(&self.link, &self.key, &self.temp)
    }

    /// Sends what is pending, and waits until no more than `at_most` bytes are
    /// on the way.
    async fn send(&mut self, at_most: usize) -> Result<(), StoreError> {
        if !self.pending.is_empty() {
            let bytes = std::mem::take(&mut self.pending);
            let offset = self.offset;
            self.offset += u64::try_from(bytes.len()).unwrap_or(0);
            let answer = self.request(offset, &bytes);
            self.sent.push_back(Sent {
                offset,
                bytes,
                answer,
            });
        }
        loop {
            let waiting: usize = self.sent.iter().map(|sent| sent.bytes.len()).sum();
            if waiting <= at_most {
                return Ok(());
            }
            let Some(first) = self.sent.front_mut() else {
                return Ok(());
            };
            let answer = match (&mut first.answer).await {
                Ok(answer) => answer,
                Err(ended) => Err(SftpError::IO(ended.to_string())),
            };
            match answer {
                Ok(()) => {
                    self.sent.pop_front();
                    self.retry.renew();
                }
                Err(error) => self.recover(error).await?,
            }
        }
    }

    fn request(&self, offset: u64, bytes: &[u8]) -> JoinHandle<Result<(), SftpError>> {
        let (link, handle) = (Arc::clone(&self.link), self.handle.clone());
        let bytes = bytes.to_vec();
        tokio::spawn(async move { link.sftp.write(handle, offset, bytes).await.map(|_| ()) })
    }

    /// After a break: opens the temporary file again, and sends again what was
    /// not acknowledged.
    async fn recover(&mut self, mut error: SftpError) -> Result<(), StoreError> {
        loop {
            let Some(reason) = broken(&error) else {
                return Err(self.refused(error, Operation::Write).await);
            };
            self.broke = true;
            for sent in &self.sent {
                sent.answer.abort();
            }
            self.session.forget(&self.link).await;
            let location = self.location();
            self.session
                .pause(&mut self.retry, Operation::Write, &location, &reason)
                .await?;
            self.link = self.session.link(&mut self.retry).await?;
            let opened = self
                .link
                .sftp
                .open(self.temp_path(), OpenFlags::WRITE, FileAttributes::empty())
                .await;
            match opened {
                Ok(handle) => {
                    self.handle = handle.handle;
                    break;
                }
                Err(next) => error = next,
            }
        }
        let answers: Vec<_> = self
            .sent
            .iter()
            .map(|sent| self.request(sent.offset, &sent.bytes))
            .collect();
        for (sent, answer) in self.sent.iter_mut().zip(answers) {
            sent.answer = answer;
        }
        Ok(())
    }

    /// The store's error for an answer that ends the writing.
    async fn refused(&self, error: SftpError, operation: Operation) -> StoreError {
        let SftpError::Status(status) = error else {
            return ServerError::Answered {
                operation,
                location: self.location(),
                answer: error.to_string(),
                hint: None,
            }
            .into();
        };
        if status.status_code == StatusCode::Failure
            && let Some(full) = self.fullness(operation).await
        {
            return full;
        }
        Failure::Answered(status).into_store(operation, self.location())
    }

    /// `NoSpace`, if the server's disk has too little room for what is still
    /// to be written. OpenSSH itself says "Failure" for every cause.
    async fn fullness(&self, operation: Operation) -> Option<StoreError> {
        if !self.link.has_statvfs {
            return None;
        }
        let disk = self.link.sftp.statvfs(self.link.root.as_str()).await.ok()?;
        let available = disk.blocks_avail.saturating_mul(disk.fragment_size);
        let waiting: usize = self.sent.iter().map(|sent| sent.bytes.len()).sum();
        let inodes = disk.inodes > 0 && disk.inodes_avail == 0;
        if !inodes && available >= u64::try_from(waiting.max(1)).unwrap_or(u64::MAX) {
            return None;
        }
        Some(StoreError::NoSpace {
            operation,
            location: self.location(),
            limit: if inodes {
                SpaceLimit::Inodes
            } else {
                SpaceLimit::Disk
            },
            needed_bytes: Some(self.offset),
            available_bytes: Some(available),
        })
    }

    /// All bytes acknowledged, synced, and the file closed.
    async fn finish_file(&mut self) -> Result<(), StoreError> {
        loop {
            self.send(0).await?;
            if self.link.has_fsync
                && let Err(error) = self.link.sftp.fsync(self.handle.as_str()).await
            {
                if broken(&error).is_none() {
                    return Err(self.refused(error, Operation::Sync).await);
                }
                self.recover(error).await?;
                continue;
            }
            match self.link.sftp.close(self.handle.as_str()).await {
                Ok(_) => {
                    self.closed = true;
                    return Ok(());
                }
                Err(error) if broken(&error).is_none() => {
                    self.closed = true;
                    return Err(self.refused(error, Operation::Sync).await);
                }
                Err(error) => self.recover(error).await?,
            }
        }
    }

    /// Compares what the server has in the object's folder under `name` with
    /// what was written.
    async fn read_back(&self, name: &str) -> Result<(), StoreError> {
        let location = self.location();
        let found = self
            .session
            .call(Operation::Read, &location, |link, _| async move {
                let path = temp_path(&link, &self.key, name);
                checksum_of(&link, path, self.offset).await
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Read, location.clone()))?;
        if found == (self.offset, self.checksum) {
            return Ok(());
        }
        Err(ServerError::Differs {
            location,
            found: format!(
                "{} bytes with the checksum {:08x} instead of {} with {:08x}",
                found.0, found.1, self.offset, self.checksum
            ),
        }
        .into())
    }

    async fn show(&mut self) -> Result<(), StoreError> {
        self.finish_file().await?;
        if self.broke {
            self.read_back(&self.temp).await?;
        }
        let mut keys = vec![self.key.clone()];
        keys.extend(self.rivals.iter().cloned());
        if let Some(taken) = first_there(&self.session, &keys).await? {
            return Err(self.taken(taken));
        }
        self.session.check_holds(&self.key).await?;
        let location = self.location();
        let (key, name) = (&self.key, &self.temp);
        let renamed = self
            .session
            .call(Operation::Publish, &location, |link, _| async move {
                let temp = temp_path(&link, key, name);
                link.sftp.rename(temp, link.path(Some(key))).await?;
                Ok(())
            })
            .await;
        if let Err(failure) = renamed {
            // A lost answer may hide that it worked: then the object shows, and
            // whoever compares finds his own bytes.
            if matches!(failure, Failure::Answered(_))
                && let Found::There(_) = self.session.look(Some(&self.key)).await?
            {
                return Err(self.taken(self.key.clone()));
            }
            return Err(match failure {
                Failure::Answered(status) => {
                    self.refused(SftpError::Status(status), Operation::Publish)
                        .await
                }
                Failure::Store(error) => error,
            });
        }
        self.unfinished = false;
        self.settle().await?;
        if !self.session.is_create_only() {
            match self.read_back(self.key.file_name()).await {
                // another writer's, who looked before we renamed: whoever
                // compares finds out
                Err(StoreError::Server(error)) if matches!(*error, ServerError::Differs { .. }) => {
                    return Err(self.taken(self.key.clone()));
                }
                read_back => read_back?,
            }
        }
        // Two writers of rival keys may both have found nothing before: each
        // of them finds the other now, and compares.
        if let Some(taken) = first_there(&self.session, &self.rivals).await? {
            return Err(self.taken(taken));
        }
        Ok(())
    }

    /// The name survives power loss, and debris goes.
    async fn settle(&mut self) -> Result<(), StoreError> {
        let state = match (&mut self.folder).await {
            Ok(Ok(state)) => state,
            _ => FolderState {
                debris: Vec::new(),
                is_unused: true,
            },
        };
        let location = self.location();
        let parent = self.key.parent();
        self.session
            .call(Operation::Sync, &location, |link, _| {
                let (parent, is_unused) = (parent.as_ref(), state.is_unused);
                async move {
                    if is_unused {
                        link.sync_way(parent).await
                    } else {
                        link.sync_folder(&link.path(parent)).await
                    }
                }
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Sync, location.clone()))?;
        sweep(&self.link, parent.as_ref(), &state.debris).await;
        Ok(())
    }

    fn taken(&self, key: ObjectKey) -> StoreError {
        StoreError::AlreadyExists {
            location: self.session.text(Some(&key)),
            key,
        }
    }
}

fn temp_path(link: &Link, key: &ObjectKey, temp: &str) -> String {
    format!("{}/{temp}", link.path(key.parent().as_ref()))
}

async fn open_temp(
    session: &Session,
    key: &ObjectKey,
) -> Result<(Arc<Link>, String, String), Failure> {
    let location = session.text(Some(key));
    session
        .call(Operation::Create, &location, |link, _| async move {
            // A new name for every try: a lost answer leaves debris, no doubt.
            let temp = temp_name(key.file_name());
            let attributes = FileAttributes {
                permissions: Some(FILE_MODE),
                ..FileAttributes::empty()
            };
            let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
            let path = temp_path(&link, key, &temp);
            let handle = link.sftp.open(path, flags, attributes).await?.handle;
            Ok((link, handle, temp))
        })
        .await
}

async fn look_around(
    link: Arc<Link>,
    folder: String,
    object: String,
    own: String,
) -> Result<FolderState, SftpError> {
    let names = link.names(&folder).await?;
    Ok(FolderState {
        is_unused: names.iter().all(|file| file.filename.starts_with('.')),
        debris: names
            .into_iter()
            .map(|file| file.filename)
            .filter(|name| *name != own && is_temp_of(name, &object))
            .collect(),
    })
}

/// Removes temporary files whose object shows. What cannot be removed stays
/// for the next one.
async fn sweep(link: &Link, folder: Option<&ObjectKey>, debris: &[String]) {
    let folder = link.path(folder);
    join_all(
        debris
            .iter()
            .map(|name| link.sftp.remove(format!("{folder}/{name}"))),
    )
    .await;
}

/// The first of `keys` under which something lies.
async fn first_there(
    session: &Session,
    keys: &[ObjectKey],
) -> Result<Option<ObjectKey>, StoreError> {
    let found = join_all(keys.iter().map(|key| session.look(Some(key)))).await;
    for (key, found) in keys.iter().zip(found) {
        if let Found::There(_) = found? {
            return Ok(Some(key.clone()));
        }
    }
    Ok(None)
}

/// Size and CRC-32C of a file, of which no more than `expected` bytes and one
/// are read.
async fn checksum_of(
    link: &Arc<Link>,
    path: String,
    expected: u64,
) -> Result<(u64, u32), SftpError> {
    let handle = link
        .sftp
        .open(path, OpenFlags::READ, FileAttributes::empty())
        .await?
        .handle;
    let (mut offset, mut checksum) = (0u64, 0u32);
    let end = loop {
        if offset > expected {
            break Ok(());
        }
        match link
            .sftp
            .read(handle.as_str(), offset, link.read_bytes)
            .await
        {
            Ok(answer) if answer.data.is_empty() => break Ok(()),
            Ok(answer) => {
                checksum = crc32c::crc32c_append(checksum, &answer.data);
                offset += u64::try_from(answer.data.len()).unwrap_or(0);
            }
            Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => {
                break Ok(());
            }
            Err(error) => break Err(error),
        }
    };
    let closed = link.sftp.close(handle).await;
    end?;
    closed?;
    Ok((offset, checksum))
}

impl Session {
    /// Makes sure that an object which shows is durable, and clears away what
    /// its dead writer has left.
    pub(super) fn sync_object(&self, key: &ObjectKey) -> Result<(), StoreError> {
        let location = self.text(Some(key));
        self.block(async {
            let Some(ObjectMeta { .. }) = self.find_object(key).await? else {
                return Err(StoreError::NotFound {
                    location: location.clone(),
                });
            };
            self.call(Operation::Sync, &location, |link, _| async move {
                if link.has_fsync {
                    let path = link.path(Some(key));
                    let handle = link
                        .sftp
                        .open(path, OpenFlags::READ, FileAttributes::empty())
                        .await?
                        .handle;
                    let synced = link.sftp.fsync(handle.as_str()).await;
                    link.sftp.close(handle).await?;
                    synced?;
                }
                link.sync_way(key.parent().as_ref()).await?;
                let folder = link.path(key.parent().as_ref());
                let own = String::new();
                let object = key.file_name().to_owned();
                let state = look_around(Arc::clone(&link), folder, object, own).await?;
                sweep(&link, key.parent().as_ref(), &state.debris).await;
                Ok(())
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Sync, location.clone()))
        })
    }
}

impl Write for SftpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = self.link.write_bytes.saturating_sub(self.pending.len());
        let count = bytes.len().min(room);
        self.pending.extend_from_slice(&bytes[..count]);
        self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..count]);
        if self.pending.len() >= self.link.write_bytes {
            let session = Arc::clone(&self.session);
            session.block(self.send(AHEAD_BYTES))?;
        }
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        let session = Arc::clone(&self.session);
        Ok(session.block(self.send(0))?)
    }
}

impl ObjectWriter for SftpWriter {
    fn publish(mut self: Box<Self>) -> Result<(), StoreError> {
        let session = Arc::clone(&self.session);
        session.block(self.show())
    }
}

impl Drop for SftpWriter {
    fn drop(&mut self) {
        for sent in &self.sent {
            sent.answer.abort();
        }
        if !self.unfinished || self.link.is_closed() {
            return;
        }
        let session = Arc::clone(&self.session);
        let _ = session.block(async {
            if !self.closed {
                let _ = self.link.sftp.close(self.handle.as_str()).await;
            }
            let _ = self.link.sftp.remove(self.temp_path()).await;
            Ok::<_, StoreError>(())
        });
    }
}
