use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use super::*;

type Variables = BTreeMap<String, String>;

fn variables(pairs: &[(&str, &str)]) -> Variables {
    let mut variables: Variables = [("PGUSER".to_owned(), "me".to_owned())].into();
    variables.extend(
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned())),
    );
    variables
}

fn resolve(text: &str, pairs: &[(&str, &str)]) -> Result<ConnectOptions, OptionsError> {
    ConnectOptions::resolve((!text.is_empty()).then_some(text), &variables(pairs))
}

fn host_names(options: &ConnectOptions) -> String {
    let names: Vec<String> = options.hosts.iter().map(ToString::to_string).collect();
    names.join(" ")
}

#[test]
fn without_any_setting_the_default_sockets_are_tried() {
    let options = resolve("", &[]).unwrap();
    assert_eq!(
        host_names(&options),
        "socket \"/var/run/postgresql/.s.PGSQL.5432\" socket \"/tmp/.s.PGSQL.5432\""
    );
    assert_eq!((options.user(), options.database()), ("me", "me"));
    assert_eq!(options.tls.mode, SslMode::Prefer);
    assert_eq!(options.connect_timeout, None);
    assert!(options.keepalive.enabled);
}

#[test]
fn the_connection_string_wins_over_the_service_and_that_over_variables() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("services");
    fs::write(
        &file,
        "[prod]\nhost=from-service\nport=1\nuser=service-user\n",
    )
    .unwrap();
    let file = file.to_str().unwrap();
    let env = [
        ("PGSERVICEFILE", file),
        ("PGHOST", "from-env"),
        ("PGPORT", "2"),
        ("PGDATABASE", "env-db"),
        ("PGAPPNAME", "app"),
    ];
    let options = resolve("service=prod port=3", &env).unwrap();
    assert_eq!(host_names(&options), "\"from-service\", port 3");
    assert_eq!(options.user(), "service-user");
    assert_eq!(options.database(), "env-db");
    assert_eq!(options.program_name(), Some("app"));
    let options = resolve("", &[&env[..], &[("PGSERVICE", "prod")]].concat()).unwrap();
    assert_eq!(host_names(&options), "\"from-service\", port 1");
    let error = resolve("service=other", &env).unwrap_err();
    assert!(
        matches!(error, OptionsError::ServiceNotFound { .. }),
        "{error}"
    );
}

#[test]
fn a_service_is_looked_for_at_home_and_in_the_system_folder() {
    let home = tempfile::tempdir().unwrap();
    let system = tempfile::tempdir().unwrap();
    fs::write(home.path().join(".pg_service.conf"), "[mine]\nhost=a\n").unwrap();
    fs::write(
        system.path().join("pg_service.conf"),
        "[ours]\nhost=b\n[mine]\nhost=c\n",
    )
    .unwrap();
    let env = [
        ("HOME", home.path().to_str().unwrap()),
        ("PGSYSCONFDIR", system.path().to_str().unwrap()),
    ];
    for (service, host) in [("mine", "a"), ("ours", "b")] {
        let options = resolve(&format!("service={service}"), &env).unwrap();
        assert_eq!(host_names(&options), format!("\"{host}\", port 5432"));
    }
    let error = resolve("service=x", &[("PGSERVICEFILE", "/nonexistent/file")]).unwrap_err();
    assert!(matches!(error, OptionsError::ServiceFile { .. }), "{error}");
}

#[test]
fn a_plain_word_is_a_database() {
    assert_eq!(resolve("orders", &[]).unwrap().database(), "orders");
}

#[test]
fn several_hosts_take_one_port_or_one_each() {
    let options = resolve("host=a,/run/x,,@abc port=1,2,3,4", &[]).unwrap();
    assert_eq!(
        host_names(&options),
        "\"a\", port 1 socket \"/run/x/.s.PGSQL.2\" socket \"/var/run/postgresql/.s.PGSQL.3\" \
         socket \"/tmp/.s.PGSQL.3\" socket \"@abc/.s.PGSQL.4\""
    );
    let options = resolve("host=a,b port=7", &[]).unwrap();
    assert_eq!(host_names(&options), "\"a\", port 7 \"b\", port 7");
    let options = resolve("postgres://a:1,b/d", &[]).unwrap();
    assert_eq!(host_names(&options), "\"a\", port 1 \"b\", port 5432");
    let options = resolve("host=db hostaddr=127.0.0.1", &[]).unwrap();
    assert_eq!(
        options.hosts[0].target,
        HostTarget::Tcp {
            name: "db".into(),
            address: Some([127, 0, 0, 1].into())
        }
    );
    for text in [
        "host=a,b port=1,2,3",
        "host=a,b hostaddr=127.0.0.1",
        "host=a port=0",
        "host=a port=65536",
        "hostaddr=localhost",
    ] {
        assert!(resolve(text, &[]).is_err(), "{text}");
    }
}

#[test]
fn the_password_file_is_asked_for_each_host_and_for_replication() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join(".pgpass");
    fs::write(
        &path,
        "localhost:5432:me:me:socket\nb:*:replication:me:repl\nb:*:me:me:sql\nc:*:me:me:only\n",
    )
    .unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let env = [("HOME", home.path().to_str().unwrap())];
    type Shown = (Option<Vec<u8>>, Option<Vec<u8>>);
    let shown = |text: &str| -> Vec<Shown> {
        let bytes = |password: &Option<(Password, PasswordOrigin)>| {
            password.as_ref().map(|(word, _)| word.as_bytes().to_vec())
        };
        resolve(text, &env)
            .unwrap()
            .hosts
            .iter()
            .map(|host| (bytes(&host.password), bytes(&host.replication_password)))
            .collect()
    };
    let some = |text: &str| Some(text.as_bytes().to_vec());
    assert_eq!(
        shown("host=b,c,d"),
        [
            (some("sql"), some("repl")),
            (some("only"), some("only")),
            (None, None)
        ]
    );
    // the default sockets are called localhost, others by their folder
    assert_eq!(shown("host=/tmp"), [(some("socket"), some("socket"))]);
    assert_eq!(shown("host=/elsewhere"), [(None, None)]);
    assert_eq!(
        shown("host=b password=given"),
        [(some("given"), some("given"))]
    );
    // an explicit path wins over the one at home
    assert_eq!(shown("host=b passfile=/nonexistent"), [(None, None)]);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(shown("host=b"), [(None, None)]);
    assert_eq!(resolve("host=b", &env).unwrap().warnings().len(), 1);
}

#[test]
fn wrong_values_name_their_place_and_never_a_password() {
    let error = resolve("", &[("PGSSLMODE", "maybe")]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "invalid value for sslmode: \"maybe\" (from PGSSLMODE); expected disable, allow, prefer, \
         require, verify-ca or verify-full"
    );
    for text in [
        "connect_timeout=soon",
        "channel_binding=yes",
        "target_session_attrs=rw",
        "sslsni=2",
        "ssl_min_protocol_version=SSLv3",
        "sslrootcert=system sslmode=require",
        "sslnegotiation=direct",
        "requirepeer=postgres",
        "gssencmode=require",
        "hsot=x",
    ] {
        assert!(resolve(text, &[]).is_err(), "{text}");
    }
    for text in [
        "password=hunter2 hunter2=x",
        "password=hunter2 port=x",
        "password=hunter2",
        "sslpassword=hunter2",
    ] {
        let shown = match resolve(text, &[]) {
            Ok(options) => format!("{options:?} {options}"),
            Err(error) => format!("{error} {error:?}"),
        };
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn timeouts_and_keepalives_are_read() {
    let options = resolve(
        "connect_timeout=7 keepalives_idle=30 keepalives_count=0 tcp_user_timeout=1500",
        &[],
    )
    .unwrap();
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(7)));
    assert_eq!(options.keepalive.idle, Some(Duration::from_secs(30)));
    assert_eq!(options.keepalive.count, None);
    assert_eq!(
        options.keepalive.user_timeout,
        Some(Duration::from_millis(1500))
    );
    let options = resolve("connect_timeout=0 keepalives=0", &[]).unwrap();
    assert_eq!(options.connect_timeout, None);
    assert!(!options.keepalive.enabled);
    let options = options.with_default_connect_timeout(Duration::from_secs(10));
    assert_eq!(options.connect_timeout, Some(Duration::from_secs(10)));
}

#[test]
fn a_system_root_demands_the_full_check() {
    let options = resolve("sslrootcert=system", &[]).unwrap();
    assert_eq!(options.tls.mode, SslMode::VerifyFull);
    assert_eq!(options.tls.root_certificate, RootCertificate::System);
}
