//! The text of one command → [`Command`].
//!
//! Keywords are case-insensitive; names keep their case, in double quotes or without, as in
//! PgBouncer's console. One command per text, semicolons behind it allowed. Beside the console's own
//! commands it knows what drivers send on their own: transaction control, SET of session parameters,
//! and questions such as `SELECT 1`.

mod order;

pub use order::{Order, Place};

use super::show::Show;
use super::token::{Token, tokens};

/// Most characters of a command that an error message repeats.
const QUOTED_MAX: usize = 64;

/// Parameters of a session that drivers set and that mean nothing here, in lower case.
const SESSION_PARAMETERS: [&str; 14] = [
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "default_transaction_isolation",
    "default_transaction_read_only",
    "extra_float_digits",
    "idle_in_transaction_session_timeout",
    "intervalstyle",
    "lock_timeout",
    "search_path",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

/// What somebody asks the console to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Nothing: white space, comments, semicolons.
    Empty,
    /// `SHOW x`, or `SELECT x`.
    Show(Show),
    /// A question that drivers ask to see whether somebody is there.
    Probe(Probe),
    /// `BEGIN` and its synonyms; a transaction means nothing here.
    Begin,
    /// `COMMIT`, `ROLLBACK` and their synonyms.
    End {
        /// The tag that the answer has.
        tag: &'static str,
    },
    /// `SET` of a session parameter, `RESET`: accepted, without effect.
    Ignored {
        /// The tag that the answer has.
        tag: &'static str,
    },
    /// `SET application_name = …`.
    SetApplicationName(String),
    /// `DEALLOCATE name`, `DEALLOCATE ALL` (none), `DISCARD ALL` (none).
    Deallocate {
        /// The statement; all of them if none is named.
        name: Option<String>,
        /// The tag that the answer has.
        tag: &'static str,
    },
    /// Something that changes the running proxy.
    Act(Action),
}

/// A command that changes the running proxy; a missing database means all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Gives out no backend any more, and waits until none is in use.
    Pause(Option<String>),
    /// Ends PAUSE, SUSPEND and KILL.
    Resume(Option<String>),
    /// As PAUSE, and nothing more is read from clients.
    Suspend,
    /// Closes all clients and backends at once, and pauses.
    Kill(String),
    /// Closes one client, by `id` or `ptr` of SHOW CLIENTS.
    KillClient(u64),
    /// Refuses new clients.
    Disable(String),
    /// Ends DISABLE.
    Enable(String),
    /// Closes each backend when it is free next.
    Reconnect(Option<String>),
    /// Waits until all backends from before RECONNECT or RELOAD are closed.
    WaitClose(Option<String>),
    /// Reads the configuration again.
    Reload,
    /// Says what RELOAD would change.
    ReloadDryRun,
    /// Changes a key of `[general]` until the next reload.
    Set {
        /// The key.
        key: String,
        /// Its value, as PgBouncer writes it.
        value: String,
    },
    /// Ends the proxy.
    Shutdown(Shutdown),
    /// Asks something of a secondary.
    Order(Order),
}

/// How the proxy ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// At once.
    Now,
    /// When the backends have been released; new queries wait for ever.
    WaitForServers,
    /// When the clients have gone.
    WaitForClients,
}

/// What drivers and health checks ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Probe {
    /// `SELECT 1`.
    Number(i32),
    /// `SELECT 'text'`.
    Text(String),
    /// `SELECT version()`.
    Version,
    /// `SELECT pg_is_in_recovery()`.
    IsInRecovery,
}

/// A command that cannot be read; SQLSTATE 42601.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    /// A quote or comment has no end.
    #[error("unterminated {what}")]
    Unterminated {
        /// What was begun.
        what: &'static str,
    },
    /// The wording is PgBouncer's.
    #[error("invalid command '{command}', use SHOW HELP;")]
    Unknown {
        /// The command, cut.
        command: String,
    },
    /// There is no such SHOW; the wording is PgBouncer's.
    #[error("invalid command '{command}', use SHOW HELP;")]
    UnknownShow {
        /// The command, cut.
        command: String,
    },
    /// The command is known, and what follows it is not.
    #[error("invalid command '{command}': expected {expected}")]
    Expected {
        /// The command, cut.
        command: String,
        /// What should stand there.
        expected: &'static str,
    },
    /// There is more behind the command.
    #[error("only one command at a time")]
    Several,
    /// The wording is PgBouncer's.
    #[error("a database is required")]
    NoDatabase,
}

impl Command {
    /// Reads one command.
    ///
    /// # Errors
    /// [`SyntaxError`].
    pub fn parse(text: &str) -> Result<Self, SyntaxError> {
        let tokens = tokens(text)?;
        let is_end = |token: &Token<'_>| *token == Token::Symbol(';');
        let Some(start) = tokens.iter().position(|token| !is_end(token)) else {
            return Ok(Self::Empty);
        };
        let tokens = tokens.get(start..).unwrap_or_default();
        let end = tokens.iter().position(is_end).unwrap_or(tokens.len());
        let (tokens, behind) = tokens.split_at_checked(end).unwrap_or_default();
        if !behind.iter().all(is_end) {
            return Err(SyntaxError::Several);
        }
        Parser { text, tokens }.command()
    }

    /// Returns the tag of CommandComplete behind this command; SELECT counts its one row.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Empty => "",
            Self::Show(_) => "SHOW",
            Self::Probe(_) => "SELECT 1",
            Self::Begin => "BEGIN",
            Self::End { tag } | Self::Ignored { tag } | Self::Deallocate { tag, .. } => tag,
            Self::SetApplicationName(_) => "SET",
            Self::Act(action) => action.tag(),
        }
    }
}

impl Action {
    /// Returns the tag of CommandComplete, which is the command itself.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Pause(_) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Suspend => "SUSPEND",
            Self::Kill(_) => "KILL",
            Self::KillClient(_) => "KILL_CLIENT",
            Self::Disable(_) => "DISABLE",
            Self::Enable(_) => "ENABLE",
            Self::Reconnect(_) => "RECONNECT",
            Self::WaitClose(_) => "WAIT_CLOSE",
            Self::Reload | Self::ReloadDryRun => "RELOAD",
            Self::Set { .. } => "SET",
            Self::Shutdown(_) => "SHUTDOWN",
            Self::Order(order) => order.tag(),
        }
    }
}

/// What has not been read of a command.
struct Parser<'a> {
    /// All of the text, for error messages.
    text: &'a str,
    tokens: &'a [Token<'a>],
}

impl<'a> Parser<'a> {
    fn command(mut self) -> Result<Command, SyntaxError> {
        let Some(verb) = self.keyword() else { return Err(self.unknown()) };
        match verb.as_str() {
            "SHOW" => self.show(),
            "SELECT" => self.select(),
            "SET" => self.set(),
            "BEGIN" | "START" => Ok(Command::Begin),
            "COMMIT" | "END" => Ok(Command::End { tag: "COMMIT" }),
            "ROLLBACK" | "ABORT" => Ok(Command::End { tag: "ROLLBACK" }),
            "RESET" => Ok(Command::Ignored { tag: "RESET" }),
            "DISCARD" => self.discard(),
            "DEALLOCATE" => self.deallocate(),
            _ => self.action(&verb).map(Command::Act),
        }
    }

    fn action(&mut self, verb: &str) -> Result<Action, SyntaxError> {
        if let Some(order) = self.order(verb)? {
            self.end()?;
            return Ok(Action::Order(order));
        }
        let action = match verb {
            "PAUSE" => Action::Pause(self.database()?),
            "RESUME" => Action::Resume(self.database()?),
            "SUSPEND" => Action::Suspend,
            "KILL" => Action::Kill(self.database()?.ok_or(SyntaxError::NoDatabase)?),
            "KILL_CLIENT" => Action::KillClient(self.client()?),
            "DISABLE" => Action::Disable(self.database()?.ok_or(SyntaxError::NoDatabase)?),
            "ENABLE" => Action::Enable(self.database()?.ok_or(SyntaxError::NoDatabase)?),
            "RECONNECT" => Action::Reconnect(self.database()?),
            "WAIT_CLOSE" => Action::WaitClose(self.database()?),
            "RELOAD" => match self.keyword().as_deref() {
                None => Action::Reload,
                Some("DRY") if self.keyword().as_deref() == Some("RUN") => Action::ReloadDryRun,
                Some(_) => return Err(self.expected("nothing or DRY RUN behind RELOAD")),
            },
            "SHUTDOWN" => Action::Shutdown(match self.keyword().as_deref() {
                None => Shutdown::Now,
                Some("WAIT_FOR_SERVERS") => Shutdown::WaitForServers,
                Some("WAIT_FOR_CLIENTS") => Shutdown::WaitForClients,
                Some(_) => {
                    let choices = "nothing, WAIT_FOR_SERVERS or WAIT_FOR_CLIENTS behind SHUTDOWN";
                    return Err(self.expected(choices));
                }
            }),
            _ => return Err(self.unknown()),
        };
        self.end()?;
        Ok(action)
    }

    fn show(mut self) -> Result<Command, SyntaxError> {
        let Some(mut name) = self.keyword() else { return Err(self.unknown_show()) };
        // pgjdbc asks so.
        if name == "TRANSACTION" && self.keyword().as_deref() == Some("ISOLATION") {
            "TRANSACTION_ISOLATION".clone_into(&mut name);
            if self.keyword().as_deref() != Some("LEVEL") {
                return Err(self.unknown_show());
            }
        }
        let show = Show::named(&name).ok_or_else(|| self.unknown_show())?;
        self.end()?;
        Ok(Command::Show(show))
    }

    /// Reads what follows SELECT: a constant, a function that drivers ask for, or what SHOW shows.
    fn select(mut self) -> Result<Command, SyntaxError> {
        if let [Token::Literal(text)] = self.tokens {
            return Ok(Command::Probe(Probe::Text(text.clone())));
        }
        if let [Token::Word(word)] = self.tokens
            && let Ok(number) = word.parse()
        {
            return Ok(Command::Probe(Probe::Number(number)));
        }
        if let [Token::Word(name), Token::Symbol('('), Token::Symbol(')')] = self.tokens {
            let name = name.to_ascii_lowercase();
            match name.strip_prefix("pg_catalog.").unwrap_or(&name) {
                "version" => return Ok(Command::Probe(Probe::Version)),
                "pg_is_in_recovery" => return Ok(Command::Probe(Probe::IsInRecovery)),
                _ => return Err(self.unknown()),
            }
        }
        let show = self.keyword().and_then(|name| Show::named(&name));
        let show = show.ok_or_else(|| self.unknown())?;
        self.end()?;
        Ok(Command::Show(show))
    }

    fn set(mut self) -> Result<Command, SyntaxError> {
        const EXPECTED: &str = "SET key = value";
        let is_scope =
            |word: &str| word.eq_ignore_ascii_case("session") || word.eq_ignore_ascii_case("local");
        if let [Token::Word(scope), next, ..] = self.tokens
            && is_scope(scope)
            && *next != Token::Symbol('=')
        {
            self.take();
        }
        let key = self.name(EXPECTED)?;
        match self.take() {
            Some(Token::Symbol('=')) => {}
            Some(Token::Word(to)) if to.eq_ignore_ascii_case("to") => {}
            // SET TIME ZONE, SET TRANSACTION, SET SESSION CHARACTERISTICS, SET NAMES.
            Some(_) if is_one_of(&key, &["time", "transaction", "characteristics", "names"]) => {
                return Ok(Command::Ignored { tag: "SET" });
            }
            _ => return Err(self.expected(EXPECTED)),
        }
        let value = self.value()?.ok_or_else(|| self.expected(EXPECTED))?;
        Ok(if key.eq_ignore_ascii_case("application_name") {
            Command::SetApplicationName(value)
        } else if is_one_of(&key, &SESSION_PARAMETERS) {
            Command::Ignored { tag: "SET" }
        } else {
            Command::Act(Action::Set { key: key.to_ascii_lowercase(), value })
        })
    }

    fn discard(mut self) -> Result<Command, SyntaxError> {
        if self.keyword().as_deref() != Some("ALL") {
            return Err(self.expected("DISCARD ALL"));
        }
        self.end()?;
        Ok(Command::Deallocate { name: None, tag: "DISCARD ALL" })
    }

    fn deallocate(mut self) -> Result<Command, SyntaxError> {
        const EXPECTED: &str = "DEALLOCATE ALL or the name of a prepared statement";
        if matches!(self.tokens, [Token::Word(word), _] if word.eq_ignore_ascii_case("prepare")) {
            self.take();
        }
        let name = match self.take() {
            Some(Token::Word(all)) if all.eq_ignore_ascii_case("all") => None,
            // Here a name is PostgreSQL's: without quotes it is in lower case.
            Some(Token::Word(name)) => Some(name.to_ascii_lowercase()),
            Some(Token::Quoted(name)) => Some(name.clone()),
            _ => return Err(self.expected(EXPECTED)),
        };
        self.end()?;
        let tag = if name.is_none() { "DEALLOCATE ALL" } else { "DEALLOCATE" };
        Ok(Command::Deallocate { name, tag })
    }

    /// Reads values with commas between them as one text; `None` if there is none.
    fn value(&mut self) -> Result<Option<String>, SyntaxError> {
        let mut parts = Vec::new();
        loop {
            match self.take() {
                Some(Token::Literal(value) | Token::Quoted(value)) => parts.push(value.clone()),
                Some(Token::Word(value)) => parts.push((*value).to_owned()),
                _ => return Ok(None),
            }
            match self.take() {
                Some(Token::Symbol(',')) => {}
                None => return Ok(Some(parts.join(","))),
                Some(_) => return Err(self.expected("one value; put quotes around it")),
            }
        }
    }

    /// Reads the name of a database, if there is one.
    fn database(&mut self) -> Result<Option<String>, SyntaxError> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        self.name("the name of a database").map(Some)
    }

    /// Reads the number of a client: `id` or `ptr` of SHOW CLIENTS.
    fn client(&mut self) -> Result<u64, SyntaxError> {
        const EXPECTED: &str = "a client's id or ptr, as in SHOW CLIENTS";
        let text = self.name(EXPECTED)?;
        let number = match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16),
            None => text.parse(),
        };
        number.map_err(|_| self.expected(EXPECTED))
    }

    fn name(&mut self, expected: &'static str) -> Result<String, SyntaxError> {
        match self.take() {
            Some(Token::Word(name)) => Ok((*name).to_owned()),
            Some(Token::Quoted(name)) => Ok(name.clone()),
            Some(Token::Literal(_) | Token::Symbol(_)) | None => Err(self.expected(expected)),
        }
    }

    /// Reads a keyword, in upper case; `None` at the end or before anything else.
    fn keyword(&mut self) -> Option<String> {
        let (Token::Word(word), rest) = self.tokens.split_first()? else { return None };
        self.tokens = rest;
        Some(word.to_ascii_uppercase())
    }

    fn take(&mut self) -> Option<&'a Token<'a>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(first)
    }

    fn end(&self) -> Result<(), SyntaxError> {
        if self.tokens.is_empty() { Ok(()) } else { Err(self.unknown()) }
    }

    fn unknown(&self) -> SyntaxError {
        SyntaxError::Unknown { command: self.cut() }
    }

    fn unknown_show(&self) -> SyntaxError {
        SyntaxError::UnknownShow { command: self.cut() }
    }

    fn expected(&self, expected: &'static str) -> SyntaxError {
        SyntaxError::Expected { command: self.cut(), expected }
    }

    /// The text of the command as far as an error message repeats it.
    fn cut(&self) -> String {
        let mut text = self.text.trim();
        text = text.strip_suffix(';').unwrap_or(text).trim_end();
        match text.char_indices().nth(QUOTED_MAX) {
            None => text.to_owned(),
            Some((end, _)) => format!("{}…", text.get(..end).unwrap_or_default()),
        }
    }
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn acts(text: &str, expected: Action) {
        assert_eq!(Command::parse(text), Ok(Command::Act(expected)), "{text}");
    }

    fn refused(text: &str, expected: &str) {
        let error = Command::parse(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }

    #[test]
    fn nothing_is_a_command_too() {
        for text in ["", "  \n", ";", " ; ;", "-- nothing", "/* nothing */;"] {
            assert_eq!(Command::parse(text), Ok(Command::Empty), "{text:?}");
        }
    }

    #[test]
    fn shows_are_found_in_any_case() {
        for text in
            ["SHOW POOLS", "show pools;", "sHoW /**/ Pools ;;", "select pools", ";SHOW POOLS"]
        {
            assert_eq!(Command::parse(text), Ok(Command::Show(Show::Pools)), "{text}");
        }
        let level = Show::named("transaction_isolation").expect("it is known");
        assert_eq!(Command::parse("show transaction isolation level"), Ok(Command::Show(level)));
        for (name, show) in Show::NAMES {
            assert_eq!(Command::parse(&format!("SHOW {name}")), Ok(Command::Show(show)));
        }
    }

    #[test]
    fn names_keep_their_case_with_and_without_quotes() {
        acts("PAUSE", Action::Pause(None));
        acts("pause MyDb", Action::Pause(Some("MyDb".into())));
        acts("pause \"My \"\"Db\"", Action::Pause(Some("My \"Db".into())));
        acts("resume my-db;", Action::Resume(Some("my-db".into())));
        acts("SUSPEND", Action::Suspend);
        acts("Kill x", Action::Kill("x".into()));
        acts("KILL_CLIENT 0x2a", Action::KillClient(42));
        acts("kill_client 42", Action::KillClient(42));
        acts("disable x", Action::Disable("x".into()));
        acts("enable x", Action::Enable("x".into()));
        acts("reconnect", Action::Reconnect(None));
        acts("wait_close x", Action::WaitClose(Some("x".into())));
    }

    #[test]
    fn reload_and_shutdown_have_variants() {
        acts("reload", Action::Reload);
        acts("reload dry run;", Action::ReloadDryRun);
        acts("shutdown", Action::Shutdown(Shutdown::Now));
        acts("SHUTDOWN wait_for_servers", Action::Shutdown(Shutdown::WaitForServers));
        acts("SHUTDOWN WAIT_FOR_CLIENTS", Action::Shutdown(Shutdown::WaitForClients));
    }

    #[test]
    fn set_takes_values_with_and_without_quotes() {
        let set = |key: &str, value: &str| Action::Set { key: key.into(), value: value.into() };
        acts("SET stats_period=30", set("stats_period", "30"));
        acts("set Stats_Period TO '30'", set("stats_period", "30"));
        acts("set query_timeout = 1.5;", set("query_timeout", "1.5"));
        acts("set admin_users = a, 'b', \"c\"", set("admin_users", "a,b,c"));
        acts("set server_reset_query = 'DISCARD ALL'", set("server_reset_query", "DISCARD ALL"));
        acts("set server_reset_query = ''", set("server_reset_query", ""));
        acts("set session x = 1", set("x", "1"));
        acts("set session = 1", set("session", "1"));
    }

    #[test]
    fn what_drivers_send_is_accepted() {
        let parses = |text: &str, expected: Command| {
            assert_eq!(Command::parse(text), Ok(expected), "{text}");
        };
        for text in [
            "SET client_encoding TO 'UTF8'",
            "SET datestyle = ISO, MDY",
            "SET extra_float_digits = 3",
            "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
            "SET TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET TIME ZONE 'UTC'",
            "SET NAMES 'UTF8'",
            "SET search_path = \"$user\", public",
        ] {
            parses(text, Command::Ignored { tag: "SET" });
        }
        parses("SET application_name = 'a b'", Command::SetApplicationName("a b".into()));
        parses("BEGIN", Command::Begin);
        parses("BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY", Command::Begin);
        parses("start transaction", Command::Begin);
        parses("COMMIT", Command::End { tag: "COMMIT" });
        parses("END;", Command::End { tag: "COMMIT" });
        parses("ROLLBACK", Command::End { tag: "ROLLBACK" });
        parses("RESET ALL", Command::Ignored { tag: "RESET" });
        parses("DISCARD ALL", Command::Deallocate { name: None, tag: "DISCARD ALL" });
        parses("DEALLOCATE ALL", Command::Deallocate { name: None, tag: "DEALLOCATE ALL" });
        let named = |name: &str| Command::Deallocate { name: Some(name.into()), tag: "DEALLOCATE" };
        parses("deallocate Stmt", named("stmt"));
        parses("deallocate prepare \"Stmt\"", named("Stmt"));
        parses("select 1", Command::Probe(Probe::Number(1)));
        parses("SELECT 'x';", Command::Probe(Probe::Text("x".into())));
        parses("SELECT version()", Command::Probe(Probe::Version));
        parses("select pg_catalog.pg_is_in_recovery()", Command::Probe(Probe::IsInRecovery));
    }

    #[test]
    fn what_is_unknown_is_refused_in_pgbouncers_words() {
        refused("foo;", "invalid command 'foo', use SHOW HELP;");
        refused("SHOW", "invalid command 'SHOW', use SHOW HELP;");
        refused("SHOW nix", "invalid command 'SHOW nix', use SHOW HELP;");
        refused("SHOW POOLS now", "invalid command 'SHOW POOLS now', use SHOW HELP;");
        refused("SUSPEND x", "invalid command 'SUSPEND x', use SHOW HELP;");
        refused("PAUSE a b", "invalid command 'PAUSE a b', use SHOW HELP;");
        refused("'x'", "invalid command ''x'', use SHOW HELP;");
        refused("DISABLE", "a database is required");
        refused("ENABLE", "a database is required");
        refused("KILL", "a database is required");
        refused("PAUSE 'x'", "invalid command 'PAUSE 'x'': expected the name of a database");
        refused("show pools; show stats", "only one command at a time");
        refused("SET x", "invalid command 'SET x': expected SET key = value");
        refused("SET x = ", "invalid command 'SET x =': expected SET key = value");
        refused(
            "SET x = 1 2",
            "invalid command 'SET x = 1 2': expected one value; put quotes around it",
        );
        refused(
            "RELOAD WET RUN",
            "invalid command 'RELOAD WET RUN': expected nothing or DRY RUN behind RELOAD",
        );
        refused(
            "SHUTDOWN later",
            "invalid command 'SHUTDOWN later': expected nothing, WAIT_FOR_SERVERS or \
             WAIT_FOR_CLIENTS behind SHUTDOWN",
        );
        refused(
            &"ä".repeat(100),
            &format!("invalid command '{}…', use SHOW HELP;", "ä".repeat(64)),
        );
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "((show|set|select|pause|x|=|,|;|'|\"|\\(|--|/\\*) ?){0,8}") {
            let _ = Command::parse(&text);
        }
    }
}
