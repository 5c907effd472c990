//! What the surroundings of the process say about a connection.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::PathBuf;
use std::{env, fs, process};

/// The surroundings that libpq looks at: variables, the user, the home folder.
///
/// Handed in, so that the rules of [`crate::ConnectOptions::resolve`] can be
/// tried without touching the process. A map of variables is one, without a
/// user; its home is its `HOME`.
pub trait Environment {
    /// An environment variable; `None` if it is not set.
    fn variable(&self, name: &str) -> Option<OsString>;

    /// Login name of the operating system's user, by the effective user id.
    fn user_name(&self) -> Option<String>;

    /// Home folder: `HOME`, else what the user database says.
    fn home(&self) -> Option<PathBuf>;
}

/// The real surroundings of this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessEnvironment;

impl Environment for ProcessEnvironment {
    fn variable(&self, name: &str) -> Option<OsString> {
        env::var_os(name)
    }

    fn user_name(&self) -> Option<String> {
        passwd_entry().map(|entry| entry.name).or_else(|| {
            // a user who is known to LDAP and the like only
            let output = process::Command::new("id").arg("-un").output().ok()?;
            let name = String::from_utf8(output.stdout).ok()?.trim().to_owned();
            (output.status.success() && !name.is_empty()).then_some(name)
        })
    }

    fn home(&self) -> Option<PathBuf> {
        env::var_os("HOME")
            .filter(|home| !home.is_empty())
            .map(PathBuf::from)
            .or_else(|| passwd_entry().map(|entry| entry.home))
    }
}

impl Environment for BTreeMap<String, String> {
    fn variable(&self, name: &str) -> Option<OsString> {
        self.get(name).map(OsString::from)
    }

    fn user_name(&self) -> Option<String> {
        None
    }

    fn home(&self) -> Option<PathBuf> {
        self.get("HOME").map(PathBuf::from)
    }
}

struct PasswdEntry {
    name: String,
    home: PathBuf,
}

/// Our line of `/etc/passwd`: the standard library has no way to ask for it without unsafe code.
fn passwd_entry() -> Option<PasswdEntry> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let text = fs::read(PathBuf::from("/etc/passwd")).ok()?;
    String::from_utf8_lossy(&text).lines().find_map(|line| {
        let fields: Vec<&str> = line.split(':').collect();
        match fields.as_slice() {
            [name, _, number, _, _, home, ..] if *number == uid => Some(PasswdEntry {
                name: (*name).to_owned(),
                home: PathBuf::from(home),
            }),
            _ => None,
        }
    })
}
