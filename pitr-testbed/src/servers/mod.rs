//! Servers of other kinds than PostgreSQL, on ports of the loopback interface.

mod sshd;

pub use sshd::SshServer;

use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::TestbedError;

/// How long a server may take to answer on its port.
const START_LIMIT: Duration = Duration::from_secs(30);

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
