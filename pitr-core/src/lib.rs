//! PostgreSQL WAL, timelines, control file, backup label and manifest, recovery targets: pure parsing, no I/O.
#![forbid(unsafe_code)]
