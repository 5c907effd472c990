//! Servers and log-ins of other kinds: an agent, a password, a dialogue, a
//! rename that overwrites.

use std::fs;
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use pitr_testbed::{SshServer, TestDir};
use russh::server::{self, Auth, ChannelOpenHandle, Msg, Response, Session as ServerSession};
use russh::{Channel, ChannelId};

use super::tests::{key, names, open, open_at, options, start};
use crate::conformance::{self, noise};
use crate::{SftpOptions, StoreError};

/// The part of OpenSSH that serves the files.
const SFTP_SERVER: &str = "/usr/lib/openssh/sftp-server";

/// `sftp-server`, with every rename turned into one that overwrites.
const OVERWRITING: &str = r#"
import os, struct, subprocess
server = subprocess.Popen(["/usr/lib/openssh/sftp-server"], stdin=subprocess.PIPE, bufsize=0)
def take(count):
    data = b""
    while len(data) < count:
        more = os.read(0, count - len(data))
        if not more:
            raise SystemExit(0)
        data += more
    return data
while True:
    body = take(struct.unpack(">I", take(4))[0])
    if body[0] == 18:
        name = b"posix-rename@openssh.com"
        body = bytes([200]) + body[1:5] + struct.pack(">I", len(name)) + name + body[5:]
    packet = struct.pack(">I", len(body)) + body
    while packet:
        packet = packet[server.stdin.write(packet):]
"#;

#[test]
fn a_server_that_overwrites_is_found_out_and_looked_at_before_and_after() {
    let dir = TestDir::new().unwrap();
    let script = dir.join("overwriting.py");
    fs::write(&script, OVERWRITING).unwrap();
    let configuration = format!("ForceCommand /usr/bin/env python3 {}", script.display());
    let Some(server) = SshServer::start(&["ed25519"], &configuration).unwrap() else {
        return;
    };
    let store = open(&server, options(&server));
    store.establish().unwrap();
    let medium = store.probe().unwrap().unwrap();
    assert!(!medium.create_only);
    assert!(names(&server.folder().join("repo")).is_empty());
    store.adopt(&medium);
    assert!(!store.promises().create_only && !store.promises().warnings().is_empty());
    conformance::run(&store, &key("suite"));
    // what came in between is seen before the rename
    let mut writer = store.create(&key("a/object"), &[]).unwrap();
    writer.write_all(b"late").unwrap();
    let object = server.folder().join("repo/a/object");
    fs::write(&object, b"early").unwrap();
    let error = writer.publish().unwrap_err();
    assert!(matches!(error, StoreError::AlreadyExists { .. }), "{error}");
    assert_eq!(fs::read(&object).unwrap(), b"early");
    assert_eq!(names(&server.folder().join("repo/a")), ["object"]);
}

#[test]
fn a_name_in_no_known_encoding_breaks_no_session() {
    let Some((server, store)) = start() else {
        return;
    };
    store.put(&key("a/object"), &[], b"x").unwrap();
    let folder = server.folder().join("repo/a");
    let strange = folder.join(std::ffi::OsStr::from_bytes(b"caf\xe9.txt"));
    fs::write(&strange, b"x").unwrap();
    let listed = store.list(Some(&key("a"))).unwrap();
    let listed: Vec<_> = listed.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(listed, ["object"]);
    assert_eq!(store.stat(&key("a/other")).unwrap(), None);
    // the writer looks around in the folder
    store.put(&key("a/other"), &[], &noise(100_000, 1)).unwrap();
    assert!(strange.exists());
}

/// An agent that ends with the test.
struct Agent {
    child: Child,
    socket: PathBuf,
}

impl Agent {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("agent");
        let child = Command::new("ssh-agent")
            .args(["-D", "-a"])
            .arg(&socket)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        while !socket.exists() {
            assert!(std::time::Instant::now() < deadline, "no agent");
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        Self { child, socket }
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
#[ignore = "run by the test below, in a process of its own"]
fn child_asks() {
    let Ok(address) = std::env::var("PITR_TEST_ADDRESS") else {
        return;
    };
    let known_hosts = std::env::var_os("PITR_TEST_KNOWN").map(Into::into);
    let store = open_at(
        &address,
        SftpOptions {
            known_hosts,
            ..SftpOptions::default()
        },
    );
    match store.stat(&key("a")) {
        Ok(None) => println!("let in"),
        other => println!("not let in: {other:?}"),
    }
}

#[test]
fn an_agent_opens_the_door_with_keys_of_every_type() {
    let Some((server, _store)) = start() else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let agent = Agent::start(dir.path());
    let ask = || {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--ignored", "--nocapture"])
            .arg("sftp::other_servers::child_asks")
            .env("PITR_TEST_ADDRESS", server.address("repo").unwrap())
            .env("PITR_TEST_KNOWN", server.known_hosts())
            .env("SSH_AUTH_SOCK", &agent.socket)
            .env("HOME", dir.path())
            .output()
            .unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let told = ask();
    assert!(told.contains("0 keys of the ssh-agent"), "{told}");
    for kind in ["rsa", "ed25519"] {
        let file = dir.path().join(kind);
        let run = |command: &mut Command| {
            let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
            assert!(status.unwrap().success());
        };
        run(Command::new("ssh-keygen")
            .args(["-q", "-N", "", "-t", kind, "-f"])
            .arg(&file));
        let add = |options: &[&str]| {
            run(Command::new("ssh-add")
                .args(options)
                .arg(&file)
                .env("SSH_AUTH_SOCK", &agent.socket));
        };
        add(&[]);
        let refused = ask();
        assert!(refused.contains("not let in"), "{refused}");
        let public = fs::read(file.with_extension("pub")).unwrap();
        fs::write(server.dir().join("authorized_keys"), public).unwrap();
        let told = ask();
        assert!(
            told.contains("let in") && !told.contains("not let in"),
            "{told}"
        );
        add(&["-d"]);
    }
}

/// A door that opens with a password alone: asked for it, or in a dialogue.
struct Door {
    dialogue: bool,
    channel: Option<Channel<Msg>>,
    folder: PathBuf,
}

const PASSWORD: &str = "correct-horse-8";

impl server::Handler for Door {
    type Error = russh::Error;

    async fn auth_password(&mut self, _: &str, password: &str) -> Result<Auth, Self::Error> {
        Ok(if !self.dialogue && password == PASSWORD {
            Auth::Accept
        } else {
            Auth::reject()
        })
    }

    async fn auth_keyboard_interactive<'a>(
        &'a mut self,
        _: &str,
        _: &str,
        response: Option<Response<'a>>,
    ) -> Result<Auth, Self::Error> {
        if !self.dialogue {
            return Ok(Auth::reject());
        }
        Ok(match response {
            None => Auth::Partial {
                name: "".into(),
                instructions: "".into(),
                prompts: vec![("Password: ".into(), false)].into(),
            },
            Some(mut response) => match response.next() {
                Some(said) if said == PASSWORD.as_bytes() => Auth::Accept,
                _ => Auth::reject(),
            },
        })
    }

    async fn channel_open_session(
        &mut self,
        channel: Channel<Msg>,
        reply: ChannelOpenHandle,
        _: &mut ServerSession,
    ) -> Result<(), Self::Error> {
        self.channel = Some(channel);
        reply.accept().await;
        Ok(())
    }

    async fn subsystem_request(
        &mut self,
        id: ChannelId,
        _: &str,
        session: &mut ServerSession,
    ) -> Result<(), Self::Error> {
        let Some(channel) = self.channel.take() else {
            return Ok(());
        };
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        let output = theirs.try_clone()?;
        Command::new(SFTP_SERVER)
            .current_dir(&self.folder)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(theirs)))
            .stdout(Stdio::from(std::os::fd::OwnedFd::from(output)))
            .spawn()?;
        let mut ours = tokio::net::UnixStream::from_std(ours)?;
        session.channel_success(id)?;
        tokio::spawn(async move {
            let mut stream = channel.into_stream();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut ours).await;
        });
        Ok(())
    }
}

/// Listens for ever, in a thread of its own.
fn open_the_door(dir: &Path, dialogue: bool) -> SocketAddr {
    let host_key = dir.join("host");
    let made = Command::new("ssh-keygen")
        .args(["-q", "-N", "", "-t", "ed25519", "-f"])
        .arg(&host_key)
        .status();
    assert!(made.unwrap().success());
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let public = fs::read_to_string(host_key.with_extension("pub")).unwrap();
    let known = format!("[127.0.0.1]:{} {public}", address.port());
    fs::write(dir.join("known_hosts"), known).unwrap();
    let config = Arc::new(server::Config {
        keys: vec![russh::keys::load_secret_key(&host_key, None).unwrap()],
        auth_rejection_time: std::time::Duration::from_millis(10),
        ..server::Config::default()
    });
    let folder = dir.to_owned();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let door = Door {
                    dialogue,
                    channel: None,
                    folder: folder.clone(),
                };
                let config = Arc::clone(&config);
                tokio::spawn(async move {
                    if let Ok(session) = server::run_stream(config, stream, door).await {
                        let _ = session.await;
                    }
                });
            }
        });
    });
    address
}

#[test]
fn a_password_opens_the_door_whichever_way_it_is_asked_for() {
    if !Path::new(SFTP_SERVER).exists() {
        println!("skipped: {SFTP_SERVER} is not installed (scripts/remote-servers installs it)");
        return;
    }
    for dialogue in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let address = open_the_door(dir.path(), dialogue);
        let root = dir.path().join("repo");
        let with = |password: &str| {
            let file = dir.path().join("password");
            fs::write(&file, format!("{password}\n")).unwrap();
            fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
            let sftp = SftpOptions {
                // a key that the server does not take, so that the agent is not asked
                identity_file: Some(dir.path().join("host")),
                password_file: Some(file),
                known_hosts: Some(dir.path().join("known_hosts")),
                retry_seconds: 10,
                ..SftpOptions::default()
            };
            open_at(
                &format!("sftp://somebody@{address}{}", root.display()),
                sftp,
            )
        };
        let error = with("hunter2").stat(&key("a")).unwrap_err();
        let shown = format!("{error} {error:?} {:?}", error.hint());
        assert!(error.to_string().contains("a password"), "{shown}");
        assert!(!shown.contains("hunter2"));
        let store = with(PASSWORD);
        store.establish().unwrap();
        let bytes = noise(300_000, 1);
        store.put(&key("a/object"), &[], &bytes).unwrap();
        assert!(store.read_whole(&key("a/object"), 300_000).unwrap() == bytes);
        assert!(!format!("{store:?}").contains(PASSWORD));
    }
}
