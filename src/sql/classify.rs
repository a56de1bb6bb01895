//! What one statement does.
//!
//! Source: PostgreSQL `gram.y` (`stmt`), `utility.c` (`standard_ProcessUtility`).

use super::calls::{self, Traces};
use super::definition::{Definition, Object, Temporary, Verb};
use super::glance::{Glance, glance};
use super::lexer::{Dialect, Kind, Lexer};
use super::name::Name;
use super::setting::Setting;
use super::split::statements;

/// A statement by what it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class<'a> {
    /// What it is.
    pub action: Action<'a>,
    /// What it may leave behind beside that.
    pub traces: Traces,
}

/// What a statement is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action<'a> {
    /// There is none.
    Nothing,
    /// It begins, ends or divides a transaction.
    Transaction(Transaction<'a>),
    /// SET, RESET.
    Set(Setting<'a>),
    /// DISCARD.
    Discard(Discard),
    /// PREPARE of a statement, by its name.
    Prepare(Name<'a>),
    /// EXECUTE, also behind EXPLAIN ANALYZE.
    Execute(Name<'a>),
    /// DEALLOCATE.
    Deallocate(Names<'a>),
    /// LISTEN to a channel.
    Listen(Name<'a>),
    /// UNLISTEN.
    Unlisten(Names<'a>),
    /// NOTIFY.
    Notify,
    /// DECLARE a cursor.
    Declare {
        /// Its name.
        name: Name<'a>,
        /// WITH HOLD: it outlives its transaction.
        is_holding: bool,
    },
    /// CLOSE a cursor.
    Close(Names<'a>),
    /// FETCH, MOVE.
    Fetch,
    /// LOAD of a library.
    Load,
    /// LOCK TABLE.
    Lock,
    /// It changes what there is in the database.
    Define(Definition<'a>),
    /// COPY, in either direction.
    Copy,
    /// TRUNCATE.
    Truncate,
    /// VACUUM, ANALYZE, CLUSTER, REINDEX, CHECKPOINT.
    Maintain {
        /// It cannot be part of a transaction block.
        is_alone: bool,
    },
    /// DO, CALL: what runs is in there.
    Run,
    /// SELECT, VALUES, TABLE, and WITH before any of those that follow.
    Select,
    /// INSERT, UPDATE, DELETE, MERGE.
    Change,
    /// SHOW, or EXPLAIN that does not run the statement.
    Show,
    /// Something that is not known here.
    Other,
}

/// A statement of transaction control.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transaction<'a> {
    /// BEGIN, START TRANSACTION.
    Begin,
    /// COMMIT, END.
    Commit {
        /// AND CHAIN: another transaction begins.
        is_chained: bool,
    },
    /// ROLLBACK, ABORT.
    Rollback {
        /// AND CHAIN: another transaction begins.
        is_chained: bool,
    },
    /// SAVEPOINT.
    Savepoint(Name<'a>),
    /// RELEASE.
    Release(Name<'a>),
    /// ROLLBACK TO.
    RollbackTo(Name<'a>),
    /// PREPARE TRANSACTION.
    Prepare,
    /// COMMIT PREPARED.
    CommitPrepared,
    /// ROLLBACK PREPARED.
    RollbackPrepared,
}

/// What is discarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is named as in PostgreSQL")]
pub enum Discard {
    All,
    Plans,
    Sequences,
    Temporary,
}

/// One name, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Names<'a> {
    /// This one.
    One(Name<'a>),
    /// All there are.
    All,
}

/// Says what a statement does. It has no semicolon, or one at its end.
pub fn classify(text: &[u8], dialect: Dialect) -> Class<'_> {
    let mut tokens = Lexer::new(text, dialect);
    let explained = explain(&mut tokens);
    if explained == Explained::Planned {
        return Class { action: Action::Show, traces: Traces::NONE };
    }
    let all = tokens;
    let action = action(text, &mut tokens);
    Class { action, traces: traces(text, &action, all) }
}

/// Says whether nothing of a query is about the state of its session: then it needs no look when it
/// is used.
pub fn is_plain(query: &[u8], dialect: Dialect) -> bool {
    glance(query) != Glance::Unclear
        || statements(query, dialect).all(|part| {
            let class = classify(part.text, dialect);
            class.traces.is_none() && !class.action.is_about_session()
        })
}

impl Action<'_> {
    fn is_about_session(&self) -> bool {
        match self {
            Self::Set(_)
            | Self::Discard(_)
            | Self::Prepare(_)
            | Self::Deallocate(_)
            | Self::Listen(_)
            | Self::Unlisten(_)
            | Self::Declare { .. }
            | Self::Close(_)
            | Self::Load => true,
            // Dropping a temporary object takes it back.
            Self::Define(definition) => definition.verb == Verb::Drop,
            Self::Nothing
            | Self::Transaction(_)
            | Self::Execute(_)
            | Self::Notify
            | Self::Fetch
            | Self::Lock
            | Self::Copy
            | Self::Truncate
            | Self::Maintain { .. }
            | Self::Run
            | Self::Select
            | Self::Change
            | Self::Show
            | Self::Other => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Explained {
    /// There is no EXPLAIN, or one that runs the statement.
    Run,
    Planned,
}

/// Takes EXPLAIN and its options.
fn explain(tokens: &mut Lexer<'_>) -> Explained {
    if !tokens.accept("explain") {
        return Explained::Run;
    }
    let mut is_run = false;
    let mut in_parentheses = *tokens;
    // EXPLAIN (SELECT …) has no options.
    if in_parentheses.accept_symbol(b'(')
        && !in_parentheses
            .peek()
            .is_some_and(|next| ["select", "with", "values", "table"].iter().any(|w| next.is(w)))
        && in_parentheses.peek().is_some_and(|next| next.kind != Kind::Symbol(b'('))
    {
        while let Some(option) = in_parentheses.next() {
            if option.kind == Kind::Symbol(b')') {
                break;
            }
            if option.is("analyze") || option.is("analyse") || option.kind != Kind::Word {
                is_run |= !is_switched_off(in_parentheses) && option.kind != Kind::Symbol(b',');
            }
        }
        *tokens = in_parentheses;
    } else {
        is_run = tokens.accept_any(&["analyze", "analyse"]);
        tokens.accept("verbose");
    }
    if is_run { Explained::Run } else { Explained::Planned }
}

fn is_switched_off(mut tokens: Lexer<'_>) -> bool {
    tokens.accept_any(&["off", "false"])
        || tokens.next().is_some_and(|value| {
            value.text == b"0" || value.text == b"'off'" || value.text == b"'false'"
        })
}

fn action<'a>(text: &'a [u8], tokens: &mut Lexer<'a>) -> Action<'a> {
    let Some(first) = tokens.next() else { return Action::Nothing };
    match first.kind {
        Kind::Word => {}
        Kind::Symbol(b'(') => return select(text, *tokens),
        Kind::Symbol(b';') => return Action::Nothing,
        _ => return Action::Other,
    }
    let mut word = [0_u8; 10];
    let Some(letters) = word.get_mut(..first.text.len()) else { return Action::Other };
    letters.copy_from_slice(first.text);
    letters.make_ascii_lowercase();
    let letters = &*letters;
    transaction(letters, tokens)
        .map(Action::Transaction)
        .or_else(|| session(letters, text, tokens))
        .or_else(|| definition(letters, text, tokens).map(Action::Define))
        .unwrap_or_else(|| other(letters, text, *tokens))
}

fn transaction<'a>(first: &[u8], tokens: &mut Lexer<'a>) -> Option<Transaction<'a>> {
    Some(match first {
        b"begin" => Transaction::Begin,
        b"start" if tokens.accept("transaction") => Transaction::Begin,
        b"commit" if tokens.accept("prepared") => Transaction::CommitPrepared,
        b"commit" | b"end" => Transaction::Commit { is_chained: is_chained(tokens) },
        b"rollback" if tokens.accept("prepared") => Transaction::RollbackPrepared,
        b"rollback" | b"abort" => {
            tokens.accept_any(&["work", "transaction"]);
            if tokens.accept("to") {
                tokens.accept("savepoint");
                Transaction::RollbackTo(name(tokens)?)
            } else {
                Transaction::Rollback { is_chained: is_chained(tokens) }
            }
        }
        b"savepoint" => Transaction::Savepoint(name(tokens)?),
        b"release" => {
            let mut behind = *tokens;
            // A savepoint may have the name "savepoint".
            if behind.accept("savepoint") && behind.peek().is_some() {
                *tokens = behind;
            }
            Transaction::Release(name(tokens)?)
        }
        b"prepare" if tokens.accept("transaction") => Transaction::Prepare,
        _ => return None,
    })
}

/// Reads `[WORK | TRANSACTION] [AND [NO] CHAIN]`.
fn is_chained(tokens: &mut Lexer<'_>) -> bool {
    tokens.accept_any(&["work", "transaction"]);
    tokens.accept("and") && tokens.accept("chain")
}

/// Reads statements about the state of a session.
fn session<'a>(first: &[u8], text: &'a [u8], tokens: &mut Lexer<'a>) -> Option<Action<'a>> {
    Some(match first {
        b"set" => Action::Set(Setting::set(text, *tokens)),
        b"reset" => Action::Set(Setting::reset(text, *tokens)),
        b"discard" => Action::Discard(discard(tokens)?),
        b"prepare" => Action::Prepare(name(tokens)?),
        b"execute" => Action::Execute(name(tokens)?),
        b"deallocate" => {
            let mut behind = *tokens;
            // A statement may have the name "prepare".
            if behind.accept("prepare") && behind.peek().is_some() {
                *tokens = behind;
            }
            Action::Deallocate(names(tokens)?)
        }
        b"listen" => Action::Listen(name(tokens)?),
        b"unlisten" if tokens.accept_symbol(b'*') => Action::Unlisten(Names::All),
        b"unlisten" => Action::Unlisten(Names::One(name(tokens)?)),
        b"notify" => Action::Notify,
        b"declare" => {
            let name = name(tokens)?;
            Action::Declare { name, is_holding: is_holding(*tokens) }
        }
        b"close" => Action::Close(names(tokens)?),
        b"fetch" | b"move" => Action::Fetch,
        b"load" => Action::Load,
        b"lock" => Action::Lock,
        _ => return None,
    })
}

fn discard(tokens: &mut Lexer<'_>) -> Option<Discard> {
    if tokens.accept("all") {
        Some(Discard::All)
    } else if tokens.accept("plans") {
        Some(Discard::Plans)
    } else if tokens.accept("sequences") {
        Some(Discard::Sequences)
    } else if tokens.accept_any(&["temp", "temporary"]) {
        Some(Discard::Temporary)
    } else {
        None
    }
}

/// Reads to the FOR of a DECLARE.
fn is_holding(mut tokens: Lexer<'_>) -> bool {
    tokens.by_ref().take_while(|token| !token.is("for")).any(|token| token.is("with"))
}

fn definition<'a>(first: &[u8], text: &'a [u8], tokens: &mut Lexer<'a>) -> Option<Definition<'a>> {
    let tokens = *tokens;
    let behind = |word: &str| {
        let mut behind = tokens;
        behind.accept(word).then_some(behind)
    };
    Some(match first {
        b"create" => Definition::create(text, tokens),
        b"alter" => Definition::change(text, Verb::Alter, tokens),
        b"drop" => Definition::change(text, Verb::Drop, tokens),
        b"comment" => Definition::change(text, Verb::Describe, behind("on")?),
        b"security" => Definition::of(text, Verb::Describe, Object::Other, tokens),
        b"grant" | b"revoke" => Definition::of(text, Verb::Permit, Object::Other, tokens),
        b"reassign" => Definition::of(text, Verb::Reassign, Object::Owned, tokens),
        b"refresh" => Definition::change(text, Verb::Refresh, tokens),
        b"import" => Definition::of(text, Verb::Import, Object::ForeignTable, tokens),
        _ => return None,
    })
}

fn other<'a>(first: &[u8], text: &'a [u8], mut tokens: Lexer<'a>) -> Action<'a> {
    match first {
        b"select" | b"with" => select(text, tokens),
        b"values" | b"table" => Action::Select,
        b"insert" | b"update" | b"delete" | b"merge" => Action::Change,
        b"copy" => Action::Copy,
        b"truncate" => Action::Truncate,
        b"vacuum" => Action::Maintain { is_alone: true },
        b"reindex" => Action::Maintain { is_alone: is_reindex_alone(tokens) },
        b"cluster" => {
            tokens.accept("verbose");
            Action::Maintain {
                is_alone: tokens.next().is_none_or(|t| t.kind == Kind::Symbol(b';')),
            }
        }
        b"analyze" | b"analyse" | b"checkpoint" => Action::Maintain { is_alone: false },
        b"do" | b"call" => Action::Run,
        b"show" => Action::Show,
        _ => Action::Other,
    }
}

fn is_reindex_alone(tokens: Lexer<'_>) -> bool {
    tokens
        .into_iter()
        .any(|token| ["database", "system", "schema", "concurrently"].iter().any(|w| token.is(w)))
}

/// Reads a query, which may be a SELECT INTO.
fn select<'a>(text: &'a [u8], mut tokens: Lexer<'a>) -> Action<'a> {
    let mut before = None;
    while let Some(token) = tokens.next() {
        if token.is("into") && !before.is_some_and(|word| calls::is_before_into(&word)) {
            return Action::Define(Definition::into(text, tokens));
        }
        before = Some(token);
    }
    Action::Select
}

fn name<'a>(tokens: &mut Lexer<'a>) -> Option<Name<'a>> {
    tokens.next().and_then(Name::of)
}

fn names<'a>(tokens: &mut Lexer<'a>) -> Option<Names<'a>> {
    if tokens.accept("all") { Some(Names::All) } else { name(tokens).map(Names::One) }
}

/// Looks for what the statement leaves behind, and does not say by what it is.
fn traces(text: &[u8], action: &Action<'_>, tokens: Lexer<'_>) -> Traces {
    match action {
        Action::Define(definition) => {
            let made = match definition.temporary {
                Temporary::No => Traces::NONE,
                Temporary::Session => Traces::TEMPORARY,
                Temporary::Transaction => Traces::TEMPORARY_LOCAL,
            };
            // What only stores an expression does not run it.
            let is_stored = matches!(
                definition.object,
                Object::Function
                    | Object::Procedure
                    | Object::View
                    | Object::Rule
                    | Object::Trigger
                    | Object::Policy
            );
            if is_stored { made } else { made.and(calls::traces(tokens)) }
        }
        Action::Run if calls::hints_at_state(text) => calls::traces(tokens).and(Traces::HIDDEN),
        Action::Load => Traces::LASTING,
        Action::Run
        | Action::Select
        | Action::Change
        | Action::Copy
        | Action::Execute(_)
        | Action::Prepare(_)
        | Action::Declare { .. }
        | Action::Other
        | Action::Lock
        | Action::Fetch
        | Action::Truncate
        | Action::Maintain { .. } => calls::traces(tokens),
        Action::Nothing
        | Action::Transaction(_)
        | Action::Set(_)
        | Action::Discard(_)
        | Action::Deallocate(_)
        | Action::Listen(_)
        | Action::Unlisten(_)
        | Action::Notify
        | Action::Close(_)
        | Action::Show => Traces::NONE,
    }
}
