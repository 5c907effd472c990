//! What the server wrote into its log since it was started.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

/// Most bytes of a log that are looked at: its end is what counts.
const MAX_BYTES: u64 = 256 << 10;
/// Lines that are shown where none of them says why.
const TAIL_LINES: usize = 10;

/// The files that a server in `data_directory` writes its messages to: that of
/// `pg_ctl`, and that of the logging collector where it runs.
///
/// A base backup holds the log of the original and `current_logfiles`, which
/// names it: what that server said is nothing that this one says, so whatever
/// was there before the start is passed over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerLog {
    data_directory: PathBuf,
    started_with: PathBuf,
    /// Lengths of the collector's files before the start.
    before: BTreeMap<PathBuf, u64>,
}

impl ServerLog {
    /// To be called before the server is started.
    pub(crate) fn new(data_directory: &Path, started_with: PathBuf) -> Self {
        let mut folders = vec![data_directory.join("log")];
        folders.extend(
            collector_file(data_directory)
                .as_deref()
                .and_then(Path::parent)
                .map(Path::to_owned),
        );
        let before = folders
            .iter()
            .filter_map(|folder| std::fs::read_dir(folder).ok())
            .flatten()
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                let length = std::fs::metadata(&path).ok()?.len();
                Some((path, length))
            })
            .collect();
        Self {
            data_directory: data_directory.to_owned(),
            started_with,
            before,
        }
    }

    /// The file to look into: the collector's where it has written anything.
    pub(crate) fn current(&self) -> PathBuf {
        collector_file(&self.data_directory)
            .filter(|path| {
                let length = std::fs::metadata(path).map_or(0, |file| file.len());
                self.before.get(path) != Some(&length)
            })
            .unwrap_or_else(|| self.started_with.clone())
    }

    /// Why the server ended, in its own words.
    pub(crate) fn last_words(&self) -> String {
        let mut files = vec![self.current()];
        if files.first() != Some(&self.started_with) {
            files.push(self.started_with.clone());
        }
        let ends: Vec<String> = files.iter().map(|file| self.end_of(file)).collect();
        ends.iter()
            .find_map(|end| fatal_lines(end))
            .unwrap_or_else(|| {
                ends.iter()
                    .find(|end| !end.trim().is_empty())
                    .map_or_else(|| "its log is empty".to_owned(), |end| tail(end))
            })
    }

    /// Whether the log says `text` since the start.
    pub(crate) fn says(&self, text: &str) -> bool {
        self.end_of(&self.current()).contains(text)
            || self.end_of(&self.started_with).contains(text)
    }

    fn end_of(&self, path: &Path) -> String {
        let read = || -> std::io::Result<Vec<u8>> {
            let mut file = File::open(path)?;
            let length = file.metadata()?.len();
            // a file that was begun anew is this server's from its start
            let before = self.before.get(path).copied().unwrap_or(0);
            let begin = if before <= length { before } else { 0 };
            file.seek(SeekFrom::Start(begin.max(length.saturating_sub(MAX_BYTES))))?;
            let mut bytes = Vec::new();
            file.take(MAX_BYTES).read_to_end(&mut bytes)?;
            Ok(bytes)
        };
        read()
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }
}

/// The file that the logging collector of `data_directory` writes, or wrote.
///
/// Source: `update_metainfo_datafile`, src/backend/postmaster/syslogger.c:
/// lines of `stderr PATH`, `csvlog PATH`, `jsonlog PATH`.
fn collector_file(data_directory: &Path) -> Option<PathBuf> {
    let text = std::fs::read_to_string(data_directory.join("current_logfiles")).ok()?;
    let (_, path) = text.lines().next()?.split_once(' ')?;
    Some(data_directory.join(path))
}

/// The last message of the server's own end, with what follows it.
///
/// Refused connections end with FATAL as well; they say nothing about the
/// server.
fn fatal_lines(log: &str) -> Option<String> {
    let lines: Vec<&str> = log.lines().collect();
    let ours = |line: &str| {
        (line.contains("FATAL:") || line.contains("PANIC:"))
            && !line.contains("the database system is")
            && !line.contains("terminating connection")
    };
    let last = lines.iter().rposition(|line| ours(line))?;
    let belongs = |line: &&&str| {
        line.starts_with('\t')
            || ["DETAIL:", "HINT:", "CONTEXT:"]
                .iter()
                .any(|word| line.contains(word))
    };
    let more = lines[last + 1..].iter().take_while(belongs).count();
    let first = last - hook_lines(&lines[..last]);
    let text: Vec<&str> = lines[first..=last + more]
        .iter()
        .map(|line| line.trim_start())
        .collect();
    Some(text.join("\n"))
}

/// How many lines at the end of `lines` are what the restore hook said, on
/// whose account the server ended: they stand there without a prefix.
fn hook_lines(lines: &[&str]) -> usize {
    let words = ["ERROR:", "DETAIL:", "HINT:", "\t"];
    lines
        .iter()
        .rev()
        .take_while(|line| words.iter().any(|word| line.starts_with(word)))
        .count()
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOG: &str = "\
2026-11-20 08:00:00 UTC [1] LOG:  starting PostgreSQL 15.14\n\
2026-11-20 08:00:01 UTC [9] FATAL:  the database system is starting up\n\
2026-11-20 08:00:02 UTC [5] FATAL:  recovery ended before configured recovery target was reached\n\
2026-11-20 08:00:02 UTC [5] HINT:  somewhere else\n\
2026-11-20 08:00:02 UTC [1] LOG:  startup process (PID 5) exited with exit code 1\n\
2026-11-20 08:00:03 UTC [1] LOG:  database system is shut down\n";

    #[test]
    fn the_reason_is_found_among_refused_connections() {
        let text = fatal_lines(LOG).unwrap();
        assert!(
            text.starts_with("2026-11-20 08:00:02 UTC [5] FATAL:  recovery ended"),
            "{text}"
        );
        assert!(text.ends_with("HINT:  somewhere else"), "{text}");
    }

    #[test]
    fn what_the_hook_said_is_told_as_well() {
        let log = "2026-11-20 08:00:01 UTC [5] LOG:  redo starts at 0/2000028\n\
            ERROR:  segment X is damaged\nHINT:  Put an intact copy\n\tin its place.\n\
            2026-11-20 08:00:02 UTC [5] FATAL:  could not restore file \"X\" from archive\n";
        let text = fatal_lines(log).unwrap();
        assert!(
            text.starts_with("ERROR:  segment X is damaged\nHINT:"),
            "{text}"
        );
        assert!(text.ends_with("from archive"), "{text}");
    }

    #[test]
    fn the_collectors_file_wins_where_it_runs() {
        let dir = tempfile::tempdir().unwrap();
        let started = dir.path().join("start.log");
        std::fs::write(&started, "LOG:  redirecting\n").unwrap();
        let log = ServerLog::new(dir.path(), started.clone());
        assert_eq!(log.current(), started);
        assert_eq!(log.last_words(), "LOG:  redirecting");
        std::fs::create_dir(dir.path().join("log")).unwrap();
        std::fs::write(dir.path().join("log/pg.log"), LOG).unwrap();
        std::fs::write(dir.path().join("current_logfiles"), "stderr log/pg.log\n").unwrap();
        assert!(log.last_words().contains("recovery ended"));
        assert!(log.says("redirecting"));
    }

    #[test]
    fn what_the_original_said_is_not_said_by_the_copy() {
        use std::io::Write as _;
        let dir = tempfile::tempdir().unwrap();
        let started = dir.path().join("start.log");
        let file = dir.path().join("elsewhere/pg-Fri.log");
        std::fs::create_dir(dir.path().join("elsewhere")).unwrap();
        std::fs::write(&file, LOG).unwrap();
        std::fs::write(
            dir.path().join("current_logfiles"),
            "stderr elsewhere/pg-Fri.log\n",
        )
        .unwrap();
        let log = ServerLog::new(dir.path(), started.clone());
        assert_eq!(log.current(), started);
        assert!(!log.says("FATAL:"));
        assert_eq!(log.last_words(), "its log is empty");
        // the copy goes on in the same file
        let mut open = std::fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .unwrap();
        open.write_all(b"[7] FATAL:  no space\n").unwrap();
        assert_eq!(log.current(), file);
        assert_eq!(log.last_words(), "[7] FATAL:  no space");
        assert!(!log.says("recovery ended"));
        // or begins it anew
        std::fs::write(&file, "[8] LOG:  hello\n").unwrap();
        assert!(log.says("hello"));
    }
}
