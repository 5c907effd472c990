//! The names of libpq's settings.

/// How a setting is treated here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Treatment {
    /// It has its effect.
    Used,
    /// It changes nothing that a backup would notice: taken and passed over.
    Ignored,
    /// It asks for protection that is not given here: refused unless it has one of these values.
    RefusedUnless(&'static [&'static str]),
}

/// One setting: its name in connection strings, and its environment variable.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keyword {
    pub(crate) name: &'static str,
    pub(crate) variable: Option<&'static str>,
    pub(crate) treatment: Treatment,
}

const fn used(name: &'static str, variable: &'static str) -> Keyword {
    Keyword {
        name,
        variable: Some(variable),
        treatment: Treatment::Used,
    }
}

const fn used_without_variable(name: &'static str) -> Keyword {
    Keyword {
        name,
        variable: None,
        treatment: Treatment::Used,
    }
}

const fn ignored(name: &'static str) -> Keyword {
    Keyword {
        name,
        variable: None,
        treatment: Treatment::Ignored,
    }
}

const fn refused(
    name: &'static str,
    variable: Option<&'static str>,
    unless: &'static [&'static str],
) -> Keyword {
    Keyword {
        name,
        variable,
        treatment: Treatment::RefusedUnless(unless),
    }
}

/// Source: `PQconninfoOptions`, src/interfaces/libpq/fe-connect.c of 18.
pub(crate) const KEYWORDS: &[Keyword] = &[
    used("service", "PGSERVICE"),
    used("servicefile", "PGSERVICEFILE"),
    used("user", "PGUSER"),
    used("password", "PGPASSWORD"),
    used("passfile", "PGPASSFILE"),
    used("channel_binding", "PGCHANNELBINDING"),
    used("connect_timeout", "PGCONNECT_TIMEOUT"),
    used("dbname", "PGDATABASE"),
    used("host", "PGHOST"),
    used("hostaddr", "PGHOSTADDR"),
    used("port", "PGPORT"),
    used("options", "PGOPTIONS"),
    used("application_name", "PGAPPNAME"),
    used_without_variable("fallback_application_name"),
    used_without_variable("keepalives"),
    used_without_variable("keepalives_idle"),
    used_without_variable("keepalives_interval"),
    used_without_variable("keepalives_count"),
    used_without_variable("tcp_user_timeout"),
    used("sslmode", "PGSSLMODE"),
    used("sslnegotiation", "PGSSLNEGOTIATION"),
    used("sslcert", "PGSSLCERT"),
    used("sslkey", "PGSSLKEY"),
    used("sslrootcert", "PGSSLROOTCERT"),
    used("sslsni", "PGSSLSNI"),
    used("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    used("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    used("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ignored("authtype"),
    ignored("client_encoding"),
    ignored("gssdelegation"),
    ignored("gsslib"),
    ignored("krbsrvname"),
    ignored("load_balance_hosts"),
    ignored("max_protocol_version"),
    ignored("replication"),
    ignored("sslcompression"),
    ignored("sslkeylogfile"),
    ignored("tty"),
    refused("gssencmode", Some("PGGSSENCMODE"), &["disable", "prefer"]),
    refused(
        "min_protocol_version",
        Some("PGMINPROTOCOLVERSION"),
        &["3.0"],
    ),
    refused("scram_client_key", None, &[]),
    refused("scram_server_key", None, &[]),
    refused("sslcertmode", Some("PGSSLCERTMODE"), &["allow"]),
    refused("require_auth", Some("PGREQUIREAUTH"), &[]),
    refused("requirepeer", Some("PGREQUIREPEER"), &[]),
    refused("sslcrl", Some("PGSSLCRL"), &[]),
    refused("sslcrldir", Some("PGSSLCRLDIR"), &[]),
    refused("sslpassword", None, &[]),
    refused("oauth_issuer", None, &[]),
    refused("oauth_client_id", None, &[]),
    refused("oauth_client_secret", None, &[]),
    refused("oauth_scope", None, &[]),
];

pub(crate) fn find(name: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|keyword| keyword.name == name)
}
