//! How a server fails the store that lies on it.

use std::time::Duration;

use super::{ErrorClass, Operation};

/// Why a server does not serve. Each text is one line and holds no secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// No connection, however often it was tried.
    #[error("could not connect to {server}: {reason}, given up after {tried_for:.0?}")]
    Unreachable {
        /// Its address.
        server: String,
        /// What the system answered last.
        reason: String,
        /// How long it was tried.
        tried_for: Duration,
    },
    /// The connection broke, and could not be taken up again.
    #[error(
        "could not {operation} \"{location}\": the connection broke ({reason}), given up after {tried_for:.0?}"
    )]
    ConnectionLost {
        /// What was being done.
        operation: Operation,
        /// To what.
        location: String,
        /// How it broke the last time.
        reason: String,
        /// How long it was tried.
        tried_for: Duration,
    },
    /// The connection broke in the middle of an upload that cannot go on where
    /// it stopped.
    #[error("could not write \"{location}\": the connection broke in the middle ({reason})")]
    UploadBroken {
        /// The object.
        location: String,
        /// How it broke.
        reason: String,
    },
    /// None of the ways to log in was accepted.
    #[error("{server} did not let user \"{user}\" in; tried {tried}")]
    LoginRefused {
        /// Its address.
        server: String,
        /// Who wanted in.
        user: String,
        /// The ways that were tried, in words.
        tried: String,
        /// What may open the door.
        hint: String,
    },
    /// What is needed to log in is not there or cannot be read.
    #[error("{problem}")]
    Credentials {
        /// What is wrong with which file or variable.
        problem: String,
        /// What would be right.
        hint: String,
    },
    /// Nothing vouches for the server.
    #[error(
        "the {algorithm} key of {server} ({fingerprint}) is not known: {searched} name no such key"
    )]
    UnknownHostKey {
        /// Its address.
        server: String,
        /// As `ssh-keyscan -t` takes it.
        algorithm: String,
        /// `SHA256:…`, as ssh shows it.
        fingerprint: String,
        /// The files that were read.
        searched: String,
        /// How to make it known.
        hint: String,
    },
    /// The server shows another key than the one it is known by, or a revoked one.
    #[error(
        "the {algorithm} key of {server} ({fingerprint}) is {relation} line {line} of \"{file}\""
    )]
    WrongHostKey {
        /// Its address.
        server: String,
        /// The key's type.
        algorithm: String,
        /// `SHA256:…`, as ssh shows it.
        fingerprint: String,
        /// `not the one of` or `revoked by`.
        relation: &'static str,
        /// Where the known one stands.
        file: String,
        /// In which line.
        line: usize,
    },
    /// Both sides have no algorithm in common.
    #[error("{server} offers no {kind} that is supported here: it has {theirs}")]
    NoCommonAlgorithm {
        /// Its address.
        server: String,
        /// What for: `host key`, `cipher`, and so on.
        kind: String,
        /// What it offers.
        theirs: String,
        /// The way out.
        hint: String,
    },
    /// TLS failed: an untrusted certificate, most often.
    #[error("no secure connection to {server}: {reason}")]
    Tls {
        /// Its address.
        server: String,
        /// What TLS says.
        reason: String,
        /// The way out.
        hint: String,
    },
    /// The server refuses, in its own words.
    #[error("could not {operation} \"{location}\": the server answered: {answer}")]
    Answered {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
        /// The answer.
        answer: String,
        /// What may be wrong.
        hint: Option<String>,
    },
    /// What was written does not read back.
    #[error("\"{location}\" does not read back as it was written: {found}")]
    Differs {
        /// The object.
        location: String,
        /// What is different.
        found: String,
    },
}

impl ServerError {
    /// What the error means for the one who asked.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Unreachable { .. } | Self::ConnectionLost { .. } | Self::UploadBroken { .. } => {
                ErrorClass::Passing
            }
            _ => ErrorClass::Permanent,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unreachable { server, .. } => {
                format!("Does the server run, and do name, port and firewall let this host reach {server}?")
            }
            Self::UploadBroken { .. } => {
                "Nothing of it shows, and the next try begins anew. Look into the server's log: was it stopped, or the connection cut?".to_owned()
            }
            Self::ConnectionLost { .. } => {
                "Look into the server's log: was it stopped, or the connection cut?".to_owned()
            }
            Self::WrongHostKey {
                relation: REVOKED, ..
            } => "Do not trust this server until its administrator has given it a new key."
                .to_owned(),
            Self::WrongHostKey { file, server, .. } => format!(
                "Somebody may stand in between. Only if {server} was given a new key, remove that line of \"{file}\" and add the new key, after comparing fingerprints."
            ),
            Self::Differs { .. } => {
                "Another writer may have overwritten it, or the server's disk is failing: compare with what wrote it, and run \"pitr-archive verify\"."
                    .to_owned()
            }
            Self::LoginRefused { hint, .. }
            | Self::Credentials { hint, .. }
            | Self::UnknownHostKey { hint, .. }
            | Self::NoCommonAlgorithm { hint, .. }
            | Self::Tls { hint, .. } => hint.clone(),
            Self::Answered { hint, .. } => return hint.clone(),
        })
    }
}

/// `relation` of a key that `known_hosts` revokes.
pub(crate) const REVOKED: &str = "revoked by";
/// `relation` of a key that is not the one that `known_hosts` has.
#[cfg(feature = "sftp")]
pub(crate) const CHANGED: &str = "not the one of";
