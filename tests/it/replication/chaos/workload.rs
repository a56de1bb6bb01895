//! What the writers write, and what must hold in every snapshot.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::RwLock;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use super::random::Random;

pub const SCHEMA: &str = "
CREATE TABLE accounts (id int PRIMARY KEY, balance bigint NOT NULL);
CREATE TABLE moves (id bigserial PRIMARY KEY, source int NOT NULL, target int NOT NULL,
    amount bigint NOT NULL, u uuid NOT NULL DEFAULT gen_random_uuid(),
    r float8 NOT NULL DEFAULT random(), at timestamptz NOT NULL DEFAULT clock_timestamp());
CREATE TABLE queue (id bigserial PRIMARY KEY, payload text);
CREATE TABLE done (id bigint PRIMARY KEY, worker int NOT NULL, at timestamptz DEFAULT now());
CREATE TABLE parents (id int PRIMARY KEY, x text UNIQUE);
CREATE TABLE children (id bigserial PRIMARY KEY, y int,
    parent int NOT NULL REFERENCES parents ON DELETE CASCADE ON UPDATE CASCADE);
CREATE TABLE counters (k text PRIMARY KEY, n bigint NOT NULL);
CREATE TABLE numbers (id int PRIMARY KEY, v int NOT NULL);
CREATE TABLE bulk (id bigserial PRIMARY KEY, payload text);
CREATE TABLE parts (id int, region int, x float8, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
CREATE TABLE parts_0 PARTITION OF parts FOR VALUES IN (0);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES IN (1);
CREATE TABLE parts_rest PARTITION OF parts DEFAULT;
CREATE TYPE mood AS ENUM ('fine');
CREATE TABLE moods (id bigserial PRIMARY KEY, mood mood NOT NULL DEFAULT 'fine');";

pub const ROWS: &str = "
INSERT INTO accounts SELECT i, 1000 FROM generate_series(1, 100) i;
INSERT INTO numbers SELECT i, i % 7 FROM generate_series(1, 200) i;
INSERT INTO parents SELECT i, 'x' || i FROM generate_series(1, 40) i;
INSERT INTO children (y, parent) SELECT j, i FROM generate_series(1, 40) i, generate_series(1, 3) j;
INSERT INTO parts SELECT i, i % 4, random() FROM generate_series(1, 100) i;";

/// What is wrong in a snapshot; no row if nothing is.
pub const INVARIANTS: &str = "
SELECT 'the sum of all balances is ' || sum(balance) FROM accounts HAVING sum(balance) <> 100000
UNION ALL
SELECT format('account %s has %s after moves of %s', id, balance, moved) FROM (
    SELECT a.id, a.balance, (SELECT coalesce(sum(amount), 0) FROM moves m WHERE m.target = a.id)
           - (SELECT coalesce(sum(amount), 0) FROM moves m WHERE m.source = a.id) AS moved
    FROM accounts a) b WHERE balance <> 1000 + moved
UNION ALL
SELECT 'job ' || id || ' is done and still queued' FROM queue JOIN done USING (id)
UNION ALL
SELECT 'child ' || c.id || ' has no parent' FROM children c LEFT JOIN parents p ON p.id = c.parent
WHERE p.id IS NULL";

const LEVELS: [&str; 3] = ["READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

/// One transaction.
fn transaction(random: &mut Random, worker: u64) -> String {
    let (a, b) = (1 + random.below(100), 1 + random.below(100));
    let amount = random.below(50);
    match random.below(14) {
        0..=3 => format!(
            "UPDATE accounts SET balance = balance - {amount} WHERE id = {a}; \
             UPDATE accounts SET balance = balance + {amount} WHERE id = {b}; \
             INSERT INTO moves (source, target, amount) VALUES ({a}, {b}, {amount})"
        ),
        4 => format!("UPDATE numbers SET v = v + 1 WHERE v % 5 = {}", random.below(5)),
        5 => format!(
            "INSERT INTO queue (payload) SELECT gen_random_uuid() FROM generate_series(1, {})",
            1 + random.below(6)
        ),
        6 => format!(
            "WITH job AS (DELETE FROM queue WHERE id IN (SELECT id FROM queue ORDER BY id \
             FOR UPDATE SKIP LOCKED LIMIT 3) RETURNING id) \
             INSERT INTO done (id, worker) SELECT id, {worker} FROM job"
        ),
        7 => format!(
            "DELETE FROM parents WHERE id = {a}; UPDATE parents SET id = id + 1000 WHERE id = {b}; \
             INSERT INTO parents VALUES ({a}, gen_random_uuid()) ON CONFLICT DO NOTHING; \
             INSERT INTO children (y, parent) SELECT {amount}, id FROM parents ORDER BY random() LIMIT 2"
        ),
        8 => format!(
            "INSERT INTO counters VALUES ('k{}', 1), ('x{a}', 1) \
             ON CONFLICT (k) DO UPDATE SET n = counters.n + excluded.n",
            random.below(5)
        ),
        9 => format!(
            "INSERT INTO bulk (payload) SELECT repeat(md5(random()::text), {}) FROM generate_series(1, {})",
            1 + random.below(40),
            200 + random.below(400)
        ),
        10 if random.below(2) == 0 => {
            "TRUNCATE bulk; INSERT INTO bulk (payload) VALUES ('fresh')".to_owned()
        }
        10 => {
            "DELETE FROM bulk WHERE id % 3 = 0; UPDATE bulk SET payload = 'short' WHERE id % 7 = 0"
                .to_owned()
        }
        11 => format!(
            "UPDATE parts SET region = {} WHERE id = {a}; UPDATE parts SET x = random() WHERE region = 1",
            random.below(6)
        ),
        12 => format!(
            "SAVEPOINT s; UPDATE numbers SET v = -1 WHERE id = {a}; ROLLBACK TO s; \
             UPDATE numbers SET v = {b} WHERE id = {a}; SELECT pg_sleep({})",
            ["0", "0.05", "0.1"][random.place(3)]
        ),
        // Nothing of it stays, but the number of the transaction is used up.
        _ => format!("UPDATE accounts SET balance = 0 WHERE id = {a}; SELECT 1 / 0"),
    }
}

/// One transaction that defines something, among changes. What it wants may be there already, or not be
/// there: then it fails, and nothing of it may be seen.
fn definition(random: &mut Random) -> String {
    let (n, m) = (random.below(6), random.below(1000));
    let what = match random.below(14) {
        0 | 1 => format!(
            "CREATE TABLE made_{n} (id int PRIMARY KEY, x text); \
             INSERT INTO made_{n} SELECT i, md5(random()::text) FROM generate_series(1, {m}) i; \
             CREATE INDEX ON made_{n} (x)"
        ),
        2 => format!("DROP TABLE made_{n}"),
        3 => format!(
            "UPDATE made_{n} SET x = 'before' WHERE id % 3 = 0; ALTER TABLE made_{n} RENAME x TO y; \
             UPDATE made_{n} SET y = 'behind' WHERE id % 2 = 0"
        ),
        4 => format!(
            "ALTER TABLE numbers ADD COLUMN c{n} timestamptz DEFAULT now(); \
             UPDATE numbers SET c{n} = clock_timestamp() WHERE id < {m}"
        ),
        5 => {
            format!("ALTER TABLE numbers DROP COLUMN c{n}; UPDATE numbers SET v = {m} WHERE id = 5")
        }
        6 => format!("ALTER TABLE made_{n} ADD COLUMN r float8 DEFAULT random()"),
        7 => format!("ALTER TYPE mood ADD VALUE IF NOT EXISTS 'mood {}'", random.below(40)),
        8 => "INSERT INTO moods (mood) SELECT enumlabel::mood FROM pg_enum \
              WHERE enumtypid = 'mood'::regtype"
            .to_owned(),
        9 => "ALTER TABLE parts DETACH PARTITION parts_1; UPDATE parts_1 SET x = 0 WHERE id < 50; \
              ALTER TABLE parts ATTACH PARTITION parts_1 FOR VALUES IN (1)"
            .to_owned(),
        10 => format!(
            "CREATE TABLE filled_{n} AS SELECT *, random() AS r FROM accounts; \
             ALTER TABLE filled_{n} ADD PRIMARY KEY (id); DELETE FROM filled_{n} WHERE id % 2 = 0"
        ),
        11 => format!("DROP TABLE filled_{n}"),
        12 => format!(
            "ALTER TABLE moves ADD CONSTRAINT some_{n} CHECK (amount < 1000) NOT VALID; \
             ALTER TABLE moves VALIDATE CONSTRAINT some_{n}"
        ),
        _ => format!("ALTER TABLE moves DROP CONSTRAINT some_{n}; SELECT pg_sleep(0.05)"),
    };
    format!("SET LOCAL lock_timeout = '2s'; {what}; INSERT INTO queue (payload) VALUES ('defined')")
}

/// What all writers share.
#[derive(Default)]
pub struct Gate {
    /// Writers hold it for reading during a transaction.
    pub lock: RwLock<()>,
    pub committed: AtomicU64,
    pub failed: AtomicU64,
    /// The first copy is made: what is defined before may be missing from it.
    pub may_define: AtomicBool,
    /// Committed with definitions.
    pub defined: AtomicU64,
}

/// Logs in at a port of the loopback address.
pub async fn connect(port: u16, database: &str) -> Option<Client> {
    let config =
        format!("host=127.0.0.1 port={port} user=postgres dbname={database} connect_timeout=2");
    let (client, connection) = tokio_postgres::connect(&config, NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// Writes for ever, through whatever `port` says at the time.
pub async fn write(
    gate: Arc<Gate>,
    port: impl Fn() -> u16,
    database: String,
    worker: u64,
    seed: u64,
    is_definer: bool,
) {
    let mut random = Random::new(seed ^ (worker << 32));
    loop {
        let Some(client) = connect(port(), &database).await else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        loop {
            let _open = gate.lock.read().await;
            let level = random.pick(&LEVELS);
            let may_define = is_definer && gate.may_define.load(Ordering::Relaxed);
            let is_definition = may_define && random.below(3) == 0;
            let what = if is_definition {
                definition(&mut random)
            } else {
                transaction(&mut random, worker)
            };
            let sql = format!("BEGIN ISOLATION LEVEL {level}; {what}; COMMIT");
            match client.batch_execute(&sql).await {
                Ok(()) => {
                    gate.committed.fetch_add(1, Ordering::Relaxed);
                    gate.defined.fetch_add(u64::from(is_definition), Ordering::Relaxed);
                }
                Err(error) => {
                    gate.failed.fetch_add(1, Ordering::Relaxed);
                    let is_open =
                        error.code().is_some_and(|code| *code != SqlState::ADMIN_SHUTDOWN)
                            && client.batch_execute("ROLLBACK").await.is_ok();
                    if !is_open {
                        break;
                    }
                }
            }
        }
    }
}
