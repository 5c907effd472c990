//! One file on its way, over a data connection beside the control connection.

use std::io::{self, Read, Write};
use std::net::Shutdown;

use suppaftp::{FtpError, RustlsFtpStream, TransferStream};

use super::connection::Connection;

/// The stream type of [`RustlsFtpStream`], which its crate does not name.
type Data = TransferStream<<RustlsFtpStream as Secured>::Stream>;

/// Names the type of the streams of an FTP connection.
pub(super) trait Secured {
    type Stream: suppaftp::TlsStream;
}

impl<T: suppaftp::TlsStream> Secured for suppaftp::ImplFtpStream<T> {
    type Stream = T;
}

/// A transfer that was begun. Dropped, it is given up, and its connection too.
pub(super) struct Transfer(Option<(Data, Connection)>);

impl Transfer {
    pub(super) fn new(stream: Data, connection: Connection) -> Self {
        Self(Some((stream, connection)))
    }

    /// Closes the data connection and reads what the server says to it.
    pub(super) fn finish(mut self) -> Result<Connection, FtpError> {
        match self.0.take() {
            Some((stream, connection)) => {
                stream.finish()?;
                Ok(connection)
            }
            None => Err(FtpError::BadResponse),
        }
    }

    fn stream(&mut self) -> io::Result<&mut Data> {
        match &mut self.0 {
            Some((stream, _)) => Ok(stream),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

impl Read for Transfer {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream()?.read(buffer)
    }
}

impl Write for Transfer {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.stream()?.write(buffer)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream()?.flush()
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        if let Some((stream, connection)) = self.0.take() {
            // Nothing of it is waited for.
            let _ = stream.get_ref().get_ref().shutdown(Shutdown::Both);
            let _ = connection.ftp.get_ref().shutdown(Shutdown::Both);
            drop(stream);
        }
    }
}
