//! A Pure-FTPd server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::{find_program, free_port, wait_for_greeting};
use crate::process::{kill_tree, run};
use crate::{TestDir, TestbedError, chown_to_server_user, server_user_name};

/// The user of [`FtpServer`], who exists there alone.
const USER: &str = "archive";

/// A `pure-ftpd` with one user of its own, who owns one folder.
///
/// It runs as root and needs root: it takes on the user who runs the servers.
#[derive(Debug)]
pub struct FtpServer {
    dir: TestDir,
    program: PathBuf,
    port: u16,
    tls: bool,
    more: Vec<String>,
    child: Option<Child>,
}

impl FtpServer {
    /// The password of its user.
    pub const PASSWORD: &str = "correct-horse-7";

    /// Starts a server; with `tls` it takes no login without TLS. `more` are
    /// further arguments of `pure-ftpd`.
    ///
    /// `Ok(None)` where none is installed, or we are not root; says so on
    /// stderr.
    ///
    /// # Errors
    /// [`TestbedError`] of whichever step fails.
    #[expect(clippy::print_stderr, reason = "tells which test was skipped and why")]
    pub fn start(tls: bool, more: &[&str]) -> Result<Option<Self>, TestbedError> {
        let (Some(program), Some(accounts)) = (find_program("pure-ftpd"), find_program("pure-pw"))
        else {
            eprintln!("skipped: no pure-ftpd is installed (scripts/remote-servers installs it)");
            return Ok(None);
        };
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: pure-ftpd needs root");
            return Ok(None);
        }
        let dir = TestDir::new()?;
        let mut server = Self {
            dir,
            program,
            port: free_port()?,
            tls,
            more: more.iter().map(|&word| word.to_owned()).collect(),
            child: None,
        };
        let folder = server.folder();
        fs::create_dir(&folder).map_err(TestbedError::file("make", &folder))?;
        chown_to_server_user(&folder)?;
        server.make_account(&accounts)?;
        server.write(
            "netrc",
            &format!(
                "machine localhost login {USER} password {}\n",
                Self::PASSWORD
            ),
        )?;
        if tls {
            make_certificate(&server.dir)?;
        }
        server.restart()?;
        Ok(Some(server))
    }

    fn make_account(&self, accounts: &Path) -> Result<(), TestbedError> {
        let name = server_user_name()?;
        // pure-pw itself makes hashes that take a second for every login.
        let mut hash = Command::new("openssl");
        hash.args(["passwd", "-1", Self::PASSWORD]);
        let hash = run(hash)?;
        let hash = String::from_utf8_lossy(&hash.stdout).trim().to_owned();
        let id = |flag: &str| -> Result<String, TestbedError> {
            let mut command = Command::new("id");
            command.args([flag, &name]);
            let output = run(command)?;
            Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let (user, group) = (id("-u")?, id("-g")?);
        self.write(
            "passwd",
            &format!(
                "{USER}:{hash}:{user}:{group}::{}/./::::::::::::\n",
                self.folder().display()
            ),
        )?;
        let mut make = Command::new(accounts);
        make.arg("mkdb")
            .arg(self.dir.join("accounts.pdb"))
            .arg("-f")
            .arg(self.dir.join("passwd"));
        run(make).map(|_| ())
    }

    fn write(&self, name: &str, text: &str) -> Result<(), TestbedError> {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.dir.join(name);
        fs::write(&path, text).map_err(TestbedError::file("write", &path))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))
            .map_err(TestbedError::file("protect", &path))?;
        chown_to_server_user(&path)
    }

    /// The folder that the server's user sees as `/`.
    #[must_use]
    pub fn folder(&self) -> PathBuf {
        self.dir.join("files")
    }

    /// Address of the folder `name` on the server, without a user in it.
    #[must_use]
    pub fn address(&self, name: &str) -> String {
        let scheme = if self.tls { "ftps" } else { "ftp" };
        format!("{scheme}://localhost:{}/{name}", self.port)
    }

    /// A netrc file with the login; belongs to the user who runs the servers.
    #[must_use]
    pub fn netrc(&self) -> PathBuf {
        self.dir.join("netrc")
    }

    /// The authority that signed the server's certificate.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// The folder of the server: for what a test needs beside it.
    #[must_use]
    pub fn dir(&self) -> &TestDir {
        &self.dir
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
        let mut command = Command::new(&self.program);
        command
            .arg("-S")
            .arg(format!("127.0.0.1,{}", self.port))
            .arg("-l")
            .arg(format!(
                "puredb:{}",
                self.dir.join("accounts.pdb").display()
            ))
            .arg("-g")
            .arg(self.dir.join("pid"))
            // only real logins, nobody looked up, many sessions, all of a user below uid 100 too
            .args(["-E", "-H", "-A", "-c", "200", "-C", "200", "-u", "1"])
            .args(&self.more)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if self.tls {
            command.args(["-Y", "2", "-2"]).arg(format!(
                "{},{}",
                self.dir.join("server.pem").display(),
                self.dir.join("server.key").display()
            ));
        }
        let child = command.spawn().map_err(|source| TestbedError::Spawn {
            program: "pure-ftpd".to_owned(),
            source,
        })?;
        self.child = Some(child);
        wait_for_greeting(self.port, Path::new("/dev/null"))
    }
}

impl Drop for FtpServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A certificate for `localhost`, signed by an authority of its own: `ca.pem`,
/// `server.pem` and `server.key` in `dir`.
pub(super) fn make_certificate(dir: &TestDir) -> Result<(), TestbedError> {
    let openssl = |words: &[&str]| -> Result<(), TestbedError> {
        let mut command = Command::new("openssl");
        command.args(words).current_dir(dir.path());
        run(command).map(|_| ())
    };
    let curve = [
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:P-256",
        "-nodes",
    ];
    let mut authority = vec!["req", "-x509", "-subj", "/CN=test authority", "-days", "30"];
    authority.extend(curve);
    authority.extend(["-keyout", "ca.key", "-out", "ca.pem"]);
    openssl(&authority)?;
    let mut request = vec!["req", "-subj", "/CN=localhost"];
    request.extend(curve);
    request.extend(["-keyout", "server.key", "-out", "server.csr"]);
    openssl(&request)?;
    let names = dir.join("names");
    fs::write(&names, "subjectAltName=DNS:localhost,IP:127.0.0.1\n")
        .map_err(TestbedError::file("write", &names))?;
    openssl(&[
        "x509",
        "-req",
        "-in",
        "server.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca.key",
        "-CAcreateserial",
        "-days",
        "30",
        "-extfile",
        "names",
        "-out",
        "server.pem",
    ])
}
