//! Programs that are run for a rescue, and end with it.

use std::io;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicI32, Ordering};

use rustix::process::{Pid, Signal};

/// The program that runs now; 0 where none does.
static RUNNING: AtomicI32 = AtomicI32::new(0);

/// Runs a program to its end; what it says is kept where the command says so.
pub(crate) fn run(command: &mut Command) -> io::Result<Output> {
    let child = command.spawn()?;
    RUNNING.store(i32::try_from(child.id()).unwrap_or(0), Ordering::SeqCst);
    let output = child.wait_with_output();
    RUNNING.store(0, Ordering::SeqCst);
    output
}

/// Ends the program that runs now: one that loads must not go on alone.
pub(crate) fn end() {
    if let Some(pid) = Pid::from_raw(RUNNING.load(Ordering::SeqCst)) {
        // it may have ended by itself
        let _ = rustix::process::kill_process(pid, Signal::TERM);
    }
}
