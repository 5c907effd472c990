//! What `backup.json` says of a base backup, its index left out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use pitr_core::{Lsn, PostgresMajor, SystemIdentifier, TimelineId, WalSegmentSize};
use serde::{Deserialize, Serialize};

use super::label::Label;
use super::part_name::PartName;

/// The format number that this program writes and reads.
pub const FORMAT: u32 = 1;

/// A complete base backup.
///
/// Field order is that of the file. Fields that a later version adds are
/// passed over when read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    /// Format of the document and of the parts: [`FORMAT`].
    pub format: u32,
    /// Name of the backup, and of its folder.
    pub label: Label,
    /// Version of pitr that made it.
    pub pitr_version: String,
    /// The server's version as it prints it: `15.8 (Debian 15.8-0+deb12u1)`.
    pub postgres_version: String,
    /// Its major.
    pub postgres_major: PostgresMajor,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// WAL segment size in bytes.
    pub segment_size: WalSegmentSize,
    /// Timeline on which the backup starts.
    pub timeline: TimelineId,
    /// Where replay starts (`START WAL LOCATION`).
    pub start_lsn: Lsn,
    /// Where the backup is consistent: end of its last record.
    pub stop_lsn: Lsn,
    /// The checkpoint that replay starts with (`CHECKPOINT LOCATION`).
    pub checkpoint_lsn: Lsn,
    /// When the backup was begun.
    #[serde(with = "rfc3339")]
    pub start_time: DateTime<Utc>,
    /// When it had ended.
    #[serde(with = "rfc3339")]
    pub stop_time: DateTime<Utc>,
    /// Kind of server that it was taken from.
    pub from: BackupSource,
    /// Tablespaces outside of the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Where it came from, as far as known.
    #[serde(default)]
    pub origin: Origin,
    /// Settings that a server needs to recover it.
    #[serde(default)]
    pub settings: Settings,
    /// The stored `backup_manifest`; `None` if there is none.
    pub manifest: Option<ManifestInfo>,
    /// Totals over all parts.
    pub sizes: Sizes,
    /// The parts, each archive's in order.
    pub parts: Vec<PartInfo>,
}

/// What the caller of [`BackupWriter::commit`](super::BackupWriter::commit)
/// knows, and the writer does not. Fields as in [`BackupInfo`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackupDetails {
    /// The server's version as it prints it.
    pub postgres_version: String,
    /// Its major.
    pub postgres_major: PostgresMajor,
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// WAL segment size in bytes.
    pub segment_size: WalSegmentSize,
    /// Timeline on which the backup starts.
    pub timeline: TimelineId,
    /// Where replay starts.
    pub start_lsn: Lsn,
    /// End of the last record that the backup needs.
    pub stop_lsn: Lsn,
    /// The checkpoint that replay starts with.
    pub checkpoint_lsn: Lsn,
    /// When the backup was begun.
    pub start_time: DateTime<Utc>,
    /// When it had ended.
    pub stop_time: DateTime<Utc>,
    /// Kind of server that it was taken from.
    pub from: BackupSource,
    /// Tablespaces outside of the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// Where it came from, as far as known.
    pub origin: Origin,
    /// Settings that a server needs to recover it.
    pub settings: Settings,
    /// Checksum algorithm of the manifest, if there is one: `CRC32C`,
    /// `SHA256`, `NONE`...
    pub manifest_checksums: Option<String>,
}

/// Kind of server that a backup was taken from (`BACKUP FROM`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupSource {
    /// A primary.
    Primary,
    /// A server in recovery.
    Standby,
}

/// A tablespace outside of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tablespace {
    /// Object identifier, the name of its link in `pg_tblspc`.
    pub oid: u32,
    /// Where it lay on the server.
    pub location: String,
    /// Bytes in it, as the server estimated before the backup.
    #[serde(default)]
    pub size: Option<u64>,
}

/// Where a backup came from, as far as known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Origin {
    /// `data_directory` of the server.
    pub data_directory: Option<String>,
    /// `config_file` of the server.
    pub config_file: Option<String>,
    /// `hba_file` of the server.
    pub hba_file: Option<String>,
    /// Name of the machine.
    pub hostname: Option<String>,
    /// `/etc/machine-id` of the machine.
    pub machine_id: Option<String>,
}

/// Settings of the server that recovery has to meet or to know.
///
/// A server in recovery refuses to start with lower values of the first five
/// than the WAL says (`CheckRequiredParameterValues`,
/// src/backend/access/transam/xlogrecovery.c).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `max_connections`.
    pub max_connections: Option<u32>,
    /// `max_worker_processes`.
    pub max_worker_processes: Option<u32>,
    /// `max_wal_senders`.
    pub max_wal_senders: Option<u32>,
    /// `max_prepared_transactions`.
    pub max_prepared_transactions: Option<u32>,
    /// `max_locks_per_transaction`.
    pub max_locks_per_transaction: Option<u32>,
    /// `wal_level`.
    pub wal_level: Option<String>,
    /// Whether data pages have checksums.
    pub data_checksums: Option<bool>,
    /// Others that whoever made the backup found worth keeping.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub other: BTreeMap<String, String>,
}

/// The stored `backup_manifest`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestInfo {
    /// Its size in bytes.
    pub bytes: u64,
    /// CRC-32C of its bytes, eight hexadecimal digits.
    pub crc32c: String,
    /// Algorithm of the checksums in it (`CRC32C`, `SHA256`, `NONE`...), if known.
    pub checksums: Option<String>,
}

/// Totals over all parts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes {
    /// Bytes of the tar archives before compression.
    pub raw_bytes: u64,
    /// Bytes of the parts in the store.
    pub stored_bytes: u64,
    /// Number of regular files.
    pub files: u64,
}

/// One part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    /// Its object's name in the backup's folder.
    pub name: PartName,
    /// Tablespace that it belongs to; `None` for the data directory.
    pub tablespace: Option<u32>,
    /// Bytes of its tar before compression.
    pub raw_bytes: u64,
    /// Bytes of the object.
    pub stored_bytes: u64,
    /// Number of regular files in it.
    pub files: u64,
}

impl BackupInfo {
    /// The part with this name.
    #[must_use]
    pub fn part(&self, name: &PartName) -> Option<&PartInfo> {
        self.parts.iter().find(|part| part.name == *name)
    }
}

/// RFC 3339 in UTC, `2026-11-20T07:45:02.123456Z`.
mod rfc3339 {
    use chrono::{DateTime, SecondsFormat, Utc};
    use serde::{Deserialize, Deserializer, Serializer, de};

    pub(super) fn serialize<S: Serializer>(
        time: &DateTime<Utc>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<DateTime<Utc>, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        let time = DateTime::parse_from_rfc3339(&text).map_err(de::Error::custom)?;
        Ok(time.to_utc())
    }
}
