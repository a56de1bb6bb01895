use std::time::Duration;

use super::*;

fn config(text: &str) -> Config {
    Config::parse(text, "", &|_| None).unwrap()
}

fn answer(connections_max: u32) -> Answer {
    Answer {
        version: "15.1".to_owned(),
        standing: None,
        connections_max,
        reserved: 3,
        login: Duration::from_micros(12_340),
        query: Duration::from_micros(560),
    }
}

fn report(database: &str, server: &str, outcome: Outcome) -> Report {
    let target = Target { server: server.to_owned(), user: "u".to_owned() };
    Report { database: database.to_owned(), target: Some(target), outcome }
}

#[test]
fn a_line_per_database() {
    let line = report("app", "h:5432", Outcome::In(answer(100))).to_string();
    assert_eq!(
        line,
        "app: ok: PostgreSQL 15.1, max_connections 100, login 12.3 ms, query 0.6 ms \
         (as \"u\" at h:5432)"
    );
    let refused = ProbeError::Ask(AskError::Refused {
        sqlstate: SqlState(*b"42501"),
        message: "no".to_owned(),
    });
    let line = report("app", "h:5432", Outcome::Out(refused)).to_string();
    assert_eq!(line, "app: FAILED: 42501: no (as \"u\" at h:5432)");
    let skipped = Report {
        database: "app".to_owned(),
        target: None,
        outcome: Outcome::Skipped("there is no user to log in as"),
    };
    assert_eq!(skipped.to_string(), "app: skipped: there is no user to log in as");
    assert!(!skipped.is_failure());
}

#[test]
fn pools_are_added_up_per_server() {
    let config = config(
        "[general]\ndefault_pool_size = 20\nreserve_pool_size = 2\n\
         [databases.a]\n[databases.b]\nuser = \"x\"\npool_size = 5\n\
         [databases.c]\nmax_db_connections = 7\n\
         [users.u]\n[users.v]\npool_size = 3\n",
    );
    // u has 20 + 2, v has 3 + 2.
    assert_eq!(connections_max(&config, "a"), 27);
    assert_eq!(connections_max(&config, "b"), 7);
    assert_eq!(connections_max(&config, "c"), 7);
    let reports = |max: u32| {
        let on = |name, server| report(name, server, Outcome::In(answer(max)));
        [on("a", "h:1"), on("b", "h:1"), on("c", "h:2")]
    };
    assert_eq!(capacity_advice(&config, &reports(37)), Vec::<String>::new());
    let advice = capacity_advice(&config, &reports(36));
    assert_eq!(advice.len(), 1, "{advice:?}");
    assert!(advice[0].starts_with("h:1: the pools of a, b can grow to 34"), "{advice:?}");
    assert!(advice[0].contains("allows 33 (max_connections 36, 3"), "{advice:?}");
}

#[test]
fn somebody_is_found_who_can_log_in() {
    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
        $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";
    let chosen = |text: &str, database: &str| {
        choose(&config(text), database).map(|settings| (settings.user, settings.dbname))
    };
    let names = |user: &str, dbname: &str| Ok((user.to_owned(), dbname.to_owned()));
    let scram = format!("[users.a]\npassword = \"{SCRAM}\"\n");
    let plain = "[users.b]\npassword = \"x\"\n";
    let two = format!("[databases.d]\ndbname = \"real\"\n{scram}{plain}");
    assert_eq!(chosen(&two, "d"), names("b", "real"));
    let forced = format!("[databases.d]\nuser = \"f\"\n{scram}");
    assert_eq!(chosen(&forced, "d"), names("f", "d"));
    assert_eq!(chosen("[databases.\"*\"]\n[users.a]\n", "*"), names("a", "postgres"));
    assert!(chosen(&format!("[databases.d]\n{scram}"), "d").unwrap_err().contains("SCRAM"));
    assert!(chosen("[databases.d]\n", "d").unwrap_err().contains("no user to log in as"));
}

#[test]
fn files_with_passwords_are_private() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("proxy.toml");
    let check = |text: &str, mode: u32, count: usize| {
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        let advice = file_advice(&path, &config(text));
        assert_eq!(advice.len(), count, "{mode:o}: {advice:?}");
    };
    let secret = "[users.a]\npassword = \"x\"\n";
    check(secret, 0o600, 0);
    check(secret, 0o640, 0);
    check(secret, 0o644, 1);
    check("[databases.d]\nuser = \"u\"\npassword = \"x\"\n", 0o644, 1);
    check("[databases.d]\n", 0o644, 0);
    check("[databases.d]\n", 0o666, 1);
}
