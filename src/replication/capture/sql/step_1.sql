-- Format 1: the schema that is pgtandem's on a primary. No application role needs a right on it.
CREATE SCHEMA IF NOT EXISTS pgtandem;
COMMENT ON SCHEMA pgtandem IS 'pgtandem keeps other databases copies of this one';

-- One row. "active" is the number of the log that the trigger functions write to.
CREATE TABLE pgtandem.meta (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    format       int NOT NULL,
    group_id     uuid NOT NULL DEFAULT pg_catalog.gen_random_uuid(),
    installed_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    next_number  int NOT NULL DEFAULT 1,
    active       int NOT NULL DEFAULT 0 CHECK (active BETWEEN 0 AND 2),
    rotated_at   timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    stopped_at   timestamptz,
    stopped_why  text
);
INSERT INTO pgtandem.meta (format) VALUES (1);

-- The tables under capture. Changes by transactions that "since" does not see are in the log; "first" is
-- what it was when the table first came under capture.
CREATE TABLE pgtandem.tables (
    number      int PRIMARY KEY,
    relid       oid NOT NULL UNIQUE,
    schema      text NOT NULL,
    name        text NOT NULL,
    key         text[] NOT NULL,
    fingerprint text NOT NULL,
    inserts     text NOT NULL CHECK (inserts IN ('statement', 'row')),
    leaves      oid[] NOT NULL,
    since       pg_snapshot NOT NULL,
    first       pg_snapshot NOT NULL DEFAULT pg_catalog.pg_current_snapshot()
);

-- Written by whoever applies; read by rotation and limits.
CREATE TABLE pgtandem.secondaries (
    name          text PRIMARY KEY,
    state         text NOT NULL,
    progress      pg_snapshot,
    applied_at    timestamptz,
    last_error    text,
    registered_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()
) WITH (fillfactor = 50);

-- CACHE 1: a number drawn after another transaction's commit is the larger one. That is what makes
-- the order of ids the order of conflicting writes.
CREATE SEQUENCE pgtandem.log_id CACHE 1;

-- Writers append to one of three tables; one that everybody has read is truncated, never vacuumed.
-- "xid" is the top-level transaction, also in a subtransaction. "leaf", "was" and "now" tell row
-- versions apart, for the order of changes within a transaction.
CREATE TABLE pgtandem.log_0 (
    id   bigint NOT NULL DEFAULT pg_catalog.nextval('pgtandem.log_id'),
    xid  xid8   NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
    rel  int    NOT NULL,
    op   "char" NOT NULL,
    key  text[],
    new  text,
    leaf oid,
    was  tid,
    now  tid
) WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE pgtandem.log_1 (LIKE pgtandem.log_0 INCLUDING DEFAULTS)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE TABLE pgtandem.log_2 (LIKE pgtandem.log_0 INCLUDING DEFAULTS)
    WITH (autovacuum_vacuum_insert_threshold = -1);
CREATE INDEX log_0_xid ON pgtandem.log_0 (xid);
CREATE INDEX log_1_xid ON pgtandem.log_1 (xid);
CREATE INDEX log_2_xid ON pgtandem.log_2 (xid);
