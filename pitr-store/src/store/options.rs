//! What reaching a store takes beside its address.

use serde::Deserialize;

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
pub struct S3Options {}

/// The table `[gs]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GsOptions {}

/// The table `[az]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AzOptions {}

/// The table `[sftp]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SftpOptions {}

/// The table `[ftp]`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct FtpOptions {}
