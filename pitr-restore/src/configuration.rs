//! The configuration files of a restored cluster.

use std::path::PathBuf;

use pitr_store::backup::BackupInfo;

use crate::lay_down::{LayDownError, UnfinishedCluster};
use crate::recovery_settings::RecoverySettings;
use crate::role::Role;
use crate::settings_file::{Setting, SettingsFile};

const MAIN: &str = "postgresql.conf";
const AUTO: &str = "postgresql.auto.conf";
const HBA: &str = "pg_hba.conf";
const IDENT: &str = "pg_ident.conf";
const SIGNAL: &str = "recovery.signal";

/// Local connections of the operating system's user of the same name, and no
/// others.
const HBA_TEXT: &str = "# Made by pitr-restore: the backup holds no pg_hba.conf.\n\
    # TYPE  DATABASE     USER  ADDRESS  METHOD\n\
    local   all          all            peer\n\
    local   replication  all            peer\n";
const IDENT_TEXT: &str = "# Made by pitr-restore: the backup holds no pg_ident.conf.\n";

/// What was done to the configuration, for the DBA to be told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Configured {
    /// Files that were made, because the backup has none.
    pub(crate) made: Vec<&'static str>,
    /// Older settings that were taken out of `postgresql.auto.conf`.
    pub(crate) removed: Vec<String>,
    /// The configuration file that the server has to be started with, where it
    /// lies elsewhere.
    pub(crate) config_file: Option<PathBuf>,
    /// The data directory that `postgresql.conf` named, where it was another
    /// one: the line was taken out.
    pub(crate) other_data_directory: Option<PathBuf>,
}

/// Writes the settings, the signal file, and whatever configuration is missing.
///
/// Debian and others keep `postgresql.conf` and its kin outside of the data
/// directory, where no base backup reaches them. A clone gets files of its
/// own then; a primary goes back to those that it had.
pub(crate) fn configure(
    cluster: &UnfinishedCluster<'_>,
    info: &BackupInfo,
    settings: &RecoverySettings<'_>,
) -> Result<Configured, LayDownError> {
    let mut configured = Configured::default();
    let mut main = cluster.read(MAIN)?;
    if main.is_none() {
        match (settings.role, &info.origin.config_file) {
            (Role::Primary, Some(config_file)) => {
                configured.config_file = Some(config_file.into());
                // may be on this machine or not; read as far as it is
                main = std::fs::read(config_file).ok();
            }
            _ => {
                let text = main_text(info);
                cluster.replace(MAIN, &text)?;
                configured.made.push(MAIN);
                main = Some(text);
            }
        }
    }
    if configured.config_file.is_none() {
        for (name, text) in [(HBA, HBA_TEXT), (IDENT, IDENT_TEXT)] {
            if cluster.read(name)?.is_none() {
                cluster.replace(name, text.as_bytes())?;
                configured.made.push(name);
            }
        }
        configured.other_data_directory = other_data_directory(cluster, main.as_deref());
        if configured.other_data_directory.is_some() {
            let mut file = SettingsFile::parse(main.as_deref().unwrap_or_default());
            file.remove(["data_directory"]);
            cluster.replace(MAIN, &file.to_bytes())?;
        }
    }
    let auto = cluster.read(AUTO)?.unwrap_or_default();
    let written = settings.write(&auto, main.as_deref());
    configured.removed = written.removed;
    cluster.replace(AUTO, &written.bytes)?;
    cluster.replace(SIGNAL, b"")?;
    Ok(configured)
}

/// The least that a server needs: everything else has a default, and what
/// recovery needs stands in `postgresql.auto.conf`.
fn main_text(info: &BackupInfo) -> Vec<u8> {
    let mut settings = vec![Setting::new("listen_addresses", "")];
    // extensions that write log records of their own must be there to replay them
    if let Some(libraries) = info.settings.other.get("shared_preload_libraries")
        && !libraries.is_empty()
    {
        settings.push(Setting::new("shared_preload_libraries", libraries.as_str()));
    }
    let mut file = SettingsFile::default();
    file.append(
        "Made by pitr-restore: the backup holds no postgresql.conf.",
        &settings,
    );
    file.to_bytes()
}

/// `data_directory` in `postgresql.conf` wins over the directory that the
/// server is started with: `pg_ctl start -D` of a copy would start the
/// original.
///
/// Source: `SelectConfigFiles`, src/backend/utils/misc/guc.c.
fn other_data_directory(cluster: &UnfinishedCluster<'_>, main: Option<&[u8]>) -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt as _;
    let named = SettingsFile::parse(main?).value("data_directory")?;
    let named = PathBuf::from(std::ffi::OsString::from_vec(named));
    (!named.as_os_str().is_empty() && named != cluster.path()).then_some(named)
}
