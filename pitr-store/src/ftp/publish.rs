//! How an object gets onto an FTP server: whole, and once as far as FTP goes.
//!
//! 1. upload under a temporary name of its own, `.NAME.<16 hex>.tmp`;
//! 2. the server says that the transfer is complete, and how long the file is;
//! 3. no object and no rival has the name yet;
//! 4. rename: many servers overwrite here, and none can be told not to;
//! 5. read the object back whole, and compare;
//! 6. look once more for rivals, and remove debris.

use std::io::{self, Read, Write};
use std::sync::Arc;

use suppaftp::FtpError;

use super::connection::{Failure, Server};
use super::folder::Listed;
use super::read::FtpReader;
use super::transfer::Transfer;
use crate::key::ObjectKey;
use crate::store::retry::{Retry, unique};
use crate::store::server_error::ServerError;
use crate::store::{ObjectWriter, Operation, StoreError};

/// An object being written under a temporary name.
pub(super) struct FtpWriter {
    server: Arc<Server>,
    key: ObjectKey,
    rivals: Vec<ObjectKey>,
    /// Last component of the temporary name.
    temp: String,
    transfer: Option<Transfer>,
    written: u64,
    checksum: u32,
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
            written: 0,
            checksum: 0,
            unfinished: true,
        })
    }

    fn location(&self) -> String {
        self.server.text(Some(&self.key))
    }

    /// Why a write failed: the server's answer, if it gives one, else how the
    /// connection broke.
    fn failed(&mut self, error: &io::Error) -> StoreError {
        let answer = self.transfer.take().map(Transfer::finish);
        if let Some(Err(FtpError::UnexpectedResponse(response))) = answer {
            let failure = Failure::Answered(response);
            return failure.into_store(Operation::Write, self.location());
        }
        // An upload cannot be taken up again: what the server has of it is
        // not known, and what was sent is gone from here.
        ServerError::UploadBroken {
            location: self.location(),
            reason: super::connection::one_line(&error.to_string()),
        }
        .into()
    }

    fn show(&mut self) -> Result<(), StoreError> {
        let location = self.location();
        if let Some(mut transfer) = self.transfer.take() {
            if let Err(error) = transfer.flush() {
                self.transfer = Some(transfer);
                return Err(self.failed(&error));
            }
            match transfer.finish() {
                Ok(connection) => self.server.give_back(connection),
                Err(FtpError::UnexpectedResponse(response)) => {
                    let failure = Failure::Answered(response);
                    return Err(failure.into_store(Operation::Write, location));
                }
                Err(error) => return Err(self.failed(&io::Error::other(error.to_string()))),
            }
        }
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
        if size != self.written {
            return Err(ServerError::Differs {
                location,
                found: format!("{size} bytes instead of {}", self.written),
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
        let mut reader = FtpReader::open(&self.server, &self.key)?;
        let mut buffer = vec![0; 64 << 10];
        let (mut length, mut checksum) = (0u64, 0);
        loop {
            let count = reader
                .read(&mut buffer)
                .map_err(|e| StoreError::from_io(e, Operation::Read, &self.location()))?;
            if count == 0 {
                return Ok((length, checksum) == (self.written, self.checksum));
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

/// Whether `name` is a temporary name for the object `object`.
fn is_temp_of(name: &str, object: &str) -> bool {
    name.strip_prefix('.')
        .and_then(|rest| rest.strip_prefix(object))
        .and_then(|rest| rest.strip_prefix('.'))
        .and_then(|rest| rest.strip_suffix(".tmp"))
        .is_some_and(|number| number.len() == 16 && number.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn begin_upload(server: &Server, key: &ObjectKey) -> Result<(Transfer, String), Failure> {
    let location = server.text(Some(key));
    let mut retry = Retry::new(server.budget());
    loop {
        let mut connection = server.take(&mut retry)?;
        // A new name for every try: a lost answer leaves debris, no doubt.
        let temp = format!(".{}.{:016x}.tmp", key.file_name(), unique());
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

impl Write for FtpWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let Some(transfer) = &mut self.transfer else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        match transfer.write(bytes) {
            Ok(count) => {
                self.checksum = crc32c::crc32c_append(self.checksum, &bytes[..count]);
                self.written += u64::try_from(count).unwrap_or(0);
                Ok(count)
            }
            Err(error) => Err(self.failed(&error).into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        let flushed = match &mut self.transfer {
            Some(transfer) => transfer.flush(),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        };
        flushed.map_err(|error| self.failed(&error).into())
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
