//! The environment that the providers' own tools read.

use std::collections::HashMap;
#[cfg(feature = "s3")]
use std::path::PathBuf;

/// Variables and the home folder; of this process, or made up in tests.
pub(super) struct Environment {
    variables: HashMap<String, String>,
}

impl Environment {
    /// Of this process. A variable that is no text is as good as none.
    pub(super) fn of_process() -> Self {
        let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            variables: std::env::vars_os().filter_map(text).collect(),
        }
    }

    /// A variable's value; an empty one is as good as none.
    #[cfg(any(feature = "s3", feature = "az"))]
    pub(super) fn get(&self, name: &str) -> Option<String> {
        self.variables
            .get(name)
            .filter(|value| !value.is_empty())
            .cloned()
    }

    /// The first of several variables that is set.
    #[cfg(feature = "s3")]
    pub(super) fn first(&self, names: &[&str]) -> Option<String> {
        names.iter().find_map(|name| self.get(name))
    }

    /// All that are set and begin with `prefix`, in order.
    #[cfg(any(feature = "gs", feature = "az"))]
    pub(super) fn beginning(&self, prefix: &str) -> Vec<(&str, &str)> {
        let mut found: Vec<_> = self
            .variables
            .iter()
            .filter(|(name, value)| name.starts_with(prefix) && !value.is_empty())
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        found.sort_unstable();
        found
    }

    /// `path` below the user's home folder.
    #[cfg(feature = "s3")]
    pub(super) fn in_home(&self, path: &str) -> Option<PathBuf> {
        self.get("HOME").map(|home| PathBuf::from(home).join(path))
    }

    #[cfg(all(test, any(feature = "s3", feature = "az")))]
    pub(super) fn made_of(variables: &[(&str, &str)]) -> Self {
        Self {
            variables: variables
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }
}
