//! The number that a cluster is known by.

use std::fmt;
use std::str::FromStr;

use crate::text::{canonical_decimal_u64, excerpt, serde_as_text};

/// The number that `initdb` gives a cluster, and that every copy of it keeps.
///
/// Made of the time of `initdb` and a process number. A restored copy has the
/// same, so two clusters are the same only if their timelines agree as well.
/// In JSON it is a string: as a number it would lose its last digits in every
/// reader that takes numbers as doubles.
///
/// Source: `system_identifier`, src/include/catalog/pg_control.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SystemIdentifier(u64);

impl SystemIdentifier {
    /// The identifier of this number.
    pub const fn new(number: u64) -> Self {
        SystemIdentifier(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl fmt::Display for SystemIdentifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for SystemIdentifier {
    type Err = ParseSystemIdentifierError;

    /// Reads the one canonical spelling: decimal digits, no sign, no leading zero.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match canonical_decimal_u64(text) {
            Some(number) => Ok(SystemIdentifier(number)),
            None => Err(ParseSystemIdentifierError {
                text: excerpt(text),
            }),
        }
    }
}

serde_as_text!(SystemIdentifier);

/// Text that is not a system identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{text}\" is not a system identifier: expected a decimal number below 2^64")]
pub struct ParseSystemIdentifierError {
    /// What stood there (shortened if long).
    pub text: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_digits_survive_json() {
        let identifier = SystemIdentifier::new(7_574_012_345_678_901_235);
        let json = serde_json::to_string(&identifier).unwrap();
        assert_eq!(json, "\"7574012345678901235\"");
        assert_eq!(
            serde_json::from_str::<SystemIdentifier>(&json).unwrap(),
            identifier
        );
        assert!(serde_json::from_str::<SystemIdentifier>("7574012345678901235").is_err());
    }

    #[test]
    fn one_identifier_has_one_spelling() {
        assert_eq!(
            "18446744073709551615"
                .parse::<SystemIdentifier>()
                .unwrap()
                .get(),
            u64::MAX
        );
        assert_eq!("0".parse::<SystemIdentifier>().unwrap().get(), 0);
        for text in [
            "",
            "+1",
            "-1",
            "01",
            " 1",
            "1 ",
            "0x1",
            "18446744073709551616",
            "\u{0661}",
        ] {
            assert!(text.parse::<SystemIdentifier>().is_err(), "{text:?}");
        }
    }
}
