//! Reading objects of an FTP store.

use std::io::{self, Read};
use std::ops::Range;
use std::sync::Arc;

use suppaftp::FtpError;

use super::connection::{Failure, Server, broken};
use super::transfer::Transfer;
use crate::key::ObjectKey;
use crate::store::retry::Retry;
use crate::store::{Operation, StoreError};

/// An object open for reading. A connection that breaks is made anew, and
/// reading goes on where it stopped (`REST`): objects never change.
pub(super) struct FtpReader {
    server: Arc<Server>,
    key: ObjectKey,
    /// Name of the file, where it is another one in the object's folder.
    beside: Option<String>,
    size: u64,
    position: u64,
    /// First byte that is not wanted.
    end: u64,
    transfer: Option<Transfer>,
    retry: Retry,
}

impl FtpReader {
    pub(super) fn open(server: &Arc<Server>, key: &ObjectKey) -> Result<Self, StoreError> {
        let Some(meta) = server.stat_object(key)? else {
            return Err(StoreError::NotFound {
                location: server.text(Some(key)),
            });
        };
        Ok(Self::of(server, key, None, meta.size))
    }

    /// The file `name` in the object's folder, which is known to be there with
    /// this size.
    pub(super) fn beside(server: &Arc<Server>, key: &ObjectKey, name: &str, size: u64) -> Self {
        Self::of(server, key, Some(name.to_owned()), size)
    }

    fn of(server: &Arc<Server>, key: &ObjectKey, beside: Option<String>, size: u64) -> Self {
        Self {
            server: Arc::clone(server),
            key: key.clone(),
            beside,
            size,
            position: 0,
            end: size,
            transfer: None,
            retry: Retry::new(server.budget()),
        }
    }

    /// The bytes of `range`, all of them.
    pub(super) fn range(mut self, range: Range<u64>) -> Result<Vec<u8>, StoreError> {
        let out_of_range = || StoreError::OutOfRange {
            location: self.server.text(Some(&self.key)),
            begin: range.start,
            end: range.end,
            size_bytes: self.size,
        };
        // Checked against the real size before anything is allocated.
        if range.start > range.end || range.end > self.size {
            return Err(out_of_range());
        }
        let length = usize::try_from(range.end - range.start).map_err(|_| out_of_range())?;
        let mut bytes = vec![0; length];
        self.position = range.start;
        self.end = range.end;
        let mut filled = 0;
        while filled < length {
            match self.next_bytes(&mut bytes[filled..])? {
                0 => return Err(self.cut_short()),
                count => filled += count,
            }
        }
        self.finish();
        Ok(bytes)
    }

    fn cut_short(&self) -> StoreError {
        StoreError::Io {
            operation: Operation::Read,
            location: self.server.text(Some(&self.key)),
            source: io::Error::new(
                io::ErrorKind::UnexpectedEof,
                format!(
                    "the server sent {} bytes of the {} that the file has",
                    self.position, self.size
                ),
            ),
        }
    }

    fn next_bytes(&mut self, into: &mut [u8]) -> Result<usize, StoreError> {
        let wanted = usize::try_from(self.end - self.position).unwrap_or(usize::MAX);
        let into_length = into.len().min(wanted);
        if into_length == 0 {
            self.finish();
            return Ok(0);
        }
        let location = self.server.text(Some(&self.key));
        loop {
            let mut transfer = match self.transfer.take() {
                Some(transfer) => transfer,
                None => self.begin()?,
            };
            let reason = match transfer.read(&mut into[..into_length]) {
                Ok(count) if count > 0 => {
                    self.transfer = Some(transfer);
                    self.position += u64::try_from(count).unwrap_or(0);
                    self.retry.renew();
                    return Ok(count);
                }
                Ok(_) => "the server ended the transfer early".to_owned(),
                Err(error) => error.to_string(),
            };
            drop(transfer);
            self.server
                .pause(&mut self.retry, Operation::Read, &location, &reason)?;
        }
    }

    fn begin(&mut self) -> Result<Transfer, StoreError> {
        let location = self.server.text(Some(&self.key));
        let offset = usize::try_from(self.position).map_err(|_| self.cut_short())?;
        loop {
            let mut connection = self.server.take(&mut self.retry)?;
            let path = match &self.beside {
                None => connection.path(Some(&self.key)),
                Some(name) => format!("{}/{name}", connection.path(self.key.parent().as_ref())),
            };
            let opened = connection
                .ftp
                .resume_transfer(offset)
                .and_then(|()| connection.ftp.retr_as_stream(path));
            let error = match opened {
                Ok(stream) => return Ok(Transfer::new(stream, connection)),
                Err(error) => error,
            };
            match (broken(&error), error) {
                (None, FtpError::UnexpectedResponse(response)) => {
                    self.server.give_back(connection);
                    let failure = Failure::Answered(response);
                    return Err(self.server.proven(&self.key, failure, Operation::Open));
                }
                (reason, error) => {
                    drop(connection);
                    let reason = reason.unwrap_or_else(|| error.to_string());
                    self.server
                        .pause(&mut self.retry, Operation::Read, &location, &reason)?;
                }
            }
        }
    }

    /// Keeps the connection, where the transfer has come to its own end.
    fn finish(&mut self) {
        if self.position < self.size {
            return;
        }
        if let Some(transfer) = self.transfer.take()
            && let Ok(connection) = transfer.finish()
        {
            self.server.give_back(connection);
        }
    }
}

impl Read for FtpReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        Ok(self.next_bytes(buffer)?)
    }
}
