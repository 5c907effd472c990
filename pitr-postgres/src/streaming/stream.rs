//! The log of a server, as it is written.

use std::time::Duration;

use bytes::Bytes;
use pitr_core::{Lsn, TimelineId};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::CopyData;

use super::message::{self, ServerWord};
use super::slot::SlotName;
use crate::connection::Connection;
use crate::query_error::QueryError;
use crate::wire::Incoming;

/// How long a server may take to go on with a message that it has begun, or to
/// take what it is sent.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long the first word of a stream is waited for. There is one at once, but
/// where a segment begins that nothing was written into yet.
const FIRST_WORD: Duration = Duration::from_secs(3);

/// What comes over the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StreamEvent {
    /// Bytes of the log from `start` on, page headers included; they may end
    /// within a record and pass the end of a segment.
    Wal {
        /// Position of the first byte.
        start: Lsn,
        /// End of what the server has flushed.
        server_end: Lsn,
        /// At least one.
        bytes: Bytes,
    },
    /// The server is there.
    Keepalive {
        /// End of what the server has flushed.
        server_end: Lsn,
        /// It wants a status now, and hangs up where none comes.
        reply_requested: bool,
    },
    /// The timeline has ended, and all of it has come. The connection is ready
    /// for other commands.
    TimelineEnded(NextTimeline),
}

/// The timeline that follows the one that was streamed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NextTimeline {
    /// Which one it is.
    pub timeline: TimelineId,
    /// Where it begins.
    pub start: Lsn,
}

/// How long to wait for the next event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// Take what is here.
    No,
    /// For at most so long.
    AtMost(Duration),
}

/// The log of one timeline, streaming.
///
/// Dropped before its end it takes the connection with it.
#[derive(Debug)]
pub struct WalStream<'a> {
    connection: &'a mut Connection,
    command: String,
    /// The timeline's end, where it came in place of the log.
    ended: Option<NextTimeline>,
    /// What came first, not given out yet.
    first: Option<StreamEvent>,
    is_over: bool,
}

impl Connection {
    /// Has the log of `timeline` streamed from `start` on.
    ///
    /// # Errors
    /// [`QueryError::Server`]: `42704` if there is no such slot, `55006` if it
    /// is in use, `55000` if it was invalidated; and where the position is not
    /// on this server's history. That the log was removed already (`58P01`)
    /// comes from [`WalStream::next_event`].
    ///
    /// Source: `StartReplication`, src/backend/replication/walsender.c.
    pub fn start_streaming(
        &mut self,
        slot: Option<&SlotName>,
        timeline: TimelineId,
        start: Lsn,
    ) -> Result<WalStream<'_>, QueryError> {
        let slot = slot.map_or_else(String::new, |slot| format!("SLOT {slot} "));
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        self.begin(&command)?;
        let ended = match self.next_incoming(&command)? {
            Incoming::CopyBoth => {
                self.set_patience(&command, PATIENCE)?;
                None
            }
            // the timeline ends where we would begin
            Incoming::Message(Message::RowDescription(_)) => {
                let next = self.read_next_timeline(&command)?;
                self.finish(&command)?;
                Some(next)
            }
            Incoming::Message(_) => return Err(self.give_up(&command, "no stream")),
        };
        Ok(WalStream {
            connection: self,
            command,
            is_over: ended.is_some(),
            ended,
            first: None,
        })
    }

    fn read_next_timeline(&mut self, command: &str) -> Result<NextTimeline, QueryError> {
        let row = self.read_row_after_description(command)?;
        let next = (|| {
            Some(NextTimeline {
                timeline: row.text(0)?.parse().ok()?,
                start: row.text(1)?.parse().ok()?,
            })
        })();
        next.ok_or_else(|| self.give_up(command, "columns of another shape"))
    }
}

impl WalStream<'_> {
    /// The next event; `None` where none came in time.
    ///
    /// # Errors
    /// [`QueryError::Server`] for what the server gives as a reason to stop;
    /// [`QueryError::Lost`] also when it shuts down.
    pub fn next_event(&mut self, wait: Wait) -> Result<Option<StreamEvent>, QueryError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        if let Some(next) = self.ended.take() {
            return Ok(Some(StreamEvent::TimelineEnded(next)));
        }
        if self.is_over {
            return Err(QueryError::Closed);
        }
        let patience = match wait {
            Wait::No => None,
            // a time limit of zero would be none
            Wait::AtMost(limit) => Some(limit.max(Duration::from_millis(1))),
        };
        loop {
            let Some(incoming) = self.connection.next_within(&self.command, patience)? else {
                return Ok(None);
            };
            match incoming {
                Incoming::Message(Message::CopyData(body)) => {
                    let bytes = body.into_bytes();
                    // servers up to 14 send an empty one
                    if bytes.is_empty() {
                        continue;
                    }
                    return match message::read(bytes) {
                        Some(ServerWord::Wal {
                            start,
                            server_end,
                            bytes,
                        }) if !bytes.is_empty() => Ok(Some(StreamEvent::Wal {
                            start,
                            server_end,
                            bytes,
                        })),
                        Some(ServerWord::Wal { .. }) => continue,
                        Some(ServerWord::Keepalive {
                            server_end,
                            reply_requested,
                        }) => Ok(Some(StreamEvent::Keepalive {
                            server_end,
                            reply_requested,
                        })),
                        None => Err(self
                            .connection
                            .give_up(&self.command, "a message of unknown kind in the stream")),
                    };
                }
                Incoming::Message(Message::CopyDone) => {
                    self.is_over = true;
                    self.connection.send_copy_done(&self.command)?;
                    return match self.connection.next(&self.command)? {
                        Message::RowDescription(_) => {
                            let next = self.connection.read_next_timeline(&self.command)?;
                            self.connection.finish(&self.command)?;
                            Ok(Some(StreamEvent::TimelineEnded(next)))
                        }
                        _ => Err(self.connection.give_up(
                            &self.command,
                            "the stream ended without the timeline that follows",
                        )),
                    };
                }
                // what a server says that shuts down
                // Source: WalSndDone, src/backend/replication/walsender.c
                Incoming::Message(Message::CommandComplete(_)) => {
                    self.is_over = true;
                    self.connection.close();
                    return Err(QueryError::Lost {
                        reason: "the server is shutting down".to_owned(),
                    });
                }
                _ => {
                    return Err(self
                        .connection
                        .give_up(&self.command, "a message that is no part of a stream"));
                }
            }
        }
    }

    /// Waits for the first word of the server: the log, a sign of life, or that it
    /// has not got the log any more. That is given by [`WalStream::next_event`] then.
    ///
    /// # Errors
    /// As [`WalStream::next_event`]; `58P01` where the log was removed.
    pub fn check_begun(&mut self) -> Result<(), QueryError> {
        if self.first.is_none() && self.ended.is_none() {
            self.first = self.next_event(Wait::AtMost(FIRST_WORD))?;
        }
        Ok(())
    }

    /// Tells the server that everything before `flushed` is durable here.
    ///
    /// It may remove that from then on, and commits that wait for a synchronous
    /// standby are acknowledged by it.
    ///
    /// # Errors
    /// [`QueryError::Lost`].
    pub fn send_status(&mut self, flushed: Lsn, reply_requested: bool) -> Result<(), QueryError> {
        if self.is_over {
            return Ok(());
        }
        let status = message::status(flushed, reply_requested);
        self.connection.send(&self.command, |buffer| {
            CopyData::new(&status[..])?.write(buffer);
            Ok(())
        })
    }

    /// Ends the stream from our side; what still comes is passed over.
    ///
    /// # Errors
    /// [`QueryError`], which need not concern anybody: what was confirmed stays so.
    pub fn stop(mut self, limit: Duration) -> Result<(), QueryError> {
        if self.is_over {
            return Ok(());
        }
        self.is_over = true;
        self.connection.set_patience(&self.command, limit)?;
        self.connection.send_copy_done(&self.command)?;
        loop {
            match self.connection.next(&self.command)? {
                Message::CopyData(_) => {}
                Message::CopyDone => break,
                _ => {
                    return Err(self
                        .connection
                        .give_up(&self.command, "a message that is no part of a stream"));
                }
            }
        }
        self.connection.finish(&self.command)
    }
}

impl Drop for WalStream<'_> {
    fn drop(&mut self) {
        self.connection.close_unless_idle();
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
