//! Looks at the primary and at what the secondary says of itself: is it the same primary, what is
//! under capture, and where does the secondary stand.

use std::time::Duration;

use tokio_postgres::Client;

use super::Keeper;
use super::halt::{Halt, refuse};
use crate::replication::capture::{rotation, schema, table as capture};
use crate::replication::catalog::{self, Table};
use crate::replication::checks;
use crate::replication::error::Error;
use crate::replication::primary::{self, Captured};
use crate::replication::progress::{self, Origin, Progress};
use crate::replication::status::State;

/// How long a table may be locked by others when it is put under capture.
const PATIENCE: Duration = Duration::from_mins(1);

impl Keeper {
    /// Installs capture if we may, and says which group the primary leads.
    pub(super) async fn prepare_primary(&mut self, client: &mut Client) -> Result<String, Halt> {
        let (name, may_install) =
            (&self.assignment.name, self.assignment.settings.auto || self.wants_copy);
        if !may_install {
            return Ok(schema::read(client).await?.group);
        }
        let meta = schema::install(client).await?;
        let reported = primary::reported(client, name).await?;
        match &reported {
            Some((state, why)) if state == "detached" && !self.wants_copy => {
                let why = why.clone().unwrap_or_default();
                return Err(Halt::Stuck(State::Detached(why)));
            }
            Some((state, _)) if state != "detached" => {}
            // From now on the change log is kept for this secondary.
            Some(_) | None => {
                primary::report(client, name, &State::Copying, None, None).await?;
            }
        }
        if meta.stopped.is_some() {
            rotation::restart(client).await?;
        }
        for table in catalog::tables(client, &self.selection).await? {
            capture::capture(client, &table, PATIENCE).await?;
        }
        Ok(meta.group)
    }

    /// Reads where the secondary stands, and whether that makes sense.
    pub(super) async fn known(
        &mut self,
        primary: &Client,
        secondary: &Client,
        origin: &Origin,
    ) -> Result<Progress, Halt> {
        let progress = progress::read(secondary).await?;
        let Some(progress) = progress else {
            return Err(Error::Unexpected { what: "no progress".to_owned() }.into());
        };
        if progress.origin.group != origin.group {
            let why = format!("it follows another primary, group {}", progress.origin.group);
            return Err(Halt::Stuck(State::Paused(why)));
        }
        if progress.origin.system != origin.system {
            let why = "the primary is another cluster than before".to_owned();
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if let Some(why) = primary::is_behind(primary, origin, &progress).await? {
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if progress.origin.timeline != origin.timeline {
            progress::note_timeline(secondary, origin.timeline).await?;
        }
        match progress.paused {
            Some(why) => Err(Halt::Stuck(State::Paused(why))),
            None => Ok(progress),
        }
    }

    /// Compares both sides; returns the tables of the secondary with what captures them.
    pub(super) async fn compare(
        &mut self,
        primary: &Client,
        secondary: &Client,
    ) -> Result<Vec<(Captured, Table)>, Halt> {
        let captured = primary::captured(primary, &self.selection).await?;
        let here = catalog::tables(secondary, &self.selection).await?;
        let there: Vec<Table> = captured.iter().map(|captured| captured.table.clone()).collect();
        refuse(&checks::definitions(&there, &here))?;
        let pair = |captured: Captured| {
            let table = here.iter().find(|table| table.name == captured.table.name)?.clone();
            Some((captured, table))
        };
        Ok(captured.into_iter().filter_map(pair).collect())
    }
}
