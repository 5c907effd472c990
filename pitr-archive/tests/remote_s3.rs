//! Archiving to S3: what is asked of the server, and what is not asked of it
//! where the repository is a folder.
#![cfg(feature = "s3")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests: a panic is how they report"
)]

mod scene;

use std::process::Command;
use std::sync::Arc;

use pitr_testbed::{Fault, FaultProxy, Moto, TlsProxy};
use scene::backlog::Backlog;
use scene::{Repo, Segment};

/// A bucket of its own behind a proxy; `None`, with a line that says why, where
/// there is no S3 server.
fn bucket(name: &str) -> Option<(Arc<Moto>, FaultProxy)> {
    let moto = Moto::shared()
        .map_err(|error| eprintln!("skipped: {error}"))
        .ok()?;
    moto.make_bucket(name).unwrap();
    let proxy = FaultProxy::start(moto.address()).unwrap();
    Some((moto, proxy))
}

fn command(bucket: &str, proxy: &FaultProxy, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pitr-archive"));
    command
        .env_clear()
        .env("PITR_REPO", format!("s3://{bucket}/pg"))
        .env("PITR_CONFIG", "/dev/null")
        .env("AWS_ACCESS_KEY_ID", "test")
        .env("AWS_SECRET_ACCESS_KEY", "test")
        .env("AWS_ENDPOINT_URL", proxy.endpoint())
        .current_dir("/")
        .args(words);
    command
}

#[track_caller]
fn succeeds(mut command: Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn push(bucket: &str, proxy: &FaultProxy, segment: &Segment) -> Command {
    command(
        bucket,
        proxy,
        &[segment.path().to_str().unwrap(), segment.name()],
    )
}

/// The requests since the last time, as `METHOD kind`, in order of name.
fn requests(proxy: &FaultProxy) -> Vec<String> {
    let mut requests: Vec<String> = proxy
        .seen()
        .iter()
        .map(|seen| {
            let what = if seen.path.contains("list-type") {
                "names"
            } else {
                match seen.path.rsplit('/').next().unwrap() {
                    name if name.ends_with(".json") => name,
                    _ => "segment",
                }
            };
            format!("{} {what}", seen.method)
        })
        .collect();
    requests.sort();
    proxy.forget();
    requests
}

#[test]
fn a_push_asks_three_things_of_the_server_and_puts_the_segment_once() {
    let Some((_moto, proxy)) = bucket("requests") else {
        return;
    };
    let segment = Segment::real();
    succeeds(command("requests", &proxy, &["init"]));
    succeeds(push("requests", &proxy, &segment));
    // the cluster is known by now
    requests(&proxy);
    succeeds(push("requests", &proxy, &segment));
    assert_eq!(
        requests(&proxy),
        [
            "GET cluster.json",
            "GET names",
            "GET pitr.json",
            "GET segment",
            "HEAD segment"
        ],
        "of a segment that is there already"
    );
    let asked = [
        "GET cluster.json",
        "GET names",
        "GET names",
        "GET pitr.json",
        "PUT segment",
    ];
    delete_segment(&proxy, &segment);
    requests(&proxy);
    succeeds(push("requests", &proxy, &segment));
    assert_eq!(requests(&proxy), asked);
    // the same under another codec
    delete_segment(&proxy, &segment);
    requests(&proxy);
    let mut plain = push("requests", &proxy, &segment);
    plain.args(["--compression", "none"]);
    succeeds(plain);
    assert_eq!(requests(&proxy), asked);
}

/// The segment's object goes, so that it can be pushed anew.
fn delete_segment(proxy: &FaultProxy, segment: &Segment) {
    let identifier = u64::from_le_bytes(
        std::fs::read(segment.data_directory().join("global/pg_control")).unwrap()[..8]
            .try_into()
            .unwrap(),
    );
    let name = segment.name();
    let path = format!(
        "/requests/pg/{identifier}/wal/{}/{}/{name}.zst",
        &name[..8],
        &name[8..16]
    );
    let signed = [(
        "Authorization",
        "AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0",
    )];
    let answer =
        pitr_testbed::http_request(proxy.address(), "DELETE", &path, &signed, b"").unwrap();
    assert_eq!(answer.status, 204, "{}", answer.head);
}

#[test]
fn a_push_survives_a_server_that_has_a_bad_day() {
    let Some((_moto, proxy)) = bucket("bad-day") else {
        return;
    };
    let segment = Segment::real();
    succeeds(command("bad-day", &proxy, &["init"]));
    proxy.inject("GET", "pitr.json", 1, Fault::Hangup);
    proxy.inject(
        "GET",
        "list-type",
        1,
        Fault::Refuse {
            status: 503,
            code: "SlowDown",
        },
    );
    proxy.inject("PUT", ".zst", 1, Fault::CutAnswer { after_bytes: 0 });
    succeeds(push("bad-day", &proxy, &segment));
    assert_eq!(proxy.left(), 0);
    succeeds(command("bad-day", &proxy, &["list"]));
}

#[test]
fn an_authority_of_ones_own_is_trusted_where_it_is_named_and_nowhere_else() {
    let Some((_moto, proxy)) = bucket("private-authority") else {
        return;
    };
    let tls = TlsProxy::start(proxy.address()).unwrap();
    let segment = Segment::real();
    let over_tls = |words: &[&str]| {
        let mut command = command("private-authority", &proxy, words);
        command.env("AWS_ENDPOINT_URL", tls.endpoint());
        command
    };
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("pitr.toml");
    // with the budget that there is by default: nothing of this is tried again
    let named = |path: &std::path::Path| {
        let text = format!("[s3]\nca_file = \"{}\"\n", path.display());
        std::fs::write(&config, text).unwrap();
    };
    // in pitr.toml, as AWS's tools name it, and as OpenSSL's do
    named(&tls.ca_file());
    let mut init = over_tls(&["init"]);
    init.env("PITR_CONFIG", &config);
    succeeds(init);
    let mut pushed = over_tls(&[segment.path().to_str().unwrap(), segment.name()]);
    pushed.env("AWS_CA_BUNDLE", tls.ca_file());
    succeeds(pushed);
    let mut listed = over_tls(&["list"]);
    listed.env("SSL_CERT_FILE", tls.ca_file());
    succeeds(listed);
    assert!(!proxy.seen().is_empty());

    let fails = |mut command: Command, expected: &str| {
        proxy.forget();
        let begun = std::time::Instant::now();
        let output = command.output().unwrap();
        assert!(
            begun.elapsed().as_secs() < 30,
            "it was tried again and again"
        );
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(said.matches("ERROR:").count(), 1, "{said}");
        let line = said.lines().next().unwrap();
        assert!(line.contains("no trusted connection"), "{said}");
        assert!(line.contains(expected), "{said}");
        assert!(said.contains("HINT:") && said.contains("ca_file"), "{said}");
        assert!(proxy.seen().is_empty(), "something was sent all the same");
    };
    fails(over_tls(&["list"]), "UnknownIssuer");
    let mut misnamed = over_tls(&["list"]);
    misnamed
        .env("AWS_ENDPOINT_URL", tls.misnamed_endpoint())
        .env("AWS_CA_BUNDLE", tls.ca_file());
    fails(misnamed, "not valid for name");
    let mut push = over_tls(&[segment.path().to_str().unwrap(), segment.name()]);
    push.env("SSL_CERT_FILE", tls.server_certificate());
    fails(push, "");
    for unusable in [dir.path().join("missing"), config.clone()] {
        named(&unusable);
        let mut command = over_tls(&["list"]);
        command.env("PITR_CONFIG", &config);
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains(unusable.to_str().unwrap()), "{said}");
        assert!(said.contains("HINT:"), "{said}");
    }
}

#[test]
fn a_push_to_a_folder_opens_no_socket_and_no_event_queue() {
    let (repo, segment) = (Repo::init(), Segment::real());
    let mut command = Command::new("strace");
    command
        .args(["-f", "-e", "trace=%network,epoll_create1,eventfd2", "-o"])
        .arg(repo.trace())
        .arg(env!("CARGO_BIN_EXE_pitr-archive"))
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("PITR_REPO", repo.path())
        .arg(segment.path())
        .arg(segment.name());
    succeeds(command);
    let trace = std::fs::read_to_string(repo.trace()).unwrap();
    assert!(trace.contains("exited with 0"), "{trace}");
    for call in ["socket(", "connect(", "epoll_create1(", "eventfd2("] {
        assert!(!trace.contains(call), "{trace}");
    }
}

#[test]
fn a_batch_goes_into_a_bucket_and_is_not_read_back_by_the_calls_that_come_for_it() {
    let Some((_moto, proxy)) = bucket("ahead") else {
        return;
    };
    let backlog = Backlog::of(6);
    let state = tempfile::tempdir().unwrap();
    succeeds(command("ahead", &proxy, &["init"]));
    let push = |name: &str| {
        let path = backlog.path(name);
        let mut push = command("ahead", &proxy, &[path.to_str().unwrap(), name]);
        push.arg("--state").arg(state.path());
        push.args(["--look-ahead-seconds", "600"]);
        let output = push.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    proxy.forget();
    assert_eq!(push(&backlog.names()[0]), "");
    let asked = requests(&proxy);
    let puts = |asked: &[String]| asked.iter().filter(|one| *one == "PUT segment").count();
    assert_eq!(puts(&asked), 6, "{asked:?}");
    // the first one is told of at once, and was not digested
    for name in &backlog.names()[1..] {
        assert_eq!(push(name), "");
        assert_eq!(
            requests(&proxy),
            [
                "GET cluster.json",
                "GET names",
                "GET pitr.json",
                "HEAD segment"
            ]
        );
    }
    // what was replaced since is not taken for it: the same name, another object
    let name = &backlog.names()[3];
    let mut other = backlog.bytes(name);
    other[9000] ^= 1;
    std::fs::write(backlog.path(name), other).unwrap();
    let path = backlog.path(name);
    let mut refused = command("ahead", &proxy, &[path.to_str().unwrap(), name.as_str()]);
    let output = refused.arg("--state").arg(state.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
}
