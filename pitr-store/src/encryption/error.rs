//! Why something encrypted cannot be read or written.

use std::fmt;
use std::io;

use super::document::{ENCRYPTION_FORMAT, PublicKey};
use super::keys::RepositoryKeyName;
use crate::store::{ErrorClass, StoreError};

/// Failure of encryption. Tells of files and public keys, never of a secret.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncryptionError {
    /// This build knows no encryption.
    #[error("\"{location}\" is encrypted, and this build knows no encryption")]
    NotInThisBuild {
        /// The repository.
        location: String,
    },
    /// A format of encryption that this build does not know.
    #[error(
        "\"{location}\" is encrypted in format {found}, this build reads format {ENCRYPTION_FORMAT}"
    )]
    UnknownFormat {
        /// The repository.
        location: String,
        /// Its format.
        found: u64,
    },
    /// Reading needs a key, and none was named.
    #[error("repository \"{location}\" is encrypted, and no identity was named")]
    NoKey {
        /// The repository.
        location: String,
        /// Who can open it.
        keys: Vec<RepositoryKeyName>,
    },
    /// The keys that were named open another repository.
    #[error(
        "{} does not open repository \"{location}\": it is {}, the repository is for {}",
        .file, list(.found), list(.keys)
    )]
    WrongKey {
        /// The repository.
        location: String,
        /// What was tried: `identity "PATH"` or `key file "PATH"`.
        file: String,
        /// Whose it is.
        found: Vec<RepositoryKeyName>,
        /// Who can open the repository.
        keys: Vec<RepositoryKeyName>,
    },
    /// The file with the key cannot be read.
    #[error("could not read {file}: {source}")]
    KeyUnreadable {
        /// `identity "PATH"` or `key file "PATH"` or `recipients file "PATH"`.
        file: String,
        /// What the system answered.
        source: io::Error,
    },
    /// Others can read the file with the key.
    #[error("{file} has mode {mode:04o}: others can read it")]
    KeyExposed {
        /// `identity "PATH"` or `key file "PATH"`.
        file: String,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not what it should be.
    #[error("{file} cannot be used: {what}")]
    NotAKey {
        /// `identity "PATH"` or `key file "PATH"` or `recipients file "PATH"`.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
    /// Not an age recipient.
    #[error("recipient {number} cannot be used: {what}")]
    NotARecipient {
        /// Which one of those given, from 1 on. The text itself may be a
        /// secret that was mistaken for a recipient.
        number: usize,
        /// What is wrong.
        what: &'static str,
    },
    /// Nobody was named who could ever read.
    #[error("encryption needs at least one recipient or key file")]
    Nobody,
    /// The wrapped private key is there and does not open.
    #[error("the wrapped key \"{location}\" is damaged: {what}")]
    DamagedKey {
        /// The wrapped key.
        location: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The repository is not the one that the settings expect.
    #[error(
        "repository \"{location}\" {}, the settings expect the key {expected}",
        match .found {
            Some(found) => format!("has the public key {found}"),
            None => "is not encrypted".to_owned(),
        }
    )]
    OtherRepository {
        /// The repository.
        location: String,
        /// Public key in the settings.
        expected: PublicKey,
        /// Its public key, if it is encrypted.
        found: Option<PublicKey>,
    },
    /// The repository has no encryption, and cannot get any.
    #[error("repository \"{location}\" is not encrypted")]
    NotEncrypted {
        /// The repository.
        location: String,
    },
    /// A repository that is there already is not for all who were named.
    #[error("repository \"{location}\" is there already, and {missing} cannot open it")]
    NotForAll {
        /// The repository.
        location: String,
        /// The first who cannot.
        missing: RepositoryKeyName,
    },
    /// The public key of the repository is a point that keeps no secret.
    #[error("the public key of repository \"{location}\" is none that can be encrypted to")]
    WeakPublicKey {
        /// The repository.
        location: String,
    },
    /// An object does not open.
    #[error("\"{location}\" cannot be decrypted: {damage}")]
    DamagedObject {
        /// The object.
        location: String,
        /// What is wrong with it.
        damage: Damage,
    },
    /// The system gave no random numbers.
    #[error("the system gave no random numbers for a key")]
    NoRandom,
    /// The store failed.
    #[error(transparent)]
    Store(Box<StoreError>),
}

/// What is wrong with an encrypted object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Damage {
    /// It does not begin as one.
    Header,
    /// It is encrypted in a format that this build does not know.
    Format {
        /// The format.
        found: u8,
    },
    /// It ends too early, or not as one.
    End,
    /// A chunk was changed, moved, or belongs to another object.
    Chunk {
        /// Which, from 0 on.
        number: u64,
    },
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header => f.write_str("it does not begin as an encrypted object"),
            Self::Format { found } => write!(
                f,
                "it is encrypted in format {found}, this build reads format {ENCRYPTION_FORMAT}"
            ),
            Self::End => f.write_str("it does not end as an encrypted object: it was cut off"),
            Self::Chunk { number } => write!(
                f,
                "chunk {number} was changed, or the object is that of another name or repository"
            ),
        }
    }
}

fn list(keys: &[RepositoryKeyName]) -> String {
    const SHOWN: usize = 5;
    if keys.is_empty() {
        return "nobody".to_owned();
    }
    let mut names: Vec<String> = keys.iter().take(SHOWN).map(ToString::to_string).collect();
    if keys.len() > SHOWN {
        names.push(format!("{} more", keys.len() - SHOWN));
    }
    names.join(", ")
}

impl EncryptionError {
    /// Whether it is the key that is wanting, while the objects may be whole.
    pub fn is_locked(&self) -> bool {
        match self {
            Self::NoKey { .. }
            | Self::WrongKey { .. }
            | Self::KeyUnreadable { .. }
            | Self::KeyExposed { .. }
            | Self::NotAKey { .. }
            | Self::DamagedKey { .. } => true,
            Self::NotInThisBuild { .. }
            | Self::UnknownFormat { .. }
            | Self::NotARecipient { .. }
            | Self::Nobody
            | Self::OtherRepository { .. }
            | Self::NotEncrypted { .. }
            | Self::NotForAll { .. }
            | Self::WeakPublicKey { .. }
            | Self::DamagedObject { .. }
            | Self::NoRandom
            | Self::Store(_) => false,
        }
    }

    /// Whether one object is damaged, which says nothing of others.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::DamagedObject { .. })
    }

    /// Never an absence: what is wanting is a key, or it is the object itself.
    pub fn class(&self) -> ErrorClass {
        match self {
            Self::Store(error) if error.is_passing() => ErrorClass::Passing,
            _ => ErrorClass::Permanent,
        }
    }

    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NotInThisBuild { .. } => {
                Some("Build pitr with the feature \"encryption\".".to_owned())
            }
            Self::UnknownFormat { .. }
            | Self::DamagedObject {
                damage: Damage::Format { .. },
                ..
            } => Some(
                "The repository was made by a newer version of pitr: install that one here too."
                    .to_owned(),
            ),
            Self::NoKey { keys, .. } => Some(format!(
                "Name the identity with --identity, in PITR_IDENTITY, or as identity = \"…\" in the configuration file (a key file: --encryption-key-file). It opens for: {}.",
                list(keys)
            )),
            Self::WrongKey { .. } => Some(
                "Name the file of one of those. With one that opens, \"pitr-archive key add\" lets others in."
                    .to_owned(),
            ),
            Self::KeyUnreadable { .. } => Some(
                "The user who runs this, which for restore_command is the server's, must be able to read it."
                    .to_owned(),
            ),
            Self::KeyExposed { .. } => Some(
                "chmod 0600, or 0640 where root owns it and a group of its own may read it."
                    .to_owned(),
            ),
            Self::NotAKey { .. } => Some(
                "An identity is what age-keygen writes (AGE-SECRET-KEY-1…), a recipient its public key (age1…), a key file 32 random bytes, as such, in base64 or in hexadecimal: openssl rand -base64 32."
                    .to_owned(),
            ),
            Self::NotARecipient { .. } => Some(
                "A recipient is the public key that age-keygen prints: age1… Keep AGE-SECRET-KEY-1… to yourself."
                    .to_owned(),
            ),
            Self::Nobody => {
                Some("Name one with --encrypt-to age1… or --encrypt-key-file FILE.".to_owned())
            }
            Self::DamagedKey { .. } => Some(
                "Use another key that opens the repository, or put an intact copy of the file back. With one that opens, \"pitr-archive key add\" makes the file anew, once it is deleted."
                    .to_owned(),
            ),
            Self::OtherRepository { .. } => Some(
                "Did somebody replace its pitr.json? If another repository is meant, change repository_key in the settings."
                    .to_owned(),
            ),
            Self::NotEncrypted { .. } => Some(
                "Encryption is decided when a repository is made. Make a new one with \"pitr-archive init --encrypt-to age1…\", and take a base backup into it."
                    .to_owned(),
            ),
            Self::NotForAll { .. } => Some(
                "\"pitr-archive key add\" lets them in, run by one who can open it.".to_owned(),
            ),
            Self::WeakPublicKey { .. } => Some(
                "Nothing of pitr writes such a key. Find out who changed pitr.json.".to_owned(),
            ),
            Self::DamagedObject { .. } => Some(
                "Put an intact copy in its place, or do without it: an object is whole or useless."
                    .to_owned(),
            ),
            Self::NoRandom => None,
            Self::Store(error) => error.hint(),
        }
    }
}

impl From<StoreError> for EncryptionError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Encryption(error) => *error,
            other => Self::Store(Box::new(other)),
        }
    }
}
