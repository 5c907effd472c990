//! What reaching a store takes beside its address.

use std::path::PathBuf;

use serde::Deserialize;

use super::Secret;

/// How stores are reached: one member for each table of the configuration file
/// (`[s3]`, `[gs]`, `[az]`, `[sftp]`, `[ftp]`).
///
/// An address names a place and holds no secret; what a medium's own tools read
/// from the environment is read from there too, by the store itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreOptions {
    /// Amazon S3 and compatible servers.
    pub s3: S3Options,
    /// Google Cloud Storage.
    pub gs: GsOptions,
    /// Azure Blob Storage.
    pub az: AzOptions,
    /// Servers that are reached with SSH.
    pub sftp: SftpOptions,
    /// FTP servers.
    pub ftp: FtpOptions,
}

/// The table `[s3]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct S3Options {
    /// Of a server that is not Amazon's: `https://HOST`. Only `http://` in it
    /// allows a connection without TLS.
    pub endpoint: Option<String>,
    /// In which the bucket was made.
    pub region: Option<String>,
    /// Whether the bucket's name goes into the path and not before the host's
    /// name; by default so at an `endpoint`.
    pub path_style: Option<bool>,
    /// Section of `~/.aws/credentials` and `~/.aws/config`.
    pub profile: Option<String>,
    /// Key id, where no profile, role or variable has one.
    pub access_key_id: Option<String>,
    /// The key id's secret.
    pub secret_access_key: Option<Secret>,
    /// Token of a temporary key.
    pub session_token: Option<Secret>,
    /// Sign nothing: for servers that ask for no key.
    pub anonymous: Option<bool>,
    /// Have the server encrypt by this key of its key service.
    pub kms_key_id: Option<String>,
    /// Certificate authorities beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest time in which nothing moves on a connection, in seconds.
    pub timeout_seconds: Option<u64>,
    /// For how long a failing request is tried again, in seconds.
    pub retry_seconds: Option<u64>,
}

/// The table `[gs]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GsOptions {
    /// Of another server than Google's.
    pub endpoint: Option<String>,
    /// JSON file with the key of a service account, where the environment
    /// names none.
    pub service_account_file: Option<PathBuf>,
    /// Sign nothing: for servers that ask for no key.
    pub anonymous: Option<bool>,
    /// Certificate authorities beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest time in which nothing moves on a connection, in seconds.
    pub timeout_seconds: Option<u64>,
    /// For how long a failing request is tried again, in seconds.
    pub retry_seconds: Option<u64>,
}

/// The table `[az]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzOptions {
    /// Storage account.
    pub account: Option<String>,
    /// The account's key, base64.
    pub account_key: Option<Secret>,
    /// A shared access signature in place of the key.
    pub sas_token: Option<Secret>,
    /// Of the blob service, where it is not that of the account's name.
    pub endpoint: Option<String>,
    /// Certificate authorities beside the system's, PEM.
    pub ca_file: Option<PathBuf>,
    /// Longest time in which nothing moves on a connection, in seconds.
    pub timeout_seconds: Option<u64>,
    /// For how long a failing request is tried again, in seconds.
    pub retry_seconds: Option<u64>,
}

/// The table `[sftp]`. Holds no secret, only where secrets lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftpOptions {
    /// A private key to log in with, tried before anything else.
    pub identity_file: Option<PathBuf>,
    /// Holds the passphrase of the private key in its first line; else the
    /// environment's `PITR_SFTP_PASSPHRASE`.
    pub passphrase_file: Option<PathBuf>,
    /// Holds a password in its first line; else the environment's
    /// `PITR_SFTP_PASSWORD`.
    pub password_file: Option<PathBuf>,
    /// Read instead of `~/.ssh/known_hosts` and `/etc/ssh/ssh_known_hosts`.
    pub known_hosts: Option<PathBuf>,
    /// How long the server may take for one answer.
    pub timeout_seconds: u64,
    /// How long a connection that cannot be made, or breaks, is tried again.
    pub retry_seconds: u64,
    /// How long a mark of life is valid without being renewed.
    pub lease_seconds: u64,
}

impl Default for SftpOptions {
    fn default() -> Self {
        Self {
            identity_file: None,
            passphrase_file: None,
            password_file: None,
            known_hosts: None,
            timeout_seconds: 30,
            retry_seconds: 60,
            lease_seconds: 600,
        }
    }
}

/// The table `[ftp]`, for `ftp://` and `ftps://`. Holds no secret, only where
/// secrets lie.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FtpOptions {
    /// Holds the password in its first line; else the environment's
    /// `PITR_FTP_PASSWORD`, else the netrc file.
    pub password_file: Option<PathBuf>,
    /// Read instead of `~/.netrc`.
    pub netrc: Option<PathBuf>,
    /// Authorities to trust for `ftps://` instead of the system's: a PEM file.
    pub ca_file: Option<PathBuf>,
    /// Whether `ftps://` speaks TLS from the first byte (port 990) instead of
    /// asking for it.
    pub implicit_tls: bool,
    /// How long the server may take for one answer.
    pub timeout_seconds: u64,
    /// How long a connection that cannot be made, or breaks, is tried again.
    pub retry_seconds: u64,
    /// How long a mark of life is valid without being renewed.
    pub lease_seconds: u64,
}

impl Default for FtpOptions {
    fn default() -> Self {
        Self {
            password_file: None,
            netrc: None,
            ca_file: None,
            implicit_tls: false,
            timeout_seconds: 30,
            retry_seconds: 60,
            lease_seconds: 600,
        }
    }
}
