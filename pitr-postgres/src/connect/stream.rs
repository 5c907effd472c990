//! The bytes of a connection: a Unix socket, TCP, or TLS over TCP.

use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::sockopt;

use crate::options::Keepalive;

use super::tls::TlsStream;

/// A connected stream.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream>),
}

impl Stream {
    pub(crate) fn tls(&self) -> Option<&TlsStream> {
        match self {
            Self::Tls(stream) => Some(stream),
            Self::Unix(_) | Self::Tcp(_) => None,
        }
    }

    /// Connects to a Unix socket, in the file system or (leading `@`) in the abstract namespace.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        let stream = match path.as_os_str().as_bytes().strip_prefix(b"@") {
            Some(name) => UnixStream::connect_addr(
                &std::os::unix::net::SocketAddr::from_abstract_name(name)?,
            )?,
            None => UnixStream::connect(path)?,
        };
        Ok(Self::Unix(stream))
    }

    /// Connects over TCP; what of `keepalive` the system does not take is passed over.
    pub(crate) fn tcp(
        address: SocketAddr,
        deadline: Option<Instant>,
        keepalive: &Keepalive,
    ) -> io::Result<TcpStream> {
        let stream = match deadline {
            Some(deadline) => TcpStream::connect_timeout(&address, remaining(deadline)?)?,
            None => TcpStream::connect(address)?,
        };
        stream.set_nodelay(true)?;
        let _ = sockopt::set_socket_keepalive(&stream, keepalive.enabled);
        if let Some(idle) = keepalive.idle.filter(|_| keepalive.enabled) {
            let _ = sockopt::set_tcp_keepidle(&stream, idle);
        }
        if let Some(interval) = keepalive.interval.filter(|_| keepalive.enabled) {
            let _ = sockopt::set_tcp_keepintvl(&stream, interval);
        }
        if let Some(count) = keepalive.count.filter(|_| keepalive.enabled) {
            let _ = sockopt::set_tcp_keepcnt(&stream, count);
        }
        if let Some(timeout) = keepalive.user_timeout {
            let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
            let _ = sockopt::set_tcp_user_timeout(&stream, milliseconds);
        }
        Ok(stream)
    }

    /// Our own address on a TCP connection.
    pub(crate) fn client_address(&self) -> Option<IpAddr> {
        match self {
            Self::Unix(_) => None,
            Self::Tcp(stream) => stream.local_addr().ok(),
            Self::Tls(stream) => stream.sock.local_addr().ok(),
        }
        .map(|address| address.ip())
    }

    /// Reads and writes fail with `WouldBlock` or `TimedOut` from `deadline` on; `None`: never.
    pub(crate) fn set_deadline(&self, deadline: Option<Instant>) -> io::Result<()> {
        let limit = deadline.map(remaining).transpose()?;
        self.set_read_timeout(limit)?;
        self.set_write_timeout(limit)
    }

    /// A read that nothing comes to for so long fails with `WouldBlock` or `TimedOut`.
    pub(crate) fn set_read_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_read_timeout(limit),
            Self::Tcp(stream) => stream.set_read_timeout(limit),
            Self::Tls(stream) => stream.sock.set_read_timeout(limit),
        }
    }

    /// The same for a write that the other side does not take.
    pub(crate) fn set_write_timeout(&self, limit: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.set_write_timeout(limit),
            Self::Tcp(stream) => stream.set_write_timeout(limit),
            Self::Tls(stream) => stream.sock.set_write_timeout(limit),
        }
    }

    /// Whether something has come that was not read yet, or the end has.
    pub(crate) fn is_readable(&self) -> io::Result<bool> {
        let socket = match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
            Self::Tls(stream) if !stream.conn.wants_read() => return Ok(true),
            Self::Tls(stream) => stream.sock.as_fd(),
        };
        let mut asked = [PollFd::from_borrowed_fd(socket, PollFlags::IN)];
        let at_once = Timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        Ok(poll(&mut asked, Some(&at_once))? > 0)
    }

    /// Closes both directions; whoever is reading wakes up.
    pub(crate) fn shut_down(&mut self) {
        let _ = match self {
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Tls(stream) => {
                stream.conn.send_close_notify();
                // a server that no longer reads must not hold us
                let _ = stream.sock.set_write_timeout(Some(Duration::from_secs(1)));
                let _ = stream.conn.write_tls(&mut stream.sock);
                stream.sock.shutdown(Shutdown::Both)
            }
        };
    }
}

pub(crate) fn remaining(deadline: Instant) -> io::Result<Duration> {
    deadline
        .checked_duration_since(Instant::now())
        .filter(|left| !left.is_zero())
        .ok_or_else(|| io::ErrorKind::TimedOut.into())
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.flush(),
            Self::Tcp(stream) => stream.flush(),
            Self::Tls(stream) => stream.flush(),
        }
    }
}
