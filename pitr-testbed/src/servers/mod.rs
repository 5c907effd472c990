//! Servers of other kinds than PostgreSQL, on ports of the loopback interface,
//! as `scripts/remote-servers` installs them.

mod azurite;
mod ftpd;
mod google_fake;
mod http_request;
mod moto;
mod sshd;
mod tls_proxy;
mod vsftpd;

use std::env;
use std::fs::File;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use rustix::process::Pid;

pub use azurite::Azurite;
pub use ftpd::FtpServer;
pub use google_fake::GoogleFake;
pub use http_request::{HttpAnswer, http_request};
pub use moto::Moto;
pub use sshd::SshServer;
pub use tls_proxy::TlsProxy;
pub use vsftpd::VsFtpd;

use crate::{TestbedError, process};

/// How long a server may take to begin; two slow cores are enough.
const START_LIMIT: Duration = Duration::from_secs(90);

/// Folder that `scripts/remote-servers` installs to.
///
/// `PITR_TEST_SERVERS_DIR`, else `/var/cache/pitr-servers` for root, else
/// `${XDG_CACHE_HOME:-~/.cache}/pitr-servers`.
#[must_use]
pub fn server_cache() -> PathBuf {
    if let Some(folder) = env::var_os("PITR_TEST_SERVERS_DIR") {
        return folder.into();
    }
    if rustix::process::geteuid().is_root() {
        return "/var/cache/pitr-servers".into();
    }
    let caches = env::var_os("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(env::var_os("HOME").unwrap_or_default()).join(".cache"),
        PathBuf::from,
    );
    caches.join("pitr-servers")
}

/// A server's process with its folder; both go when it is dropped.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    child: Child,
    address: SocketAddr,
    /// Data and log.
    _folder: tempfile::TempDir,
}

impl ServerProcess {
    /// Starts `command`, which listens on the address that it is given, and
    /// waits until somebody does.
    pub(crate) fn start(
        name: &str,
        command: impl Fn(SocketAddr, &Path) -> Command,
    ) -> Result<Self, TestbedError> {
        let folder = tempfile::tempdir().map_err(TestbedError::file("make", env::temp_dir()))?;
        let log_path = folder.path().join("log");
        let log = File::create(&log_path).map_err(TestbedError::file("make", &log_path))?;
        let err = log
            .try_clone()
            .map_err(TestbedError::file("open", &log_path))?;
        let address = free_address()?;
        let mut command = command(address, folder.path());
        let described = process::describe(&command);
        let child = command
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(err)
            .spawn()
            .map_err(|source| TestbedError::Spawn {
                program: described,
                source,
            })?;
        let mut server = Self {
            child,
            address,
            _folder: folder,
        };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(address).is_err() {
            let ended = server.child.try_wait().is_ok_and(|status| status.is_some());
            if ended || Instant::now() > deadline {
                return Err(TestbedError::TimedOut {
                    what: format!("{name} to listen on {address}"),
                    seconds: START_LIMIT.as_secs(),
                    detail: std::fs::read_to_string(&log_path).unwrap_or_default(),
                });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(server)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if let Ok(pid) = i32::try_from(self.child.id())
            && let Some(pid) = Pid::from_raw(pid)
        {
            process::kill_tree(pid);
        }
        let _ = self.child.wait();
    }
}

/// A loopback address that nobody listens on.
fn free_address() -> Result<SocketAddr, TestbedError> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map_err(TestbedError::file("listen on", "127.0.0.1"))
}

/// One server for all tests of a process that need it at the same time: it
/// begins with the first and ends with the last.
pub(crate) fn shared<T>(
    place: &Mutex<Weak<T>>,
    start: impl FnOnce() -> Result<T, TestbedError>,
) -> Result<Arc<T>, TestbedError> {
    let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(running) = place.upgrade() {
        return Ok(running);
    }
    let started = Arc::new(start()?);
    *place = Arc::downgrade(&started);
    Ok(started)
}

/// The reason why a test is skipped, on one line.
pub(crate) fn missing(name: &'static str, path: PathBuf) -> TestbedError {
    TestbedError::ServerMissing { name, path }
}

/// The program `name` in the folders where servers lie, which are not on
/// everybody's `PATH`.
fn find_program(name: &str) -> Option<PathBuf> {
    [
        "/usr/sbin",
        "/usr/local/sbin",
        "/usr/bin",
        "/usr/local/bin",
        "/sbin",
    ]
    .iter()
    .map(|folder| Path::new(folder).join(name))
    .find(|path| path.is_file())
}

/// A port that was free a moment ago.
fn free_port() -> Result<u16, TestbedError> {
    let free = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    free.map(|address| address.port())
        .map_err(TestbedError::file("find", "a free port"))
}

/// Waits until the server on `port` says something.
fn wait_for_greeting(port: u16, log: &Path) -> Result<(), TestbedError> {
    let deadline = Instant::now() + START_LIMIT;
    loop {
        if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) {
            let _ = stream.set_read_timeout(Some(Duration::from_secs(5)));
            if matches!(stream.read(&mut [0; 4]), Ok(count) if count > 0) {
                return Ok(());
            }
        }
        if Instant::now() >= deadline {
            return Err(TestbedError::Failed {
                program: format!("server on port {port}"),
                status: "no greeting".to_owned(),
                stderr: std::fs::read_to_string(log).unwrap_or_default(),
            });
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
