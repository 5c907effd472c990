//! `scheme://bucket/prefix`.

use std::fmt;

use crate::key::ObjectKey;
use crate::store::AddressError;

/// Where in which bucket a store lies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BucketAddress {
    /// `s3`, `gs` or `az`.
    pub(super) scheme: &'static str,
    /// Bucket or container.
    pub(super) bucket: String,
    /// Path in the bucket, without slashes at its ends.
    pub(super) prefix: Option<ObjectKey>,
}

impl fmt::Display for BucketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme, self.bucket)?;
        match &self.prefix {
            Some(prefix) => write!(f, "/{prefix}"),
            None => Ok(()),
        }
    }
}

impl BucketAddress {
    /// Takes apart what follows `scheme://`.
    ///
    /// # Errors
    /// `Bucket`, which repeats nothing of the text: somebody may have put a
    /// password there.
    pub(crate) fn parse(scheme: &'static str, rest: &str) -> Result<Self, AddressError> {
        let refused = |reason| AddressError::Bucket { scheme, reason };
        let (bucket, path) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.contains(['@', ':']) {
            return Err(refused(
                "holds a user, a password or a port, which have no place in it",
            ));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '$');
        if bucket.is_empty() || !bucket.chars().all(allowed) {
            return Err(refused("names no bucket"));
        }
        let path = path.trim_matches('/');
        let prefix = match path {
            "" => None,
            path => Some(ObjectKey::parse(path).map_err(|_| {
                refused("has a path of other characters than A-Z a-z 0-9 . _ - and /, or a part of it begins with a dot")
            })?),
        };
        Ok(Self {
            scheme,
            bucket: bucket.to_owned(),
            prefix,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_and_path_are_told_apart() {
        let text = |rest| BucketAddress::parse("s3", rest).map(|a| a.to_string());
        assert_eq!(text("b").unwrap(), "s3://b");
        assert_eq!(text("b/").unwrap(), "s3://b");
        assert_eq!(text("b/pg/main/").unwrap(), "s3://b/pg/main");
    }

    #[test]
    fn an_address_with_a_secret_in_it_is_refused_without_repeating_it() {
        for bad in [
            "key:hidden@b/p",
            "hidden@b",
            "",
            "/p",
            "b/../hidden",
            "b/a b?hidden=1",
        ] {
            let error = BucketAddress::parse("s3", bad).unwrap_err();
            let shown = format!("{error} {error:?} {:?}", error.hint());
            assert!(!shown.contains("hidden"), "{shown}");
        }
    }
}
