//! What walsender and receiver say to each other inside the copy.
//!
//! Source: "Streaming Replication Protocol", doc/src/sgml/protocol.sgml.

use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, Bytes};
use pitr_core::Lsn;

/// Seconds from 1970 to 2000, the server's epoch.
const POSTGRES_EPOCH_SECONDS: u64 = 946_684_800;

/// A message of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ServerWord {
    /// `w`: bytes of the log.
    Wal {
        start: Lsn,
        server_end: Lsn,
        bytes: Bytes,
    },
    /// `k`: it is alive.
    Keepalive {
        server_end: Lsn,
        reply_requested: bool,
    },
}

/// Reads one message; `None` for what is none.
pub(super) fn read(mut bytes: Bytes) -> Option<ServerWord> {
    let tag = bytes.try_get_u8().ok()?;
    match tag {
        b'w' => {
            let start = Lsn::new(bytes.try_get_u64().ok()?);
            let server_end = Lsn::new(bytes.try_get_u64().ok()?);
            bytes.try_get_i64().ok()?;
            // no log reaches the end of the address space
            start.checked_add(bytes.len() as u64)?;
            Some(ServerWord::Wal {
                start,
                server_end,
                bytes,
            })
        }
        b'k' => {
            let server_end = Lsn::new(bytes.try_get_u64().ok()?);
            bytes.try_get_i64().ok()?;
            let reply_requested = bytes.try_get_u8().ok()? != 0;
            bytes.is_empty().then_some(ServerWord::Keepalive {
                server_end,
                reply_requested,
            })
        }
        _ => None,
    }
}

/// `r`: how far the log is written and flushed here. Nothing is applied, which
/// the server reads as "unknown".
pub(super) fn status(flushed: Lsn, reply_requested: bool) -> [u8; 34] {
    let mut message = [0; 34];
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_micros();
    let now = i64::try_from(now)
        .unwrap_or(i64::MAX)
        .saturating_sub_unsigned(POSTGRES_EPOCH_SECONDS * 1_000_000);
    message[0] = b'r';
    message[1..9].copy_from_slice(&flushed.get().to_be_bytes());
    message[9..17].copy_from_slice(&flushed.get().to_be_bytes());
    message[17..25].copy_from_slice(&Lsn::INVALID.get().to_be_bytes());
    message[25..33].copy_from_slice(&now.to_be_bytes());
    message[33] = u8::from(reply_requested);
    message
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn log_and_keepalives_are_told_apart() {
        let mut message = vec![b'w'];
        message.extend(0x0500_0000_u64.to_be_bytes());
        message.extend(0x0500_1000_u64.to_be_bytes());
        message.extend(7_i64.to_be_bytes());
        message.extend(b"log");
        assert_eq!(
            read(message.into()),
            Some(ServerWord::Wal {
                start: Lsn::new(0x0500_0000),
                server_end: Lsn::new(0x0500_1000),
                bytes: Bytes::from_static(b"log"),
            })
        );
        let mut message = vec![b'k'];
        message.extend(9_u64.to_be_bytes());
        message.extend(7_i64.to_be_bytes());
        message.push(1);
        assert_eq!(
            read(message.into()),
            Some(ServerWord::Keepalive {
                server_end: Lsn::new(9),
                reply_requested: true,
            })
        );
    }

    #[test]
    fn a_status_says_what_is_flushed_and_that_nothing_is_applied() {
        let message = status(Lsn::new(0x0102_0304_0506_0708), true);
        assert_eq!(message[0], b'r');
        assert_eq!(message[1..9], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(message[9..17], [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(message[17..25], [0; 8]);
        let clock = i64::from_be_bytes(message[25..33].try_into().unwrap());
        // between 2025 and 2100
        assert!((788_918_400_000_000..3_155_760_000_000_000).contains(&clock));
        assert_eq!(message[33], 1);
    }

    proptest! {
        #[test]
        fn no_message_panics(bytes: Vec<u8>) {
            let _ = read(bytes.into());
        }

        #[test]
        fn a_message_cut_short_is_none(length in 0_usize..25) {
            let mut message = vec![b'w'];
            message.extend([0; 24]);
            message.truncate(length);
            prop_assert_eq!(read(message.into()), None);
        }
    }
}
