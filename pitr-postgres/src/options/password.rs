//! Passwords, and the file they are kept in.

use std::fmt;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use super::OptionsWarning;

/// A password: any bytes but NUL. Never shown, not even by `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(Vec<u8>);

impl Password {
    /// Keeps `bytes` as a password.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(hidden)")
    }
}

/// Where a password came from, for messages about one that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PasswordOrigin {
    /// The connection string.
    ConnectionString,
    /// An entry of a service file.
    Service(PathBuf),
    /// An environment variable.
    Variable(&'static str),
    /// A line of a password file.
    File(PathBuf),
}

impl fmt::Display for PasswordOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ConnectionString => f.write_str("the connection string"),
            Self::Service(path) => write!(f, "the service file \"{}\"", path.display()),
            Self::Variable(name) => write!(f, "the environment variable {name}"),
            Self::File(path) => write!(f, "the password file \"{}\"", path.display()),
        }
    }
}

/// A password file that may be used, as bytes.
#[derive(Clone)]
pub(crate) struct PasswordFile {
    pub(crate) path: PathBuf,
    content: Vec<u8>,
}

impl PasswordFile {
    /// Reads a password file if it is there and private.
    ///
    /// Like libpq, one that is open to the group or to others, or is no plain
    /// file, is left aside with a warning; one that is missing without.
    ///
    /// Source: `passwordFromFile`, src/interfaces/libpq/fe-connect.c.
    pub(crate) fn read(path: &Path, warnings: &mut Vec<OptionsWarning>) -> Option<Self> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) => {
                if !matches!(
                    error.kind(),
                    ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied
                ) {
                    warnings.push(OptionsWarning::PasswordFileUnreadable {
                        path: path.to_owned(),
                        reason: error.to_string(),
                    });
                }
                return None;
            }
        };
        if !metadata.is_file() {
            warnings.push(OptionsWarning::PasswordFileNotPlain {
                path: path.to_owned(),
            });
            return None;
        }
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            warnings.push(OptionsWarning::PasswordFileNotPrivate {
                path: path.to_owned(),
                mode,
            });
            return None;
        }
        match fs::read(path) {
            Ok(content) => Some(Self {
                path: path.to_owned(),
                content,
            }),
            Err(error) => {
                warnings.push(OptionsWarning::PasswordFileUnreadable {
                    path: path.to_owned(),
                    reason: error.to_string(),
                });
                None
            }
        }
    }

    /// Password of the first line that fits.
    pub(crate) fn find(
        &self,
        host: &str,
        port: u16,
        database: &str,
        user: &str,
    ) -> Option<Password> {
        let port = port.to_string();
        let wanted = [host, &port, database, user].map(str::as_bytes);
        self.content
            .split(|&byte| byte == b'\n')
            .find_map(|line| password_of_line(line, wanted))
    }
}

/// The password of a line `host:port:database:user:password` that fits.
///
/// A field `*` fits everything; a backslash takes the meaning from the colon
/// or backslash behind it. A line beginning with `#` is a comment.
fn password_of_line(line: &[u8], wanted: [&[u8]; 4]) -> Option<Password> {
    let mut rest = line.strip_suffix(b"\r").unwrap_or(line);
    if rest.starts_with(b"#") {
        return None;
    }
    for value in wanted {
        let (raw, field, behind) = take_field(rest);
        // the colon behind the field must be there
        rest = behind?;
        if raw != b"*" && field != value {
            return None;
        }
    }
    let (_, password, _) = take_field(rest);
    Some(Password::new(password))
}

/// Up to an unescaped colon: as it stands, without escapes, and what follows the colon.
fn take_field(text: &[u8]) -> (&[u8], Vec<u8>, Option<&[u8]>) {
    let mut field = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b':' => return (&text[..at], field, Some(&text[at + 1..])),
            b'\\' if at + 1 < text.len() => {
                field.push(text[at + 1]);
                at += 2;
            }
            _ => {
                field.push(byte);
                at += 1;
            }
        }
    }
    (text, field, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(content: &str) -> PasswordFile {
        PasswordFile {
            path: PathBuf::from("/x"),
            content: content.as_bytes().to_vec(),
        }
    }

    fn found(content: &str) -> Option<String> {
        file(content)
            .find("db.example", 5432, "app", "u:1")
            .map(|password| String::from_utf8(password.0).unwrap())
    }

    #[test]
    fn the_first_line_that_fits_counts() {
        let text = "# comment\n\
                    other:5432:app:u\\:1:no\n\
                    db.example:5433:app:u\\:1:no\n\
                    db.example:*:*:u\\:1:first\n\
                    db.example:5432:app:u\\:1:second\n";
        assert_eq!(found(text).unwrap(), "first");
        assert_eq!(found("*:*:*:*:any").unwrap(), "any");
        assert_eq!(found("*:*:*:*"), None);
        assert_eq!(found(""), None);
    }

    #[test]
    fn escapes_are_undone_and_an_escaped_star_is_a_star() {
        assert_eq!(found(r"*:*:*:*:a\:b\\c:rest").unwrap(), r"a:b\c");
        assert_eq!(found(r"\*:*:*:*:x"), None);
        assert_eq!(found("*:*:*:*:crlf\r\n").unwrap(), "crlf");
        assert_eq!(found(r"*:*:*:*:end\").unwrap(), r"end\");
    }

    #[test]
    fn a_file_that_others_can_read_is_left_aside_with_a_warning() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pgpass");
        fs::write(&path, "*:*:*:*:secret").unwrap();
        for (mode, usable) in [(0o600, true), (0o400, true), (0o640, false), (0o604, false)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let mut warnings = Vec::new();
            assert_eq!(PasswordFile::read(&path, &mut warnings).is_some(), usable);
            assert_eq!(warnings.is_empty(), usable);
        }
        let mut warnings = Vec::new();
        assert!(PasswordFile::read(folder.path(), &mut warnings).is_none());
        assert!(warnings[0].to_string().contains("not a plain file"));
        warnings.clear();
        assert!(PasswordFile::read(&folder.path().join("none"), &mut warnings).is_none());
        assert!(warnings.is_empty());
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(!format!("{:?}", Password::new("hunter2")).contains("hunter2"));
    }
}
