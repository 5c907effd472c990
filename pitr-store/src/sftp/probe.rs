//! Whether a server's rename refuses to overwrite: found out by trying.

use russh_sftp::client::error::Error as SftpError;
use russh_sftp::protocol::{FileAttributes, OpenFlags};

use super::FILE_MODE;
use super::connect::Link;
use super::session::{Session, broken};
use crate::store::retry::unique;
use crate::store::{Medium, Operation, StoreError};

/// Renames one file onto another in the store's folder, under names that no
/// key has. Leaves nothing behind.
pub(super) fn try_out(session: &Session) -> Result<Medium, StoreError> {
    let location = session.text(None);
    session.block(async {
        session.look(None).await?;
        let create_only = session
            .call(Operation::Create, &location, |link, _| async move {
                let number = unique();
                let first = format!("{}/.probe.{number:016x}.tmp", link.root);
                let second = format!("{}/.probe.{:016x}.tmp", link.root, unique());
                make(&link, &first, b"1").await?;
                make(&link, &second, b"2").await?;
                let refused = match link.sftp.rename(first.as_str(), second.as_str()).await {
                    Ok(_) => false,
                    Err(error) if broken(&error).is_some() => return Err(error),
                    Err(_) => true,
                };
                // Where it was carried out, the first name is gone.
                let _ = link.sftp.remove(first).await;
                link.sftp.remove(second).await?;
                Ok(refused)
            })
            .await
            .map_err(|failure| failure.into_store(Operation::Create, location.clone()))?;
        Ok(Medium { create_only })
    })
}

async fn make(link: &Link, path: &str, bytes: &[u8]) -> Result<(), SftpError> {
    let attributes = FileAttributes {
        permissions: Some(FILE_MODE),
        ..FileAttributes::empty()
    };
    let flags = OpenFlags::WRITE | OpenFlags::CREATE | OpenFlags::EXCLUDE;
    let handle = link.sftp.open(path, flags, attributes).await?.handle;
    link.sftp.write(handle.as_str(), 0, bytes.to_vec()).await?;
    link.sftp.close(handle).await?;
    Ok(())
}
