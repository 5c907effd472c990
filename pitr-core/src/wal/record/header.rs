//! What every record begins with.

use crate::lsn::Lsn;
use crate::transaction_id::TransactionId;
use crate::wal::record::resource_manager::ResourceManager;

/// The 24 bytes that every record begins with.
///
/// Source: `XLogRecord`, src/include/access/xlogrecord.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordHeader {
    /// Whole record in bytes, this 24-byte header included, padding excluded.
    ///
    /// At least 24. Unverified until the reader has matched `crc`: never
    /// allocate by it alone.
    ///
    /// Source: `xl_tot_len`.
    pub total_len: u32,
    /// Transaction that wrote the record: 0 for none, 1 for `initdb`'s bootstrap.
    ///
    /// Source: `xl_xid`.
    pub xid: u32,
    /// Where the record before this one begins, on whatever timeline that is.
    ///
    /// Source: `xl_prev`.
    pub prev: Lsn,
    /// Operation in the upper four bits, by resource manager; flags in the lower four.
    ///
    /// Source: `xl_info`.
    pub info: u8,
    /// Whose record it is.
    ///
    /// Source: `xl_rmid`.
    pub resource_manager: ResourceManager,
    /// CRC-32C of the body, then of the first 20 bytes of the header.
    ///
    /// Source: `xl_crc`.
    pub crc: u32,
}

impl RecordHeader {
    /// Bytes in the header.
    ///
    /// Source: `SizeOfXLogRecord`.
    pub const LEN: usize = 24;
    /// Longest record that a server of 16 or later writes: 1020 MiB.
    ///
    /// Source: `XLogRecordMaxSize`.
    pub const MAX_TOTAL_LEN: u32 = 1020 << 20;
    /// Bytes of the header that its own CRC covers.
    pub(crate) const CRC_COVERS: usize = 20;

    /// Reads the header at the beginning of `record`; what follows it is ignored.
    ///
    /// Nothing is proven by it but that the length is possible and the
    /// resource manager one of those there are.
    ///
    /// # Errors
    /// [`RecordHeaderError`], one variant for each of these.
    ///
    /// Source: `ValidXLogRecordHeader`, src/backend/access/transam/xlogreader.c.
    pub fn parse(record: &[u8]) -> Result<RecordHeader, RecordHeaderError> {
        match record.first_chunk() {
            Some(header) => Self::from_bytes(header),
            None => Err(RecordHeaderError::Truncated {
                found: record.len(),
            }),
        }
    }

    /// As [`RecordHeader::parse`], of as many bytes as there are in one.
    #[inline]
    pub(crate) fn from_bytes(
        bytes: &[u8; RecordHeader::LEN],
    ) -> Result<RecordHeader, RecordHeaderError> {
        let [
            l0,
            l1,
            l2,
            l3,
            x0,
            x1,
            x2,
            x3,
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
            p6,
            p7,
            info,
            manager,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
        ] = *bytes;
        let total_len = u32::from_le_bytes([l0, l1, l2, l3]);
        if (total_len as usize) < Self::LEN {
            return Err(RecordHeaderError::Length { found: total_len });
        }
        let Some(resource_manager) = ResourceManager::new(manager) else {
            return Err(RecordHeaderError::ResourceManager { found: manager });
        };
        Ok(RecordHeader {
            total_len,
            xid: u32::from_le_bytes([x0, x1, x2, x3]),
            prev: Lsn::new(u64::from_le_bytes([p0, p1, p2, p3, p4, p5, p6, p7])),
            info,
            resource_manager,
            crc: u32::from_le_bytes([c0, c1, c2, c3]),
        })
    }

    /// The operation: `info` without the flags that are the same for all resource managers.
    ///
    /// Source: `XLR_RMGR_INFO_MASK`.
    pub const fn operation(&self) -> u8 {
        self.info & 0xF0
    }

    /// Whether the record changes files of relations in ways that its block references do not show.
    ///
    /// Source: `XLR_SPECIAL_REL_UPDATE`.
    pub const fn special_relation_update(&self) -> bool {
        self.info & 0x01 != 0
    }

    /// The transaction that wrote the record, where it is a real one.
    pub const fn transaction(&self) -> Option<TransactionId> {
        TransactionId::new(self.xid)
    }
}

/// Why bytes are not the header of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RecordHeaderError {
    /// The bytes end within the header.
    #[error("record header ends early: expected 24 bytes, found {found}")]
    Truncated {
        /// Bytes there are.
        found: usize,
    },
    /// A length that no record has; 0 where nothing was ever written.
    #[error("invalid record length: expected at least 24, found {found}")]
    Length {
        /// What stood there.
        found: u32,
    },
    /// A resource manager that does not exist.
    #[error(
        "invalid resource manager {found}: expected 0 to 21, or 128 to 255 from PostgreSQL 15 on"
    )]
    ResourceManager {
        /// What stood there.
        found: u8,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The SWITCH record of a server of 15 at 0/3042A50.
    const SWITCH: [u8; 24] = [
        0x18, 0, 0, 0, 0, 0, 0, 0, 0x18, 0x2a, 0x04, 0x03, 0, 0, 0, 0, 0x40, 0, 0, 0, 0xa2, 0xd2,
        0x02, 0x43,
    ];

    #[test]
    fn the_fields_stand_where_the_server_puts_them() {
        let header = RecordHeader::parse(&SWITCH).unwrap();
        assert_eq!(header.total_len, 24);
        assert_eq!(header.transaction(), None);
        assert_eq!(header.prev.to_string(), "0/3042A18");
        assert_eq!(header.operation(), 0x40);
        assert!(!header.special_relation_update());
        assert_eq!(header.resource_manager, ResourceManager::XLOG);
        assert_eq!(header.crc, 0x4302_d2a2);
    }

    #[test]
    fn impossible_headers_are_refused() {
        assert_eq!(
            RecordHeader::parse(&SWITCH[..23]),
            Err(RecordHeaderError::Truncated { found: 23 })
        );
        assert_eq!(
            RecordHeader::parse(&[0; 24]),
            Err(RecordHeaderError::Length { found: 0 })
        );
        let mut nobody = SWITCH;
        nobody[17] = 22;
        assert_eq!(
            RecordHeader::parse(&nobody),
            Err(RecordHeaderError::ResourceManager { found: 22 })
        );
    }
}
