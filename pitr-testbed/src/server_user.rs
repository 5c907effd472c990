//! The unprivileged user that runs servers where the tests run as root.

use std::fs;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use rustix::fs::{Gid, Uid};

use crate::TestbedError;

const NAME: &str = "postgres";

#[derive(Clone, Copy)]
struct ServerUser {
    uid: u32,
    gid: u32,
}

/// `None`: we are an ordinary user ourselves, and run servers as that.
fn server_user() -> Result<Option<ServerUser>, TestbedError> {
    static USER: OnceLock<Result<Option<ServerUser>, String>> = OnceLock::new();
    USER.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        if let Ok(user) = look_up() {
            return Ok(Some(user));
        }
        // another test process may be making it at this moment: only the second look-up counts
        let made = Command::new("useradd")
            .args(["--system", "--user-group", "--home-dir", "/nonexistent"])
            .args(["--no-create-home", "--shell", "/bin/sh", NAME])
            .output();
        look_up().map(Some).map_err(|reason| match made {
            Ok(output) => format!("{reason}; {}", String::from_utf8_lossy(&output.stderr)),
            Err(error) => format!("{reason}; useradd: {error}"),
        })
    })
    .clone()
    .map_err(|reason| TestbedError::NoServerUser { reason })
}

fn look_up() -> Result<ServerUser, String> {
    let number = |flag: &str| -> Result<u32, String> {
        let output = Command::new("id")
            .args([flag, NAME])
            .output()
            .map_err(|error| format!("id: {error}"))?;
        String::from_utf8_lossy(&output.stdout)
            .trim()
            .parse()
            .map_err(|_| String::from_utf8_lossy(&output.stderr).trim().to_owned())
    };
    Ok(ServerUser {
        uid: number("-u")?,
        gid: number("-g")?,
    })
}

/// Makes `command` run as the user who runs the servers.
///
/// As root that is `postgres`, without supplementary groups, with a working
/// folder that it can enter (`/`, unless the command already has one) and
/// without root's `HOME`. An ordinary user's command is left as it is.
///
/// # Errors
/// [`TestbedError::NoServerUser`] if we are root and the user cannot be made.
pub fn as_server_user(mut command: Command) -> Result<Command, TestbedError> {
    if let Some(user) = server_user()? {
        // the standard library drops the supplementary groups of root by itself here
        command.gid(user.gid).uid(user.uid);
        if command.get_current_dir().is_none() {
            command.current_dir("/");
        }
        if !command.get_envs().any(|(name, _)| name == "HOME") {
            command.env("HOME", "/nonexistent");
        }
    }
    Ok(command)
}

/// Login name of the user that [`as_server_user`] runs commands as.
///
/// # Errors
/// [`TestbedError::NoServerUser`] if we are root and the user cannot be made.
pub fn server_user_name() -> Result<String, TestbedError> {
    if server_user()?.is_some() {
        return Ok(NAME.to_owned());
    }
    let output = Command::new("id")
        .arg("-un")
        .output()
        .map_err(|source| TestbedError::Spawn {
            program: "id".to_owned(),
            source,
        })?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Gives `path`, and all that is below it, to the user who runs the servers.
///
/// Symbolic links are given away themselves and never followed. Does nothing
/// for an ordinary user.
///
/// # Errors
/// [`TestbedError::File`] naming the first path that could not be given away.
pub fn chown_to_server_user(path: &Path) -> Result<(), TestbedError> {
    let Some(user) = server_user()? else {
        return Ok(());
    };
    rustix::fs::chownat(
        rustix::fs::CWD,
        path,
        Some(Uid::from_raw(user.uid)),
        Some(Gid::from_raw(user.gid)),
        rustix::fs::AtFlags::SYMLINK_NOFOLLOW,
    )
    .map_err(|errno| TestbedError::file("give away", path)(errno.into()))?;
    let is_folder = fs::symlink_metadata(path)
        .map_err(TestbedError::file("look at", path))?
        .is_dir();
    if is_folder {
        for entry in fs::read_dir(path).map_err(TestbedError::file("list", path))? {
            let entry = entry.map_err(TestbedError::file("list", path))?;
            chown_to_server_user(&entry.path())?;
        }
    }
    Ok(())
}

/// Whether servers run as another user than the test.
pub(crate) fn differs_from_us() -> bool {
    rustix::process::geteuid().is_root()
}
