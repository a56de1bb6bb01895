use super::*;

/// Imports files of these names and texts; the first is the configuration.
fn imported(files: &[(&str, &str)]) -> Imported {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let text = text.replace('@', &folder.path().display().to_string());
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let imported = import(&folder.path().join(files[0].0)).unwrap();
    assert_eq!(imported.mismatch, None, "{}", imported.text);
    imported
}

fn body(imported: &Imported) -> Vec<&str> {
    imported.text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).collect()
}

fn notes(imported: &Imported) -> Vec<String> {
    let short = |note: &Note| {
        let line = note.place.as_ref().map_or(0, |place| place.line);
        format!("{line} {}: {}", note.key, note.reason)
    };
    imported.notes.iter().map(short).collect()
}

/// What every configuration begins with in which nothing is said.
const DEFAULTS: [&str; 7] = [
    "[general]",
    "listen_addr = []",
    "listen_backlog = 128",
    "auth_type = \"md5\"",
    "max_client_conn = 100",
    "ignore_startup_parameters = []",
    "pool_mode = \"session\"",
];

#[test]
fn defaults_that_differ_are_written_out() {
    let imported = imported(&[("p.ini", "[pgbouncer]\n")]);
    assert_eq!(body(&imported), DEFAULTS);
    assert_eq!(notes(&imported), Vec::<String>::new());
    assert!(!imported.has_secrets);
}

#[test]
fn what_is_said_is_kept_and_the_last_counts() {
    let ini = "[pgbouncer]\npool_mode = Session\npool_mode = STATEMENT\nquery_timeout = 0.5\n\
               default_pool_size = 20\nunix_socket_mode = 0700\nadmin_users = a, b\n";
    let imported = imported(&[("p.ini", ini)]);
    for line in [
        "pool_mode = \"statement\"",
        "query_timeout = \"500ms\"",
        "default_pool_size = 20",
        "unix_socket_mode = \"0700\"",
        "admin_users = [\"a\", \"b\"]",
    ] {
        assert!(body(&imported).contains(&line), "{line}: {}", imported.text);
    }
    assert_eq!(imported.text.matches("pool_mode").count(), 1, "{}", imported.text);
}

#[test]
fn a_section_that_begins_again_begins_anew() {
    let ini = "[pgbouncer]\nmax_client_conn = 5\n[databases]\n[pgbouncer]\nlisten_addr = *\n";
    let imported = imported(&[("p.ini", ini)]);
    assert!(imported.text.contains("max_client_conn = 100"), "{}", imported.text);
    assert!(notes(&imported)[0].starts_with("4 [pgbouncer]: begins again"), "{imported:?}");
}

#[test]
fn databases() {
    let ini = "[databases]\n\
               app = host=db1 port=5433 dbname='real app' user=u password='it''s ${x}'\n\
               \"we ird\" = host=/run/pg pool_size=0 min_pool_size=-1 reserve_pool=3\n\
               nohost =\n* = host=127.0.0.1 pool_mode=Transaction\n\
               [pgbouncer]\nunix_socket_dir = /sockets\nmax_client_conn = 33\n";
    let imported = imported(&[("p.ini", ini)]);
    let from = imported.text.find("[databases.app]").unwrap();
    assert_eq!(
        imported.text[from..].lines().collect::<Vec<_>>(),
        [
            "[databases.app]",
            "host = \"db1\"",
            "port = 5433",
            "dbname = \"real app\"",
            "user = \"u\"",
            "password = \"it's $${x}\"",
            "",
            "[databases.\"we ird\"]",
            "host = \"/run/pg\"",
            "pool_size = 33",
            "reserve_pool_size = 3",
            "",
            "[databases.nohost]",
            "host = \"/sockets\"",
            "",
            "[databases.\"*\"]",
            "host = \"127.0.0.1\"",
            "pool_mode = \"transaction\"",
        ]
    );
    let notes = notes(&imported);
    assert_eq!(notes.len(), 0, "{notes:?}");
}

#[test]
fn what_is_lost_is_listed_with_its_line() {
    let ini = "[databases]\n\
               a = host=127.0.0.1,127.0.0.2 load_balance_hosts=disable connect_query='select 1'\n\
               b = host=127.0.0.1 nonsense=1 password=hunter2\n\
               c = host\n\
               pgtandem = host=127.0.0.1\n\
               d = host=@abstract\n\
               e = host=127.0.0.1 pool_mode=none pool_size=5 min_pool_size=9\n\
               [pgbouncer]\n\
               pidfile = /run/x\n\
               query_timeout = soon\n\
               unknown_key = 1\n\
               application_name_add_host = 1\n\
               disable_pqexec = 0\n\
               client_tls_key_file = /x\n\
               auth_query = SELECT 1\n\
               min_pool_size = 50\n\
               [peers]\n1 = host=x\n";
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("p.ini");
    std::fs::write(&file, ini).unwrap();
    let imported = import(&file).unwrap();
    assert_eq!(imported.mismatch, None, "{}", imported.text);
    let notes = notes(&imported);
    let begins = [
        "2 databases.a.connect_query: not available",
        "3 databases.b.nonsense: unknown key",
        "3 databases.b.password: without user",
        "4 databases.c: it is not a list of key=value: the database is left out",
        "5 databases.pgtandem: this name is reserved",
        "6 databases.d.host: an abstract socket is not available",
        "7 databases.e.pool_mode: \"none\" is not one of",
        "9 pidfile: not needed",
        "10 query_timeout: not a number of seconds",
        "11 unknown_key: unknown key",
        "12 application_name_add_host: not available",
        "16 min_pool_size: ",
        "18 peers.1: not available",
    ];
    assert_eq!(notes.len(), begins.len(), "{notes:#?}");
    for (note, begin) in notes.iter().zip(begins) {
        assert!(note.starts_with(begin), "{note}\n{begin}");
        assert!(!note.contains("hunter2"), "{note}");
    }
    assert!(
        imported
            .text
            .contains("[databases.e]\nhost = \"127.0.0.1\"\npool_size = 5\nmin_pool_size = 5\n")
    );
    assert!(!imported.text.contains("[databases.c]"));
    assert!(imported.text.contains(
        "[databases.a]\nhost = \"127.0.0.1,127.0.0.2\"\nload_balance_hosts = \"disable\"\n"
    ));
}

#[test]
fn users_stay_in_their_list_and_have_sections_for_the_rest() {
    let ini = "[users]\nb = pool_mode=transaction max_user_connections=2\nc = pool_size=4\n\
               [pgbouncer]\nauth_file = users.txt\n";
    let list = "\"a\" \"md5a8d09f5b1d2c3e4f5a6b7c8d9e0f1a2b\"\n\"b\" \"hunter2\"\nbroken\n";
    let imported = imported(&[("p.ini", ini), ("users.txt", list)]);
    let from = imported.text.find("[users.b]").unwrap();
    let users: Vec<_> = imported.text[from..].lines().filter(|line| !line.is_empty()).collect();
    let expected = [
        "[users.b]",
        "pool_mode = \"transaction\"",
        "max_user_connections = 2",
        "[users.c]",
        "pool_size = 4",
    ];
    assert_eq!(users, expected);
    assert!(imported.text.contains("/users.txt\"\n"), "{}", imported.text);
    let notes = notes(&imported);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("3 auth files: expected"), "{notes:?}");
    assert!(!imported.has_secrets && !imported.text.contains("hunter2"), "{}", imported.text);
}

#[test]
fn rules_stay_the_file_that_they_are() {
    let ini = "[pgbouncer]\nauth_type = HBA\nauth_hba_file = @/hba\nauth_ident_file = @/ident\n";
    let hba = "local all all peer map=m\nhost all +x all md5\nhost all all 0.0.0.0/0 md5\n";
    let imported = imported(&[("p.ini", ini), ("hba", hba), ("ident", "m a b\n")]);
    assert!(imported.text.contains("auth_type = \"hba\"\n"), "{}", imported.text);
    assert!(imported.text.contains("/hba\"\n") && imported.text.contains("/ident\"\n"));
    let notes = notes(&imported);
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert!(notes[0].starts_with("2 auth files: \"+x\" is not available"), "{notes:?}");
}

#[test]
fn rules_that_nobody_looks_at_are_left_out() {
    let ini = "[pgbouncer]\nauth_type = md5\nauth_hba_file = /nowhere\n";
    let imported = imported(&[("p.ini", ini)]);
    assert!(!imported.text.contains("nowhere"), "{}", imported.text);
    assert_eq!(notes(&imported), Vec::<String>::new());
}

#[test]
fn who_asks_for_secrets_is_carried_over() {
    let ini = "[databases]\na = host=127.0.0.1 auth_user=x auth_query='select $1, 2'\n\
               [pgbouncer]\nauth_user = y\nauth_dbname = a\n";
    let imported = imported(&[("p.ini", ini)]);
    for line in [
        "auth_user = \"y\"",
        "auth_dbname = \"a\"",
        "auth_user = \"x\"",
        "auth_query = \"select $1, 2\"",
    ] {
        assert!(body(&imported).contains(&line), "{line}: {}", imported.text);
    }
    assert_eq!(notes(&imported), Vec::<String>::new());
}

#[test]
fn ways_to_log_in_that_are_not_there_do_not_let_everybody_in() {
    for auth_type in ["pam", "ldap"] {
        let ini = format!("[pgbouncer]\nauth_type = {auth_type}\n");
        let imported = imported(&[("p.ini", &ini)]);
        assert!(!imported.text.contains("auth_type"), "{}", imported.text);
        assert!(notes(&imported)[0].starts_with("2 auth_type: "), "{imported:?}");
    }
    let missing = imported(&[("p.ini", "[pgbouncer]\nauth_type = hba\nauth_file = /nowhere/x\n")]);
    assert!(!missing.text.contains("\nauth_type = \"trust\""), "{}", missing.text);
    assert!(notes(&missing)[0].starts_with("2 auth_type: needs auth_hba_file"), "{missing:?}");
    assert!(notes(&missing)[1].starts_with("3 auth_file: /nowhere/x: cannot be read"));
}

#[test]
fn checking_of_servers_can_be_off() {
    let ini = "[pgbouncer]\nserver_check_query =\nserver_check_delay = 5\n";
    let imported = imported(&[("p.ini", ini)]);
    assert!(imported.text.contains("server_check_delay = \"3650d\""), "{}", imported.text);
    assert_eq!(imported.text.matches("server_check_delay").count(), 1);
}

#[test]
fn tls_is_carried_over_as_a_whole() {
    let ini = "[databases]\na = host=10.0.0.1\n[pgbouncer]\nauth_type = cert\n\
               client_tls_sslmode = verify-full\nclient_tls_key_file = /k\n\
               client_tls_cert_file = /c\nclient_tls_ca_file = /ca\n\
               client_tls_protocols = tlsv1.2, tlsv1.3\nclient_tls_ciphers = HIGH:!aNULL\n\
               client_tls_ecdhcurve = auto\nclient_tls_dheparams = legacy\n\
               server_tls_sslmode = disable\nserver_tls_ca_file = /unused\n";
    let imported = imported(&[("p.ini", ini)]);
    for line in [
        "auth_type = \"cert\"",
        "client_tls_sslmode = \"verify-full\"",
        "client_tls_key_file = \"/k\"",
        "client_tls_protocols = \"tlsv1.2, tlsv1.3\"",
        "server_tls_sslmode = \"disable\"",
    ] {
        assert!(imported.text.contains(&format!("\n{line}\n")), "{line}\n{}", imported.text);
    }
    assert_eq!(imported.mismatch, None);
    let notes = notes(&imported);
    assert!(notes[0].starts_with("10 client_tls_ciphers: \"HIGH:!aNULL\" is not"), "{notes:?}");
    assert!(notes[1].starts_with("12 client_tls_dheparams: not available"), "{notes:?}");
    assert_eq!(notes.len(), 2, "{notes:?}");
}

#[test]
fn tls_that_cannot_be_is_taken_out() {
    let ini = "[pgbouncer]\nauth_type = cert\nclient_tls_sslmode = require\n";
    let imported = imported(&[("p.ini", ini)]);
    assert_eq!(imported.mismatch, None, "{}", imported.text);
    let notes = notes(&imported);
    assert!(notes.iter().any(|note| note.starts_with("2 auth_type: ")), "{notes:?}");
    assert!(notes.iter().any(|note| note.starts_with("3 client_tls_sslmode: ")), "{notes:?}");
}
