//! Physical replication slots: what keeps the server from removing log that
//! the receiver has not confirmed.

use std::fmt;
use std::str::FromStr;

use pitr_core::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;

use crate::connection::Connection;
use crate::query_error::QueryError;

/// First version that knows `READ_REPLICATION_SLOT`.
const READ_SLOT_SINCE: u32 = 150_000;

/// Longest name: `NAMEDATALEN` less the zero byte.
const LONGEST_NAME: usize = 63;

/// A name that a replication slot can have.
///
/// Lower-case letters, digits and underscores, 1 to 63 of them; so it needs no
/// quotes in any command.
///
/// Source: `ReplicationSlotValidateName`, src/backend/replication/slot.c.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotName(String);

/// Text that no slot can be called by.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "replication slot name \"{found}\" is not valid: expected 1 to 63 lower-case letters, digits \
     and underscores"
)]
pub struct ParseSlotNameError {
    /// What was given.
    pub found: String,
}

impl FromStr for SlotName {
    type Err = ParseSlotNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = (1..=LONGEST_NAME).contains(&text.len())
            && text
                .bytes()
                .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_'));
        if fits {
            Ok(Self(text.to_owned()))
        } else {
            Err(ParseSlotNameError {
                found: text.to_owned(),
            })
        }
    }
}

impl fmt::Display for SlotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How long a new slot lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotLifetime {
    /// Until it is dropped; the server keeps log for it meanwhile.
    Permanent,
    /// As long as the connection.
    Temporary,
}

/// From where on the server keeps its log for a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotPosition {
    /// Oldest position that is kept; `None` where the slot keeps nothing, not
    /// yet or not any more.
    pub restart: Option<Lsn>,
    /// Timeline of that position.
    pub timeline: Option<TimelineId>,
}

impl Connection {
    /// Makes a physical slot that keeps the log from the last checkpoint's redo
    /// position on.
    ///
    /// # Errors
    /// [`QueryError::Server`] with code `42710` if there is one of that name,
    /// `53400` if there is no room for another.
    ///
    /// Source: `CreateReplicationSlot`, src/backend/replication/walsender.c.
    pub fn create_physical_slot(
        &mut self,
        slot: &SlotName,
        lifetime: SlotLifetime,
    ) -> Result<(), QueryError> {
        let temporary = match lifetime {
            SlotLifetime::Permanent => "",
            SlotLifetime::Temporary => " TEMPORARY",
        };
        // the spelling of 14, which later versions read as well
        let command = format!("CREATE_REPLICATION_SLOT {slot}{temporary} PHYSICAL RESERVE_WAL");
        self.begin(&command)?;
        self.read_one_row(&command)?;
        self.finish(&command)
    }

    /// Removes a slot that nobody uses.
    ///
    /// # Errors
    /// [`QueryError::Server`] with code `42704` if there is none, `55006` if it is in use.
    ///
    /// Source: `DropReplicationSlot`, src/backend/replication/walsender.c.
    pub fn drop_slot(&mut self, slot: &SlotName) -> Result<(), QueryError> {
        let command = format!("DROP_REPLICATION_SLOT {slot}");
        self.begin(&command)?;
        self.finish(&command)
    }

    /// What a physical slot keeps. `None` where there is no such slot, and of a
    /// server before 15, which does not tell on a connection of this kind.
    ///
    /// # Errors
    /// [`QueryError`]; `55000` for a logical slot.
    ///
    /// Source: `ReadReplicationSlot`, src/backend/replication/walsender.c.
    pub fn read_slot(&mut self, slot: &SlotName) -> Result<Option<SlotPosition>, QueryError> {
        if self.server_version_num() < READ_SLOT_SINCE {
            return Ok(None);
        }
        let command = format!("READ_REPLICATION_SLOT {slot}");
        self.begin(&command)?;
        let row = match self.next(&command)? {
            Message::RowDescription(_) => self.read_row_after_description(&command)?,
            _ => return Err(self.give_up(&command, "no result")),
        };
        self.finish(&command)?;
        if row.text(0).is_none() {
            return Ok(None);
        }
        Ok(Some(SlotPosition {
            restart: row
                .text(1)
                .and_then(|text| text.parse().ok())
                .filter(|lsn: &Lsn| lsn.is_valid()),
            timeline: row.text(2).and_then(|text| text.parse().ok()),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_need_quotes_are_refused() {
        for good in ["a", "pitr_1", &"x".repeat(63)] {
            assert_eq!(good.parse::<SlotName>().unwrap().to_string(), good);
        }
        for bad in ["", "A", "a b", "a-b", "a;b", "a\"", &"x".repeat(64), "é"] {
            assert!(bad.parse::<SlotName>().is_err(), "{bad}");
        }
    }
}
