//! From the repository's address to the store it lies on.

use std::path::PathBuf;
use std::sync::Arc;

#[cfg(any(feature = "sftp", feature = "ftp"))]
use super::server_address::ServerAddress;
use super::{Store, StoreOptions};
#[cfg(feature = "ftp")]
use crate::ftp::FtpStore;
use crate::local::LocalStore;
#[cfg(feature = "sftp")]
use crate::sftp::SftpStore;

/// Why an address leads to no store.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressError {
    /// No address at all.
    #[error("the repository's address is empty")]
    Empty,
    /// A scheme of which this build has no store.
    #[error("repository address \"{scheme}://...\" is not supported by this build")]
    UnsupportedScheme {
        /// The part before `://`. The rest may hold a secret and is not kept.
        scheme: String,
    },
    /// `file://host/path`.
    #[error("repository address names the host {host:?}, but file:// reaches this machine only")]
    ForeignHost {
        /// The host.
        host: String,
    },
    /// A `file://` address whose path is relative, empty, or badly escaped.
    #[error("repository address {address:?} holds no absolute path")]
    NotAbsolute {
        /// The address.
        address: String,
    },
    /// `scheme://user:password@…`.
    #[error("the {scheme}:// address of the repository holds a password")]
    SecretInAddress {
        /// The scheme. The rest is a secret.
        scheme: String,
    },
    /// An address of a server that names no server or no folder on it.
    #[error("the {scheme}:// address of the repository cannot be used: {problem}")]
    NotAServer {
        /// The scheme. The rest may hold a secret and is not kept.
        scheme: String,
        /// What is wrong.
        problem: &'static str,
    },
    /// An address that names no place in a bucket. The text is not repeated: it
    /// may hold a secret.
    #[error("repository address \"{scheme}://...\" {reason}")]
    Bucket {
        /// `s3`, `gs` or `az`.
        scheme: &'static str,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The settings that go with the scheme cannot be used.
    #[error("{scheme}:// cannot be used: {reason}")]
    Settings {
        /// The scheme.
        scheme: &'static str,
        /// What is wrong, without a secret.
        reason: String,
        /// What to do about it.
        hint: &'static str,
    },
    /// A relative path, and the working directory cannot be found.
    #[error("could not find the working directory for the relative repository path {path:?}")]
    NoWorkingDirectory {
        /// The path as given.
        path: String,
    },
}

impl AddressError {
    /// What the administrator can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Empty | Self::NotAbsolute { .. } => {
                Some("Give an absolute path, or file:///PATH.".to_owned())
            }
            Self::UnsupportedScheme { .. } => Some(
                "Give an absolute path, or an address with file, s3, gs, az, sftp, ftp or ftps before the ://."
                    .to_owned(),
            ),
            Self::ForeignHost { .. } => Some("Mount the disk here, and give its path.".to_owned()),
            Self::SecretInAddress { .. } => Some(
                "Addresses are shown in messages and process lists. The manual says where the password goes."
                    .to_owned(),
            ),
            Self::NotAServer { scheme, .. } => {
                Some(format!("Give {scheme}://USER@HOST/FOLDER, special characters as %XX."))
            }
            Self::Bucket { .. } => Some(
                "Give SCHEME://BUCKET/PATH; keys belong into the environment or pitr.toml."
                    .to_owned(),
            ),
            Self::Settings { hint, .. } => Some((*hint).to_owned()),
            Self::NoWorkingDirectory { .. } => Some("Give an absolute path.".to_owned()),
        }
    }
}

/// The store at `address`: a path, `file:///PATH` with `%XX` escapes,
/// `s3://BUCKET/PATH`, `gs://BUCKET/PATH`, `az://CONTAINER/PATH`, or the
/// address of a server.
///
/// Reads the settings that go with the scheme, and touches nothing else:
/// whether something lies there shows at the first use.
///
/// # Errors
/// [`AddressError`].
pub fn open_store(address: &str, options: &StoreOptions) -> Result<Arc<dyn Store>, AddressError> {
    if let Some((scheme, rest)) = split_scheme(address) {
        match scheme.to_ascii_lowercase().as_str() {
            #[cfg(feature = "s3")]
            "s3" => return Ok(Arc::new(crate::object::open_s3(rest, &options.s3)?)),
            #[cfg(feature = "gs")]
            "gs" => return Ok(Arc::new(crate::object::open_gs(rest, &options.gs)?)),
            #[cfg(feature = "az")]
            "az" => return Ok(Arc::new(crate::object::open_az(rest, &options.az)?)),
            #[cfg(feature = "sftp")]
            "sftp" => {
                let address = ServerAddress::parse(scheme, rest)?;
                return Ok(Arc::new(SftpStore::new(address, options.sftp.clone())));
            }
            #[cfg(feature = "ftp")]
            "ftp" | "ftps" => {
                let address = ServerAddress::parse(scheme, rest)?;
                return Ok(Arc::new(FtpStore::new(address, options.ftp.clone())));
            }
            _ => {
                let _ = (rest, options);
            }
        }
    }
    Ok(Arc::new(LocalStore::new(local_path(address)?)))
}

/// The absolute path that `address` names on this machine.
fn local_path(address: &str) -> Result<PathBuf, AddressError> {
    if address.is_empty() {
        return Err(AddressError::Empty);
    }
    let Some((scheme, rest)) = split_scheme(address) else {
        return std::path::absolute(address).map_err(|_| AddressError::NoWorkingDirectory {
            path: address.to_owned(),
        });
    };
    if !scheme.eq_ignore_ascii_case("file") {
        return Err(AddressError::UnsupportedScheme {
            scheme: scheme.to_ascii_lowercase(),
        });
    }
    let not_absolute = || AddressError::NotAbsolute {
        address: address.to_owned(),
    };
    let slash = rest.find('/').ok_or_else(not_absolute)?;
    let (host, path) = rest.split_at(slash);
    if !host.is_empty() && !host.eq_ignore_ascii_case("localhost") {
        // what stands before it may be a password
        let host = host.rsplit('@').next().unwrap_or(host);
        return Err(AddressError::ForeignHost {
            host: host.to_owned(),
        });
    }
    unescape(path).map(PathBuf::from).ok_or_else(not_absolute)
}

/// `scheme://rest`, if `address` has that shape. A path may hold `://` too, but
/// not after letters alone.
fn split_scheme(address: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = address.split_once("://")?;
    let valid = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.'));
    valid.then_some((scheme, rest))
}

/// Replaces `%XX`; `None` for a broken escape or a NUL.
pub(super) fn unescape(path: &str) -> Option<std::ffi::OsString> {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(path.len());
    let mut rest = path.bytes();
    while let Some(byte) = rest.next() {
        let byte = if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            u8::try_from(high * 16 + low).ok()?
        } else {
            byte
        };
        if byte == 0 {
            return None;
        }
        bytes.push(byte);
    }
    Some(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_path_and_its_file_address_are_one_store() {
        assert_eq!(local_path("/srv/pitr").unwrap(), Path::new("/srv/pitr"));
        assert_eq!(
            local_path("file:///srv/pitr").unwrap(),
            Path::new("/srv/pitr")
        );
        assert_eq!(
            local_path("FILE://localhost/srv/my%20disk").unwrap(),
            Path::new("/srv/my disk")
        );
        assert!(local_path("relative/dir").unwrap().is_absolute());
        assert_eq!(local_path("/odd/s3://x").unwrap(), Path::new("/odd/s3://x"));
    }

    #[test]
    fn an_address_that_leads_elsewhere_is_refused_without_its_secrets() {
        let error = local_path("s3://key:secret@bucket/prefix").unwrap_err();
        assert!(!error.to_string().contains("secret"));
        assert!(error.to_string().contains("not supported by this build"));
        let error = local_path("file://u:secret@host/x").unwrap_err();
        assert!(!error.to_string().contains("secret"), "{error}");
        assert_eq!(local_path(""), Err(AddressError::Empty));
        assert!(matches!(
            local_path("file://other/srv"),
            Err(AddressError::ForeignHost { .. })
        ));
        for bad in [
            "file://",
            "file://localhost",
            "file:///a%0",
            "file:///a%00b",
        ] {
            assert!(
                matches!(local_path(bad), Err(AddressError::NotAbsolute { .. })),
                "{bad}"
            );
        }
    }
}
