//! One session at the console: simple and extended protocol.
//!
//! Source: PostgreSQL manual, "Message Flow". Transactions mean nothing here: `BEGIN` is answered
//! and shown in ReadyForQuery, because drivers go by it, and that is all.

use std::sync::Arc;

use super::Admin;
use super::act::IfGivenUp;
use super::books::{self, Books, Portal, Progress, Rows, Statement};
use super::command::{Action, Command, Probe};
use super::line::{End, Line, Message};
use super::refusal::Refusal;
use super::seats::Seat;
use super::show::{HELP, REPORTED, SERVER_VERSION, Show};
use crate::fault::{Fault, SqlState};
use crate::session::login::{ConsoleRole, Visitor};
use crate::wire::cursor::{Cursor, Malformed};
use crate::wire::encode;
use crate::wire::frontend::{self, Target};
use crate::wire::rows::{self, Column, Formats, Value};
use crate::wire::tag::{backend, frontend as tag};

/// A session at the console.
pub struct Console {
    admin: Arc<Admin>,
    seat: Seat,
    role: ConsoleRole,
    line: Line,
    books: Books,
    is_in_transaction: bool,
    /// An error takes everything up to the next Sync with it.
    is_skipping: bool,
}

/// Why a request has not been carried out.
enum Stop {
    /// The client is told; the session goes on.
    Refused(Refusal),
    /// The session is over.
    Ended(End),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<End> for Stop {
    fn from(end: End) -> Self {
        Self::Ended(end)
    }
}

impl From<Malformed> for Stop {
    fn from(malformed: Malformed) -> Self {
        Self::Ended(violation(malformed.to_string()))
    }
}

fn violation(message: impl Into<std::borrow::Cow<'static, str>>) -> End {
    End::Fault(Fault::fatal(SqlState::PROTOCOL_VIOLATION, message))
}

impl Console {
    /// Leads the session to its end.
    pub async fn serve(admin: Arc<Admin>, visitor: Visitor) {
        let seat = admin.seat(&visitor);
        let Visitor { stream, role, parameters, greeting, unread, .. } = visitor;
        let mut line = Line::new(stream, unread, greeting);
        let seat = match seat {
            Ok(seat) => seat,
            Err(fault) => {
                tracing::info!(user = visitor.user, sqlstate = %fault.sqlstate, "console refused");
                return line.close(&End::Fault(fault)).await;
            }
        };
        let named =
            parameters.iter().find(|(name, _)| name.eq_ignore_ascii_case(b"application_name"));
        if let Some((_, name)) = named {
            seat.occupant.set_application_name(&String::from_utf8_lossy(name));
        }
        greet(&mut line.output, &seat, role);
        let books = Books::default();
        let (is_in_transaction, is_skipping) = (false, false);
        let mut console = Self { admin, seat, role, line, books, is_in_transaction, is_skipping };
        let occupant = Arc::clone(&console.seat.occupant);
        let end = tokio::select! {
            biased;
            () = occupant.kill.cancelled() => killed(),
            end = console.converse() => end,
        };
        tracing::debug!(reason = %end, "console closed");
        console.line.close(&end).await;
    }

    /// Answers one message after the other; returns why that is over.
    ///
    /// Cancel safe in that a command that waits is undone.
    async fn converse(&mut self) -> End {
        loop {
            let answered = match self.line.message().await {
                Ok(message) => self.answer(message).await,
                Err(end) => Err(end),
            };
            if let Err(end) = answered {
                return end;
            }
        }
    }

    async fn answer(&mut self, message: Message) -> Result<(), End> {
        let Message { tag, body } = message;
        match tag {
            tag::TERMINATE => return Err(End::Closed),
            tag::SYNC => {
                self.is_skipping = false;
                self.ready();
                return Ok(());
            }
            // Nothing is held back, but what is to be sent waits for more of it otherwise.
            tag::FLUSH => return self.line.flush().await,
            // As PostgreSQL: they may be left over from a COPY that failed.
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => return Ok(()),
            _ if self.is_skipping => return Ok(()),
            _ => {}
        }
        let is_simple = matches!(tag, tag::QUERY | tag::FUNCTION_CALL);
        let answered = match tag {
            tag::QUERY => self.query(&body).await,
            tag::FUNCTION_CALL => Err(Refusal::FunctionCall.into()),
            tag::PARSE => self.parse(&body),
            tag::BIND => self.bind(&body),
            tag::DESCRIBE => self.describe(&body),
            tag::EXECUTE => self.execute(&body).await,
            tag::CLOSE => self.close(&body),
            _ => return Err(violation(format!("invalid frontend message type {tag}"))),
        };
        match answered {
            Ok(()) => {}
            Err(Stop::Ended(end)) => return Err(end),
            Err(Stop::Refused(refusal)) => {
                refusal.encode(&mut self.line.output);
                self.is_skipping = !is_simple;
            }
        }
        if is_simple {
            self.ready();
        }
        Ok(())
    }

    /// Ends a request: what belongs to no transaction is over.
    fn ready(&mut self) {
        if !self.is_in_transaction {
            self.books.end_transaction();
        }
        let status = if self.is_in_transaction { b'T' } else { b'I' };
        encode::ready_for_query(&mut self.line.output, status);
    }

    async fn query(&mut self, body: &[u8]) -> Result<(), Stop> {
        self.books.begin_simple();
        let command = command(frontend::query(body)?)?;
        if command == Command::Empty {
            encode::bare(&mut self.line.output, backend::EMPTY_QUERY_RESPONSE);
            return Ok(());
        }
        let rows = self.run(&command).await?;
        let columns = books::columns(&command);
        let formats = Formats::default();
        if !columns.is_empty() {
            rows::row_description(&mut self.line.output, columns, &formats);
        }
        for row in rows {
            self.send_row(columns, &row, &formats).await?;
        }
        encode::command_complete(&mut self.line.output, command.tag().as_bytes());
        Ok(())
    }

    fn parse(&mut self, body: &[u8]) -> Result<(), Stop> {
        let parse = frontend::parse(body)?;
        let mut definition = Cursor::new(parse.definition);
        let text = definition.cstr()?;
        let mut types = Vec::new();
        for _ in 0..definition.i16()?.cast_unsigned() {
            types.push(definition.i32()?.cast_unsigned());
        }
        if parse.name.is_empty() {
            // Also if this one cannot be read.
            self.books.close_statement(b"");
        }
        let statement = Statement { command: command(text)?, types };
        self.books.prepare(parse.name, statement)?;
        encode::bare(&mut self.line.output, backend::PARSE_COMPLETE);
        Ok(())
    }

    fn bind(&mut self, body: &[u8]) -> Result<(), Stop> {
        let names = frontend::bind(body).ok_or(Malformed::Unterminated)?;
        let binding = frontend::binding(body)?;
        self.books.bind(names.portal, names.statement, binding)?;
        encode::bare(&mut self.line.output, backend::BIND_COMPLETE);
        Ok(())
    }

    fn describe(&mut self, body: &[u8]) -> Result<(), Stop> {
        let named = frontend::named(body)?;
        let output = &mut self.line.output;
        let (command, formats) = match named.target {
            Target::Statement => {
                let statement = self.books.statement(named.name)?;
                encode::parameter_description(output, &statement.types);
                (&statement.command, &Formats::default())
            }
            Target::Portal => {
                let portal = self.books.portal(named.name)?;
                (&portal.command, &portal.formats)
            }
        };
        match books::columns(command) {
            [] => encode::bare(output, backend::NO_DATA),
            columns => rows::row_description(output, columns, formats),
        }
        Ok(())
    }

    async fn execute(&mut self, body: &[u8]) -> Result<(), Stop> {
        let execute = frontend::execute(body)?;
        let mut portal = self.books.take_portal(execute.portal)?;
        let rows_max = execute.rows_max.unwrap_or(usize::MAX);
        let executed = self.advance(&mut portal, rows_max, execute.portal).await;
        self.books.put_back(execute.portal, portal);
        executed
    }

    /// Carries out a portal as far as `rows_max` rows.
    async fn advance(
        &mut self,
        portal: &mut Portal,
        rows_max: usize,
        name: &[u8],
    ) -> Result<(), Stop> {
        let columns = books::columns(&portal.command);
        let mut rows = match std::mem::replace(&mut portal.progress, Progress::Done) {
            Progress::Fresh if portal.command == Command::Empty => {
                encode::bare(&mut self.line.output, backend::EMPTY_QUERY_RESPONSE);
                return Ok(());
            }
            Progress::Fresh => self.run(&portal.command).await?.into_iter(),
            Progress::Fetching(rows) => rows,
            Progress::Done if columns.is_empty() => {
                return Err(Refusal::PortalDone(String::from_utf8_lossy(name).into_owned()).into());
            }
            // All rows have been fetched: there are none left.
            Progress::Done => Vec::new().into_iter(),
        };
        let mut sent = 0;
        for row in rows.by_ref().take(rows_max) {
            self.send_row(columns, &row, &portal.formats).await?;
            sent += 1;
        }
        // As PostgreSQL: whether there are more is not looked at before they are asked for.
        if sent == rows_max {
            portal.progress = Progress::Fetching(rows);
            encode::bare(&mut self.line.output, backend::PORTAL_SUSPENDED);
        } else {
            encode::command_complete(&mut self.line.output, portal.command.tag().as_bytes());
        }
        Ok(())
    }

    fn close(&mut self, body: &[u8]) -> Result<(), Stop> {
        let named = frontend::named(body)?;
        match named.target {
            Target::Statement => {
                self.books.close_statement(named.name);
            }
            Target::Portal => self.books.close_portal(named.name),
        }
        encode::bare(&mut self.line.output, backend::CLOSE_COMPLETE);
        Ok(())
    }

    async fn send_row(
        &mut self,
        columns: &[Column],
        row: &[Value],
        formats: &Formats,
    ) -> Result<(), End> {
        rows::data_row(&mut self.line.output, columns, row, formats);
        self.line.flush_if_much().await
    }

    /// Carries out a command; returns its rows.
    async fn run(&mut self, command: &Command) -> Result<Rows, Stop> {
        self.seat.occupant.note_request();
        self.admin.count_command();
        let mut nothing = Rows::new();
        match command {
            Command::Empty => {}
            Command::Show(Show::Help) => {
                notice(&mut self.line.output, "NOTICE", "Console usage", Some(HELP));
            }
            Command::Show(Show::Fds) => {
                self.must_be_admin()?;
                return Err(Refusal::Descriptors.into());
            }
            Command::Show(show) => return Ok(self.admin.rows(*show).await?),
            Command::Probe(probe) => nothing.push(vec![answer_to(probe)]),
            Command::Begin => self.is_in_transaction = true,
            Command::End { .. } => self.is_in_transaction = false,
            Command::Ignored { tag } => {
                if *tag == "SET" {
                    notice(&mut self.line.output, "NOTICE", "SET ignored", None);
                }
            }
            Command::SetApplicationName(name) => {
                self.seat.occupant.set_application_name(name);
                encode::parameter_status(
                    &mut self.line.output,
                    b"application_name",
                    name.as_bytes(),
                );
            }
            Command::Deallocate { name: None, .. } => self.books.close_statements(),
            Command::Deallocate { name: Some(name), .. } => {
                if !self.books.close_statement(name.as_bytes()) {
                    return Err(Refusal::NoStatement(name.clone()).into());
                }
            }
            Command::Act(action) => return self.act(action).await,
        }
        Ok(nothing)
    }

    fn must_be_admin(&self) -> Result<(), Refusal> {
        match self.role {
            ConsoleRole::Admin => Ok(()),
            ConsoleRole::Stats => Err(Refusal::Forbidden),
        }
    }

    /// Does something to the running proxy. When a cancel request comes, or the client leaves, what
    /// waits is undone, and what others carry out is not waited for.
    async fn act(&mut self, action: &Action) -> Result<Rows, Stop> {
        self.must_be_admin()?;
        let occupant = Arc::clone(&self.seat.occupant);
        let (user, client) = (&occupant.user, occupant.peer);
        tracing::info!(user, %client, command = %action, "admin command");
        // What was asked before is answered before this one may wait.
        self.line.flush().await?;
        let admin = Arc::clone(&self.admin);
        let given_up = match action.if_given_up() {
            IfGivenUp::Undone => Some(Refusal::Cancelled),
            IfGivenUp::GoesOn => Some(Refusal::GoesOn),
            IfGivenUp::AwaitedAllTheSame => None,
        };
        let acted = match given_up {
            None => admin.act(action).await,
            Some(given_up) => {
                let mut cancelled = std::pin::pin!(occupant.cancel.notified());
                cancelled.as_mut().enable();
                tokio::select! {
                    biased;
                    acted = admin.act(action) => acted,
                    () = cancelled => Err(given_up),
                    end = self.line.departure() => return Err(end.into()),
                }
            }
        };
        let acted = acted.inspect_err(|refusal| {
            tracing::info!(user, %client, command = %action, error = %refusal, "admin command failed");
        })?;
        for warning in acted.warnings {
            notice(&mut self.line.output, "WARNING", &warning, None);
        }
        Ok(acted.rows)
    }
}

fn killed() -> End {
    let message = "terminating connection due to administrator command";
    End::Fault(Fault::fatal(SqlState::ADMIN_SHUTDOWN, message))
}

fn command(text: &[u8]) -> Result<Command, Refusal> {
    let text = std::str::from_utf8(text).map_err(|_| Refusal::Encoding)?;
    Ok(Command::parse(text)?)
}

fn answer_to(probe: &Probe) -> Value {
    match probe {
        Probe::Number(number) => Value::Int(i64::from(*number)),
        Probe::Text(text) => Value::Text(text.clone().into()),
        Probe::Version => Value::Text(format!("pgtandem {SERVER_VERSION}").into()),
        Probe::IsInRecovery => Value::Bool(false),
    }
}

/// Appends a NoticeResponse.
fn notice(out: &mut Vec<u8>, severity: &str, message: &str, detail: Option<&str>) {
    let mut extra: Vec<(u8, &[u8])> = Vec::new();
    extra.extend(detail.map(|detail| (b'D', detail.as_bytes())));
    let sqlstate = if severity == "WARNING" { b"01000" } else { b"00000" };
    encode::report(out, backend::NOTICE_RESPONSE, severity, sqlstate, message.as_bytes(), &extra);
}

/// Appends what a client is told before its first command.
fn greet(out: &mut Vec<u8>, seat: &Seat, role: ConsoleRole) {
    for (name, value) in REPORTED {
        encode::parameter_status(out, name.as_bytes(), value.as_bytes());
    }
    let is_superuser = match role {
        ConsoleRole::Admin => "on",
        ConsoleRole::Stats => "off",
    };
    let occupant = &seat.occupant;
    for (name, value) in [
        ("is_superuser", is_superuser),
        ("session_authorization", &occupant.user),
        ("application_name", &occupant.application_name()),
    ] {
        encode::parameter_status(out, name.as_bytes(), value.as_bytes());
    }
    let (pid, secret) = seat.cancel_key();
    encode::backend_key_data(out, pid, &secret);
    encode::ready_for_query(out, b'I');
}
