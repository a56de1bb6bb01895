//! `pgtandem replication`: how secondaries are, and commands for them, from the shell.
//!
//! Talks to the running proxy through its admin console, as anybody else: finds the way in from the
//! same configuration file, asks, and waits. Standard output has the result, standard error what is
//! going on. Only `script` asks the primary itself.

mod console;
mod screen;
mod script;
mod show;

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Subcommand;

use crate::config::{self, Config};
use crate::replication::capture::CaptureError;
use crate::replication::verify::report::Verdict;
use crate::secret::Secret;
use console::{Answer, Console, ConsoleError, Who};
use screen::Screen;

/// Between two looks at how far something is.
const LOOK: Duration = Duration::from_millis(500);

/// What to do, and to whom.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The database [default: all, or the only one]
    #[arg(long, short, global = true, value_name = "NAME")]
    pub database: Option<String>,
    /// The secondary [default: all, or the only one]
    #[arg(long, short, global = true, value_name = "NAME")]
    pub secondary: Option<String>,
    /// Write JSON, for programs
    #[arg(long, global = true)]
    pub json: bool,
    /// Log in to the console as this one of admin_users; the password comes from PGPASSWORD
    #[arg(long, global = true, value_name = "NAME")]
    pub user: Option<String>,
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with secondaries.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Something that the running proxy is asked to do
    #[command(flatten)]
    Ask(Order),
    /// Print the SQL that puts the tables under capture, for a database administrator to run
    ///
    /// For `auto = false`, or where admin_user may not create a schema. Asks the primary itself: the
    /// proxy need not run. Run it with psql on the primary, as a superuser.
    Script,
}

/// What the running proxy is asked to do.
#[derive(Debug, Subcommand)]
pub enum Order {
    /// Show how the secondaries are
    Status,
    /// Wait until the secondaries have everything that is committed now
    ///
    /// Exit codes: 0 they have it; 1 one has not got it in time, or has stopped; it is named.
    Wait {
        /// How long to wait: a number with ms, s, min or h; 0 means for ever
        #[arg(long, value_name = "TIME", default_value = "60s", value_parser = duration)]
        timeout: Duration,
    },
    /// Copy what is to be copied, and wait until the secondary is in sync
    ///
    /// Only needed where `auto = false`, or after a detach. It goes on if this is interrupted.
    Copy {
        /// Make the primary's schema on the secondary first, which must be empty
        #[arg(long)]
        schema: bool,
        /// Return as soon as it has begun
        #[arg(long)]
        no_wait: bool,
    },
    /// Compare secondaries with their primary, row by row, while both are written to
    ///
    /// Exit codes: 0 equal; 1 different; 2 could not tell.
    Verify {
        /// Only this table, as schema.table
        #[arg(long, short, value_name = "TABLE")]
        table: Option<String>,
    },
    /// Make rows that are known to differ what they are on the primary, and compare again
    ///
    /// Exit codes: 0 equal now; 1 still different; 2 it failed.
    Repair {
        /// Only this table, as schema.table [default: all that are known to differ]
        #[arg(long, short, value_name = "TABLE")]
        table: Option<String>,
        /// Compare the whole table, and not only the rows that are known to differ
        #[arg(long, requires = "table")]
        all: bool,
    },
    /// Stop applying; the change log is kept
    Pause {
        /// Why, for whoever looks
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
    /// Go on after a pause, or try again what failed
    Resume,
    /// Leave out the change that cannot be applied; it is kept in pgtandem.dead_letters
    Skip,
    /// Copy tables anew, while the others go on; without --table all of them
    Resync {
        /// Only this table, as schema.table; may be given several times
        #[arg(long, short, value_name = "TABLE")]
        table: Vec<String>,
        /// Return as soon as it has begun
        #[arg(long)]
        no_wait: bool,
        /// Do not ask whether all tables of the secondary may be emptied
        #[arg(long, short)]
        yes: bool,
    },
    /// Give up following: the change log is not kept for it any more, and it needs a new copy
    Detach {
        /// Why, for whoever looks
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        /// Do not ask
        #[arg(long, short)]
        yes: bool,
    },
}

fn duration(text: &str) -> Result<Duration, String> {
    config::duration(text).ok_or_else(|| "write a number with ms, s, min or h".to_owned())
}

/// Why nothing came of it.
#[derive(Debug, thiserror::Error)]
pub enum OperatorError {
    /// The console cannot be used, or refused.
    #[error(transparent)]
    Console(#[from] ConsoleError),
    /// There is no such secondary.
    #[error("no secondary {0} is configured in the running proxy")]
    None(String),
    /// There is no such database, or it has no `[databases.….replication]`.
    #[error("no database {0} with replication is configured")]
    NotReplicated(String),
    /// The primary cannot be asked what the script needs.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// It is not clear which one is meant.
    #[error("which one? {0}: name it with --database and --secondary")]
    Several(String),
    /// Somebody has said no, or could not be asked.
    #[error("{0}")]
    Unconfirmed(&'static str),
    /// What was begun came to no good end.
    #[error("secondary {place} is {state}: {why}")]
    Stopped {
        /// `database.secondary`.
        place: String,
        /// The word for its state.
        state: String,
        /// Its last error.
        why: String,
    },
    /// Nobody takes the result.
    #[error("cannot write to standard output")]
    Output(#[from] io::Error),
}

/// Does it; returns what to tell the shell.
///
/// # Errors
/// [`OperatorError`]; see [`Command::failure_code`] for what to tell the shell then.
pub async fn run(args: &Args, config: &Config) -> Result<ExitCode, OperatorError> {
    let order = match &args.command {
        Command::Ask(order) => order,
        Command::Script => {
            print(&script::write(config, args.database.as_deref()).await?)?;
            return Ok(ExitCode::SUCCESS);
        }
    };
    let password = std::env::var("PGPASSWORD").ok().filter(|password| !password.is_empty());
    let who = Who { user: args.user.clone(), password: password.map(Secret::new) };
    let console = Console::open(config, &who).await?;
    let desk = Desk { console, args };
    match order {
        Order::Status => desk.status().await,
        Order::Wait { timeout } => desk.wait(*timeout).await,
        Order::Copy { schema, no_wait } => {
            let target = desk.only(false).await?;
            let schema = if *schema { " SCHEMA" } else { "" };
            desk.tell(&format!("COPY SECONDARY {}{schema}", target.quoted())).await?;
            desk.copied(&target, *no_wait).await
        }
        Order::Verify { table } => desk.verify(table.as_deref()).await,
        Order::Repair { table, all } => desk.repair(table.as_deref(), *all).await,
        Order::Pause { reason } => desk.command("PAUSE", &because(reason.as_deref())).await,
        Order::Resume => desk.command("RESUME", "").await,
        Order::Skip => desk.command("SKIP", "").await,
        Order::Resync { table, no_wait, yes } => {
            let target = desk.only(false).await?;
            if table.is_empty() {
                let question = format!("Empty all tables of {target} and copy them anew?");
                confirm(*yes, &question)?;
            }
            let tables = table.join(", ");
            desk.tell(&format!("RESYNC SECONDARY {} {tables}", target.quoted())).await?;
            desk.copied(&target, *no_wait).await
        }
        Order::Detach { reason, yes } => {
            let target = desk.only(true).await?;
            let question = format!("Detach {target}? It needs a whole new copy to follow again.");
            confirm(*yes, &question)?;
            let because = because(reason.as_deref());
            desk.tell(&format!("DETACH SECONDARY {}{because}", target.quoted())).await?;
            desk.done(&target).await
        }
    }
}

impl Command {
    /// What the shell is told when it failed: for a comparison that is another answer than "different".
    pub fn failure_code(&self) -> u8 {
        match self {
            Self::Ask(Order::Verify { .. } | Order::Repair { .. }) => {
                Verdict::CouldNotTell.exit_code()
            }
            Self::Ask(
                Order::Status
                | Order::Wait { .. }
                | Order::Copy { .. }
                | Order::Pause { .. }
                | Order::Resume
                | Order::Skip
                | Order::Resync { .. }
                | Order::Detach { .. },
            )
            | Self::Script => 1,
        }
    }
}

fn because(reason: Option<&str>) -> String {
    reason.map_or_else(String::new, |why| format!(" '{}'", why.replace('\'', "''")))
}

/// A secondary by its names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Target {
    database: String,
    secondary: String,
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.database, self.secondary)
    }
}

impl Target {
    /// As the console reads it.
    fn quoted(&self) -> String {
        format!("{}.{}", quoted(&self.database), quoted(&self.secondary))
    }
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// What the command works with.
struct Desk<'a> {
    console: Console,
    args: &'a Args,
}

impl Desk<'_> {
    /// What SHOW SECONDARIES says of those that are meant.
    async fn look(&self, console: &Console) -> Result<Answer, OperatorError> {
        let mut answer = console.ask("SHOW SECONDARIES").await?;
        let all = answer.clone();
        let is_meant = |row: usize| {
            let is = |column, wanted: &Option<String>| {
                wanted.as_deref().is_none_or(|wanted| all.get(row, column) == Some(wanted))
            };
            is("database", &self.args.database) && is("secondary", &self.args.secondary)
        };
        let rows = answer.rows.into_iter().enumerate().filter(|(row, _)| is_meant(*row));
        answer.rows = rows.map(|(_, row)| row).collect();
        Ok(answer)
    }

    /// The secondaries that are meant, at least one; also those that only the primary still knows, if
    /// `with_forgotten`.
    async fn targets(&self, with_forgotten: bool) -> Result<Vec<Target>, OperatorError> {
        let answer = self.look(&self.console).await?;
        let target = |row: usize| {
            let text = |column| answer.get(row, column).unwrap_or_default().to_owned();
            let is_there = with_forgotten || answer.get(row, "is_configured") == Some("1");
            is_there.then(|| Target { database: text("database"), secondary: text("secondary") })
        };
        let targets: Vec<Target> = (0..answer.rows.len()).filter_map(target).collect();
        if targets.is_empty() {
            let any = |name: &Option<String>| name.clone().unwrap_or_else(|| "*".to_owned());
            let named = format!("{}.{}", any(&self.args.database), any(&self.args.secondary));
            return Err(OperatorError::None(named));
        }
        Ok(targets)
    }

    /// The one secondary that is meant.
    async fn only(&self, with_forgotten: bool) -> Result<Target, OperatorError> {
        let mut targets = self.targets(with_forgotten).await?;
        match (targets.pop(), targets.is_empty()) {
            (Some(only), true) => Ok(only),
            (last, _) => {
                let all = targets.iter().chain(&last).map(ToString::to_string);
                Err(OperatorError::Several(all.collect::<Vec<_>>().join(", ")))
            }
        }
    }

    /// Gives a command whose answer says nothing.
    async fn tell(&self, command: &str) -> Result<(), OperatorError> {
        Ok(self.console.ask(command).await.map(drop)?)
    }

    /// Gives a command to the one secondary that is meant.
    async fn command(&self, verb: &str, behind: &str) -> Result<ExitCode, OperatorError> {
        let target = self.only(false).await?;
        self.tell(&format!("{verb} SECONDARY {}{behind}", target.quoted())).await?;
        self.done(&target).await
    }

    /// Shows what has become of a secondary.
    async fn done(&self, target: &Target) -> Result<ExitCode, OperatorError> {
        let answer = self.row_of(target).await?;
        if self.args.json {
            print(&show::json(&answer))?;
        } else {
            print(&format!("{target}: {}\n", answer.get(0, "state").unwrap_or("unknown")))?;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// What SHOW SECONDARIES says of one secondary.
    async fn row_of(&self, target: &Target) -> Result<Answer, OperatorError> {
        let mut answer = self.console.ask("SHOW SECONDARIES").await?;
        let all = answer.clone();
        let is_it = |row: usize| {
            all.get(row, "database") == Some(&target.database)
                && all.get(row, "secondary") == Some(&target.secondary)
        };
        let rows = answer.rows.into_iter().enumerate().filter(|(row, _)| is_it(*row));
        answer.rows = rows.map(|(_, row)| row).collect();
        if answer.rows.is_empty() {
            return Err(OperatorError::None(target.to_string()));
        }
        Ok(answer)
    }

    async fn status(&self) -> Result<ExitCode, OperatorError> {
        let answer = self.look(&self.console).await?;
        if answer.rows.is_empty() {
            // Nobody is left to tell if that fails.
            let _ = writeln!(io::stderr(), "no database of the running proxy has such a secondary");
        }
        print(&if self.args.json { show::json(&answer) } else { show::status(&answer) })?;
        Ok(ExitCode::SUCCESS)
    }

    async fn wait(&self, timeout: Duration) -> Result<ExitCode, OperatorError> {
        let began = Instant::now();
        for target in self.targets(false).await? {
            // The first has all of the time, the next what is left of it.
            let left = timeout.saturating_sub(began.elapsed()).max(Duration::from_millis(1));
            let limit = if timeout.is_zero() {
                String::new()
            } else {
                format!(" TIMEOUT '{}ms'", left.as_millis())
            };
            let waited = self.tell(&format!("WAIT SECONDARY {}{limit}", target.quoted())).await;
            if let Err(error) = waited {
                if let Ok(answer) = self.row_of(&target).await {
                    // What led to it helps more than the mere fact.
                    let _ = io::stderr().write_all(show::status(&answer).as_bytes());
                }
                return Err(error);
            }
            if !self.args.json {
                print(&format!("{target}: has everything\n"))?;
            }
        }
        if self.args.json {
            return self.status().await;
        }
        Ok(ExitCode::SUCCESS)
    }

    /// Ends a command that has begun a copy.
    async fn copied(&self, target: &Target, no_wait: bool) -> Result<ExitCode, OperatorError> {
        if !no_wait {
            self.follow_copy(target).await?;
        }
        self.done(target).await
    }

    /// Waits until a copy that was asked for is done, and says how far it is.
    async fn follow_copy(&self, target: &Target) -> Result<(), OperatorError> {
        let mut screen = Screen::stderr();
        loop {
            let answer = self.row_of(target).await?;
            let state = answer.get(0, "state").unwrap_or_default();
            let copied = show::copied(&answer, 0);
            match state {
                "in_sync" if copied.is_none() => return Ok(()),
                "paused" | "detached" | "ahead" | "diverged" => {
                    return Err(OperatorError::Stopped {
                        place: target.to_string(),
                        state: state.to_owned(),
                        why: answer.get(0, "last_error").unwrap_or_default().to_owned(),
                    });
                }
                _ => {}
            }
            let copied = copied.map_or_else(String::new, |copied| format!(": {copied}"));
            screen.progress(&format!("{target} {state}{copied}"));
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn verify(&self, table: Option<&str>) -> Result<ExitCode, OperatorError> {
        let mut all = Answer::default();
        for target in self.targets(false).await? {
            let behind = table.map_or_else(String::new, |table| format!(" {table}"));
            let command = format!("VERIFY {}{behind}", target.quoted());
            let answer = self.watched(&target, &command).await?;
            all.columns = answer.columns;
            all.rows.extend(answer.rows);
        }
        self.print_verdicts(&all, &["rows", "detail"])
    }

    async fn repair(&self, table: Option<&str>, is_whole: bool) -> Result<ExitCode, OperatorError> {
        let target = self.only(false).await?;
        let tables = match table {
            Some(table) => vec![table.to_owned()],
            None => self.differing(&target).await?,
        };
        let mut all = Answer::default();
        for table in tables {
            let whole = if is_whole { " ALL" } else { "" };
            let command = format!("REPAIR {} {table}{whole}", target.quoted());
            let answer = self.watched(&target, &command).await?;
            all.columns = answer.columns;
            all.rows.extend(answer.rows);
        }
        self.print_verdicts(&all, &["deleted", "updated", "inserted", "detail"])
    }

    /// The tables that are known to differ, as the console reads them.
    async fn differing(&self, target: &Target) -> Result<Vec<String>, OperatorError> {
        let answer = self.console.ask("SHOW DIVERGENCE").await?;
        let of_target = (0..answer.rows.len()).filter(|row| {
            answer.get(*row, "database") == Some(&target.database)
                && answer.get(*row, "secondary") == Some(&target.secondary)
        });
        let mut tables: Vec<String> = of_target
            .filter_map(|row| {
                let (schema, name) = answer.get(row, "table")?.split_once('.')?;
                Some(format!("{}.{}", quoted(schema), quoted(name)))
            })
            .collect();
        tables.dedup();
        Ok(tables)
    }

    /// Gives a command that takes long, and says meanwhile how far it is.
    async fn watched(&self, target: &Target, command: &str) -> Result<Answer, OperatorError> {
        let mut screen = Screen::stderr();
        let observer = self.console.another().await?;
        let watch = async {
            loop {
                tokio::time::sleep(LOOK).await;
                // The answer to the command says what is wrong, if anything is.
                let Ok(answer) = observer.ask("SHOW SECONDARIES").await else { continue };
                let row = (0..answer.rows.len()).find(|row| {
                    answer.get(*row, "database") == Some(&target.database)
                        && answer.get(*row, "secondary") == Some(&target.secondary)
                });
                if let Some(text) = row.and_then(|row| show::verified(&answer, row)) {
                    screen.progress(&format!("{target}: {text}"));
                }
            }
        };
        tokio::select! {
            biased;
            answer = self.console.ask(command) => Ok(answer?),
            () = watch => Ok(Answer::default()),
        }
    }

    /// Prints a line for each table; the worst verdict is what the shell is told.
    fn print_verdicts(&self, answer: &Answer, columns: &[&str]) -> Result<ExitCode, OperatorError> {
        let words = (0..answer.rows.len()).map(|row| answer.get(row, "verdict"));
        let worst = words.map(verdict).max().unwrap_or(Verdict::Equal);
        if self.args.json {
            print(&show::json(answer))?;
            return Ok(ExitCode::from(worst.exit_code()));
        }
        let shown = ["database", "secondary", "table", "verdict"].iter().chain(columns);
        let shown: Vec<&str> = shown.copied().collect();
        let row = |row: usize| {
            let cell = |column: &&str| answer.get(row, column).unwrap_or("-").to_owned();
            shown.iter().map(cell).collect::<Vec<String>>()
        };
        let head: Vec<String> = shown.iter().map(|name| name.to_uppercase()).collect();
        let head: Vec<&str> = head.iter().map(String::as_str).collect();
        let rows: Vec<_> = (0..answer.rows.len()).map(row).collect();
        print(&show::table(&head, &rows))?;
        print(&format!("{worst}\n"))?;
        Ok(ExitCode::from(worst.exit_code()))
    }
}

/// Makes sure that something is meant, unless that was said already.
fn confirm(is_confirmed: bool, question: &str) -> Result<(), OperatorError> {
    if is_confirmed {
        Ok(())
    } else if !Screen::stderr().can_ask() {
        Err(OperatorError::Unconfirmed("nothing was done: --yes says that it is meant"))
    } else if Screen::ask(question) {
        Ok(())
    } else {
        Err(OperatorError::Unconfirmed("nothing was done"))
    }
}

/// Reads a verdict; a word that we do not know is none.
fn verdict(word: Option<&str>) -> Verdict {
    [Verdict::Equal, Verdict::Different]
        .into_iter()
        .find(|known| Some(known.word()) == word)
        .unwrap_or(Verdict::CouldNotTell)
}

fn print(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}
