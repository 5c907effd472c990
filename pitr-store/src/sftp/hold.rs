//! Marks of life on an SFTP server, which has no locks: the file `.NAME.hold`
//! beside NAME, made where there is none, with a lease in it.
//!
//! Its age is the difference between its time of change and that of a file
//! which was made just now: both times are the server's.

use std::sync::Arc;

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags, StatusCode};
use tokio::task::JoinHandle;

use super::FILE_MODE;
use super::connect::Link;
use super::session::{Failure, Session, broken};
use crate::key::ObjectKey;
use crate::store::lease::{Lease, MAX_LEASE_BYTES};
use crate::store::temp_name::temp_name;
use crate::store::{Hold, Operation, StoreError};

struct HeldFile {
    session: Arc<Session>,
    key: ObjectKey,
    lease: Lease,
    renewing: JoinHandle<()>,
}

impl Drop for HeldFile {
    fn drop(&mut self) {
        self.renewing.abort();
        self.session.held.remove(&self.lease);
        let session = Arc::clone(&self.session);
        let location = session.text(Some(&self.key));
        let (key, lease) = (&self.key, &self.lease);
        let _ = session.block(async {
            session
                .call(Operation::Lock, &location, |link, _| async move {
                    let path = hold_path(&link, key);
                    // Not another's, who found ours run out.
                    if read(&link, &path).await?.as_ref() == Some(lease) {
                        link.sftp.remove(path).await?;
                    }
                    Ok(())
                })
                .await
        });
    }
}

fn hold_path(link: &Link, key: &ObjectKey) -> String {
    format!(
        "{}/.{}.hold",
        link.path(key.parent().as_ref()),
        key.file_name()
    )
}

/// Takes the mark on `key`, or tells that somebody may have it.
pub(super) fn take(session: &Arc<Session>, key: &ObjectKey) -> Result<Option<Hold>, StoreError> {
    let lease = Lease::new(session.options.lease_seconds);
    let location = session.text(Some(key));
    let taken = session.block(async {
        let mut taken = try_take(session, key, &lease).await;
        if taken.as_ref().is_err_and(Failure::is_no_such_file) {
            match key.parent() {
                Some(folder) => session.make_folder(&folder).await?,
                None => {
                    session.look(None).await?;
                }
            }
            taken = try_take(session, key, &lease).await;
        }
        taken.map_err(|failure| failure.into_store(Operation::Lock, location.clone()))
    })?;
    if !taken {
        return Ok(None);
    }
    session.held.add(key, &lease);
    let renewing =
        session
            .runtime()?
            .spawn(renew(Arc::downgrade(session), key.clone(), lease.clone()));
    Ok(Some(Hold::new(HeldFile {
        session: Arc::clone(session),
        key: key.clone(),
        lease,
        renewing,
    })))
}

async fn try_take(session: &Session, key: &ObjectKey, lease: &Lease) -> Result<bool, Failure> {
    let location = session.text(Some(key));
    session
        .call(Operation::Lock, &location, |link, _| async move {
            let path = hold_path(&link, key);
            if make(&link, &path, lease).await? {
                return Ok(true);
            }
            if !has_run_out(&link, key, &path, lease).await? {
                // A lost answer to our own request leaves our own lease.
                return Ok(read(&link, &path).await?.as_ref() == Some(lease));
            }
            // Of several who find it run out, one renames it.
            let stale = read(&link, &path).await?;
            let aside = format!(
                "{}/{}",
                link.path(key.parent().as_ref()),
                temp_name(key.file_name())
            );
            match link.sftp.rename(path.as_str(), aside.as_str()).await {
                Ok(_) => {}
                Err(error) if broken(&error).is_some() => return Err(error),
                Err(_) => return Ok(false),
            }
            if read(&link, &aside).await? != stale {
                // Somebody was faster, and this is his: give it back.
                let _ = link.sftp.rename(aside.as_str(), path.as_str()).await;
                return Ok(false);
            }
            link.sftp.remove(aside).await?;
            make(&link, &path, lease).await
        })
        .await
}

/// Makes the file with the lease in it; `false` if it is there.
async fn make(link: &Link, path: &str, lease: &Lease) -> Result<bool, SftpError> {
    let attributes = FileAttributes {
        permissions: Some(FILE_MODE),
        ..FileAttributes::empty()
    };
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    match link.sftp.open(path, flags, attributes).await {
        Ok(handle) => {
            let written = link
                .sftp
                .write(handle.handle.as_str(), 0, lease.to_bytes())
                .await;
            link.sftp.close(handle.handle).await?;
            written.map(|_| true)
        }
        Err(error @ SftpError::Status(_)) if broken(&error).is_none() => {
            // The answer for "exists already" differs from server to server.
            match link.sftp.lstat(path).await {
                Ok(_) => Ok(false),
                Err(_) => Err(error),
            }
        }
        Err(error) => Err(error),
    }
}

/// The lease in a file; `None` for a torn one.
async fn read(link: &Link, path: &str) -> Result<Option<Lease>, SftpError> {
    let handle = match link
        .sftp
        .open(path, OpenFlags::READ, FileAttributes::empty())
        .await
    {
        Ok(handle) => handle.handle,
        Err(SftpError::Status(status)) if status.status_code == StatusCode::NoSuchFile => {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let length = u32::try_from(MAX_LEASE_BYTES).unwrap_or(u32::MAX);
    let answer = link.sftp.read(handle.as_str(), 0, length).await;
    link.sftp.close(handle).await?;
    match answer {
        Ok(answer) => Ok(Lease::parse(&answer.data)),
        Err(SftpError::Status(status)) if status.status_code == StatusCode::Eof => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether the lease at `path` was not renewed for as long as it counts, by
/// the server's clock.
async fn has_run_out(
    link: &Link,
    key: &ObjectKey,
    path: &str,
    own: &Lease,
) -> Result<bool, SftpError> {
    let changed = match link.sftp.lstat(path).await {
        Ok(answer) => answer.attrs.mtime,
        Err(SftpError::Status(status)) if status.status_code == StatusCode::NoSuchFile => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let seconds = read(link, path)
        .await?
        .map_or(own.seconds, |lease| lease.seconds.max(own.seconds));
    let probe = format!(
        "{}/{}",
        link.path(key.parent().as_ref()),
        temp_name(key.file_name())
    );
    if !make(link, &probe, own).await? {
        return Ok(false);
    }
    let now = link.sftp.lstat(probe.as_str()).await;
    link.sftp.remove(probe).await?;
    let (Some(changed), Some(now)) = (changed, now?.attrs.mtime) else {
        return Ok(false);
    };
    Ok(u64::from(now.saturating_sub(changed)) > seconds)
}

impl Session {
    /// Makes sure that the marks under which `key` is written still are ours:
    /// a process that was stopped for long may have been taken for dead, and
    /// what it wrote before removed.
    ///
    /// # Errors
    /// `HoldLost`.
    pub(super) async fn check_holds(&self, key: &ObjectKey) -> Result<(), StoreError> {
        for (held, lease) in &self.held.over(key) {
            let location = self.text(Some(key));
            let found = self
                .call(Operation::Lock, &location, |link, _| async move {
                    read(&link, &hold_path(&link, held)).await
                })
                .await
                .map_err(|failure| failure.into_store(Operation::Lock, location.clone()))?;
            if found.as_ref() != Some(lease) {
                return Err(StoreError::HoldLost {
                    operation: Operation::Publish,
                    location,
                });
            }
        }
        Ok(())
    }
}

/// Writes the lease again and again, as long as it is ours.
async fn renew(session: std::sync::Weak<Session>, key: ObjectKey, lease: Lease) {
    loop {
        tokio::time::sleep(Lease::renewal(lease.seconds)).await;
        let Some(session) = session.upgrade() else {
            return;
        };
        let location = session.text(Some(&key));
        let (key, lease) = (&key, &lease);
        let still_ours = session
            .call(Operation::Lock, &location, |link, _| async move {
                let path = hold_path(&link, key);
                if read(&link, &path).await?.as_ref() != Some(lease) {
                    return Ok(false);
                }
                let handle = link
                    .sftp
                    .open(path, OpenFlags::WRITE, FileAttributes::empty())
                    .await?
                    .handle;
                let written = link.sftp.write(handle.as_str(), 0, lease.to_bytes()).await;
                link.sftp.close(handle).await?;
                written.map(|_| true)
            })
            .await;
        if matches!(still_ours, Ok(false)) {
            return;
        }
    }
}
