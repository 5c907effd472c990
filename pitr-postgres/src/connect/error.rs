//! Why no server could be reached.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::IpAddr;
use std::time::Duration;

use crate::connection::Mode;
use crate::options::SessionTarget;
use crate::options::password::PasswordOrigin;
use crate::server_message::ServerMessage;
use crate::wire::WireError;

use super::endpoint::Endpoint;
use super::tls::error::TlsError;

/// No connection: every server that was tried, with the reason.
///
/// `Display` gives one line for each.
#[derive(Debug)]
pub struct ConnectError {
    /// In the order of trying; never empty.
    pub attempts: Vec<FailedAttempt>,
}

/// One server that was tried in vain.
#[derive(Debug, thiserror::Error)]
#[error("connection to server {endpoint} failed: {failure}")]
pub struct FailedAttempt {
    /// The server.
    pub endpoint: Endpoint,
    /// What went wrong.
    #[source]
    pub failure: Box<ConnectFailure>,
}

/// Why a connection to one server failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectFailure {
    /// There is no such socket.
    #[error("no such socket")]
    NoSocket,
    /// Nobody listens there.
    #[error("connection refused")]
    Refused,
    /// The host name has no address.
    #[error("could not translate the host name to an address: {0}")]
    Resolve(io::Error),
    /// The system could not connect.
    #[error("{0}")]
    Unreachable(io::Error),
    /// The limit of `connect_timeout` ran out.
    #[error("no answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The server hung up during the login.
    #[error("the server closed the connection unexpectedly")]
    Closed,
    /// The connection broke during the login.
    #[error("{0}")]
    Io(io::Error),
    /// What answered is not PostgreSQL, or a newer one than is understood here.
    #[error("unexpected answer: {0}")]
    Protocol(String),
    /// There is no encrypted connection as it was asked for.
    #[error(transparent)]
    Tls(Box<TlsError>),
    /// The server refused the login.
    #[error("{}", .0.message)]
    Server(Box<ServerRefusal>),
    /// The server asks for a password and there is none.
    #[error("the server asks for a password of user \"{user}\", and none was supplied")]
    PasswordMissing {
        /// The role.
        user: String,
        /// The line that `~/.pgpass` would need, without the password.
        pgpass_line: String,
    },
    /// The server asks for a way to log in that is not spoken here.
    #[error("the server asks for authentication by {0}, which is not supported")]
    AuthenticationUnsupported(String),
    /// SCRAM did not come to its proper end; the server may not know the password itself.
    #[error("SCRAM authentication failed: {0}")]
    Scram(String),
    /// `channel_binding=require` could not be met.
    #[error("channel binding is required, but {0}")]
    ChannelBinding(&'static str),
    /// The server is not of the kind that `target_session_attrs` asks for.
    #[error("the server is not what target_session_attrs={} asks for", .0.as_str())]
    WrongSession(SessionTarget),
}

/// A login that the server refused.
#[derive(Debug)]
pub struct ServerRefusal {
    /// In its own words.
    pub message: ServerMessage,
    /// What the login was for.
    pub mode: Mode,
    /// The role.
    pub user: String,
    /// Our address as we see it, on TCP.
    pub client: Option<IpAddr>,
    /// Where the password came from, if there was one.
    pub password: Option<PasswordOrigin>,
}

impl From<WireError> for ConnectFailure {
    fn from(error: WireError) -> Self {
        match error {
            WireError::Closed => Self::Closed,
            // the caller, who knows the limit, puts it in
            WireError::TimedOut => Self::TimedOut(Duration::ZERO),
            // in TLS 1.3, a server objects to our certificate only after the handshake
            WireError::Io(error) => match error.downcast::<rustls::Error>() {
                Ok(error) => TlsError::from(error).into(),
                Err(error) => Self::Io(error),
            },
            error @ (WireError::TooLong { .. } | WireError::Malformed(_)) => {
                Self::Protocol(error.to_string())
            }
        }
    }
}

impl From<TlsError> for ConnectFailure {
    fn from(error: TlsError) -> Self {
        match error {
            // the caller, who knows the limit, puts it in
            TlsError::Io(error)
                if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) =>
            {
                Self::TimedOut(Duration::ZERO)
            }
            error => Self::Tls(Box::new(error)),
        }
    }
}

impl ConnectFailure {
    /// Whether the next server of a list may still do: this one was not there, or is not ready.
    ///
    /// A server that refused the login ends the search, as in libpq: the next
    /// one would most likely refuse as well.
    pub(crate) fn leads_on(&self) -> bool {
        match self {
            Self::Server(refusal) => refusal.message.code == "57P03",
            Self::PasswordMissing { .. }
            | Self::AuthenticationUnsupported(_)
            | Self::Scram(_)
            | Self::Tls(_)
            | Self::ChannelBinding(_) => false,
            _ => true,
        }
    }

    /// The server's own detail.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Server(refusal) => refusal.message.detail.clone(),
            _ => None,
        }
    }

    /// What can be done about it, for a server at `endpoint`.
    #[must_use]
    pub fn hint(&self, endpoint: &Endpoint) -> Option<String> {
        match self {
            Self::NoSocket | Self::Refused | Self::Unreachable(_) => Some(match endpoint {
                Endpoint::Socket { .. } => {
                    "Is the server running locally and accepting connections on that socket? \
                     PGHOST names its folder (unix_socket_directories), PGPORT its port."
                        .to_owned()
                }
                Endpoint::Tcp { .. } => {
                    "Is the server running on that host and accepting TCP/IP connections \
                     (listen_addresses, port, firewall)?"
                        .to_owned()
                }
            }),
            Self::TimedOut(_) => Some(
                "Check the address and the firewall; connect_timeout or PGCONNECT_TIMEOUT sets the limit."
                    .to_owned(),
            ),
            Self::Closed | Self::Protocol(_) => {
                Some("Is it a PostgreSQL server that listens there? Its log tells more.".to_owned())
            }
            Self::PasswordMissing { pgpass_line, .. } => Some(format!(
                "Add the line \"{pgpass_line}\" to ~/.pgpass (mode 0600) of the user who runs this command, \
                 or set PGPASSWORD."
            )),
            Self::AuthenticationUnsupported(_) => Some(
                "Let pg_hba.conf ask for scram-sha-256, peer or cert for this role.".to_owned(),
            ),
            Self::WrongSession(_) => Some(
                "List more hosts, or take another target_session_attrs.".to_owned(),
            ),
            Self::Tls(error) => error.hint(),
            Self::Server(refusal) => refusal.hint().or_else(|| refusal.message.hint.clone()),
            Self::Resolve(_) | Self::Io(_) | Self::Scram(_) | Self::ChannelBinding(_) => None,
        }
    }
}

impl ServerRefusal {
    /// The codes and routines are those of src/backend/libpq/auth.c,
    /// src/backend/utils/init/postinit.c and src/backend/storage/lmgr/proc.c;
    /// the texts are translated and cannot be told apart.
    fn hint(&self) -> Option<String> {
        let code = self.message.code.as_str();
        Some(match code {
        "28000" if self.message.is_from("ClientAuthentication") => {
            let kind = if self.client.is_some() { "host " } else { "local" };
            let database = match self.mode {
                Mode::Replication => "replication",
                Mode::Sql => "all",
            };
            let address = match self.client {
                Some(IpAddr::V4(address)) => format!("  {address}/32"),
                Some(IpAddr::V6(address)) => format!("  {address}/128"),
                None => String::new(),
            };
            format!(
                "Add a line like \"{kind}  {database}  {}{address}  scram-sha-256\" to the server's \
                 pg_hba.conf, above the one that rejects, and reload it (SELECT pg_reload_conf()).",
                self.user
            )
        }
        "28000" if self.message.is_from("InitializeSessionUserId") => {
            "Name the role to log in as with user=... or PGUSER.".to_owned()
        }
        "28000" => {
            "Peer authentication takes the operating system's user: run this command as that user, \
             or name the role with PGUSER, or let pg_hba.conf ask for scram-sha-256."
                .to_owned()
        }
        "28P01" => match &self.password {
            Some(origin) => format!("The password came from {origin}."),
            None => return None,
        },
        "42501" if self.mode == Mode::Replication => format!(
            "Give the role the attribute: ALTER ROLE \"{}\" REPLICATION; or take another one with PGUSER.",
            self.user.replace('"', "\"\"")
        ),
        "53300" if self.mode == Mode::Replication => {
            "All connections for replication are taken: raise max_wal_senders (and max_connections), \
             or end one that is stuck (pg_stat_replication)."
                .to_owned()
        }
        "53300" => "All connections are taken: raise max_connections, or end some.".to_owned(),
        "3D000" => "Name a database that exists with dbname=... or PGDATABASE.".to_owned(),
        "57P03" => "The server is starting up, shutting down or recovering: try again later.".to_owned(),
        _ => return None,
    })
    }
}

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, attempt) in self.attempts.iter().enumerate() {
            if number > 0 {
                writeln!(f)?;
            }
            write!(f, "{attempt}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConnectError {}

impl ConnectError {
    /// The attempt that says most: the one where a server answered, else the last.
    #[must_use]
    pub fn decisive(&self) -> Option<&FailedAttempt> {
        self.attempts
            .iter()
            .find(|attempt| {
                !matches!(
                    *attempt.failure,
                    ConnectFailure::NoSocket
                        | ConnectFailure::Refused
                        | ConnectFailure::Resolve(_)
                        | ConnectFailure::Unreachable(_)
                )
            })
            .or(self.attempts.last())
    }

    /// The server's own detail on the decisive attempt.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        self.decisive()?.failure.detail()
    }

    /// What can be done about the decisive attempt.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        let attempt = self.decisive()?;
        attempt.failure.hint(&attempt.endpoint)
    }
}
