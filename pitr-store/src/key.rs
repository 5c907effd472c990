//! Names of objects in a store.

use std::fmt;
use std::str::FromStr;

/// Longest component of a key, in bytes.
///
/// File systems allow 255; the difference leaves room for what a local store
/// puts around a name while the object is being written (`.NAME.7.tmp`).
pub const MAX_COMPONENT_BYTES: usize = 240;

/// Longest key, in bytes: what every object store of the market accepts.
pub const MAX_KEY_BYTES: usize = 1024;

/// Name of an object or a folder, relative to the root of its store.
///
/// Shape: components joined by `/`; each has 1 to [`MAX_COMPONENT_BYTES`]
/// bytes out of `A-Z a-z 0-9 . _ -` and does not begin with a dot. So no key
/// leaves the root (`..`), names a temporary file (`.NAME.tmp`), or needs
/// quoting on any medium.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectKey(String);

/// Why a text is not an [`ObjectKey`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ObjectKeyError {
    /// Nothing between two slashes, at an end, or at all.
    #[error("object key {key:?} has an empty component")]
    EmptyComponent {
        /// The text as given.
        key: String,
    },
    /// `.`, `..`, or a name reserved for temporary files.
    #[error("component {component:?} of object key {key:?} begins with a dot")]
    LeadingDot {
        /// The text as given.
        key: String,
        /// The component at fault.
        component: String,
    },
    /// A character outside `A-Z a-z 0-9 . _ -`.
    #[error("object key {key:?} contains {character:?}")]
    Character {
        /// The text as given.
        key: String,
        /// The first character at fault.
        character: char,
    },
    /// A component over [`MAX_COMPONENT_BYTES`], or a key over [`MAX_KEY_BYTES`].
    #[error("object key is too long: {found_bytes} bytes, at most {max_bytes} allowed")]
    TooLong {
        /// Length of the component or key.
        found_bytes: usize,
        /// The limit that it exceeds.
        max_bytes: usize,
    },
}

impl ObjectKey {
    /// Checks `key` against the shape above.
    ///
    /// # Errors
    /// The first rule that the text breaks.
    pub fn parse(key: &str) -> Result<Self, ObjectKeyError> {
        check_length(key)?;
        for component in key.split('/') {
            check_component(key, component)?;
        }
        Ok(Self(key.to_owned()))
    }

    /// Whether [`ObjectKey::join`] takes it, in a key that is not too long.
    pub(crate) fn is_component(name: &str) -> bool {
        check_component(name, name).is_ok()
    }

    /// A key put together from constants and checked types, whose texts hold
    /// nothing but allowed characters.
    pub(crate) fn of_layout(key: String) -> Self {
        debug_assert!(Self::parse(&key).is_ok(), "{key:?} is no key");
        Self(key)
    }

    /// The key one level below this one: `self/name`.
    ///
    /// # Errors
    /// `name` is not a single valid component, or the whole gets too long.
    pub fn join(&self, name: &str) -> Result<Self, ObjectKeyError> {
        check_component(name, name)?;
        let joined = format!("{}/{name}", self.0);
        check_length(&joined)?;
        Ok(Self(joined))
    }

    /// This key with `suffix` put after its last component: `a/b` and `.zst`
    /// give `a/b.zst`.
    ///
    /// # Errors
    /// The result is not a key (`suffix` holds a foreign character, or the
    /// name gets too long).
    pub fn with_suffix(&self, suffix: &str) -> Result<Self, ObjectKeyError> {
        if let Some(character) = suffix.chars().find(|&c| !is_allowed(c)) {
            return Err(ObjectKeyError::Character {
                key: format!("{}{suffix}", self.0),
                character,
            });
        }
        Self::parse(&format!("{}{suffix}", self.0))
    }

    /// The folder that holds this key; `None` for a key at the root.
    pub fn parent(&self) -> Option<Self> {
        self.0
            .rsplit_once('/')
            .map(|(parent, _)| Self(parent.to_owned()))
    }

    /// The last component.
    pub fn file_name(&self) -> &str {
        self.0.rsplit_once('/').map_or(&self.0, |(_, name)| name)
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/')
    }

    /// The whole key.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn is_allowed(character: char) -> bool {
    character.is_ascii_alphanumeric() || matches!(character, '.' | '_' | '-')
}

fn check_length(key: &str) -> Result<(), ObjectKeyError> {
    if key.len() > MAX_KEY_BYTES {
        return Err(ObjectKeyError::TooLong {
            found_bytes: key.len(),
            max_bytes: MAX_KEY_BYTES,
        });
    }
    Ok(())
}

fn check_component(key: &str, component: &str) -> Result<(), ObjectKeyError> {
    if component.is_empty() {
        return Err(ObjectKeyError::EmptyComponent {
            key: key.to_owned(),
        });
    }
    if component.starts_with('.') {
        return Err(ObjectKeyError::LeadingDot {
            key: key.to_owned(),
            component: component.to_owned(),
        });
    }
    if let Some(character) = component.chars().find(|&c| !is_allowed(c)) {
        return Err(ObjectKeyError::Character {
            key: key.to_owned(),
            character,
        });
    }
    if component.len() > MAX_COMPONENT_BYTES {
        return Err(ObjectKeyError::TooLong {
            found_bytes: component.len(),
            max_bytes: MAX_COMPONENT_BYTES,
        });
    }
    Ok(())
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for ObjectKey {
    type Err = ObjectKeyError;

    fn from_str(key: &str) -> Result<Self, Self::Err> {
        Self::parse(key)
    }
}

impl AsRef<str> for ObjectKey {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_key_leaves_the_root_or_names_a_temporary_file() {
        for bad in [
            "",
            "/",
            "/etc/passwd",
            "a//b",
            "a/",
            "..",
            "../a",
            "a/../b",
            "a/./b",
            ".a.tmp",
            "a/.b.tmp",
            "a\\b",
            "a\0b",
            "a b",
            "añb",
            "a\nb",
        ] {
            assert!(ObjectKey::parse(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_joined_name_is_one_component() {
        let wal = ObjectKey::parse("7312/wal").unwrap();
        assert_eq!(wal.join("00000001").unwrap().as_str(), "7312/wal/00000001");
        for bad in ["", "..", "a/b", ".x", "../a"] {
            assert!(wal.join(bad).is_err(), "{bad:?} was taken");
        }
        assert!(wal.with_suffix("/x").is_err());
        assert_eq!(wal.with_suffix(".zst").unwrap().as_str(), "7312/wal.zst");
    }

    #[test]
    fn parent_and_file_name_take_a_key_apart() {
        let key = ObjectKey::parse("a/b/c.zst").unwrap();
        assert_eq!(key.file_name(), "c.zst");
        assert_eq!(key.parent().unwrap().as_str(), "a/b");
        assert_eq!(ObjectKey::parse("a").unwrap().parent(), None);
        assert_eq!(key.components().collect::<Vec<_>>(), ["a", "b", "c.zst"]);
    }

    #[test]
    fn lengths_are_bounded() {
        assert!(ObjectKey::parse(&"a".repeat(MAX_COMPONENT_BYTES)).is_ok());
        assert!(ObjectKey::parse(&"a".repeat(MAX_COMPONENT_BYTES + 1)).is_err());
        let long = vec!["a"; MAX_KEY_BYTES].join("/");
        assert!(ObjectKey::parse(&long).is_err());
    }
}
