//! The way to the admin console of the running proxy: how to get in, and what it answers.

use std::fmt;
use std::io;
use std::time::Duration;

use tokio_postgres::types::Type;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use crate::auth::Stored;
use crate::config::{Config, Host};
use crate::net::dial::dial;
use crate::secret::Secret;

/// The database of the console; as a user it needs no password on the Unix socket, if it is the
/// proxy's own account that asks.
const CONSOLE: &str = "pgtandem";

/// How long connecting and logging in may take.
const LOGIN_LIMIT: Duration = Duration::from_secs(10);

/// Types of the console's columns that are numbers.
const NUMBERS: [Type; 4] = [Type::INT4, Type::INT8, Type::FLOAT8, Type::NUMERIC];

/// One way to get in.
#[derive(Debug, Clone)]
struct Way {
    host: Host,
    port: u16,
    user: String,
    password: Option<Secret>,
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Tcp(name) => write!(f, "{name}:{}", self.port)?,
            Host::Unix(folder) => write!(f, "{}/.s.PGSQL.{}", folder.display(), self.port)?,
        }
        write!(f, " as {}", self.user)
    }
}

/// Who asks, if it was said.
#[derive(Debug, Clone, Default)]
pub struct Who {
    /// One of `admin_users` or `stats_users`.
    pub user: Option<String>,
    /// What to log in with.
    pub password: Option<Secret>,
}

/// Why the console cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    /// Nobody listens, or nobody lets us in.
    #[error("cannot get to the admin console of the proxy:{}\n{advice}", Tried(tried))]
    Locked {
        /// What was tried, and what came of it.
        tried: Vec<(String, String)>,
        /// What would help.
        advice: String,
    },
    /// It answered with an error.
    #[error("{message}{}", Behind(detail.as_deref(), hint.as_deref()))]
    Refused {
        /// SQLSTATE.
        code: String,
        /// What it said.
        message: String,
        /// What else is known.
        detail: Option<String>,
        /// What would do instead.
        hint: Option<String>,
    },
    /// The connection was lost.
    #[error("the connection to the proxy was lost")]
    Lost(#[source] tokio_postgres::Error),
}

struct Tried<'a>(&'a [(String, String)]);

impl fmt::Display for Tried<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(way, why)| write!(f, "\n  {way}: {why}"))
    }
}

struct Behind<'a>(Option<&'a str>, Option<&'a str>);

impl fmt::Display for Behind<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        [self.0, self.1].into_iter().flatten().try_for_each(|text| write!(f, "\n  {text}"))
    }
}

/// A session at the console.
pub struct Console {
    client: Client,
    way: Way,
}

/// A column of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// What it is called.
    pub name: String,
    /// Whether it holds numbers.
    pub is_number: bool,
}

/// What the console answered: texts, by the names of their columns.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// The columns.
    pub columns: Vec<Column>,
    /// The rows; `None` is NULL.
    pub rows: Vec<Vec<Option<String>>>,
}

impl Answer {
    /// Reads a field of a row; `None` if there is no such column, or nothing in it.
    pub fn get(&self, row: usize, column: &str) -> Option<&str> {
        let at = self.columns.iter().position(|known| known.name == column)?;
        self.rows.get(row)?.get(at)?.as_deref()
    }

    /// The same as a number.
    pub fn number(&self, row: usize, column: &str) -> Option<f64> {
        self.get(row, column)?.parse().ok()
    }
}

impl Console {
    /// Logs in by the first way that leads in.
    ///
    /// # Errors
    /// [`ConsoleError::Locked`] with advice.
    pub async fn open(config: &Config, who: &Who) -> Result<Self, ConsoleError> {
        let ways = ways(config, who);
        let mut tried = Vec::new();
        let mut was_answered = false;
        for way in ways {
            match log_in(&way).await {
                Ok(client) => return Ok(Self { client, way }),
                Err((why, is_answer)) => {
                    was_answered |= is_answer;
                    tried.push((way.to_string(), why));
                }
            }
        }
        let advice = advice(config, was_answered);
        Err(ConsoleError::Locked { tried, advice })
    }

    /// Opens another session in the same way.
    ///
    /// # Errors
    /// As [`Console::open`].
    pub async fn another(&self) -> Result<Self, ConsoleError> {
        let way = self.way.clone();
        match log_in(&way).await {
            Ok(client) => Ok(Self { client, way }),
            Err((why, _)) => {
                let advice = "It worked a moment ago: is the proxy still there?".to_owned();
                Err(ConsoleError::Locked { tried: vec![(way.to_string(), why)], advice })
            }
        }
    }

    /// Asks, and waits for the answer.
    ///
    /// Cancel safe: no; whoever gives up drops the console, and the proxy does what it does then.
    ///
    /// # Errors
    /// [`ConsoleError::Refused`], [`ConsoleError::Lost`].
    pub async fn ask(&self, command: &str) -> Result<Answer, ConsoleError> {
        // Prepared for the types of its columns; asked for in texts, which need no types.
        let prepared = self.client.prepare(command).await.map_err(refused)?;
        let column = |column: &tokio_postgres::Column| Column {
            name: column.name().to_owned(),
            is_number: NUMBERS.contains(column.type_()),
        };
        let columns = prepared.columns().iter().map(column).collect();
        let mut answer = Answer { columns, rows: Vec::new() };
        for message in self.client.simple_query(command).await.map_err(refused)? {
            if let SimpleQueryMessage::Row(row) = message {
                let fields = (0..row.len()).map(|at| row.try_get(at).ok().flatten());
                answer.rows.push(fields.map(|field| field.map(str::to_owned)).collect());
            }
        }
        Ok(answer)
    }
}

fn refused(error: tokio_postgres::Error) -> ConsoleError {
    let Some(said) = error.as_db_error() else { return ConsoleError::Lost(error) };
    ConsoleError::Refused {
        code: said.code().code().to_owned(),
        message: said.message().to_owned(),
        detail: said.detail().map(str::to_owned),
        hint: said.hint().map(str::to_owned),
    }
}

/// Logs in; says why not, and whether somebody was there to say so.
async fn log_in(way: &Way) -> Result<Client, (String, bool)> {
    let attempt = async {
        let unreachable = |error: io::Error| (error.to_string(), false);
        let stream = dial(&way.host, way.port).await.map_err(unreachable)?;
        let mut config = tokio_postgres::Config::new();
        config.dbname(CONSOLE).user(&way.user).application_name("pgtandem replication");
        if let Some(password) = &way.password {
            config.password(password.expose());
        }
        let refused = |error: tokio_postgres::Error| {
            let said = error.as_db_error().map(|said| said.message().to_owned());
            let source = std::error::Error::source(&error).map(ToString::to_string);
            (said.or(source).unwrap_or_else(|| error.to_string()), true)
        };
        let (client, connection) = config.connect_raw(stream, NoTls).await.map_err(refused)?;
        // Its errors reach whoever waits for an answer; it ends when the client is dropped.
        tokio::spawn(async move { drop(connection.await) });
        Ok(client)
    };
    let late = |_| Err((format!("no answer within {LOGIN_LIMIT:?}"), false));
    tokio::time::timeout(LOGIN_LIMIT, attempt).await.unwrap_or_else(late)
}

/// Lists the ways in, the best first: as ourselves through the Unix socket, then as an administrator.
fn ways(config: &Config, who: &Who) -> Vec<Way> {
    let general = &config.general;
    let port = general.listen_port;
    let socket = general.unix_socket_dir.clone().map(Host::Unix);
    let any = |address: &String| match address.as_str() {
        "*" | "0.0.0.0" => Host::Tcp("127.0.0.1".to_owned()),
        "::" => Host::Tcp("::1".to_owned()),
        address => Host::Tcp(address.to_owned()),
    };
    let tcp = general.listen_addr.first().map(any);
    let mut ways = Vec::new();
    if who.user.is_none()
        && let Some(host) = &socket
    {
        let user = CONSOLE.to_owned();
        ways.push(Way { host: host.clone(), port, user, password: None });
    }
    let Some((user, password)) = account(config, who) else { return ways };
    for host in socket.into_iter().chain(tcp) {
        ways.push(Way { host, port, user: user.clone(), password: password.clone() });
    }
    ways
}

/// Whom to log in as where a password may be asked for: who was named, or the first administrator,
/// one whose password the configuration has if there is one.
fn account(config: &Config, who: &Who) -> Option<(String, Option<Secret>)> {
    let known = |user: &String| {
        match Stored::parse(config.secret(user)?) {
            Stored::Plain(password) => Some(password),
            // They check a login, and open none.
            Stored::Md5(_) | Stored::Scram(_) => None,
        }
    };
    let admins = &config.general.admin_users;
    let user = match &who.user {
        Some(user) => user,
        None => admins.iter().find(|user| known(user).is_some()).or(admins.first())?,
    };
    Some((user.clone(), who.password.clone().or_else(|| known(user))))
}

/// Says what would help.
fn advice(config: &Config, was_answered: bool) -> String {
    let general = &config.general;
    if !was_answered {
        return "Nobody listens there: is the proxy running, and with this configuration file \
                (--config)?"
            .to_owned();
    }
    let mut advice = String::new();
    if general.unix_socket_dir.is_some() {
        advice.push_str(
            "Run this as the account that the proxy runs as: it needs no password there. ",
        );
    } else {
        advice.push_str("With unix_socket_dir set, the proxy's own account needs no password. ");
    }
    if general.admin_users.is_empty() {
        advice.push_str("Or name somebody in admin_users.");
    } else {
        let names = general.admin_users.join(", ");
        advice.push_str("Or name one of admin_users (");
        advice.push_str(&names);
        advice.push_str(") with --user, and put the password into PGPASSWORD.");
    }
    advice
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, who: &Who, expected: &[&str]) {
        let config = Config::parse(text, "proxy.toml", &|_| None).unwrap();
        let ways = ways(&config, who);
        let shown: Vec<String> = ways
            .iter()
            .map(|way| {
                format!("{way}{}", if way.password.is_some() { " with password" } else { "" })
            })
            .collect();
        assert_eq!(shown, expected, "{text}");
    }

    #[test]
    fn the_ways_in() {
        let nobody = Who::default();
        check(
            "[general]\nunix_socket_dir = \"/run/p\"\n",
            &nobody,
            &["/run/p/.s.PGSQL.6432 as pgtandem"],
        );
        let text = "[general]\nunix_socket_dir = \"/run/p\"\nlisten_addr = \"*\"\n\
                    admin_users = [\"a\", \"b\"]\n[users.a]\n[users.b]\npassword = \"x\"\n";
        check(
            text,
            &nobody,
            &[
                "/run/p/.s.PGSQL.6432 as pgtandem",
                "/run/p/.s.PGSQL.6432 as b with password",
                "127.0.0.1:6432 as b with password",
            ],
        );
        let a = Who { user: Some("a".to_owned()), password: Some(Secret::new("y")) };
        check(
            text,
            &a,
            &["/run/p/.s.PGSQL.6432 as a with password", "127.0.0.1:6432 as a with password"],
        );
        let text = "[general]\nunix_socket_dir = \"\"\nlisten_port = 7000\nadmin_users = [\"a\"]\n\
                    [users.a]\npassword = \"md50123456789abcdef0123456789abcdef\"\n";
        check(text, &nobody, &["127.0.0.1:7000 as a"]);
    }
}
