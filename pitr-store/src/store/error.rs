//! How a store fails.

use std::fmt;
use std::io;

use super::RemoteProblem;
use super::ServerError;
use crate::encryption::EncryptionError;
use crate::key::ObjectKey;

/// Failure of one operation on a store. `location` is a path or URL without
/// secrets.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// The object is not there, and that is certain.
    #[error("\"{location}\" does not exist")]
    NotFound {
        /// The object.
        location: String,
    },
    /// The key, or a rival of it, is taken. Nothing was overwritten.
    #[error("\"{location}\" exists already")]
    AlreadyExists {
        /// The key that exists: the one asked for or one of its rivals.
        key: ObjectKey,
        /// Where it lies.
        location: String,
    },
    /// The place of the whole store does not exist. That proves the absence of
    /// no object: the disk may not be mounted.
    #[error("store \"{location}\" does not exist")]
    RootMissing {
        /// The store.
        location: String,
    },
    /// A folder where an object belongs, a link where a folder belongs, and so on.
    #[error("\"{location}\" is {found} where {expected} belongs")]
    WrongKind {
        /// The name in question.
        location: String,
        /// What belongs there.
        expected: NodeKind,
        /// What lies there.
        found: NodeKind,
    },
    /// The store does not let this user do it.
    #[error("could not {operation} \"{location}\": permission denied")]
    PermissionDenied {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
    },
    /// No room left. What was written has been removed.
    #[error(
        "could not {operation} \"{location}\": {limit}{}",
        space_text(*limit, *needed_bytes, *available_bytes)
    )]
    NoSpace {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
        /// Whether the disk is full or a quota is used up.
        limit: SpaceLimit,
        /// Bytes that the object needs, as far as known when it failed: at
        /// least those written and those of the write that failed. `None`
        /// where nothing was written yet.
        needed_bytes: Option<u64>,
        /// Bytes free for this user once the unfinished object was removed;
        /// `None` where the medium cannot tell, as under a quota.
        available_bytes: Option<u64>,
    },
    /// A range beyond the object's end.
    #[error(
        "\"{location}\" has {size_bytes} bytes, too few for the range {begin} to {end} that was asked for"
    )]
    OutOfRange {
        /// The object.
        location: String,
        /// First byte asked for.
        begin: u64,
        /// End (exclusive) asked for.
        end: u64,
        /// Size of the object.
        size_bytes: u64,
    },
    /// An object that should be small is not.
    #[error("\"{location}\" is larger than the {max_bytes} bytes allowed for it")]
    TooLarge {
        /// The object.
        location: String,
        /// The limit.
        max_bytes: u64,
    },
    /// Others hold what is needed, for longer than is waited.
    #[error("could not {operation} \"{location}\": others are working on it")]
    Busy {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
    },
    /// The medium lacks what the promises of a store rest on.
    #[error("\"{location}\": {missing}")]
    Unsupported {
        /// The store or object.
        location: String,
        /// What it cannot do.
        missing: &'static str,
    },
    /// The server that holds the store does not serve.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The object is encrypted, and there is no key for it, or it does not open.
    #[error(transparent)]
    Encryption(Box<EncryptionError>),
    /// A remote store refused, failed or stayed silent.
    #[error("could not {operation} \"{location}\": {problem}{}", said_text(said))]
    Remote {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
        /// What is wrong.
        problem: RemoteProblem,
        /// The server's or the system's own words; empty where there are none.
        said: String,
    },
    /// A mark of [`Store::hold`](super::Store::hold) could not be renewed in
    /// time: others may have taken its holder for dead.
    #[error("could not {operation} \"{location}\": the mark that says who works on it has run out")]
    HoldLost {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
    },
    /// Any other failure of the operating system or the network.
    #[error("could not {operation} \"{location}\": {source}")]
    Io {
        /// What was tried.
        operation: Operation,
        /// On what.
        location: String,
        /// What the system answered.
        source: io::Error,
    },
}

/// What an error means for the one who asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorClass {
    /// The object is proven absent. Only this may be told to PostgreSQL as
    /// "no such file".
    Absent,
    /// The same call may succeed later without anybody's help.
    Passing,
    /// It will fail again until somebody changes something.
    Permanent,
}

/// What was being done to an object: a verb for messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Operation {
    /// Making a folder or the beginning of an object.
    Create,
    /// Opening an existing object.
    Open,
    /// Reading content.
    Read,
    /// Asking for size and kind.
    Stat,
    /// Reading a folder.
    List,
    /// Writing content.
    Write,
    /// Making content or a directory entry durable.
    Sync,
    /// Showing a finished object under its key.
    Publish,
    /// Removing.
    Delete,
    /// Taking a lock.
    Lock,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Create => "create",
            Self::Open => "open",
            Self::Read => "read",
            Self::Stat => "examine",
            Self::List => "list",
            Self::Write => "write",
            Self::Sync => "synchronize",
            Self::Publish => "publish",
            Self::Delete => "delete",
            Self::Lock => "lock",
        })
    }
}

/// What can carry a name in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeKind {
    /// A regular file.
    Object,
    /// A directory.
    Folder,
    /// A symbolic link: never followed inside a store.
    Link,
    /// A device, socket or pipe.
    Special,
}

impl fmt::Display for NodeKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Object => "a file",
            Self::Folder => "a directory",
            Self::Link => "a symbolic link",
            Self::Special => "a special file",
        })
    }
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpaceLimit {
    /// The medium is full.
    Disk,
    /// The medium has room for bytes, but for no further file.
    Inodes,
    /// The quota of this user, group or project is used up.
    Quota,
}

impl fmt::Display for SpaceLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Disk => "no space left on device",
            Self::Inodes => "no inodes left on device",
            Self::Quota => "disk quota exceeded",
        })
    }
}

fn said_text(said: &str) -> String {
    if said.is_empty() {
        String::new()
    } else {
        format!(": {said}")
    }
}

fn space_text(
    limit: SpaceLimit,
    needed_bytes: Option<u64>,
    available_bytes: Option<u64>,
) -> String {
    match (needed_bytes, available_bytes) {
        _ if limit == SpaceLimit::Inodes => String::new(),
        (Some(needed), Some(available)) => format!(
            ": at least {needed} bytes needed, {available} available, {} missing",
            needed.saturating_sub(available)
        ),
        (Some(needed), None) => format!(": at least {needed} bytes needed"),
        (None, Some(available)) => format!(": {available} bytes available"),
        (None, None) => String::new(),
    }
}

impl StoreError {
    /// What the error means for the one who asked.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::NotFound { .. } => ErrorClass::Absent,
            Self::Busy { .. } => ErrorClass::Passing,
            Self::Server(error) => error.class(),
            Self::Io { source, .. } if is_passing(source) => ErrorClass::Passing,
            Self::Encryption(error) => error.class(),
            Self::Remote { problem, .. } if problem.is_passing() => ErrorClass::Passing,
            Self::Remote { .. }
            | Self::HoldLost { .. }
            | Self::Io { .. }
            | Self::AlreadyExists { .. }
            | Self::RootMissing { .. }
            | Self::WrongKind { .. }
            | Self::PermissionDenied { .. }
            | Self::NoSpace { .. }
            | Self::OutOfRange { .. }
            | Self::TooLarge { .. }
            | Self::Unsupported { .. } => ErrorClass::Permanent,
        }
    }

    /// Whether the error proves that the object is not there.
    pub fn is_absence(&self) -> bool {
        self.class() == ErrorClass::Absent
    }

    /// Whether trying again later may succeed without anybody's help.
    pub fn is_passing(&self) -> bool {
        self.class() == ErrorClass::Passing
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::RootMissing { .. } => Some(
                "Is the disk mounted? A new repository is made by \"pitr-archive init\" only."
                    .to_owned(),
            ),
            Self::WrongKind { location, .. } => Some(format!(
                "Nothing of pitr makes such a thing. Move \"{location}\" out of the repository."
            )),
            Self::PermissionDenied { location, .. } if location.contains("://") => Some(format!(
                "The user who logs in there must own \"{location}\" and the folders above it in the repository."
            )),
            Self::PermissionDenied { location, .. } => Some(format!(
                "The user that runs the server must own \"{location}\" and the folders above it in the repository."
            )),
            Self::NoSpace {
                limit: SpaceLimit::Disk | SpaceLimit::Inodes,
                ..
            } => Some("Free space on the repository's disk, or enlarge it.".to_owned()),
            Self::NoSpace {
                limit: SpaceLimit::Quota,
                ..
            } => Some("Raise the quota of the repository's owner.".to_owned()),
            Self::Server(error) => error.hint(),
            Self::Unsupported { .. } => {
                Some("Put the repository on another file system.".to_owned())
            }
            Self::Encryption(error) => error.hint(),
            Self::Remote { problem, .. } => Some(problem.hint()),
            Self::HoldLost { .. } => Some(
                "Was this machine suspended, or the network gone for long? Begin again; \"pitr-archive backup\" removes what is left of the old one."
                    .to_owned(),
            ),
            Self::NotFound { .. }
            | Self::AlreadyExists { .. }
            | Self::OutOfRange { .. }
            | Self::TooLarge { .. }
            | Self::Busy { .. }
            | Self::Io { .. } => None,
        }
    }

    /// Whether the object could not be read for want of a key, and is none the
    /// worse for it.
    pub fn is_locked(&self) -> bool {
        matches!(self, Self::Encryption(error) if error.is_locked())
    }

    /// Takes the store's error out of an [`io::Error`] that a reader or writer
    /// of a store returned; anything else becomes [`StoreError::Io`].
    pub fn from_io(error: io::Error, operation: Operation, location: &str) -> Self {
        match error.downcast::<Self>() {
            Ok(store_error) => store_error,
            Err(source) => Self::Io {
                operation,
                location: location.to_owned(),
                source,
            },
        }
    }
}

/// Errors of the system that time alone can cure: lost connections, memory and
/// descriptors in short supply, and `EIO`, which network file systems answer
/// while their server is away.
fn is_passing(error: &io::Error) -> bool {
    use rustix::io::Errno;
    let Some(errno) = Errno::from_io_error(error) else {
        return matches!(
            error.kind(),
            io::ErrorKind::Interrupted
                | io::ErrorKind::TimedOut
                | io::ErrorKind::WouldBlock
                | io::ErrorKind::ConnectionReset
                | io::ErrorKind::ConnectionAborted
                | io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotConnected
                | io::ErrorKind::BrokenPipe
        );
    };
    matches!(
        errno,
        Errno::INTR
            | Errno::AGAIN
            | Errno::IO
            | Errno::NOMEM
            | Errno::BUSY
            | Errno::NFILE
            | Errno::MFILE
            | Errno::TIMEDOUT
            | Errno::STALE
            | Errno::NOLCK
            | Errno::CONNRESET
            | Errno::CONNABORTED
            | Errno::CONNREFUSED
            | Errno::NOTCONN
            | Errno::HOSTDOWN
            | Errno::HOSTUNREACH
            | Errno::NETDOWN
            | Errno::NETUNREACH
            | Errno::PIPE
            | Errno::REMOTEIO
    )
}

impl From<ServerError> for StoreError {
    fn from(error: ServerError) -> Self {
        Self::Server(Box::new(error))
    }
}

impl From<EncryptionError> for StoreError {
    fn from(error: EncryptionError) -> Self {
        match error {
            EncryptionError::Store(error) => *error,
            other => Self::Encryption(Box::new(other)),
        }
    }
}

impl From<StoreError> for io::Error {
    /// For writers and readers, whose traits know this type only.
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::NotFound { .. } => io::ErrorKind::NotFound,
            StoreError::AlreadyExists { .. } => io::ErrorKind::AlreadyExists,
            StoreError::PermissionDenied { .. } => io::ErrorKind::PermissionDenied,
            StoreError::NoSpace { .. } => io::ErrorKind::StorageFull,
            StoreError::Remote { problem, .. } if problem.is_passing() => io::ErrorKind::TimedOut,
            // Never `Interrupted`: callers would try again where the write is lost.
            StoreError::Io { source, .. } if source.kind() != io::ErrorKind::Interrupted => {
                source.kind()
            }
            _ => io::ErrorKind::Other,
        };
        Self::new(kind, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_proven_absence_is_an_absence() {
        let location = String::from("/backup");
        let absent = StoreError::NotFound {
            location: location.clone(),
        };
        assert_eq!(absent.class(), ErrorClass::Absent);
        let unmounted = StoreError::RootMissing {
            location: location.clone(),
        };
        assert_eq!(unmounted.class(), ErrorClass::Permanent);
        let system = StoreError::Io {
            operation: Operation::Open,
            location,
            source: io::Error::from(io::ErrorKind::NotFound),
        };
        assert_eq!(system.class(), ErrorClass::Permanent);
    }

    #[test]
    fn a_store_error_survives_the_way_through_a_writer() {
        let full = StoreError::NoSpace {
            operation: Operation::Write,
            location: "/backup/a".to_owned(),
            limit: SpaceLimit::Disk,
            needed_bytes: Some(100),
            available_bytes: Some(30),
        };
        let carried = io::Error::from(full);
        assert_eq!(carried.kind(), io::ErrorKind::StorageFull);
        let back = StoreError::from_io(carried, Operation::Sync, "elsewhere");
        assert_eq!(
            back.to_string(),
            "could not write \"/backup/a\": no space left on device: \
             at least 100 bytes needed, 30 available, 70 missing"
        );
    }
}
