//! The pitr repository: layout, codecs, durable publishing, WAL archive and base backups.

pub mod backup;
