//! Writer and reader of the seekable format against each other and against
//! the zstd command.

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::num::NonZeroUsize;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Arc;

use proptest::prelude::*;

use super::*;

fn pool(threads: usize) -> Arc<FramePool> {
    Arc::new(FramePool::new(NonZeroUsize::new(threads).unwrap(), 1).unwrap())
}

fn compress(raw: &[u8], pool: &Arc<FramePool>, frame_bytes: u32) -> Vec<u8> {
    let mut writer = SeekableWriter::with_frame_bytes(Vec::new(), Arc::clone(pool), frame_bytes);
    writer.write_all(raw).unwrap();
    let (object, totals) = writer.finish().unwrap();
    assert_eq!(totals.raw_bytes, raw.len() as u64);
    assert_eq!(totals.stored_bytes, object.len() as u64);
    assert_eq!(
        u64::from(totals.frames),
        (raw.len() as u64).div_ceil(u64::from(frame_bytes))
    );
    object
}

/// Bytes that compress a little: runs and noise, the same on every run.
fn sample(length: usize) -> Vec<u8> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        match state % 3 {
            0 => bytes.extend_from_slice(&[0; 8]),
            1 => bytes.extend_from_slice(b"empleado"),
            _ => bytes.extend_from_slice(&state.to_le_bytes()),
        }
    }
    bytes.truncate(length);
    bytes
}

#[test]
fn the_zstd_command_reads_it_whole_and_finds_it_sound() {
    for length in [0, 1, 4096, 300_000] {
        let raw = sample(length);
        let object = compress(&raw, &pool(3), 64 << 10);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("object.zst");
        std::fs::write(&path, &object).unwrap();
        let test = Command::new("zstd").arg("-tq").arg(&path).status().unwrap();
        assert!(test.success());
        let output = Command::new("zstd")
            .args(["-dc"])
            .arg(&path)
            .stderr(Stdio::inherit())
            .output()
            .unwrap();
        assert!(output.status.success());
        assert_eq!(output.stdout, raw);
    }
}

#[test]
fn every_frame_says_its_content_size_and_carries_a_checksum() {
    let object = compress(&sample(100_000), &pool(1), 32 << 10);
    let reader = SeekableReader::open(object.as_slice()).unwrap();
    let mut offset = 0;
    while let Some(span) = reader.table().frame_at(offset) {
        let start = usize::try_from(span.compressed.start).unwrap();
        // frame header descriptor: bit 2 is the checksum flag (RFC 8878, 3.1.1.1.1)
        assert_eq!(object[start..start + 4], 0xFD2F_B528_u32.to_le_bytes());
        assert_eq!(object[start + 4] & 0x04, 0x04);
        let size = zstd::zstd_safe::get_frame_content_size(&object[start..]).unwrap();
        assert_eq!(size, Some(span.raw.end - span.raw.start));
        offset = span.raw.end;
    }
    assert_eq!(offset, 100_000);
}

#[test]
fn frames_stay_in_order_whatever_the_number_of_threads() {
    let raw = sample(1 << 20);
    let one = compress(&raw, &pool(1), 10_000);
    for threads in [2, 3, 8] {
        assert_eq!(compress(&raw, &pool(threads), 10_000), one);
    }
}

#[test]
fn one_pool_serves_writers_at_once() {
    let pool = pool(2);
    let raw = sample(500_000);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let object = compress(&raw, &pool, 7_000);
                assert_eq!(zstd::decode_all(object.as_slice()).unwrap(), raw);
            });
        }
    });
}

/// Counts the ranges that were asked for.
struct Counting<'a> {
    bytes: &'a [u8],
    asked: RefCell<Vec<Range<u64>>>,
}

impl RangeSource for Counting<'_> {
    fn size(&self) -> u64 {
        self.bytes.size()
    }

    fn read_range(&self, range: Range<u64>) -> io::Result<Vec<u8>> {
        self.asked.borrow_mut().push(range.clone());
        self.bytes.read_range(range)
    }
}

#[test]
fn a_range_touches_only_its_frames() {
    let raw = sample(1_000_000);
    let object = compress(&raw, &pool(2), 10_000);
    let source = Counting {
        bytes: &object,
        asked: RefCell::default(),
    };
    let reader = SeekableReader::open(&source).unwrap();
    assert_eq!(
        source.asked.borrow().len(),
        1,
        "the tail holds the whole table"
    );
    let mut bytes = Vec::new();
    reader
        .range(504_000, 12_000)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, raw[504_000..516_000]);
    assert_eq!(source.asked.borrow().len(), 3, "two frames of a hundred");
}

#[test]
fn a_table_longer_than_the_tail_is_read_by_a_second_request() {
    let raw = sample(30_000);
    let object = compress(&raw, &pool(2), 10);
    let source = Counting {
        bytes: &object,
        asked: RefCell::default(),
    };
    let reader = SeekableReader::open(&source).unwrap();
    assert_eq!(source.asked.borrow().len(), 2);
    let mut bytes = Vec::new();
    reader
        .range(12_345, 67)
        .unwrap()
        .read_to_end(&mut bytes)
        .unwrap();
    assert_eq!(bytes, raw[12_345..12_412]);
}

#[test]
fn a_changed_byte_in_a_frame_is_never_read_as_data() {
    let raw = sample(50_000);
    let object = compress(&raw, &pool(1), 10_000);
    let table_bytes = 8 + 5 * 8 + 9;
    for at in (0..object.len() - table_bytes).step_by(97) {
        let mut damaged = object.clone();
        damaged[at] ^= 0x10;
        let reader = SeekableReader::open(damaged.as_slice()).unwrap();
        let mut bytes = Vec::new();
        let read = reader.range(0, 50_000).unwrap().read_to_end(&mut bytes);
        // a bit that zstd does not use (block padding) may change nothing
        assert!(read.is_err() || bytes == raw, "byte {at}");
    }
}

#[test]
fn every_truncation_is_noticed() {
    let object = compress(&sample(20_000), &pool(1), 5_000);
    for length in 0..object.len() {
        assert!(
            SeekableReader::open(&object[..length]).is_err(),
            "{length} bytes"
        );
    }
}

#[test]
fn bytes_beyond_the_end_are_refused() {
    let object = compress(&sample(1000), &pool(1), 100);
    let reader = SeekableReader::open(object.as_slice()).unwrap();
    assert!(reader.range(1000, 0).is_ok());
    for (offset, length) in [(1000, 1), (0, 1001), (u64::MAX, 1), (1, u64::MAX)] {
        assert!(matches!(
            reader.range(offset, length),
            Err(SeekableError::OutOfRange { .. })
        ));
    }
}

/// Fails after some bytes, as a full disk does.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0 = self
            .0
            .checked_sub(bytes.len())
            .ok_or(io::ErrorKind::StorageFull)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn an_error_of_the_output_comes_back_and_stays() {
    let raw = sample(1 << 20);
    let mut writer = SeekableWriter::with_frame_bytes(Full(100_000), pool(2), 10_000);
    let error = writer.write_all(&raw).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert!(writer.write_all(b"more").is_err());
    assert!(writer.finish().is_err());
}

/// Slow output: notes how far the input was ahead of it.
struct Ahead<'a> {
    taken_in: &'a std::sync::atomic::AtomicU64,
    decoded: u64,
    most: u64,
}

impl Write for Ahead<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let ahead = self.taken_in.load(std::sync::atomic::Ordering::Relaxed) - self.decoded;
        self.most = self.most.max(ahead);
        self.decoded += zstd::zstd_safe::get_frame_content_size(bytes)
            .ok()
            .flatten()
            .unwrap_or(0);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn no_more_than_two_frames_beyond_the_threads_are_in_flight() {
    let taken_in = std::sync::atomic::AtomicU64::new(0);
    let output = Ahead {
        taken_in: &taken_in,
        decoded: 0,
        most: 0,
    };
    let mut writer = SeekableWriter::with_frame_bytes(output, pool(3), 1000);
    let raw = sample(1000);
    for _ in 0..2000 {
        taken_in.fetch_add(1000, std::sync::atomic::Ordering::Relaxed);
        writer.write_all(&raw).unwrap();
    }
    let (output, _) = writer.finish().unwrap();
    assert!(
        output.most <= 5000,
        "{} bytes of frames in flight",
        output.most
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn any_range_reads_as_the_slice(
        length in 0usize..60_000, frame_bytes in 1u32..20_000,
        offset in any::<prop::sample::Index>(), wanted in any::<prop::sample::Index>(),
    ) {
        prop_assume!(length / frame_bytes as usize <= 2000);
        let raw = sample(length);
        let object = compress(&raw, &pool(2), frame_bytes);
        let reader = SeekableReader::open(object.as_slice()).unwrap();
        let offset = offset.index(length + 1);
        let wanted = wanted.index(length - offset + 1);
        let mut bytes = Vec::new();
        reader.range(offset as u64, wanted as u64).unwrap().read_to_end(&mut bytes).unwrap();
        prop_assert_eq!(&bytes, &raw[offset..offset + wanted]);
        prop_assert_eq!(zstd::decode_all(object.as_slice()).unwrap(), raw);
    }
}
