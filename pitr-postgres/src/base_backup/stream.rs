//! What the server sends, one member after the other.

use std::io::{self, BufRead, Read};

use bytes::{Buf as _, Bytes};
use postgres_protocol::message::backend::Message;

use super::announcement::{BackupEnd, BackupStart, Tablespace};
use super::command::BaseBackupOptions;
use super::error::BackupError;
use crate::connection::Connection;

/// Short form of the command, for messages.
pub(super) const COMMAND: &str = "BASE_BACKUP";

/// One thing that the server sends; it must be read before the next one comes.
#[derive(Debug)]
pub enum BackupMember<'b> {
    /// The files of a tablespace, as tar.
    Archive {
        /// The tablespace, one of [`BackupStart::tablespaces`].
        tablespace: Tablespace,
        /// The bytes. See [`BaseBackup::archives_have_trailer`].
        data: MemberReader<'b>,
    },
    /// The manifest: JSON, to be kept byte for byte.
    Manifest(MemberReader<'b>),
}

/// A base backup under way: the archives, the manifest, then the end.
///
/// Dropped before [`BaseBackup::finish`], it closes the connection, at which
/// the server ends the backup; nothing is left there.
#[derive(Debug)]
pub struct BaseBackup<'c> {
    connection: &'c mut Connection,
    start: BackupStart,
    wants_manifest: bool,
    state: State,
    is_finished: bool,
}

#[derive(Debug)]
struct State {
    is_single_stream: bool,
    /// Names of the archives, and whether each has begun.
    archives: Vec<(String, bool)>,
    has_manifest: bool,
    is_in_member: bool,
    is_at_end: bool,
    /// What was read ahead.
    pending: Option<Event>,
    chunk: Bytes,
    received_bytes: u64,
    server_progress_bytes: u64,
}

#[derive(Debug)]
enum Event {
    /// By position in the list of tablespaces.
    Archive(usize),
    Manifest,
    Data(Bytes),
    MemberEnd,
    /// The result with the end of the backup begins; its description has been read.
    LastResult,
}

impl Connection {
    /// Begins a base backup. Blocks until the checkpoint is done, which may take minutes.
    ///
    /// The connection must be for replication.
    ///
    /// # Errors
    /// [`BackupError::Query`] with the server's words if it refuses, e.g. for
    /// `wal_level=minimal` or a role without REPLICATION.
    ///
    /// Source: `SendBaseBackup`, src/backend/backup/basebackup.c; "BASE_BACKUP",
    /// doc/src/sgml/protocol.sgml.
    pub fn base_backup(
        &mut self,
        options: &BaseBackupOptions,
    ) -> Result<BaseBackup<'_>, BackupError> {
        let version = self.server_version_num();
        let command = options.command(version)?;
        self.begin(&command)?;
        let row = self.read_one_row(COMMAND)?;
        let (lsn, timeline) = self.position(&row)?;
        self.expect_complete()?;
        let tablespaces = self.tablespaces()?;
        let archives = tablespaces
            .iter()
            .map(|tablespace| (tablespace.archive_name(), false))
            .collect();
        Ok(BaseBackup {
            connection: self,
            start: BackupStart {
                lsn,
                timeline,
                tablespaces,
            },
            wants_manifest: options.manifest.is_some(),
            state: State {
                is_single_stream: BaseBackupOptions::is_single_stream(version),
                archives,
                has_manifest: false,
                is_in_member: false,
                is_at_end: false,
                pending: None,
                chunk: Bytes::new(),
                received_bytes: 0,
                server_progress_bytes: 0,
            },
            is_finished: false,
        })
    }
}

impl BaseBackup<'_> {
    /// What was known at the beginning.
    #[must_use]
    pub fn start(&self) -> &BackupStart {
        &self.start
    }

    /// Whether each archive ends with the two blocks of zeros that end a tar file.
    ///
    /// True from 15 on. Up to 14 the archives lack them, and whoever keeps
    /// one as a file of its own appends 1024 zero bytes. Nothing is added here.
    #[must_use]
    pub fn archives_have_trailer(&self) -> bool {
        self.state.is_single_stream
    }

    /// Bytes of archives and manifest that were received so far.
    #[must_use]
    pub fn received_bytes(&self) -> u64 {
        self.state.received_bytes
    }

    /// Bytes of archives that the server says to have sent, from 15 on; 0 before.
    #[must_use]
    pub fn server_progress_bytes(&self) -> u64 {
        self.state.server_progress_bytes
    }

    /// The next archive, or the manifest; `None` after the last.
    ///
    /// What is left of the one before is read and thrown away.
    ///
    /// # Errors
    /// [`BackupError`]; the backup has failed then.
    pub fn next_member(&mut self) -> Result<Option<BackupMember<'_>>, BackupError> {
        let mut feed = Feed {
            connection: &mut *self.connection,
            state: &mut self.state,
        };
        while feed.state.is_in_member {
            feed.fill()?;
            feed.state.chunk.clear();
        }
        if feed.state.is_at_end {
            return Ok(None);
        }
        match feed.event()? {
            Event::Archive(index) => {
                let begun = feed.state.archives.get_mut(index).map(|(_, begun)| begun);
                match (self.start.tablespaces.get(index), begun) {
                    (Some(tablespace), Some(begun)) if !*begun => {
                        *begun = true;
                        feed.state.is_in_member = true;
                        Ok(Some(BackupMember::Archive {
                            tablespace: tablespace.clone(),
                            data: MemberReader(feed),
                        }))
                    }
                    _ => Err(feed.give_up("an archive a second time")),
                }
            }
            Event::Manifest if feed.state.has_manifest => {
                Err(feed.give_up("a manifest a second time"))
            }
            Event::Manifest => {
                feed.state.is_in_member = true;
                feed.state.has_manifest = true;
                Ok(Some(BackupMember::Manifest(MemberReader(feed))))
            }
            Event::LastResult => {
                feed.state.is_at_end = true;
                Ok(None)
            }
            Event::Data(_) | Event::MemberEnd => Err(feed.give_up("data outside of an archive")),
        }
    }

    /// Reads the end. The connection can be used again afterwards.
    ///
    /// Members that were not asked for are read and thrown away.
    ///
    /// # Errors
    /// [`BackupError`]. Also after everything was received: then the server
    /// reports damaged data pages (SQLSTATE `XX001`), or WAL that could not be archived.
    pub fn finish(mut self) -> Result<BackupEnd, BackupError> {
        while self.next_member()?.is_some() {}
        let row = self.connection.read_row_after_description(COMMAND)?;
        let (lsn, timeline) = self.connection.position(&row)?;
        self.connection.finish(COMMAND)?;
        let received = self.state.archives.iter().filter(|(_, begun)| *begun);
        let received = received.count();
        if received != self.start.tablespaces.len() {
            return Err(BackupError::Incomplete {
                received,
                expected: self.start.tablespaces.len(),
            });
        }
        if self.wants_manifest && !self.state.has_manifest {
            return Err(BackupError::NoManifest);
        }
        self.is_finished = true;
        Ok(BackupEnd { lsn, timeline })
    }
}

impl Drop for BaseBackup<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.connection.close_unless_idle();
        }
    }
}

/// The connection, seen as a series of members.
#[derive(Debug)]
struct Feed<'b> {
    connection: &'b mut Connection,
    state: &'b mut State,
}

impl Feed<'_> {
    /// Makes `chunk` the next bytes of the member; leaves it empty, and the member, at its end.
    fn fill(&mut self) -> Result<(), BackupError> {
        while self.state.is_in_member && self.state.chunk.is_empty() {
            match self.event()? {
                Event::Data(bytes) => {
                    let count = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.state.received_bytes = self.state.received_bytes.saturating_add(count);
                    self.state.chunk = bytes;
                }
                Event::MemberEnd => self.state.is_in_member = false,
                next => {
                    self.state.is_in_member = false;
                    self.state.pending = Some(next);
                }
            }
        }
        Ok(())
    }

    fn event(&mut self) -> Result<Event, BackupError> {
        if let Some(event) = self.state.pending.take() {
            return Ok(event);
        }
        loop {
            let message = self.connection.next(COMMAND)?;
            let event = match message {
                Message::CopyOutResponse(_) if self.state.is_single_stream => None,
                Message::CopyOutResponse(_) => Some(self.next_of_many()?),
                Message::CopyData(body) if self.state.is_single_stream => {
                    self.marked(body.into_bytes())?
                }
                // servers up to 14 send empty ones
                Message::CopyData(body) => Some(body.into_bytes())
                    .filter(|bytes| !bytes.is_empty())
                    .map(Event::Data),
                Message::CopyDone if self.state.is_single_stream => None,
                Message::CopyDone => Some(Event::MemberEnd),
                Message::RowDescription(_) => Some(Event::LastResult),
                _ => return Err(self.give_up("a message that is no part of a base backup")),
            };
            if let Some(event) = event {
                return Ok(event);
            }
        }
    }

    /// Up to 14: each archive is a copy of its own, in the order of the list, and the manifest the last.
    fn next_of_many(&mut self) -> Result<Event, BackupError> {
        match self.state.archives.iter().position(|(_, begun)| !begun) {
            Some(index) => Ok(Event::Archive(index)),
            None if !self.state.has_manifest => Ok(Event::Manifest),
            None => Err(self.give_up("a copy too many")),
        }
    }

    /// From 15 on: the first byte of a message tells what it is. `None`: nothing to act upon.
    ///
    /// Source: `bbsink_copystream_begin_archive` and its kin,
    /// src/backend/backup/basebackup_copy.c.
    fn marked(&mut self, mut bytes: Bytes) -> Result<Option<Event>, BackupError> {
        if bytes.is_empty() {
            return Err(self.give_up("an empty message"));
        }
        match bytes.get_u8() {
            b'd' if bytes.is_empty() => Ok(None),
            b'd' => Ok(Some(Event::Data(bytes))),
            b'm' => Ok(Some(Event::Manifest)),
            b'p' if bytes.len() == 8 => {
                self.state.server_progress_bytes = bytes.get_u64();
                Ok(None)
            }
            b'n' => {
                let name = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
                let mut known = self.state.archives.iter();
                match known.position(|(archive, _)| archive.as_bytes() == name) {
                    Some(index) => Ok(Some(Event::Archive(index))),
                    None => {
                        let name = String::from_utf8_lossy(name).into_owned();
                        self.connection.close();
                        Err(BackupError::UnknownArchive { name })
                    }
                }
            }
            kind => Err(self.give_up(&format!("a message of the unknown kind {kind:#04x}"))),
        }
    }

    fn give_up(&mut self, problem: &str) -> BackupError {
        self.connection.give_up(COMMAND, problem).into()
    }
}

/// The bytes of one archive or of the manifest, up to its end.
///
/// An [`io::Error`] of it is a [`BackupError`] inside ([`BackupError::from_io`]).
/// The end that `read` reports is the end of the member as the server sent it;
/// a lost connection is always an error.
#[derive(Debug)]
pub struct MemberReader<'b>(Feed<'b>);

impl Read for MemberReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let bytes = self.fill_buf()?;
        let count = bytes.len().min(buffer.len());
        buffer[..count].copy_from_slice(&bytes[..count]);
        self.consume(count);
        Ok(count)
    }
}

impl BufRead for MemberReader<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.0.fill()?;
        Ok(&self.0.state.chunk)
    }

    fn consume(&mut self, count: usize) {
        let chunk = &mut self.0.state.chunk;
        chunk.advance(count.min(chunk.len()));
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
