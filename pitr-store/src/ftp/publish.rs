//! How an object gets onto an FTP server: whole, and once as far as FTP goes.
//!
//! 1. upload under a temporary name of its own, `.NAME.<16 hex>.tmp`; where the
//!    connection breaks, the server is asked how much it has, and gets the rest;
//! 2. the server says that the transfer is complete, and how long the file is;
//!    what was sent in pieces is read back and compared;
//! 3. no object and no rival has the name yet;
//! 4. rename: many servers overwrite here, and none can be told not to;
//! 5. read the object back whole, and compare;
//! 6. look once more for rivals, and remove debris.

use pitr_core::crc32c;
use std::io::{self, Read, Write};
use std::sync::Arc;

use suppaftp::FtpError;

use super::connection::{Failure, Server};
use super::folder::Listed;
use super::read::FtpReader;
use super::recent::Recent;
use super::transfer::Transfer;
use crate::key::ObjectKey;
use crate::store::retry::Retry;
use crate::store::server_error::ServerError;
use crate::store::temp_name::{is_temp_of, temp_name};
use crate::store::{ObjectWriter, Operation, StoreError};

/// How often the upload of one object goes on after its connection broke.
const MOST_RESUMPTIONS: u32 = 20;

/// An object being written under a temporary name.
pub(super) struct FtpWriter {
    server: Arc<Server>,
    key: ObjectKey,
    rivals: Vec<ObjectKey>,
    /// Last component of the temporary name.
    temp: String,
    transfer: Option<Transfer>,
    recent: Recent,
    checksum: u32,
    /// How often the connection broke.
    resumptions: u32,
    /// Whether the file may still lie under its temporary name.
    unfinished: bool,
}

impl FtpWriter {
    pub(super) fn begin(
        server: &Arc<Server>,
        key: &ObjectKey,
        rivals: &[ObjectKey],
    ) -> Result<Self, StoreError> {
        if rivals.iter().any(|rival| rival.parent() != key.parent()) {
            return Err(StoreError::Unsupported {
                location: server.text(Some(key)),
                missing: "a key that stands for the same object lies in another folder",
            });
        }
        let location = server.text(Some(key));
        let (transfer, temp) = match begin_upload(server, key) {
            Err(Failure::Answered(_)) => {
                // The folder is missing, most likely.
                match key.parent() {
                    Some(folder) => server.make_folder(&folder)?,
                    None => {
                        server.look_into(None, Operation::Create)?;
                    }
                }
                begin_upload(server, key)
            }
            other => other,
        }
        .map_err(|failure| failure.into_store(Operation::Create, location))?;
        Ok(Self {
            server: Arc::clone(server),
            key: key.clone(),
            rivals: rivals.to_vec(),
            temp,
            transfer: Some(transfer),
            recent: Recent::default(),
            checksum: 0,
            resumptions: 0,
            unfinished: true,
        })
    }

    fn location(&self) -> String {
        self.server.text(Some(&self.key))
    }

    fn broken(&self, reason: &str) -> StoreError {
        ServerError::UploadBroken {
            location: self.location(),
            reason: super::connection::one_line(reason),
        }
        .into()
    }

    /// Goes on after a transfer that broke, or says why it cannot: the server's
    /// answer, if it gives one that no further try changes.
    fn resume(&mut self, error: &FtpError) -> Result<(), StoreError> {
        let location = self.location();
        let mut retry = Retry::new(self.server.budget());
        let mut reason = match why(error) {
            Ok(reason) => reason,
            Err(failure) => return Err(failure.into_store(Operation::Write, location)),
        };
        self.transfer = None;
        loop {
            if self.resumptions >= MOST_RESUMPTIONS {
                return Err(self.broken(&reason));
            }
            self.resumptions += 1;
            self.server
                .pause(&mut retry, Operation::Write, &location, &reason)?;
            let mut connection = self.server.take(&mut retry)?;
            let path = temp_path(&connection.path(self.key.parent().as_ref()), &self.temp);
            let there = match connection.ftp.size(path.as_str()) {
                Ok(size) => u64::try_from(size).unwrap_or(u64::MAX),
                // it is gone: all of it may still be at hand
                Err(FtpError::UnexpectedResponse(_)) => 0,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            let Some(rest) = self.recent.since(there) else {
                return Err(self.broken(&reason));
            };
            let opened = if there == 0 {
                connection.ftp.put_with_stream(path)
            } else {
                connection.ftp.append_with_stream(path)
            };
            let stream = match opened {
                Ok(stream) => stream,
                Err(error) => {
                    reason = match why(&error) {
                        Ok(reason) => reason,
                        Err(_) => return Err(self.broken(&error.to_string())),
                    };
                    continue;
                }
            };
            let mut transfer = Transfer::new(stream, connection);
            let mut sent = Ok(());
            for piece in rest {
                sent = transfer.write_all(piece);
                if sent.is_err() {
                    break;
                }
            }
            match sent {
                Ok(()) => {
                    self.transfer = Some(transfer);
                    return Ok(());
                }
                Err(error) => {
                    reason = match why(&end_of(transfer, error)) {
                        Ok(reason) => reason,
                        Err(failure) => {
                            return Err(failure.into_store(Operation::Write, location));
                        }
                    };
                }
            }
        }
    }

    /// Waits until the server has all of it.
    fn finish_upload(&mut self) -> Result<(), StoreError> {
        while let Some(mut transfer) = self.transfer.take() {
            let finished = match transfer.flush() {
                Ok(()) => transfer.finish(),
                Err(error) => Err(end_of(transfer, error)),
            };
            match finished {
                Ok(connection) => self.server.give_back(connection),
                Err(error) => self.resume(&error)?,
            }
        }
        Ok(())
    }

    fn show(&mut self) -> Result<(), StoreError> {
        let location = self.location();
        self.finish_upload()?;
        let temp = self.temp.clone();
        let size = self
            .server
            .call(Operation::Sync, &location, |connection, _| {
                let path = temp_path(&connection.path(self.key.parent().as_ref()), &temp);
                let size = connection.ftp.size(path.as_str())?;
                connection.make_private(&path, "600");
                Ok(size)
            });
        let size = match size {
            Ok(size) => u64::try_from(size).unwrap_or(u64::MAX),
            Err(failure) => return Err(self.swept_or(failure, Operation::Sync)?),
        };
        if size != self.recent.written() {
            return Err(ServerError::Differs {
                location,
                found: format!("{size} bytes instead of {}", self.recent.written()),
            }
            .into());
        }
        // what the broken connection had on its way may have come after all
        if self.resumptions > 0 && !self.temp_reads_back()? {
            return Err(ServerError::Differs {
                location,
                found: "not what was sent, after a connection broke".to_owned(),
            }
            .into());
        }
        let mut all = vec![self.key.clone()];
        all.extend(self.rivals.iter().cloned());
        let listed = self.siblings()?;
        if let Some(taken) = first_of(&all, &listed) {
            return Err(self.taken(taken));
        }
        self.server.check_holds(&self.key)?;
        let renamed = self
            .server
            .call(Operation::Publish, &location, |connection, tried| {
                let folder = connection.path(self.key.parent().as_ref());
                let to = connection.path(Some(&self.key));
                if tried > 0 && connection.ftp.size(to.as_str()).is_ok() {
                    // Our own rename, if its answer was lost; else another's
                    // object. Reading it back says which.
                    return Ok(());
                }
                connection.ftp.rename(temp_path(&folder, &temp), to)
            });
        if let Err(failure) = renamed {
            return Err(self.swept_or(failure, Operation::Publish)?);
        }
        self.unfinished = false;
        if !self.reads_back()? {
            return Err(self.taken(self.key.clone()));
        }
        let after = self.siblings()?;
        if let Some(taken) = first_of(&self.rivals, &after) {
            return Err(self.taken(taken));
        }
        self.sweep(&after);
        Ok(())
    }

    /// After an answer that our temporary file is not as it should be: another
    /// writer of this name may have been faster, and cleared it away.
    fn swept_or(&self, failure: Failure, operation: Operation) -> Result<StoreError, StoreError> {
        if matches!(failure, Failure::Answered(_))
            && self.server.find(&self.key, operation)?.is_some()
        {
            return Ok(self.taken(self.key.clone()));
        }
        Ok(failure.into_store(operation, self.location()))
    }

    /// What lies beside the object.
    fn siblings(&self) -> Result<Vec<Listed>, StoreError> {
        let folder = self.key.parent();
        self.server
            .look_into(folder.as_ref(), Operation::List)?
            .ok_or_else(|| StoreError::Busy {
                operation: Operation::Publish,
                location: self.location(),
            })
    }

    /// Whether the object is what was written.
    fn reads_back(&self) -> Result<bool, StoreError> {
        self.is_as_written(FtpReader::open(&self.server, &self.key)?)
    }

    /// The same of the file under its temporary name.
    fn temp_reads_back(&self) -> Result<bool, StoreError> {
        let written = self.recent.written();
        self.is_as_written(FtpReader::beside(
            &self.server,
            &self.key,
            &self.temp,
            written,
        ))
    }

    fn is_as_written(&self, mut reader: FtpReader) -> Result<bool, StoreError> {
        let mut buffer = vec![0; 64 << 10];
        let (mut length, mut checksum) = (0u64, 0);
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|e| StoreError::from_io(e, Operation::Read, &self.location()))?;
            if count == 0 {
                return Ok((length, checksum) == (self.recent.written(), self.checksum));
            }
            checksum = crc32c::crc32c_append(checksum, &buffer[..count]);
            length += u64::try_from(count).unwrap_or(0);
        }
    }

    /// Removes temporary files whose object shows. What cannot be removed
    /// stays for the next one.
    fn sweep(&self, listed: &[Listed]) {
        let debris: Vec<&str> = listed
            .iter()
            .map(|file| file.name.as_str())
            .filter(|name| is_temp_of(name, self.key.file_name()))
            .collect();
        if debris.is_empty() {
            return;
        }
        let _ = self
            .server
            .call(Operation::Delete, &self.location(), |connection, _| {
                let folder = connection.path(self.key.parent().as_ref());
                for name in &debris {
                    let _ = connection.ftp.rm(temp_path(&folder, name));
                }
                Ok(())
            });
    }

    fn taken(&self, key: ObjectKey) -> StoreError {
        StoreError::AlreadyExists {
            location: self.server.text(Some(&key)),
            key,
        }
    }
}

fn temp_path(folder: &str, name: &str) -> String {
    format!("{folder}/{name}")
}

fn first_of(keys: &[ObjectKey], listed: &[Listed]) -> Option<ObjectKey> {
    keys.iter()
        .find(|key| listed.iter().any(|file| file.name == key.file_name()))
        .cloned()
}

fn begin_upload(server: &Server, key: &ObjectKey) -> Result<(Transfer, String), Failure> {
    let location = server.text(Some(key));
    let mut retry = Retry::new(server.budget());
    loop {
        let mut connection = server.take(&mut retry)?;
        // A new name for every try: a lost answer leaves debris, no doubt.
        let temp = temp_name(key.file_name());
        let path = temp_path(&connection.path(key.parent().as_ref()), &temp);
        match connection.ftp.put_with_stream(path) {
            Ok(stream) => return Ok((Transfer::new(stream, connection), temp)),
            Err(FtpError::UnexpectedResponse(response))
                if super::connection::broken(&FtpError::UnexpectedResponse(response.clone()))
                    .is_none() =>
            {
                server.give_back(connection);
                return Err(Failure::Answered(response));
            }
            Err(error) => {
                drop(connection);
                server.pause(&mut retry, Operation::Create, &location, &error.to_string())?;
            }
        }
    }
}

/// Why a transfer broke; the server's answer, if no further try changes it.
fn why(error: &FtpError) -> Result<String, Failure> {
    match (super::connection::broken(error), error) {
        (Some(reason), _) => Ok(reason),
        (None, FtpError::UnexpectedResponse(response)) => Err(Failure::Answered(response.clone())),
        (None, other) => Ok(other.to_string()),
    }
}

/// What the server says to a transfer of which a write failed, if it says
/// anything; else how that failed.
fn end_of(transfer: Transfer, error: io::Error) -> FtpError {
    match transfer.finish() {
        Err(answer @ FtpError::UnexpectedResponse(_)) => answer,
        _ => FtpError::ConnectionError(error),
    }
}

impl Write for FtpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let Some(mut transfer) = self.transfer.take() else {
                return Err(io::ErrorKind::BrokenPipe.into());
            };
            match transfer.write(bytes) {
                Ok(count) => {
                    self.transfer = Some(transfer);
                    let written = bytes.get(..count).unwrap_or(bytes);
                    self.checksum = crc32c::crc32c_append(self.checksum, written);
                    self.recent.note(written);
                    return Ok(count);
                }
                Err(error) => self.resume(&end_of(transfer, error))?,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let Some(mut transfer) = self.transfer.take() else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match transfer.flush() {
            Ok(()) => {
                self.transfer = Some(transfer);
                Ok(())
            }
            Err(error) => Ok(self.resume(&end_of(transfer, error))?),
        }
    }
}

impl ObjectWriter for FtpWriter {
    fn publish(mut self: Box<Self>) -> Result<(), StoreError> {
        self.show()
    }
}

impl Drop for FtpWriter {
    fn drop(&mut self) {
        if !self.unfinished {
            return;
        }
        // The server takes the end of the data for the end of the file: it
        // must have closed it before it can be removed.
        if let Some(transfer) = self.transfer.take()
            && let Ok(connection) = transfer.finish()
        {
            self.server.give_back(connection);
        }
        let Ok(mut connection) = self.server.take(&mut Retry::new(std::time::Duration::ZERO))
        else {
            return;
        };
        let path = temp_path(&connection.path(self.key.parent().as_ref()), &self.temp);
        if connection.ftp.rm(path).is_ok() {
            self.server.give_back(connection);
        }
    }
}
