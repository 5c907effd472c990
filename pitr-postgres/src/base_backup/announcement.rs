//! What the server tells before and after the files.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use pitr_core::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;

use super::stream::COMMAND;
use crate::connection::Connection;
use crate::query_error::QueryError;
use crate::row::{RawRow, read_row};

/// What is known when the server begins to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupStart {
    /// Redo position of the checkpoint: WAL is needed from here.
    pub lsn: Lsn,
    /// Timeline of that position.
    pub timeline: TimelineId,
    /// In the order of the archives; the data directory is the last.
    pub tablespaces: Vec<Tablespace>,
}

impl BackupStart {
    /// Expected size of everything in kB (1024 bytes), if the sizes were asked for.
    ///
    /// An estimate: files grow and vanish meanwhile, and headers come on top.
    #[must_use]
    pub fn size_kb(&self) -> Option<u64> {
        self.tablespaces
            .iter()
            .map(|tablespace| tablespace.size_kb)
            .try_fold(0_u64, |sum, size| Some(sum.saturating_add(size?)))
    }
}

/// A tablespace as the server announces it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tablespace {
    /// Its OID and folder; `None` for the data directory.
    pub location: Option<(u32, PathBuf)>,
    /// Expected size in kB (1024 bytes), if it was asked for.
    pub size_kb: Option<u64>,
}

impl Tablespace {
    /// Its OID; `None` for the data directory.
    #[must_use]
    pub fn oid(&self) -> Option<u32> {
        self.location.as_ref().map(|(oid, _)| *oid)
    }

    /// Name of its archive: `base.tar` or `<oid>.tar`.
    #[must_use]
    pub fn archive_name(&self) -> String {
        match self.oid() {
            None => "base.tar".to_owned(),
            Some(oid) => format!("{oid}.tar"),
        }
    }
}

/// What is known when the server has sent everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackupEnd {
    /// WAL is needed up to here (exclusive) before the copy is consistent.
    pub lsn: Lsn,
    /// Timeline of that position.
    pub timeline: TimelineId,
}

impl Connection {
    /// Two columns: a position, and the timeline it is on.
    pub(super) fn position(&mut self, row: &RawRow) -> Result<(Lsn, TimelineId), QueryError> {
        let position = (|| Some((row.text(0)?.parse().ok()?, row.text(1)?.parse().ok()?)))();
        position.ok_or_else(|| self.give_up(COMMAND, "a position of another shape"))
    }

    pub(super) fn expect_complete(&mut self) -> Result<(), QueryError> {
        match self.next(COMMAND)? {
            Message::CommandComplete(_) => Ok(()),
            _ => Err(self.give_up(COMMAND, "a result that does not end")),
        }
    }

    pub(super) fn tablespaces(&mut self) -> Result<Vec<Tablespace>, QueryError> {
        let mut tablespaces = Vec::new();
        if !matches!(self.next(COMMAND)?, Message::RowDescription(_)) {
            return Err(self.give_up(COMMAND, "no list of tablespaces"));
        }
        loop {
            match self.next(COMMAND)? {
                Message::DataRow(body) => {
                    let row = self.keep(COMMAND, read_row(&body))?;
                    match tablespace(&row) {
                        Some(tablespace) => tablespaces.push(tablespace),
                        None => {
                            return Err(self.give_up(COMMAND, "a tablespace of another shape"));
                        }
                    }
                }
                Message::CommandComplete(_) => return Ok(tablespaces),
                _ => return Err(self.give_up(COMMAND, "a list that does not end")),
            }
        }
    }
}

/// Columns OID, folder, size in kB; the first two are NULL for the data directory.
fn tablespace(row: &RawRow) -> Option<Tablespace> {
    let location = match (row.bytes(0), row.bytes(1)) {
        (None, _) => None,
        (Some(_), Some(path)) => Some((
            row.text(0)?.parse().ok()?,
            PathBuf::from(OsString::from_vec(path.to_vec())),
        )),
        (Some(_), None) => return None,
    };
    let size_kb = match row.bytes(2) {
        None => None,
        Some(_) => Some(row.text(2)?.parse().ok()?),
    };
    Some(Tablespace { location, size_kb })
}
