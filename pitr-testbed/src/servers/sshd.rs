//! An OpenSSH server with SFTP.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::{find_program, free_port, wait_for_greeting};
use crate::process::{kill_tree, run};
use crate::{TestDir, TestbedError, as_server_user, chown_to_server_user, server_user_name};

/// An `sshd` of the user who runs the servers, with keys of its own.
///
/// Only that user can log in, with the key [`SshServer::identity_file`].
#[derive(Debug)]
pub struct SshServer {
    dir: TestDir,
    program: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl SshServer {
    /// Starts a server whose host keys have the types `host_keys` (`ed25519`,
    /// `ecdsa`, `rsa`), with `configuration` in front of its `sshd_config`.
    ///
    /// `Ok(None)` where no server is installed; says so on stderr.
    ///
    /// # Errors
    /// [`TestbedError`] of whichever step fails.
    #[expect(clippy::print_stderr, reason = "tells which test was skipped and why")]
    pub fn start(host_keys: &[&str], configuration: &str) -> Result<Option<Self>, TestbedError> {
        let Some(program) = find_program("sshd") else {
            eprintln!("skipped: no sshd is installed (scripts/remote-servers installs it)");
            return Ok(None);
        };
        let dir = TestDir::new()?;
        for kind in host_keys {
            make_key(kind, &dir.join(format!("host_{kind}")))?;
        }
        make_key("ed25519", &dir.join("client"))?;
        let write = |name: &str, text: &str| {
            let path = dir.join(name);
            fs::write(&path, text).map_err(TestbedError::file("write", &path))
        };
        let public = dir.join("client.pub");
        let public = fs::read_to_string(&public).map_err(TestbedError::file("read", &public))?;
        write("authorized_keys", &public)?;
        let mut server = Self {
            dir,
            program,
            port: free_port()?,
            child: None,
        };
        let mut config = format!(
            "{configuration}\nListenAddress 127.0.0.1\nPidFile none\nUsePAM no\nStrictModes no\n\
             LogLevel VERBOSE\nMaxStartups 100\nSubsystem sftp internal-sftp\n\
             AuthorizedKeysFile {}\n",
            server.dir.join("authorized_keys").display()
        );
        for kind in host_keys {
            let key = server.dir.join(format!("host_{kind}"));
            config.push_str(&format!("HostKey {}\n", key.display()));
        }
        let path = server.dir.join("sshd_config");
        fs::write(&path, config).map_err(TestbedError::file("write", &path))?;
        let root = server.folder();
        fs::create_dir(&root).map_err(TestbedError::file("make", &root))?;
        chown_to_server_user(server.dir.path())?;
        server.know(host_keys)?;
        server.restart()?;
        Ok(Some(server))
    }

    /// A folder of the server's user, empty at first.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Address of `name` in [`SshServer::folder`].
    ///
    /// # Errors
    /// [`TestbedError::NoServerUser`].
    pub fn address(&self, name: &str) -> Result<String, TestbedError> {
        let user = server_user_name()?;
        let path = self.folder().join(name);
        Ok(format!(
            "sftp://{user}@127.0.0.1:{}{}",
            self.port,
            path.display()
        ))
    }

    /// The server's port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// A private key that opens the door; belongs to the server's user.
    #[must_use]
    pub fn identity_file(&self) -> PathBuf {
        self.dir.join("client")
    }

    /// A file that knows the server by all its host keys.
    #[must_use]
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.join("known_hosts")
    }

    /// The folder of the server: for what a test needs beside it.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
    }

    /// What the server has written about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("sshd.log")).unwrap_or_default()
    }

    /// Writes a known_hosts file with the public keys of the types given.
    ///
    /// # Errors
    /// [`TestbedError::File`].
    pub fn know(&self, kinds: &[&str]) -> Result<(), TestbedError> {
        let mut known = String::new();
        for kind in kinds {
            let path = self.dir.join(format!("host_{kind}.pub"));
            let key = fs::read_to_string(&path).map_err(TestbedError::file("read", &path))?;
            known.push_str(&format!("[127.0.0.1]:{} {key}", self.port));
        }
        let path = self.known_hosts();
        fs::write(&path, known).map_err(TestbedError::file("write", &path))?;
        chown_to_server_user(&path)
    }

    /// Kills the server and every session of it, as a power cut would.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
                kill_tree(pid);
            }
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Starts the server again, on the same port.
    ///
    /// # Errors
    /// [`TestbedError`] if it does not answer.
    pub fn restart(&mut self) -> Result<(), TestbedError> {
        self.kill();
        let log = self.dir.join("sshd.log");
        let mut command = as_server_user(Command::new(&self.program))?;
        command
            .arg("-D")
            .arg("-f")
            .arg(self.dir.join("sshd_config"))
            .arg("-p")
            .arg(self.port.to_string())
            .arg("-E")
            .arg(&log)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let child = command.spawn().map_err(|source| TestbedError::Spawn {
            program: "sshd".to_owned(),
            source,
        })?;
        self.child = Some(child);
        wait_for_greeting(self.port, &log)
    }
}

impl Drop for SshServer {
    fn drop(&mut self) {
        self.kill();
    }
}

fn make_key(kind: &str, path: &Path) -> Result<(), TestbedError> {
    let mut command = Command::new("ssh-keygen");
    command
        .args(["-q", "-N", "", "-C", "test", "-t", kind, "-f"])
        .arg(path);
    run(command).map(|_| ())
}
