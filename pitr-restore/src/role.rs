//! Whether a restored cluster takes the original's place or lives beside it.

use std::fmt;
use std::path::Path;

use pitr_store::backup::Origin;

use crate::arguments::RoleArgument;
use crate::settings_file::Setting;

/// What a restored cluster is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Role {
    /// A copy beside the original: it must change nothing outside of itself.
    Clone,
    /// The original again: it archives where the original did.
    Primary,
}

/// A role, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RoleChoice {
    pub(crate) role: Role,
    /// Whether the command line said so.
    pub(crate) named: bool,
}

/// The machine that a restore runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) hostname: Option<String>,
    pub(crate) machine_id: Option<String>,
}

impl Machine {
    /// This one.
    pub(crate) fn this() -> Self {
        Self {
            hostname: pitr_postgres::host::name(),
            machine_id: pitr_postgres::host::machine_id(),
        }
    }
}

impl RoleChoice {
    /// A primary only at the place that the backup came from: the same path on
    /// the same machine, both known. The same path on another machine is a
    /// drill, and a drill must not archive over production.
    pub(crate) fn choose(
        named: Option<RoleArgument>,
        origin: &Origin,
        directories: [&Path; 2],
        machine: &Machine,
    ) -> Self {
        if let Some(named) = named {
            let role = match named {
                RoleArgument::Clone => Role::Clone,
                RoleArgument::Primary => Role::Primary,
            };
            return Self { role, named: true };
        }
        let same =
            |ours: &Option<String>, theirs: &Option<String>| ours.is_some() && ours == theirs;
        let at_home = origin
            .data_directory
            .as_deref()
            .is_some_and(|home| directories.contains(&Path::new(home)))
            && same(&machine.hostname, &origin.hostname)
            && same(&machine.machine_id, &origin.machine_id);
        Self {
            role: if at_home { Role::Primary } else { Role::Clone },
            named: false,
        }
    }
}

impl Role {
    /// Settings that keep a clone to itself.
    pub(crate) fn settings(self) -> Vec<Setting> {
        match self {
            Self::Primary => Vec::new(),
            Self::Clone => vec![
                // not over production's archive
                Setting::new("archive_mode", "off"),
                // no commit waits for production's standbys
                Setting::new("synchronous_standby_names", ""),
                // no subscription takes over production's slots at its publisher
                Setting::new("max_logical_replication_workers", "0"),
                // nothing is synchronized from production's slots while it pauses
                Setting::new("primary_conninfo", ""),
                Setting::new("primary_slot_name", ""),
            ],
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Clone => "clone",
            Self::Primary => "primary",
        })
    }
}

impl fmt::Display for RoleChoice {
    /// What it is and how to change it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.role, self.named) {
            (Role::Clone, true) => f.write_str("clone: it archives nothing"),
            (Role::Clone, false) => {
                f.write_str("clone: it archives nothing (--role primary changes that)")
            }
            (Role::Primary, true) => f.write_str("primary: it archives where the original did"),
            (Role::Primary, false) => f.write_str(
                "primary, at the place it came from: it archives where the original did (--role clone changes that)",
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(name: &str) -> Machine {
        Machine {
            hostname: Some(name.to_owned()),
            machine_id: Some(format!("id of {name}")),
        }
    }

    fn origin(name: &str) -> Origin {
        Origin {
            data_directory: Some("/srv/data".to_owned()),
            hostname: Some(name.to_owned()),
            machine_id: Some(format!("id of {name}")),
            ..Origin::default()
        }
    }

    fn role(named: Option<RoleArgument>, origin: &Origin, path: &str, machine: &Machine) -> Role {
        let path = Path::new(path);
        RoleChoice::choose(named, origin, [path, path], machine).role
    }

    #[test]
    fn only_the_same_place_on_the_same_machine_is_home() {
        let here = machine("db1");
        assert_eq!(
            role(None, &origin("db1"), "/srv/data", &here),
            Role::Primary
        );
        assert_eq!(role(None, &origin("db1"), "/srv/other", &here), Role::Clone);
        assert_eq!(role(None, &origin("db2"), "/srv/data", &here), Role::Clone);
        let same_name = Machine {
            machine_id: Some("another".to_owned()),
            ..here.clone()
        };
        assert_eq!(
            role(None, &origin("db1"), "/srv/data", &same_name),
            Role::Clone
        );
    }

    #[test]
    fn what_is_not_known_is_not_home() {
        let unknown = Origin {
            hostname: None,
            machine_id: None,
            ..origin("db1")
        };
        assert_eq!(
            role(None, &unknown, "/srv/data", &Machine::default()),
            Role::Clone
        );
        assert_eq!(
            role(None, &Origin::default(), "/", &machine("db1")),
            Role::Clone
        );
    }

    #[test]
    fn the_command_line_decides() {
        let here = machine("db1");
        let clone = role(
            Some(RoleArgument::Clone),
            &origin("db1"),
            "/srv/data",
            &here,
        );
        assert_eq!(clone, Role::Clone);
        let primary = role(Some(RoleArgument::Primary), &origin("x"), "/y", &here);
        assert_eq!(primary, Role::Primary);
    }

    #[test]
    fn a_clone_does_not_archive_and_follows_nobody() {
        let settings = Role::Clone.settings();
        assert!(settings.contains(&Setting::new("archive_mode", "off")));
        // wherever the original's configuration names its own primary
        assert!(settings.contains(&Setting::new("primary_conninfo", "")));
        assert!(Role::Primary.settings().is_empty());
    }
}
