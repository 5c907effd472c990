//! A server at full speed, and everybody around it killed at random.
//!
//! `PITR_TEST_ENDURANCE_SECONDS` says how long (20 by default; 600 is the form that counts),
//! `PITR_TEST_SEED` which kills: the seed of a run is printed.
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test stops where something that it needs fails, and says how far it came"
)]

mod enduring;
mod receiving;

use std::time::{Duration, Instant};

use enduring::{Dice, Ledger, Victims};
use pitr_testbed::{Cluster, PostgresInstall, Site};
use receiving::{Receiver, Scene};

/// How long the server is kept busy.
fn duration() -> Duration {
    Duration::from_secs(
        std::env::var("PITR_TEST_ENDURANCE_SECONDS").map_or(20, |text| text.parse().unwrap()),
    )
}

fn receiver(scene: &Scene) -> Receiver {
    scene.receive(&["--slot", "pitr", "--create-slot"])
}

/// A standby that lives on the archive alone: its hook is what is killed.
fn standby(scene: &Scene) -> Cluster {
    let copy = scene.site.dir().join("standby");
    let copied = scene
        .cluster
        .install()
        .command("pg_basebackup")
        .unwrap()
        .args(["-Xs", "-c", "fast", "-d", &scene.cluster.conninfo(), "-D"])
        .arg(&copy)
        .output()
        .unwrap();
    assert!(copied.status.success());
    let mut standby = Cluster::adopt(scene.cluster.install(), &copy).unwrap();
    for (name, value) in [
        ("restore_command", scene.site.restore_command().as_str()),
        ("synchronous_standby_names", ""),
        ("archive_mode", "off"),
        ("wal_retrieve_retry_interval", "100ms"),
    ] {
        standby.configure(name, value).unwrap();
    }
    std::fs::write(copy.join("standby.signal"), "").unwrap();
    standby.start().unwrap();
    standby
}

#[test]
fn no_acknowledged_transaction_is_lost_whoever_is_killed() {
    let install = PostgresInstall::any().unwrap();
    let seconds = duration();
    let is_long = seconds >= Duration::from_secs(60);
    let mut dice = Dice::seeded();
    let site = Site::new().unwrap();
    let digests = site.dir().folder("digests").unwrap();
    // what the server offered, once it was taken: one file for each name and content
    let command = format!(
        "{} || exit 1; touch {}/%f.$(sha256sum < %p | cut -c1-64)",
        site.archive_command(),
        digests.display()
    );
    let segment_size = if is_long { 16 << 20 } else { 1 << 20 };
    let mut scene = Scene::of_size(site, &install, segment_size, |builder| {
        builder
            .setting("archive_command", command)
            .setting("wal_sender_timeout", "5s")
            .setting("max_wal_size", "512MB")
            .setting("checkpoint_timeout", "60s")
            .setting("shared_buffers", "256MB")
    });
    let ledger = Ledger::make(&scene.cluster, if is_long { 10 } else { 1 });
    let mut receiving = receiver(&scene);
    receiving.wait_for_line("receiving from");
    scene.backup();
    scene.be_synchronous();
    let mut standby = standby(&scene);
    let victims = Victims::of(&scene.site);

    let begun = Instant::now();
    let say = |what: &str| eprintln!("{:6.1} s: {what}", begun.elapsed().as_secs_f64());
    let deadline = begun + seconds;
    let mut acknowledged = Vec::new();
    let mut crashes = 0;
    let (mut receivers, mut hooks, mut archivers, mut standbys) = (0, 0, 0, 0);
    while Instant::now() < deadline {
        let run = ledger.run(&scene.cluster, acknowledged.len());
        let crash =
            Instant::now() + dice.between(if is_long { 5_000..25_000 } else { 2_500..5_000 });
        while Instant::now() < crash {
            std::thread::sleep(dice.between(50..if is_long { 1_500 } else { 400 }));
            // a hook that was killed is doubt: its server ends rather than to go on without
            if !standby.is_running() {
                standby.start().unwrap();
                say("the standby is back");
            }
            match dice.below(16) {
                0..6 => archivers += victims.kill_archivers(),
                6..12 => hooks += victims.kill_hooks(),
                12..15 => {
                    drop(receiving.kill());
                    receivers += 1;
                    std::thread::sleep(dice.between(0..500));
                    receiving = receiver(&scene);
                }
                _ => {
                    standby.kill_9();
                    standby.start().unwrap();
                    standbys += 1;
                    say("the standby is back");
                }
            }
        }
        scene.cluster.kill_9();
        crashes += 1;
        acknowledged.push(run.end());
        if Instant::now() < deadline {
            scene.cluster.start().unwrap();
            say("the server is back");
        }
    }
    let total: u64 = acknowledged.iter().flat_map(|run| run.values()).sum();
    say(&format!(
        "{total} transactions were acknowledged; killed: {crashes} times the server, {archivers} \
         archivers, {hooks} hooks, {receivers} receivers, {standbys} standbys"
    ));
    assert!(total > 50, "{total}");
    if is_long {
        assert!(archivers > 0 && hooks > 0 && receivers > 0 && standbys > 0);
    }

    // the machine is lost; what was acknowledged is in the repository or in the spool
    let offered = enduring::acknowledged_digests(&digests);
    std::fs::remove_dir_all(scene.cluster.data_dir()).unwrap();
    drop(receiving.kill());
    let archived = enduring::repository_digests(&scene.site.repo());
    say(&format!(
        "{} files archived, {} by archive_command",
        archived.len(),
        offered.len()
    ));
    assert!(offered.len() > 5, "{}", offered.len());
    for (name, digest) in &offered {
        assert_eq!(digest.len(), 1, "{name} was offered with {digest:?}");
        assert_eq!(
            archived.get(name),
            digest.first(),
            "{name} was acknowledged, and is not what is archived"
        );
    }
    enduring::no_hole(archived.keys(), segment_size);

    let copy = scene.restore_within(Duration::from_secs(1800));
    say("restored");
    for (run, clients) in acknowledged.iter().enumerate() {
        ledger.holds(&copy, run, clients);
    }
    ledger.is_balanced(&copy);
    say("every transaction is there");

    // and the standby, whose hooks were killed, goes on to the archive's end
    if !standby.is_running() {
        standby.start().unwrap();
    }
    let last = archived.keys().rfind(|name| name.len() == 24).unwrap();
    let start = enduring::start_of(last, segment_size);
    standby
        .wait_for_sql(
            &format!(
                "SELECT pg_last_wal_replay_lsn() >= '{:X}/{:X}'",
                start >> 32,
                start & 0xFFFF_FFFF
            ),
            Duration::from_secs(1800),
        )
        .unwrap();
}
