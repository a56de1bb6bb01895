//! Replication connections: a client with a server connection of its own.
//!
//! Who logs in with `replication` talks to a walsender, not to a session: the server connection is
//! opened for it with its startup parameters, carries whatever both say, byte by byte, and is closed
//! with it. It takes no place of a pool, as a walsender takes none of `max_connections`; what bounds
//! it are `max_client_conn` and the server's `max_wal_senders`.
//!
//! Source: PostgreSQL manual, protocol-replication.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, info, info_span};

use super::Control;
use super::carry::cancel_at;
use crate::backend::connect::{CancelKey, Opened};
use crate::config::PoolSettings;
use crate::net::Stream;
use crate::pool::gate::Gate;
use crate::pool::roster::Origin;
use crate::pool::spec::Spec;
use crate::secret::Secret;
use crate::session::login::Authenticated;
use crate::wire::encode;

/// Bytes that are read at a time in each direction; a message of WAL has up to 128 KiB.
const READ_BYTES: usize = 32 << 10;

/// How long the rest of what one side said may take to reach the other when one of them has gone.
const FAREWELL: Duration = Duration::from_secs(5);

/// All replication connections.
#[derive(Debug, Default)]
pub struct Walsenders {
    // Held for a look-up or an insertion, never across a wait.
    known: Mutex<HashMap<u64, Known>>,
}

/// One of them, as others need to know it.
#[derive(Debug)]
struct Known {
    spec: Arc<Spec>,
    /// The first half of its client's cancel key: the server's process.
    pid: i32,
    /// The second half, which is ours.
    secret: Secret,
    /// Where the server is.
    origin: Arc<Origin>,
    settings: Arc<PoolSettings>,
    key: Arc<CancelKey>,
    end: CancellationToken,
}

impl Walsenders {
    fn lock(&self) -> MutexGuard<'_, HashMap<u64, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns what a cancel request with this key is to be sent to.
    pub(super) fn find(
        &self,
        pid: i32,
        secret: &Secret,
    ) -> Option<(Arc<Origin>, Arc<PoolSettings>, Arc<CancelKey>)> {
        let known = self.lock();
        let found = known.values().find(|one| one.pid == pid && one.secret == *secret)?;
        let (origin, settings) = (Arc::clone(&found.origin), Arc::clone(&found.settings));
        Some((origin, settings, Arc::clone(&found.key)))
    }

    /// Ends all of a database.
    pub(super) fn kill(&self, gate: &Arc<Gate>) {
        for one in self.lock().values().filter(|one| Arc::ptr_eq(one.spec.gate(), gate)) {
            one.end.cancel();
        }
    }
}

impl Control {
    /// Opens a server connection for a client that asks for replication, and stays between the two
    /// until one of them goes.
    pub async fn replicate(&self, mut client: Box<Authenticated>, spec: Arc<Spec>) {
        let span = info_span!("replication", database = spec.database, user = spec.user, client = %client.peer);
        async {
            let settings = spec.settings();
            let mut parameters =
                vec![(b"replication".to_vec(), client.replication.take().unwrap_or_default())];
            parameters.append(&mut client.parameters);
            match self.find(&spec, &settings, &parameters).await {
                Ok((server, opened)) => {
                    let origin = spec.roster.opened(&server, &opened.place, opened.standing);
                    self.walsender(client, opened, &spec, (origin, settings)).await;
                }
                Err(error) => {
                    info!(%error, "no server connection for replication");
                    client.turn_away(&error.fault()).await;
                }
            }
        }
        .instrument(span)
        .await;
    }

    async fn walsender(
        &self,
        mut client: Box<Authenticated>,
        opened: Opened,
        spec: &Arc<Spec>,
        (origin, settings): (Arc<Origin>, Arc<PoolSettings>),
    ) {
        let secret = client.cancel_secret();
        let mut hello = std::mem::take(&mut client.greeting);
        hello.extend_from_slice(&opened.notices);
        for (name, value) in &opened.parameters {
            encode::parameter_status(&mut hello, name, value);
        }
        let pid = opened.cancel_key.pid;
        encode::backend_key_data(&mut hello, pid, secret.expose());
        encode::ready_for_query(&mut hello, b'I');
        hello.extend_from_slice(&opened.unread);
        let Ok(server) = opened.raw.into_stream() else { return };
        let end = CancellationToken::new();
        let known = Known {
            spec: Arc::clone(spec),
            pid,
            secret,
            origin,
            settings,
            key: Arc::new(opened.cancel_key),
            end: end.clone(),
        };
        let number = crate::worker::next_serial();
        self.walsenders.lock().insert(number, known);
        let _gone = Gone { walsenders: &self.walsenders, number };
        info!(backend_pid = pid, "replication connection opened");
        tokio::select! {
            ended = between(client.stream, &hello, server, &client.unread) => match ended {
                Ok(()) => info!("replication connection closed"),
                Err(error) => info!(%error, "replication connection lost"),
            },
            () = end.cancelled() => info!("replication connection killed"),
            () = removed(spec) => info!("replication connection of a removed database closed"),
        }
    }

    /// Cancels what a replication connection with this key runs; says whether there is one.
    pub(super) async fn cancel_walsender(&self, pid: i32, secret: &Secret) -> bool {
        let Some((origin, settings, key)) = self.walsenders.find(pid, secret) else {
            return false;
        };
        if let Err(error) = cancel_at(self, &origin, &settings, &key).await {
            tracing::warn!(%error, "cannot cancel a replication command");
        }
        true
    }
}

/// Forgets a connection when it is dropped.
struct Gone<'a> {
    walsenders: &'a Walsenders,
    number: u64,
}

impl Drop for Gone<'_> {
    fn drop(&mut self) {
        self.walsenders.lock().remove(&self.number);
    }
}

/// Waits until a reload has taken the database away.
async fn removed(spec: &Spec) {
    loop {
        let changed = spec.changed();
        if spec.is_removed() {
            return;
        }
        changed.await;
    }
}

/// Carries bytes both ways, until both sides have said all they had to say, or one of them has gone
/// and the other does not follow.
async fn between(client: Stream, hello: &[u8], server: Stream, unread: &[u8]) -> io::Result<()> {
    let ((from_client, to_client), (from_server, to_server)) = (split(client), split(server));
    let mut up = std::pin::pin!(carry(unread, from_client, to_server));
    let mut down = std::pin::pin!(carry(hello, from_server, to_client));
    let late = |_| io::Error::from(io::ErrorKind::TimedOut);
    tokio::select! {
        ended = &mut up => {
            ended?;
            timeout(FAREWELL, down).await.map_err(late)?
        }
        ended = &mut down => {
            ended?;
            timeout(FAREWELL, up).await.map_err(late)?
        }
    }
}

/// Writes `first`, then what can be read, then that nothing follows.
async fn carry(
    first: &[u8],
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
) -> io::Result<()> {
    to.write_all(first).await?;
    to.flush().await?;
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else { break };
        to.write_all(read).await?;
        to.flush().await?;
    }
    to.shutdown().await
}
