//! What a primary says of its secondaries and of its change log: the same to every process, whoever
//! applies.
//!
//! Each database has one task that looks now and then, and when somebody wants to know. What it asks
//! is bounded, so that the primary does not suffer from being watched: of the changes that a secondary
//! lacks at most [`CHANGES_MAX`] are counted, by the index, and what is beyond is estimated. Measured with
//! a log of 3,000,000 changes behind: 7 ms and 254 pages for the count.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};
use tokio_postgres::{Client, Row};
use tokio_util::task::AbortOnDropHandle;

use super::capture::error::CaptureError;
use super::capture::schema;
use super::capture::skipped::skipped;
use super::catalog::Selection;
use super::connect::{Target, connect};
use super::error::Error;
use super::snapshot::Snapshot;
use super::status::{State, Status};

/// Between two looks that nobody has asked for.
const INTERVAL: Duration = Duration::from_secs(5);

/// What somebody who asks is told is not older than this, if the primary answers.
const FRESH: Duration = Duration::from_millis(100);

/// How long somebody who asks waits for the primary.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long one look may take.
const LOOK_LIMIT: Duration = Duration::from_secs(10);

/// Between two looks at which tables cannot follow: they change seldom, and the catalog may be large.
const REFUSED_INTERVAL: Duration = Duration::from_secs(30);

/// Changes that are counted for each secondary. LIMIT.
const CHANGES_MAX: u64 = 10_000;

/// How capture stands on a primary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Capture {
    /// Nothing is installed.
    NotInstalled,
    /// Changes are captured.
    Active,
    /// Nothing is captured any more, since no secondary is left; and why.
    Stopped(String),
}

/// What the primary was found to say.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// When.
    pub at: Instant,
    /// Whether changes are captured.
    pub capture: Capture,
    /// The group of the primary and its secondaries.
    pub group: Option<String>,
    /// Bytes of the change log, with indexes and TOAST.
    pub log_bytes: u64,
    /// Tables under capture.
    pub tables: u64,
    /// Tables that are meant and cannot follow, and why.
    pub refused: Arc<Vec<String>>,
    /// What it was told of each secondary.
    pub secondaries: Vec<Reported>,
}

impl Observed {
    /// For how long the log is kept: since the primary was as the secondary is that has least.
    pub fn log_age(&self) -> Option<Duration> {
        let attached = self.secondaries.iter();
        let attached = attached.filter(|told| !matches!(told.state, State::Detached(_)));
        attached.filter_map(|told| told.age).max()
    }
}

/// What the primary was told of a secondary by whoever applies.
#[derive(Debug, Clone, PartialEq)]
pub struct Reported {
    /// Its name.
    pub name: String,
    /// What it is doing.
    pub state: State,
    /// Where it stands.
    pub progress: Option<Snapshot>,
    /// Since when it stands there, by the primary's clock.
    pub age: Option<Duration>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// What it lacks; `None` if it is not known.
    pub behind: Option<Behind>,
}

/// Changes of the log that a secondary lacks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Behind {
    /// How many.
    pub changes: u64,
    /// Bytes of their keys and images, as stored.
    pub bytes: u64,
    /// Whether there are more than are counted, and both numbers are estimates.
    pub is_estimate: bool,
}

/// The last look, and whether it succeeded.
#[derive(Debug, Clone, Default)]
pub struct Look {
    /// What the last one that succeeded has found.
    pub observed: Option<Arc<Observed>>,
    /// Why the last one has not.
    pub error: Option<String>,
    /// When it ended.
    pub tried: Option<Instant>,
}

/// Looks at one primary as long as it is not dropped.
#[derive(Debug)]
pub struct Observer {
    look: watch::Receiver<Look>,
    asked: Arc<Notify>,
    _task: AbortOnDropHandle<()>,
}

impl Observer {
    /// Begins to look. `statuses` are those of the database's secondaries: the process that applies
    /// knows where they stand before the primary is told.
    pub fn start(
        primary: Target,
        selection: Selection,
        statuses: Vec<watch::Receiver<Status>>,
    ) -> Self {
        let (say, look) = watch::channel(Look::default());
        let asked = Arc::new(Notify::new());
        let eye = Eye { primary, selection, statuses, refused: None };
        let task = tokio::spawn(eye.watch(say, Arc::clone(&asked)));
        Self { look, asked, _task: AbortOnDropHandle::new(task) }
    }

    /// What was found last.
    pub fn last(&self) -> Look {
        self.look.borrow().clone()
    }

    /// What is found now, or was a moment ago; after two seconds what was found last.
    ///
    /// Cancel safe: yes.
    pub async fn now(&self) -> Look {
        let mut look = self.look.clone();
        let since = Instant::now().checked_sub(FRESH);
        let is_fresh = |look: &Look| look.tried > since;
        if !is_fresh(&look.borrow()) {
            self.asked.notify_one();
            // Whether it came or not: there is nothing newer.
            drop(tokio::time::timeout(PATIENCE, look.wait_for(is_fresh)).await);
        }
        self.last()
    }
}

/// The task that looks.
struct Eye {
    primary: Target,
    selection: Selection,
    statuses: Vec<watch::Receiver<Status>>,
    refused: Option<(Instant, Arc<Vec<String>>)>,
}

impl Eye {
    async fn watch(mut self, say: watch::Sender<Look>, asked: Arc<Notify>) {
        let mut client = None;
        loop {
            let outcome = tokio::time::timeout(LOOK_LIMIT, self.look(&mut client)).await;
            let outcome = outcome.unwrap_or_else(|_elapsed| {
                let server = self.primary.to_string();
                Err(Error::TimedOut { server, limit: LOOK_LIMIT })
            });
            if outcome.is_err() {
                client = None;
            }
            say.send_modify(|look| {
                look.tried = Some(Instant::now());
                match outcome {
                    Ok(observed) => {
                        look.observed = Some(Arc::new(observed));
                        look.error = None;
                    }
                    Err(error) => look.error = Some(error.to_string()),
                }
            });
            // Cancel safe: an asker that is not heard now is heard at the next turn.
            let _ = tokio::time::timeout(INTERVAL, asked.notified()).await;
        }
    }

    async fn look(&mut self, client: &mut Option<Client>) -> Result<Observed, Error> {
        let client = match client {
            Some(client) => client,
            None => client.insert(connect(&self.primary).await?),
        };
        let nothing = Observed {
            at: Instant::now(),
            capture: Capture::NotInstalled,
            group: None,
            log_bytes: 0,
            tables: 0,
            refused: Arc::default(),
            secondaries: Vec::new(),
        };
        let meta = match schema::read(client).await {
            Ok(meta) => meta,
            Err(CaptureError::NotInstalled) => return Ok(nothing),
            Err(CaptureError::Sql(error)) => return Err(error),
            Err(other) => return Err(Error::Unexpected { what: other.to_string() }),
        };
        let refused = self.refused(client).await?;
        let (log_bytes, tables) = sizes(client).await?;
        Ok(Observed {
            capture: meta.stopped.map_or(Capture::Active, Capture::Stopped),
            group: Some(meta.group),
            log_bytes,
            tables,
            refused,
            secondaries: self.secondaries(client).await?,
            ..nothing
        })
    }

    /// Lists the tables that cannot follow; now and then anew.
    async fn refused(&mut self, client: &Client) -> Result<Arc<Vec<String>>, Error> {
        if let Some((at, refused)) = &self.refused
            && at.elapsed() < REFUSED_INTERVAL
        {
            return Ok(Arc::clone(refused));
        }
        let skipped = skipped(client, &self.selection).await?;
        let words = skipped.iter().map(|table| format!("{}: {}", table.name, table.nature));
        let refused = Arc::new(words.collect::<Vec<_>>());
        self.refused = Some((Instant::now(), Arc::clone(&refused)));
        Ok(refused)
    }

    async fn secondaries(&self, client: &mut Client) -> Result<Vec<Reported>, Error> {
        let wrong = || Error::sql("ask the primary for its secondaries");
        let sql = "SELECT name, state, progress::text, last_error, \
                   EXTRACT(epoch FROM clock_timestamp() - applied_at)::float8 \
                   FROM pgtandem.secondaries ORDER BY name";
        let rows = client.query(sql, &[]).await.map_err(wrong())?;
        let mut reported = Vec::with_capacity(rows.len());
        for row in &rows {
            reported.push(read(row).map_err(wrong())?);
        }
        for secondary in &mut reported {
            let Some(from) = self.stands_at(secondary) else { continue };
            secondary.behind = match behind(client, &from).await {
                Ok(behind) => Some(behind),
                // It takes too long to count: then it is not known.
                Err(error) if !is_lost(client) => {
                    tracing::debug!(%error, "changes that a secondary lacks were not counted");
                    None
                }
                Err(error) => return Err(error),
            };
        }
        Ok(reported)
    }

    /// Where a secondary stands: as the primary was told, or as we know better.
    fn stands_at(&self, reported: &Reported) -> Option<Snapshot> {
        let told = reported.progress.clone()?;
        let own = self.statuses.iter().find_map(|status| {
            let status = status.borrow();
            let is_it = status.secondary == reported.name && status.is_leader;
            is_it.then(|| status.snapshot.clone()).flatten()
        });
        let own = own.and_then(|text| text.parse::<Snapshot>().ok());
        Some(own.filter(|own| own.covers(&told)).unwrap_or(told))
    }
}

fn is_lost(client: &Client) -> bool {
    client.is_closed()
}

fn read(row: &Row) -> Result<Reported, tokio_postgres::Error> {
    let (word, last_error): (String, Option<String>) = (row.try_get(1)?, row.try_get(3)?);
    let progress: Option<String> = row.try_get(2)?;
    let age: Option<f64> = row.try_get(4)?;
    Ok(Reported {
        name: row.try_get(0)?,
        // A newer version may know words that we do not.
        state: State::from_word(&word, last_error.as_deref().unwrap_or_default())
            .unwrap_or(State::CatchingUp),
        progress: progress.and_then(|text| text.parse().ok()),
        age: age.and_then(|seconds| Duration::try_from_secs_f64(seconds.max(0.0)).ok()),
        last_error,
        behind: None,
    })
}

/// Measures the change log, and counts the tables under capture.
async fn sizes(client: &Client) -> Result<(u64, u64), Error> {
    let wrong = || Error::sql("measure the change log");
    let sql = "SELECT (SELECT sum(pg_total_relation_size(to_regclass('pgtandem.log_' || n)))::int8 \
               FROM generate_series(0, 2) AS n), (SELECT count(*) FROM pgtandem.tables)";
    let row = client.query_one(sql, &[]).await.map_err(wrong())?;
    let number = |index: usize| row.try_get::<_, Option<i64>>(index).map_err(wrong());
    let natural = |number: Option<i64>| u64::try_from(number.unwrap_or_default()).unwrap_or(0);
    Ok((natural(number(0)?), natural(number(1)?)))
}

/// Counts the changes of the log that a snapshot does not see.
///
/// Rows are found by the index on `xid`, whatever the planner believes of a table that is never
/// analysed; beyond [`CHANGES_MAX`] the numbers that the log has given out since say how many there
/// are at most.
async fn behind(client: &mut Client, from: &Snapshot) -> Result<Behind, Error> {
    let wrong = || Error::sql("count the changes that a secondary lacks");
    let transaction = client.transaction().await.map_err(wrong())?;
    let bounds = "SET TRANSACTION READ ONLY; SET LOCAL statement_timeout = '2s'; \
                  SET LOCAL enable_seqscan = off; SET LOCAL enable_bitmapscan = off";
    transaction.batch_execute(bounds).await.map_err(wrong())?;
    let row = transaction.query_one(&counting(from), &[]).await.map_err(wrong())?;
    let read = || -> Result<(i64, i64, Option<i64>, i64), tokio_postgres::Error> {
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?))
    };
    let (counted, bytes, first, last) = read().map_err(wrong())?;
    let natural = |number: i64| u64::try_from(number).unwrap_or(0);
    let given_out = first.map_or(0, |first| natural(last - first + 1));
    Ok(estimate(natural(counted), natural(bytes), given_out))
}

/// Makes an estimate where there are more changes than were counted.
fn estimate(counted: u64, bytes: u64, given_out: u64) -> Behind {
    if counted <= CHANGES_MAX {
        return Behind { changes: counted, bytes, is_estimate: false };
    }
    let changes = given_out.max(counted);
    let bytes = u128::from(bytes) * u128::from(changes) / u128::from(counted);
    Behind { changes, bytes: u64::try_from(bytes).unwrap_or(u64::MAX), is_estimate: true }
}

fn counting(from: &Snapshot) -> String {
    let mut unseen = vec![format!("xid >= '{}'::xid8", from.xmax())];
    if !from.in_progress().is_empty() {
        let mut list = String::new();
        for xid in from.in_progress() {
            let comma = if list.is_empty() { "" } else { "," };
            // Writing to a string does not fail.
            let _ = write!(list, "{comma}{xid}");
        }
        unseen.push(format!("xid = ANY ('{{{list}}}'::xid8[])"));
    }
    let logs = (0..3).flat_map(|log| unseen.iter().map(move |unseen| (log, unseen)));
    let parts: Vec<_> = logs
        .map(|(log, unseen)| format!("SELECT id, key, new FROM pgtandem.log_{log} WHERE {unseen}"))
        .collect();
    format!(
        "SELECT count(*), COALESCE(sum(bytes), 0)::int8, min(id), \
         (SELECT last_value FROM pgtandem.log_id) FROM (SELECT id, \
         COALESCE(pg_column_size(key), 0) + COALESCE(pg_column_size(new), 0) AS bytes \
         FROM ({}) l LIMIT {}) c",
        parts.join(" UNION ALL "),
        CHANGES_MAX + 1
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_counted_is_estimated() {
        let exact = Behind { changes: 7, bytes: 70, is_estimate: false };
        assert_eq!(estimate(7, 70, 100), exact, "numbers of other secondaries do not matter");
        let more = estimate(CHANGES_MAX + 1, 10 * (CHANGES_MAX + 1), 3_000_000);
        assert_eq!(more, Behind { changes: 3_000_000, bytes: 30_000_000, is_estimate: true });
        let odd = estimate(CHANGES_MAX + 1, 0, 0);
        assert_eq!(odd.changes, CHANGES_MAX + 1, "never less than was counted");
    }

    #[test]
    fn both_parts_of_a_snapshot_are_asked_for() {
        let plain: Snapshot = "5:9:".parse().unwrap();
        assert!(!counting(&plain).contains("ANY"));
        let torn: Snapshot = "5:9:6,8".parse().unwrap();
        assert!(counting(&torn).contains("xid >= '9'::xid8"));
        assert!(counting(&torn).contains("xid = ANY ('{6,8}'::xid8[])"));
    }
}
