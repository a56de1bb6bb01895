//! Plays scripts against one side, over connections that are kept from one script to the next.

use std::time::Duration;

use super::script::{Act, Message, Script, Way, What};
use crate::support::{
    PATIENCE, let_pass,
    login::{Address, Login},
    message::{Bytes, bind, copy_fail, execute, flush, parse, query, sync, terminate},
    reply::Reply,
    wire::Client,
};

/// How long PostgreSQL is listened to where nobody knows whether it will say more. Nothing
/// depends on it but how much is proved: the proxy must have said at least as much.
const QUIET: Duration = Duration::from_millis(2);

/// A statement that says that it has begun, and then lasts.
const LASTING: &str = "do $$begin raise notice 'begun'; perform pg_sleep(5); end$$";

/// What the clients of one script got, each by itself.
#[derive(Default, PartialEq, Eq)]
pub struct Trace {
    pub answers: Vec<Vec<String>>,
    /// How far the answers had come at each [`What::Await`].
    awaited: Vec<Place>,
}

/// A place in what a client has got: so many ReadyForQuery, and so many answers behind the last of them.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Place {
    ready: usize,
    behind: usize,
}

impl Place {
    fn of(answers: &[String]) -> Self {
        answers.iter().fold(Self::default(), |place, answer| place.after(answer))
    }

    fn after(self, answer: &str) -> Self {
        if answer.starts_with('Z') {
            Self { ready: self.ready + 1, behind: 0 }
        } else {
            Self { behind: self.behind + 1, ..self }
        }
    }
}

/// One side: PostgreSQL, or the proxy.
pub struct Side {
    address: Address,
    login: Login,
    lines: Vec<Option<Line>>,
}

/// One client's connection.
struct Line {
    client: Client,
    answers: Vec<String>,
    /// Tags of the last answers, for the fence.
    tags: Vec<u8>,
    is_over: bool,
}

impl Side {
    pub fn new(address: Address, login: Login) -> Self {
        Self { address, login, lines: Vec::new() }
    }

    /// Drops all connections, so that the next script begins like the first.
    pub fn hang_up(&mut self) {
        self.lines.clear();
    }

    /// Plays one script. With a `guide`, the trace of PostgreSQL, it waits for as many answers as
    /// there were then.
    pub fn play(&mut self, script: &Script, guide: Option<&Trace>) -> Trace {
        let mut trace = Trace::default();
        trace.answers.resize_with(script.clients, Vec::new);
        for client in 0..script.clients {
            self.line(client).run(&["rollback", "discard all"]);
        }
        for act in &script.acts {
            let guided = guide.map(|guide| guide.awaited.get(trace.awaited.len()).copied());
            self.act(act, guided.flatten(), &mut trace);
        }
        for client in 0..script.clients {
            let line = self.line(client);
            line.fence();
            line.run(&["rollback"]);
            self.collect(client, &mut trace);
        }
        trace
    }

    fn act(&mut self, act: &Act, guided: Option<Place>, trace: &mut Trace) {
        let client = act.client;
        let before = Place::of(&trace.answers[client]);
        let address = self.address.clone();
        let line = self.line(client);
        match &act.what {
            What::Send { messages, cuts } => line.send(messages, cuts),
            What::Await => {
                match guided {
                    Some(wanted) => line.read_up_to(before, wanted),
                    None => line.read_until_quiet(),
                }
                trace.awaited.push(line.place(before));
            }
            What::Fence => line.fence(),
            What::CancelRunning(way) => line.cancel_running(*way, &address),
            What::CancelIdle => {
                line.fence();
                address.cancel(line.client.key);
            }
            What::Terminate => {
                // PostgreSQL forgets answers that nobody asked it to send before; the proxy gives those
                // that it gives itself when their turn comes.
                line.send_bytes(&[flush(), terminate()].concat());
                line.read_to_end();
            }
            What::HangUp => {
                self.collect(client, trace);
                self.lines[client] = None;
                return;
            }
        }
        if line.is_over {
            self.collect(client, trace);
        }
    }

    /// The connection of a client; a new one if its last one is over.
    fn line(&mut self, client: usize) -> &mut Line {
        if self.lines.len() <= client {
            self.lines.resize_with(client + 1, || None);
        }
        if self.lines[client].as_ref().is_some_and(|line| line.is_over) {
            self.lines[client] = None;
        }
        let (login, address) = (&self.login, &self.address);
        self.lines[client].get_or_insert_with(|| Line {
            client: login
                .connect(address)
                .unwrap_or_else(|said| panic!("{address:?} does not let us in: {said:?}")),
            answers: Vec::new(),
            tags: Vec::new(),
            is_over: false,
        })
    }

    /// Moves what a client has got so far into the trace.
    fn collect(&mut self, client: usize, trace: &mut Trace) {
        if let Some(line) = &mut self.lines[client] {
            trace.answers[client].append(&mut line.answers);
        }
    }
}

impl Line {
    fn send(&mut self, messages: &[Message], cuts: &[usize]) {
        let bytes: Bytes = messages.iter().flat_map(Message::encode).collect();
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
        ends.push(bytes.len());
        ends.sort_unstable();
        let mut start = 0;
        for end in ends {
            if end > start {
                if start > 0 {
                    let_pass(Duration::from_micros(100));
                }
                self.send_bytes(&bytes[start..end]);
                start = end;
            }
        }
    }

    /// Sends to a side that may have hung up; what it said last is still to be read.
    fn send_bytes(&mut self, bytes: &[u8]) {
        let _ = self.client.try_send(bytes);
    }

    fn read(&mut self, time: Duration) -> Option<u8> {
        if self.is_over {
            return None;
        }
        let reply = self.client.reply_within(time)?;
        self.is_over = reply == Reply::Eof;
        self.answers.push(reply.detail());
        self.tags.push(reply.tag());
        Some(reply.tag())
    }

    /// Reads an answer that must come.
    fn must_read(&mut self) -> Option<u8> {
        let tag = self.read(PATIENCE);
        if tag.is_none() && !self.is_over {
            self.answers.push(format!("(nothing for {PATIENCE:?})"));
            self.is_over = true;
        }
        tag
    }

    fn read_until_quiet(&mut self) {
        while self.read(QUIET).is_some() {}
    }

    /// Where it is, if it began at `before`.
    fn place(&self, before: Place) -> Place {
        self.answers.iter().fold(before, |place, answer| place.after(answer))
    }

    /// Reads as much as PostgreSQL has said; less where a segment has failed in a failed transaction, as
    /// it may earlier than there (`leave_out_unprepared`).
    fn read_up_to(&mut self, before: Place, wanted: Place) {
        loop {
            let place = self.place(before);
            let has_failed = self.answers.last().is_some_and(|last| last.contains("C25P02"));
            let is_there = place.behind >= wanted.behind || has_failed;
            if place.ready > wanted.ready || (place.ready == wanted.ready && is_there) {
                return;
            }
            if self.must_read().is_none() {
                return;
            }
        }
    }

    fn read_to_end(&mut self) {
        while self.must_read().is_some() {}
    }

    /// Whatever was sent before, and whatever became of it: three empty queries in a row are
    /// answered only here, and they are answered in a failed transaction too.
    fn fence(&mut self) {
        self.send_bytes(&[copy_fail("fence"), sync(), query(""), query(""), query("")].concat());
        self.tags.clear();
        while self.must_read().is_some() {
            if self.tags.ends_with(b"IZIZIZ") {
                return;
            }
        }
    }

    /// Runs queries, each with one ReadyForQuery, behind a fence.
    fn run(&mut self, queries: &[&str]) {
        for sql in queries {
            self.send_bytes(&query(sql));
            while !matches!(self.must_read(), None | Some(b'Z')) {}
        }
    }

    fn cancel_running(&mut self, way: Way, address: &Address) {
        self.fence();
        let messages = match way {
            Way::Simple => vec![query(LASTING)],
            Way::Extended => vec![parse("", LASTING), bind("", ""), execute(""), sync()],
        };
        self.send_bytes(&messages.concat());
        loop {
            match self.must_read() {
                None | Some(b'Z') => return,
                Some(b'N') => address.cancel(self.client.key),
                Some(_) => {}
            }
        }
    }
}
