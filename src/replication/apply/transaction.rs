//! The transaction of a batch: begun with the step of the progress row, committed when all is well.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Statement};

use super::diagnose;
use super::job::{Job, plan, truncate};
use super::step::Step;
use super::{ApplyError, Followed, Ready, Tables, Treatment};
use crate::replication::batch::Position;
use crate::replication::coalesce::NetTable;
use crate::replication::error::Error;
use crate::replication::hook;

/// LIMIT: statements on their way at a time; `join_all` polls so few in their order.
const IN_FLIGHT_MAX: usize = 16;

/// Applies batches over one connection.
#[derive(Debug)]
pub struct Applier {
    pub(super) client: Arc<Client>,
    pub(super) treatment: Treatment,
    prepared: HashMap<String, Statement>,
}

impl Applier {
    /// Takes over a connection to the secondary.
    pub fn new(client: Arc<Client>, treatment: Treatment) -> Self {
        Self { client, treatment, prepared: HashMap::new() }
    }

    /// The connection, for what is no batch.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Applies a batch, and moves the secondary on.
    ///
    /// Not cancel safe: the transaction stays open; the connection must be dropped then. If the
    /// answer to COMMIT is lost, only the secondary knows whether it stands at `from` or `until`.
    ///
    /// # Errors
    /// [`ApplyError`]; except for [`Error`]s about the connection, nothing has happened.
    pub async fn apply(&mut self, tables: &Tables, batch: Ready) -> Result<Position, ApplyError> {
        let Ready { from, until, tables: nets, changes, ids, last, skipped } = batch;
        let (truncated, jobs) = plan(tables, nets)?;
        for job in &jobs {
            self.prepare(job).await?;
        }
        let after = from.moved_to(&until);
        let step = Step { from: &from, until: &until, after: &after, changes, ids, last, skipped };
        if let Err(error) = self.run(tables, &step, &truncated, &jobs).await {
            return Err(self.give_up(&truncated, &jobs, error).await);
        }
        self.commit().await?;
        Ok(after)
    }

    /// Begins a transaction.
    ///
    /// # Errors
    /// [`Error::Sql`].
    pub(in crate::replication) async fn start(&self) -> Result<(), Error> {
        self.client.batch_execute(self.begin()).await.map_err(Error::sql("begin a batch"))
    }

    /// Makes sure that the secondary stands where we think, and that it stays there until the end of
    /// the transaction that has begun.
    ///
    /// # Errors
    /// [`ApplyError::Fenced`], [`Error::Sql`].
    pub(in crate::replication) async fn claim(&self, from: &Position) -> Result<(), ApplyError> {
        let sql = "SELECT 1 FROM pgtandem.progress WHERE snapshot::text = $1 FOR UPDATE";
        let parameters: [(&(dyn ToSql + Sync), Type); 1] =
            [(&from.snapshot.to_string(), Type::TEXT)];
        let rows = self.client.query_typed(sql, &parameters).await;
        match rows.map_err(Error::sql("look where the secondary stands"))?.len() {
            1 => Ok(()),
            _ => Err(ApplyError::Fenced),
        }
    }

    /// Applies a part of a batch in the transaction that has begun.
    ///
    /// # Errors
    /// [`ApplyError`]; the transaction must be given up then.
    pub(in crate::replication) async fn apply_part(
        &mut self,
        tables: &Tables,
        nets: Vec<(i32, NetTable)>,
    ) -> Result<(), ApplyError> {
        let (truncated, jobs) = plan(tables, nets)?;
        truncate(&self.client, &truncated).await?;
        for job in &jobs {
            self.prepare(job).await?;
            diagnose::exactly(self, job).await?;
        }
        Ok(())
    }

    /// Forgets the statements that are prepared: tables look otherwise now.
    pub(in crate::replication) fn forget_prepared(&mut self) {
        self.prepared.clear();
    }

    /// Moves the secondary on, in the transaction that has begun and in which all else is done.
    ///
    /// # Errors
    /// As those of [`Self::apply`].
    pub(in crate::replication) async fn finish(
        &self,
        tables: &Tables,
        batch: Ready,
    ) -> Result<Position, ApplyError> {
        let Ready { from, until, changes, ids, last, skipped, .. } = batch;
        let after = from.moved_to(&until);
        let step = Step { from: &from, until: &until, after: &after, changes, ids, last, skipped };
        step.take(&self.client, tables).await?;
        self.commit().await?;
        Ok(after)
    }

    /// Everything up to COMMIT, which must not be sent before all is well.
    async fn run(
        &self,
        tables: &Tables,
        step: &Step<'_>,
        truncated: &[Arc<Followed>],
        jobs: &[Job],
    ) -> Result<(), ApplyError> {
        let (begun, moved) = tokio::join!(
            biased;
            self.client.batch_execute(self.begin()),
            step.take(&self.client, tables),
        );
        begun.map_err(Error::sql("begin a batch"))?;
        moved?;
        hook::reached("apply_begun");
        truncate(&self.client, truncated).await?;
        for some in jobs.chunks(IN_FLIGHT_MAX) {
            let results = join_all(some.iter().map(|job| self.execute(job))).await;
            for (job, result) in some.iter().zip(results) {
                job.judge(result)?;
            }
            hook::reached("apply_some");
        }
        Ok(())
    }

    pub(super) fn begin(&self) -> &'static str {
        match self.treatment {
            Treatment::Off => "BEGIN",
            Treatment::Deferred => "BEGIN; SET CONSTRAINTS ALL DEFERRED",
        }
    }

    async fn commit(&self) -> Result<(), Error> {
        hook::reached("apply_done");
        let commit = self.client.batch_execute("COMMIT").await;
        hook::reached("apply_committed");
        commit.map_err(Error::sql("commit a batch"))
    }

    /// Undoes the transaction, and finds the row that a failure is about.
    async fn give_up(
        &self,
        truncated: &[Arc<Followed>],
        jobs: &[Job],
        error: ApplyError,
    ) -> ApplyError {
        if let Err(error) = self.client.batch_execute("ROLLBACK").await {
            return Error::sql("roll back a batch")(error).into();
        }
        let is_about_rows =
            matches!(error, ApplyError::Refused { .. } | ApplyError::Missing { .. });
        if !is_about_rows || error.is_transient() {
            return error;
        }
        match diagnose::find(self, truncated, jobs).await {
            Ok(Some(found)) => found,
            Ok(None) => error,
            Err(failed) => failed.into(),
        }
    }

    async fn prepare(&mut self, job: &Job) -> Result<(), Error> {
        let sql = job.sql();
        if !self.prepared.contains_key(sql) {
            let types = vec![Type::TEXT_ARRAY; job.parameters.len()];
            let statement = self.client.prepare_typed(sql, &types).await;
            let statement = statement.map_err(Error::sql("prepare to apply"))?;
            self.prepared.insert(sql.to_owned(), statement);
        }
        Ok(())
    }

    pub(super) async fn execute(&self, job: &Job) -> Result<u64, tokio_postgres::Error> {
        let parameters: Vec<&(dyn ToSql + Sync)> =
            job.parameters.iter().map(|list| -> &(dyn ToSql + Sync) { list }).collect();
        match self.prepared.get(job.sql()) {
            Some(statement) => self.client.execute(statement, &parameters).await,
            None => self.client.execute(job.sql(), &parameters).await,
        }
    }
}
