//! Messages that applications put into the log.

use std::fmt;

use nom::Parser;
use nom::bytes::complete::take;
use nom::combinator::map_opt;
use nom::number::complete::{le_u8, le_u32, le_u64};

use crate::wal::record::contents::Parsed;

/// A message of `pg_logical_emit_message`.
///
/// Source: `xl_logical_message`, src/include/replication/message.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// OID of the database it was sent from.
    pub database: u32,
    /// Whether it counts only if its transaction commits.
    pub transactional: bool,
    /// What its sender calls this kind of message.
    pub prefix: &'a [u8],
    /// The message.
    pub content: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    pub(crate) fn fields(data: &'a [u8], operation: u8) -> Parsed<'a, Self> {
        if operation != 0x00 {
            return Ok((data, None));
        }
        let length = || map_opt(le_u64, |length| usize::try_from(length).ok());
        let (data, (database, transactional, _, prefix_len, content_len)) =
            (le_u32, le_u8, take(3usize), length(), length()).parse(data)?;
        let (data, (prefix, content)) = (take(prefix_len), take(content_len)).parse(data)?;
        let message = LogicalMessage {
            database,
            transactional: transactional != 0,
            // with the NUL that ends it
            prefix: prefix.strip_suffix(b"\0").unwrap_or(prefix),
            content,
        };
        Ok((data, Some(message)))
    }
}

impl fmt::Display for LogicalMessage<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.transactional {
            "transactional"
        } else {
            "non-transactional"
        };
        write!(
            f,
            "MESSAGE {kind}, prefix \"{}\"; payload ({} bytes)",
            self.prefix.escape_ascii(),
            self.content.len()
        )
    }
}
