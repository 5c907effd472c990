//! Why a query or command failed.

use crate::server_message::ServerMessage;
use crate::wire::WireError;

/// Failure of a query or command.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The server refused or gave up; the connection is usable again.
    #[error("{message}")]
    Server {
        /// In its own words.
        message: Box<ServerMessage>,
    },
    /// The connection is gone.
    #[error("the connection to the server was lost: {reason}")]
    Lost {
        /// What the system said.
        reason: String,
    },
    /// The server said something that does not belong there; the connection is given up.
    #[error("unexpected answer to {command}: {problem}")]
    Protocol {
        /// First word or words of what was asked.
        command: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The connection was given up earlier: after a loss, or in the middle of a backup.
    #[error("the connection to the server is closed")]
    Closed,
}

impl QueryError {
    /// The server's own detail.
    #[must_use]
    pub fn detail(&self) -> Option<String> {
        match self {
            Self::Server { message } => message.detail.clone(),
            _ => None,
        }
    }

    /// What can be done about it: the server's own hint, where it gives one.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Server { message } => message.hint.clone(),
            Self::Lost { .. } => Some("The server's log tells more.".to_owned()),
            _ => None,
        }
    }

    /// SQLSTATE of an error of the server.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server { message } => Some(&message.code),
            _ => None,
        }
    }
}

impl From<WireError> for QueryError {
    fn from(error: WireError) -> Self {
        Self::Lost {
            reason: error.to_string(),
        }
    }
}
