//! How a base backup behaves beside the server that it is taken of.

/// Lets this process, and every thread that it starts from now on, step back
/// behind others by `nice` (0 to 19).
///
/// Schedulers of disks that know priorities derive them from it as well: 10
/// makes best-effort level 6 of 7 (ioprio_set(2)). A system that refuses is none
/// the worse: the backup then takes its turn like everybody else.
pub(crate) fn step_back(nice: u8) {
    if nice > 0 {
        let _ = rustix::process::nice(i32::from(nice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Niceness of this thread: field 19 of stat, 16 after the name's bracket.
    fn niceness() -> i32 {
        let stat = std::fs::read_to_string("/proc/thread-self/stat").unwrap();
        let (_, rest) = stat.rsplit_once(')').unwrap();
        rest.split_whitespace().nth(16).unwrap().parse().unwrap()
    }

    #[test]
    fn every_thread_started_afterwards_steps_back_as_well() {
        // a thread of its own: nothing gives the niceness of this one back
        let stepping = std::thread::spawn(|| {
            let before = niceness();
            step_back(0);
            assert_eq!(niceness(), before);
            step_back(3);
            let inherited = std::thread::spawn(niceness).join().unwrap();
            (before, niceness(), inherited)
        });
        let (before, after, inherited) = stepping.join().unwrap();
        assert_eq!(after, (before + 3).min(19));
        assert_eq!(inherited, after);
    }
}
