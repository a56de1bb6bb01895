//! Looks at the primary and at what the secondary says of itself: is it the same primary, what is
//! under capture, and where does the secondary stand.

use std::time::Duration;

use tokio_postgres::Client;

use super::halt::{Halt, refuse};
use super::{Assignment, Keeper};
use crate::replication::capture::{rotation, schema, table as capture};
use crate::replication::catalog::{self, Table};
use crate::replication::checks::{self, Obstacle};
use crate::replication::error::Error;
use crate::replication::primary::{self, Captured};
use crate::replication::progress::{self, Origin, Progress};
use crate::replication::status::State;

/// How long a table may be locked by others when it is put under capture.
const PATIENCE: Duration = Duration::from_mins(1);

impl Keeper {
    /// Enforces the limits on the change log, installs capture if we may, and says which group the
    /// primary leads.
    pub(super) async fn prepare_primary(
        &mut self,
        client: &mut Client,
        secondary: &Client,
    ) -> Result<String, Halt> {
        let Assignment { name, settings, .. } = &self.assignment;
        if !settings.auto && !self.wants_copy {
            return Ok(schema::read(client).await?.group);
        }
        schema::install(client).await?;
        // First of all: the log may have grown while no proxy was running.
        rotation::tend(client, rotation::Limits::of(settings), Duration::ZERO).await?;
        match primary::reported(client, name).await? {
            Some((state, why)) if state == "detached" => {
                if !self.wants_copy {
                    return Err(Halt::Stuck(State::Detached(why.unwrap_or_default())));
                }
                // Nothing was kept for it: what it has is to be replaced, before it counts again.
                let captured = primary::captured(client, &self.selection).await?;
                let names: Vec<_> = captured.into_iter().map(|c| c.table.name).collect();
                progress::forget(secondary, &names).await?;
                primary::attach(client, name).await?;
            }
            Some(_) => {}
            // From now on the change log is kept for this secondary.
            None => primary::attach(client, name).await?,
        }
        let meta = schema::read(client).await?;
        if meta.stopped.is_some() {
            rotation::restart(client).await?;
        }
        for table in catalog::tables(client, &self.selection).await? {
            // A table of which changes were missed has another `since` now: it is copied anew.
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
        let reported = primary::reported_progress(primary, &self.assignment.name).await?;
        if let Some(why) = primary::is_behind(primary, origin, &progress, reported.as_ref()).await?
        {
            return Err(Halt::Stuck(State::Ahead(why)));
        }
        if let (Some(stands), Some(reported)) = (&progress.snapshot, &reported)
            && !stands.covers(reported)
        {
            // Restored from a backup, for example.
            let why = format!(
                "it stands at snapshot {stands}, before {reported}, which it had reported: the \
                 change log may not have what is in between; RESYNC copies it anew"
            );
            return Err(Halt::Stuck(State::Paused(why)));
        }
        if progress.origin.timeline != origin.timeline {
            // What was found of the group says nothing of a table that was copied under a later snapshot.
            let ahead = progress::copied(secondary).await?.into_iter();
            let ahead = ahead.filter(|copied| copied.snapshot.is_some()).map(|copied| copied.table);
            progress::await_copy(secondary, &ahead.collect::<Vec<_>>()).await?;
            progress::note_timeline(secondary, origin.timeline).await?;
        }
        match progress.paused {
            Some(why) => Err(Halt::Stuck(State::Paused(why))),
            None => Ok(progress),
        }
    }

    /// Compares both sides; returns the tables of the secondary with what captures them.
    ///
    /// Where the schema is unfinished, keys come later.
    pub(super) async fn compare(
        &mut self,
        primary: &Client,
        secondary: &Client,
        is_unfinished: bool,
    ) -> Result<Vec<(Captured, Table)>, Halt> {
        let captured = primary::captured(primary, &self.selection).await?;
        let here = catalog::tables(secondary, &self.selection).await?;
        let there: Vec<Table> = captured.iter().map(|captured| captured.table.clone()).collect();
        let mut obstacles = checks::definitions(&there, &here);
        obstacles.retain(|obstacle| !is_unfinished || !matches!(obstacle, Obstacle::Key { .. }));
        refuse(&obstacles)?;
        let pair = |captured: Captured| {
            let table = here.iter().find(|table| table.name == captured.table.name)?.clone();
            Some((captured, table))
        };
        Ok(captured.into_iter().filter_map(pair).collect())
    }
}
