//! `COPY SECONDARY … SCHEMA`: an empty database becomes one that follows.

use super::operate::{console_of, refusal, with_console};
use super::pair::{self, Pair};
use crate::support::{
    cluster::{ALICE, Cluster},
    config::Config,
    fixture::Fixture,
    login::Login,
    poll,
    proxy::Proxy,
    tools::{feed, successful, tool},
};

/// Some of everything, in an order in which it can be made.
const SCHEMA: &str = "
CREATE EXTENSION pg_trgm;
CREATE SCHEMA \"Odd; Type: one\";
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN positive AS int CHECK (VALUE > 0);
CREATE TYPE pair AS (a int, b text);
CREATE FUNCTION twice(x int) RETURNS int LANGUAGE sql IMMUTABLE RETURN x * 2;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS $$
--
-- looks like a dump
--
BEGIN NEW.note := 'touched'; RETURN NEW; END $$;
CREATE TABLE p (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, m mood, d positive DEFAULT 1,
    c pair, a int[], g int GENERATED ALWAYS AS (twice(7)) STORED, note text COLLATE \"C\",
    CHECK (note <> 'never'));
CREATE TABLE c (id serial PRIMARY KEY, p bigint REFERENCES p ON DELETE CASCADE ON UPDATE CASCADE,
    self int REFERENCES c DEFERRABLE, UNIQUE (p, self));
CREATE TABLE parts (id int, region int, x float8, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TABLE \"Odd; Type: one\".\"T able\" (\"Id\" int PRIMARY KEY, \"x; Schema: y\" text);
CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (y int, PRIMARY KEY (id)) INHERITS (parent);
CREATE UNLOGGED TABLE fleeting (x int);
CREATE TABLE no_key (x int); ALTER TABLE no_key REPLICA IDENTITY FULL;
CREATE TABLE shown (id int NOT NULL, y int NOT NULL, EXCLUDE USING gist (int4range(id, y) WITH &&));
CREATE UNIQUE INDEX shown_id ON shown (id); ALTER TABLE shown REPLICA IDENTITY USING INDEX shown_id;
CREATE INDEX p_note ON p USING gin (note gin_trgm_ops) WHERE note IS NOT NULL;
CREATE INDEX parts_x ON parts (x DESC, twice(id)) INCLUDE (region);
CREATE INDEX c_half ON ONLY parts (region);
CREATE STATISTICS many ON id, region FROM parts;
CREATE VIEW v AS SELECT p.id, count(*) FROM p JOIN c ON c.p = p.id GROUP BY p.id;
CREATE MATERIALIZED VIEW mv AS SELECT count(*) AS n FROM p; CREATE UNIQUE INDEX ON mv (n);
CREATE SEQUENCE apart INCREMENT 5 MAXVALUE 1000 CYCLE;
CREATE TRIGGER touch BEFORE INSERT ON p FOR EACH ROW EXECUTE FUNCTION touch();
CREATE POLICY mine ON p USING (true); CREATE RULE r AS ON INSERT TO v DO INSTEAD NOTHING;
COMMENT ON TABLE p IS 'of
two lines'; COMMENT ON COLUMN c.self IS 'x'; COMMENT ON INDEX p_note IS 'y';
GRANT SELECT, UPDATE (note) ON p TO dave; ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO bob;
CREATE PUBLICATION not_there FOR TABLE p;
INSERT INTO p (m, note) SELECT 'ok', i FROM generate_series(1, 300) i;
INSERT INTO c (p, self) SELECT i, i FROM generate_series(1, 300) i;
INSERT INTO parts SELECT i, i % 3, i FROM generate_series(1, 100) i;
INSERT INTO \"Odd; Type: one\".\"T able\" VALUES (1, 'x');
INSERT INTO parent VALUES (1); INSERT INTO child VALUES (1, 2);";

/// A table without a key cannot follow.
const KEYS: &str = "exclude = [\"public.no_key\"]";

fn start() -> Pair {
    let pair = Pair::start_empty(SCHEMA, KEYS, with_console);
    pair.await_state("paused");
    pair
}

fn copy(pair: &Pair) -> String {
    format!("COPY SECONDARY {}.copy SCHEMA", pair.database)
}

/// A database's schema as `pg_dump` writes it, without what is ours, and with what does not go along
/// left out.
fn schema(cluster: &Cluster, database: &str) -> Vec<String> {
    let mut command = tool("pg_dump", &cluster.unix(), database);
    command.args(["--schema-only", "--exclude-schema=pgtandem", "--no-publications"]);
    let text = successful(feed(command, b""));
    let is_ours = |entry: &&str| !entry.contains("EXECUTE FUNCTION pgtandem.");
    // What comes first and last has a random word in it.
    let mut entries: Vec<_> = text.split("\n--\n-- Name: ").skip(1).filter(is_ours).collect();
    if let Some(last) = entries.last_mut() {
        *last = last.split("\n--\n-- PostgreSQL database dump complete").next().unwrap_or(last);
    }
    entries.into_iter().map(str::to_owned).collect()
}

#[track_caller]
fn assert_same_schema(here: (&Cluster, &str), there: (&Cluster, &str)) {
    let (ours, theirs) = (schema(here.0, here.1), schema(there.0, there.1));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.len() > 50, "{}", ours.len());
}

#[test]
fn an_empty_database_becomes_one_that_follows() {
    let pair = start();
    let mut console = console_of(&pair.proxy);
    assert_eq!(console.query(&copy(&pair)), "C COPY | Z I");
    pair.assert_equal();
    poll("the schema is complete", || {
        pair.there().value("SELECT to_regclass('pgtandem.schema_rest') IS NULL") == "t"
    });
    assert_same_schema((pair.primary, &pair.database), (pair.secondary, &pair.other));
    // It goes on from there.
    pair.run(
        "INSERT INTO p (m) VALUES ('sad'); DELETE FROM p WHERE id < 50; \
         UPDATE parts SET region = 2 WHERE id < 10",
    );
    pair.assert_equal();
    assert_eq!(pair.there().value("SELECT count(*) FROM p WHERE note = 'touched'"), "252");
}

#[test]
fn what_is_there_is_not_touched() {
    let pair = start();
    let mut console = console_of(&pair.proxy);
    for (make, what, drop) in [
        ("CREATE TABLE mine (x int)", "relation public.mine", "DROP TABLE mine"),
        ("CREATE TYPE t AS ENUM ('a')", "type public.t", "DROP TYPE t"),
        ("CREATE SCHEMA s", "schema s", "DROP SCHEMA s"),
        (
            "CREATE FUNCTION f() RETURNS int LANGUAGE sql RETURN 1",
            "function public.f()",
            "DROP FUNCTION f",
        ),
    ] {
        pair.there().rows(make);
        let (sqlstate, words) = refusal(&mut console, &copy(&pair));
        assert_eq!(sqlstate, "55000");
        let expected = format!("the secondary is not empty: it has {what}");
        assert!(words.contains(&expected), "{words}");
        pair.there().rows(drop);
    }
    // An extension is no obstacle, if it is where it will be.
    assert_eq!(console.query(&copy(&pair)), "C COPY | Z I");
    pair.assert_equal();
}

#[test]
fn what_fails_is_said_and_leaves_nothing() {
    let pair = start();
    let mut console = console_of(&pair.proxy);
    let secondary = pair.secondary;
    secondary.superuser("postgres").rows("CREATE ROLE somebody");
    pair.primary.superuser("postgres").rows("CREATE ROLE somebody; CREATE ROLE missing_there");
    pair.run("CREATE TABLE owned (id int PRIMARY KEY); ALTER TABLE owned OWNER TO missing_there");
    let (sqlstate, words) = refusal(&mut console, &copy(&pair));
    assert_eq!(sqlstate, "58000");
    assert!(words.contains("cannot make table owned on the secondary: "), "{words}");
    assert!(words.contains("role \"missing_there\" does not exist [42704]"), "{words}");
    let left = "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace";
    assert_eq!(pair.there().value(left), "0");
    pair.run("ALTER TABLE owned OWNER TO somebody");
    assert_eq!(console.query(&copy(&pair)), "C COPY | Z I");
    pair.assert_equal();
}

#[test]
fn a_program_that_does_not_do_is_named() {
    for (program, complaint) in [
        ("/nowhere/pg_dump", "cannot run /nowhere/pg_dump: No such file"),
        ("/bin/echo", "/bin/echo printed something else than the version of a pg_dump"),
    ] {
        let keys = format!("pg_dump = \"{program}\"");
        let pair = Pair::start_empty("CREATE TABLE t (id int PRIMARY KEY)", &keys, with_console);
        pair.await_state("paused");
        let (sqlstate, words) = refusal(&mut console_of(&pair.proxy), &copy(&pair));
        assert_eq!(sqlstate, "58000");
        assert!(words.contains(complaint), "{words}");
    }
}

#[test]
fn a_proxy_that_dies_halfway_leaves_the_rest_to_another() {
    for place in ["copy_table:1", "copy_complete", "schema_made:1", "schema_made:12"] {
        let mortal = |config: Config| with_console(config).env("PGTANDEM_FAULT", place);
        let mut pair = Pair::start_empty(SCHEMA, KEYS, mortal);
        pair.await_state("paused");
        // It may die before it has answered.
        let mut console = console_of(&pair.proxy);
        let _ = console.try_send(&crate::support::message::query(&copy(&pair)));
        poll("it dies", || !pair.proxy.is_running());
        pair.proxy.wait();
        let config = Pair::config(pair.primary, &pair.database, pair.secondary, &pair.other, KEYS);
        pair.proxy = Proxy::start(pair.primary, config);
        pair.assert_equal();
        poll("the schema is complete", || {
            pair.there().value("SELECT to_regclass('pgtandem.schema_rest') IS NULL") == "t"
        });
        assert_same_schema((pair.primary, &pair.database), (pair.secondary, &pair.other));
    }
}

#[test]
fn without_rights_triggers_are_off_and_foreign_keys_deferred() {
    let (primary, secondary) = (Cluster::shared(), Cluster::start());
    let (database, other) = (primary.new_database(), secondary.new_database());
    for (cluster, name) in [(primary, &database), (&secondary, &other)] {
        cluster.superuser(name).rows(&format!("ALTER DATABASE {name} OWNER TO alice"));
    }
    let alice = Login::new(ALICE.0, &database).password(ALICE.1);
    alice.connect(&primary.unix()).expect("alice may").rows(
        "CREATE TABLE p (id int PRIMARY KEY, x text); \
         CREATE TABLE c (id int PRIMARY KEY, p int REFERENCES p); \
         CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.x := 1 / 0; RETURN NEW; END'; \
         INSERT INTO p SELECT i, 'x' FROM generate_series(1, 50) i; \
         INSERT INTO c SELECT i, 1 + i % 50 FROM generate_series(1, 200) i; \
         CREATE TRIGGER t BEFORE INSERT OR UPDATE ON p FOR EACH ROW WHEN (NEW.x = 'y') \
         EXECUTE FUNCTION f()",
    );
    let config = Pair::config(primary, &database, &secondary, &other, "");
    let text = config.to_toml().replace(
        "admin_user = \"postgres\"",
        &format!("admin_user = \"alice\"\nadmin_password = \"{}\"", ALICE.1),
    );
    let (_, sections) =
        text.split_once(&format!("[databases.{database}.replication]")).expect("it");
    let config = with_console(Fixture::config(primary, &database))
        .extra(&format!("\n[databases.{database}.replication]{sections}"));
    let proxy = Proxy::start(primary, config);
    let mut console = console_of(&proxy);
    poll("it waits for a schema", || {
        format!("{:?}", console.rows("SHOW SECONDARIES")).contains("public.c does not exist")
    });
    let command = format!("COPY SECONDARY {database}.copy SCHEMA");
    assert_eq!(console.query(&command), "C COPY | Z I");
    let (here, there) = ((primary, database.as_str()), (&secondary, other.as_str()));
    pair::assert_equal(here, there);
    primary.superuser(&database).rows(
        "BEGIN; SET session_replication_role = replica; INSERT INTO p VALUES (1000, 'y'); COMMIT; \
         INSERT INTO c VALUES (1000, 1000)",
    );
    pair::assert_equal(here, there);
    let mut client = secondary.superuser(&other);
    assert_eq!(client.value("SELECT tgenabled FROM pg_trigger WHERE tgname = 't'"), "D");
    assert_eq!(
        client.value("SELECT condeferrable FROM pg_constraint WHERE conname = 'c_p_fkey'"),
        "t"
    );
}
