//! A segment's way into the repository and back, step by step, beside what
//! the codec alone takes for the same bytes in the same run.

use pitr_core::crc32c;
use std::hint::black_box;
use std::io::{self, Write as _};
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use pitr_benches::{Kind, RealSegment, pgbench_segments};
use pitr_core::{SegmentName, SegmentSummaryBuilder, WalFileName, WalReader, WalSegmentSize};
use pitr_store::wal::identify;
use pitr_store::{Codec, Decoder, Encoder, Encoding, LocalStore, Repository, WalBytes};

type Failure = Box<dyn std::error::Error>;

fn encode(codec: Codec, bytes: &[u8]) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(bytes.len() / 2);
    let mut encoder = Encoder::new(codec, bytes.len() as u64)?;
    for chunk in bytes.chunks(256 << 10) {
        encoder.write(chunk, &mut out)?;
    }
    encoder.finish(&mut out)?;
    Ok(out)
}

fn codecs(criterion: &mut Criterion, segment: &RealSegment) -> Result<(), Failure> {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Bytes(segment.bytes.len() as u64));
    let level = 1;
    group.bench_function("zstd alone, level 1", |bench| {
        bench.iter(|| {
            let mut sink = io::sink();
            let mut encoder = zstd::Encoder::new(&mut sink, level).ok()?;
            encoder.include_checksum(true).ok()?;
            encoder.write_all(&segment.bytes).ok()?;
            encoder.finish().ok().map(|_| ())
        });
    });
    group.bench_function("encode zstd:1", |bench| {
        bench.iter(|| encode(Codec::Zstd { level }, black_box(&segment.bytes)).ok());
    });
    let stored = encode(Codec::Zstd { level }, &segment.bytes)?;
    group.bench_function("decode zstd", |bench| {
        bench.iter(|| {
            let max = segment.bytes.len() as u64;
            let mut decoder = Decoder::new(Encoding::Zstd, stored.as_slice(), max).ok()?;
            let mut bytes = 0;
            loop {
                match decoder.next_chunk().ok()? {
                    [] => return Some(bytes),
                    chunk => bytes += chunk.len(),
                }
            }
        });
    });
    group.finish();
    Ok(())
}

fn way(criterion: &mut Criterion, segment: &RealSegment) -> Result<(), Failure> {
    let name: WalFileName = segment.name.parse()?;
    let identity = identify(&name, &segment.bytes, segment.bytes.len() as u64)?;
    let folder = tempfile::tempdir()?;
    let mut group = criterion.benchmark_group("segment");
    group.throughput(Throughput::Bytes(segment.bytes.len() as u64));
    group.bench_function("identify", |bench| {
        bench.iter(|| identify(&name, black_box(&segment.bytes), segment.bytes.len() as u64));
    });
    let mut made = 0;
    let repository = |folder: std::path::PathBuf| -> Result<_, Failure> {
        let store = Arc::new(LocalStore::new(folder));
        let repository = Repository::init(store)?.into_repository();
        Ok(repository.claim(&identity.cluster)?.wal())
    };
    group.bench_function("push, durable", |bench| {
        bench.iter_batched(
            || {
                made += 1;
                repository(folder.path().join(made.to_string())).ok()
            },
            |archive| {
                let mut source = WalBytes::new(segment.bytes.as_slice(), "bench");
                archive?
                    .push(&name, &mut source, Codec::Zstd { level: 1 })
                    .ok()
            },
            BatchSize::PerIteration,
        );
    });
    let archive = repository(folder.path().join("kept"))?;
    let mut source = WalBytes::new(segment.bytes.as_slice(), "bench");
    archive.push(&name, &mut source, Codec::Zstd { level: 1 })?;
    group.bench_function("push again, compared", |bench| {
        bench.iter(|| {
            let mut source = WalBytes::new(segment.bytes.as_slice(), "bench");
            archive
                .push(&name, &mut source, Codec::Zstd { level: 1 })
                .ok()
        });
    });
    group.bench_function("fetch, checked", |bench| {
        bench.iter(|| archive.fetch_to(&name, &mut io::sink()).ok());
    });
    group.finish();
    Ok(())
}

/// Reading every record, beside the checksum alone.
fn scan(criterion: &mut Criterion, kind: Kind) -> Result<(), Failure> {
    let segments = pgbench_segments(kind, 4)?;
    // the furthest from its checkpoint, or for images the last of them
    let segment = segments.last().ok_or("no segment")?;
    let name: SegmentName = segment.name.parse()?;
    let size = WalSegmentSize::DEFAULT;
    let number = name.number(size)?;
    let mut group = criterion.benchmark_group(format!("scan, {}", kind.name()));
    group.throughput(Throughput::Bytes(segment.bytes.len() as u64));
    group.bench_function("crc32c alone", |bench| {
        bench.iter(|| crc32c::crc32c(black_box(&segment.bytes)));
    });
    group.bench_function("records with their CRC", |bench| {
        bench.iter(|| {
            let mut reader = WalReader::new(number, size);
            let mut records = reader.feed(black_box(&segment.bytes));
            let mut count = 0_u64;
            while let Some(record) = records.next_record() {
                count += u64::from(record.is_ok());
            }
            count
        });
    });
    let summary = |bytes: &[u8]| {
        let mut builder = SegmentSummaryBuilder::new(name, size).ok()?;
        for chunk in bytes.chunks(256 << 10) {
            builder.feed(chunk);
        }
        Some(builder.finish())
    };
    let found = summary(&segment.bytes).ok_or("no summary")?;
    if found.is_damaged() || found.records == 0 {
        return Err(format!("{found:?}").into());
    }
    group.bench_function("summary", |bench| {
        bench.iter(|| summary(black_box(&segment.bytes)));
    });
    group.finish();
    Ok(())
}

fn segment_path(criterion: &mut Criterion) {
    let result = pgbench_segments(Kind::SmallRecords, 4)
        .map_err(Failure::from)
        .and_then(|segments| {
            let segment = segments.last().ok_or("no segment")?;
            scan(criterion, Kind::SmallRecords)?;
            scan(criterion, Kind::PageImages)?;
            codecs(criterion, segment)?;
            way(criterion, segment)
        });
    if let Err(error) = result {
        // a benchmark that cannot be set up has nothing to compare
        let _ = writeln!(io::stderr(), "segment: {error}");
        std::process::exit(1);
    }
}

criterion_group!(benches, segment_path);
criterion_main!(benches);
