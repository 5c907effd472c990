//! The name of a restore point.

use std::fmt;
use std::str::FromStr;

use crate::text::excerpt;

/// The name that somebody gave to a place in the log with `pg_create_restore_point()`.
///
/// 1 to 63 bytes, no NUL. Names may repeat; recovery stops at the first.
///
/// Source: `MAXFNAMELEN`, src/include/access/xlog_internal.h.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RestorePointName(String);

impl RestorePointName {
    /// The most bytes that a name may have.
    pub const MAX_LEN: usize = 63;

    /// Checks a name.
    ///
    /// # Errors
    /// If it is empty, longer than [`RestorePointName::MAX_LEN`] bytes, or has a NUL in it.
    pub fn new(name: impl Into<String>) -> Result<Self, RestorePointNameError> {
        let name = name.into();
        if name.is_empty() || name.len() > Self::MAX_LEN || name.contains('\0') {
            return Err(RestorePointNameError {
                name: excerpt(&name),
                bytes: name.len(),
            });
        }
        Ok(RestorePointName(name))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RestorePointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for RestorePointName {
    type Err = RestorePointNameError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        RestorePointName::new(name)
    }
}

/// Text that no restore point can have as its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{name}\" ({bytes} bytes) is not the name of a restore point: expected 1 to 63 bytes without NUL"
)]
pub struct RestorePointNameError {
    /// What stood there (shortened if long).
    pub name: String,
    /// Its length in bytes.
    pub bytes: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_1_to_63_bytes() {
        assert!("x".repeat(63).parse::<RestorePointName>().is_ok());
        assert_eq!(
            "antes del cambio \u{f1}"
                .parse::<RestorePointName>()
                .unwrap()
                .as_str(),
            "antes del cambio \u{f1}"
        );
        for name in [
            String::new(),
            "x".repeat(64),
            "\u{f1}".repeat(32),
            "a\0b".to_owned(),
        ] {
            assert!(RestorePointName::new(name.clone()).is_err(), "{name:?}");
        }
    }
}
