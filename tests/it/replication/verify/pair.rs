//! A primary and a secondary on two servers, and an applier that does what it is told.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use pgtandem::config::{Host, Server};
use pgtandem::replication::catalog::{Selection, Table, tables};
use pgtandem::replication::connect::{Target, connect};
use pgtandem::replication::progress::{self, Origin};
use pgtandem::replication::snapshot::Snapshot;
use pgtandem::replication::verify::hold::{self, HoldRequests, holds};
use pgtandem::replication::verify::progress::Progress;
use pgtandem::replication::verify::report::{Outcome, Report};
use pgtandem::replication::verify::{Limits, Verifier};
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use crate::support::cluster::Cluster;

const GROUP: &str = "00000000-0000-0000-0000-000000000001";

/// Two databases, the second of which stands where its progress row says.
pub struct Pair {
    pub runtime: Runtime,
    pub primary: Target,
    pub secondary: Target,
    pub verifier: Verifier,
    pub applier: Arc<Applier>,
    task: JoinHandle<()>,
}

/// What the applier has done, and how it is to do it.
#[derive(Default)]
pub struct Applier {
    /// Whether there is a change log to apply.
    pub follows: AtomicBool,
    /// Batches it has applied.
    pub batches: AtomicU64,
    /// Times that it has stood for a verifier.
    pub held: AtomicU64,
    /// Whether it claims to stand where it does not.
    pub lies: AtomicBool,
}

fn other_cluster() -> &'static Cluster {
    static OTHER: OnceLock<Cluster> = OnceLock::new();
    OTHER.get_or_init(Cluster::start)
}

/// A new database in the server that `PGTANDEM_IT_SECONDARY` names, as `socket folder:port`: to compare
/// with another version of PostgreSQL.
fn named_server(runtime: &Runtime) -> Option<Target> {
    static DATABASES: AtomicU64 = AtomicU64::new(0);
    let named = std::env::var("PGTANDEM_IT_SECONDARY").ok()?;
    let (folder, port) = named.rsplit_once(':').expect("folder:port");
    let number = DATABASES.fetch_add(1, Ordering::Relaxed);
    let mut target = Target {
        servers: Arc::new([Server {
            host: Host::Unix(folder.into()),
            port: port.parse().expect("a port"),
        }]),
        is_primary: false,
        dbname: "postgres".to_owned(),
        user: "postgres".to_owned(),
        password: None,
        timeout: Duration::from_secs(10),
    };
    let dbname = format!("t{}_{number}", std::process::id());
    run(runtime, &target, &format!("CREATE DATABASE {dbname} TEMPLATE template0"));
    target.dbname = dbname;
    Some(target)
}

fn target(cluster: &Cluster, dbname: String) -> Target {
    Target {
        servers: Arc::new([cluster.server()]),
        is_primary: false,
        dbname,
        user: "postgres".to_owned(),
        password: None,
        timeout: Duration::from_secs(10),
    }
}

impl Pair {
    /// Two databases in which `schema` was run.
    pub fn new(schema: &str) -> Self {
        Self::with(schema, schema)
    }

    /// Two databases with different schemas.
    pub fn with(primary_schema: &str, secondary_schema: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
        let runtime = runtime.expect("a runtime can be made");
        let one = Cluster::shared();
        let primary = target(one, one.new_database());
        let secondary = named_server(&runtime).unwrap_or_else(|| {
            let other = other_cluster();
            target(other, other.new_database())
        });
        let (holds, requests) = holds();
        let limits = Limits { retry_pause: Duration::from_millis(20), ..Limits::default() };
        let (one, other) = (primary.clone(), secondary.clone());
        let verifier =
            Verifier { primary: primary.clone(), secondary: secondary.clone(), holds, limits };
        let applier = Arc::new(Applier::default());
        let schema = "UPDATE pgtandem.progress SET snapshot = '1:1:'";
        runtime.block_on(async {
            let origin = Origin { group: GROUP.to_owned(), system: 1, timeline: 1 };
            let client = connect(&secondary).await.expect("it is trusted");
            progress::install(&client, &origin).await.expect("it can be installed");
        });
        run(&runtime, &primary, primary_schema);
        run(&runtime, &secondary, &format!("{schema};{secondary_schema}"));
        let task = runtime.spawn(apply(one, other, requests, Arc::clone(&applier)));
        Self { runtime, primary, secondary, verifier, applier, task }
    }

    /// Runs statements on the primary.
    pub fn primary(&self, statements: &str) {
        run(&self.runtime, &self.primary, statements);
    }

    /// Runs statements on the secondary.
    pub fn secondary(&self, statements: &str) {
        run(&self.runtime, &self.secondary, statements);
    }

    /// Runs statements on both.
    pub fn both(&self, statements: &str) {
        self.primary(statements);
        self.secondary(statements);
    }

    /// The first value of a query on the primary, as text.
    pub fn primary_value(&self, query: &str) -> String {
        value(&self.runtime, &self.primary, query)
    }

    /// The first value of a query on the secondary, as text.
    pub fn secondary_value(&self, query: &str) -> String {
        value(&self.runtime, &self.secondary, query)
    }

    /// The primary's tables.
    pub fn tables(&self) -> Vec<Table> {
        let all = Selection::new(&["*.*".to_owned()], &[]);
        self.runtime.block_on(async {
            let client = connect(&self.primary).await.expect("it is trusted");
            tables(&client, &all).await.expect("the catalog is readable")
        })
    }

    /// The primary's table of this name, of schema `public`.
    pub fn table(&self, name: &str) -> Table {
        let mut tables = self.tables().into_iter();
        tables.find(|table| table.name.name == name).expect("there is such a table")
    }

    /// Compares all tables.
    pub fn verify(&self) -> Report {
        let tables = self.tables();
        let (watched, _) = watch::channel(Progress::default());
        self.runtime.block_on(self.verifier.verify(&tables, &watched))
    }

    /// Compares all tables, and writes down what differs: one line for each table that does.
    pub fn found(&self) -> String {
        let lines = self.verify().tables.into_iter().filter_map(|table| {
            let what = match &table.outcome {
                Outcome::Equal => return None,
                Outcome::Rows(found) if found.total() > 0 => {
                    let mut rows = found.rows.clone();
                    rows.sort();
                    let rows = rows
                        .iter()
                        .map(|row| format!("{} ({})", row.kind.word(), row.key.join(", ")));
                    rows.collect::<Vec<_>>().join(", ")
                }
                other @ (Outcome::Rows(_) | Outcome::Schema(_) | Outcome::CouldNotTell(_)) => {
                    other.to_string()
                }
            };
            Some(format!("{}: {what}", table.table))
        });
        lines.collect::<Vec<_>>().join("; ")
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn run(runtime: &Runtime, target: &Target, statements: &str) {
    let done: Result<(), tokio_postgres::Error> = runtime.block_on(async {
        let client = connect(target).await.expect("it is trusted");
        client.batch_execute("SET search_path = public").await?;
        client.batch_execute(statements).await
    });
    done.unwrap_or_else(|error| panic!("{statements}: {error:?}"));
}

fn value(runtime: &Runtime, target: &Target, query: &str) -> String {
    runtime.block_on(async {
        let client = connect(target).await.expect("it is trusted");
        let rows = client.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e:?}"));
        let mut rows = rows.iter().filter_map(|message| {
            let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
            row.get(0).map(str::to_owned)
        });
        rows.next().expect("there is a row")
    })
}

/// What makes the primary log its changes, for [`apply`]: a plain rendering of the real capture.
pub const CAPTURE: &str = "\
CREATE TABLE public.log (
    id bigserial PRIMARY KEY, xid xid8 DEFAULT pg_current_xact_id(), rel text, op text,
    old text, new text
);
CREATE INDEX ON public.log (xid);
CREATE FUNCTION public.capture() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO public.log (rel, op, old, new)
    VALUES (TG_RELID::regclass::text, TG_OP,
            CASE WHEN TG_OP IN ('UPDATE', 'DELETE') THEN OLD.id::text END,
            CASE WHEN TG_OP IN ('UPDATE', 'INSERT') THEN NEW::text END);
    RETURN NULL;
END $$;";

/// The triggers that make a table with key `id` follow.
pub fn captured(table: &str) -> String {
    format!(
        "CREATE TRIGGER a AFTER INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW \
         EXECUTE FUNCTION public.capture(); \
         CREATE TRIGGER b AFTER TRUNCATE ON {table} FOR EACH STATEMENT \
         EXECUTE FUNCTION public.capture();"
    )
}

/// Applies batches, and stands where verifiers want.
async fn apply(
    primary: Target,
    secondary: Target,
    mut requests: HoldRequests,
    state: Arc<Applier>,
) {
    let primary = connect(&primary).await.expect("it is trusted");
    let secondary = connect(&secondary).await.expect("it is trusted");
    primary.batch_execute("SET search_path = public").await.expect("it can be set");
    secondary.batch_execute("SET search_path = public").await.expect("it can be set");
    loop {
        tokio::select! {
            request = requests.next() => {
                let served = request.serve(hold::PATIENCE, async |upto: Snapshot| {
                    if !state.lies.load(Ordering::Relaxed) {
                        batch(&primary, &secondary, &upto.to_string(), &state).await;
                    }
                    state.held.fetch_add(1, Ordering::Relaxed);
                    Ok::<(), ()>(())
                });
                served.await.expect("it does not fail");
            }
            () = tokio::time::sleep(Duration::from_millis(5)) => {
                if state.follows.load(Ordering::Relaxed) {
                    let rows = primary.query_one("SELECT pg_current_snapshot()::text", &[]).await;
                    let upto: String = rows.expect("it can be asked").get(0);
                    batch(&primary, &secondary, &upto, &state).await;
                }
            }
        }
    }
}

async fn batch(primary: &Client, secondary: &Client, upto: &str, state: &Applier) {
    secondary.batch_execute("BEGIN").await.expect("it is idle");
    let row = secondary
        .query_one("SELECT snapshot::text FROM pgtandem.progress FOR UPDATE", &[])
        .await
        .expect("there is a progress row");
    let from: String = row.get(0);
    let changes = if state.follows.load(Ordering::Relaxed) {
        let sql = "SELECT rel, op, old, new FROM log \
                   WHERE xid >= pg_snapshot_xmin($2::text::pg_snapshot) \
                   AND pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
                   AND NOT pg_visible_in_snapshot(xid, $2::text::pg_snapshot) ORDER BY id";
        primary.query(sql, &[&upto, &from]).await.expect("the log is readable")
    } else {
        Vec::new()
    };
    for change in changes {
        let (rel, op): (String, String) = (change.get(0), change.get(1));
        let (old, new): (Option<String>, Option<String>) = (change.get(2), change.get(3));
        if op == "TRUNCATE" {
            secondary.batch_execute(&format!("TRUNCATE {rel}")).await.expect("it is there");
        }
        if let Some(old) = old {
            let sql = format!("DELETE FROM {rel} WHERE id = ($1::text)::int8");
            assert_eq!(secondary.execute(&sql, &[&old]).await.expect("it is there"), 1, "{rel}");
        }
        if let Some(new) = new {
            let sql = format!("INSERT INTO {rel} SELECT ($1::text::{rel}).*");
            secondary.execute(&sql, &[&new]).await.expect("it has room");
        }
    }
    let sql = format!("UPDATE pgtandem.progress SET snapshot = '{upto}'; COMMIT");
    secondary.batch_execute(&sql).await.expect("it can be written");
    state.batches.fetch_add(1, Ordering::Relaxed);
}
