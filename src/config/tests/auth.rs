//! Where secrets are looked for, and who is asked for them.

use super::{env, parse};
use crate::config::{Config, Source};
use crate::secret::Secret;

#[test]
fn sections_go_before_the_list_and_a_list_before_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let (file, list) = (folder.path().join("proxy.toml"), folder.path().join("users"));
    std::fs::write(&list, "\"a\" \"listed\"\n\"b\" \"listed\"\n\"c\" \"\"\n").unwrap();
    let text = format!(
        "[general]\nauth_file = \"{}\"\n[databases.d]\n[databases.f]\nuser = \"b\"\n\
         [users.a]\npassword = \"own\"\n[users.b]\npool_size = 1\n",
        list.display()
    );
    std::fs::write(&file, text).unwrap();
    let config = Source::read(&file).unwrap().parse().unwrap();
    assert_eq!(config.secret("a"), Some(&Secret::new("own")));
    assert_eq!(config.secret("b"), Some(&Secret::new("listed")));
    assert_eq!(config.secret("c"), None, "an empty password is none");
    assert_eq!(config.secret("d"), None);
    assert!(config.knows_user("c") && !config.knows_user("d"));
    // What opens the server is looked for in the same places.
    let password = |database, user| config.pool_settings(database, user).unwrap().password;
    assert_eq!(password("d", "b"), Some(Secret::new("listed")));
    assert_eq!(password("f", "x"), Some(Secret::new("listed")));
    std::fs::write(&list, "\"b\" \"another\"\n").unwrap();
    let changed = Source::read(&file).unwrap().parse().unwrap();
    assert_eq!(config.difference(&changed).general, ["auth_file"]);
    assert!(!format!("{config:?}").contains("listed"), "it is not shown");
}

#[test]
fn databases_say_who_asks_where() {
    let config = parse(
        "[general]\nauth_user = \"asker\"\nauth_query_lifetime = 5\n\
         [databases.a]\nuser = \"forced\"\npassword = \"forced-pw\"\n\
         [databases.b]\nauth_user = \"other\"\nauth_query = \"SELECT $1, 2\"\nauth_dbname = \"a\"\n\
         [databases.c]\nauth_user = \"\"\n[databases.e]\nuser = \"asker\"\npassword = \"e-pw\"\n\
         [users.asker]\npassword = \"asker-pw\"\n",
    );
    let a = config.auth_lookup("a").unwrap();
    assert_eq!((a.database.as_str(), a.settings.user.as_str()), ("a", "asker"));
    assert_eq!(a.settings.password, Some(Secret::new("asker-pw")), "not that of another user");
    assert_eq!(a.lifetime.as_secs(), 5);
    let b = config.auth_lookup("b").unwrap();
    assert_eq!((b.database.as_str(), b.settings.user.as_str()), ("a", "other"));
    assert_eq!((&*b.query, b.settings.password), ("SELECT $1, 2", None));
    assert!(config.auth_lookup("c").is_none());
    let e = config.auth_lookup("e").unwrap();
    assert_eq!(e.settings.password, Some(Secret::new("e-pw")));
    for database in ["nonesuch", "pgbouncer", "pgtandem"] {
        assert!(config.auth_lookup(database).is_none(), "{database}");
    }
    let any = parse("[general]\nauth_user = \"x\"\n[databases.\"*\"]\n");
    assert_eq!(any.auth_lookup("whatever").unwrap().settings.dbname, "whatever");
    assert!(any.auth_lookup("pgbouncer").is_none(), "the console is no database");
    let one = parse("[general]\nauth_user = \"x\"\nauth_dbname = \"a\"\n[databases.a]\n");
    for database in ["a", "nonesuch", "pgbouncer"] {
        assert_eq!(one.auth_lookup(database).unwrap().database, "a", "{database}");
    }
}

#[test]
fn a_database_to_ask_must_be_there() {
    let check = |text: &str, expected: &str| {
        let error = Config::parse(text, "f", &env).expect_err("it is wrong").to_string();
        assert_eq!(error, expected);
    };
    check(
        "[general]\nauth_dbname = \"x\"\n[databases.a]\n",
        "f:2: general.auth_dbname: \"x\" is no database of this file",
    );
    check(
        "[databases.a]\nauth_dbname = \"x\"\n",
        "f:2: databases.a.auth_dbname: \"x\" is no database of this file",
    );
    check("[general]\nauth_query = \"\"\n", "f:2: general.auth_query: must not be empty");
    check(
        "[general]\nproxy_protocol_from = [\"10.0.0.0/8\", \"lb\"]\n",
        "f:2: general.proxy_protocol_from: \"lb\" is not an IP address or a network such as \
         \"10.0.0.0/8\" or \"::1\"",
    );
}
