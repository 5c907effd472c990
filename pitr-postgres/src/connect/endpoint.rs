//! One address of one server.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

/// One socket, or one address of a host name: what a connection is made to.
///
/// `Display` reads after the words "connection to server".
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket.
    Socket {
        /// Path of the socket; a leading `@` stands for the abstract namespace.
        path: PathBuf,
    },
    /// TCP.
    Tcp {
        /// Name or address as it was given.
        name: String,
        /// What it was looked up to; `None` if that failed.
        address: Option<SocketAddr>,
        /// The port.
        port: u16,
    },
}

impl Endpoint {
    /// Source: `UNIXSOCK_PATH`, src/include/libpq/pqcomm.h.
    pub(crate) fn socket(folder: &Path, port: u16) -> Self {
        let mut path = folder.as_os_str().to_owned();
        path.push(format!("/.s.PGSQL.{port}"));
        Self::Socket { path: path.into() }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket { path } => write!(f, "on socket \"{}\"", path.display()),
            Self::Tcp {
                name,
                address: Some(address),
                port,
            } if address.ip().to_string() != *name => {
                write!(f, "at \"{name}\" ({}), port {port}", address.ip())
            }
            Self::Tcp { name, port, .. } => write!(f, "at \"{name}\", port {port}"),
        }
    }
}
