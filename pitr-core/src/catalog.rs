//! The system catalogs as they lie in data files and in the log: what tables
//! are called, and where they lie.

pub(crate) mod commit_log;
pub(crate) mod databases;
pub(crate) mod file_map;
pub(crate) mod heap_page;
pub(crate) mod row;
pub(crate) mod row_version;
pub(crate) mod table;
