//! Files that hold a password, a passphrase or a key.

use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::ServerError;

const MAX_SECRET_BYTES: u64 = 1 << 20;

/// Reads a secret file that only its owner (or, where that is root, its group
/// too) may read.
///
/// # Errors
/// `Ok(None)` if there is no such file; `Credentials` if it cannot be read, or
/// others can.
pub(crate) fn read_secret_file(path: &Path, what: &str) -> Result<Option<String>, ServerError> {
    let failed = |reason: String, hint: String| ServerError::Credentials {
        problem: format!("could not use {what} \"{}\": {reason}", path.display()),
        hint,
    };
    let unreadable = |e: std::io::Error| {
        failed(
            e.to_string(),
            "The user that runs this command must be able to read it.".to_owned(),
        )
    };
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unreadable(e)),
    };
    let meta = file.metadata().map_err(unreadable)?;
    let allowed = if meta.uid() == 0 { 0o640 } else { 0o600 };
    if meta.is_file() && meta.mode() & 0o777 & !allowed & 0o077 != 0 {
        return Err(failed(
            format!("others may read it (mode {:04o})", meta.mode() & 0o7777),
            format!("chmod 600 {}", path.display()),
        ));
    }
    let mut text = String::new();
    file.take(MAX_SECRET_BYTES)
        .read_to_string(&mut text)
        .map_err(unreadable)?;
    Ok(Some(text))
}

/// The secret that `file` names in its first line, else that of the variable.
///
/// # Errors
/// A file that was named is not there, or as [`read_secret_file`].
pub(crate) fn secret(
    file: Option<&Path>,
    variable: &str,
    what: &str,
) -> Result<Option<String>, ServerError> {
    let Some(path) = file else {
        return Ok(std::env::var(variable).ok().filter(|text| !text.is_empty()));
    };
    match read_secret_file(path, what)? {
        Some(text) => Ok(Some(text.lines().next().unwrap_or_default().to_owned())),
        None => Err(ServerError::Credentials {
            problem: format!("{what} \"{}\" does not exist", path.display()),
            hint: "Correct its path in the configuration file.".to_owned(),
        }),
    }
}

/// The name of the user who runs this process.
pub(crate) fn login_name() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
        .find(|fields| fields.get(2) == Some(&uid.as_str()))
        .and_then(|fields| fields.first().map(|name| (*name).to_owned()))
        .or_else(|| std::env::var("USER").ok())
        .filter(|name| !name.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_secret_that_others_can_read_is_refused_and_not_shown() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        std::fs::write(&path, "hunter2\nrest").unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o604)).unwrap();
        let error = secret(Some(&path), "NONE", "password file").unwrap_err();
        assert!(!format!("{error}{error:?}").contains("hunter2"));
        assert!(error.hint().unwrap().contains("chmod 600"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        let read = secret(Some(&path), "NONE", "password file").unwrap();
        assert_eq!(read.as_deref(), Some("hunter2"));
        assert!(secret(Some(&dir.path().join("gone")), "NONE", "password file").is_err());
    }
}
