//! What can be wrong with connection settings.

use std::io;
use std::path::PathBuf;

/// Settings that do not say how to reach a server. No password is ever in it.
#[derive(Debug, thiserror::Error)]
pub enum OptionsError {
    /// A keyword/value connection string that cannot be split.
    #[error("the connection string is malformed at character {position}: {problem}")]
    Syntax {
        /// Byte position, from 1.
        position: usize,
        /// What is wrong there.
        problem: &'static str,
    },
    /// A connection URI that cannot be split.
    #[error("the connection URI is malformed: {problem}")]
    Uri {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A name that libpq does not know.
    #[error("there is no connection setting \"{name}\" (in {place})")]
    Unknown {
        /// The name.
        name: String,
        /// Where it stood.
        place: String,
    },
    /// A value that its setting cannot have.
    #[error("invalid value for {name}: \"{value}\" (from {place}); expected {expected}")]
    Value {
        /// The setting, by libpq's name.
        name: &'static str,
        /// What it was given.
        value: String,
        /// Where that stood.
        place: String,
        /// What it can be.
        expected: &'static str,
    },
    /// Lists of hosts, addresses and ports of different lengths.
    #[error("{hosts} hosts do not match {count} values of {name}: give one for each host{}", if *.name == "port" { ", or one for all" } else { "" })]
    Count {
        /// How many hosts there are.
        hosts: usize,
        /// The other list.
        name: &'static str,
        /// How many values it has.
        count: usize,
    },
    /// A setting of libpq that asks for protection which is not given here.
    #[error("the connection setting {name}={value} (from {place}) is not supported")]
    Unsupported {
        /// The setting, by libpq's name.
        name: &'static str,
        /// What it was given.
        value: String,
        /// Where that stood.
        place: String,
    },
    /// A service that no service file defines.
    #[error("definition of service \"{service}\" not found in {}", show(searched))]
    ServiceNotFound {
        /// The name of the service.
        service: String,
        /// The files that were there and were searched.
        searched: Vec<PathBuf>,
    },
    /// A line of a service file that is no setting.
    #[error("line {line} of service file \"{}\" is wrong: {problem}", path.display())]
    ServiceFileSyntax {
        /// The service file.
        path: PathBuf,
        /// Number of the line, from 1.
        line: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// A service file that cannot be read.
    #[error("cannot read service file \"{}\": {source}", path.display())]
    ServiceFile {
        /// The service file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// No user was named, and the operating system's user has no name.
    #[error("no user name: the operating system does not know the name of user id {uid}")]
    NoUser {
        /// The effective user id.
        uid: u32,
    },
}

fn show(paths: &[PathBuf]) -> String {
    if paths.is_empty() {
        return "any service file (there is none)".to_owned();
    }
    let quoted: Vec<String> = paths
        .iter()
        .map(|path| format!("\"{}\"", path.display()))
        .collect();
    quoted.join(" and ")
}

impl OptionsError {
    /// What can be done about it.
    #[must_use]
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Syntax { .. } => Some(
                "Put a value that holds blanks, quotes or backslashes into single quotes, \
                 with a backslash before a quote or a backslash."
                    .to_owned(),
            ),
            Self::Uri { .. } => Some(
                "Percent-encode special characters, for example %40 for @ in a password.".to_owned(),
            ),
            Self::ServiceNotFound { .. } => Some(
                "Services are defined in ~/.pg_service.conf, or in the file that PGSERVICEFILE names, \
                 or in pg_service.conf in the folder that PGSYSCONFDIR names."
                    .to_owned(),
            ),
            Self::NoUser { .. } => Some("Name one with user=... or PGUSER.".to_owned()),
            _ => None,
        }
    }
}
