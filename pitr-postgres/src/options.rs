//! How to reach a server: libpq's settings, resolved.

pub(crate) mod conninfo;
pub(crate) mod environment;
pub(crate) mod error;
pub(crate) mod keyword;
pub(crate) mod password;
pub(crate) mod resolve;
pub(crate) mod service;
pub(crate) mod settings;
pub(crate) mod tls;
pub(crate) mod uri;
pub(crate) mod variables;

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use password::{Password, PasswordOrigin};
use tls::TlsOptions;

/// Everything that it takes to reach a server and log in.
///
/// Made by [`ConnectOptions::resolve`]. `Display` gives the servers, the user
/// and the database for a message; no password is ever shown.
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(crate) hosts: Vec<Host>,
    pub(crate) user: String,
    pub(crate) database: String,
    pub(crate) tls: TlsOptions,
    pub(crate) application_name: Option<String>,
    pub(crate) fallback_application_name: Option<String>,
    pub(crate) server_options: Option<String>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) keepalive: Keepalive,
    pub(crate) target: SessionTarget,
    pub(crate) warnings: Vec<OptionsWarning>,
}

impl ConnectOptions {
    /// The servers to try, in this order.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to log in as.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database of a connection for SQL; one for replication has none.
    #[must_use]
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Settings of encryption.
    #[must_use]
    pub fn tls(&self) -> &TlsOptions {
        &self.tls
    }

    /// Whole time that one address of a server may take to connect and log in; `None`: no limit.
    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// What was found amiss and passed over, for the user to be told.
    #[must_use]
    pub fn warnings(&self) -> &[OptionsWarning] {
        &self.warnings
    }

    /// Name of the program, shown in `pg_stat_activity`, where the settings give none.
    #[must_use]
    pub fn with_program_name(mut self, name: impl Into<String>) -> Self {
        self.fallback_application_name = Some(name.into());
        self
    }

    /// Sets the time limit where the settings give none.
    #[must_use]
    pub fn with_default_connect_timeout(mut self, limit: Duration) -> Self {
        self.connect_timeout.get_or_insert(limit);
        self
    }

    pub(crate) fn program_name(&self) -> Option<&str> {
        self.application_name
            .as_deref()
            .or(self.fallback_application_name.as_deref())
    }
}

impl fmt::Display for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, host) in self.hosts.iter().enumerate() {
            let separator = if number == 0 { "" } else { ", " };
            write!(f, "{separator}{host}")?;
        }
        write!(f, ", user {}, database {}", self.user, self.database)
    }
}

/// One server to try.
#[derive(Debug, Clone)]
pub struct Host {
    /// The socket or the address.
    pub target: HostTarget,
    /// The port; it names the socket file too.
    pub port: u16,
    /// Password for this server's databases.
    pub(crate) password: Option<(Password, PasswordOrigin)>,
    /// Password for replication, for which password files have the database `replication`.
    pub(crate) replication_password: Option<(Password, PasswordOrigin)>,
    /// What a line of `.pgpass` calls this server.
    pub(crate) pgpass_name: String,
}

/// How one server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostTarget {
    /// A Unix socket in this folder; a leading `@` stands for the abstract namespace.
    Socket(PathBuf),
    /// TCP.
    Tcp {
        /// Name or address as it was given, by which certificates are checked.
        name: String,
        /// Address to use instead of looking up the name (`hostaddr`).
        address: Option<IpAddr>,
    },
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.target {
            HostTarget::Socket(folder) => {
                write!(f, "socket \"{}/.s.PGSQL.{}\"", folder.display(), self.port)
            }
            HostTarget::Tcp { name, .. } => write!(f, "\"{name}\", port {}", self.port),
        }
    }
}

/// TCP keepalive, as libpq's `keepalives...` and `tcp_user_timeout` set it.
///
/// `None` leaves the system's own value. It is on by default, so that a
/// server that vanished is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// `keepalives`.
    pub enabled: bool,
    /// `keepalives_idle`.
    pub idle: Option<Duration>,
    /// `keepalives_interval`.
    pub interval: Option<Duration>,
    /// `keepalives_count`.
    pub count: Option<u32>,
    /// `tcp_user_timeout`, in whole milliseconds.
    pub user_timeout: Option<Duration>,
}

/// What kind of server is wanted among several: libpq's `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionTarget {
    /// The first that answers.
    Any,
    /// One where transactions may write.
    ReadWrite,
    /// One where they may not.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// One that is in recovery if there is one, else any.
    PreferStandby,
}

impl SessionTarget {
    pub(crate) const EXPECTED: &'static str =
        "any, read-write, read-only, primary, standby or prefer-standby";

    pub(crate) fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "any" => Self::Any,
            "read-write" => Self::ReadWrite,
            "read-only" => Self::ReadOnly,
            "primary" => Self::Primary,
            "standby" => Self::Standby,
            "prefer-standby" => Self::PreferStandby,
            _ => return None,
        })
    }

    /// The value as libpq spells it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::ReadWrite => "read-write",
            Self::ReadOnly => "read-only",
            Self::Primary => "primary",
            Self::Standby => "standby",
            Self::PreferStandby => "prefer-standby",
        }
    }
}

/// Something amiss in the settings that does not stop a connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsWarning {
    /// Others may read the password file, so it is not used.
    #[error(
        "password file \"{}\" has group or world access (mode {mode:04o}) and is not used; \
         permissions should be u=rw (0600) or less", path.display()
    )]
    PasswordFileNotPrivate {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The password file is a folder, a pipe or the like.
    #[error("password file \"{}\" is not a plain file and is not used", path.display())]
    PasswordFileNotPlain {
        /// The file.
        path: PathBuf,
    },
    /// The password file is there and private, but reading it failed.
    #[error("password file \"{}\" cannot be read: {reason}", path.display())]
    PasswordFileUnreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
}
