//! Commands for one secondary.
//!
//! A command interrupts the work: the connections are dropped, the command is carried out with new
//! ones, and the work begins again from what the databases say.

use super::{Assignment, Keeper};
use crate::replication::capture::error::CaptureError;
use crate::replication::catalog::TableName;
use crate::replication::connect::connect;
use crate::replication::error::Error;
use crate::replication::primary;
use crate::replication::progress;
use crate::replication::schema_copy::{self, SchemaError};
use crate::replication::status::{Command, CommandError, Request, State};

impl From<Error> for CommandError {
    fn from(error: Error) -> Self {
        Self::Failed { what: error.to_string() }
    }
}

impl From<CaptureError> for CommandError {
    fn from(error: CaptureError) -> Self {
        Self::Failed { what: error.to_string() }
    }
}

impl From<SchemaError> for CommandError {
    fn from(error: SchemaError) -> Self {
        let what = error.to_string();
        match error {
            SchemaError::NotEmpty { .. } => Self::InTheWay { what },
            SchemaError::Dump(_) | SchemaError::Refused { .. } | SchemaError::Other(_) => {
                Self::Failed { what }
            }
        }
    }
}

impl Keeper {
    /// Carries out a command and answers it; true, because the work goes on.
    pub(super) async fn answer(&mut self, request: Request) -> bool {
        let command = &request.command;
        tracing::info!(
            database = self.assignment.database,
            secondary = self.assignment.name,
            ?command,
            "command for a secondary"
        );
        let outcome = self.carry_out(request.command.clone()).await;
        if outcome.is_ok() {
            self.announce(request.command);
        }
        // Nobody may be waiting any more.
        let _ = request.answer.send(outcome);
        true
    }

    /// Says at once what a command has made of the secondary, so that nobody who looks behind it sees
    /// what was before.
    fn announce(&self, command: Command) {
        self.status.send_modify(|status| match command {
            Command::Pause(why) => status.enter(State::Paused(why)),
            Command::Detach(why) => status.enter(State::Detached(why)),
            Command::Copy
            | Command::CopySchema
            | Command::Resume
            | Command::Skip
            | Command::Resync(_) => {
                status.last_error = None;
                status.enter(State::CatchingUp);
            }
        });
    }

    async fn carry_out(&mut self, command: Command) -> Result<(), CommandError> {
        match command {
            Command::Copy => {
                self.wants_copy = true;
                self.set_paused(None).await
            }
            Command::CopySchema => {
                let Assignment { primary, secondary, settings, .. } = &self.assignment;
                schema_copy::begin(primary, secondary, settings).await?;
                self.wants_copy = true;
                self.set_paused(None).await
            }
            Command::Pause(why) => self.set_paused(Some(&why)).await,
            Command::Resume => {
                self.poison = None;
                self.set_paused(None).await
            }
            Command::Skip => match self.poison.take() {
                Some(poison) => {
                    self.skips.push(poison);
                    Ok(())
                }
                None => Err(CommandError::Senseless { what: "no change waits to be skipped" }),
            },
            Command::Resync(tables) => self.resync(&tables).await,
            Command::Detach(why) => self.detach(&why).await,
        }
    }

    async fn set_paused(&self, why: Option<&str>) -> Result<(), CommandError> {
        let client = connect(&self.assignment.secondary).await?;
        if progress::read(&client).await?.is_none() {
            let senseless = CommandError::Senseless { what: "the secondary does not follow yet" };
            return if why.is_some() { Err(senseless) } else { Ok(()) };
        }
        let sql = "UPDATE pgtandem.progress SET paused = $1";
        client.execute(sql, &[&why]).await.map_err(Error::sql("pause or resume"))?;
        Ok(())
    }

    /// Notes what is to be copied anew: some tables, or all.
    async fn resync(&mut self, tables: &[TableName]) -> Result<(), CommandError> {
        let client = connect(&self.assignment.secondary).await?;
        let primary = connect(&self.assignment.primary).await?;
        let captured = primary::captured(&primary, &self.selection).await?;
        let is_known = |name: &&TableName| captured.iter().any(|c| c.table.name == **name);
        if let Some(table) = tables.iter().find(|name| !is_known(name)) {
            return Err(CommandError::NoTable { table: table.clone() });
        }
        let all: Vec<TableName>;
        let tables = if tables.is_empty() {
            let forget = "UPDATE pgtandem.progress SET snapshot = NULL, last_id = NULL, \
                          last_xid = NULL, batch_from = NULL, paused = NULL, system = $1, timeline = $2";
            let group = progress::read(&client).await?.map(|known| known.origin.group);
            let now = progress::Origin::of_primary(&primary, &group.unwrap_or_default()).await?;
            let forgotten = client.execute(forget, &[&now.system, &now.timeline]).await;
            forgotten.map_err(Error::sql("forget the last copy"))?;
            let skipped = "DELETE FROM pgtandem.dead_letters WHERE op = 'definition'";
            let forgotten = client.execute(skipped, &[]).await;
            forgotten.map_err(Error::sql("forget skipped definitions"))?;
            all = captured.into_iter().map(|captured| captured.table.name).collect();
            &all
        } else {
            tables
        };
        progress::await_copy(&client, tables).await?;
        (self.wants_copy, self.poison) = (true, None);
        self.set_paused(None).await
    }

    async fn detach(&mut self, why: &str) -> Result<(), CommandError> {
        let mut client = connect(&self.assignment.primary).await?;
        primary::detach(&mut client, &self.assignment.name, why).await?;
        let secondary = connect(&self.assignment.secondary).await?;
        let all = primary::captured(&client, &self.selection).await?;
        let names: Vec<_> = all.into_iter().map(|captured| captured.table.name).collect();
        // If it is taken up again, what it has is replaced.
        Ok(progress::forget(&secondary, &names).await?)
    }
}
