//! The server that segments are fetched ahead for.

use pitr_postgres::DataDirectory;
use rustix::process::Pid;

use crate::postmaster::PostmasterFile;

/// Its signal files: either makes it recover, and both go when it has.
///
/// Source: `readRecoverySignalFile` and `StartupXLOG`, src/backend/access/transam/.
const SIGNALS: [&str; 2] = ["recovery.signal", "standby.signal"];

/// One run of the server in a data directory.
#[derive(Debug)]
pub(crate) struct Consumer {
    directory: DataDirectory,
    /// Its process; `None` while it has not been started.
    postmaster: Option<Pid>,
}

impl Consumer {
    /// The server that is going to be started in `directory`.
    pub(crate) fn awaited(directory: DataDirectory) -> Self {
        Self {
            directory,
            postmaster: None,
        }
    }

    /// The server that runs in `directory`; `None` where none does.
    pub(crate) fn running(directory: DataDirectory) -> Option<Self> {
        let mut consumer = Self::awaited(directory);
        (consumer.is_there() && consumer.has_begun()).then_some(consumer)
    }

    /// Whether it has been started.
    pub(crate) fn has_begun(&self) -> bool {
        self.postmaster.is_some()
    }

    /// Whether it still recovers, or may be going to. A server that ended is
    /// gone for good: another one in the same directory is another consumer.
    pub(crate) fn is_there(&mut self) -> bool {
        let found = PostmasterFile::read(self.directory.path()).ok().flatten();
        let is_there = match (self.postmaster, found) {
            (None, None) => true,
            (Some(_), None) => false,
            (Some(pid), Some(file)) => file.pid == pid && file.is_alive(),
            (None, Some(file)) => {
                let is_alive = file.is_alive();
                self.postmaster = is_alive.then_some(file.pid);
                // else an earlier one left it
                true
            }
        };
        is_there
            && SIGNALS
                .iter()
                .any(|name| self.directory.join(name).exists())
    }

    /// Whether a process can be left behind beside the server: it runs, and the
    /// orphans of its machine are not brought up by itself. As the first process
    /// of a container it is given them, and up to 17 it takes the violent death of
    /// a process that it does not know for the crash of one of its own.
    ///
    /// Source: `reaper` and `CleanupBackend`, src/backend/postmaster/postmaster.c.
    pub(crate) fn allows_company(directory: &DataDirectory) -> bool {
        PostmasterFile::read(directory.path())
            .ok()
            .flatten()
            .is_some_and(|file| file.pid.as_raw_pid() > 1 && file.is_alive())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory() -> (tempfile::TempDir, DataDirectory) {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("recovery.signal"), "").unwrap();
        let directory = DataDirectory::new(dir.path());
        (dir, directory)
    }

    fn run_as(directory: &DataDirectory, pid: u32) {
        std::fs::write(directory.join("postmaster.pid"), format!("{pid}\n")).unwrap();
    }

    #[test]
    fn it_is_waited_for_and_gone_when_it_has_ended() {
        let (_dir, directory) = directory();
        let mut consumer = Consumer::awaited(directory.clone());
        assert!(consumer.is_there() && !consumer.has_begun());
        run_as(&directory, std::process::id());
        assert!(consumer.is_there() && consumer.has_begun());
        std::fs::remove_file(directory.join("postmaster.pid")).unwrap();
        assert!(!consumer.is_there());
    }

    #[test]
    fn another_server_is_another_consumer() {
        let (_dir, directory) = directory();
        run_as(&directory, std::process::id());
        let mut consumer = Consumer::awaited(directory.clone());
        assert!(consumer.is_there());
        run_as(&directory, 1);
        assert!(!consumer.is_there());
    }

    #[test]
    fn a_server_that_was_killed_is_gone() {
        let (_dir, directory) = directory();
        let mut server = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        run_as(&directory, server.id());
        let mut consumer = Consumer::awaited(directory.clone());
        assert!(consumer.is_there() && consumer.has_begun());
        server.kill().unwrap();
        server.wait().unwrap();
        assert!(!consumer.is_there());
        assert!(!Consumer::allows_company(&directory));
    }

    #[test]
    fn the_end_of_recovery_ends_it() {
        let (_dir, directory) = directory();
        assert!(Consumer::running(directory.clone()).is_none());
        run_as(&directory, std::process::id());
        let mut consumer = Consumer::running(directory.clone()).unwrap();
        assert!(consumer.is_there());
        std::fs::remove_file(directory.join("recovery.signal")).unwrap();
        assert!(!consumer.is_there());
        std::fs::write(directory.join("standby.signal"), "").unwrap();
        assert!(consumer.is_there());
    }

    #[test]
    fn nothing_is_left_behind_where_the_server_is_the_first_process() {
        let (_dir, directory) = directory();
        assert!(!Consumer::allows_company(&directory));
        run_as(&directory, 1);
        assert!(!Consumer::allows_company(&directory));
        run_as(&directory, std::process::id());
        assert!(Consumer::allows_company(&directory));
    }
}
