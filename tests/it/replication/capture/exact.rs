//! What is replayed from the log is what the tables hold, whatever wrote to them.

use super::Primary;

/// Runs `work` on captured tables, as the application, and compares.
fn check(setup: &str, work: &str) {
    let primary = Primary::captured(setup);
    primary.alice("GRANT ALL ON ALL TABLES IN SCHEMA public TO dave");
    primary.alice("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO dave");
    primary.dave(work);
    assert!(primary.logged() > 0, "nothing was captured");
    primary.assert_equal();
    assert!(primary.findings().is_empty());
}

const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, name text, n int DEFAULT 0);
    INSERT INTO items SELECT g, 'item ' || g, g FROM generate_series(1, 20) g;";

#[test]
fn insert_update_delete_copy_truncate() {
    check(
        ITEMS,
        "INSERT INTO items VALUES (100, NULL), (101, ''), (102, E'a\"b\\\\c,(d)''\\n');
         UPDATE items SET n = n + 1;
         UPDATE items SET id = id + 1000 WHERE id % 2 = 0;
         DELETE FROM items WHERE id < 10;
         COPY items FROM stdin;
7\tcopied\t1
8\t\\N\t2
\\.
         BEGIN; TRUNCATE items; INSERT INTO items VALUES (1, 'after'); COMMIT;
         INSERT INTO items VALUES (2, 'more');",
    );
}

#[test]
fn upsert_and_keys_that_change_hands() {
    check(
        ITEMS,
        "INSERT INTO items VALUES (1, 'x'), (50, 'y') ON CONFLICT (id) DO UPDATE SET n = 7;
         INSERT INTO items VALUES (1, 'x'), (51, 'y') ON CONFLICT DO NOTHING;
         INSERT INTO items SELECT g, 'z' FROM generate_series(1, 60) g
             ON CONFLICT (id) DO UPDATE SET n = items.n + 1, name = excluded.name;
         BEGIN;
         DELETE FROM items WHERE id = 1; INSERT INTO items VALUES (1, 'again');
         UPDATE items SET id = 900 WHERE id = 2; UPDATE items SET id = 2 WHERE id = 3;
         UPDATE items SET id = 3 WHERE id = 900;
         COMMIT;
         WITH gone AS (DELETE FROM items WHERE id BETWEEN 4 AND 8 RETURNING *)
             INSERT INTO items SELECT id, name || '!', n FROM gone;
         UPDATE items SET id = id - 1 WHERE id IN (SELECT id FROM items ORDER BY id) AND id < 0;",
    );
}

#[test]
fn merge() {
    let primary = Primary::captured(ITEMS);
    if primary.version() < 15 {
        return;
    }
    primary.alice(
        "MERGE INTO items t USING (SELECT g AS id FROM generate_series(1, 40) g) s ON t.id = s.id
         WHEN MATCHED AND t.id % 3 = 0 THEN DELETE
         WHEN MATCHED AND t.id % 3 = 1 THEN UPDATE SET n = 100, id = t.id + 500
         WHEN NOT MATCHED THEN INSERT VALUES (s.id, 'merged')",
    );
    primary.assert_equal();
}

#[test]
fn savepoints_functions_rules_and_prepared_transactions() {
    check(
        &format!(
            "{ITEMS}
             CREATE TABLE plain (id int PRIMARY KEY, v text);
             CREATE VIEW shown AS SELECT id, name FROM items;
             CREATE RULE twice AS ON INSERT TO plain DO ALSO
                 UPDATE items SET n = n + 1 WHERE id = NEW.id;
             GRANT ALL ON shown TO dave;
             CREATE FUNCTION add(int) RETURNS int LANGUAGE sql AS
                 'INSERT INTO items VALUES ($1, ''added'') RETURNING id';"
        ),
        "BEGIN;
         INSERT INTO items VALUES (200, 'kept');
         SAVEPOINT a; INSERT INTO items VALUES (201, 'not kept'); UPDATE items SET n = -1;
         ROLLBACK TO a;
         SAVEPOINT b; UPDATE items SET n = -2 WHERE id = 200; RELEASE b;
         COMMIT;
         BEGIN; DELETE FROM items; ROLLBACK;
         SELECT add(300), add(301);
         DO $$ BEGIN
             INSERT INTO items VALUES (400, 'do');
             BEGIN INSERT INTO items VALUES (400, 'again'); EXCEPTION WHEN unique_violation THEN
                 UPDATE items SET name = 'caught' WHERE id = 400; END;
         END $$;
         INSERT INTO shown VALUES (500, 'through a view');
         UPDATE shown SET name = 'changed' WHERE id = 500;
         INSERT INTO plain VALUES (1, 'a'), (2, 'b');
         SELECT current_setting('max_prepared_transactions')::int > 0 AS can_prepare \\gset
         \\if :can_prepare
         BEGIN; UPDATE items SET n = 77 WHERE id = 5; PREPARE TRANSACTION 'pgtandem-it';
         COMMIT PREPARED 'pgtandem-it';
         \\endif",
    );
}

#[test]
fn foreign_keys_that_cascade() {
    check(
        "CREATE TABLE parents (id int PRIMARY KEY, v int);
         CREATE TABLE children (id int PRIMARY KEY,
             parent int DEFAULT 0 REFERENCES parents ON UPDATE CASCADE ON DELETE CASCADE);
         CREATE TABLE nullable (id int PRIMARY KEY,
             parent int REFERENCES parents ON UPDATE SET NULL ON DELETE SET NULL
                 DEFERRABLE INITIALLY DEFERRED);
         CREATE TABLE tree (id int PRIMARY KEY, up int REFERENCES tree
             ON UPDATE CASCADE ON DELETE CASCADE);
         INSERT INTO parents SELECT g, g FROM generate_series(0, 9) g;
         INSERT INTO children SELECT g, g % 10 FROM generate_series(1, 50) g;
         INSERT INTO nullable SELECT g, g % 10 FROM generate_series(1, 50) g;
         INSERT INTO tree SELECT g, NULLIF(g / 2, 0) FROM generate_series(1, 31) g;",
        "UPDATE parents SET id = id + 100 WHERE id > 5;
         DELETE FROM parents WHERE id IN (1, 2, 107);
         UPDATE tree SET id = id + 100;
         DELETE FROM tree WHERE id IN (102, 105, 103);
         BEGIN; INSERT INTO tree VALUES (1, NULL), (2, 1), (3, 2); UPDATE tree SET id = id + 5000;
         DELETE FROM tree WHERE id = 5002; COMMIT;
         TRUNCATE parents CASCADE;",
    );
}

#[test]
fn triggers_that_write_to_the_same_table() {
    check(
        "CREATE TABLE one (id int PRIMARY KEY, is_default bool NOT NULL, n int DEFAULT 0);
         CREATE FUNCTION only_one() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF NEW.is_default THEN
                 UPDATE one SET is_default = false, n = n + 1 WHERE id <> NEW.id AND is_default;
             END IF;
             RETURN NEW; END $$;
         CREATE TRIGGER only_one BEFORE INSERT OR UPDATE ON one
             FOR EACH ROW EXECUTE FUNCTION only_one();
         CREATE TABLE audit (id serial PRIMARY KEY, what text);
         CREATE TABLE chain (id int PRIMARY KEY, n int);
         CREATE FUNCTION next() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO audit(what) VALUES (TG_OP);
             IF TG_OP = 'DELETE' THEN
                 INSERT INTO chain VALUES (OLD.id + 1, 99) ON CONFLICT DO NOTHING;
             ELSIF TG_OP = 'INSERT' THEN
                 UPDATE chain SET n = n + 1 WHERE id = NEW.id + 1;
                 DELETE FROM chain WHERE id = NEW.id + 2 AND n > 5;
             ELSE
                 UPDATE chain SET n = n * 2 WHERE id = NEW.id + 1 AND n < 100;
             END IF;
             RETURN NULL; END $$;
         CREATE TRIGGER \" first\" AFTER INSERT OR UPDATE OR DELETE ON chain
             FOR EACH ROW EXECUTE FUNCTION next();",
        "INSERT INTO one VALUES (1, true), (2, true), (3, true);
         UPDATE one SET is_default = true WHERE id IN (1, 2);
         INSERT INTO one VALUES (2, true), (4, true) ON CONFLICT (id) DO UPDATE SET is_default = true;
         INSERT INTO chain SELECT g, g FROM generate_series(1, 10) g;
         UPDATE chain SET n = n + 1;
         DELETE FROM chain WHERE id < 4;
         BEGIN; DELETE FROM chain WHERE id IN (4, 5); UPDATE chain SET n = 1; COMMIT;",
    );
}

/// A statement's function changes rows that the statement itself has changed before.
#[test]
fn functions_within_a_statement() {
    check(
        &format!(
            "{ITEMS} CREATE FUNCTION touch(int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN
                 UPDATE items SET n = n + 1000 WHERE id = $1 - 1; RETURN 1; END $$;"
        ),
        "UPDATE items SET n = touch(id);
         DELETE FROM items WHERE touch(id) = 1 AND id = 9;",
    );
}

#[test]
fn partitioned_tables_and_rows_that_move() {
    check(
        "CREATE TABLE parts (id int, region text, v text, PRIMARY KEY (id, region))
             PARTITION BY LIST (region);
         CREATE TABLE north PARTITION OF parts FOR VALUES IN ('n');
         -- Columns in another order, and one that was dropped.
         CREATE TABLE south (gone int, v text, region text NOT NULL, id int NOT NULL);
         ALTER TABLE south DROP COLUMN gone;
         ALTER TABLE parts ATTACH PARTITION south FOR VALUES IN ('s');
         CREATE TABLE rest PARTITION OF parts DEFAULT PARTITION BY RANGE (id);
         CREATE TABLE low PARTITION OF rest FOR VALUES FROM (MINVALUE) TO (100);
         CREATE TABLE high PARTITION OF rest FOR VALUES FROM (100) TO (MAXVALUE);
         INSERT INTO parts SELECT g, 'n', 'v' || g FROM generate_series(1, 10) g;",
        "INSERT INTO parts SELECT g, (ARRAY['n', 's', 'e'])[1 + g % 3], 'x'
             FROM generate_series(50, 150) g;
         INSERT INTO south (id, region, v) VALUES (1000, 's', 'direct');
         INSERT INTO low VALUES (-1, 'w', 'direct');
         UPDATE parts SET region = 's' WHERE id IN (1, 2, 3);
         UPDATE parts SET region = 'e', id = id + 2000 WHERE region = 's' AND id < 60;
         UPDATE rest SET id = id + 3000 WHERE id > 0 AND id < 100;
         UPDATE north SET v = 'updated';
         DELETE FROM parts WHERE id % 7 = 0;
         TRUNCATE low;
         BEGIN; INSERT INTO high VALUES (5000, 'q', ''); TRUNCATE high;
         INSERT INTO high VALUES (5001, 'q', ''); COMMIT;
         BEGIN; DELETE FROM north WHERE id = 4; TRUNCATE parts; TRUNCATE south;
         INSERT INTO parts VALUES (9, 's', ''), (9, 'n', ''), (9, 'e', ''); TRUNCATE north; COMMIT;
         INSERT INTO parts VALUES (10, 'n', 'last');",
    );
}

#[test]
fn inheritance_identity_generated_and_dropped_columns() {
    check(
        "CREATE TABLE base (id int PRIMARY KEY, v text);
         CREATE TABLE derived (extra int, PRIMARY KEY (id)) INHERITS (base);
         CREATE TABLE made (
             always int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
             gone text,
             bydefault int GENERATED BY DEFAULT AS IDENTITY,
             a int DEFAULT 2, twice int GENERATED ALWAYS AS (a * 2) STORED,
             at timestamptz DEFAULT clock_timestamp(), r float8 DEFAULT random());
         ALTER TABLE made DROP COLUMN gone;
         ALTER TABLE made ADD COLUMN later text DEFAULT 'later';
         CREATE TABLE n (n int PRIMARY KEY, \"odd 'name\\%\" text, t text, new text, old text);",
        "INSERT INTO base VALUES (1, 'a'), (2, 'b');
         INSERT INTO derived VALUES (1, 'c', 3), (5, 'd', 6);
         UPDATE base SET v = v || '!';
         DELETE FROM base WHERE id = 1;
         INSERT INTO made DEFAULT VALUES; INSERT INTO made DEFAULT VALUES;
         INSERT INTO made (a) SELECT g FROM generate_series(1, 5) g;
         UPDATE made SET a = a + 1; DELETE FROM made WHERE always = 3;
         INSERT INTO n VALUES (1, 'x', 't', 'n', 'o'); UPDATE n SET n = 2, t = NULL;
         TRUNCATE base; INSERT INTO derived VALUES (7);
         INSERT INTO n VALUES (3, 'y');",
    );
}

/// Writers that say they are replicas, and rows out of line.
#[test]
fn replica_role_and_toast() {
    let primary = Primary::captured(
        "CREATE TABLE wide (id int PRIMARY KEY, v text, n int);
         ALTER TABLE wide ALTER v SET STORAGE EXTERNAL;",
    );
    primary.superuser(
        "SET session_replication_role = replica;
         INSERT INTO wide VALUES (1, repeat('abcdefghij', 10000), 1);
         UPDATE wide SET n = 2;
         INSERT INTO wide VALUES (2, repeat('x', 3000), 1); DELETE FROM wide WHERE id = 2;",
    );
    assert_eq!(primary.logged(), 4);
    primary.assert_equal();
}

/// Keys by a unique index, of several columns, and of types that print otherwise than they are cast.
#[test]
fn keys_of_all_kinds() {
    check(
        "CREATE TYPE mood AS ENUM ('sad', 'ok');
         CREATE DOMAIN tag AS text CHECK (VALUE <> '');
         CREATE TYPE pair AS (a int, b text);
         CREATE TABLE k1 (b bool, c char(4), i inet, PRIMARY KEY (b, c, i));
         CREATE TABLE k2 (m mood NOT NULL, t tag NOT NULL, v int);
         CREATE UNIQUE INDEX k2_key ON k2 (t, m);
         ALTER TABLE k2 REPLICA IDENTITY USING INDEX k2_key;
         CREATE TABLE k3 (p pair PRIMARY KEY, v int);
         CREATE TABLE k4 (a int[] PRIMARY KEY, v int);
         CREATE TABLE k5 (r int4range PRIMARY KEY, u uuid DEFAULT gen_random_uuid());
         CREATE TABLE k6 (d numeric PRIMARY KEY, t timestamptz, x bytea);
         CREATE TABLE k7 (\"Key \"\"1\"\"\" text PRIMARY KEY, v \"char\");",
        "INSERT INTO k1 VALUES (true, 'ab', '10.0.0.1'), (false, 'ab', '10.0.0.0/8');
         UPDATE k1 SET c = 'x' WHERE b; DELETE FROM k1 WHERE NOT b;
         INSERT INTO k2 VALUES ('sad', 'a', 1), ('ok', 'a', 2); UPDATE k2 SET m = 'ok', t = 'b'
             WHERE m = 'sad'; DELETE FROM k2 WHERE t = 'a';
         INSERT INTO k3 VALUES ((1, 'x,\"y'), 1), ((2, NULL), 2); UPDATE k3 SET v = 3;
         DELETE FROM k3 WHERE v = 3 AND (p).a = 2;
         INSERT INTO k4 VALUES ('{1,NULL}', 1), ('{}', 2); UPDATE k4 SET a = a || 5;
         INSERT INTO k5 VALUES ('[1,5)'), ('empty'); UPDATE k5 SET r = '[2,3]' WHERE isempty(r);
         INSERT INTO k6 VALUES (1.0, now(), '\\xdeadbeef'), ('NaN', 'infinity', '');
         UPDATE k6 SET d = 1.00 WHERE d = 1;
         INSERT INTO k7 VALUES ('it''s', 'c'); UPDATE k7 SET \"Key \"\"1\"\"\" = E'\\\\';",
    );
}
