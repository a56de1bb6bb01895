//! What a client leaves behind in the session of its backend, and how that is found out.
//!
//! A text says what may happen, not what has happened: it may fail, be skipped, be rolled back, or
//! wait in a prepared statement. So a text that may leave something only raises a doubt here. When
//! nothing is under way any more, and before the backend could go to somebody else, the server is
//! asked about what is in doubt; its answer is what holds. Parameters then go with the client
//! ([`ParamSet::carried`]); everything else keeps it at its backend ([`Pins`]), until an answer
//! says that it is gone.
//!
//! It costs a client that leaves nothing one [glance](sql::glance) at each of its texts. One that
//! does has its backend for the time of one more query, which it does not wait for.
//!
//! What a function does inside is not seen.

use std::sync::Arc;

use crate::backend::params::{self, Param, ParamSet};
use crate::config::SessionState;
use crate::fault::{Fault, SqlState};
use crate::pool::ledger::{Bound, Place};
use crate::session::channels::{self, Channels, Heard, Name, Notification};
use crate::session::pins::Pins;
use crate::sql::{
    self, Action, Class, Dialect, Discard, Glance, Scope, Setting, Target, Traces, Verb,
};
use crate::wire::cursor::{Cursor, Malformed};

/// Most parameters that go with a client. LIMIT: one that sets more keeps its backend.
const CARRIED_MAX: usize = 64;

/// Most bytes of names and values that go with a client. LIMIT: as above.
const CARRIED_BYTES_MAX: usize = 16 << 10;

/// Parameters that SET CHARACTERISTICS sets.
const CHARACTERISTICS: [&[u8]; 3] = [
    b"default_transaction_deferrable",
    b"default_transaction_isolation",
    b"default_transaction_read_only",
];

/// What a server can be asked about.
const ASKABLE: [(Pins, &str); 4] = [
    (
        Pins::LOCK,
        "pg_catalog.pg_locks l WHERE l.locktype OPERATOR(pg_catalog.=) 'advisory' \
         AND l.pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid()",
    ),
    // 2615 is pg_namespace. Everything in the schema depends on it.
    (
        Pins::TEMPORARY,
        "pg_catalog.pg_depend d WHERE d.refclassid OPERATOR(pg_catalog.=) 2615 \
         AND d.refobjid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()",
    ),
    (Pins::CURSOR, "pg_catalog.pg_cursors c WHERE c.is_holdable"),
    (Pins::PREPARE, "pg_catalog.pg_prepared_statements p WHERE p.from_sql"),
];

/// What a row about a channel is called.
const CHANNEL: &[u8] = b"c";

/// What the row is called that says whether a take-over has held.
const TAKEN: &[u8] = b"t";

/// What one client has left, or may have left, at its backend.
#[derive(Debug)]
pub struct State {
    /// Why it keeps its backend.
    pub pins: Pins,
    rules: SessionState,
    /// How many clients of its pool may be pinned at a time.
    bound: Option<Arc<Bound>>,
    /// Its place among them.
    place: Option<Place>,
    doubts: Option<Box<Doubts>>,
    asked: Option<Box<Asked>>,
    /// The channels it listens to, where they are handed over.
    channels: Option<Box<Channels>>,
    /// Channels are handed over to the shared listener of the database.
    shares_channels: bool,
    /// Something ran that no question is sure to find: nobody else gets the backend as it is.
    is_unseen: bool,
    /// What it runs, or has bound, may drop prepared statements of its own.
    may_deallocate: bool,
}

/// What is not known before the server is asked.
#[derive(Debug, Default)]
struct Doubts {
    pins: Pins,
    /// Parameters, by their names in lower case.
    names: Vec<Box<[u8]>>,
    /// They may have their defaults again.
    is_reset: bool,
    /// Any parameter may have been set.
    is_any: bool,
    /// There are more names than are kept.
    has_too_many: bool,
}

impl Doubts {
    fn add(&mut self, name: Box<[u8]>) {
        if self.names.contains(&name) {
            return;
        }
        if self.names.len() < CARRIED_MAX {
            self.names.push(name);
        } else {
            self.has_too_many = true;
        }
    }
}

/// A parameter, and its value unless it is the default.
type Answer = (Box<[u8]>, Option<Box<[u8]>>);

/// What the server was asked, and has answered so far.
#[derive(Debug)]
struct Asked {
    pins: Pins,
    found: Pins,
    values: Vec<Answer>,
    /// The channels that the backend listens to.
    channels: Vec<Name>,
    /// A take-over of channels has outlived its transaction.
    has_taken: bool,
    has_failed: bool,
}

impl Default for State {
    fn default() -> Self {
        Self::new(SessionState::Track, None)
    }
}

impl State {
    /// Starts with nothing.
    pub fn new(rules: SessionState, bound: Option<Arc<Bound>>) -> Self {
        let pins = Pins::default();
        Self {
            pins,
            rules,
            bound,
            place: None,
            doubts: None,
            asked: None,
            channels: None,
            shares_channels: false,
            is_unseen: false,
            may_deallocate: false,
        }
    }

    /// Has channels handed over to the shared listener of the database, if session state is tracked.
    #[must_use]
    pub fn sharing_channels(mut self) -> Self {
        self.shares_channels = self.rules == SessionState::Track;
        self
    }

    /// Returns the channels that it listens to, where they are handed over.
    pub fn channels(&self) -> Option<&Channels> {
        self.channels.as_deref()
    }

    /// Returns them, to be changed.
    pub fn channels_mut(&mut self) -> Option<&mut Channels> {
        self.channels.as_deref_mut()
    }

    /// The backend will not listen any more: it keeps the client no longer.
    pub fn release_channels(&mut self) {
        self.pins.remove(Pins::LISTEN);
        if self.pins.is_empty() && self.doubts.is_none() {
            self.place = None;
        }
    }

    /// Forgets the channels if there are none any more.
    pub fn drop_channels_if_over(&mut self) {
        if self.channels().is_some_and(Channels::is_over) {
            self.channels = None;
        }
    }

    /// Says what becomes of a notification that the backend sends.
    pub fn hear(&mut self, body: &[u8]) -> Heard {
        let heard = self.channels.as_mut().map_or(Heard::Forward, |channels| channels.hear(body));
        if self.pins.has(Pins::LISTEN) { heard } else { Heard::Drop }
    }

    /// Says whether notifications of the backend must be looked into.
    pub fn has_channels(&self) -> bool {
        self.channels.is_some()
    }

    /// Says whether all is known that may have been left.
    pub fn is_settled(&self) -> bool {
        self.doubts.is_none() && self.asked.is_none()
    }

    /// Says whether the client surely has left nothing.
    pub fn is_clean(&self) -> bool {
        let has_channels = self.channels().is_some_and(Channels::is_backend_used);
        self.pins.is_empty() && self.is_settled() && !self.is_unseen && !has_channels
    }

    /// Says whether the backend must be reset before anybody else gets it, although nothing keeps
    /// the client there; the caller resets it.
    pub fn take_unseen(&mut self) -> bool {
        std::mem::take(&mut self.is_unseen)
    }

    /// Says whether what is under way may drop prepared statements of the client.
    pub fn may_deallocate(&self) -> bool {
        self.may_deallocate
    }

    /// Notes that nothing is under way.
    pub fn nothing_deallocates(&mut self) {
        self.may_deallocate = false;
    }

    /// Says whether the server has been asked, and has not answered yet.
    pub fn is_asking(&self) -> bool {
        self.asked.is_some()
    }

    /// Looks at a text that the client is about to run.
    ///
    /// # Errors
    /// Why it must not: 0A000 where session state is refused, 53300 where too many clients of the
    /// pool are pinned already.
    pub fn inspect(&mut self, text: &[u8], params: &ParamSet) -> Result<(), Fault> {
        if sql::glance(text) != Glance::Unclear {
            return Ok(());
        }
        let dialect = params.lexical();
        let known =
            self.pins.and(self.doubts.as_ref().map(|doubts| doubts.pins).unwrap_or_default());
        let shares = self.shares_channels;
        let mut look = Look { params, dialect, known, shares, ..Look::new(params) };
        for part in sql::statements(text, dialect) {
            look.at(part.text, &sql::classify(part.text, dialect));
        }
        self.admit(look)
    }

    /// Says whether the backend must be made to listen in front of a text that the client is about
    /// to run.
    pub fn taking(&self, text: &[u8], params: &ParamSet) -> Taking {
        let is_shared = self.channels().is_some_and(Channels::is_shared);
        if !is_shared || sql::glance(text) != Glance::Unclear {
            return Taking::Nothing;
        }
        let dialect = params.lexical();
        let unlistens = |part: sql::Part<'_>| {
            matches!(sql::classify(part.text, dialect).action, Action::Unlisten(_))
        };
        let parts = sql::statements(text, dialect);
        match (parts.clone().any(unlistens), parts.count()) {
            (false, _) => Taking::Nothing,
            (true, 0 | 1) => Taking::Anywhere,
            (true, _) => Taking::InFront,
        }
    }

    /// Writes what makes the backend listen to what the client listens to.
    pub fn take_channels(&mut self) -> Option<Vec<u8>> {
        let sql = self.channels_mut().map(Channels::take)?;
        self.doubts.get_or_insert_default().pins.add(Pins::LISTEN);
        Some(sql)
    }

    /// Notes that something runs whose text was not seen.
    pub fn doubt_everything(&mut self) {
        self.is_unseen = true;
        self.may_deallocate = true;
        let doubts = self.doubts.get_or_insert_default();
        doubts.pins.add(askable());
        doubts.is_any = true;
        doubts.is_reset = true;
    }

    fn admit(&mut self, look: Look<'_>) -> Result<(), Fault> {
        if let Some(what) = look.left.filter(|_| self.rules == SessionState::Reject) {
            return Err(refused(what));
        }
        let is_pin = look.is_pin || (look.left.is_some() && self.rules == SessionState::Pin);
        if is_pin
            && self.place.is_none()
            && let Some(bound) = &self.bound
        {
            self.place = Some(bound.place().ok_or_else(|| too_many(bound))?);
        }
        self.may_deallocate |= look.may_deallocate;
        self.pins.add(look.pins);
        let found = look.doubts;
        let is_nothing = found.pins.is_empty() && found.names.is_empty() && !found.is_any;
        if is_nothing && self.doubts.is_none() {
            return Ok(());
        }
        let doubts = self.doubts.get_or_insert_default();
        doubts.pins.add(found.pins);
        doubts.is_reset |= found.is_reset;
        doubts.is_any |= found.is_any;
        doubts.has_too_many |= found.has_too_many;
        for name in found.names {
            doubts.add(name);
        }
        if doubts.has_too_many {
            self.pins.add(Pins::PARAMETER);
        }
        Ok(())
    }

    /// Writes what to ask the server at rest; nothing if there is no doubt.
    pub fn question(&mut self, params: &ParamSet) -> Option<Vec<u8>> {
        let doubts = *self.doubts.take()?;
        let mut sql = Vec::new();
        for (pin, rows) in ASKABLE.iter().filter(|(pin, _)| doubts.pins.has(*pin)) {
            let exists = format!(
                "SELECT '{}'::pg_catalog.text, ''::pg_catalog.text, ''::pg_catalog.text, \
                 ''::pg_catalog.text WHERE EXISTS (SELECT FROM {rows})",
                number(*pin)
            );
            union(&mut sql, exists.as_bytes());
        }
        if doubts.pins.has(Pins::LISTEN) {
            union(
                &mut sql,
                b"SELECT 'c', l.name, '', '' FROM pg_catalog.pg_listening_channels() l(name)",
            );
            if self.channels_mut().is_some_and(Channels::ask_if_taken) {
                let taken = channels::TAKEN;
                let value =
                    format!("SELECT 't', pg_catalog.current_setting('{taken}', true), '', ''");
                union(&mut sql, value.as_bytes());
            }
        }
        let carried = params.carried().iter().filter(|_| doubts.is_reset || doubts.is_any);
        let mut names: Vec<&[u8]> = doubts.names.iter().map(|name| &**name).collect();
        names.extend(carried.map(|(name, _)| &**name));
        if doubts.is_any {
            names.push(b"role");
            union(
                &mut sql,
                b"SELECT 's', pg_catalog.lower(s.name), pg_catalog.current_setting(s.name), s.source \
                  FROM pg_catalog.pg_settings s WHERE s.source OPERATOR(pg_catalog.=) 'session'",
            );
        }
        if !names.is_empty() {
            let source: &[u8] = if doubts.is_reset || doubts.is_any {
                b"(SELECT s.source FROM pg_catalog.pg_settings s WHERE pg_catalog.lower(s.name) \
                  OPERATOR(pg_catalog.=) v.n)"
            } else {
                b"'session'"
            };
            let mut values: Vec<u8> =
                b"SELECT 's', v.n, pg_catalog.current_setting(v.n, true), ".into();
            values.extend_from_slice(source);
            values.extend_from_slice(b" FROM (VALUES ");
            for (at, name) in names.iter().enumerate() {
                values.extend_from_slice(if at > 0 { b", (" } else { b"(" });
                params::write_literal(&mut values, name);
                values.extend_from_slice(b"::pg_catalog.text)");
            }
            values.extend_from_slice(b") v(n)");
            union(&mut sql, &values);
        }
        let (pins, found) = (doubts.pins, Pins::default());
        self.asked = Some(Box::new(Asked {
            pins,
            found,
            values: Vec::new(),
            channels: Vec::new(),
            has_taken: false,
            has_failed: false,
        }));
        Some(sql)
    }

    /// Takes a row of the answer, the body of a DataRow.
    pub fn answer(&mut self, row: &[u8]) {
        let Some(asked) = self.asked.as_mut() else { return };
        match columns(row) {
            Ok([Some(b"s"), Some(name), value, source]) => {
                let is_default = match source {
                    Some(source) => source != b"session",
                    // It is in no list: a parameter of an application, or the role.
                    None => matches!(value, None | Some(b"" | b"none")),
                };
                let value = value.filter(|_| !is_default).map(Box::from);
                asked.values.push((name.into(), value));
            }
            Ok([Some(CHANNEL), Some(name), ..]) => {
                asked.found.add(Pins::LISTEN);
                asked.channels.push(name.into());
            }
            Ok([Some(TAKEN), value, ..]) => asked.has_taken = value == Some(b"1"),
            Ok([Some(kind), ..]) => {
                let of_kind = ASKABLE.iter().find(|(pin, _)| number(*pin).as_bytes() == kind);
                asked.found.add(of_kind.map_or(Pins::UNKNOWN, |(pin, _)| *pin));
            }
            Ok(_) | Err(_) => asked.has_failed = true,
        }
    }

    /// Notes that the server did not answer the question.
    pub fn answer_failed(&mut self) {
        if let Some(asked) = self.asked.as_mut() {
            asked.has_failed = true;
        }
    }

    /// Draws the conclusions of an answer that is complete; returns the parameters with what is
    /// carried now. What the client must be sent because of it is added to `rest`.
    pub fn settle(
        &mut self,
        params: &ParamSet,
        rest: &mut Vec<Arc<Notification>>,
    ) -> Option<ParamSet> {
        let mut asked = *self.asked.take()?;
        if asked.has_failed {
            self.pins.add(Pins::UNKNOWN);
        } else {
            self.pins = self.pins.without(asked.pins).and(asked.found);
        }
        if asked.pins.has(Pins::LISTEN) && !asked.has_failed {
            let found = std::mem::take(&mut asked.channels);
            if self.shares_channels && (self.channels.is_some() || !found.is_empty()) {
                let channels = self.channels.get_or_insert_default();
                rest.extend(channels.conclude(found, asked.has_taken));
            }
        }
        let mut carried: Vec<Param> = params.carried().to_vec();
        for (name, value) in asked.values {
            if params.value(&name).is_some() || is_of_transaction(&name) {
                continue;
            }
            if value.is_some() && self.rules != SessionState::Track {
                self.pins.add(Pins::PARAMETER);
                continue;
            }
            carried.retain(|(known, _)| *known != name);
            carried.extend(value.map(|value| (name, value)));
        }
        let bytes: usize = carried.iter().map(|(name, value)| name.len() + value.len()).sum();
        if carried.len() > CARRIED_MAX || bytes > CARRIED_BYTES_MAX {
            self.pins.add(Pins::PARAMETER);
            carried.clear();
        }
        if self.pins.is_empty() {
            if self.doubts.is_none() {
                self.place = None;
            }
        } else if self.place.is_none() {
            // Nobody could see it come: it may be one too many.
            self.place = self.bound.as_ref().and_then(Bound::place);
        }
        (carried != params.carried()).then(|| params.carrying(carried))
    }

    /// Notes that the server has discarded all that a session can discard.
    pub fn discarded_all(&mut self) {
        self.pins = if self.pins.has(Pins::LASTING) { Pins::LASTING } else { Pins::default() };
        if let Some(channels) = self.channels_mut() {
            channels.discard();
        }
    }
}

/// Whether the backend must be made to listen in front of a text that may UNLISTEN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taking {
    /// No: it does not, or the client does not listen.
    Nothing,
    /// Yes.
    Anywhere,
    /// Yes, but not within a transaction: the text may end that, or go back in it, first.
    InFront,
}

/// A look at the statements of one text.
struct Look<'a> {
    params: &'a ParamSet,
    dialect: Dialect,
    /// What is left already, or may be.
    known: Pins,
    doubts: Doubts,
    /// What holds from now on, whatever the server says.
    pins: Pins,
    /// What it would leave first, in words.
    left: Option<&'static str>,
    /// What it would leave keeps the client at its backend.
    is_pin: bool,
    /// Channels are handed over, and keep nobody at a backend.
    shares: bool,
    /// It may drop prepared statements.
    may_deallocate: bool,
}

impl<'a> Look<'a> {
    fn new(params: &'a ParamSet) -> Self {
        Self {
            params,
            dialect: Dialect::default(),
            known: Pins::default(),
            doubts: Doubts::default(),
            pins: Pins::default(),
            left: None,
            is_pin: false,
            shares: false,
            may_deallocate: false,
        }
    }

    fn at(&mut self, text: &[u8], class: &Class<'_>) {
        match class.action {
            Action::Set(setting) => self.set(&setting, text),
            Action::Discard(Discard::All) => {
                // It may fail: the other reasons go when it has not.
                self.doubts.pins.add(self.known.within(askable()));
                self.reset_all();
                self.may_deallocate = true;
            }
            Action::Discard(Discard::Temporary) => self.takes_back(Pins::TEMPORARY),
            Action::Prepare(_) => {
                self.leaves("a prepared statement", Pins::PREPARE);
                if !class.traces.is_none() {
                    // It does so whenever it is executed.
                    self.pins.add(Pins::UNKNOWN);
                }
            }
            Action::Deallocate(_) => {
                self.takes_back(Pins::PREPARE);
                self.may_deallocate = true;
            }
            Action::Listen(_) if self.shares => self.doubts.pins.add(Pins::LISTEN),
            Action::Listen(_) => self.leaves("a channel that is listened to", Pins::LISTEN),
            Action::Unlisten(_) => self.takes_back(Pins::LISTEN),
            Action::Declare { is_holding: true, .. } => {
                self.leaves("a cursor WITH HOLD", Pins::CURSOR);
            }
            Action::Close(_) => self.takes_back(Pins::CURSOR),
            Action::Define(definition) if definition.verb == Verb::Drop => {
                self.takes_back(Pins::TEMPORARY);
            }
            Action::Nothing
            | Action::Transaction(_)
            | Action::Discard(Discard::Plans | Discard::Sequences)
            | Action::Execute(_)
            | Action::Notify
            | Action::Declare { .. }
            | Action::Fetch
            | Action::Load
            | Action::Lock
            | Action::Define(_)
            | Action::Copy
            | Action::Truncate
            | Action::Maintain { .. }
            | Action::Run
            | Action::Select
            | Action::Change
            | Action::Show
            | Action::Other => {}
        }
        self.traces(text, class.traces);
    }

    fn traces(&mut self, text: &[u8], traces: Traces) {
        if traces.has(Traces::SETTING) || traces.has(Traces::HIDDEN) {
            match sql::settings_of(text, self.dialect) {
                Some(names) => names.into_iter().for_each(|name| self.parameter(name)),
                None => self.stays("a parameter", Pins::UNKNOWN),
            }
        }
        if traces.has(Traces::HIDDEN) {
            self.doubts.pins.add(askable());
            self.doubts.is_any = true;
        }
        if traces.has(Traces::LOCK) {
            self.leaves("an advisory lock", Pins::LOCK);
        }
        if traces.has(Traces::UNLOCK) {
            self.takes_back(Pins::LOCK);
        }
        if traces.has(Traces::TEMPORARY) {
            self.leaves("a temporary object", Pins::TEMPORARY);
        }
        if traces.has(Traces::LASTING) {
            self.stays("what only its end takes back", Pins::LASTING);
        }
    }

    fn set(&mut self, setting: &Setting<'_>, text: &[u8]) {
        if setting.scope == Scope::Local {
            return;
        }
        match setting.target {
            Target::Parameter(_) => {
                let name = setting.target.parameter().unwrap_or_default();
                if setting.value == sql::Value::Default {
                    self.reset(name);
                } else {
                    let makes_temporary = name.eq_ignore_ascii_case(b"search_path")
                        && text.windows(7).any(|part| part.eq_ignore_ascii_case(b"pg_temp"));
                    if makes_temporary {
                        // No statement would say any more that what it makes is temporary.
                        self.stays("a search_path with pg_temp", Pins::UNKNOWN);
                    }
                    self.parameter(name);
                }
            }
            Target::All => self.reset_all(),
            Target::Characteristics => {
                for name in CHARACTERISTICS {
                    self.parameter(name.to_vec());
                }
            }
            Target::Transaction | Target::Constraints => {}
        }
    }

    /// A parameter that may be set.
    fn parameter(&mut self, mut name: Vec<u8>) {
        name.make_ascii_lowercase();
        if name == b"seed" {
            return self.stays("the seed of random()", Pins::LASTING);
        }
        if name == b"standard_conforming_strings" || name == b"client_encoding" {
            // What is sent before the server reports it may be read wrongly.
            self.doubts.pins.add(askable());
            self.doubts.is_any = true;
        }
        let is_tracked = self.params.value(&name).is_some() || params::is_fact(&name);
        if !is_tracked && !is_of_transaction(&name) {
            self.left = self.left.or(Some("a parameter"));
            self.doubts.add(name.into());
        }
    }

    /// A parameter that may have its default again.
    fn reset(&mut self, mut name: Vec<u8>) {
        name.make_ascii_lowercase();
        if self.params.value(&name).is_none() && !is_of_transaction(&name) {
            self.doubts.is_reset = true;
            self.doubts.add(name.into());
        }
    }

    /// All parameters may have their defaults again.
    fn reset_all(&mut self) {
        self.doubts.is_reset = true;
        for (name, _) in self.params.carried() {
            self.doubts.add(name.clone());
        }
    }

    /// Something is left that the server can be asked about.
    fn leaves(&mut self, what: &'static str, pin: Pins) {
        self.left = self.left.or(Some(what));
        self.is_pin = true;
        self.doubts.pins.add(pin);
    }

    /// Something is left that the server cannot be asked about.
    fn stays(&mut self, what: &'static str, pin: Pins) {
        self.left = self.left.or(Some(what));
        self.is_pin = true;
        self.pins.add(pin);
    }

    /// Something may be gone, if it was ever there.
    fn takes_back(&mut self, pin: Pins) {
        if self.known.and(self.doubts.pins).has(pin) {
            self.doubts.pins.add(pin);
        }
    }
}

/// Says whether a parameter never outlives its transaction.
fn is_of_transaction(name: &[u8]) -> bool {
    name.starts_with(b"transaction_") && name != b"transaction_timeout"
}

fn askable() -> Pins {
    ASKABLE.iter().fold(Pins::LISTEN, |pins, (pin, _)| pins.and(*pin))
}

/// What a row about this is called.
fn number(pin: Pins) -> String {
    ASKABLE.iter().position(|(known, _)| *known == pin).unwrap_or_default().to_string()
}

fn union(sql: &mut Vec<u8>, query: &[u8]) {
    if !sql.is_empty() {
        sql.extend_from_slice(b" UNION ALL ");
    }
    sql.extend_from_slice(query);
}

/// Reads the four columns of a row.
fn columns(row: &[u8]) -> Result<[Option<&[u8]>; 4], Malformed> {
    let mut cursor = Cursor::new(row);
    let count = cursor.i16()?;
    let mut columns = [None; 4];
    for column in columns.iter_mut().take(usize::try_from(count).unwrap_or(0)) {
        *column = match usize::try_from(cursor.i32()?) {
            Ok(length) => Some(cursor.bytes(length)?),
            Err(_) => None,
        };
    }
    cursor.finish()?;
    Ok(columns)
}

fn refused(what: &str) -> Fault {
    let message = format!("session state is not supported here: the statement would leave {what}");
    Fault::error(SqlState::FEATURE_NOT_SUPPORTED, message).with_hint(
        "Use what ends with the transaction, such as SET LOCAL, pg_advisory_xact_lock or ON COMMIT \
         DROP, or a pool with pool_mode = \"session\".",
    )
}

fn too_many(bound: &Bound) -> Fault {
    let limit = bound.limit().unwrap_or_default();
    let message = format!("too many sessions keep their server connection ({limit})");
    Fault::error(SqlState::TOO_MANY_CONNECTIONS, message).with_hint(
        "max_pinned_connections bounds how many may have session state such as temporary tables, \
         LISTEN or advisory locks at a time.",
    )
}
