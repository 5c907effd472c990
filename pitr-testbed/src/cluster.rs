//! A scratch server: starting, stopping, killing, asking.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::builder::{ClusterBuilder, push_setting};
use crate::install::clean_environment;
use crate::{PostgresInstall, TestDir, TestbedError, chown_to_server_user, process};

/// How a server is stopped: the three modes of `pg_ctl stop`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits for the clients.
    Smart,
    /// Disconnects the clients, writes a shutdown checkpoint.
    Fast,
    /// Ends at once; recovery follows at the next start.
    Immediate,
}

impl StopMode {
    fn as_str(self) -> &'static str {
        match self {
            Self::Smart => "smart",
            Self::Fast => "fast",
            Self::Immediate => "immediate",
        }
    }
}

/// A scratch cluster and, between start and stop, its server.
///
/// Dropping it ends the server and removes the files. It keeps nothing open
/// between calls, so a test may do to the files and the server what it likes.
#[derive(Debug)]
pub struct Cluster {
    install: PostgresInstall,
    dir: TestDir,
    data: PathBuf,
    port: u16,
}

impl Cluster {
    /// Begins a new cluster of this major.
    #[must_use]
    pub fn builder(install: &PostgresInstall) -> ClusterBuilder {
        ClusterBuilder::new(install)
    }

    /// Takes over a data directory that something else laid down, e.g. a restored one.
    ///
    /// The folder is given to the server's user. The server will listen on a
    /// socket of its own, whatever the configuration in it says, and not on
    /// TCP; it is not started yet. On drop it is ended, and `data` is left there.
    ///
    /// # Errors
    /// [`TestbedError::File`] if the folder cannot be given away.
    pub fn adopt(
        install: &PostgresInstall,
        data: impl Into<PathBuf>,
    ) -> Result<Self, TestbedError> {
        let data = data.into();
        chown_to_server_user(&data)?;
        let cluster = Self::over(install.clone(), TestDir::new()?, data, 5432);
        Ok(cluster)
    }

    pub(crate) fn over(install: PostgresInstall, dir: TestDir, data: PathBuf, port: u16) -> Self {
        Self {
            install,
            dir,
            data,
            port,
        }
    }

    /// The installation that it runs on.
    #[must_use]
    pub fn install(&self) -> &PostgresInstall {
        &self.install
    }

    /// The data directory.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data
    }

    /// A folder beside the data directory, owned by the server's user, removed with the cluster.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// Folder of the Unix socket: the host to connect to.
    #[must_use]
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// Port of the socket, and of TCP where the builder asked for that.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Connection string for the superuser over the Unix socket.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!(
            "host={} port={} user=postgres dbname=postgres",
            self.socket_dir().display(),
            self.port
        )
    }

    /// Everything that the server has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read(self.log_path())
            .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
            .unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.dir.join("server.log")
    }

    fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(40)..].join("\n")
    }

    /// Appends a setting to `postgresql.conf`, above whose other lines it wins. See [`Cluster::reload`].
    ///
    /// # Errors
    /// [`TestbedError::File`] if the file cannot be written.
    pub fn configure(&self, name: &str, value: &str) -> Result<(), TestbedError> {
        let mut text = String::new();
        push_setting(&mut text, name, value);
        self.append_configuration(&text)
    }

    pub(crate) fn append_configuration(&self, text: &str) -> Result<(), TestbedError> {
        let path = self.data.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .map_err(TestbedError::file("append to", &path))
    }

    /// Starts the server and waits until it takes connections (a hot standby included).
    ///
    /// # Errors
    /// [`TestbedError::Failed`] with the end of the log if it does not come up within 60 s.
    pub fn start(&mut self) -> Result<(), TestbedError> {
        // on the command line too, for a data directory that was adopted
        let mut options = format!(
            "-c unix_socket_directories='{}' -c port={}",
            self.socket_dir().display(),
            self.port
        );
        if !self.is_our_own() {
            options.push_str(" -c listen_addresses=''");
        }
        self.pg_ctl(&["start", "--wait", "--timeout=60"], |command| {
            command
                .arg("--options")
                .arg(&options)
                .arg("--log")
                .arg(self.log_path());
        })
    }

    fn is_our_own(&self) -> bool {
        self.data.starts_with(self.dir.path())
    }

    /// Stops the server and waits for its end.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] with the end of the log if it does not stop within 60 s.
    pub fn stop(&mut self, mode: StopMode) -> Result<(), TestbedError> {
        self.pg_ctl(
            &["stop", "--wait", "--timeout=60", "--mode", mode.as_str()],
            |_| {},
        )
    }

    /// Fast stop, then start.
    ///
    /// # Errors
    /// Those of [`Cluster::stop`] and [`Cluster::start`].
    pub fn restart(&mut self) -> Result<(), TestbedError> {
        self.stop(StopMode::Fast)?;
        self.start()
    }

    /// Makes the server read its configuration again; the new settings count soon after, not at once.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] if there is no server to tell.
    pub fn reload(&self) -> Result<(), TestbedError> {
        self.pg_ctl(&["reload"], |_| {})
    }

    /// Ends a standby's or a recovery's waiting, and waits until the server is a primary.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] if it is not in recovery, or takes longer than 60 s.
    pub fn promote(&self) -> Result<(), TestbedError> {
        self.pg_ctl(&["promote", "--wait", "--timeout=60"], |_| {})
    }

    fn pg_ctl(&self, words: &[&str], more: impl FnOnce(&mut Command)) -> Result<(), TestbedError> {
        let mut command = self.install.command("pg_ctl")?;
        command.args(words).arg("--pgdata").arg(&self.data);
        more(&mut command);
        // the server inherits what pg_ctl has: a pipe would stay open until the server ends
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let program = process::describe(&command);
        let status = command.status().map_err(|source| TestbedError::Spawn {
            program: program.clone(),
            source,
        })?;
        if status.success() {
            return Ok(());
        }
        Err(TestbedError::Failed {
            program,
            status: status.to_string(),
            stderr: format!("end of the server's log:\n{}", self.log_tail()),
        })
    }

    /// Kills the postmaster and all its children with SIGKILL, as a crash of the machine would.
    ///
    /// Does nothing where no server runs.
    pub fn kill_9(&mut self) {
        let Some(pid) = self.postmaster() else {
            return;
        };
        process::kill_tree(pid);
        if !process::wait_until_collected(pid) {
            // a zombie nobody collects would forbid the next start
            let _ = fs::remove_file(self.data.join("postmaster.pid"));
        }
    }

    /// Whether the postmaster lives.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.postmaster().is_some()
    }

    /// Process of the postmaster, if it lives; from the first line of `postmaster.pid`.
    fn postmaster(&self) -> Option<Pid> {
        let pid: i32 = self.pid_file_line(0)?.parse().ok()?;
        Pid::from_raw(pid).filter(|&pid| process::is_alive(pid))
    }

    fn pid_file_line(&self, number: usize) -> Option<String> {
        let text = fs::read_to_string(self.data.join("postmaster.pid")).ok()?;
        Some(text.lines().nth(number)?.trim().to_owned())
    }

    /// Runs statements in database `postgres` as superuser; gives the rows, columns joined with `|`.
    ///
    /// Every statement is its own transaction unless `sql` says otherwise; the
    /// first error ends it. Lines of psql (`\connect`, `\copy`) work too.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] with what psql said on standard error.
    pub fn psql(&self, sql: &str) -> Result<String, TestbedError> {
        self.psql_in("postgres", sql)
    }

    /// Like [`Cluster::psql`], in another database.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] with what psql said on standard error.
    pub fn psql_in(&self, database: &str, sql: &str) -> Result<String, TestbedError> {
        let mut command = Command::new(self.install.psql());
        clean_environment(&mut command);
        command
            .args(["-X", "-A", "-t", "-q", "-v", "ON_ERROR_STOP=1"])
            .arg("-h")
            .arg(self.socket_dir())
            .args(["-p", &self.port.to_string(), "-U", "postgres"])
            .args(["-d", database, "-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let program = format!("psql: {sql}");
        let failed = |source| TestbedError::Spawn {
            program: program.clone(),
            source,
        };
        let mut child = command.spawn().map_err(failed)?;
        if let Some(mut stdin) = child.stdin.take() {
            let sql = sql.to_owned();
            // a psql that ended at an error reads no further: its exit status tells
            std::thread::spawn(move || {
                let _ = stdin.write_all(sql.as_bytes());
            });
        }
        let output = child.wait_with_output().map_err(failed)?;
        let output = process::check(program, output)?;
        Ok(String::from_utf8_lossy(&output.stdout)
            .trim_end()
            .to_owned())
    }

    /// Like [`Cluster::psql`], for tests that have no use for a failure.
    ///
    /// # Panics
    /// With the message of psql if a statement fails.
    #[track_caller]
    #[must_use]
    pub fn sql(&self, sql: &str) -> String {
        match self.psql(sql) {
            Ok(text) => text,
            Err(error) => panic!("{error}"),
        }
    }

    /// Like [`Cluster::sql`] where the answer does not matter.
    ///
    /// # Panics
    /// With the message of psql if a statement fails.
    #[track_caller]
    pub fn execute(&self, sql: &str) {
        let _ = self.sql(sql);
    }

    /// Waits until `condition` holds, looking 50 times a second.
    ///
    /// # Errors
    /// [`TestbedError::TimedOut`] with `what` and the end of the server's log.
    pub fn wait_until(
        &self,
        what: &str,
        limit: Duration,
        mut condition: impl FnMut(&Self) -> bool,
    ) -> Result<(), TestbedError> {
        let deadline = Instant::now() + limit;
        loop {
            if condition(self) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(TestbedError::TimedOut {
                    what: what.to_owned(),
                    seconds: limit.as_secs(),
                    detail: self.log_tail(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until a query that gives one boolean gives `t`. A failing query counts as not yet.
    ///
    /// # Errors
    /// [`TestbedError::TimedOut`] with the query and the end of the server's log.
    pub fn wait_for_sql(&self, query: &str, limit: Duration) -> Result<(), TestbedError> {
        self.wait_until(query, limit, |cluster| {
            cluster.psql(query).is_ok_and(|answer| answer == "t")
        })
    }

    /// Makes the server archive everything that it has written, and waits for it.
    ///
    /// Gives the last segment that is needed for that.
    ///
    /// # Errors
    /// [`TestbedError::Failed`] of a query, [`TestbedError::TimedOut`].
    pub fn archive_all(&self) -> Result<String, TestbedError> {
        // the switch ends in the segment that is needed; where nothing was
        // written since the last one, that segment is the one before
        let segment = self.psql("SELECT pg_walfile_name(pg_switch_wal() - 1)")?;
        // the name archived last may be that of a .backup file, which sorts
        // behind the segment that it begins with; and the next checkpoint
        // removes the .done file
        let archived = format!(
            "SELECT EXISTS (SELECT FROM pg_ls_archive_statusdir() WHERE name = '{segment}.done') \
             OR (SELECT last_archived_wal = '{segment}' OR left(last_archived_wal, 24) > '{segment}' \
                 FROM pg_stat_archiver)"
        );
        self.wait_for_sql(&archived, Duration::from_secs(120))?;
        Ok(segment)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !self.is_our_own() && self.is_running() && self.stop(StopMode::Immediate).is_ok() {
            return;
        }
        let segment = self.pid_file_line(6);
        if let Some(pid) = self.postmaster() {
            process::kill_tree(pid);
        }
        // A server that was killed leaves the small System V segment by which
        // the next one would see it; nobody will start here again.
        if let Some(id) = segment
            .as_deref()
            .and_then(|line| line.split_whitespace().nth(1))
            && self.is_our_own()
        {
            let _ = Command::new("ipcrm")
                .args(["-m", id])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
        }
    }
}
