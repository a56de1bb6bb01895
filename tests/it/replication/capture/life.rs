//! Installing, repairing, finding what changed, and removing.

use std::time::Duration;

use pgtandem::replication::capture::{self, CaptureError, Captured, Refusal};

use super::{Primary, everything};
use crate::support::cluster::Cluster;
use crate::support::definitions::definitions;

const TABLES: &str = "CREATE TABLE a (id int PRIMARY KEY, v text);
    CREATE TABLE p (id int PRIMARY KEY, v text) PARTITION BY RANGE (id);
    CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);
    CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';";

fn schema_of(primary: &Primary) -> Vec<String> {
    definitions(&Cluster::shared().unix(), &primary.database, &[])
}

#[test]
fn installing_twice_changes_nothing() {
    let primary = Primary::new(TABLES);
    assert_eq!(primary.capture(), [Captured::Began, Captured::Began]);
    let schema = schema_of(&primary);
    let since = primary.superuser("SELECT number, since FROM pgtandem.tables ORDER BY 1");
    assert_eq!(primary.capture(), [Captured::Unchanged, Captured::Unchanged]);
    assert_eq!(schema_of(&primary), schema);
    assert_eq!(primary.superuser("SELECT number, since FROM pgtandem.tables ORDER BY 1"), since);
    assert!(primary.findings().is_empty());
}

#[test]
fn nothing_is_left_of_it() {
    let primary = Primary::new(TABLES);
    let before = schema_of(&primary);
    primary.capture();
    primary.alice("INSERT INTO a VALUES (1, 'x'); INSERT INTO p VALUES (1, 'y');");
    assert_ne!(schema_of(&primary), before);
    let mut admin = primary.admin();
    primary.run(capture::uninstall(&mut admin, Duration::from_secs(5))).expect("it can go");
    assert_eq!(schema_of(&primary), before);
    primary.run(capture::uninstall(&mut admin, Duration::ZERO)).expect("nothing to do");
    let error = primary.run(capture::check(&mut admin, &everything()));
    assert!(matches!(error, Err(CaptureError::NotInstalled)), "{error:?}");
    primary.alice("UPDATE a SET v = 'z'; TRUNCATE p1; DELETE FROM p;");
}

/// By a role that does not own the tables; what needs their owner is found, not hidden.
#[test]
fn a_role_that_owns_nothing() {
    let primary = Primary::new("");
    primary.superuser(
        "CREATE TABLE a (id int PRIMARY KEY, v text); GRANT SELECT, TRIGGER ON a TO alice;
         CREATE TABLE b (id int PRIMARY KEY); GRANT SELECT ON b TO alice;
         CREATE TABLE c (id int PRIMARY KEY); GRANT TRIGGER ON c TO alice;
         CREATE TABLE d (id int PRIMARY KEY); GRANT SELECT, TRIGGER ON d TO alice;
         ALTER TABLE d ENABLE ROW LEVEL SECURITY;",
    );
    let mut admin = primary.admin();
    primary.run(capture::install(&mut admin)).expect("alice may create a schema");
    let refused = |name: &str| {
        let tables = primary.tables();
        let table = tables.iter().find(|t| t.name.name == name).expect("it is there");
        match primary.try_capture(table) {
            Ok(_) => None,
            Err(CaptureError::Refused { why, .. }) => Some(why),
            Err(other) => panic!("{other}"),
        }
    };
    assert_eq!(refused("a"), None);
    assert_eq!(refused("b"), Some(Refusal::NoTriggerRight));
    assert_eq!(refused("c"), Some(Refusal::NoSelectRight));
    assert_eq!(refused("d"), Some(Refusal::RowSecurity));
    primary.superuser("INSERT INTO a VALUES (1, 'x'); UPDATE a SET id = 2; TRUNCATE a");
    assert_eq!(primary.logged(), 3);
    primary.run(capture::uninstall(&mut admin, Duration::from_secs(5))).expect("it can go");
    assert_eq!(primary.superuser("SELECT count(*) FROM pg_trigger WHERE NOT tgisinternal"), "0\n");
}

#[test]
fn tables_that_cannot_follow() {
    let primary = Primary::new(
        "CREATE TABLE nokey (id int); CREATE TABLE nullable (id int UNIQUE);
         CREATE TABLE late (id int PRIMARY KEY DEFERRABLE);
         CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE UNLOGGED TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100);",
    );
    let mut admin = primary.admin();
    primary.run(capture::install(&mut admin)).expect("alice may create a schema");
    let why: Vec<_> = primary
        .tables()
        .iter()
        .map(|table| match primary.try_capture(table) {
            Err(CaptureError::Refused { why, .. }) => why,
            other => panic!("{}: {other:?}", table.name),
        })
        .collect();
    let unlogged = Refusal::UnloggedPartition { name: "public.p1".to_owned() };
    assert_eq!(why, [Refusal::DeferrableKey, Refusal::NoKey, Refusal::NoKey, unlogged]);
    assert_eq!(primary.check().len(), 4);
}

/// What somebody does behind our back is found, and repaired when the table is captured again.
#[test]
fn changes_behind_our_back() {
    let check = |change: &str, finding: &[&str], repaired: Captured| {
        let primary = Primary::new(TABLES);
        primary.capture();
        primary.alice(change);
        assert_eq!(primary.findings(), finding, "{change}");
        let captured = primary.capture();
        assert!(captured.contains(&repaired), "{change}: {captured:?}");
        assert!(primary.findings().is_empty(), "{change}");
        primary.begin();
        primary.alice(
            "INSERT INTO a VALUES (1, 'x'), (2, 'y'); UPDATE a SET v = 'z' WHERE id = 1;
            INSERT INTO p (id) VALUES (1); DELETE FROM p; TRUNCATE p1; DELETE FROM a WHERE id = 2;",
        );
        primary.assert_equal();
    };
    check(
        "DROP TRIGGER \"!pgtandem_update\" ON a",
        &["table public.a: trigger !pgtandem_update on \"public\".\"a\" is missing"],
        Captured::Began,
    );
    check(
        "ALTER TABLE a DISABLE TRIGGER \"!pgtandem_insert\"",
        &["table public.a: trigger !pgtandem_insert on \"public\".\"a\" is disabled"],
        Captured::Began,
    );
    check(
        "ALTER TABLE a ENABLE TRIGGER \"!pgtandem_insert\"",
        &["table public.a: trigger !pgtandem_insert on \"public\".\"a\" is not ENABLE ALWAYS"],
        Captured::Began,
    );
    check(
        "CREATE OR REPLACE FUNCTION pgtandem.delete_1() RETURNS trigger LANGUAGE plpgsql
             SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS 'BEGIN RETURN NULL; END'",
        &["table public.a: function pgtandem.delete_1 was changed"],
        Captured::Began,
    );
    check(
        "ALTER FUNCTION pgtandem.delete_1() SET work_mem = '1MB'",
        &["table public.a: function pgtandem.delete_1 was changed"],
        Captured::Began,
    );
    check(
        "ALTER TABLE a ADD COLUMN more int",
        &["table public.a: its columns, types or key have changed"],
        Captured::Began,
    );
    check(
        "ALTER TABLE a RENAME TO b; ALTER TABLE b RENAME TO a;
         DROP TRIGGER \"!pgtandem_truncate\" ON p1",
        &["table public.p: trigger !pgtandem_truncate on public.p1 is missing"],
        Captured::Began,
    );
    check(
        "CREATE TRIGGER mine BEFORE INSERT ON a FOR EACH ROW EXECUTE FUNCTION nothing()",
        &["table public.a: its triggers changed, inserts should be captured by row"],
        Captured::Adapted,
    );
    check(
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (100) TO (200)",
        &["table public.p: partition public.p2 was added"],
        Captured::Extended,
    );
}

#[test]
fn tables_that_come_and_go() {
    let primary = Primary::new(TABLES);
    primary.capture();
    primary.alice(
        "DROP TABLE a; CREATE TABLE c (id int PRIMARY KEY); ALTER TABLE p RENAME TO q;
        CREATE TABLE nokey (id int)",
    );
    let expected = [
        "table public.a: it was dropped, or cannot be captured any more",
        "table public.p: it was renamed to public.q",
        "table public.c: it is not captured",
    ];
    let findings = primary.findings();
    assert_eq!(findings[..3], expected);
    assert!(findings[3].starts_with("table public.nokey: it has no primary key"), "{findings:?}");
    let may_have_missed: Vec<_> =
        primary.check().iter().map(|finding| finding.what.may_have_missed()).collect();
    assert_eq!(may_have_missed, [true, false, false, true]);
}

/// A busy table's writers do not queue behind us for long, and we do not give up at once.
#[test]
fn a_busy_table() {
    let primary = Primary::new(TABLES);
    let mut admin = primary.admin();
    primary.run(capture::install(&mut admin)).expect("alice may create a schema");
    let mut writer = primary.session("postgres");
    writer.rows("BEGIN; INSERT INTO a VALUES (1, 'open')");
    let table = primary.tables().remove(0);
    let patience = Duration::from_millis(600);
    let error = primary.run(capture::capture(&mut admin, &table, patience));
    assert!(matches!(error, Err(CaptureError::Busy { .. })), "{error:?}");
    primary.alice("INSERT INTO a VALUES (2, 'not held up')");
    writer.rows("COMMIT");
    assert_eq!(primary.try_capture(&table).expect("it is free"), Captured::Began);
    // Rows of before are in every snapshot that capture begins with.
    assert_eq!(primary.logged(), 0);
}

/// Somebody else's schema of that name is left alone.
#[test]
fn a_schema_that_is_not_ours() {
    let primary = Primary::new("");
    primary.superuser("CREATE SCHEMA pgtandem");
    let mut admin = primary.admin();
    let error = primary.run(capture::install(&mut admin));
    assert!(matches!(error, Err(CaptureError::Foreign { .. })), "{error:?}");
    primary.superuser("DROP SCHEMA pgtandem");
    primary.run(capture::install(&mut admin)).expect("alice may create a schema");
    primary.superuser("UPDATE pgtandem.meta SET format = 99");
    let error = primary.run(capture::install(&mut admin));
    assert!(matches!(error, Err(CaptureError::Newer { found: 99, .. })), "{error:?}");
}

/// The script for an administrator makes what the product makes.
#[test]
fn the_script_does_the_same() {
    let tables = "CREATE TABLE a (id int PRIMARY KEY, \"it's\" text);
        CREATE TABLE p (id int PRIMARY KEY, t timestamptz) PARTITION BY RANGE (id);
        CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (100); CREATE TABLE nokey (i int);";
    let primary = Primary::new(tables);
    let admin = primary.admin();
    let script =
        primary.run(capture::script(&admin, &primary.tables(), "alice")).expect("it reads");
    assert!(script.contains("-- public.nokey: it has no primary key"), "{script}");
    // The database is named in it.
    let other = Primary::new(tables);
    let oids = |primary: &Primary| -> Vec<String> {
        let oids = primary.superuser(
            "SELECT relid::regclass::oid FROM (VALUES ('a'), ('p'), ('p1')) t(n),
            LATERAL (SELECT n::regclass AS relid) r",
        );
        oids.lines().map(str::to_owned).collect()
    };
    let mut script = script.replace(&primary.database, &other.database);
    for (ours, theirs) in oids(&primary).iter().zip(oids(&other)) {
        script = script.replace(ours, &theirs);
    }
    other.superuser(&script);
    let findings = other.findings();
    assert_eq!(findings.len(), 1, "{findings:?}");
    let mut admin = primary.admin();
    primary.run(capture::install(&mut admin)).expect("alice may install");
    for table in primary.tables().iter().filter(|table| table.name.name != "nokey") {
        primary.try_capture(table).expect("it can be captured");
    }
    let without_grants = |mut lines: Vec<String>| {
        lines.retain(|line| {
            !["GRANT ", "REVOKE ", "acl "].iter().any(|start| line.starts_with(start))
        });
        lines
    };
    assert_eq!(without_grants(schema_of(&primary)), without_grants(schema_of(&other)));
    other.begin();
    other.alice("INSERT INTO a VALUES (1, 'x'); INSERT INTO p VALUES (2, now()); TRUNCATE p1");
    other.assert_equal();
}

#[test]
fn what_does_not_follow_is_listed() {
    let primary = Primary::new(
        "CREATE UNLOGGED TABLE u (id int PRIMARY KEY); CREATE TEMP TABLE t (id int);
         CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE VIEW v AS SELECT 1; CREATE TABLE z ();
         CREATE TABLE a (id int PRIMARY KEY);",
    );
    let admin = primary.admin();
    let skipped = primary.run(capture::skipped(&admin, &everything())).expect("it reads");
    let listed: Vec<_> =
        skipped.iter().map(|skipped| format!("{} {}", skipped.name, skipped.nature)).collect();
    let expected = [
        "public.m it is a materialized view",
        "public.u it is UNLOGGED",
        "public.z it has no columns",
    ];
    assert_eq!(listed, expected);
}
