//! What `postgresql.auto.conf` of a restored cluster says.

use pitr_core::{RecoveryTarget, RecoveryTargetKind, TargetAction};
use pitr_store::backup::Settings as RecordedSettings;

use crate::role::Role;
use crate::settings_file::{Setting, SettingsFile};

/// Settings that steer a recovery or a standby: leftovers of an older one
/// would apply to this one too.
const STALE: [&str; 14] = [
    "restore_command",
    "archive_cleanup_command",
    "recovery_end_command",
    "recovery_min_apply_delay",
    "recovery_target",
    "recovery_target_action",
    "recovery_target_inclusive",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_timeline",
    "recovery_target_xid",
    "primary_conninfo",
    "primary_slot_name",
];

/// Those of them that name a target: PostgreSQL allows one only, wherever it
/// stands, so the others are emptied in case `postgresql.conf` has one.
const TARGETS: [&str; 5] = [
    "recovery_target",
    "recovery_target_lsn",
    "recovery_target_name",
    "recovery_target_time",
    "recovery_target_xid",
];

/// How a restored cluster is to recover.
#[derive(Debug)]
pub(crate) struct RecoverySettings<'a> {
    /// Label of the backup, for the comment.
    pub(crate) label: String,
    /// Value of `restore_command`.
    pub(crate) restore_command: Vec<u8>,
    pub(crate) target: &'a RecoveryTarget,
    pub(crate) action: TargetAction,
    /// Value of `recovery_target_timeline`.
    pub(crate) timeline: String,
    pub(crate) role: Role,
    pub(crate) port: Option<u16>,
    /// Whether the server must not read ahead of what it replays: it would ask
    /// for what lies behind the target, and stop at a gap there.
    ///
    /// Source: `XLogPrefetcherNextBlock`, src/backend/access/transam/xlogprefetcher.c.
    pub(crate) no_read_ahead: bool,
    /// What the original server ran with.
    pub(crate) recorded: &'a RecordedSettings,
}

/// The file, and what was taken out of it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct WrittenSettings {
    pub(crate) bytes: Vec<u8>,
    /// Names of older settings that are gone.
    pub(crate) removed: Vec<String>,
}

impl RecoverySettings<'_> {
    /// The new `postgresql.auto.conf` in place of `auto_conf`, beside the main
    /// configuration file `main_conf`, where that is known.
    pub(crate) fn write(&self, auto_conf: &[u8], main_conf: Option<&[u8]>) -> WrittenSettings {
        let mut file = SettingsFile::parse(auto_conf);
        let main = main_conf.map(SettingsFile::parse).unwrap_or_default();
        let recovery = self.recovery();
        let minimums = self.minimums(&file, &main);
        let role = self.role.settings();
        let port = self.port.map(|port| Setting::new("port", port.to_string()));
        let removed = file.remove(STALE).into_iter().map(str::to_owned).collect();
        let replaced = recovery.iter().chain(&minimums).chain(&role).chain(&port);
        file.remove(replaced.map(|setting| setting.name.as_str()));
        file.append(
            &format!(
                "pitr-restore: recovery from backup {} to the {}",
                self.label, self.target
            ),
            &recovery,
        );
        if !minimums.is_empty() {
            file.append(
                "pitr-restore: what the original server ran with, and recovery must not fall below",
                &minimums,
            );
        }
        if !role.is_empty() {
            file.append(
                "pitr-restore: this is a clone, kept apart from the original; without these lines it is a primary",
                &role,
            );
        }
        if let Some(port) = port {
            file.append("pitr-restore: a port of its own", &[port]);
        }
        WrittenSettings {
            bytes: file.to_bytes(),
            removed,
        }
    }

    fn recovery(&self) -> Vec<Setting> {
        let target = self.target.settings();
        let mut settings = vec![
            Setting::new("restore_command", self.restore_command.clone()),
            Setting::new("archive_cleanup_command", ""),
            Setting::new("recovery_end_command", ""),
            Setting::new("recovery_min_apply_delay", "0"),
            Setting::new("recovery_target_timeline", self.timeline.as_str()),
        ];
        // empty ones first: emptying one after the target was set is an error
        let named = |name: &str| target.iter().any(|(target, _)| *target == name);
        settings.extend(
            TARGETS
                .iter()
                .filter(|name| !named(name))
                .map(|name| Setting::new(*name, "")),
        );
        settings.extend(
            target
                .iter()
                .map(|(name, value)| Setting::new(*name, value.as_str())),
        );
        if self.target.kind != RecoveryTargetKind::Latest {
            settings.push(Setting::new("recovery_target_action", self.action.as_str()));
            if self.no_read_ahead {
                settings.push(Setting::new("recovery_prefetch", "off"));
            }
            if self.action == TargetAction::Pause {
                // without it the server shuts down instead
                settings.push(Setting::new("hot_standby", "on"));
            }
        }
        settings
    }

    /// The settings that recovery checks, where the configuration is not known
    /// to be high enough. One that is higher already is left alone.
    ///
    /// Source: `CheckRequiredParameterValues`, src/backend/access/transam/xlog.c.
    fn minimums(&self, auto: &SettingsFile, main: &SettingsFile) -> Vec<Setting> {
        let recorded = self.recorded;
        [
            ("max_connections", recorded.max_connections),
            ("max_worker_processes", recorded.max_worker_processes),
            ("max_wal_senders", recorded.max_wal_senders),
            (
                "max_prepared_transactions",
                recorded.max_prepared_transactions,
            ),
            (
                "max_locks_per_transaction",
                recorded.max_locks_per_transaction,
            ),
        ]
        .into_iter()
        .filter_map(|(name, minimum)| {
            let minimum = minimum?;
            let configured = auto
                .value(name)
                .or_else(|| main.value(name))
                .and_then(|value| String::from_utf8(value).ok()?.parse::<u32>().ok());
            configured
                .is_none_or(|value| value < minimum)
                .then(|| Setting::new(name, minimum.to_string()))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(
        target: &RecoveryTarget,
        role: Role,
        auto_conf: &str,
        main_conf: Option<&str>,
    ) -> (String, Vec<String>) {
        let recorded = RecordedSettings {
            max_connections: Some(100),
            max_wal_senders: Some(10),
            ..RecordedSettings::default()
        };
        let written = RecoverySettings {
            label: "20261120T060000Z".to_owned(),
            restore_command: b"/bin/pitr-restore --repo '/r' %f %p".to_vec(),
            target,
            action: TargetAction::Pause,
            timeline: "2".to_owned(),
            role,
            port: None,
            no_read_ahead: false,
            recorded: &recorded,
        }
        .write(auto_conf.as_bytes(), main_conf.map(str::as_bytes));
        (String::from_utf8(written.bytes).unwrap(), written.removed)
    }

    fn lsn() -> RecoveryTarget {
        RecoveryTarget {
            kind: RecoveryTargetKind::Lsn("0/5000028".parse().unwrap()),
            inclusive: false,
        }
    }

    #[test]
    fn older_recovery_settings_go_and_others_stay() {
        let (text, removed) = write(
            &lsn(),
            Role::Clone,
            "work_mem = '64MB'\nrecovery_target_time = 'x'\nrestore_command = 'cp'\narchive_mode = 'on'\n",
            None,
        );
        assert!(
            text.starts_with("work_mem = '64MB'\n# pitr-restore:"),
            "{text}"
        );
        assert!(!text.contains("'x'") && !text.contains("'cp'"));
        assert_eq!(removed, ["restore_command", "recovery_target_time"]);
        assert_eq!(text.matches("archive_mode").count(), 1);
        assert!(text.contains("archive_mode = 'off'\n"));
    }

    #[test]
    fn the_target_comes_after_the_targets_that_it_is_not() {
        let (text, _) = write(&lsn(), Role::Primary, "", None);
        let place = |what: &str| text.find(what).unwrap_or_else(|| panic!("{what}: {text}"));
        for name in ["", "_name", "_time", "_xid"] {
            let empty = place(&format!("recovery_target{name} = ''\n"));
            assert!(empty < place("recovery_target_lsn = '0/5000028'\n"));
        }
        place("recovery_target_inclusive = 'off'\n");
        place("recovery_target_timeline = '2'\n");
        place("recovery_target_action = 'pause'\n");
        place("hot_standby = 'on'\n");
        place("restore_command = '/bin/pitr-restore --repo ''/r'' %f %p'\n");
        assert!(!text.contains("archive_mode"));
    }

    #[test]
    fn without_a_target_there_is_no_action() {
        let (text, _) = write(&RecoveryTarget::LATEST, Role::Primary, "", None);
        assert!(!text.contains("recovery_target_action"));
        assert!(!text.contains("hot_standby"));
        for name in TARGETS {
            assert!(text.contains(&format!("{name} = ''\n")), "{text}");
        }
    }

    #[test]
    fn a_setting_that_is_high_enough_is_left_alone() {
        let main = Some("max_connections = 50\nmax_wal_senders = 20\n");
        let (text, _) = write(&lsn(), Role::Primary, "max_connections = 500\n", main);
        assert!(text.starts_with("max_connections = 500\n"));
        assert_eq!(text.matches("max_connections").count(), 1);
        assert!(!text.contains("max_wal_senders"));
        let (text, _) = write(&lsn(), Role::Primary, "max_connections = 20\n", None);
        assert!(text.contains("max_connections = '100'\n"));
        assert!(text.contains("max_wal_senders = '10'\n"));
        assert_eq!(text.matches("max_connections").count(), 1);
    }
}
