//! The write-ahead log as files and pages.

pub(crate) mod file_name;
pub(crate) mod level;
pub(crate) mod page_header;
pub(crate) mod reader;
pub(crate) mod record;
pub(crate) mod rmgr;
pub(crate) mod seam;
pub(crate) mod segment_name;
pub(crate) mod segment_number;
pub(crate) mod segment_size;
pub(crate) mod summary;
