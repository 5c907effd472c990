//! A process of its own for what is fetched ahead.

use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::Mode;

/// How far it steps back behind the server and its sessions.
const NICE: i32 = 5;

/// Starts it as the hook was started, and does not wait for it. Where that
/// fails, the next segment is fetched when it is asked for.
pub(crate) fn spawn(words: impl Iterator<Item = OsString>) {
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut command = Command::new(program);
    command
        .arg("--fetch-ahead=after")
        .args(words)
        .stdin(Stdio::null())
        // an open end of the server's log would keep its collector waiting
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let _ = command.spawn();
}

/// Lets go of whatever belongs to the server: its session, since a shutdown is
/// signalled to the whole group of the process that runs `restore_command`; and
/// files that it had open, which up to 15 its commands inherit: a table that is
/// dropped would keep its place on the disk.
///
/// Source: `signal_child`, src/backend/postmaster/postmaster.c;
/// `BasicOpenFilePerm`, src/backend/storage/file/fd.c.
pub(crate) fn stand_apart() {
    let _ = rustix::process::setsid();
    let _ = rustix::process::nice(NICE);
    rustix::process::umask(Mode::from_raw_mode(0o077));
    for number in inherited_files() {
        let _ = nix::unistd::close(number);
    }
}

/// Everything but standard input, output and error.
fn inherited_files() -> Vec<i32> {
    let Ok(entries) = std::fs::read_dir(Path::new("/proc/self/fd")) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect()
}
