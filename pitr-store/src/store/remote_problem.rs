//! What can be wrong between this machine and a remote store.

use std::fmt;

/// Why a remote store did not do what it was asked, as far as its answer tells.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RemoteProblem {
    /// The bucket or container does not exist.
    BucketMissing,
    /// The server does not know the key id or account.
    UnknownKey,
    /// The secret that belongs to the key is another.
    WrongSecret,
    /// The session token or password has run out, or is none.
    ExpiredToken,
    /// Nothing says who this is: no key, no profile, no role of the machine.
    NoCredentials,
    /// The server knows who this is, and does not allow it.
    Denied,
    /// The bucket lies in another region.
    WrongRegion {
        /// The right one, if the server told.
        region: Option<String>,
    },
    /// The clocks differ by too much for a signature.
    ClockSkew,
    /// The server wants to be asked less often.
    Throttled,
    /// The server failed by its own account, or is not ready.
    Unavailable,
    /// Nothing came for too long.
    Stalled,
    /// No connection, or one that broke.
    Unreachable,
    /// TLS did not come about: the certificate is not trusted, or not of this name.
    Untrusted,
    /// The object is another one than when reading began.
    Changed,
    /// An answer that makes no sense here.
    Unexpected,
}

impl RemoteProblem {
    /// Whether the same request may succeed later without anybody's help.
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Throttled | Self::Unavailable | Self::Stalled | Self::Unreachable => true,
            Self::BucketMissing
            | Self::UnknownKey
            | Self::WrongSecret
            | Self::ExpiredToken
            | Self::NoCredentials
            | Self::Denied
            | Self::WrongRegion { .. }
            | Self::ClockSkew
            | Self::Untrusted
            | Self::Changed
            | Self::Unexpected => false,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> String {
        match self {
            Self::BucketMissing => {
                "pitr makes no buckets: make it with the provider's tools, or correct the repository's address."
            }
            Self::UnknownKey => {
                "Check the key id or account that is set in the environment, the profile or pitr.toml, and that the endpoint is the right one."
            }
            Self::WrongSecret => {
                "Key id and secret do not belong together: set both anew, from the same place."
            }
            Self::ExpiredToken => {
                "Get a new token. A service that archives for days needs a role or a key that does not run out."
            }
            Self::NoCredentials => {
                "Set a key in the environment of the server or in pitr.toml, name a profile, or give the machine a role; PostgreSQL's service does not see the environment of your shell."
            }
            Self::Denied => {
                "The key needs the right to list, read and write below the repository's address, and to delete for clean-up; docs/manual.md has the policy."
            }
            Self::WrongRegion { region: Some(region) } => {
                return format!("Set the region to \"{region}\".");
            }
            Self::WrongRegion { region: None } => {
                "Set the region in which the bucket was made: AWS_REGION, or region in pitr.toml."
            }
            Self::ClockSkew => "Set this machine's clock: is a time service running?",
            Self::Throttled => "The store is asked too often; what was to be done can be tried again.",
            Self::Unavailable => "Try again later; the provider's status page may know more.",
            Self::Stalled => {
                "Check the network. For a slow line, raise timeout_seconds in pitr.toml."
            }
            Self::Unreachable => {
                "Check the endpoint's name and port, the network, and whether a proxy is needed (HTTPS_PROXY)."
            }
            Self::Untrusted => {
                "For an authority of your own, name its certificate as ca_file in pitr.toml; the server's own must have the name that the endpoint uses."
            }
            Self::Changed => {
                "Nothing of pitr ever changes an object: find out who else writes there."
            }
            Self::Unexpected => "Is the endpoint what its scheme says, and not some other web server?",
        }
        .to_owned()
    }
}

impl fmt::Display for RemoteProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BucketMissing => "the bucket or container does not exist",
            Self::UnknownKey => "the server does not know this key",
            Self::WrongSecret => "the secret does not belong to this key",
            Self::ExpiredToken => "the token has expired or is not valid",
            Self::NoCredentials => "no credentials were found",
            Self::Denied => "access denied",
            Self::WrongRegion {
                region: Some(region),
            } => {
                return write!(f, "the bucket lies in region \"{region}\"");
            }
            Self::WrongRegion { region: None } => "the bucket lies in another region",
            Self::ClockSkew => "the clocks of this machine and of the server differ by too much",
            Self::Throttled => "the server asks to slow down",
            Self::Unavailable => "the server is not available",
            Self::Stalled => "the connection stands still",
            Self::Unreachable => "the server cannot be reached",
            Self::Untrusted => "no trusted connection",
            Self::Changed => "the object changed while it was read",
            Self::Unexpected => "the answer makes no sense",
        })
    }
}
