//! The whole way from text to [`Config`].

mod auth;
mod problems;
mod shipped;
mod tls;

use std::io::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::kind::Kind;
use super::*;
use crate::secret::Secret;

const SCRAM: &str = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBA=";

fn env(name: &str) -> Option<String> {
    let value = match name {
        "PORT" => "6543",
        "PASSWORD" => "s3cret",
        "YES" => "true",
        "EMPTY" => "",
        "WORD" => "seven",
        "PERIOD" => "250ms",
        "_a1" => "x",
        _ => return None,
    };
    Some(value.to_owned())
}

fn parse(text: &str) -> Config {
    Config::parse(text, "proxy.toml", &env).unwrap_or_else(|error| panic!("{error}\n---\n{text}"))
}

#[test]
fn servers_are_hosts_with_their_ports() {
    let servers = |keys: &str| -> Vec<String> {
        let config = parse(&format!("[databases.a]\n{keys}\n"));
        config.databases["a"].servers().iter().map(ToString::to_string).collect()
    };
    assert_eq!(servers(""), ["127.0.0.1:5432"]);
    assert_eq!(servers("host = \"a, b,::1\"\nport = 1"), ["a:1", "b:1", "[::1]:1"]);
    assert_eq!(servers("host = [\"a\", \"/run/pg\"]\nport = [1, 2]"), ["a:1", "/run/pg:2"]);
    assert_eq!(servers("host = \"a,b\"\nport = \"1, 2\""), ["a:1", "b:2"]);
}

#[test]
fn values_are_understood() {
    let config = parse(
        "[general]\nlisten_addr = \"10.0.0.1, ::1,localhost , *\"\nunix_socket_mode = 0o770\n\
         tcp_keepidle = \"2min\"\ntcp_user_timeout = 1500\nquery_timeout = 0.25\n\
         max_packet_size = \"64MiB\"\nserver_lifetime = 0\nlog_level = \"warn,pgtandem::pool=debug\"\n\
         auth_type = \"md5\"\npool_mode = \"statement\"\nshutdown_timeout = \"1h\"\n\
         [databases.unix]\nhost = \"/run/postgresql\"\n[databases]\nv6.host = \"fe80::1%eth0\"\n",
    );
    let general = &config.general;
    assert_eq!(general.listen_addr, ["10.0.0.1", "::1", "localhost", "*"]);
    assert_eq!(general.unix_socket_mode, 0o770);
    assert_eq!(general.tcp_keepidle, Some(Duration::from_mins(2)));
    assert_eq!(general.tcp_user_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(general.log_level, "warn,pgtandem::pool=debug");
    assert_eq!(general.auth_type, AuthType::Md5);
    assert_eq!(general.pool_mode, PoolMode::Statement);
    assert_eq!(general.shutdown_timeout, Some(Duration::from_hours(1)));
    assert_eq!(general.pool.query_timeout, Duration::from_millis(250));
    assert_eq!(general.pool.max_packet_size, 64 << 20);
    assert_eq!(config.databases["unix"].host, [Host::Unix(PathBuf::from("/run/postgresql"))]);
    assert_eq!(config.databases["v6"].host, [Host::Tcp("fe80::1%eth0".to_owned())]);
    assert_eq!(parse("\u{feff}[general]\r\nworkers = 2\r\n").general.workers, 2);
    let settings = config.pool_settings("unix", "a").unwrap();
    assert_eq!(settings.server_lifetime, Some(Duration::ZERO));
}

#[test]
fn a_user_goes_before_the_database_and_that_before_general() {
    let config = parse(
        "[general]\npool_mode = \"statement\"\ndefault_pool_size = 7\nmin_pool_size = 3\n\
         query_wait_timeout = 10\nquery_timeout = 9\nmax_db_connections = 50\n\
         [databases.app]\npool_mode = \"session\"\npool_size = 5\nquery_wait_timeout = 20\n\
         max_db_connections = 0\nserver_lifetime = 60\n\
         [databases.\"*\"]\nport = 5433\n\
         [users.bob]\npassword = \"b\"\npool_mode = \"transaction\"\npool_size = 2\n\
         query_wait_timeout = 0\nquery_timeout = 0\nmax_user_connections = 4\n",
    );
    let bob = config.pool_settings("app", "bob").unwrap();
    assert_eq!((bob.mode, bob.size, bob.min_size), (PoolMode::Transaction, 2, 2));
    assert_eq!((bob.query_wait_timeout, bob.query_timeout), (None, None));
    assert_eq!((bob.max_db_connections, bob.max_user_connections), (None, Some(4)));
    assert_eq!(bob.server_lifetime, Some(Duration::from_mins(1)));
    assert_eq!((bob.user.as_str(), bob.forced_user), ("bob", false));
    assert_eq!(bob.password, Some(Secret::new("b")));

    let eve = config.pool_settings("app", "eve").unwrap();
    assert_eq!((eve.mode, eve.size, eve.min_size), (PoolMode::Session, 5, 3));
    assert_eq!(eve.query_wait_timeout, Some(Duration::from_secs(20)));
    assert_eq!(eve.query_timeout, Some(Duration::from_secs(9)));
    assert_eq!(eve.password, None);

    let other = config.pool_settings("other", "eve").unwrap();
    assert_eq!((other.mode, other.size, other.servers[0].port), (PoolMode::Statement, 7, 5433));
    assert_eq!(other.dbname, "other");
    assert_eq!(other.max_db_connections, Some(50));
    assert!(parse("[databases.app]\n").pool_settings("other", "eve").is_none());
}

#[test]
fn a_forced_user_owns_the_pool_and_the_client_its_session() {
    let config = parse(
        "[databases.app]\ndbname = \"real\"\nuser = \"owner\"\n\
         [databases.own]\nuser = \"owner\"\npassword = \"d\"\n\
         [users.owner]\npassword = \"o\"\npool_size = 3\nquery_timeout = 1\n\
         [users.bob]\npassword = \"b\"\npool_size = 9\nquery_timeout = 2\npool_mode = \"session\"\n",
    );
    let settings = config.pool_settings("app", "bob").unwrap();
    assert_eq!((settings.dbname.as_str(), settings.user.as_str()), ("real", "owner"));
    assert!(settings.forced_user);
    assert_eq!(settings.size, 3);
    assert_eq!(settings.mode, PoolMode::Session);
    assert_eq!(settings.query_timeout, Some(Duration::from_secs(2)));
    assert_eq!(settings.password, Some(Secret::new("o")));
    let own = config.pool_settings("own", "bob").unwrap();
    assert_eq!(own.password, Some(Secret::new("d")));
}

#[test]
fn advice() {
    let check = |text: &str, expected: &[&str]| {
        let text = format!("[users.root]\npassword = \"x\"\n[databases.app]\n{text}");
        let advice = parse(&text).advice();
        assert_eq!(advice.len(), expected.len(), "{advice:#?}");
        for (advice, beginning) in advice.iter().zip(expected) {
            assert!(advice.starts_with(beginning), "{advice:#?}");
        }
    };
    check("", &[]);
    check("password = \"x\"\n", &["databases.app.password without user"]);
    check(
        &format!("user = \"u\"\npassword = \"{SCRAM}\"\n"),
        &["databases.app.password is a SCRAM secret"],
    );
    check("max_db_connections = 5\n", &["databases.app: max_db_connections 5 is below"]);
    check(
        "[general]\ntcp_keepalive = false\ntcp_keepcnt = 3\n",
        &["general.tcp_keepcnt has no effect"],
    );
    check(
        "[general]\nreserve_pool_size = 3\nreserve_pool_timeout = 0\n",
        &["general.reserve_pool_size has no effect"],
    );
    check(
        "[general]\nserver_reset_query = \"\"\nserver_reset_query_always = true\n",
        &["general.server_reset_query_always has no effect"],
    );
    check("[general]\nauth_type = \"trust\"\n", &[]);
    check(
        "[general]\nauth_type = \"trust\"\nlisten_addr = \"::1,*\"\n",
        &["general.auth_type is \"trust\""],
    );
    check("[general]\nadmin_users = [\"eve\", \"root\"]\n", &["general.admin_users names \"eve\""]);
    check("[general]\nstats_users = \"eve\"\n", &["general.stats_users names \"eve\""]);
    check(
        "[users.old]\npassword = \"md5d41d8cd98f00b204e9800998ecf8427e\"\n",
        &["users.old.password is an md5 hash"],
    );
    let advice = Config::default().advice();
    assert_eq!(advice.len(), 2, "nobody can log in, and there is no database: {advice:#?}");
}

#[test]
fn load_reads_a_file_and_names_it() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"[databases.app]\nprot = 1\n").unwrap();
    let name = file.path().display().to_string();
    let error = load(file.path()).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{name}:2: databases.app.prot: unknown key")), "{error}");
    file.as_file().set_len(0).unwrap();
    assert_eq!(load(file.path()).unwrap(), Config::default());

    let error = load(std::path::Path::new("/nonexistent/proxy.toml")).unwrap_err().to_string();
    assert!(error.starts_with("/nonexistent/proxy.toml: cannot be read: "), "{error}");
}

#[test]
fn no_key_is_read_twice_or_announced_for_later() {
    for kind in Kind::WITH_KEYS {
        let keys = kind.keys();
        for (i, key) in keys.iter().enumerate() {
            assert!(!keys[..i].contains(key), "{key} is read twice");
            assert!(
                !matches!(kind.explain(key, false), Reason::Unavailable(_)),
                "{key} is known and announced for later"
            );
        }
    }
}

/// Pieces of configuration, put together at random.
fn fragments() -> impl Strategy<Value = String> {
    let mut pieces = vec![
        "[",
        "]",
        "[[",
        "]]",
        "=",
        "\"",
        "'",
        "\n",
        ".",
        ",",
        "#",
        "{",
        "}",
        "${",
        "${PORT}",
        "$",
        "general",
        "databases",
        "users",
        "*",
        "[general]\n",
        "[databases.app]\n",
        "[users.bob]\n",
        "0",
        "-1",
        "1e9",
        "0o777",
        "nan",
        "true",
        "\"5s\"",
        "\"/tmp\"",
        "'é'",
        "\u{0}",
        "\\u0000",
        "2026-01-01",
        " = ",
        " = 5\n",
        " = \"x\"\n",
        " = []\n",
        "metrics",
        "\r\n",
        "\u{feff}",
    ];
    for kind in Kind::WITH_KEYS {
        pieces.extend(kind.keys());
    }
    prop::collection::vec(prop::sample::select(pieces), 0..40).prop_map(|pieces| pieces.concat())
}

#[test]
fn metrics_are_for_this_machine_unless_told_otherwise() {
    assert_eq!(parse("").metrics.listen, "127.0.0.1:9930".parse().ok());
    assert_eq!(parse("[metrics]\nlisten = \"\"\n").metrics.listen, None);
    let all = parse("[metrics]\nlisten = \"[::]:0\"\n").metrics.listen;
    assert_eq!(all, "[::]:0".parse().ok());
}

proptest! {
    #[test]
    fn no_text_panics(text in prop_oneof![any::<String>(), fragments()]) {
        match Config::parse(&text, "f", &env) {
            Ok(config) => {
                config.advice();
                config.pool_settings("app", "bob");
            }
            Err(error) => {
                let lines = text.lines().count().max(1) + 1;
                let ConfigError::Invalid { problems } = error else { unreachable!() };
                prop_assert!(!problems.is_empty());
                prop_assert!(problems.iter().all(|p| (1..=lines).contains(&p.line)));
            }
        }
    }

    #[test]
    fn no_value_panics(key in prop::sample::select(Kind::General.keys()), value in any::<String>()) {
        let text = format!("[general]\n{key} = {value}\n[users.a]\npassword = {value:?}\n");
        let _ = Config::parse(&text, "f", &env);
    }

    #[test]
    fn every_key_takes_or_refuses_every_number(
        key in prop::sample::select(Kind::General.keys()),
        number in any::<i64>(),
    ) {
        let text = format!("[general]\n{key} = {number}\n");
        if let Err(error) = Config::parse(&text, "f", &env) {
            let error = error.to_string();
            prop_assert!(error.starts_with("f:2: general."), "{}", error);
        }
    }
}

#[test]
fn what_a_database_says_of_session_state_goes_first() {
    let text = "[general]\nsession_state = \"reject\"\nmax_pinned_connections = 3\n\
                [databases.a]\nsession_state = \"pin\"\nmax_pinned_connections = 0\n[databases.b]\n";
    let config = Config::parse(text, "", &|_| None).expect("it is a good one");
    let of = |database| {
        let settings = config.pool_settings(database, "u").expect("there is such a database");
        (settings.session_state, settings.max_pinned_connections)
    };
    assert_eq!(of("a"), (SessionState::Pin, None));
    assert_eq!(of("b"), (SessionState::Reject, Some(3)));
}
