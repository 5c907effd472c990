//! Running programs for a test, and ending a server with all that it started.

use std::fs;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::TestbedError;

/// Runs to the end; anything but exit status 0 is an error with its stderr.
pub(crate) fn run(mut command: Command) -> Result<Output, TestbedError> {
    command.stdin(Stdio::null());
    let program = describe(&command);
    let output = command.output().map_err(|source| TestbedError::Spawn {
        program: program.clone(),
        source,
    })?;
    check(program, output)
}

pub(crate) fn check(program: String, output: Output) -> Result<Output, TestbedError> {
    if output.status.success() {
        return Ok(output);
    }
    Err(TestbedError::Failed {
        program,
        status: output.status.to_string(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

pub(crate) fn describe(command: &Command) -> String {
    let mut words = vec![command.get_program().to_string_lossy().into_owned()];
    words.extend(
        command
            .get_args()
            .map(|word| word.to_string_lossy().into_owned()),
    );
    words.join(" ")
}

/// Kills `root` and every descendant of it with SIGKILL, and waits until they are gone.
///
/// `root` is stopped first, so that it cannot start a process that we miss.
/// A server's children are leaders of sessions of their own: the process
/// group of the postmaster does not reach them.
pub(crate) fn kill_tree(root: Pid) {
    let _ = kill_process(root, Signal::STOP);
    let mut doomed = vec![root];
    let mut next = 0;
    while let Some(&parent) = doomed.get(next) {
        doomed.extend(children(parent));
        next += 1;
    }
    for &pid in &doomed {
        let _ = kill_process(pid, Signal::KILL);
    }
    wait(Duration::from_secs(10), || {
        !doomed.iter().any(|&pid| is_alive(pid))
    });
}

/// Waits until the parent of a dead process has collected it; gives whether it did.
///
/// Until then a new server takes the number in `postmaster.pid` for a living
/// one. Process 1 of a container may take a second for it, or never do it.
pub(crate) fn wait_until_collected(pid: Pid) -> bool {
    wait(Duration::from_secs(3), || {
        stat(pid.as_raw_nonzero().get()).is_none()
    })
}

fn wait(limit: Duration, done: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    while !done() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// A zombie counts as dead: its new parent may never collect it.
pub(crate) fn is_alive(pid: Pid) -> bool {
    matches!(stat(pid.as_raw_nonzero().get()), Some((state, _)) if state != 'Z' && state != 'X')
}

fn children(parent: Pid) -> Vec<Pid> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|&pid| stat(pid).is_some_and(|(_, ppid)| ppid == parent.as_raw_nonzero().get()))
        .filter_map(Pid::from_raw)
        .collect()
}

/// State letter and parent of a process, from `/proc/PID/stat`.
///
/// The second field is the program's name in parentheses and may hold spaces
/// and parentheses itself, so the fields are counted from the last one.
fn stat(pid: i32) -> Option<(char, i32)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    let parent = fields.next()?.parse().ok()?;
    Some((state, parent))
}
