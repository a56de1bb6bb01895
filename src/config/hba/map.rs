//! One line of `pg_ident.conf`: who somebody known elsewhere may be here.
//!
//! Source: PostgreSQL `src/backend/libpq/hba.c`, `parse_ident_line`, `check_ident_usermap`.

use super::rule::Pattern;
use super::text::{Line, Token};

/// What a line allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapEntry {
    map: String,
    system_user: SystemUser,
    database_user: DatabaseUser,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum SystemUser {
    Name(String),
    Like(Pattern),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum DatabaseUser {
    All,
    /// Where `\1` stands for what the first parentheses of the pattern matched.
    Name(String),
    Like(Pattern),
}

impl MapEntry {
    /// Reads a line.
    pub(super) fn parse(line: &Line) -> Result<Self, String> {
        let single = |at: usize| match line.fields.get(at).map(Vec::as_slice) {
            Some([token]) => Ok(token),
            None | Some([]) => Err("missing entry at end of line".to_owned()),
            Some(_) => Err("multiple values in ident field".to_owned()),
        };
        let (map, system_user, database_user) = (single(0)?, single(1)?, single(2)?);
        if line.fields.len() > 3 {
            return Err("more than a map, a system user and a database user".to_owned());
        }
        let system_user = match system_user.text.strip_prefix('/') {
            Some(pattern) => SystemUser::Like(Pattern::new(pattern)?),
            None => SystemUser::Name(system_user.text.clone()),
        };
        let database_user = DatabaseUser::parse(database_user)?;
        if let (SystemUser::Like(pattern), DatabaseUser::Name(name)) =
            (&system_user, &database_user)
            && name.contains("\\1")
            && pattern.regex().captures_len() < 2
        {
            return Err(format!(
                "regular expression {:?} has no subexpressions as requested by backreference in \
                 {name:?}",
                pattern.regex().as_str()
            ));
        }
        Ok(Self { map: map.text.clone(), system_user, database_user })
    }

    /// Says whether `map` lets `system_user` be `user`.
    pub fn allows(&self, map: &str, system_user: &str, user: &str) -> bool {
        if self.map != map {
            return false;
        }
        let first = match &self.system_user {
            SystemUser::Name(name) if name == system_user => None,
            SystemUser::Name(_) => return false,
            SystemUser::Like(pattern) => match pattern.regex().captures(system_user) {
                Some(found) => found.get(1).map(|first| first.as_str()),
                None => return false,
            },
        };
        match &self.database_user {
            DatabaseUser::All => true,
            DatabaseUser::Like(pattern) => pattern.regex().is_match(user),
            DatabaseUser::Name(name) => match &self.system_user {
                // Only the first stands for something, as in PostgreSQL.
                SystemUser::Like(_) => name.replacen("\\1", first.unwrap_or_default(), 1) == user,
                SystemUser::Name(_) => name == user,
            },
        }
    }
}

impl DatabaseUser {
    fn parse(token: &Token) -> Result<Self, String> {
        Ok(match token.text.strip_prefix('/') {
            Some(pattern) => Self::Like(Pattern::new(pattern)?),
            None if token.is("all") => Self::All,
            None if token.text.starts_with('+') && !token.is_quoted => {
                return Err(format!(
                    "{:?} is not available in this version: who is in which role is not known here",
                    token.text
                ));
            }
            None => Self::Name(token.text.clone()),
        })
    }
}
