//! `global/pg_control`: the state of a cluster in one block.

pub(crate) mod checkpoint;
pub(crate) mod cluster_state;
use crate::crc32c;
mod field;

use nom::bytes::complete::take;
use nom::number::complete::{le_i32, le_i64, le_u8, le_u32, le_u64};
use nom::{IResult, Parser};

use crate::control_file::checkpoint::{Checkpoint, checkpoint_fields};
use crate::control_file::cluster_state::ClusterState;
use crate::control_file::field::{boolean, field, page_size, setting, time, wal_level as level};
use crate::lsn::Lsn;
use crate::postgres_major::PostgresMajor;
use crate::required_settings::RequiredSettings;
use crate::system_identifier::SystemIdentifier;
use crate::timeline::id::TimelineId;
use crate::timestamp::Timestamp;
use crate::wal::level::WalLevel;
use crate::wal::segment_size::WalSegmentSize;

/// What `global/pg_control` says, written on a little-endian 64-bit machine.
///
/// Of PostgreSQL 13 to 18, and of the fourth beta of 19: another 19 with
/// another layout has another catalog version, and is refused.
/// Its CRC was right, and every field has a value that a server writes.
///
/// Source: `ControlFileData`, src/include/catalog/pg_control.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// The cluster.
    pub system_identifier: SystemIdentifier,
    /// Layout of this file: 1300 for PostgreSQL 13 to 16, then 1700, 1800, 1905.
    pub control_version: u32,
    /// Version of the system catalogs, as in 202209061; tells the major versions apart.
    pub catalog_version: u32,
    /// Version of the server, known by `catalog_version`.
    pub major: PostgresMajor,
    /// What the server was doing when it wrote the file.
    pub state: ClusterState,
    /// When it wrote the file; whole seconds.
    pub updated: Timestamp,
    /// Where the last checkpoint's record begins.
    pub checkpoint: Lsn,
    /// What that record says.
    pub checkpoint_copy: Checkpoint,
    /// Counter that stands in for an LSN in unlogged relations.
    pub unlogged_lsn: Lsn,
    /// How far recovery must replay before the cluster is consistent; invalid outside archive recovery.
    pub min_recovery_point: Lsn,
    /// Timeline of `min_recovery_point`.
    pub min_recovery_timeline: Option<TimelineId>,
    /// Where the base backup began that is being recovered from; invalid otherwise.
    pub backup_start: Lsn,
    /// Where a backup from a standby ended; invalid otherwise.
    pub backup_end: Lsn,
    /// Whether recovery must see the record of the backup's end before the cluster is consistent.
    pub backup_end_required: bool,
    /// `wal_level` under which WAL was being written.
    pub wal_level: WalLevel,
    /// `wal_log_hints`.
    pub wal_log_hints: bool,
    /// Settings that a server recovering this WAL must not fall below.
    pub required_settings: RequiredSettings,
    /// `track_commit_timestamp`.
    pub track_commit_timestamp: bool,
    /// Bytes in a data page: 8192 unless compiled otherwise.
    pub block_size: u32,
    /// Data pages in one file of a large relation: 131072, that is 1 GiB, unless compiled otherwise.
    pub relation_segment_blocks: u32,
    /// Bytes in a WAL page: 8192 unless compiled otherwise.
    pub wal_block_size: u32,
    /// Bytes in a WAL segment.
    pub wal_segment_size: WalSegmentSize,
    /// Zero if data pages have no checksums.
    pub data_checksum_version: u32,
}

/// Position of the CRC, which covers every byte before it.
const fn crc_offset(major: PostgresMajor) -> usize {
    match major.get() {
        ..=17 => 288,
        18 => 292,
        _ => 308,
    }
}

/// `(first major, last major, PG_CONTROL_VERSION)` of the layouts read here.
const LAYOUTS: [(u16, u16, u32); 4] = [
    (13, 16, 1300),
    (17, 17, 1700),
    (18, 18, 1800),
    (19, 19, 1905),
];

impl ControlFile {
    /// Bytes in the file; only the first 292 (18: 296, 19: 312) are used.
    ///
    /// Source: `PG_CONTROL_FILE_SIZE`, src/include/catalog/pg_control.h.
    pub const FILE_LEN: usize = 8192;

    /// Reads the file's beginning; what follows the CRC is ignored.
    ///
    /// A copy taken while the server runs can be torn: on `Checksum`, read it again.
    ///
    /// # Errors
    /// `Truncated`, `UnknownVersion` and `BigEndian` if it is not a control
    /// file that can be read here; `Checksum` if it is damaged or torn;
    /// `Field` if a value is one that no server writes.
    ///
    /// Source: `ReadControlFile`, src/backend/access/transam/xlog.c.
    pub fn parse(bytes: &[u8]) -> Result<ControlFile, ControlFileError> {
        let truncated = |needed| ControlFileError::Truncated {
            needed,
            found: bytes.len(),
        };
        let (_, (_, control_version, catalog_version)) =
            version_fields(bytes).map_err(|_| truncated(VERSION_FIELDS_LEN))?;
        let major = major(control_version, catalog_version)?;
        let covered = bytes
            .get(..crc_offset(major))
            .ok_or(truncated(crc_offset(major) + CRC_LEN))?;
        let (_, stored) = stored_crc(bytes.get(covered.len()..).unwrap_or_default())
            .map_err(|_| truncated(covered.len() + CRC_LEN))?;
        let computed = crc32c::crc32c(covered);
        if stored != computed {
            return Err(ControlFileError::Checksum { stored, computed });
        }
        match fields(covered, major) {
            Ok((_, control)) => control,
            Err(_) => Err(truncated(crc_offset(major) + CRC_LEN)),
        }
    }

    /// Where replay must begin to recover from the last checkpoint.
    pub const fn redo(&self) -> Lsn {
        self.checkpoint_copy.redo
    }

    /// Timeline of the last checkpoint.
    pub const fn timeline(&self) -> TimelineId {
        self.checkpoint_copy.timeline
    }

    /// Whether data pages have checksums.
    pub const fn data_checksums(&self) -> bool {
        self.data_checksum_version != 0
    }

    /// Name of the folder that this cluster makes in each of its tablespaces, as in `PG_15_202209061`.
    ///
    /// Source: `TABLESPACE_VERSION_DIRECTORY`, src/include/common/relpath.h.
    pub fn tablespace_version_directory(&self) -> String {
        format!("PG_{}_{}", self.major, self.catalog_version)
    }
}

const VERSION_FIELDS_LEN: usize = 16;
const CRC_LEN: usize = 4;

fn version_fields(bytes: &[u8]) -> IResult<&[u8], (u64, u32, u32)> {
    (le_u64, le_u32, le_u32).parse(bytes)
}

fn stored_crc(bytes: &[u8]) -> IResult<&[u8], u32> {
    le_u32(bytes)
}

fn major(control_version: u32, catalog_version: u32) -> Result<PostgresMajor, ControlFileError> {
    let known = |version| LAYOUTS.iter().any(|layout| layout.2 == version);
    if !known(control_version) && known(control_version.swap_bytes()) {
        return Err(ControlFileError::BigEndian);
    }
    PostgresMajor::from_catalog_version(catalog_version)
        .filter(|major| {
            LAYOUTS.iter().any(|(first, last, version)| {
                (first..=last).contains(&&major.get()) && *version == control_version
            })
        })
        .ok_or(ControlFileError::UnknownVersion {
            control_version,
            catalog_version,
        })
}

/// The fields in the order of the C struct, with the padding that a 64-bit compiler puts between them.
fn fields(
    input: &[u8],
    major: PostgresMajor,
) -> IResult<&[u8], Result<ControlFile, ControlFileError>> {
    let (input, (system_identifier, control_version, catalog_version)) = version_fields(input)?;
    let (input, (state, _, updated, checkpoint)) =
        (le_u32, take(4usize), le_i64, le_u64).parse(input)?;
    let (input, checkpoint_copy) = checkpoint_fields(input, major)?;
    let (input, (unlogged_lsn, min_recovery_point, min_recovery_timeline, _)) =
        (le_u64, le_u64, le_u32, take(4usize)).parse(input)?;
    let (input, (backup_start, backup_end, backup_end_required, _)) =
        (le_u64, le_u64, le_u8, take(3usize)).parse(input)?;
    let (input, (wal_level, wal_log_hints, _)) = (le_i32, le_u8, take(3usize)).parse(input)?;
    let (input, required) = (le_i32, le_i32, le_i32, le_i32, le_i32).parse(input)?;
    let (input, (track_commit_timestamp, _, _max_align, _float_format)) =
        (le_u8, take(3usize), le_u32, le_u64).parse(input)?;
    let (input, (block_size, relation_segment_blocks)) = (le_u32, le_u32).parse(input)?;
    // 19: slru_pages_per_segment
    let (input, _) = take(if major.get() < 19 { 0usize } else { 4 }).parse(input)?;
    let (input, (wal_block_size, wal_segment_size)) = (le_u32, le_u32).parse(input)?;
    // nameDataLen, indexMaxKeys, toast_max_chunk_size, loblksize, float8ByVal; 19: data_checksum_version_init
    let (input, _) = take(if major.get() < 19 { 20usize } else { 24 }).parse(input)?;
    let (input, data_checksum_version) = le_u32(input)?;

    let checked = || -> Result<ControlFile, ControlFileError> {
        Ok(ControlFile {
            system_identifier: SystemIdentifier::new(system_identifier),
            control_version,
            catalog_version,
            major,
            state: ClusterState::from_number(state).ok_or(field("state", state))?,
            updated: time("time", updated)?,
            checkpoint: Lsn::new(checkpoint),
            checkpoint_copy: checkpoint_copy?,
            unlogged_lsn: Lsn::new(unlogged_lsn),
            min_recovery_point: Lsn::new(min_recovery_point),
            min_recovery_timeline: TimelineId::new(min_recovery_timeline),
            backup_start: Lsn::new(backup_start),
            backup_end: Lsn::new(backup_end),
            backup_end_required: boolean("backupEndRequired", backup_end_required)?,
            wal_level: level(wal_level)?,
            wal_log_hints: boolean("wal_log_hints", wal_log_hints)?,
            required_settings: RequiredSettings {
                max_connections: setting("MaxConnections", required.0)?,
                max_worker_processes: setting("max_worker_processes", required.1)?,
                max_wal_senders: setting("max_wal_senders", required.2)?,
                max_prepared_transactions: setting("max_prepared_xacts", required.3)?,
                max_locks_per_transaction: setting("max_locks_per_xact", required.4)?,
            },
            track_commit_timestamp: boolean("track_commit_timestamp", track_commit_timestamp)?,
            block_size: page_size("blcksz", block_size)?,
            relation_segment_blocks,
            wal_block_size: page_size("xlog_blcksz", wal_block_size)?,
            wal_segment_size: WalSegmentSize::new(u64::from(wal_segment_size))
                .map_err(|_| field("xlog_seg_size", wal_segment_size))?,
            data_checksum_version,
        })
    };
    Ok((input, checked()))
}

/// Why bytes are not a control file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlFileError {
    /// The bytes end before the CRC.
    #[error("pg_control is too short: expected at least {needed} bytes, found {found}")]
    Truncated {
        /// Bytes that are needed at least.
        needed: usize,
        /// Bytes there are.
        found: usize,
    },
    /// A layout that is not known here, or no control file at all.
    #[error(
        "pg_control has version {control_version} and catalog version {catalog_version}: \
         not those of PostgreSQL 13 to 19"
    )]
    UnknownVersion {
        /// Layout of the file, as it stands there.
        control_version: u32,
        /// Version of the system catalogs, as it stands there.
        catalog_version: u32,
    },
    /// The file was written on a big-endian machine.
    #[error("pg_control was written on a big-endian machine, which is not supported")]
    BigEndian,
    /// The file is damaged, or was read while the server wrote it.
    #[error("pg_control is damaged: CRC {stored:08X} is stored, {computed:08X} computed")]
    Checksum {
        /// What stands in the file.
        stored: u32,
        /// What its bytes give.
        computed: u32,
    },
    /// The CRC is right, but a field has a value that no server writes.
    #[error("pg_control has {value} as its {field}, which no server writes")]
    Field {
        /// Name in PostgreSQL's struct.
        field: &'static str,
        /// What stands there.
        value: i64,
    },
}

impl ControlFileError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            ControlFileError::UnknownVersion { .. } => Some(
                "The cluster belongs to a version of PostgreSQL that this build does not know."
                    .to_owned(),
            ),
            ControlFileError::Checksum { .. } => Some(
                "A file read while the server runs can be torn; try again. Otherwise restore it."
                    .to_owned(),
            ),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A made-up control file with each field at its offset in PostgreSQL's struct, its CRC right.
    fn control(major: u16) -> Vec<u8> {
        let mut bytes = vec![0; ControlFile::FILE_LEN];
        // 19 has more fields in between
        let moved = |offset: usize| match offset {
            ..64 => offset,
            _ if major < 19 => offset,
            84..104 => offset + 12,
            64..224 => offset + 8,
            224..252 => offset + 12,
            _ => offset + 16,
        };
        let mut put = |offset: usize, value: &[u8]| {
            let offset = moved(offset);
            bytes[offset..offset + value.len()].copy_from_slice(value);
        };
        let (control_version, catalog_version): (u32, u32) = match major {
            13 => (1300, 202_007_201),
            15 => (1300, 202_209_061),
            17 => (1700, 202_406_281),
            18 => (1800, 202_506_291),
            _ => (1905, 202_609_165),
        };
        put(0, &7_574_012_345_678_901_235u64.to_le_bytes());
        put(8, &control_version.to_le_bytes());
        put(12, &catalog_version.to_le_bytes());
        put(16, &6u32.to_le_bytes());
        put(24, &1_795_159_500i64.to_le_bytes());
        put(32, &0x500_0060u64.to_le_bytes());
        put(40, &0x500_0028u64.to_le_bytes());
        put(48, &3u32.to_le_bytes());
        put(52, &2u32.to_le_bytes());
        put(56, &[1]);
        put(60, &2i32.to_le_bytes());
        put(64, &((1u64 << 32) | 779).to_le_bytes());
        put(72, &24576u32.to_le_bytes());
        put(76, &5u32.to_le_bytes());
        put(80, &7u32.to_le_bytes());
        put(84, &716u32.to_le_bytes());
        put(96, &4u32.to_le_bytes());
        put(104, &1_795_159_499i64.to_le_bytes());
        put(120, &778u32.to_le_bytes());
        put(136, &0x600_0000u64.to_le_bytes());
        put(144, &3u32.to_le_bytes());
        put(152, &0x500_0028u64.to_le_bytes());
        put(168, &[1]);
        put(172, &1i32.to_le_bytes());
        for (index, setting) in [100i32, 8, 10, 0, 64].into_iter().enumerate() {
            put(180 + 4 * index, &setting.to_le_bytes());
        }
        put(216, &8192u32.to_le_bytes());
        put(220, &131_072u32.to_le_bytes());
        put(224, &8192u32.to_le_bytes());
        put(228, &(16u32 << 20).to_le_bytes());
        put(252, &1u32.to_le_bytes());
        seal(&mut bytes, major);
        bytes
    }

    fn seal(bytes: &mut [u8], major: u16) {
        let offset = match major {
            ..=17 => 288,
            18 => 292,
            _ => 308,
        };
        let crc = crc32c::crc32c(&bytes[..offset]);
        bytes[offset..offset + 4].copy_from_slice(&crc.to_le_bytes());
    }

    #[test]
    fn each_field_stands_where_the_server_puts_it() {
        for major in [13, 15, 17, 18, 19] {
            let control = ControlFile::parse(&control(major)).unwrap();
            assert_eq!(control.major.get(), major);
            assert_eq!(control.system_identifier.get(), 7_574_012_345_678_901_235);
            assert_eq!(control.state, ClusterState::InProduction);
            assert_eq!(control.updated.to_string(), "2026-11-20 07:25:00.000000+00");
            assert_eq!(control.checkpoint.to_string(), "0/5000060");
            assert_eq!(control.redo().to_string(), "0/5000028");
            assert_eq!(control.timeline().get(), 3);
            assert_eq!(control.checkpoint_copy.previous_timeline.get(), 2);
            assert!(control.checkpoint_copy.full_page_writes);
            assert_eq!(
                control.checkpoint_copy.wal_level,
                (major >= 17).then_some(WalLevel::Logical)
            );
            assert_eq!(control.checkpoint_copy.next_xid, (1 << 32) | 779);
            assert_eq!(control.checkpoint_copy.next_oid, 24576);
            assert_eq!(control.checkpoint_copy.next_multi, 5);
            assert_eq!(control.checkpoint_copy.next_multi_offset, 7);
            assert_eq!(control.checkpoint_copy.oldest_xid, 716);
            assert_eq!(control.checkpoint_copy.oldest_multi_database, 4);
            assert_eq!(control.checkpoint_copy.oldest_active_xid, 778);
            assert_eq!(control.min_recovery_point.to_string(), "0/6000000");
            assert_eq!(control.min_recovery_timeline, TimelineId::new(3));
            assert!(control.backup_end_required);
            assert_eq!(control.wal_level, WalLevel::Replica);
            let settings = control.required_settings.named().map(|(_, value)| value);
            assert_eq!(settings, [100, 8, 10, 0, 64]);
            assert_eq!(control.wal_segment_size, WalSegmentSize::DEFAULT);
            assert_eq!(
                (control.block_size, control.relation_segment_blocks),
                (8192, 131_072)
            );
            assert!(control.data_checksums());
        }
        assert_eq!(
            ControlFile::parse(&control(18))
                .unwrap()
                .tablespace_version_directory(),
            "PG_18_202506291"
        );
    }

    #[test]
    fn a_changed_byte_anywhere_is_found() {
        let sound = control(18);
        for offset in 16..296 {
            let mut damaged = sound.clone();
            damaged[offset] ^= 0x40;
            assert!(
                matches!(
                    ControlFile::parse(&damaged),
                    Err(ControlFileError::Checksum { .. })
                ),
                "{offset}"
            );
        }
    }

    #[test]
    fn only_the_bytes_up_to_the_crc_are_needed() {
        for (major, needed) in [(15, 292), (18, 296), (19, 312)] {
            let bytes = control(major);
            assert!(ControlFile::parse(&bytes[..needed]).is_ok());
            for len in [0, 8, 15, 16, 17, needed - 5, needed - 4, needed - 1] {
                assert!(
                    matches!(
                        ControlFile::parse(&bytes[..len]),
                        Err(ControlFileError::Truncated { .. })
                    ),
                    "{len}"
                );
            }
        }
    }

    #[test]
    fn other_versions_and_machines_are_refused() {
        let mut later = control(18);
        later[12..16].copy_from_slice(&202_609_166u32.to_le_bytes());
        assert!(matches!(
            ControlFile::parse(&later),
            Err(ControlFileError::UnknownVersion { .. })
        ));
        let mut mixed = control(18);
        mixed[12..16].copy_from_slice(&202_209_061u32.to_le_bytes());
        assert!(matches!(
            ControlFile::parse(&mixed),
            Err(ControlFileError::UnknownVersion { .. })
        ));
        let mut foreign = control(18);
        foreign[8..12].copy_from_slice(&1800u32.to_be_bytes());
        assert_eq!(
            ControlFile::parse(&foreign),
            Err(ControlFileError::BigEndian)
        );
        assert!(ControlFile::parse(&[0; 8192]).is_err());
    }

    #[test]
    fn a_right_crc_does_not_excuse_an_impossible_field() {
        for (offset, value, field) in [
            (16, 7u32, "state"),
            (48, 0, "ThisTimeLineID"),
            (56, 2, "fullPageWrites"),
            (60, 3, "wal_level"),
            (180, u32::MAX, "MaxConnections"),
            (216, 0, "blcksz"),
            (228, 12345, "xlog_seg_size"),
        ] {
            let mut bytes = control(18);
            bytes[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
            seal(&mut bytes, 18);
            match ControlFile::parse(&bytes) {
                Err(ControlFileError::Field { field: found, .. }) => assert_eq!(found, field),
                other => panic!("{field}: {other:?}"),
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(offset in 0usize..312, change: Vec<u8>, major in prop::sample::select(vec![13u16, 15, 17, 18, 19])) {
            let mut bytes = control(major);
            for (byte, change) in bytes.iter_mut().skip(offset).zip(change) {
                *byte = change;
            }
            let _ = ControlFile::parse(&bytes);
            seal(&mut bytes, major);
            let _ = ControlFile::parse(&bytes);
        }
    }
}
