//! Messages in and out of a stream.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::{Duration, Instant};

use bytes::{Buf as _, BytesMut};
use postgres_protocol::message::backend::{Header, Message};

use crate::connect::stream::Stream;

/// Largest message that is taken from a server, in bytes.
///
/// Those of a base backup or of replication have about 128 kB; what is larger
/// than this is no answer to anything that is asked here.
const LARGEST_MESSAGE: usize = 64 << 20;
/// The same before it is known who the server is.
const LARGEST_MESSAGE_BEFORE_LOGIN: usize = 64 << 10;
const READ_BYTES: usize = 128 << 10;
/// Source: `PqMsg_CopyBothResponse`, src/include/libpq/protocol.h.
const COPY_BOTH_RESPONSE: u8 = b'W';

/// Failure of the connection itself, as opposed to one that the server reports.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    #[error("the server closed the connection unexpectedly")]
    Closed,
    #[error("the time limit ran out")]
    TimedOut,
    #[error("{0}")]
    Io(io::Error),
    #[error("a message of type {tag:?} with {bytes} bytes is longer than the limit of {limit}")]
    TooLong {
        tag: char,
        bytes: usize,
        limit: usize,
    },
    #[error("malformed message: {0}")]
    Malformed(io::Error),
}

impl From<io::Error> for WireError {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            ErrorKind::WouldBlock | ErrorKind::TimedOut => Self::TimedOut,
            ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
                Self::Closed
            }
            _ => Self::Io(error),
        }
    }
}

/// What a server says.
pub(crate) enum Incoming {
    /// A message that the protocol's crate knows.
    Message(Message),
    /// `CopyBothResponse`, which it does not: streaming replication begins.
    CopyBoth,
}

/// A stream with the bytes that were read ahead and those to be sent.
pub(crate) struct Wire {
    stream: Stream,
    incoming: BytesMut,
    outgoing: BytesMut,
    /// Read into, then appended: a buffer of this size is not zeroed for every read.
    scratch: Box<[u8]>,
    deadline: Option<Instant>,
    largest: usize,
}

impl Wire {
    /// Every read and write up to [`Wire::login_done`] must be over by `deadline`.
    pub(crate) fn new(stream: Stream, deadline: Option<Instant>) -> Self {
        Self {
            stream,
            incoming: BytesMut::new(),
            outgoing: BytesMut::new(),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            deadline,
            largest: LARGEST_MESSAGE_BEFORE_LOGIN,
        }
    }

    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// From here on answers may be large, and take as long as they like.
    pub(crate) fn login_done(&mut self) -> Result<(), WireError> {
        self.largest = LARGEST_MESSAGE;
        if self.deadline.take().is_some() {
            self.stream.set_deadline(None)?;
        }
        Ok(())
    }

    /// Writes one or more messages and sends them.
    pub(crate) fn send(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), WireError> {
        self.outgoing.clear();
        write(&mut self.outgoing).map_err(WireError::Malformed)?;
        self.keep_deadline()?;
        self.stream.write_all(&self.outgoing)?;
        self.stream.flush()?;
        Ok(())
    }

    /// The next message, whole. Blocks until there is one.
    pub(crate) fn receive(&mut self) -> Result<Incoming, WireError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(message);
            }
            self.fill()?;
        }
    }

    /// The next message, if one is whole among the bytes that are here, or
    /// becomes so within `patience` of silence. With none at all it takes only
    /// what can be read without waiting.
    pub(crate) fn receive_within(
        &mut self,
        patience: Option<Duration>,
    ) -> Result<Option<Incoming>, WireError> {
        loop {
            if let Some(message) = self.take()? {
                return Ok(Some(message));
            }
            match patience {
                Some(patience) => self.stream.set_read_timeout(Some(patience))?,
                None if self.stream.is_readable()? => {
                    // part of a TLS record may be all that there is
                    self.stream
                        .set_read_timeout(Some(Duration::from_millis(1)))?;
                }
                None => return Ok(None),
            }
            match self.read_once() {
                Ok(()) => {}
                Err(WireError::TimedOut) => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }

    /// From here on the server must answer or take what it is sent in this time.
    pub(crate) fn set_patience(&mut self, limit: Duration) -> Result<(), WireError> {
        self.stream.set_read_timeout(Some(limit))?;
        Ok(self.stream.set_write_timeout(Some(limit))?)
    }

    /// A message of those that have been read already.
    fn take(&mut self) -> Result<Option<Incoming>, WireError> {
        let Some(header) = Header::parse(&self.incoming).map_err(WireError::Malformed)? else {
            return Ok(None);
        };
        let bytes = usize::try_from(header.len()).unwrap_or(usize::MAX);
        if bytes > self.largest {
            return Err(WireError::TooLong {
                tag: char::from(header.tag()),
                bytes,
                limit: self.largest,
            });
        }
        // asked only when it is all there, so that nothing is allocated on its word
        if self.incoming.len() <= bytes {
            return Ok(None);
        }
        if header.tag() == COPY_BOTH_RESPONSE {
            self.incoming.advance(bytes + 1);
            return Ok(Some(Incoming::CopyBoth));
        }
        let message = Message::parse(&mut self.incoming).map_err(WireError::Malformed)?;
        Ok(message.map(Incoming::Message))
    }

    fn fill(&mut self) -> Result<(), WireError> {
        self.keep_deadline()?;
        self.read_once()
    }

    fn read_once(&mut self) -> Result<(), WireError> {
        loop {
            match self.stream.read(&mut self.scratch) {
                Ok(0) => return Err(WireError::Closed),
                Ok(count) => {
                    self.incoming
                        .extend_from_slice(self.scratch.get(..count).unwrap_or_default());
                    return Ok(());
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn keep_deadline(&mut self) -> Result<(), WireError> {
        if self.deadline.is_some() {
            self.stream.set_deadline(self.deadline)?;
        }
        Ok(())
    }

    /// Ends the connection at once, whatever is under way.
    pub(crate) fn shut_down(&mut self) {
        self.stream.shut_down();
    }
}
