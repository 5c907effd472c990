//! Segments made for tests. Not part of the public interface.
//!
//! Small, so that a test can afford many; where the content matters, tests use
//! captured segments.

#![allow(
    clippy::unwrap_used,
    reason = "test support: a panic is how a test reports"
)]

use pitr_core::{PostgresMajor, SystemIdentifier, WalFileName, WalSegmentSize};

use crate::conformance::noise;
use crate::repository::ClusterIdentity;

/// The cluster of all made segments.
pub const SYSTEM_IDENTIFIER: u64 = 7_575_757_575_757_575_757;

/// PostgreSQL 15 with segments of 1 MiB.
pub fn made_cluster() -> ClusterIdentity {
    ClusterIdentity {
        system_identifier: SystemIdentifier::new(SYSTEM_IDENTIFIER),
        major: PostgresMajor::new(15).unwrap(),
        segment_size: WalSegmentSize::new(1 << 20).unwrap(),
    }
}

/// A segment of 1 MiB: a true first page header for `name`, then content that
/// depends on `seed` and compresses to about a third.
pub fn made_segment(name: &str, seed: u64) -> Vec<u8> {
    let cluster = made_cluster();
    let segment = name.parse::<WalFileName>().unwrap().segment().unwrap();
    let mut bytes = Vec::with_capacity(1 << 20);
    bytes.extend(0xD110_u16.to_le_bytes());
    bytes.extend(0x0002_u16.to_le_bytes());
    bytes.extend(segment.timeline().get().to_le_bytes());
    let start = segment.start(cluster.segment_size).unwrap();
    bytes.extend(start.get().to_le_bytes());
    bytes.extend([0; 8]);
    bytes.extend(SYSTEM_IDENTIFIER.to_le_bytes());
    bytes.extend((1_u32 << 20).to_le_bytes());
    bytes.extend(8192_u32.to_le_bytes());
    bytes.extend(noise(350_000, seed));
    bytes.resize(1 << 20, 7);
    bytes
}
