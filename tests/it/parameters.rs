//! Points C of the acceptance list: parameters belong to the client, whichever backend it gets.

use crate::differential::everywhere;
use crate::support::{
    cluster::Cluster,
    fixture::{Fixture, Peer},
    login::Login,
    message::*,
    proxy::Proxy,
    reply::Reply,
};

/// Parameters that PostgreSQL reports and everybody may set, with two values each.
const REPORTED: [(&str, &str, &str); 6] = [
    ("application_name", "first", "second"),
    ("client_encoding", "LATIN1", "UTF8"),
    ("TimeZone", "Europe/Paris", "America/New_York"),
    ("DateStyle", "German, DMY", "ISO, MDY"),
    ("IntervalStyle", "iso_8601", "postgres"),
    ("standard_conforming_strings", "off", "on"),
];

#[test]
fn c26_reported_parameters_belong_to_their_client() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for (name, first, second) in REPORTED {
            a.query(&format!("set {name} = '{first}'"));
            b.query(&format!("set {name} = '{second}'"));
            for _ in 0..2 {
                assert_eq!(a.value(&format!("show {name}")), first);
                assert_eq!(b.value(&format!("show {name}")), second);
            }
        }
    });
}

#[test]
fn c26_a_new_client_sees_no_parameters_of_others() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        for (name, first, _) in REPORTED {
            a.query(&format!("set {name} = '{first}'"));
        }
        let mut c = peer.connect("c");
        for (name, first, _) in REPORTED {
            assert_ne!(b.value(&format!("show {name}")), first);
            assert_ne!(c.value(&format!("show {name}")), first);
            assert_eq!(a.value(&format!("show {name}")), first);
        }
    });
}

#[test]
fn c26_startup_parameters_are_in_force() {
    everywhere(|peer| {
        let login = |number: usize| {
            REPORTED.iter().fold(peer.login.clone(), |login, (name, first, second)| {
                login.parameter(name, [first, second][number])
            })
        };
        let (mut a, mut b) = (peer.connect_as("a", &login(0)), peer.connect_as("b", &login(1)));
        for (name, first, second) in REPORTED {
            for (client, value) in [(&mut a, first), (&mut b, second)] {
                assert_eq!(client.value(&format!("show {name}")), value);
                assert_eq!(client.parameters.get(name).map(String::as_str), Some(value));
            }
        }
    });
}

#[test]
fn c26_set_in_a_rolled_back_transaction_is_undone() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("set TimeZone = 'Europe/Paris'");
        let set = a.query("begin; set TimeZone = 'Asia/Tokyo'");
        // PostgreSQL reports at the end of a query since version 14.
        let early = "C BEGIN | S TimeZone=Asia/Tokyo | C SET | Z T";
        assert!(set == "C BEGIN | C SET | S TimeZone=Asia/Tokyo | Z T" || set == early, "{set}");
        let undone = a.query("rollback");
        let early = "S TimeZone=Europe/Paris | C ROLLBACK | Z I";
        assert!(
            undone == "C ROLLBACK | S TimeZone=Europe/Paris | Z I" || undone == early,
            "{undone}"
        );
        assert_eq!(b.value("show TimeZone"), "UTC");
        assert_eq!(a.value("show TimeZone"), "Europe/Paris");
        a.query("begin; set local TimeZone = 'Asia/Tokyo'; select 1");
        a.query("commit");
        assert_eq!(b.value("show TimeZone"), "UTC");
        assert_eq!(a.value("show TimeZone"), "Europe/Paris");
        a.query("begin; set TimeZone = 'Asia/Tokyo'; savepoint s; set TimeZone = 'Asia/Seoul'");
        a.query("rollback to s; commit");
        assert_eq!(b.value("show TimeZone"), "UTC");
        assert_eq!(a.value("show TimeZone"), "Asia/Tokyo");
    });
}

#[test]
fn c26_every_way_to_set_a_parameter_is_noticed() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        let ways = [
            (vec![query("set application_name to 'w1'")], "w1"),
            (vec![query("select set_config('application_name', 'w2', false)")], "w2"),
            (
                vec![parse("", "set application_name = 'w3'"), bind("", ""), execute(""), sync()],
                "w3",
            ),
            (vec![query("do $$ begin set application_name = 'w4'; end $$")], "w4"),
            (vec![query("select 1; set application_name = 'w5'; select 2")], "w5"),
            (vec![query("begin; set application_name = 'w6'"), query("commit")], "w6"),
            (vec![query("reset application_name")], ""),
            (vec![query("set application_name = 'w7'"), query("reset all")], ""),
            (vec![query("set application_name = 'w8'"), query("discard all")], ""),
        ];
        for (messages, value) in ways {
            a.run(&messages);
            assert_eq!(b.value("show application_name"), "");
            assert_eq!(a.value("show application_name"), value);
        }
    });
}

#[test]
fn c26_reset_never_brings_values_of_other_clients() {
    let fixture = Fixture::transaction();
    let connect = |name: &str| {
        let login = fixture.login().parameter("application_name", name);
        login.connect(&fixture.proxy.tcp()).expect("trusted")
    };
    // Whoever comes first: the backend was opened for it.
    let (mut a, mut b) = (connect("a"), connect("b"));
    for reset in ["reset application_name", "reset all", "discard all"] {
        a.query("set application_name = 'changed'");
        b.query(reset);
        let value = b.value("show application_name");
        assert!(["", "b"].contains(&value.as_str()), "{value} after {reset}");
        assert_eq!(a.value("show application_name"), "changed");
    }
}

#[test]
fn c26_greeting_is_that_of_the_server() {
    let fixture = Fixture::transaction();
    for login in [
        fixture.login(),
        Login::new("dave", &fixture.database),
        fixture.login().parameter("application_name", "x").parameter("DateStyle", "german"),
    ] {
        let direct = login.connect(&fixture.cluster.tcp()).expect("trusted").parameters;
        for _ in 0..2 {
            let proxied = login.connect(&fixture.proxy.tcp()).expect("trusted").parameters;
            assert_eq!(direct, proxied, "left: PostgreSQL itself, right: through the proxy");
        }
    }
}

#[test]
fn c28_values_are_quoted_exactly_once() {
    everywhere(|peer| {
        let values = [
            "it's",
            "\"quoted\"",
            "back\\slash",
            "'; select 1; --",
            "$$ $1 %s",
            " spaces ",
            "",
            "ü",
            "a long name that PostgreSQL cuts to sixty-three bytes, which is its limit for names",
        ];
        let mut others = peer.connect("others");
        for value in values {
            let login = peer.login.clone().parameter("application_name", value);
            let mut started = peer.connect_as("started", &login);
            let mut set = peer.connect("set");
            set.query(&format!("set application_name = '{}'", value.replace('\'', "''")));
            let expected = set.value("show application_name");
            assert_eq!(others.value("show application_name"), "");
            assert_eq!(started.value("show application_name"), expected);
            assert_eq!(set.value("show application_name"), expected);
        }
    });
}

#[test]
fn c28_quoting_follows_the_strings_setting() {
    everywhere(|peer| {
        let (mut a, mut b) = (peer.connect("a"), peer.connect("b"));
        a.query("set standard_conforming_strings = off");
        a.query("set application_name = E'one\\\\two'");
        b.query("set application_name = 'three\\four'");
        for _ in 0..3 {
            assert_eq!(a.value("show application_name"), "one\\two");
            assert_eq!(b.value("show application_name"), "three\\four");
            assert_eq!(a.value("show standard_conforming_strings"), "off");
            assert_eq!(b.value("show standard_conforming_strings"), "on");
        }
    });
}

#[test]
fn c29_equal_parameters_cost_no_statement() {
    let cluster = Cluster::start_with("log_statement = 'all'");
    let database = cluster.new_database();
    let proxy = Proxy::start(&cluster, Fixture::config(&cluster, &database));
    // Written differently, these mean the same.
    let logins =
        [("iso", "utf8", "utc"), ("ISO, MDY", "UTF-8", "UTC"), ("iso,mdy", "unicode", "Utc")];
    let mut clients = logins.map(|(style, encoding, zone)| {
        Login::new("postgres", &database)
            .parameter("DateStyle", style)
            .parameter("client_encoding", encoding)
            .parameter("TimeZone", zone)
            .connect(&proxy.tcp())
            .expect("trusted")
    });
    for _ in 0..10 {
        for client in &mut clients {
            assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
        }
    }
    let log = cluster.log().to_lowercase();
    let seen = log.lines().filter(|line| line.contains(&format!("@{database} ")));
    let sets = seen.filter(|line| line.contains("set ") && line.contains("datestyle")).count();
    assert!(sets <= clients.len(), "{sets} times for 30 queries");
}

#[test]
fn c29_differing_parameters_follow_their_clients() {
    let fixture = Fixture::start(|config| config.general("default_pool_size = 2"));
    std::thread::scope(|scope| {
        for number in 0..6 {
            let fixture = &fixture;
            scope.spawn(move || {
                let name = format!("client {number}");
                let login = fixture.login().parameter("application_name", &name);
                let mut client = login.connect(&fixture.proxy.tcp()).expect("trusted");
                for _ in 0..100 {
                    let show = "select current_setting('application_name')";
                    assert_eq!(client.value(show), name);
                    let answers = client.run(&[parse("", show), bind("", ""), execute(""), sync()]);
                    assert_eq!(answers, format!("1 | 2 | D {name} | C SELECT 1 | Z I"));
                }
            });
        }
    });
}

#[test]
fn c30_invalid_startup_values_fail_at_login() {
    let fixture = Fixture::transaction();
    let wrong = [
        ("TimeZone", "nonsense"),
        ("DateStyle", "nonsense"),
        ("client_encoding", "nonsense"),
        ("IntervalStyle", "nonsense"),
        ("standard_conforming_strings", "nonsense"),
    ];
    // Before and after the pool has a backend.
    for _ in 0..2 {
        for (name, value) in wrong {
            let login = fixture.login().parameter(name, value);
            let outcome = [fixture.cluster.tcp(), fixture.proxy.tcp()].map(|address| {
                let said = login.connect(&address).err().expect("it is invalid");
                said.iter().find(|reply| reply.tag() == b'E').map(Reply::to_string)
            });
            assert_eq!(outcome[0], outcome[1], "{name}; left: PostgreSQL itself, right: the proxy");
        }
        assert_eq!(fixture.connect().query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn c30_unknown_startup_parameter_is_refused_as_by_the_server() {
    let fixture = Fixture::transaction();
    let login = fixture.login().parameter("nonsense", "1");
    let outcome = [fixture.cluster.tcp(), fixture.proxy.tcp()].map(|address| {
        let said = login.connect(&address).err().expect("it is unknown");
        said.iter().find(|reply| reply.tag() == b'E').map(Reply::to_string)
    });
    assert_eq!(outcome[0], outcome[1], "left: PostgreSQL itself, right: the proxy");
}

#[test]
fn c30_what_drivers_send_at_startup_is_accepted() {
    let fixture = Fixture::transaction();
    for (name, value) in [
        ("extra_float_digits", "2"),
        ("fallback_application_name", "driver"),
        ("options", ""),
        ("options", "-c TimeZone=Europe/Paris"),
        ("options", "--application_name=from\\ options"),
    ] {
        let login = fixture.login().parameter(name, value);
        if login.connect(&fixture.cluster.tcp()).is_err() {
            continue;
        }
        let mut client = login.connect(&fixture.proxy.tcp()).unwrap_or_else(|said| {
            panic!("{name} = {value:?}: {said:?}");
        });
        assert_eq!(client.query("select 1"), "T | D 1 | C SELECT 1 | Z I");
    }
}

#[test]
fn c30_options_set_parameters() {
    everywhere(|peer: &Peer| {
        let login = peer.login.clone();
        let login = login.parameter("options", "-c TimeZone=Europe/Paris --application_name=a\\ b");
        let (mut a, mut b) = (peer.connect_as("a", &login), peer.connect("b"));
        assert_eq!(b.value("show TimeZone"), "UTC");
        assert_eq!(a.value("show TimeZone"), "Europe/Paris");
        assert_eq!(a.value("show application_name"), "a b");
    });
}

#[test]
fn c30_parameters_that_servers_do_not_report_are_set_in_session_mode() {
    let unreported = [
        ("statement_timeout", "12345ms"),
        ("search_path", "\"strange name\", public"),
        ("my.own", "it's"),
        ("options", "-c work_mem=5MB"),
    ];
    let names = ["statement_timeout", "search_path", "my.own", "work_mem"];
    let with = |login: &Login| {
        unreported.iter().fold(login.clone(), |login, (name, value)| login.parameter(name, value))
    };
    let fixture = Fixture::session();
    fixture.both(|peer: &Peer| {
        let mut a = peer.connect_as("a", &with(&peer.login));
        for sql in ["begin", "select 1", "commit"] {
            a.query(sql);
            for name in names {
                a.query(&format!("show {name}"));
            }
        }
        assert_eq!(a.value("show search_path"), "\"strange name\", public");
        assert_eq!(a.value("show my.own"), "it's");
        drop(a);
        // The next client has the same backend.
        let mut b = peer.connect("b");
        assert_eq!(b.value("show statement_timeout"), "0");
        assert_eq!(b.value("show search_path"), "\"$user\", public");
    });
    // Wrong values still fail the login, in the server's own words.
    let said = fixture.login().parameter("statement_timeout", "soon").connect(&fixture.proxy.tcp());
    let said = said.err().expect("that is no time");
    assert!(
        said.iter().any(|reply| reply.tag() == b'E' && reply.sqlstate() == "22023"),
        "{said:?}"
    );
    // Where nothing goes with a client, or nothing is taken back, they cannot be kept apart.
    for (mode, setting) in
        [("transaction", "session_state = \"reject\""), ("session", "server_reset_query = \"\"")]
    {
        let mode = format!("pool_mode = \"{mode}\"");
        let fixture = Fixture::start(|config| config.general(&mode).general(setting));
        let said = with(&fixture.login()).connect(&fixture.proxy.tcp());
        let said = said.err().expect("it cannot be restored");
        assert!(said.iter().any(|reply| reply.tag() == b'E' && reply.sqlstate() == "0A000"));
    }
}
