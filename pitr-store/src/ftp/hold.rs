//! Marks of life on an FTP server: the folder `.NAME.hold` beside NAME.
//!
//! To make a folder is the one thing that FTP does for one of several only. In
//! it lies a file whose name is the holder's; to renew the mark, a folder is
//! made and removed beside it, which changes the time of the one around it. Its
//! age is the difference from the time of a folder that was made just now: both
//! are the server's. Where the server tells no times (no `MLSD`), a mark that is
//! there counts.

use std::io::Read as _;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;

use suppaftp::FtpError;

use super::connection::{Connection, Failure, Server};
use super::folder::remove_all;
use crate::key::ObjectKey;
use crate::store::lease::{Lease, MAX_LEASE_BYTES};
use crate::store::temp_name::temp_name;
use crate::store::{Hold, Operation, StoreError};

struct HeldFolder {
    server: Arc<Server>,
    key: ObjectKey,
    lease: Lease,
    stop: Option<Sender<()>>,
    renewing: Option<JoinHandle<()>>,
}

impl Drop for HeldFolder {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(renewing) = self.renewing.take() {
            let _ = renewing.join();
        }
        self.server.held.remove(&self.lease);
        let location = self.server.text(Some(&self.key));
        let _ = self
            .server
            .call(Operation::Lock, &location, |connection, _| {
                let path = hold_path(connection, &self.key);
                // Not another's, who found ours run out.
                if is_ours(connection, &path, &self.lease)? {
                    remove_all(connection, &path, 2)?;
                }
                Ok(())
            });
    }
}

fn hold_path(connection: &Connection, key: &ObjectKey) -> String {
    format!(
        "{}/.{}.hold",
        connection.path(key.parent().as_ref()),
        key.file_name()
    )
}

/// Takes the mark on `key`, or tells that somebody may have it.
pub(super) fn take(server: &Arc<Server>, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
    match key.parent() {
        Some(folder) => server.make_folder(&folder)?,
        None => {
            server.look_into(None, Operation::Lock)?;
        }
    }
    let lease = Lease::new(server.options.lease_seconds);
    if !try_take(server, key, &lease)? {
        return Ok(None);
    }
    server.held.add(key, &lease);
    let (stop, stopped) = channel::<()>();
    let (weak, renewed, own) = (Arc::downgrade(server), key.clone(), lease.clone());
    let renewing = std::thread::Builder::new()
        .name("ftp lease".to_owned())
        .spawn(move || {
            let pause = Lease::renewal(own.seconds);
            while stopped.recv_timeout(pause) == Err(RecvTimeoutError::Timeout) {
                if !renew(&weak, &renewed, &own) {
                    return;
                }
            }
        })
        .map_err(|source| StoreError::Io {
            operation: Operation::Lock,
            location: server.text(Some(key)),
            source,
        })?;
    Ok(Some(Hold::new(HeldFolder {
        server: Arc::clone(server),
        key: key.clone(),
        lease,
        stop: Some(stop),
        renewing: Some(renewing),
    })))
}

fn try_take(server: &Server, key: &ObjectKey, lease: &Lease) -> Result<bool, StoreError> {
    let location = server.text(Some(key));
    let taken = server.call(Operation::Lock, &location, |connection, _| {
        let path = hold_path(connection, key);
        if make(connection, &path, lease)? {
            return Ok(true);
        }
        // A lost answer to our own command leaves our own mark.
        if is_ours(connection, &path, lease)? {
            return Ok(true);
        }
        if !has_run_out(connection, key, lease)? {
            return Ok(false);
        }
        let stale = holders(connection, &path)?;
        // Of several who find it run out, one renames it.
        let aside = format!(
            "{}/{}",
            connection.path(key.parent().as_ref()),
            temp_name(key.file_name())
        );
        match connection.ftp.rename(path.as_str(), aside.as_str()) {
            Ok(()) => {}
            Err(FtpError::UnexpectedResponse(_)) => return Ok(false),
            Err(error) => return Err(error),
        }
        if holders(connection, &aside)? != stale {
            // Somebody was faster, and this is his: give it back.
            let _ = connection.ftp.rename(aside.as_str(), path.as_str());
            return Ok(false);
        }
        remove_all(connection, &aside, 2)?;
        make(connection, &path, lease)
    });
    taken.map_err(|failure: Failure| failure.into_store(Operation::Lock, location))
}

/// Makes the folder with the holder's file in it; `false` if it is there.
fn make(connection: &mut Connection, path: &str, lease: &Lease) -> Result<bool, FtpError> {
    match connection.ftp.mkdir(path) {
        Ok(()) => {}
        Err(FtpError::UnexpectedResponse(response)) => {
            // Is it there? The answer for that differs from server to server.
            return match connection.ftp.cwd(path) {
                Ok(()) => Ok(false),
                Err(_) => Err(FtpError::UnexpectedResponse(response)),
            };
        }
        Err(error) => return Err(error),
    }
    let bytes = lease.to_bytes();
    let file = format!("{path}/{}", lease.holder);
    connection.ftp.put_file(file, &mut bytes.as_slice())?;
    Ok(true)
}

fn is_ours(connection: &mut Connection, path: &str, lease: &Lease) -> Result<bool, FtpError> {
    Ok(holders(connection, path)?.contains(&lease.holder))
}

/// The holders named in a mark: one, or none where its maker died at once.
fn holders(connection: &mut Connection, path: &str) -> Result<Vec<String>, FtpError> {
    let listed = connection.names(path)?.unwrap_or_default();
    let mut names: Vec<String> = listed
        .into_iter()
        .map(|file| file.name)
        .filter(|name| name != RENEWAL)
        .collect();
    names.sort();
    Ok(names)
}

/// The folder that is made and removed to renew a mark.
const RENEWAL: &str = "renewal";

/// Whether the mark on `key` was not renewed for as long as it counts, by the
/// server's clock.
fn has_run_out(
    connection: &mut Connection,
    key: &ObjectKey,
    own: &Lease,
) -> Result<bool, FtpError> {
    let probe_name = temp_name(key.file_name());
    let folder = connection.path(key.parent().as_ref());
    let probe = format!("{folder}/{probe_name}");
    connection.ftp.mkdir(probe.as_str())?;
    let listed = connection.names(&folder);
    connection.ftp.rmdir(probe)?;
    let listed = listed?.unwrap_or_default();
    let time_of = |name: &str| {
        listed
            .iter()
            .find(|file| file.name == name)
            .and_then(|file| file.changed)
    };
    let (Some(changed), Some(now)) = (
        time_of(&format!(".{}.hold", key.file_name())),
        time_of(&probe_name),
    ) else {
        return Ok(false);
    };
    let seconds = lease_seconds(connection, key, own)?;
    Ok(now
        .duration_since(changed)
        .is_ok_and(|age| age.as_secs() > seconds))
}

/// For how long the mark counts: as its holder says, but never shorter than
/// our own would.
fn lease_seconds(
    connection: &mut Connection,
    key: &ObjectKey,
    own: &Lease,
) -> Result<u64, FtpError> {
    let path = hold_path(connection, key);
    let mut longest = own.seconds;
    for holder in holders(connection, &path)? {
        let read = connection.ftp.retr(&format!("{path}/{holder}"), |file| {
            let mut bytes = Vec::new();
            file.take(MAX_LEASE_BYTES)
                .read_to_end(&mut bytes)
                .map_err(FtpError::ConnectionError)?;
            Ok(bytes)
        });
        match read {
            Ok(bytes) => {
                if let Some(lease) = Lease::parse(&bytes) {
                    longest = longest.max(lease.seconds);
                }
            }
            Err(FtpError::UnexpectedResponse(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(longest)
}

impl Server {
    /// Makes sure that the marks under which `key` is written still are ours:
    /// a process that was stopped for long may have been taken for dead, and
    /// what it wrote before removed.
    ///
    /// # Errors
    /// `HoldLost`.
    pub(super) fn check_holds(&self, key: &ObjectKey) -> Result<(), StoreError> {
        for (held, lease) in &self.held.over(key) {
            let location = self.text(Some(key));
            let ours = self
                .call(Operation::Lock, &location, |connection, _| {
                    let path = hold_path(connection, held);
                    is_ours(connection, &path, lease)
                })
                .map_err(|failure| failure.into_store(Operation::Lock, location.clone()))?;
            if !ours {
                return Err(StoreError::HoldLost {
                    operation: Operation::Publish,
                    location,
                });
            }
        }
        Ok(())
    }
}

/// Renews the mark; `false` once it is not ours any more.
fn renew(server: &Weak<Server>, key: &ObjectKey, lease: &Lease) -> bool {
    let Some(server) = server.upgrade() else {
        return false;
    };
    let location = server.text(Some(key));
    let renewed = server.call(Operation::Lock, &location, |connection, _| {
        let path = hold_path(connection, key);
        if !is_ours(connection, &path, lease)? {
            return Ok(false);
        }
        let inner = format!("{path}/{RENEWAL}");
        let made = connection.ftp.mkdir(inner.as_str());
        connection.ftp.cwd(connection.root.clone())?;
        connection.ftp.rmdir(inner)?;
        match made {
            Err(error @ FtpError::ConnectionError(_)) => Err(error),
            _ => Ok(true),
        }
    });
    !matches!(renewed, Ok(false))
}
