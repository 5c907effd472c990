//! Telling an object from its successor.

use std::fmt;

/// What tells an object from any other that may take its place.
///
/// Shape: printable characters without white space.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectTrace(String);

impl ObjectTrace {
    /// Of an object of which no more than its size is known.
    pub fn of_size(size_bytes: u64) -> Self {
        Self(size_bytes.to_string())
    }

    /// Of an object with something that changes whenever the object is replaced or
    /// written: an entity tag, an inode with its time of change.
    pub fn of_version(size_bytes: u64, version: &str) -> Self {
        let version: String = version
            .chars()
            .map(|c| if c.is_ascii_graphic() { c } else { '_' })
            .collect();
        Self(format!("{size_bytes}:{version}"))
    }

    /// As it was written down by [`fmt::Display`].
    pub fn from_text(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for ObjectTrace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
