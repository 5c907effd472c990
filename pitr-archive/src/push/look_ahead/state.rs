//! Where what is kept between two calls lies.

use std::path::{Path, PathBuf};

use pitr_console::Console;
use pitr_core::WalFileName;
use pitr_postgres::DataDirectory;

/// Made by an administrator for the user that archives, where there is no home.
const SYSTEM_DIRECTORY: &str = "/var/lib/pitr";

/// The flag, else the setting, else `$XDG_STATE_HOME/pitr`, `/var/lib/pitr` if that is
/// there and this user's, or `~/.local/state/pitr`. `None` if there is no such place.
pub(super) fn directory(flag: Option<&Path>, setting: Option<&Path>) -> Option<PathBuf> {
    if let Some(named) = flag.or(setting) {
        // typed by a person, who means a place below the one he is in
        return std::path::absolute(named).ok();
    }
    let state_home = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    if let Some(state_home) = state_home.filter(|path| path.is_absolute()) {
        return Some(state_home.join("pitr"));
    }
    let system = Path::new(SYSTEM_DIRECTORY);
    if rustix::fs::access(system, rustix::fs::Access::WRITE_OK).is_ok() {
        return Some(system.to_owned());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let home = home.filter(|home| home.is_absolute()).or_else(|| {
        // a server that was started with an empty environment
        let users = std::fs::read_to_string("/etc/passwd").ok()?;
        home_of(&users, rustix::process::geteuid().as_raw())
    })?;
    Some(home.join(".local/state/pitr"))
}

/// By the system's own list alone: asking further services would open sockets.
///
/// Source: passwd(5).
fn home_of(users: &str, user_id: u32) -> Option<PathBuf> {
    let entry = users.lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        let is_user = fields.get(2)?.parse() == Ok(user_id);
        is_user.then(|| fields.get(5).map(PathBuf::from))
    });
    entry.flatten().filter(|home| home.is_absolute())
}

/// Refuses a folder in the data directory that holds `path`: base backups and
/// `pg_rewind` would carry it to other servers.
pub(super) fn check_outside_of_data_directory(path: &Path, folder: &Path) -> Result<(), String> {
    let Some(data) = DataDirectory::above_wal_file(path) else {
        return Ok(());
    };
    let Ok(data) = data.path().canonicalize() else {
        return Ok(());
    };
    // what is not made yet lies where the nearest folder above it lies
    let nearest = folder
        .ancestors()
        .find_map(|folder| folder.canonicalize().ok());
    if nearest.is_some_and(|nearest| nearest.starts_with(&data)) {
        return Err(format!(
            "\"{}\" lies in the data directory \"{}\"",
            folder.display(),
            data.display()
        ));
    }
    Ok(())
}

/// Says why files are archived one by one.
pub(super) fn tell(why: &str, console: Console) {
    console.warn(
        "files that are ready are archived one by one, and not several at the same time",
        Some(&format!("{why}.")),
        Some(
            "Name a directory outside of the data directory with --state or state = \"…\", \
             or turn this off with look_ahead = 0.",
        ),
    );
}

/// Whether this is one of 256 segments: often enough for what is worth to be said now
/// and then.
pub(super) fn is_first_of_many(name: &WalFileName) -> bool {
    name.segment()
        .is_some_and(|segment| segment.to_string().ends_with("00"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_found_without_an_environment() {
        let users = "root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\n\
                     postgres:x:101:104:PostgreSQL,,,:/var/lib/postgresql:/bin/bash\n\
                     nowhere:x:7:7:::\n";
        assert_eq!(home_of(users, 101), Some("/var/lib/postgresql".into()));
        assert_eq!(home_of(users, 0), Some("/root".into()));
        assert_eq!(home_of(users, 7), None);
        assert_eq!(home_of(users, 8), None);
    }
}
