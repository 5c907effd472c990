//! Servers stop where the plan says: random targets of every kind, on two
//! timelines, against real recoveries. `PITR_TEST_TARGETS` says how many,
//! `PITR_TEST_MAJOR` on which version.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "what a test is for"
)]

mod original;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use original::{Original, archive_all, run, said, succeeded};
use pitr_testbed::{Cluster, PostgresInstall};
use serde_json::Value;

/// Random numbers that are the same in every run (Numerical Recipes).
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.roll(from.len())]
    }
}

/// Every kind of end that a transaction can have, some across many pages.
fn workload(dice: &mut Dice, tag: &str, statements: usize) -> String {
    let mut sql = String::new();
    let mut prepared: Vec<String> = Vec::new();
    for number in 0..statements {
        let row = format!("INSERT INTO t VALUES ('{tag}{number}');\n");
        sql += &match dice.roll(11) {
            0 => format!("BEGIN; {row} ROLLBACK;\n"),
            1 => format!("BEGIN; {row} SAVEPOINT s; {row} ROLLBACK TO s; {row} COMMIT;\n"),
            2 => format!("SELECT pg_create_restore_point('{tag}{number}');\n"),
            3 | 4 => {
                let name = format!("{tag}{number}");
                let statement = format!("BEGIN; {row} PREPARE TRANSACTION '{name}';\n");
                prepared.push(name);
                statement
            }
            5 | 6 if !prepared.is_empty() => {
                let name = prepared.remove(dice.roll(prepared.len()));
                let end = if dice.roll(2) == 0 {
                    "COMMIT"
                } else {
                    "ROLLBACK"
                };
                format!("{end} PREPARED '{name}';\n")
            }
            7 => format!(
                "INSERT INTO t SELECT repeat('x', 400) FROM generate_series(1, {});\n",
                200 + dice.roll(3000)
            ),
            8 => "SELECT pg_switch_wal();\n".to_owned(),
            _ => row,
        };
    }
    for name in prepared {
        sql += &format!("COMMIT PREPARED '{name}';\n");
    }
    sql
}

/// A record as pg_waldump lists it.
#[derive(Debug, Clone)]
struct Listed {
    lsn: String,
    xid: Option<String>,
    time: Option<String>,
}

/// The records of a cluster's own log, from `start` on.
fn listed(cluster: &Cluster, timeline: u32, start: &str) -> Vec<Listed> {
    let mut command = cluster.install().command("pg_waldump").unwrap();
    command
        .arg("-p")
        .arg(cluster.data_dir().join("pg_wal"))
        .args(["-t", &timeline.to_string(), "-s", start]);
    // it ends with an error where the log does
    let output = run(command);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let records: Vec<Listed> = text.lines().filter_map(listed_record).collect();
    assert!(records.len() > 100, "{}", said(&output));
    records
}

fn listed_record(line: &str) -> Option<Listed> {
    let after = |mark: &str| Some(line.split_once(mark)?.1.trim_start());
    let lsn = after("lsn: ")?.split(',').next()?.to_owned();
    let xid = after("tx: ")?.split(',').next()?.trim().to_owned();
    let what = after("desc: ")?;
    let is_end = ["COMMIT", "ABORT"].iter().any(|end| what.starts_with(end));
    if !is_end {
        return Some(Listed {
            lsn,
            xid: None,
            time: None,
        });
    }
    // of a prepared one: COMMIT_PREPARED 745: 2026-11-20 ...
    let (first, rest) = what.split_once(' ')?;
    let (xid, rest) = match (first.ends_with("_PREPARED"), rest.split_once(": ")) {
        (true, Some((xid, rest))) => (xid.to_owned(), rest),
        _ => (xid, rest),
    };
    let time: Vec<&str> = rest.split([' ', ';']).take(2).collect();
    Some(Listed {
        lsn,
        xid: Some(xid),
        time: Some(format!("{}+00", time.join(" "))),
    })
}

/// What is asked for, and what the plan answers.
struct Planned {
    arguments: Vec<String>,
    plan: Value,
}

fn random_target(dice: &mut Dice, records: &[Listed], names: &[String]) -> Vec<String> {
    let ends: Vec<&Listed> = records
        .iter()
        .filter(|record| record.xid.is_some())
        .collect();
    let mut target: Vec<String> = match dice.roll(10) {
        0..=3 => {
            let time = dice.pick(&ends).time.clone().unwrap();
            vec!["--target-time".to_owned(), time]
        }
        4..=6 => {
            let xid = dice.pick(&ends).xid.clone().unwrap();
            vec!["--target-xid".to_owned(), xid]
        }
        7 | 8 => {
            let (high, low) = dice.pick(records).lsn.split_once('/').unwrap();
            // at a record, or within it
            let low = u32::from_str_radix(low, 16).unwrap() + [0, 0, 1, 8][dice.roll(4)];
            vec!["--target-lsn".to_owned(), format!("{high}/{low:X}")]
        }
        _ => return vec!["--target-name".to_owned(), dice.pick(names).clone()],
    };
    if dice.roll(2) == 0 {
        target.push("--exclusive".to_owned());
    }
    target
}

fn lsn(text: &str) -> u64 {
    let (high, low) = text.split_once('/').unwrap();
    let hex = |text| u64::from_str_radix(text, 16).unwrap();
    (hex(high) << 32) | hex(low)
}

fn planned(original: &Original, timeline: &str, target: &[String]) -> Result<Planned, String> {
    let to = original.place("unused");
    let mut arguments: Vec<String> = target.to_vec();
    arguments.extend(["--target-timeline".to_owned(), timeline.to_owned()]);
    let mut words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    words.extend(["--dry-run", "--json"]);
    let output = original.restore(&to, &words);
    assert!(!to.exists(), "a plan makes nothing");
    if !output.status.success() {
        return Err(said(&output));
    }
    Ok(Planned {
        arguments,
        plan: serde_json::from_slice(&output.stdout).unwrap(),
    })
}

/// A restored copy that is taken from one target to the next.
struct Copy {
    directory: PathBuf,
    install: PostgresInstall,
    sockets: PathBuf,
}

impl Copy {
    fn lay_down(original: &Original, name: &str, planned: &Planned) -> Self {
        let directory = original.place(name);
        let mut words: Vec<&str> = planned.arguments.iter().map(String::as_str).collect();
        words.extend(["--target-action", "shutdown", "--role", "clone"]);
        succeeded(&original.restore(&directory, &words));
        Self {
            directory,
            install: original.cluster.install().clone(),
            sockets: original.places.folder(format!("{name}.sockets")).unwrap(),
        }
    }

    /// Puts the target of another plan in the place of the last one.
    fn aim(&self, planned: &Planned) {
        let path = self.directory.join("postgresql.auto.conf");
        let text = fs::read_to_string(&path).unwrap();
        let is_target = |line: &&str| {
            line.starts_with("recovery_target")
                && !line.starts_with("recovery_target_timeline")
                && !line.starts_with("recovery_target_action")
        };
        let mut kept: Vec<String> = text
            .lines()
            .filter(|line| !is_target(line))
            .map(str::to_owned)
            .collect();
        for (name, value) in planned.plan["target"]["settings"].as_object().unwrap() {
            kept.push(format!("{name} = '{}'", value.as_str().unwrap()));
        }
        fs::write(&path, kept.join("\n") + "\n").unwrap();
    }

    /// Runs the server until it ends; what it said.
    fn recover(&self) -> String {
        let mut command = self.install.command("postgres").unwrap();
        command.arg("-D").arg(&self.directory);
        let sockets = format!("unix_socket_directories={}", self.sockets.display());
        for setting in [
            sockets.as_str(),
            "listen_addresses=",
            "timezone=UTC",
            "lc_messages=C",
            "logging_collector=off",
            "fsync=off",
        ] {
            command.args(["-c", setting]);
        }
        said(&run(command))
    }

    /// How far `pg_control` says that replay has come.
    fn replayed_to(&self) -> String {
        let mut command = self.install.command("pg_controldata").unwrap();
        command.arg("-D").arg(&self.directory);
        let text = said(&run(command));
        let line = text
            .lines()
            .find(|line| line.starts_with("Minimum recovery ending location"))
            .unwrap();
        line.split_once(':').unwrap().1.trim().to_owned()
    }
}

/// The line in which a server says where it stops.
fn stopping(log: &str) -> Option<&str> {
    log.lines()
        .find_map(|line| Some(line.split_once("recovery stopping ")?.1))
}

/// The same line, as the plan would have it.
fn expected(planned: &Planned) -> String {
    let stop = &planned.plan["stop"];
    let word = |name: &str| stop[name].as_str().unwrap().to_owned();
    // servers leave zeros at the end out
    let time = || {
        let time = word("time");
        let time = time.strip_suffix("+00").unwrap();
        format!("{}+00", time.trim_end_matches('0').trim_end_matches('.'))
    };
    let side = if stop["replayed"].as_bool().unwrap() {
        "after"
    } else {
        "before"
    };
    let settings = planned.plan["target"]["settings"].as_object().unwrap();
    if settings.contains_key("recovery_target_lsn") {
        format!("{side} WAL location (LSN) \"{}\"", word("lsn"))
    } else if settings.contains_key("recovery_target_name") {
        format!("at restore point \"{}\", time {}", word("name"), time())
    } else {
        let (kind, xid) = (word("kind"), &stop["xid"]);
        format!("{side} {kind} of transaction {xid}, time {}", time())
    }
}

fn install() -> PostgresInstall {
    match std::env::var("PITR_TEST_MAJOR") {
        Ok(major) => PostgresInstall::find(major.parse().unwrap()).unwrap(),
        Err(_) => PostgresInstall::any().unwrap(),
    }
}

#[test]
fn servers_stop_where_the_plan_says() {
    let wanted: usize = std::env::var("PITR_TEST_TARGETS").map_or(16, |n| n.parse().unwrap());
    let mut dice = Dice(20_261_120);
    let original = Original::start_on(&install(), |builder| {
        builder
            .setting("max_prepared_transactions", "20")
            .setting("wal_keep_size", "512MB")
            .setting("autovacuum", "off")
    });
    let start = original.cluster.sql("SELECT pg_current_wal_insert_lsn()");
    original.backup();
    original.cluster.execute(&workload(&mut dice, "a", 40));
    original
        .cluster
        .execute("SELECT pg_create_restore_point('fork')");
    original.backup();
    original.cluster.execute(&workload(&mut dice, "b", 60));
    original.cluster.execute("INSERT INTO t VALUES ('last')");
    original.archive_all();

    let second = original.promoted(
        "second",
        &[
            "--target-name",
            "fork",
            "--target-action",
            "promote",
            "--role",
            "primary",
        ],
    );
    second.execute("ALTER SYSTEM SET wal_keep_size = '512MB'");
    second.execute("SELECT pg_reload_conf()");
    second.execute(&workload(&mut dice, "c", 60));
    second.execute("INSERT INTO t VALUES ('last')");
    archive_all(&second);

    let names = |cluster: &Cluster| -> Vec<String> {
        // the history of a name: the log of the server has each
        cluster
            .log()
            .lines()
            .filter_map(|line| {
                let name = line.split_once("restore point \"")?.1;
                Some(name.split_once('"')?.0.to_owned())
            })
            .collect()
    };
    let ways = [
        (
            "1",
            listed(&original.cluster, 1, &start),
            names(&original.cluster),
        ),
        (
            "2",
            listed(&second, 2, &branch(&original)),
            vec!["fork".to_owned()],
        ),
    ];
    let mut by_copy: BTreeMap<(String, String), Vec<Planned>> = BTreeMap::new();
    let (mut plans, mut refusals) = (0, 0);
    while plans < wanted {
        let (timeline, records, names) = &ways[plans % 2];
        let target = random_target(&mut dice, records, names);
        match planned(&original, timeline, &target) {
            Ok(planned) => {
                let label = planned.plan["backup"]["label"].as_str().unwrap().to_owned();
                let copy = by_copy.entry(((*timeline).to_owned(), label)).or_default();
                copy.push(planned);
                plans += 1;
            }
            // before the first backup, or after the last end
            Err(refusal) => {
                refusals += 1;
                let known = ["lies before base backup", "no transaction ends after"];
                assert!(
                    known.iter().any(|known| refusal.contains(known)),
                    "{target:?}: {refusal}"
                );
                assert!(refusals < wanted, "{refusal}");
            }
        }
    }
    drop(second);

    let mut disagreements = Vec::new();
    for (number, ((timeline, label), mut plans)) in by_copy.into_iter().enumerate() {
        // a copy only goes forward
        plans.sort_by_key(|planned| lsn(planned.plan["stop"]["end_of_replay"].as_str().unwrap()));
        let copy = Copy::lay_down(&original, &format!("copy{number}"), &plans[0]);
        for planned in &plans {
            copy.aim(planned);
            let log = copy.recover();
            let (expected, found) = (expected(planned), stopping(&log));
            let replayed_to = copy.replayed_to();
            let end = planned.plan["stop"]["end_of_replay"].as_str().unwrap();
            let agrees = found.is_some_and(|found| found.trim() == expected);
            eprintln!(
                "{timeline} {label} {:?}: {found:?}, replayed to {replayed_to}",
                planned.arguments
            );
            if !agrees || lsn(&replayed_to) != lsn(end) {
                disagreements.push(format!(
                    "{timeline} {label} {:?}: planned {expected} to {end}, found {found:?} to {replayed_to}\n{log}",
                    planned.arguments
                ));
            }
        }
        fs::remove_dir_all(&copy.directory).unwrap();
    }
    assert!(disagreements.is_empty(), "{}", disagreements.join("\n\n"));
    eprintln!("{wanted} targets, no disagreement; {refusals} more were refused");
}

/// Where timeline 2 left timeline 1.
fn branch(original: &Original) -> String {
    let path = original.cluster_folder().join("wal/00000002.history");
    let text = fs::read_to_string(Path::new(&path)).unwrap();
    text.split('\t').nth(1).unwrap().to_owned()
}
