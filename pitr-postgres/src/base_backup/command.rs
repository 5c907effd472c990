//! The text of the command, in both of its grammars.

use std::fmt::Write as _;

use super::error::BackupError;

/// How the checkpoint at the beginning of a backup is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum CheckpointMode {
    /// At once, with all the I/O that takes.
    Fast,
    /// Spread over minutes (`checkpoint_completion_target`), which spares the server.
    #[default]
    Spread,
}

/// Checksum of each file in the manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ManifestChecksum {
    /// None.
    None,
    /// CRC-32C: finds accidents, and is fast.
    #[default]
    Crc32c,
    /// SHA-224.
    Sha224,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

impl ManifestChecksum {
    /// The name that the server and the manifest use.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "NONE",
            Self::Crc32c => "CRC32C",
            Self::Sha224 => "SHA224",
            Self::Sha256 => "SHA256",
            Self::Sha384 => "SHA384",
            Self::Sha512 => "SHA512",
        }
    }
}

/// What a base backup shall be.
///
/// The default is the right one for a backup into a repository that archives
/// WAL by itself: a spread checkpoint, no waiting on the server's side, a
/// manifest with CRC-32C, a tablespace map instead of symbolic links,
/// checksums of data pages verified by the server, sizes in advance, no limit
/// of the rate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseBackupOptions {
    /// Label: line `LABEL` of `backup_label`.
    pub label: String,
    /// How the checkpoint is done.
    pub checkpoint: CheckpointMode,
    /// Make the server wait until the WAL of the backup is archived (`WAIT`; otherwise `NOWAIT`).
    pub wait_for_archive: bool,
    /// Limit of the rate in kB (1024 bytes) per second, 32 to 1048576.
    pub max_rate_kb_per_s: Option<u32>,
    /// Send a manifest, with this checksum of each file.
    pub manifest: Option<ManifestChecksum>,
    /// Send a file `tablespace_map` instead of symbolic links in `pg_tblspc`.
    pub tablespace_map: bool,
    /// Make the server verify the checksums of data pages, where the cluster has them.
    pub verify_checksums: bool,
    /// Make the server work out the size of each tablespace beforehand.
    pub progress: bool,
}

impl Default for BaseBackupOptions {
    fn default() -> Self {
        Self {
            label: "base backup".to_owned(),
            checkpoint: CheckpointMode::Spread,
            wait_for_archive: false,
            max_rate_kb_per_s: None,
            manifest: Some(ManifestChecksum::Crc32c),
            tablespace_map: true,
            verify_checksums: true,
            progress: true,
        }
    }
}

/// First version with the list of options in parentheses, instead of bare keywords.
const PARENTHESES_SINCE: u32 = 150_000;

/// Source: `MAX_RATE_LOWER` and `MAX_RATE_UPPER`, src/include/backup/basebackup.h.
const MAX_RATE_KB: std::ops::RangeInclusive<u32> = 32..=1_048_576;

impl BaseBackupOptions {
    /// Whether the server of this version sends everything in one stream of marked messages.
    pub(crate) fn is_single_stream(server_version_num: u32) -> bool {
        server_version_num >= PARENTHESES_SINCE
    }

    /// The command for a server of this version.
    ///
    /// Source: `base_backup`, src/backend/replication/repl_gram.y of 14 and of 15;
    /// `parse_basebackup_options`, src/backend/backup/basebackup.c.
    pub(crate) fn command(&self, server_version_num: u32) -> Result<String, BackupError> {
        if let Some(rate) = self.max_rate_kb_per_s
            && !MAX_RATE_KB.contains(&rate)
        {
            return Err(BackupError::MaxRate {
                rate_kb_per_s: rate,
            });
        }
        // this grammar knows no backslash escapes, whatever standard_conforming_strings says
        let label = self.label.replace('\'', "''");
        // writing to a String cannot fail
        let mut text = String::from("BASE_BACKUP ");
        if Self::is_single_stream(server_version_num) {
            let checkpoint = match self.checkpoint {
                CheckpointMode::Fast => "fast",
                CheckpointMode::Spread => "spread",
            };
            let _ = write!(
                text,
                "(LABEL '{label}', CHECKPOINT '{checkpoint}', WAIT {}, PROGRESS {}, \
                 TABLESPACE_MAP {}, VERIFY_CHECKSUMS {}",
                u8::from(self.wait_for_archive),
                u8::from(self.progress),
                u8::from(self.tablespace_map),
                u8::from(self.verify_checksums),
            );
            if let Some(rate) = self.max_rate_kb_per_s {
                let _ = write!(text, ", MAX_RATE {rate}");
            }
            if let Some(checksum) = self.manifest {
                let _ = write!(
                    text,
                    ", MANIFEST 'yes', MANIFEST_CHECKSUMS '{}'",
                    checksum.as_str()
                );
            }
            text.push(')');
        } else {
            let _ = write!(text, "LABEL '{label}'");
            if self.progress {
                text.push_str(" PROGRESS");
            }
            if self.checkpoint == CheckpointMode::Fast {
                text.push_str(" FAST");
            }
            if !self.wait_for_archive {
                text.push_str(" NOWAIT");
            }
            if let Some(rate) = self.max_rate_kb_per_s {
                let _ = write!(text, " MAX_RATE {rate}");
            }
            if self.tablespace_map {
                text.push_str(" TABLESPACE_MAP");
            }
            if !self.verify_checksums {
                text.push_str(" NOVERIFY_CHECKSUMS");
            }
            if let Some(checksum) = self.manifest {
                let _ = write!(
                    text,
                    " MANIFEST 'yes' MANIFEST_CHECKSUMS '{}'",
                    checksum.as_str()
                );
            }
        }
        Ok(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_version_gets_its_own_grammar() {
        let options = BaseBackupOptions {
            label: "it's".to_owned(),
            checkpoint: CheckpointMode::Fast,
            max_rate_kb_per_s: Some(64),
            ..BaseBackupOptions::default()
        };
        assert_eq!(
            options.command(140_023).unwrap(),
            "BASE_BACKUP LABEL 'it''s' PROGRESS FAST NOWAIT MAX_RATE 64 TABLESPACE_MAP \
             MANIFEST 'yes' MANIFEST_CHECKSUMS 'CRC32C'"
        );
        assert_eq!(
            options.command(150_000).unwrap(),
            "BASE_BACKUP (LABEL 'it''s', CHECKPOINT 'fast', WAIT 0, PROGRESS 1, \
             TABLESPACE_MAP 1, VERIFY_CHECKSUMS 1, MAX_RATE 64, MANIFEST 'yes', \
             MANIFEST_CHECKSUMS 'CRC32C')"
        );
    }

    #[test]
    fn a_rate_that_the_server_refuses_is_refused_before() {
        for rate in [0, 31, 1_048_577] {
            let options = BaseBackupOptions {
                max_rate_kb_per_s: Some(rate),
                ..BaseBackupOptions::default()
            };
            assert!(matches!(
                options.command(170_000),
                Err(BackupError::MaxRate { .. })
            ));
        }
    }
}
