//! `/metrics` after real traffic, and what is built on it: alert rules and the dashboard.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use crate::support::{
    cluster::free_port,
    config::Config,
    fixture::Fixture,
    http::{ask, get, request, try_ask},
    login::Login,
    message::{bind, close_statement, execute, message, parse, query, sync, terminate},
    poll,
    tools::{feed, successful, tool},
};

/// A proxy that shows its metrics on a port.
struct Watched {
    fixture: Fixture,
    port: u16,
}

impl Watched {
    fn start(configure: impl FnOnce(Config) -> Config) -> Self {
        let port = free_port();
        let fixture = Fixture::start(|config| {
            configure(config.metrics(&format!("listen = \"127.0.0.1:{port}\"")))
        });
        poll("metrics are listened for", || answers(port));
        Self { fixture, port }
    }

    /// All series.
    fn scrape(&self) -> String {
        let answer = get(self.port, "/metrics");
        assert_eq!(answer.status, 200, "{}", answer.head);
        assert!(answer.head.contains("content-type: text/plain; version=0.0.4"), "{}", answer.head);
        answer.body
    }

    /// The value of a metric of the pool of `postgres`; `labels` are those behind the pool's.
    fn value(&self, name: &str, labels: &str) -> f64 {
        value_in(&self.scrape(), &self.series(name, labels))
    }

    fn series(&self, name: &str, labels: &str) -> String {
        let comma = if labels.is_empty() { "" } else { "," };
        let database = &self.fixture.database;
        format!("{name}{{database=\"{database}\",user=\"postgres\"{comma}{labels}}}")
    }

    /// Waits until a metric has a value: workers count when they have acted.
    fn becomes(&self, name: &str, labels: &str, expected: f64) {
        poll(&format!("{name}{{{labels}}} becomes {expected}"), || {
            self.value(name, labels).to_bits() == expected.to_bits()
        });
    }
}

fn answers(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// The value of one series.
#[track_caller]
fn value_in(text: &str, series: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
    let found = found.unwrap_or_else(|| panic!("no {series} in\n{text}"));
    found.parse().expect("a number")
}

/// Names of metrics in a scrape, those of histograms with and without their endings.
fn names_in(text: &str) -> BTreeSet<String> {
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut names = BTreeSet::new();
    for (name, kind) in types.filter_map(|line| line.split_once(' ')) {
        names.insert(name.to_owned());
        if kind == "histogram" {
            names.extend(["bucket", "sum", "count"].map(|ending| format!("{name}_{ending}")));
        }
    }
    names
}

fn file(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

#[test]
fn traffic_is_counted_exactly() {
    let watched = Watched::start(|config| config.general("max_prepared_statements = 1"));
    let mut client = watched.fixture.connect();
    client.query("select 1");
    client.query("begin");
    client.query("select no_such_column");
    client.query("rollback");
    client.run(&[parse("a", "select 1"), bind("", "a"), execute(""), sync()]);
    client.run(&[parse("b", "select 2"), bind("", "b"), execute(""), sync()]);
    client.run(&[bind("", "a"), execute(""), sync()]);
    client.run(&[bind("", "a"), execute(""), sync()]);
    client.run(&[close_statement("a"), sync()]);
    client.run(&[parse("b", "select 3"), sync()]);
    // Three queries at once, the second of which fails.
    client.send(&[query("select 1"), query("select 1/0"), query("select 2")]);
    client.ready(3);
    let text = watched.scrape();
    let check = |name: &str, labels: &str, expected: f64| {
        let found = value_in(&text, &watched.series(name, labels));
        assert_eq!(found.to_bits(), expected.to_bits(), "{name}{{{labels}}} is {found}");
    };
    check("pgtandem_query_seconds_count", "", 13.0);
    check("pgtandem_query_seconds_bucket", "le=\"+Inf\"", 13.0);
    // BEGIN and the failed query end none.
    check("pgtandem_transaction_seconds_count", "", 11.0);
    check("pgtandem_client_login_seconds_count", "", 1.0);
    check("pgtandem_server_connect_seconds_count", "", 1.0);
    check("pgtandem_client_parses_total", "", 3.0);
    check("pgtandem_client_binds_total", "", 4.0);
    check("pgtandem_prepared_statement_lookups_total", "result=\"miss\"", 1.0);
    check("pgtandem_prepared_statement_lookups_total", "result=\"hit\"", 3.0);
    check("pgtandem_errors_total", "origin=\"server\",class=\"42\"", 1.0);
    check("pgtandem_errors_total", "origin=\"server\",class=\"22\"", 1.0);
    check("pgtandem_errors_total", "origin=\"pooler\",class=\"42\"", 1.0);
    check("pgtandem_clients", "state=\"idle\"", 1.0);
    check("pgtandem_servers", "state=\"idle\"", 1.0);
    check("pgtandem_pool_size", "", 1.0);
    let evictions =
        value_in(&text, &watched.series("pgtandem_prepared_statement_evictions_total", ""));
    assert!(evictions >= 2.0, "{evictions}");
    let login = r#"pgtandem_logins_total{outcome="success"}"#;
    assert!(value_in(&text, login) >= 1.0);
    assert!(value_in(&text, "process_cpu_seconds_total") > 0.0);
    assert!(value_in(&text, "process_resident_memory_bytes") > 1e6);
    assert!(value_in(&text, "pgtandem_worker_turns_total{worker=\"0\"}") > 1.0);
}

#[test]
fn bytes_are_counted_as_they_pass() {
    let watched = Watched::start(|config| config);
    let mut client = watched.fixture.connect();
    let before = watched.scrape();
    let messages = [query("select repeat('x', 100000)")];
    client.run(&messages);
    let after = watched.scrape();
    let grown = |name: &str| {
        let series = watched.series(name, "");
        value_in(&after, &series) - value_in(&before, &series)
    };
    let sent = messages.concat().len();
    let sent = f64::from(u32::try_from(sent).expect("short"));
    assert_eq!(grown("pgtandem_client_received_bytes_total").to_bits(), sent.to_bits());
    // RowDescription, DataRow, CommandComplete, ReadyForQuery.
    let answer = f64::from(33 + 1 + 4 + 2 + 4 + 100_000 + 1 + 4 + 9 + 1 + 4 + 1);
    let found = grown("pgtandem_client_sent_bytes_total");
    assert!((found - answer).abs() < 10.0, "{found} of {answer}");
}

#[test]
fn durations_are_those_that_clients_see() {
    let watched = Watched::start(|config| config);
    let mut client = watched.fixture.connect();
    client.query("begin");
    client.query("select pg_sleep(0.3)");
    client.query("commit");
    let text = watched.scrape();
    let sum = |name: &str| value_in(&text, &watched.series(&format!("{name}_sum"), ""));
    let (query, transaction) = (sum("pgtandem_query_seconds"), sum("pgtandem_transaction_seconds"));
    assert!((0.3..5.0).contains(&query), "{query}");
    assert!(transaction >= query, "{transaction} {query}");
    let up_to = |le: &str| {
        value_in(&text, &watched.series("pgtandem_query_seconds_bucket", &format!("le=\"{le}\"")))
    };
    assert!(up_to("0.25") <= 2.0 && up_to("10") >= 3.0, "{text}");
}

#[test]
fn waiting_clients_are_seen_and_their_wait_is_counted() {
    let watched = Watched::start(|config| config.general("query_wait_timeout = \"400ms\""));
    let mut holder = watched.fixture.connect();
    holder.query("begin");
    let mut waiter = watched.fixture.connect();
    waiter.send(&[query("select 1")]);
    watched.becomes("pgtandem_clients", "state=\"waiting\"", 1.0);
    waiter.until_end();
    let text = watched.scrape();
    let read = |name: &str, labels: &str| value_in(&text, &watched.series(name, labels));
    assert!(read("pgtandem_client_wait_seconds_sum", "") >= 0.39);
    let check = |name: &str, labels: &str, expected: f64| {
        assert_eq!(read(name, labels).to_bits(), expected.to_bits(), "{name}{{{labels}}}");
    };
    // BEGIN found a server connection at once; the other client waited in vain.
    check("pgtandem_client_wait_seconds_count", "", 2.0);
    check("pgtandem_server_assignments_total", "", 1.0);
    check("pgtandem_timeouts_total", "timeout=\"query_wait\"", 1.0);
    check("pgtandem_client_disconnects_total", "reason=\"timeout\"", 1.0);
    check("pgtandem_errors_total", "origin=\"pooler\",class=\"53\"", 1.0);
    check("pgtandem_clients", "state=\"waiting\"", 0.0);
    check("pgtandem_clients", "state=\"active\"", 1.0);
    check("pgtandem_servers", "state=\"active\"", 1.0);
}

#[test]
fn every_end_has_its_reason() {
    let watched = Watched::start(|config| config);
    let fixture = &watched.fixture;
    let ended = |reason: &str, expected: f64| {
        let labels = format!("reason=\"{reason}\"");
        watched.becomes("pgtandem_client_disconnects_total", &labels, expected);
    };
    let closed = |reason: &str, expected: f64| {
        let labels = format!("reason=\"{reason}\"");
        watched.becomes("pgtandem_server_disconnects_total", &labels, expected);
    };
    fixture.connect().send(&[terminate()]);
    ended("terminate", 1.0);
    let mut client = fixture.connect();
    client.query("begin");
    drop(client);
    ended("lost", 1.0);
    closed("unclean", 1.0);
    let mut client = fixture.connect();
    client.send(&[message(b'?', b"")]);
    client.until_end();
    ended("protocol", 1.0);
    let mut client = fixture.connect();
    let pid = client.backend_pid();
    client.query("begin");
    fixture.observer().query(&format!("select pg_terminate_backend({pid})"));
    client.until_end();
    ended("server_lost", 1.0);
    closed("lost", 1.0);
}

#[test]
fn logins_are_counted_by_outcome() {
    let watched = Watched::start(|config| {
        config
            .general("auth_type = \"plain\"")
            .user("postgres", &["password = \"right\""])
            .general("max_client_conn = 1")
    });
    let fixture = &watched.fixture;
    let outcome = |outcome: &str| {
        value_in(&watched.scrape(), &format!("pgtandem_logins_total{{outcome=\"{outcome}\"}}"))
    };
    assert_eq!(outcome("authentication").to_bits(), 0.0_f64.to_bits());
    let login = |database: &str, password: &str| {
        Login::new("postgres", database).password(password).connect(&fixture.proxy.tcp())
    };
    assert!(login(&fixture.database, "wrong").is_err());
    assert!(login("nowhere", "right").is_err());
    poll("failed logins have left", || {
        value_in(&watched.scrape(), "pgtandem_client_connections") < 0.5
    });
    let client = login(&fixture.database, "right").expect("the password is right");
    assert!(login(&fixture.database, "right").is_err());
    for (word, expected) in [
        ("authentication", 1.0_f64),
        ("no_such_database", 1.0),
        ("success", 1.0),
        ("too_many_clients", 1.0),
    ] {
        poll(word, || outcome(word).to_bits() == expected.to_bits());
    }
    let text = watched.scrape();
    assert_eq!(value_in(&text, "pgtandem_client_connections_max").to_bits(), 1.0_f64.to_bits());
    drop(client);
}

#[test]
fn what_is_configured_is_there_from_the_start() {
    let watched = Watched::start(|config| config);
    let text = watched.scrape();
    let zeros = text
        .lines()
        .filter(|line| line.contains("user=\"dave\""))
        .filter(|line| !line.starts_with("pgtandem_pool_") && !line.starts_with('#'));
    let zeros: Vec<&str> = zeros.collect();
    assert!(zeros.len() > 100, "{text}");
    for line in zeros {
        assert!(line.ends_with(" 0"), "{line}");
    }
}

/// Adds a database with a secondary; neither is there, and its series are all the same.
fn with_secondary(config: Config) -> Config {
    config.database("far", &["host = \"127.0.0.1\"", "port = 1"]).extra(
        "\n[databases.far.replication]\nadmin_user = \"postgres\"\n\
         [databases.far.secondaries.copy]\nhost = \"127.0.0.1\"\nport = 1\n",
    )
}

#[test]
fn secondaries_are_there_from_the_start_and_make_nobody_unready() {
    let watched = Watched::start(with_secondary);
    let text = watched.scrape();
    for (series, expected) in [
        (
            "pgtandem_secondary_state{database=\"far\",secondary=\"copy\",state=\"catching_up\"}",
            "1",
        ),
        ("pgtandem_secondary_state{database=\"far\",secondary=\"copy\",state=\"in_sync\"}", "0"),
        ("pgtandem_secondary_lag_seconds{database=\"far\",secondary=\"copy\"}", "NaN"),
        ("pgtandem_secondary_applying{database=\"far\",secondary=\"copy\"}", "0"),
        ("pgtandem_secondary_changes_total{database=\"far\",secondary=\"copy\"}", "0"),
        ("pgtandem_secondary_apply_seconds_count{database=\"far\",secondary=\"copy\"}", "0"),
        ("pgtandem_primary_up{database=\"far\"}", "0"),
        ("pgtandem_change_log_limit_seconds{database=\"far\"}", "86400"),
    ] {
        let line = format!("{series} {expected}");
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    let answer = get(watched.port, "/readyz");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.body, "ready\nsecondary far.copy: catching_up\n");
}

#[test]
fn promtool_accepts_everything() {
    let watched = Watched::start(with_secondary);
    watched.fixture.connect().query("select 1");
    let mut check = Command::new("promtool");
    check.args(["check", "metrics"]);
    let checked = feed(check, watched.scrape().as_bytes());
    let complaints = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert!(checked.status.success() && complaints.is_empty(), "{complaints}");
    for arguments in [
        ["check", "rules", "deploy/prometheus/alerts.yml"],
        ["check", "config", "deploy/prometheus/prometheus.yml"],
        ["test", "rules", "tests/it/alerts.yml"],
    ] {
        let mut check = Command::new("promtool");
        check.args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
        successful(feed(check, b""));
    }
}

#[test]
fn dashboard_and_rules_name_only_what_exists() {
    let watched = Watched::start(with_secondary);
    watched.fixture.connect().query("select 1");
    let text = watched.scrape();
    let names = names_in(&text);
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/pgtandem.json"] {
        let source = fs::read_to_string(file(path)).expect("it is shipped");
        let used = words(&source, |word| {
            let is_ours = word.starts_with("pgtandem_") || word.starts_with("process_");
            is_ours && !word.ends_with('_')
        });
        assert!(used.len() > 10, "{path}: {used:?}");
        for word in used {
            assert!(names.contains(&word), "{path}: no metric {word}");
        }
    }
    // Words of labels that rules and panels pick: `state="waiting"`.
    for path in ["deploy/prometheus/alerts.yml", "deploy/grafana/pgtandem.json"] {
        let source = fs::read_to_string(file(path)).expect("it is shipped").replace("\\\"", "\"");
        for (label, word) in picked(&source) {
            let pair = format!("{label}=\"{word}\"");
            assert!(text.contains(&pair), "{path}: no series has {pair}");
        }
    }
}

#[test]
fn panels_ask_what_prometheus_understands() {
    let source = fs::read_to_string(file("deploy/grafana/pgtandem.json")).expect("it is shipped");
    let quoted = source.lines().filter_map(|line| line.trim().strip_prefix("\"expr\": \""));
    let asked = quoted.filter_map(|rest| rest.trim_end_matches(',').strip_suffix('"'));
    // JSON's strings are YAML's too.
    let asked = asked.map(|expression| expression.replace("$__rate_interval", "1m"));
    let rules: Vec<String> = (0..)
        .zip(asked)
        .map(|(at, expression)| format!("{{record: panel:{at}, expr: \"{expression}\"}}"))
        .collect();
    assert!(rules.len() > 30, "{} panels", rules.len());
    let rules = format!("groups: [{{name: panels, rules: [{}]}}]", rules.join(",\n"));
    let mut check = Command::new("promtool");
    check.args(["check", "rules", "/dev/stdin"]);
    let complaints = feed(check, rules.as_bytes());
    successful(complaints);
}

/// The words of a text that are wanted, each once.
fn words(text: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')
        .filter(|word| is_wanted(word))
        .map(str::to_owned)
        .collect()
}

/// Pairs such as `state="waiting"` of labels that have fixed words.
fn picked(source: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for label in ["state", "reason", "outcome", "origin", "class", "timeout", "result"] {
        for operator in ["=\"", "=~\"", "!=\"", "!~\""] {
            let start = format!("{label}{operator}");
            for rest in source.split(&start).skip(1) {
                let value = rest.split('"').next().unwrap_or_default();
                let words = value.split('|').filter(|word| !word.starts_with('$'));
                pairs.extend(words.map(|word| (label.to_owned(), word.to_owned())));
            }
        }
    }
    assert!(!pairs.is_empty(), "nothing is picked");
    pairs
}

#[test]
fn pages_and_methods() {
    let watched = Watched::start(|config| config);
    let port = watched.port;
    for (path, status, words) in [
        ("/healthz", 200, "ok\n"),
        ("/readyz", 200, "ready\n"),
        ("/", 200, "/metrics"),
        ("/metrics?name=x", 200, "process_cpu_seconds_total"),
        ("/nothing", 404, "no such page\n"),
        ("/metrics/", 404, "no such page\n"),
    ] {
        let answer = get(port, path);
        assert_eq!(answer.status, status, "{path}");
        assert!(answer.body.contains(words), "{path}: {}", answer.body);
    }
    for path in ["/metrics", "/healthz", "/readyz"] {
        let request = format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n");
        let answer = ask(port, &format!("{request}Connection: close\r\n\r\n"));
        assert_eq!(answer.status, 405, "{path}");
        assert!(answer.head.contains("allow: get, head"), "{}", answer.head);
    }
    let head = ask(port, "HEAD /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
}

#[test]
fn readiness_follows_the_operator() {
    let mut watched = Watched::start(|config| config.general("default_pool_size = 2"));
    let port = watched.port;
    let becomes = |status: u16, words: &str| {
        poll(words, || {
            let answer = get(port, "/readyz");
            answer.status == status && answer.body == words
        });
    };
    let gauge = |name: &str| value_in(&watched.scrape(), name);
    becomes(200, "ready\n");
    assert_eq!(gauge("pgtandem_ready").to_bits(), 1.0_f64.to_bits());
    watched.fixture.proxy.signal("USR1");
    becomes(503, "not ready: paused\n");
    assert_eq!(gauge("pgtandem_ready").to_bits(), 0.0_f64.to_bits());
    assert_eq!(get(port, "/healthz").status, 200);
    watched.fixture.proxy.signal("USR2");
    becomes(200, "ready\n");
    // The end comes when the transaction is over; until then it can be watched.
    let mut client = watched.fixture.connect();
    client.query("begin");
    watched.fixture.proxy.signal("INT");
    becomes(503, "not ready: shutting down\n");
    assert_eq!(get(port, "/healthz").status, 200);
    assert!(watched.scrape().contains("pgtandem_ready 0"));
    client.send(&[query("commit")]);
    client.until_end();
    watched.fixture.proxy.wait();
}

#[test]
fn hostile_requests_are_turned_away() {
    let watched = Watched::start(|config| config);
    let port = watched.port;
    let long = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(100_000));
    assert_eq!(ask(port, &long).status, 431);
    assert_eq!(ask(port, "\u{16}\u{3}\u{1} nonsense\r\n\r\n").status, 400);
    let many = "X: y\r\n".repeat(1000);
    assert_eq!(ask(port, &format!("GET / HTTP/1.1\r\n{many}\r\n")).status, 431);
    // Everybody who only stands there is outnumbered by the places, and the rest is served.
    let idle: Vec<_> = (0..20)
        .map(|_| std::net::TcpStream::connect(("127.0.0.1", port)).expect("a place"))
        .collect();
    assert_eq!(get(port, "/healthz").status, 200);
    drop(idle);
}

#[test]
fn scrapes_at_the_same_time_are_all_answered() {
    let watched = Watched::start(|config| config);
    std::thread::scope(|scope| {
        let scrapes: Vec<_> = (0..30).map(|_| scope.spawn(|| watched.scrape())).collect();
        for scrape in scrapes {
            let text = scrape.join().expect("it is answered");
            assert!(text.contains("pgtandem_build_info"));
        }
    });
}

#[test]
fn a_reload_moves_the_listener() {
    let mut watched = Watched::start(|config| config);
    let (old, new) = (watched.port, free_port());
    let listen = format!("listen = \"127.0.0.1:{new}\"");
    watched.fixture.proxy.reload(|config| config.metrics(&listen));
    poll("the new address answers", || answers(new));
    poll("the old address does not", || !answers(old));
    let text = get(new, "/metrics").body;
    let reloads = "pgtandem_config_reloads_total{result=\"success\"}";
    assert_eq!(value_in(&text, reloads).to_bits(), 1.0_f64.to_bits());
    // From one address to all of the same port: they cannot be had at the same time.
    let all = format!("listen = \"0.0.0.0:{new}\"");
    watched.fixture.proxy.reload(|config| config.metrics(&all));
    poll("the reload is done", || {
        // Who knocks while the door is moved is turned away.
        let answer = try_ask(new, &request("/metrics"));
        answer.is_some_and(|answer| answer.body.contains(&format!("{reloads} 2")))
    });
    watched.fixture.proxy.reload(|config| config.metrics("listen = \"\""));
    poll("nobody answers", || !answers(new));
}

#[test]
fn a_bad_reload_is_counted() {
    let mut watched = Watched::start(|config| config);
    watched.fixture.proxy.reload(|config| config.general("default_pool_size = \"many\""));
    poll("the failure is counted", || {
        watched.scrape().contains("pgtandem_config_reloads_total{result=\"failure\"} 1")
    });
}

#[test]
fn a_goodbye_is_no_wait_for_a_server() {
    // In session mode nobody is logged in without one.
    let watched = Watched::start(|config| config.general("pool_mode = \"transaction\""));
    let mut holder = watched.fixture.connect();
    holder.query("begin");
    let mut leaver = watched.fixture.connect();
    leaver.send(&[terminate()]);
    leaver.until_end();
    watched.becomes("pgtandem_client_disconnects_total", "reason=\"terminate\"", 1.0);
    let count = |name: &str| watched.value(name, "").to_bits();
    assert_eq!(count("pgtandem_client_wait_seconds_count"), 1_f64.to_bits());
    assert_eq!(count("pgtandem_server_assignments_total"), 1_f64.to_bits());
}

#[test]
fn a_load_and_its_metrics_agree() {
    let watched = Watched::start(|config| config.general("default_pool_size = 4"));
    let fixture = &watched.fixture;
    let address = fixture.proxy.tcp();
    let mut fill = tool("pgbench", &fixture.cluster.tcp(), &fixture.database);
    fill.args(["-i", "-q", "-s", "1"]);
    successful(feed(fill, b""));
    let mut load = tool("pgbench", &address, &fixture.database);
    load.args(["-n", "-S", "-c", "8", "-t", "200", "-M", "simple"]);
    successful(feed(load, b""));
    let text = watched.scrape();
    // pgbench itself asks a few questions first.
    let queries = value_in(&text, &watched.series("pgtandem_query_seconds_count", ""));
    assert!((1600.0..1620.0).contains(&queries), "{queries}");
    let transactions = value_in(&text, &watched.series("pgtandem_transaction_seconds_count", ""));
    assert_eq!(queries.to_bits(), transactions.to_bits());
    let assignments = value_in(&text, &watched.series("pgtandem_server_assignments_total", ""));
    let waits = value_in(&text, &watched.series("pgtandem_client_wait_seconds_count", ""));
    assert_eq!(assignments.to_bits(), waits.to_bits());
    assert!(assignments >= 1600.0, "{assignments}");
}
