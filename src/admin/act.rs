//! Carries out what an administrator asks for, and says what came of it.

use std::fmt;

use super::Admin;
use super::books::Rows;
use super::command::{Action, Order, Shutdown};
use super::refusal::Refusal;
use crate::control::{Changes, Mode, PoolEffect, Sections};
use crate::wire::rows::Value;

/// What came of a command.
#[derive(Debug, Default)]
pub struct Acted {
    /// What is shown.
    pub rows: Rows,
    /// What should be known.
    pub warnings: Vec<String>,
}

impl Action {
    /// Says what becomes of it if whoever asked for it gives up.
    pub fn if_given_up(&self) -> IfGivenUp {
        match self {
            Self::Pause(_)
            | Self::Suspend
            | Self::WaitClose(_)
            | Self::Order(Order::Wait(..) | Order::Verify(..)) => IfGivenUp::Undone,
            Self::Order(_) => IfGivenUp::GoesOn,
            Self::Resume(_)
            | Self::Kill(_)
            | Self::KillClient(_)
            | Self::Disable(_)
            | Self::Enable(_)
            | Self::Reconnect(_)
            | Self::Reload
            | Self::ReloadDryRun
            | Self::Set { .. }
            | Self::Shutdown(_) => IfGivenUp::AwaitedAllTheSame,
        }
    }
}

/// What becomes of a command if a cancel request comes, or its console is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfGivenUp {
    /// It waits for something, and is undone.
    Undone,
    /// It has been handed on, and is carried out.
    GoesOn,
    /// It takes no time worth mentioning, and must not be left half done.
    AwaitedAllTheSame,
}

/// For the log: the command and what it is about; never a value.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::Order(order) = self {
            return write!(f, "{order}");
        }
        f.write_str(self.tag())?;
        match self {
            Self::Pause(Some(database))
            | Self::Resume(Some(database))
            | Self::Reconnect(Some(database))
            | Self::WaitClose(Some(database))
            | Self::Kill(database)
            | Self::Disable(database)
            | Self::Enable(database) => write!(f, " {database:?}"),
            Self::KillClient(id) => write!(f, " {id}"),
            Self::Set { key, .. } => write!(f, " {key}"),
            Self::ReloadDryRun => f.write_str(" DRY RUN"),
            Self::Shutdown(Shutdown::WaitForServers) => f.write_str(" WAIT_FOR_SERVERS"),
            Self::Shutdown(Shutdown::WaitForClients) => f.write_str(" WAIT_FOR_CLIENTS"),
            Self::Pause(None)
            | Self::Resume(None)
            | Self::Reconnect(None)
            | Self::WaitClose(None)
            | Self::Suspend
            | Self::Reload
            | Self::Order(_)
            | Self::Shutdown(Shutdown::Now) => Ok(()),
        }
    }
}

impl Admin {
    /// Carries out `action`.
    ///
    /// The future may be dropped where [`Action::if_given_up`] says so; otherwise it is to be awaited
    /// to its end.
    ///
    /// # Errors
    /// What [`Control`](crate::control::Control) says.
    pub(super) async fn act(&self, action: &Action) -> Result<Acted, Refusal> {
        let control = &self.control;
        match action {
            Action::Pause(database) => control.pause(database.as_deref()).await?,
            Action::Resume(database) => control.resume(database.as_deref()).await?,
            Action::Suspend => control.suspend().await?,
            Action::Kill(database) => control.kill(database).await?,
            Action::KillClient(id) => {
                if !self.seats.kill(*id) {
                    control.kill_client(*id).await?;
                }
            }
            Action::Disable(database) => control.disable(database)?,
            Action::Enable(database) => control.enable(database)?,
            Action::Reconnect(database) => control.reconnect(database.as_deref()).await?,
            Action::WaitClose(database) => control.wait_close(database.as_deref()).await?,
            Action::Reload => return Ok(Acted::of(&control.reload().await?)),
            Action::ReloadDryRun => {
                let rows = rows(&control.reload_dry_run().await?);
                return Ok(Acted { rows, ..Acted::default() });
            }
            Action::Set { key, value } => {
                let changes = control.set(key, value).await?;
                return Ok(Acted::of(&changes));
            }
            Action::Shutdown(shutdown) => control.shutdown(match shutdown {
                Shutdown::Now => Mode::Immediate,
                Shutdown::WaitForServers => Mode::WaitForServers,
                Shutdown::WaitForClients => Mode::WaitForClients,
            })?,
            Action::Order(order) => {
                // Its work is larger than a console's own.
                let rows = Box::pin(self.order(order)).await?;
                return Ok(Acted { rows, ..Acted::default() });
            }
        }
        Ok(Acted::default())
    }
}

impl Acted {
    /// Says what should be known of changes that are in force now.
    fn of(changes: &Changes) -> Self {
        let mut warnings = Vec::new();
        if !changes.restart.is_empty() {
            let keys = changes.restart.join(", ");
            warnings.push(format!("comes into force at the next start: {keys}"));
        }
        Self { rows: Rows::new(), warnings }
    }
}

/// Lists changes: one row for each key, section, address and pool.
fn rows(changes: &Changes) -> Rows {
    let mut rows = Rows::new();
    let mut add = |kind: &'static str, name: &str, change: String| {
        let name = Value::Text(name.to_owned().into());
        rows.push(vec![Value::Text(kind.into()), name, Value::Text(change.into())]);
    };
    for key in &changes.general {
        let is_for_start = changes.restart.contains(key);
        let change = if is_for_start { "changed at the next start" } else { "changed" };
        add("general", key, change.to_owned());
    }
    for (kind, sections) in [("database", &changes.databases), ("user", &changes.users)] {
        let Sections { added, removed, changed } = sections;
        for name in added {
            add(kind, name, "added".to_owned());
        }
        for name in removed {
            add(kind, name, "removed".to_owned());
        }
        for (name, keys) in changed {
            add(kind, name, format!("changed: {}", keys.join(", ")));
        }
    }
    for address in &changes.listening.opened {
        add("listener", address, "opened".to_owned());
    }
    for address in &changes.listening.closed {
        add("listener", address, "closed".to_owned());
    }
    for pool in &changes.pools {
        let effect = match pool.effect {
            PoolEffect::Updated => "updated",
            PoolEffect::Recycled => "recycled",
            PoolEffect::Removed => "removed",
        };
        add("pool", &format!("{}/{}", pool.database, pool.user), effect.to_owned());
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::PoolChange;
    use crate::net::listen::Rebound;

    #[test]
    fn every_change_is_a_row() {
        let changes = Changes {
            general: vec!["query_timeout", "workers"],
            restart: vec!["workers"],
            databases: Sections {
                added: vec!["a".into()],
                removed: vec!["b".into()],
                changed: vec![("c".into(), vec!["host", "port"])],
            },
            users: Sections { added: vec!["u".into()], ..Sections::default() },
            listening: Rebound {
                opened: vec!["127.0.0.1:1".into()],
                closed: vec!["127.0.0.1:2".into()],
            },
            pools: vec![PoolChange {
                database: "c".into(),
                user: "u".into(),
                effect: PoolEffect::Recycled,
            }],
        };
        let shown: Vec<String> = rows(&changes)
            .into_iter()
            .map(|row| {
                let text = |value| {
                    let Value::Text(text) = value else { unreachable!("all columns are texts") };
                    text.into_owned()
                };
                row.into_iter().map(text).collect::<Vec<_>>().join("|")
            })
            .collect();
        assert_eq!(
            shown,
            [
                "general|query_timeout|changed",
                "general|workers|changed at the next start",
                "database|a|added",
                "database|b|removed",
                "database|c|changed: host, port",
                "user|u|added",
                "listener|127.0.0.1:1|opened",
                "listener|127.0.0.1:2|closed",
                "pool|c/u|recycled",
            ]
        );
        assert_eq!(Acted::of(&changes).warnings, ["comes into force at the next start: workers"]);
    }
}
