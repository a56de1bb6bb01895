//! A worker driven by hand, one batch of events at a time: for what depends on their order.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::config::Config;
use crate::fault::{Fault, SqlState};
use crate::net::{Peer, Stream};
use crate::pool::registry::Registry;
use crate::session::login::{Admission, Authenticated};
use crate::wire::startup::Version;

/// A worker without a thread, and the control plane's side of it.
struct Bench {
    worker: Worker,
    events: Events,
    handle: WorkerHandle,
    /// What it asks for; nobody answers unless a test does.
    _asked: mpsc::Receiver<ToControl>,
    /// The mailbox of another worker, which is never started.
    other: mpsc::Receiver<ToWorker>,
    config: Arc<Config>,
    registry: Registry,
}

impl Bench {
    fn new() -> Self {
        let config = "[general]\nmax_db_connections = 1\n\
            [databases.a]\nhost = \"/nowhere\"\n[databases.b]\nhost = \"/nowhere\"\n";
        let config = Config::parse(config, "proxy.toml", &|_| None).unwrap();
        let (mut starts, handles) = prepare(2).unwrap();
        let other = starts.pop().unwrap().inbox;
        let handle = handles[0].clone();
        let (control, asked) = mpsc::channel(MESSAGES_MAX);
        let with = Surroundings {
            workers: handles,
            control,
            general: Arc::new(config.general.clone()),
            suspension: Arc::default(),
            epoch: Instant::now(),
        };
        Self {
            worker: Worker::new(starts.pop().unwrap(), with),
            events: Events::with_capacity(EVENTS_MAX),
            handle,
            _asked: asked,
            other,
            config: Arc::new(config),
            registry: Registry::default(),
        }
    }

    fn pool(&self, database: &str) -> Arc<Spec> {
        self.pool_of(database, "postgres")
    }

    fn pool_of(&self, database: &str, user: &str) -> Arc<Spec> {
        self.registry.pool(|| Arc::clone(&self.config), database, user).unwrap()
    }

    /// Puts a message into the mailbox.
    fn post(&self, message: ToWorker) {
        self.handle.try_send(message).unwrap();
    }

    /// Puts a client that has just logged in into the mailbox; returns its end of the connection.
    fn post_client(&self, database: &str) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        theirs.set_nonblocking(true).unwrap();
        let client = Authenticated {
            stream: Stream::Unix(tokio::net::UnixStream::from_std(ours).unwrap()),
            peer: Peer::Unix,
            database: database.to_owned(),
            user: "postgres".to_owned(),
            protocol: Version::OLDEST,
            replication: None,
            parameters: Vec::new(),
            learned: None,
            greeting: Vec::new(),
            unread: Vec::new(),
            accepted_at: Instant::now(),
            admitted: Admission::new().admit(1).unwrap(),
        };
        self.post(ToWorker::Client { spec: self.pool(database), client: Box::new(client) });
        theirs
    }

    /// One batch of events; returns their tokens.
    fn turn(&mut self) -> Vec<Token> {
        self.worker.poll.poll(&mut self.events, Some(Duration::ZERO)).unwrap();
        self.worker.turn(&self.events);
        self.events.iter().map(Event::token).collect()
    }
}

/// Whether nothing has come, not even the end.
fn is_quiet(client: &mut UnixStream) -> bool {
    client.read(&mut [0; 64]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn an_event_about_who_was_there_before_is_not_for_who_takes_the_place() {
    let mut bench = Bench::new();
    let first = bench.post_client("a");
    bench.turn();
    // The writable event of its registration.
    bench.turn();
    assert_eq!(bench.worker.sessions.keys(), [Key::new(0)]);
    // In one batch: mail that takes the first client out and lets another one in, and behind it the
    // end of the first one's connection.
    let fault = Fault::fatal(SqlState::CANNOT_CONNECT, "no such server");
    let (spec, failed, lost_since) = (bench.pool("a"), Failed::Refused, Instant::now());
    bench.post(ToWorker::OpenFailed { spec, fault, failed, lost_since });
    let mut second = bench.post_client("b");
    drop(first);
    assert_eq!(bench.turn(), [MAILBOX, Token(session_token(Key::new(0)))]);
    for _ in 0..3 {
        assert_eq!(bench.worker.sessions.keys(), [Key::new(0)], "the second client is in");
        assert!(is_quiet(&mut second), "it has been closed, or told something");
        bench.turn();
    }
}

#[tokio::test]
async fn others_are_asked_to_make_room_once_in_a_while_however_many_wait() {
    let mut bench = Bench::new();
    // Another pool has the only place of the database, and not on this worker.
    let taken = bench.pool_of("a", "other").ledger.reserve(0).unwrap();
    let clients: Vec<UnixStream> = (0..20).map(|_| bench.post_client("a")).collect();
    bench.turn();
    let asked = |bench: &mut Bench| {
        let mut count = 0;
        while let Ok(message) = bench.other.try_recv() {
            count += usize::from(matches!(message, ToWorker::Evict { .. }));
        }
        count
    };
    assert_eq!(asked(&mut bench), 1, "one place is all there is");
    bench.turn();
    assert_eq!(asked(&mut bench), 0, "they have been asked just now");
    // As time goes by, they are asked again.
    bench.worker.epoch = bench.worker.epoch.checked_sub(Duration::from_secs(2)).unwrap();
    bench.turn();
    assert_eq!(asked(&mut bench), 1);
    drop((taken, clients));
}
