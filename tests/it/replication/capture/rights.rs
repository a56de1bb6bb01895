//! Application roles can neither read nor write the log, nor make it say what did not happen.

use super::Primary;
use crate::support::message;

const ACCOUNTS: &str = "CREATE TABLE accounts (id int PRIMARY KEY, owner text, balance numeric);
    INSERT INTO accounts VALUES (1, 'a', 10), (2, 'b', 20);
    GRANT ALL ON accounts TO dave;";

/// Runs `sql` as the application and gives the SQLSTATE of its failure.
fn refused(primary: &Primary, sql: &str) -> String {
    let mut session = primary.session("dave");
    session.send(&[message::query(sql)]);
    let replies = session.replies_until(|reply| reply.tag() == b'Z');
    let error = replies.iter().find(|reply| reply.tag() == b'E');
    error.unwrap_or_else(|| panic!("nobody refused {sql}")).sqlstate()
}

#[test]
fn the_schema_is_closed() {
    // Default privileges of the owner would open new objects.
    let primary = Primary::new(&format!(
        "ALTER DEFAULT PRIVILEGES GRANT ALL ON TABLES TO dave, PUBLIC;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SEQUENCES TO dave;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON FUNCTIONS TO dave;
         ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO dave;
         {ACCOUNTS}"
    ));
    primary.capture();
    assert!(primary.findings().is_empty());
    for sql in [
        "SELECT * FROM pgtandem.log_0",
        "INSERT INTO pgtandem.log_0 (rel, op) VALUES (1, 'T')",
        "TRUNCATE pgtandem.log_0",
        "UPDATE pgtandem.secondaries SET state = 'detached'",
        "SELECT * FROM pgtandem.tables",
        "SELECT nextval('pgtandem.log_id')",
        "SELECT setval('pgtandem.log_id', 1)",
        "SELECT pgtandem.insert_1()",
        "DROP SCHEMA pgtandem CASCADE",
        "CREATE TABLE pgtandem.mine ()",
        "CREATE TEMP TABLE accounts (id int, owner text, balance numeric);
         CREATE TRIGGER t AFTER INSERT ON accounts FOR EACH ROW
             EXECUTE FUNCTION pgtandem.update_1()",
        "CREATE OR REPLACE FUNCTION pgtandem.insert_1() RETURNS trigger LANGUAGE plpgsql AS ''",
        "DROP TRIGGER \"!pgtandem_insert\" ON accounts",
        "ALTER TABLE accounts DISABLE TRIGGER ALL",
        "SET session_replication_role = replica",
    ] {
        assert_eq!(refused(&primary, sql), "42501", "{sql}");
    }
}

/// A right that somebody grants is found.
#[test]
fn rights_given_away_are_found() {
    let primary = Primary::new(ACCOUNTS);
    primary.capture();
    primary.alice(
        "GRANT USAGE ON SCHEMA pgtandem TO dave; GRANT SELECT ON pgtandem.log_1 TO PUBLIC;
         GRANT EXECUTE ON FUNCTION pgtandem.update_1() TO dave;",
    );
    let expected = [
        "dave has rights on function pgtandem.update_1()",
        "PUBLIC has rights on pgtandem.log_1",
        "dave has rights on schema pgtandem",
    ];
    assert_eq!(primary.findings(), expected);
    primary.capture();
    assert!(primary.findings().is_empty());
}

/// The functions run with the owner's rights; nothing of the application's must run inside them.
#[test]
fn nothing_of_the_application_runs_as_the_owner() {
    let primary = Primary::new(
        "CREATE SCHEMA app; GRANT ALL ON SCHEMA app TO dave; CREATE TABLE witness (who text PRIMARY KEY);
         GRANT ALL ON witness TO PUBLIC",
    );
    primary.dave(
        "SET search_path = app;
         CREATE FUNCTION trap() RETURNS void LANGUAGE sql VOLATILE AS
             'INSERT INTO public.witness VALUES (current_user)';
         CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE TYPE pair AS (a int, b text);",
    );
    primary.alice(
        "GRANT USAGE ON SCHEMA app TO alice;
         CREATE TABLE held (m app.mood PRIMARY KEY, p app.pair, v text);
         GRANT ALL ON held TO dave;",
    );
    primary.capture();
    primary.begin();
    primary.dave(
        "SET search_path = app, pg_catalog;
         CREATE FUNCTION mood_text(mood) RETURNS text LANGUAGE sql AS
             'SELECT app.trap(); SELECT ''forged''::text';
         CREATE CAST (mood AS text) WITH FUNCTION mood_text(mood) AS ASSIGNMENT;
         CREATE FUNCTION pair_text(pair) RETURNS text LANGUAGE sql AS
             'SELECT app.trap(); SELECT ''forged''::text';
         CREATE CAST (pair AS text) WITH FUNCTION pair_text(pair) AS ASSIGNMENT;
         CREATE FUNCTION concat(anyelement) RETURNS text LANGUAGE sql AS
             'SELECT app.trap(); SELECT ''forged''::text';
         CREATE FUNCTION nextval(text) RETURNS bigint LANGUAGE sql AS
             'SELECT app.trap(); SELECT 1::bigint';
         CREATE TEMP TABLE log_0 (id int);
         CREATE TEMP TABLE pgtandem_new AS SELECT * FROM public.held;
         CREATE DOMAIN pg_temp.text AS varchar;
         INSERT INTO public.held VALUES ('sad', (1, 'x'), 'v'), ('ok', (2, 'y'), 'w');
         UPDATE public.held SET m = 'ok', v = 'z' WHERE m = 'ok';
         DELETE FROM public.held WHERE m = 'sad';",
    );
    assert_eq!(primary.logged(), 4);
    assert_eq!(primary.superuser("SELECT who FROM witness"), "");
    primary.alice("TRUNCATE held");
    primary.assert_equal();
}

/// The application's settings for how it looks up names, or what it may use, are not ours.
#[test]
fn a_writer_without_any_right_on_the_log_is_captured() {
    let primary = Primary::captured(ACCOUNTS);
    primary.dave(
        "SET search_path = ''; SET row_security = off; SET plpgsql.check_asserts = off;
         SET default_tablespace = ''; SET standard_conforming_strings = off;
         SET backslash_quote = off; SET check_function_bodies = on; SET transform_null_equals = on;
         UPDATE public.accounts SET balance = balance + 1;
         BEGIN ISOLATION LEVEL SERIALIZABLE; DELETE FROM public.accounts WHERE id = 1; COMMIT;
         INSERT INTO public.accounts VALUES (3, NULL, 'NaN');",
    );
    assert_eq!(primary.logged(), 4);
    primary.assert_equal();
}
