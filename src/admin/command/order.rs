//! Commands about secondaries: `PAUSE SECONDARY app.new`, `VERIFY app public.t`, …
//!
//! A secondary is named by its database and itself with a dot between; the second part may be left out
//! where a database has only one. What PgBouncer has the verb for too needs the word SECONDARY, so
//! that neither can be taken for the other: its commands have at most one name behind the verb.

use std::fmt;
use std::time::Duration;

use super::{Parser, SyntaxError};
use crate::admin::token::Token;
use crate::config;
use crate::replication::catalog::TableName;

const PLACE: &str = "database.secondary; put quotes around names with dots or spaces";
const TABLE: &str = "a table, as schema.table";
const WHY: &str = "a reason in single quotes";
const LIMIT: &str = "TIMEOUT and a duration, such as TIMEOUT '60s'";

/// Something that is asked of a secondary.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Order {
    /// Copies what is to be copied, though `auto` is off.
    Copy(Place),
    /// Makes the primary's schema on an empty one first.
    CopySchema(Place),
    /// Stops applying.
    Pause(Place, Option<String>),
    /// Goes on.
    Resume(Place),
    /// Leaves out the change that it stopped at.
    Skip(Place),
    /// Copies these tables anew; all if none is named.
    Resync(Place, Vec<TableName>),
    /// Gives up following.
    Detach(Place, Option<String>),
    /// Waits until it has all that is committed now; for all secondaries if none is named.
    Wait(Option<Place>, Option<Duration>),
    /// Compares one table, or all; of all secondaries of the database if none is named.
    Verify(Place, Option<TableName>),
    /// Makes the rows of a table that are known to differ what they are on the primary.
    Repair {
        /// Where.
        place: Place,
        /// Which table.
        table: TableName,
        /// Whether the whole table is compared for it.
        is_whole: bool,
    },
}

/// A secondary, or those of a database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The database.
    pub database: String,
    /// The secondary, if one is named.
    pub secondary: Option<String>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.secondary {
            Some(secondary) => write!(f, "{}.{secondary}", self.database),
            None => f.write_str(&self.database),
        }
    }
}

impl Order {
    /// Returns the tag of CommandComplete.
    pub fn tag(&self) -> &'static str {
        match self {
            Self::Copy(_) | Self::CopySchema(_) => "COPY",
            Self::Pause(..) => "PAUSE",
            Self::Resume(_) => "RESUME",
            Self::Skip(_) => "SKIP",
            Self::Resync(..) => "RESYNC",
            Self::Detach(..) => "DETACH",
            Self::Wait(..) => "WAIT",
            Self::Verify(..) => "VERIFY",
            Self::Repair { .. } => "REPAIR",
        }
    }

    fn place(&self) -> Option<&Place> {
        match self {
            Self::Copy(place)
            | Self::CopySchema(place)
            | Self::Pause(place, _)
            | Self::Resume(place)
            | Self::Skip(place)
            | Self::Resync(place, _)
            | Self::Detach(place, _)
            | Self::Verify(place, _)
            | Self::Repair { place, .. } => Some(place),
            Self::Wait(place, _) => place.as_ref(),
        }
    }
}

/// For the log.
impl fmt::Display for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())?;
        if let Some(place) = self.place() {
            write!(f, " {place}")?;
        }
        match self {
            Self::Resync(_, tables) => tables.iter().try_for_each(|table| write!(f, " {table}")),
            Self::Verify(_, Some(table)) | Self::Repair { table, .. } => write!(f, " {table}"),
            Self::CopySchema(_) => f.write_str(" SCHEMA"),
            Self::Copy(_)
            | Self::Pause(..)
            | Self::Resume(_)
            | Self::Skip(_)
            | Self::Detach(..)
            | Self::Wait(..)
            | Self::Verify(_, None) => Ok(()),
        }
    }
}

impl Parser<'_> {
    /// Reads what follows `verb`, if that makes it a command about secondaries.
    pub(super) fn order(&mut self, verb: &str) -> Result<Option<Order>, SyntaxError> {
        let order = match verb {
            "VERIFY" => {
                let place = self.place()?;
                let table = if self.tokens.is_empty() { None } else { Some(self.table()?) };
                Order::Verify(place, table)
            }
            "REPAIR" => {
                let (place, table) = (self.place()?, self.table()?);
                Order::Repair { place, table, is_whole: self.has_keyword("ALL") }
            }
            "WAIT" if self.has_keyword("SECONDARIES") => Order::Wait(None, self.limit()?),
            "WAIT" | "COPY" | "SKIP" | "RESYNC" | "DETACH" => {
                if !self.has_keyword("SECONDARY") {
                    return Err(self.expected("SECONDARY and database.secondary"));
                }
                self.about_one(verb)?
            }
            // With one name behind it, it is PgBouncer's, whatever the name is.
            "PAUSE" | "RESUME" if self.tokens.len() > 1 && self.has_keyword("SECONDARY") => {
                self.about_one(verb)?
            }
            _ => return Ok(None),
        };
        Ok(Some(order))
    }

    fn about_one(&mut self, verb: &str) -> Result<Order, SyntaxError> {
        let place = self.place()?;
        Ok(match verb {
            "PAUSE" => Order::Pause(place, self.reason()?),
            "DETACH" => Order::Detach(place, self.reason()?),
            "RESUME" => Order::Resume(place),
            "SKIP" => Order::Skip(place),
            "COPY" if self.has_keyword("SCHEMA") => Order::CopySchema(place),
            "COPY" => Order::Copy(place),
            "RESYNC" => Order::Resync(place, self.tables()?),
            "WAIT" => Order::Wait(Some(place), self.limit()?),
            _ => return Err(self.unknown()),
        })
    }

    /// Reads `database` or `database.secondary`.
    fn place(&mut self) -> Result<Place, SyntaxError> {
        let mut parts = self.dotted(PLACE)?.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(database), secondary, None) => Ok(Place { database, secondary }),
            _ => Err(self.expected(PLACE)),
        }
    }

    /// Reads `table` or `schema.table`; the schema is `public` if none is named.
    fn table(&mut self) -> Result<TableName, SyntaxError> {
        let mut parts = self.dotted(TABLE)?.into_iter();
        match (parts.next(), parts.next(), parts.next()) {
            (Some(schema), Some(name), None) => Ok(TableName { schema, name }),
            (Some(name), None, None) => Ok(TableName { schema: "public".to_owned(), name }),
            _ => Err(self.expected(TABLE)),
        }
    }

    /// Reads tables with commas between them, if there are any.
    fn tables(&mut self) -> Result<Vec<TableName>, SyntaxError> {
        let mut tables = Vec::new();
        while !self.tokens.is_empty() {
            tables.push(self.table()?);
            match self.take() {
                Some(Token::Symbol(',')) if !self.tokens.is_empty() => {}
                None => {}
                Some(_) => return Err(self.expected("tables with commas between them")),
            }
        }
        Ok(tables)
    }

    /// Reads a reason, if there is one.
    fn reason(&mut self) -> Result<Option<String>, SyntaxError> {
        match self.take() {
            None => Ok(None),
            Some(Token::Literal(why)) => Ok(Some(why.clone())),
            Some(_) => Err(self.expected(WHY)),
        }
    }

    /// Reads `TIMEOUT duration`, if it is there; a number counts in seconds.
    fn limit(&mut self) -> Result<Option<Duration>, SyntaxError> {
        if self.tokens.is_empty() {
            return Ok(None);
        }
        let is_announced = self.has_keyword("TIMEOUT");
        let text = match self.take() {
            Some(Token::Literal(text) | Token::Quoted(text)) if is_announced => text.clone(),
            Some(Token::Word(text)) if is_announced => (*text).to_owned(),
            _ => return Err(self.expected(LIMIT)),
        };
        let limit = config::duration(&text).ok_or_else(|| self.expected(LIMIT))?;
        // As everywhere: 0 turns it off.
        Ok(Some(limit).filter(|limit| !limit.is_zero()))
    }

    /// Reads this keyword if it is the next word.
    fn has_keyword(&mut self, keyword: &str) -> bool {
        let is_next = matches!(self.tokens.first(), Some(Token::Word(word))
            if word.eq_ignore_ascii_case(keyword));
        if is_next {
            self.take();
        }
        is_next
    }

    /// Reads names with dots between them; in quotes a dot is part of the name.
    fn dotted(&mut self, expected: &'static str) -> Result<Vec<String>, SyntaxError> {
        let mut parts = Vec::new();
        let mut is_due = true;
        while let Some(token) = self.tokens.first() {
            match token {
                Token::Quoted(name) if is_due && !name.is_empty() => {
                    parts.push(name.clone());
                    is_due = false;
                }
                Token::Word(word) if is_due != word.starts_with('.') => {
                    let word = word.strip_prefix('.').unwrap_or(word);
                    is_due = word.is_empty() || word.ends_with('.');
                    let word = word.strip_suffix('.').unwrap_or(word);
                    let names = word.split('.').filter(|_| !word.is_empty());
                    for name in names {
                        if name.is_empty() {
                            return Err(self.expected(expected));
                        }
                        parts.push(name.to_owned());
                    }
                }
                Token::Word(_) | Token::Quoted(_) | Token::Literal(_) | Token::Symbol(_) => break,
            }
            self.take();
        }
        if is_due { Err(self.expected(expected)) } else { Ok(parts) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{Action, Command};
    use super::*;

    fn orders(text: &str, expected: Order) {
        assert_eq!(Command::parse(text), Ok(Command::Act(Action::Order(expected))), "{text}");
    }

    fn refused(text: &str, expected: &str) {
        let error = Command::parse(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }

    fn place(database: &str, secondary: Option<&str>) -> Place {
        Place { database: database.into(), secondary: secondary.map(str::to_owned) }
    }

    fn app_new() -> Place {
        place("app", Some("new"))
    }

    fn table(schema: &str, name: &str) -> TableName {
        TableName { schema: schema.into(), name: name.into() }
    }

    #[test]
    fn a_secondary_is_named_with_its_database() {
        orders("COPY SECONDARY app.new", Order::Copy(app_new()));
        orders("copy secondary app.new schema", Order::CopySchema(app_new()));
        orders("skip secondary App.New;", Order::Skip(place("App", Some("New"))));
        orders("RESUME SECONDARY app", Order::Resume(place("app", None)));
        for text in [
            "SKIP SECONDARY \"a.b\".\"c d\"",
            "SKIP SECONDARY \"a.b\" . \"c d\"",
            "SKIP SECONDARY \"a.b\". \"c d\"",
        ] {
            orders(text, Order::Skip(place("a.b", Some("c d"))));
        }
        orders("SKIP SECONDARY a.\"c.d\"", Order::Skip(place("a", Some("c.d"))));
        orders("SKIP SECONDARY \"a\".b", Order::Skip(place("a", Some("b"))));
    }

    #[test]
    fn pgbouncers_commands_stay_what_they_were() {
        let acts = |text, action| assert_eq!(Command::parse(text), Ok(Command::Act(action)));
        acts("PAUSE secondary", Action::Pause(Some("secondary".into())));
        acts("RESUME SECONDARY", Action::Resume(Some("SECONDARY".into())));
        acts("PAUSE app.new", Action::Pause(Some("app.new".into())));
        orders("PAUSE SECONDARY app.new", Order::Pause(app_new(), None));
        orders("PAUSE SECONDARY app.new 'lunch'", Order::Pause(app_new(), Some("lunch".into())));
        orders("DETACH SECONDARY app.new 'old'", Order::Detach(app_new(), Some("old".into())));
    }

    #[test]
    fn tables_have_a_schema() {
        orders("VERIFY app", Order::Verify(place("app", None), None));
        orders("verify app.new t", Order::Verify(app_new(), Some(table("public", "t"))));
        orders("verify app.new s.\"T t\"", Order::Verify(app_new(), Some(table("s", "T t"))));
        orders("RESYNC SECONDARY app.new", Order::Resync(app_new(), vec![]));
        orders(
            "RESYNC SECONDARY app.new a, s.b",
            Order::Resync(app_new(), vec![table("public", "a"), table("s", "b")]),
        );
        let repair =
            |is_whole| Order::Repair { place: app_new(), table: table("s", "t"), is_whole };
        orders("REPAIR app.new s.t", repair(false));
        orders("REPAIR app.new s.t ALL", repair(true));
    }

    #[test]
    fn a_wait_may_have_an_end() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        orders("WAIT SECONDARY app.new", Order::Wait(Some(app_new()), None));
        orders("WAIT SECONDARY app.new TIMEOUT 5", Order::Wait(Some(app_new()), seconds(5)));
        orders("wait secondaries timeout '2min'", Order::Wait(None, seconds(120)));
        orders("wait secondaries timeout 0", Order::Wait(None, None));
        refused(
            "WAIT SECONDARIES TIMEOUT soon",
            "invalid command 'WAIT SECONDARIES TIMEOUT soon': expected TIMEOUT and a duration, such \
             as TIMEOUT '60s'",
        );
    }

    #[test]
    fn what_is_half_said_is_refused() {
        let expected = |text: &str, what: &str| {
            refused(text, &format!("invalid command '{text}': expected {what}"));
        };
        expected("COPY", "SECONDARY and database.secondary");
        expected("COPY app.new", "SECONDARY and database.secondary");
        expected("COPY SECONDARY", PLACE);
        expected("COPY SECONDARY a.b.c", PLACE);
        expected("COPY SECONDARY a..b", PLACE);
        expected("COPY SECONDARY a.", PLACE);
        expected("COPY SECONDARY .a.", PLACE);
        expected("COPY SECONDARY \"\"", PLACE);
        expected("VERIFY", PLACE);
        expected("VERIFY a b.c.d", TABLE);
        expected("REPAIR a", TABLE);
        expected("PAUSE SECONDARY a b", WHY);
        expected("RESYNC SECONDARY a b c", "tables with commas between them");
        refused("COPY SECONDARY a b", "invalid command 'COPY SECONDARY a b', use SHOW HELP;");
        refused("REPAIR a b ALL x", "invalid command 'REPAIR a b ALL x', use SHOW HELP;");
    }

    proptest! {
        #[test]
        fn no_text_panics(
            text in "((pause|wait|verify|resync|secondary|secondaries|timeout|a|\\.|\"|,|a\\.b|'x') ?){0,8}"
        ) {
            let _ = Command::parse(&text);
        }

        #[test]
        fn any_two_names_can_be_told_apart(database in "[ -~]{1,8}", secondary in "[ -~]{1,8}") {
            let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
            let text = format!("COPY SECONDARY {}.{}", quoted(&database), quoted(&secondary));
            let expected = Order::Copy(Place { database, secondary: Some(secondary) });
            prop_assert_eq!(Command::parse(&text), Ok(Command::Act(Action::Order(expected))));
        }
    }
}
