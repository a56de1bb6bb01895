//! Random scripts: the same seed, the same script.

use std::collections::BTreeSet;

use super::{
    script::{Act, Message, Script, Way, What},
    setup::SETUPS,
};

/// A small generator, good enough to choose (Knuth's MMIX constants).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        // Neighbouring seeds must not begin alike.
        let mut dice = Self(seed ^ 0x9e37_79b9_7f4a_7c15);
        dice.roll(2);
        dice.roll(2);
        dice
    }

    pub fn roll(&mut self, sides: usize) -> usize {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let sides = u64::try_from(sides).expect("64-bit");
        usize::try_from((self.0 >> 33) % sides).expect("64-bit")
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }

    fn pick<T: Copy>(&mut self, list: &[T]) -> T {
        list[self.roll(list.len())]
    }

    fn name(&mut self) -> &'static str {
        self.pick(&["", "", "a", "b", "c", "d"])
    }

    fn portal(&mut self) -> &'static str {
        self.pick(&["", "", "p", "q"])
    }
}

/// What a pool lets its clients leave behind on a backend.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Keeps {
    /// Backends change between transactions.
    Transaction,
    /// The client has one backend until it goes.
    Session,
}

/// Texts that end or begin transactions, or happen inside; `%t` is a table of the client's own.
const CONTROL: [&str; 17] = [
    "begin",
    "begin",
    "commit",
    "commit",
    "rollback",
    "rollback",
    "savepoint s",
    "rollback to s",
    "release s",
    "commit and chain",
    "rollback and chain",
    "begin isolation level serializable, read only",
    "set transaction isolation level repeatable read",
    "prepare transaction 'x'",
    "declare c cursor for select generate_series(1, 4)",
    "fetch 2 from c",
    "close c",
];

/// Texts of one statement; some cannot be parsed, some fail at run time.
const SINGLE: [&str; 26] = [
    "select 1",
    "select 'two'",
    "select g from generate_series(1, 5) g",
    "select g, repeat('x', 200) from generate_series(1, 200) g",
    "select 1 / g from generate_series(0, 1) g",
    "select 1 / (3 - g) from generate_series(1, 5) g",
    "select 1/0",
    "selec",
    "select * from nowhere",
    "insert into %t values (1, 'one')",
    "insert into %t values (2, 'two') returning id",
    "insert into %t values (200, 'too much')",
    "update %t set id = id + 1",
    "delete from %t",
    "select count(*) from %t",
    "set application_name = 'x'",
    "set local application_name = 'y'",
    "reset application_name",
    "show application_name",
    "set datestyle = 'German'",
    "select date '2020-02-01'",
    "set timezone = 'Asia/Tokyo'",
    "select timestamptz '2020-02-01 00:00:00Z'",
    "do $$begin raise notice 'noticed'; end$$",
    "discard all",
    "deallocate all",
];

/// Texts of several statements, for the simple protocol.
const SEVERAL: [&str; 12] = [
    "select 2; select 3",
    "begin; select 1",
    "commit; select 1",
    "begin; insert into %t values (3, 'three'); commit",
    "insert into %t values (4, 'four'); select 1/0",
    "select 1; select 1/0; select 2",
    "rollback; begin; select 1/0; rollback",
    "begin; rollback; begin",
    "savepoint s; select 1",
    "set application_name = 'z'; select 1/0",
    "select 1; deallocate all; select 2",
    ";",
];

/// What a client sends that wants to copy.
const COPY: [&str; 9] = [
    "copy %t from stdin",
    "copy %t from stdin",
    "copy %t from stdin",
    "copy %t to stdout",
    "copy (select g from generate_series(1, 3) g) to stdout",
    "copy (select 1 / (3 - g) from generate_series(1, 5) g) to stdout",
    "copy nowhere from stdin",
    "copy %t from stdin; select count(*) from %t",
    "copy %t from stdin; copy %t from stdin",
];

/// What a client leaves behind for its own next transaction, and looks for.
const LEFT: [&str; 16] = [
    "set statement_timeout = '70s'",
    "set local statement_timeout = '71s'",
    "set lock_timeout = '72s'",
    "reset statement_timeout",
    "reset all",
    "show statement_timeout",
    "show lock_timeout",
    "set role dave",
    "reset role",
    "select current_user",
    "select set_config('my.x', 'y', false)",
    "select nullif(current_setting('my.x', true), '')",
    "create temp table if not exists mine (a int)",
    "drop table if exists mine",
    "select count(*) from pg_class where relname = 'mine' and relnamespace = pg_my_temp_schema()",
    "select pg_advisory_lock_shared(1)",
];

/// What only a client with a backend of its own may rely on.
const KEPT: [&str; 15] = [
    "create temp table tmp (x int)",
    "select count(*) from tmp",
    "drop table tmp",
    "listen c",
    "notify c, 'payload'",
    "unlisten *",
    "prepare a as select 'prepared'",
    "execute a",
    "deallocate a",
    "set statement_timeout = '70s'",
    "show statement_timeout",
    "select pg_advisory_lock(%n)",
    "select pg_advisory_unlock(%n)",
    "declare h cursor with hold for select 7",
    "fetch all from h",
];

/// Texts with a parameter.
const WITH_VALUE: [&str; 4] = [
    "select $1::text",
    "select $1::int",
    "insert into %t values (5, $1)",
    "select set_config('application_name', $1, false)",
];

/// Lines for COPY: right ones, wrong ones, and parts of them.
const DATA: [&str; 8] = [
    "1\tone\n",
    "2\ttwo\n3\tthree\n",
    "4\tfo",
    "ur\n",
    "nonsense\n",
    "200\ttoo much\n",
    "\\.\n",
    "",
];

/// What most of a script is about.
#[derive(Clone, Copy)]
enum Theme {
    Extended,
    Simple,
    Copy,
    Mixed,
}

/// Writes one script.
pub struct Author {
    dice: Dice,
    keeps: Keeps,
    theme: Theme,
    /// The table of each client; the first of those of this script.
    tables: Vec<usize>,
    used: BTreeSet<usize>,
}

/// Clients of one script at most.
const CLIENTS: usize = 2;
/// Connections of one client that have a table of their own. What a client has left behind when it
/// hung up may go on for a while.
const CONNECTIONS: usize = 4;
/// Scripts in a row that have other tables.
const SCRIPTS: usize = 8;
/// Tables there are.
pub const TABLES: usize = CLIENTS * CONNECTIONS * SCRIPTS;

/// Puts a Sync behind data behind a Sync, if the client would go on with something else.
///
/// LIMIT: whether a COPY of an Execute had failed before it came to the first Sync only the server knows,
/// and so whether it skips that. The proxy asks, but cannot before it forwards what was sent with it.
fn end_doubtful_segments<'a>(acts: impl Iterator<Item = &'a mut Act>) {
    let (mut may_copy, mut has_sync, mut is_doubtful) = (false, false, false);
    for act in acts {
        let What::Send { messages, .. } = &mut act.what else {
            (may_copy, has_sync, is_doubtful) = (false, false, false);
            continue;
        };
        let mut ended = Vec::new();
        for message in messages.drain(..) {
            match message {
                Message::Flush => {}
                Message::Sync => (has_sync, is_doubtful) = (may_copy, false),
                Message::CopyData(_) | Message::CopyDone | Message::CopyFail => {
                    is_doubtful = has_sync;
                }
                Message::Parse { .. }
                | Message::Bind { .. }
                | Message::DescribeStatement(_)
                | Message::DescribePortal(_)
                | Message::Execute { .. }
                | Message::CloseStatement(_)
                | Message::ClosePortal(_)
                | Message::Query(_)
                | Message::FunctionCall { .. } => {
                    if is_doubtful {
                        ended.push(Message::Sync);
                    }
                    may_copy |= matches!(message, Message::Execute { .. });
                    (has_sync, is_doubtful) = (false, false);
                }
            }
            ended.push(message);
        }
        *messages = ended;
    }
}

/// Has the unnamed portal be executed only where a Bind in front of it must have made it.
///
/// LIMIT: PostgreSQL 15 reads freed memory, and crashes now and then, when the unnamed portal is executed that
/// a Query has left behind which failed within a transaction (`exec_execute_message` looks at its statements,
/// which went with the Query).
fn leave_out_leftover_portals<'a>(acts: impl Iterator<Item = &'a mut Act>) {
    let mut is_bound = false;
    for act in acts {
        let What::Send { messages, .. } = &mut act.what else {
            is_bound = false;
            continue;
        };
        for message in messages {
            match message {
                Message::Bind { portal: "", .. } => is_bound = true,
                Message::Query(_) | Message::Sync => is_bound = false,
                Message::Execute { portal: portal @ "", .. } if !is_bound => *portal = "p",
                Message::Parse { .. }
                | Message::Bind { .. }
                | Message::DescribeStatement(_)
                | Message::DescribePortal(_)
                | Message::Execute { .. }
                | Message::CloseStatement(_)
                | Message::ClosePortal(_)
                | Message::FunctionCall { .. }
                | Message::CopyData(_)
                | Message::CopyDone
                | Message::CopyFail
                | Message::Flush => {}
            }
        }
    }
}

impl Author {
    /// The script of this seed for so many clients.
    pub fn write(seed: u64, keeps: Keeps, clients: usize) -> Script {
        let mut dice = Dice::new(seed);
        let theme = dice.pick(&[Theme::Extended, Theme::Simple, Theme::Copy, Theme::Mixed]);
        let clients = 1 + dice.roll(clients.min(CLIENTS));
        // Seeds of one setup are a multiple of the number of setups apart.
        let round = usize::try_from(seed).expect("64-bit") / SETUPS.len() % SCRIPTS;
        let first = |client| (round * CLIENTS + client) * CONNECTIONS;
        let tables = (0..clients).map(first).collect();
        let mut author = Self { dice, keeps, theme, tables, used: BTreeSet::new() };
        let mut acts: Vec<Act> =
            (0..2 + author.dice.roll(9)).map(|_| author.act(clients)).collect();
        for client in 0..clients {
            end_doubtful_segments(acts.iter_mut().filter(|act| act.client == client));
            leave_out_leftover_portals(acts.iter_mut().filter(|act| act.client == client));
        }
        Script { clients, tables: author.used, acts }
    }

    fn act(&mut self, clients: usize) -> Act {
        let client = self.dice.roll(clients);
        let what = match self.dice.roll(40) {
            0..=25 => {
                let messages = self.messages(client);
                let cuts = match self.dice.roll(4) {
                    0 => (0..=self.dice.roll(5)).map(|_| self.dice.roll(10_000)).collect(),
                    _ => Vec::new(),
                };
                What::Send { messages, cuts }
            }
            26..=31 => What::Await,
            32..=35 => What::Fence,
            36 => What::CancelRunning(self.dice.pick(&[Way::Simple, Way::Extended])),
            37 => What::CancelIdle,
            38 => What::Terminate,
            _ => What::HangUp,
        };
        let table = &mut self.tables[client];
        if matches!(what, What::HangUp) && !(*table + 1).is_multiple_of(CONNECTIONS) {
            *table += 1;
        }
        Act { client, what }
    }

    fn messages(&mut self, client: usize) -> Vec<Message> {
        let mut messages = Vec::new();
        for _ in 0..=self.dice.roll(4) {
            let theme = match self.theme {
                Theme::Mixed => self.dice.pick(&[Theme::Extended, Theme::Simple, Theme::Copy]),
                _ if self.dice.one_in(6) => {
                    self.dice.pick(&[Theme::Extended, Theme::Simple, Theme::Copy])
                }
                theme @ (Theme::Extended | Theme::Simple | Theme::Copy) => theme,
            };
            match theme {
                Theme::Extended => self.extended(client, &mut messages),
                Theme::Copy => self.copy(client, &mut messages),
                Theme::Simple | Theme::Mixed => {
                    let sql = self.text(client, true);
                    messages.push(Message::Query(sql));
                }
            }
        }
        messages
    }

    /// A text for either protocol.
    fn text(&mut self, client: usize, is_simple: bool) -> String {
        let text = match self.dice.roll(14) {
            12..=13 => self.dice.pick(&LEFT),
            0..=3 => self.dice.pick(&CONTROL),
            4..=5 if is_simple => self.dice.pick(&SEVERAL),
            6..=7 if self.keeps == Keeps::Session => self.dice.pick(&KEPT),
            8 if self.dice.one_in(3) => "",
            _ => self.dice.pick(&SINGLE),
        };
        self.fill_in(text, client)
    }

    fn fill_in(&mut self, text: &str, client: usize) -> String {
        let number = self.tables[client];
        if text.contains("%t") {
            self.used.insert(number);
        }
        text.replace("%t", &format!("s{number}")).replace("%n", &number.to_string())
    }

    /// A segment of the extended protocol, or a part of one.
    fn extended(&mut self, client: usize, messages: &mut Vec<Message>) {
        if self.dice.one_in(2) {
            self.whole_statement(client, messages);
        } else {
            for _ in 0..=self.dice.roll(5) {
                let message = self.extended_message(client);
                messages.push(message);
            }
        }
        match self.dice.roll(8) {
            0 => {}
            1 => messages.push(Message::Flush),
            _ => messages.push(Message::Sync),
        }
    }

    fn whole_statement(&mut self, client: usize, messages: &mut Vec<Message>) {
        let (name, portal) = (self.dice.name(), self.dice.portal());
        let has_value = self.dice.one_in(3);
        let sql = if has_value {
            let text = self.dice.pick(&WITH_VALUE);
            self.fill_in(text, client)
        } else {
            self.text(client, false)
        };
        let values = if has_value { vec![self.dice.pick(&["v", "17"])] } else { Vec::new() };
        if !self.dice.one_in(5) {
            if self.dice.one_in(3) {
                messages.push(Message::CloseStatement(name));
            }
            messages.push(Message::Parse { name, sql });
        }
        if self.dice.one_in(3) {
            messages.push(Message::DescribeStatement(name));
        }
        messages.push(Message::Bind { portal, name, values });
        if self.dice.one_in(2) {
            messages.push(Message::DescribePortal(portal));
        }
        messages.push(Message::Execute { portal, rows: self.dice.pick(&[0, 0, 0, 1, 2]) });
        if self.dice.one_in(6) {
            messages.push(Message::Execute { portal, rows: 0 });
        }
    }

    fn extended_message(&mut self, client: usize) -> Message {
        let (name, portal) = (self.dice.name(), self.dice.portal());
        match self.dice.roll(14) {
            0..=2 => Message::Parse { name, sql: self.text(client, false) },
            3..=4 => Message::Bind { portal, name, values: Vec::new() },
            5 => Message::Bind { portal, name, values: vec!["v"] },
            6 => Message::DescribeStatement(name),
            7 => Message::DescribePortal(portal),
            8..=9 => Message::Execute { portal, rows: self.dice.pick(&[0, 0, 2]) },
            10 => Message::CloseStatement(name),
            11 => Message::ClosePortal(portal),
            12 => Message::Flush,
            _ => self.call(),
        }
    }

    /// `int4pl`, `int4div`, or no function at all.
    fn call(&mut self) -> Message {
        let (oid, arguments) = self.dice.pick(&[
            (177, ["1", "2"]),
            (154, ["1", "0"]),
            (177, ["1", "x"]),
            (1, ["1", "2"]),
        ]);
        Message::FunctionCall { oid, arguments: arguments.to_vec() }
    }

    /// A COPY and what belongs to it, or a part of that.
    fn copy(&mut self, client: usize, messages: &mut Vec<Message>) {
        let text = self.dice.pick(&COPY);
        let sql = self.fill_in(text, client);
        let is_extended = self.dice.one_in(3) && !sql.contains(';');
        match self.dice.roll(8) {
            0 => {}
            _ if is_extended => {
                messages.push(Message::Parse { name: "", sql });
                messages.push(Message::Bind { portal: "", name: "", values: Vec::new() });
                messages.push(Message::Execute { portal: "", rows: 0 });
            }
            _ => messages.push(Message::Query(sql)),
        }
        for _ in 0..self.dice.roll(4) {
            messages.push(match self.dice.roll(20) {
                0 => Message::Sync,
                1 => Message::Flush,
                2 => self.extended_message(client),
                3 => Message::CopyDone,
                _ => Message::CopyData(self.dice.pick(&DATA)),
            });
        }
        match self.dice.roll(6) {
            0 => {}
            1 => messages.push(Message::CopyFail),
            _ => messages.push(Message::CopyDone),
        }
        if is_extended || self.dice.one_in(3) {
            messages.push(Message::Sync);
        }
    }
}
