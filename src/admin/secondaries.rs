//! Commands about secondaries: finds out which is meant, has it done, and says what came of it.

use tokio::time::timeout;

use super::books::Rows;
use super::command::{Order, Place};
use super::show::{float, int, owned, text};
use super::{Admin, SHOW_LIMIT};
use crate::fault::SqlState;
use crate::replication::Error;
use crate::replication::catalog::TableName;
use crate::replication::status::{Command, CommandError};
use crate::replication::verify::VerifyError;
use crate::replication::verify::hold::HoldError;
use crate::replication::verify::repair::{Extent, Repaired};
use crate::replication::verify::report::{Outcome, Report, TableReport};
use crate::replication::wait::WaitError;
use crate::wire::rows::Value;

/// Why PAUSE and DETACH happened, if nobody says so.
const BY_COMMAND: &str = "by command";

/// LIMIT: rows of SHOW DIVERGENCE for each secondary.
const DIVERGENCE_MAX: usize = 1000;

/// Why an order about a secondary was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum OrderError {
    /// The configuration has no such database.
    #[error("no such database: {0}")]
    NoDatabase(String),
    /// The database is only pooled.
    #[error("database {0} has no secondaries")]
    NoSecondaries(String),
    /// The database has others.
    #[error("database {database} has no secondary {secondary}")]
    NoSecondary {
        /// The database.
        database: String,
        /// What was asked for.
        secondary: String,
    },
    /// It was left open which one is meant.
    #[error("database {0} has several secondaries: name one")]
    Several(String),
    /// The table is not among those that follow.
    #[error("table {0} does not follow")]
    NoTable(TableName),
    /// The secondary was asked, and refused.
    #[error("secondary {place}: {source}")]
    Refused {
        /// `database.secondary`.
        place: String,
        /// Why.
        source: CommandError,
    },
    /// The wait came to no good end.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// It was not compared or not repaired.
    #[error("table {table}: {source}")]
    Verify {
        /// The table.
        table: TableName,
        /// Why.
        source: Box<VerifyError>,
    },
    /// A database did not do what it was asked.
    #[error("secondary {place}: {source}")]
    Database {
        /// `database.secondary`.
        place: String,
        /// What it was.
        source: Error,
    },
    /// The task ended before its time.
    #[error("it was interrupted: the proxy is ending")]
    Interrupted,
}

impl OrderError {
    /// Returns the code that programs look at; that of a server is passed on.
    pub fn sqlstate(&self) -> SqlState {
        match self {
            Self::NoDatabase(_) => SqlState(*b"3D000"),
            Self::NoSecondaries(_) | Self::NoSecondary { .. } => SqlState(*b"42704"),
            Self::Several(_) => SqlState(*b"22023"),
            Self::NoTable(_) => SqlState(*b"42P01"),
            Self::Refused { source, .. } => SqlState(*match source {
                CommandError::NoSecondary { .. } => b"42704",
                CommandError::NotHere
                | CommandError::Senseless { .. }
                | CommandError::InTheWay { .. } => b"55000",
                CommandError::NoTable { .. } => b"42P01",
                // system_error: something outside has failed.
                CommandError::Failed { .. } => b"58000",
                CommandError::Busy => b"55006",
            }),
            Self::Wait(WaitError::Stopped { .. }) => SqlState(*b"55000"),
            Self::Wait(WaitError::TimedOut { .. }) => SqlState(*b"57014"),
            Self::Wait(WaitError::Database(error)) | Self::Database { source: error, .. } => {
                of_database(error)
            }
            Self::Verify { source, .. } => of_verification(source),
            Self::Interrupted => SqlState(*b"57P01"),
        }
    }

    /// Returns what would do instead.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDatabase(_)
            | Self::NoSecondaries(_)
            | Self::NoSecondary { .. }
            | Self::Several(_) => Some("SHOW SECONDARIES lists them all.".to_owned()),
            Self::Refused { source: CommandError::NotHere, .. } => Some(
                "The proxy that applies says 1 in is_leader of its own SHOW SECONDARIES."
                    .to_owned(),
            ),
            Self::NoTable(_)
            | Self::Refused { .. }
            | Self::Wait(_)
            | Self::Verify { .. }
            | Self::Database { .. }
            | Self::Interrupted => None,
        }
    }
}

/// The code of a server, if it was one that said something; ours if it could not be asked.
fn of_database(error: &Error) -> SqlState {
    if let Some(said) = error.server_said()
        && let Ok(code) = said.code().code().as_bytes().try_into()
    {
        return SqlState(code);
    }
    match error {
        Error::Dial { .. } | Error::Login { .. } | Error::Standby { .. } => SqlState(*b"08001"),
        Error::TimedOut { .. } | Error::Sql { .. } => SqlState(*b"08006"),
        Error::Unexpected { .. } => SqlState(*b"58000"),
    }
}

fn of_verification(error: &VerifyError) -> SqlState {
    SqlState(*match error {
        VerifyError::Database(error) => return of_database(error),
        VerifyError::Gone => b"42P01",
        VerifyError::TooLong { .. } | VerifyError::Hold(HoldError::TimedOut { .. }) => b"57014",
        VerifyError::Elsewhere { .. }
        | VerifyError::InTheWay
        | VerifyError::Hold(HoldError::WentOn) => b"40001",
        VerifyError::Hold(HoldError::NoApplier)
        | VerifyError::Copying
        | VerifyError::Obstacle(_)
        | VerifyError::NoKey
        | VerifyError::Schema(_)
        | VerifyError::Miscount { .. }
        | VerifyError::NotRepaired { .. } => b"55000",
    })
}

/// A secondary by the names of its database and itself.
type Named = (String, String);

impl Admin {
    /// Carries out an order; returns what is shown of it.
    ///
    /// Cancel safe: what only looks ends, anything else is carried out all the same.
    pub(super) async fn order(&self, order: &Order) -> Result<Rows, OrderError> {
        let why = |why: &Option<String>| why.clone().unwrap_or_else(|| BY_COMMAND.to_owned());
        let (place, command) = match order {
            Order::Wait(place, limit) => {
                let secondaries = match place {
                    None => self.secondaries(),
                    Some(place) => vec![self.one(place)?],
                };
                self.control.secondaries.wait(&secondaries, *limit).await?;
                return Ok(Rows::new());
            }
            Order::Verify(place, table) => return self.verify(place, table.as_ref()).await,
            Order::Repair { place, table, is_whole } => {
                return self.repair(place, table, *is_whole).await;
            }
            Order::Copy(place) => (place, Command::Copy),
            Order::CopySchema(place) => (place, Command::CopySchema),
            Order::Pause(place, reason) => (place, Command::Pause(why(reason))),
            Order::Resume(place) => (place, Command::Resume),
            Order::Skip(place) => (place, Command::Skip),
            Order::Resync(place, tables) => (place, Command::Resync(tables.clone())),
            Order::Detach(place, reason) => {
                // Also one that is not configured any more: the primary still keeps its log for it.
                let named = self.one_known(place).await?;
                return self.command(named, Command::Detach(why(reason))).await;
            }
        };
        self.command(self.one(place)?, command).await
    }

    async fn command(&self, named: Named, command: Command) -> Result<Rows, OrderError> {
        let (database, secondary) = named;
        let done = self.control.secondaries.command(&database, &secondary, command).await;
        let place = format!("{database}.{secondary}");
        done.map(|()| Rows::new()).map_err(|source| OrderError::Refused { place, source })
    }

    /// Compares the tables of one secondary, or of all of a database.
    async fn verify(&self, place: &Place, table: Option<&TableName>) -> Result<Rows, OrderError> {
        let secondaries = match &place.secondary {
            Some(_) => vec![self.one(place)?],
            None => self.all_of(&place.database)?,
        };
        let mut rows = Rows::new();
        for (database, secondary) in secondaries {
            let failed = |source| {
                let place = format!("{database}.{secondary}");
                OrderError::Database { place, source }
            };
            let Some(desk) = self.control.secondaries.desk(&database, &secondary) else { continue };
            if let Some(table) = table
                && !desk.follows(table).await.map_err(failed)?
            {
                return Err(OrderError::NoTable(table.clone()));
            }
            let report = desk.verify_in_turn(table).await.map_err(failed)?;
            rows.extend(report.tables.iter().map(|table| verified(&database, &secondary, table)));
        }
        Ok(rows)
    }

    /// Repairs a table. That is not left half done if nobody waits for it any more.
    async fn repair(
        &self,
        place: &Place,
        table: &TableName,
        is_whole: bool,
    ) -> Result<Rows, OrderError> {
        let (database, secondary) = self.one(place)?;
        let Some(desk) = self.control.secondaries.desk(&database, &secondary) else {
            return Err(OrderError::NoSecondary { database, secondary });
        };
        let failed = |source| {
            let place = format!("{database}.{secondary}");
            OrderError::Database { place, source }
        };
        if !desk.follows(table).await.map_err(failed)? {
            return Err(OrderError::NoTable(table.clone()));
        }
        let extent = is_whole.then_some(Extent::Table);
        let asked = table.clone();
        let work = tokio::spawn(async move { desk.repair_at_once(&asked, extent).await });
        let repaired = work.await.map_err(|_| OrderError::Interrupted)?;
        let (repaired, report) = repaired.map_err(|source| OrderError::Verify {
            table: table.clone(),
            source: Box::new(source),
        })?;
        Ok(vec![row_of_repair(&database, &secondary, table, repaired, &report)])
    }

    /// Lists rows that are known to differ.
    pub(super) async fn list_divergence(&self) -> Result<Rows, OrderError> {
        let mut rows = Rows::new();
        for (database, secondary) in self.secondaries() {
            let Some(desk) = self.control.secondaries.desk(&database, &secondary) else { continue };
            let place = || format!("{database}.{secondary}");
            let found = timeout(SHOW_LIMIT, desk.divergence(DIVERGENCE_MAX)).await;
            let found = found.unwrap_or_else(|_elapsed| {
                Err(Error::TimedOut { server: place(), limit: SHOW_LIMIT })
            });
            let found = found.map_err(|source| OrderError::Database { place: place(), source })?;
            rows.extend(found.into_iter().map(|finding| {
                vec![
                    owned(&database),
                    owned(&secondary),
                    owned(finding.table.to_string()),
                    owned(finding.key.join(", ")),
                    owned(finding.kind),
                    finding.snapshot.map_or(Value::Null, owned),
                    owned(finding.found_at),
                ]
            }));
        }
        Ok(rows)
    }

    /// All secondaries of the configuration.
    fn secondaries(&self) -> Vec<Named> {
        let all = self.control.secondaries.status().into_iter();
        all.map(|status| (status.database, status.secondary)).collect()
    }

    /// All secondaries of a database.
    fn all_of(&self, database: &str) -> Result<Vec<Named>, OrderError> {
        let mut all = self.secondaries();
        all.retain(|(known, _)| known == database);
        if !all.is_empty() {
            return Ok(all);
        }
        Err(if self.control.config().databases.contains_key(database) {
            OrderError::NoSecondaries(database.to_owned())
        } else {
            OrderError::NoDatabase(database.to_owned())
        })
    }

    /// The one secondary that is meant.
    fn one(&self, place: &Place) -> Result<Named, OrderError> {
        let mut all = self.all_of(&place.database)?;
        if let Some(secondary) = &place.secondary {
            let found = all.into_iter().find(|(_, known)| known == secondary);
            return found.ok_or_else(|| OrderError::NoSecondary {
                database: place.database.clone(),
                secondary: secondary.clone(),
            });
        }
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(OrderError::Several(place.database.clone())),
        }
    }

    /// The same, also among those that only the primary knows.
    async fn one_known(&self, place: &Place) -> Result<Named, OrderError> {
        let error = match self.one(place) {
            Ok(one) => return Ok(one),
            Err(error) => error,
        };
        let groups = self.control.secondaries.look().await;
        let mut known = groups.iter().flat_map(|group| &group.secondaries).map(|view| &view.status);
        let is_it = known.any(|status| {
            status.database == place.database && Some(&status.secondary) == place.secondary.as_ref()
        });
        match &place.secondary {
            Some(secondary) if is_it => Ok((place.database.clone(), secondary.clone())),
            _ => Err(error),
        }
    }
}

fn verified(database: &str, secondary: &str, report: &TableReport) -> Vec<Value> {
    let TableReport { table, outcome, rows, snapshot, took } = report;
    let [missing, extra, different] = match outcome {
        Outcome::Rows(found) => [int(found.missing), int(found.extra), int(found.different)],
        Outcome::Equal => [int(0), int(0), int(0)],
        Outcome::Schema(_) | Outcome::CouldNotTell(_) => [Value::Null, Value::Null, Value::Null],
    };
    vec![
        owned(database),
        owned(secondary),
        owned(table.to_string()),
        text(outcome.verdict().word()),
        int(*rows),
        missing,
        extra,
        different,
        owned(outcome.to_string()),
        snapshot.as_ref().map_or(Value::Null, owned),
        float(took.as_secs_f64()),
    ]
}

fn row_of_repair(
    database: &str,
    secondary: &str,
    table: &TableName,
    repaired: Repaired,
    report: &Report,
) -> Vec<Value> {
    let Repaired { deleted, updated, inserted } = repaired;
    let detail = report.tables.first().map(|table| table.outcome.to_string());
    vec![
        owned(database),
        owned(secondary),
        owned(table.to_string()),
        text(report.verdict().word()),
        int(deleted),
        int(updated),
        int(inserted),
        detail.map_or(Value::Null, owned),
    ]
}
