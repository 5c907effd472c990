//! Messages in and out of a stream.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::time::Instant;

use bytes::BytesMut;
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
    ///
    /// `CopyBothResponse` (`W`), which opens streaming replication, is not
    /// among those that `Message::parse` knows; it would have to be taken off here.
    pub(crate) fn receive(&mut self) -> Result<Message, WireError> {
        loop {
            if let Some(header) = Header::parse(&self.incoming).map_err(WireError::Malformed)? {
                let bytes = usize::try_from(header.len()).unwrap_or(usize::MAX);
                if bytes > self.largest {
                    return Err(WireError::TooLong {
                        tag: char::from(header.tag()),
                        bytes,
                        limit: self.largest,
                    });
                }
                // asked only when it is all there, so that nothing is allocated on its word
                if self.incoming.len() > bytes
                    && let Some(message) =
                        Message::parse(&mut self.incoming).map_err(WireError::Malformed)?
                {
                    return Ok(message);
                }
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> Result<(), WireError> {
        loop {
            self.keep_deadline()?;
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
