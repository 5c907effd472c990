//! Commands of a replication connection: who the server is, and the history of its timelines.

use pitr_core::{Lsn, SystemIdentifier, TimelineId};
use postgres_protocol::message::backend::Message;

use crate::connection::Connection;
use crate::query_error::QueryError;
use crate::row::{RawRow, read_row};

/// The answer to `IDENTIFY_SYSTEM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SystemInfo {
    /// Identity of the cluster.
    pub system_identifier: SystemIdentifier,
    /// Timeline: of a standby, the one it has replayed.
    pub timeline: TimelineId,
    /// End of the WAL that is flushed; of a standby, of what it has received.
    pub flushed: Lsn,
}

/// A timeline history file, as the server has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistoryFile {
    /// Name, e.g. `00000002.history`.
    pub name: String,
    /// The bytes of the file.
    pub content: Vec<u8>,
}

impl Connection {
    /// Asks which cluster this is and how far its WAL goes.
    ///
    /// # Errors
    /// [`QueryError`]; on a connection for SQL, the server calls it a syntax error.
    ///
    /// Source: `IdentifySystem`, src/backend/replication/walsender.c.
    pub fn identify_system(&mut self) -> Result<SystemInfo, QueryError> {
        const COMMAND: &str = "IDENTIFY_SYSTEM";
        let row = self.one_row(COMMAND)?;
        let info = (|| {
            Some(SystemInfo {
                system_identifier: row.text(0)?.parse().ok()?,
                timeline: row.text(1)?.parse().ok()?,
                flushed: row.text(2)?.parse().ok()?,
            })
        })();
        info.ok_or_else(|| self.give_up(COMMAND, "columns of another shape"))
    }

    /// Fetches the history file of a timeline; timeline 1 has none.
    ///
    /// # Errors
    /// [`QueryError::Server`] with code `58P01` if the server has no such file.
    ///
    /// Source: `SendTimeLineHistory`, src/backend/replication/walsender.c.
    pub fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<TimelineHistoryFile, QueryError> {
        let command = format!("TIMELINE_HISTORY {timeline}");
        let row = self.one_row(&command)?;
        match (row.text(0), row.bytes(1)) {
            (Some(name), Some(content)) => Ok(TimelineHistoryFile {
                name: name.to_owned(),
                content: content.to_vec(),
            }),
            _ => Err(self.give_up(&command, "columns of another shape")),
        }
    }

    /// Runs a command that answers with exactly one row.
    fn one_row(&mut self, command: &str) -> Result<RawRow, QueryError> {
        self.begin(command)?;
        let row = self.read_one_row(command)?;
        self.finish(command)?;
        Ok(row)
    }

    /// Reads a result of one row, from its description to before its `CommandComplete`.
    pub(crate) fn read_one_row(&mut self, command: &str) -> Result<RawRow, QueryError> {
        match self.next(command)? {
            Message::RowDescription(_) => self.read_row_after_description(command),
            _ => Err(self.give_up(command, "no result")),
        }
    }

    /// The same, after the description has been read.
    pub(crate) fn read_row_after_description(
        &mut self,
        command: &str,
    ) -> Result<RawRow, QueryError> {
        match self.next(command)? {
            Message::DataRow(body) => self.keep(command, read_row(&body)),
            _ => Err(self.give_up(command, "no row")),
        }
    }
}
