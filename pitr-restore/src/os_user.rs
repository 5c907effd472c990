//! Users of the operating system, by number.

use std::io;
use std::path::Path;
use std::process::Command;

use crate::lay_down::root::Owner;
use rustix::fs::{Gid, Uid};

/// A user who can own a data directory and run a server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OsUser {
    /// Login name.
    pub(crate) name: String,
    /// User and primary group.
    pub(crate) owner: Owner,
}

impl OsUser {
    /// The user with number `uid`; `None` where nobody has it.
    ///
    /// `/etc/passwd` first, then whatever else the system asks (LDAP, …)
    /// through `getent`, where that is installed.
    pub(crate) fn by_uid(uid: u32) -> Option<Self> {
        let number = uid.to_string();
        let field = |line: &str, n: usize| line.split(':').nth(n).map(str::to_owned);
        let find = |text: &str| {
            text.lines()
                .find(|line| field(line, 2).as_deref() == Some(&number))
                .and_then(|line| {
                    let gid = field(line, 3)?.parse().ok()?;
                    Some(Self {
                        name: field(line, 0)?,
                        owner: Owner {
                            uid: Uid::from_raw(uid),
                            gid: Gid::from_raw(gid),
                        },
                    })
                })
        };
        // u32::MAX is "nobody in particular" to the system calls
        if uid == u32::MAX {
            return None;
        }
        std::fs::read_to_string("/etc/passwd")
            .ok()
            .and_then(|text| find(&text))
            .or_else(|| {
                let output = Command::new("getent")
                    .args(["passwd", &number])
                    .output()
                    .ok()?;
                find(&String::from_utf8_lossy(&output.stdout))
            })
    }

    /// The owner of a file or folder.
    pub(crate) fn owner_of(path: &Path) -> io::Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt as _;
        Ok(Self::by_uid(std::fs::metadata(path)?.uid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_known_and_nobody_has_the_last_number() {
        assert_eq!(OsUser::by_uid(0).unwrap().name, "root");
        assert_eq!(OsUser::by_uid(u32::MAX), None);
        assert_eq!(OsUser::by_uid(4_294_000_123), None);
    }
}
