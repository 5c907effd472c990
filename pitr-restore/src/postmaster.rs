//! `postmaster.pid`: whether a server runs in a data directory, and how to
//! reach it.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::process::Pid;

/// What a running server writes about itself.
///
/// Shape: lines of text; a starting server has written the first ones only.
///
/// Source: src/include/utils/pidfile.h.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PostmasterFile {
    /// Process of the postmaster.
    pub(crate) pid: Pid,
    /// Port, as soon as it is known.
    pub(crate) port: Option<u16>,
    /// First folder with a Unix socket; `None` where there is none or it is
    /// not known yet.
    pub(crate) socket_dir: Option<PathBuf>,
    /// First address it listens on over TCP.
    pub(crate) listen_address: Option<String>,
    /// How far it has come.
    pub(crate) status: Option<PostmasterStatus>,
}

/// Source: `PM_STATUS_*`, src/include/utils/pidfile.h.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PostmasterStatus {
    /// Starting or in recovery, taking no connections yet.
    Starting,
    /// Shutting down.
    Stopping,
    /// Up, as a primary.
    Ready,
    /// Up, in recovery, taking read-only connections.
    Standby,
}

impl PostmasterFile {
    /// Reads `DIR/postmaster.pid`; `None` where there is none, or none whole.
    pub(crate) fn read(data_directory: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(data_directory.join("postmaster.pid")) {
            Ok(bytes) => Ok(Self::parse(&String::from_utf8_lossy(&bytes))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let line = |number: usize| lines.get(number).copied().filter(|line| !line.is_empty());
        // a server in single-user mode writes its number negated
        let pid: i32 = line(0)?.trim_start_matches('-').parse().ok()?;
        Some(Self {
            pid: Pid::from_raw(pid)?,
            port: line(3).and_then(|port| port.parse().ok()),
            socket_dir: line(4).map(PathBuf::from),
            listen_address: line(5).map(str::to_owned),
            status: line(7).and_then(|status| match status {
                "starting" => Some(PostmasterStatus::Starting),
                "stopping" => Some(PostmasterStatus::Stopping),
                "ready" => Some(PostmasterStatus::Ready),
                "standby" => Some(PostmasterStatus::Standby),
                _ => None,
            }),
        })
    }

    /// Whether the process lives. Another user's process does, too; one that
    /// has ended and that nobody has collected does not.
    pub(crate) fn is_alive(&self) -> bool {
        let stat = format!("/proc/{}/stat", self.pid.as_raw_pid());
        if std::fs::read_to_string(stat).is_ok_and(|stat| is_zombie(&stat)) {
            return false;
        }
        match rustix::process::test_kill_process(self.pid) {
            Ok(()) => true,
            Err(error) => error == Errno::PERM,
        }
    }
}

/// The state follows the program's name in parentheses, which may hold
/// anything.
///
/// Source: proc_pid_stat(5).
fn is_zombie(stat: &str) -> bool {
    stat.rsplit_once(')')
        .is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_of_a_running_server_are_understood() {
        let file = PostmasterFile::parse(
            "4711\n/srv/data\n1700000000\n5433\n/run/postgresql\nlocalhost\n  5433 1\nstandby \n",
        )
        .unwrap();
        assert_eq!(file.pid.as_raw_pid(), 4711);
        assert_eq!(file.port, Some(5433));
        assert_eq!(
            file.socket_dir.as_deref(),
            Some(Path::new("/run/postgresql"))
        );
        assert_eq!(file.listen_address.as_deref(), Some("localhost"));
        assert_eq!(file.status, Some(PostmasterStatus::Standby));
    }

    #[test]
    fn a_starting_server_has_written_less() {
        let file = PostmasterFile::parse("4711\n/srv/data\n").unwrap();
        assert_eq!(
            (file.port, file.socket_dir, file.status),
            (None, None, None)
        );
        assert_eq!(PostmasterFile::parse(""), None);
        assert_eq!(PostmasterFile::parse("garbage\n"), None);
        assert_eq!(PostmasterFile::parse("0\n"), None);
    }

    #[test]
    fn this_process_lives_and_one_that_ended_does_not() {
        let alive = PostmasterFile::parse(&format!("{}\n", std::process::id())).unwrap();
        assert!(alive.is_alive());
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let dead = PostmasterFile::parse(&format!("{}\n", child.id())).unwrap();
        child.wait().unwrap();
        assert!(!dead.is_alive());
        assert!(is_zombie("4711 (a) R (b) Z 1 2"));
        assert!(!is_zombie("4711 (Z) S 1 2"));
    }
}
