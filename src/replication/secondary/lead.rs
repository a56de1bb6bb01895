//! Who applies: of all processes that look after a secondary, the one that holds an advisory lock.
//!
//! The lock goes with the connection, so whoever dies lets go. Whoever hangs does not: the others see
//! that its connection, which it uses every second, is silent, and end all its connections. Should it
//! ever wake up again, it finds them closed; and what it had sent before is fenced by the progress row.

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::time::Instant;
use tokio_postgres::Client;

use super::Keeper;
use super::halt::Halt;
use crate::replication::error::Error;
use crate::replication::status::CommandError;

/// Between two looks at whether the process that applies still does.
const STANDBY: Duration = Duration::from_millis(250);

/// How often whoever applies shows that it is there.
const PULSE: Duration = Duration::from_secs(1);

/// How long one that is silent is watched before its connections are ended.
const SILENT: Duration = Duration::from_secs(5);

/// The advisory lock of whoever applies: two numbers, so as not to meet those of applications.
const LOCK: &str = "SELECT pg_try_advisory_lock(1886872681, 1634627693)";

/// Who holds the lock, and has used its connection for the last time some seconds ago. One that has
/// begun to send rows does not use it for anything else.
const SILENT_HOLDER: &str = "\
SELECT a.pid FROM pg_locks l JOIN pg_stat_activity a ON a.pid = l.pid
WHERE l.locktype = 'advisory' AND l.classid = 1886872681 AND l.objid = 1634627693
  AND l.objsubid = 2 AND l.granted
  AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND (a.state LIKE 'idle%' OR a.wait_event = 'ClientRead')
  AND a.state_change < clock_timestamp() - interval '5 s'";

/// Ends all connections of the process that has connection `$1`.
const END: &str = "\
SELECT count(pg_terminate_backend(o.pid)) FROM pg_stat_activity a
JOIN pg_stat_activity o ON o.application_name = a.application_name AND o.usename = a.usename
                       AND o.datname = a.datname
WHERE a.pid = $1 AND a.usename = current_user AND a.datname = current_database()
  AND o.pid <> pg_backend_pid()";

impl Keeper {
    /// Waits until no other process applies.
    pub(super) async fn lead(&mut self, secondary: &Arc<Client>) -> Result<(), Halt> {
        let mut suspect: Option<(i32, Instant)> = None;
        loop {
            let row = secondary.query_one(LOCK, &[]).await;
            let is_ours = row.and_then(|row| row.try_get(0));
            if is_ours.map_err(Error::sql("ask who applies"))? {
                self.status.send_modify(|status| status.is_leader = true);
                tokio::spawn(beat(Arc::downgrade(secondary)));
                return Ok(());
            }
            self.status.send_modify(|status| status.is_leader = false);
            suspect = self.suspect(secondary, suspect).await?;
            tokio::select! {
                biased;
                request = self.requests.recv() => match request {
                    // Nobody may be waiting any more.
                    Some(request) => drop(request.answer.send(Err(CommandError::NotHere))),
                    None => return Err(Halt::Over),
                },
                // Dropped: whoever wants to verify is told that nobody applies here.
                _ = self.holds.next() => {}
                () = tokio::time::sleep(STANDBY) => {}
            }
        }
    }

    /// Looks at whoever applies; ends its connections if it has been silent for too long.
    async fn suspect(
        &self,
        secondary: &Client,
        before: Option<(i32, Instant)>,
    ) -> Result<Option<(i32, Instant)>, Halt> {
        let wrong = || Error::sql("look at who applies");
        let silent = secondary.query_opt(SILENT_HOLDER, &[]).await.map_err(wrong())?;
        let Some(row) = silent else { return Ok(None) };
        let pid: i32 = row.try_get(0).map_err(wrong())?;
        let since = match before {
            Some((same, since)) if same == pid => since,
            Some(_) | None => Instant::now(),
        };
        if since.elapsed() < SILENT {
            return Ok(Some((pid, since)));
        }
        let (database, name) = (&self.assignment.database, &self.assignment.name);
        tracing::warn!(database, secondary = name, pid, "who applied is silent, connections ended");
        secondary.query(END, &[&pid]).await.map_err(wrong())?;
        Ok(None)
    }
}

/// Uses the connection now and then, so that the others can tell idle from gone.
async fn beat(client: Weak<Client>) {
    loop {
        tokio::time::sleep(PULSE).await;
        let Some(client) = client.upgrade() else { return };
        if client.batch_execute("").await.is_err() {
            return;
        }
    }
}
