//! Criterion benchmarks of the segment's hot path; see `benches/`.
