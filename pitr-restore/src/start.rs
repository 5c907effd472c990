//! `--start`: the server is started, and watched until it really stands at
//! the target.
//!
//! `pg_ctl` says that the server is up as soon as it takes connections, which
//! is before the target is reached, and before it may fail to be reached. So
//! the server is asked, and where it does not answer its files are read.

mod failure;
pub(crate) mod head_start;
mod outcome;
mod server_log;
mod session;
pub(crate) mod tools;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use pitr_console::{Console, PointInTime, Progress};
use pitr_core::{ClusterState, Lsn, TimelinePath, WalSegmentSize};
use pitr_postgres::DataDirectory;

use crate::lay_down::root::Owner;
use crate::os_user::OsUser;
use crate::postmaster::{PostmasterFile, PostmasterStatus};
use failure::StartError;
pub(crate) use outcome::{Expected, Reached};
use pitr_console::quoting::shell_word;
use server_log::ServerLog;
use session::{ReplayState, Session};
use tools::ServerTools;

/// Where `pg_ctl` lets the server write before it has a log of its own.
const LOG_FILE: &str = "pitr-start.log";
/// How often the server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// How often it is said how far it has come.
const SAY_EVERY: Duration = Duration::from_secs(10);
/// How long a server may take to write its `postmaster.pid`.
const PID_FILE_LIMIT: Duration = Duration::from_secs(15);

/// What is started, and what it shall come to.
#[derive(Debug)]
pub(crate) struct Start<'a> {
    pub(crate) tools: &'a ServerTools,
    pub(crate) directory: &'a Path,
    /// Whom the directory belongs to, where it is not this user.
    pub(crate) owner: Option<&'a OsUser>,
    /// A configuration file outside of the directory.
    pub(crate) config_file: Option<&'a Path>,
    pub(crate) expected: Expected,
    /// Whether it ends at a target, and not with the archived log.
    pub(crate) has_target: bool,
    pub(crate) segment_size: WalSegmentSize,
    /// The way that replay takes.
    pub(crate) path: &'a TimelinePath,
    /// Where replay ends at the latest.
    pub(crate) end: Lsn,
}

impl Start<'_> {
    /// Starts the server and waits for what is expected.
    ///
    /// # Errors
    /// If it ends before, or comes to something else. Without a limit in time:
    /// replay takes as long as it takes.
    pub(crate) fn run(&self, console: Console) -> Result<Reached, StartError> {
        let started = Instant::now();
        let log = ServerLog::new(self.directory, self.directory.join(LOG_FILE));
        self.pg_ctl()?;
        console.log(format!(
            "the server of PostgreSQL {} was started; interrupting this command does not stop it",
            self.tools.version()
        ));
        let begin = self.path.begin();
        let total_bytes = self.end.get().saturating_sub(begin.get());
        let progress = Progress::start(console, "replaying", total_bytes);
        let reached = self.watch(started, &log, &progress);
        progress.finish();
        reached
    }

    fn pg_ctl(&self) -> Result<(), StartError> {
        let path = self.tools.program("pg_ctl");
        let mut command = Command::new(&path);
        command
            .args(["start", "--no-wait", "--silent", "--pgdata"])
            .arg(self.directory)
            .arg("--log")
            .arg(self.directory.join(LOG_FILE))
            .current_dir(self.directory)
            .stdin(Stdio::null());
        if let Some(config_file) = self.config_file {
            use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
            let mut options = Vec::new();
            // a data_directory in that file would win over --pgdata
            for (name, path) in [
                (&b"config_file="[..], config_file),
                (b"data_directory=", self.directory),
            ] {
                let setting = [name, path.as_os_str().as_bytes()].concat();
                options.extend_from_slice(b" -c ");
                options.extend(shell_word(&setting));
            }
            command
                .arg("--options")
                .arg(std::ffi::OsString::from_vec(options));
        }
        if let Some(user) = self.owner {
            as_user(&mut command, user);
        }
        let output = command.output().map_err(|source| StartError::Run {
            path: path.clone(),
            source,
        })?;
        if output.status.success() {
            return Ok(());
        }
        let said = String::from_utf8_lossy(&output.stderr);
        Err(StartError::PgCtl {
            said: said.trim().to_owned(),
        })
    }

    fn watch(
        &self,
        started: Instant,
        log: &ServerLog,
        progress: &Progress,
    ) -> Result<Reached, StartError> {
        let user = self.user();
        let mut session: Option<Session> = None;
        let mut last = ReplayState::default();
        let mut last_said = Instant::now();
        let mut seen: Option<PostmasterFile> = None;
        loop {
            let server = PostmasterFile::read(self.directory).ok().flatten();
            let alive = server.as_ref().is_some_and(PostmasterFile::is_alive);
            let has_ended = || {
                seen.is_some()
                    || started.elapsed() >= PID_FILE_LIMIT
                    || log.says("FATAL:")
                    || log.says("database system is shut down")
            };
            if !alive && has_ended() {
                return self.ended(&last, started, log);
            }
            let status = server.as_ref().and_then(|server| server.status);
            let up = matches!(
                status,
                Some(PostmasterStatus::Standby | PostmasterStatus::Ready)
            );
            if alive {
                seen = server;
            }
            if up
                && session.is_none()
                && let (Some(server), Some(user)) = (&seen, &user)
            {
                session = Session::open(server, user);
            }
            match session.as_mut().map(Session::ask) {
                Some(Ok(state)) => last = state,
                // shutting down, or started anew after a crash of its own
                Some(Err(_)) => session = None,
                None if up => last = self.by_files(status, log, &last),
                None => {}
            }
            self.advance(progress, &last);
            if up && let Some(outcome) = self.judge(&last) {
                return outcome.map(|()| self.reached(&last, started, seen.as_ref()));
            }
            if last_said.elapsed() >= SAY_EVERY {
                last_said = Instant::now();
                progress.say(|console| console.log(said(&last)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// Whether the state is what is waited for; `None`: not yet.
    fn judge(&self, state: &ReplayState) -> Option<Result<(), StartError>> {
        if state.in_recovery
            && state.paused
            && let Some(error) = self.too_low(state)
        {
            return Some(Err(error));
        }
        match (self.expected, state.in_recovery, state.paused) {
            (Expected::Production, false, _) if self.ended_early(state) => {
                Some(Err(StartError::EndedEarly {
                    lsn: state.lsn.unwrap_or_default(),
                    end: self.end,
                }))
            }
            (Expected::Production, false, _) | (Expected::Paused, true, true) => Some(Ok(())),
            (Expected::Paused | Expected::ShutDown, false, _) => {
                Some(Err(StartError::PromotedInstead))
            }
            _ => None,
        }
    }

    /// Whether replay should have gone to the end of the archived log and ended
    /// before its last segment: a record that PostgreSQL cannot read is the end
    /// of the log to it.
    fn ended_early(&self, state: &ReplayState) -> bool {
        let last_segment = self.end.get().saturating_sub(self.segment_size.bytes());
        !self.has_target
            && state.said_by_server
            && state.lsn.is_some_and(|lsn| lsn.get() < last_segment)
    }

    /// The setting for whose sake a paused server cannot go on. Replay notes in
    /// the control file what the original was given, and then compares.
    ///
    /// Source: `xlog_redo`, `XLOG_PARAMETER_CHANGE`, src/backend/access/transam/xlog.c.
    fn too_low(&self, state: &ReplayState) -> Option<StartError> {
        let control = DataDirectory::new(self.directory).control_file().ok()?;
        let (name, found, needed) =
            control
                .required_settings
                .named()
                .into_iter()
                .find_map(|(name, needed)| {
                    let found = *state.settings.get(name)?;
                    (found < needed).then_some((name, found, needed))
                })?;
        Some(StartError::SettingTooLow {
            name,
            found,
            needed,
            directory: self.directory.to_owned(),
        })
    }

    /// The server is no more: that may be what was wanted.
    fn ended(
        &self,
        last: &ReplayState,
        started: Instant,
        log: &ServerLog,
    ) -> Result<Reached, StartError> {
        let control = DataDirectory::new(self.directory).control_file().ok();
        let at_target = control
            .as_ref()
            .is_some_and(|control| control.state == ClusterState::ShutDownInRecovery)
            // somebody may have stopped it on the way there
            && !log.says("shutdown request");
        if self.expected == Expected::ShutDown && at_target {
            let mut state = last.clone();
            if let Some(control) = control {
                state.lsn = state.lsn.max(Some(control.min_recovery_point));
            }
            return Ok(self.reached(&state, started, None));
        }
        Err(StartError::Ended {
            last_words: log.last_words(),
            log: log.current(),
        })
    }

    /// What can be told of a server that lets nobody ask: its status file says
    /// when it is a primary, its log when it pauses, its control file how far
    /// it has come.
    fn by_files(
        &self,
        status: Option<PostmasterStatus>,
        log: &ServerLog,
        before: &ReplayState,
    ) -> ReplayState {
        let control = DataDirectory::new(self.directory).control_file().ok();
        ReplayState {
            in_recovery: status != Some(PostmasterStatus::Ready),
            paused: log.says("pausing at the end of recovery"),
            lsn: control
                .as_ref()
                .map(|control| control.min_recovery_point.max(control.checkpoint))
                .max(before.lsn),
            last_commit: before.last_commit,
            timeline: control.as_ref().map(pitr_core::ControlFile::timeline),
            said_by_server: false,
            settings: before.settings.clone(),
        }
    }

    fn reached(
        &self,
        state: &ReplayState,
        started: Instant,
        server: Option<&PostmasterFile>,
    ) -> Reached {
        let before = state.lsn.map(|lsn| Lsn::new(lsn.get().saturating_sub(1)));
        Reached {
            expected: self.expected,
            timeline: if self.expected == Expected::Production {
                state.timeline
            } else {
                // the checkpoint may lie on an earlier one
                before.and_then(|lsn| self.path.owner(lsn))
            },
            lsn: state.lsn,
            last_commit: state.last_commit,
            elapsed: started.elapsed(),
            socket: server.and_then(|server| Some((server.socket_dir.clone()?, server.port?))),
        }
    }

    fn advance(&self, progress: &Progress, state: &ReplayState) {
        if let Some(lsn) = state.lsn {
            let replayed = lsn.get().saturating_sub(self.path.begin().get());
            progress.advance(replayed.saturating_sub(progress.done_bytes()));
        }
    }

    /// The user whom `peer` and the role of the same name expect.
    fn user(&self) -> Option<OsUser> {
        match self.owner {
            Some(user) => Some(user.clone()),
            None => OsUser::by_uid(rustix::process::geteuid().as_raw()),
        }
    }
}

fn said(state: &ReplayState) -> String {
    match (state.lsn, state.last_commit) {
        (Some(lsn), Some(time)) => format!(
            "replayed to {lsn}, last commit at {}",
            PointInTime::local(time)
        ),
        (Some(lsn), None) => format!("replayed to {lsn}"),
        _ => "the server takes no connections yet".to_owned(),
    }
}

/// Makes `command` run as `user`, with his groups where the system has a way
/// to give them (the server's key may be readable by one of them).
pub(crate) fn as_user(command: &mut Command, user: &OsUser) {
    let runuser = Path::new("/usr/sbin/runuser");
    if !runuser.is_file() {
        use std::os::unix::process::CommandExt as _;
        let Owner { uid, gid } = user.owner;
        command.gid(gid.as_raw()).uid(uid.as_raw());
        return;
    }
    let mut wrapped = Command::new(runuser);
    wrapped
        .args(["--user", &user.name, "--"])
        .arg(command.get_program())
        .args(command.get_args())
        .stdin(Stdio::null());
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    *command = wrapped;
}
