//! What a server is to a fresh session, and whether that is what a database wants.
//!
//! Source: PostgreSQL `src/interfaces/libpq/fe-connect.c`, `CONNECTION_CHECK_TARGET`.

use std::fmt;

use crate::config::SessionAttrs;

/// The parameter by which a server says since version 14 whether it is in recovery.
pub const IN_HOT_STANDBY: &[u8] = b"in_hot_standby";

const READ_ONLY: &[u8] = b"default_transaction_read_only";

/// What a server is to a fresh session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Standing {
    /// Whether it is in recovery: a standby.
    pub is_standby: bool,
    /// Whether transactions are read-only there by default, standby or not.
    pub is_read_only: bool,
}

impl fmt::Display for Standing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match (self.is_standby, self.is_read_only) {
            (true, _) => "standby",
            (false, true) => "read-only primary",
            (false, false) => "primary",
        })
    }
}

/// How well a server goes with what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fit {
    /// It is that.
    Wanted,
    /// It will do where there is none that is.
    Spare,
    /// It is not; why not, in libpq's words.
    Wrong(&'static str),
}

impl Standing {
    /// Reads it from what a server reports at login; `None` before version 14, which does not say.
    pub fn reported(parameters: &[(Vec<u8>, Vec<u8>)]) -> Option<Self> {
        let is_on = |wanted: &[u8]| {
            let reported = parameters.iter().find(|(name, _)| name == wanted);
            reported.map(|(_, value)| value == b"on")
        };
        Some(Self {
            is_standby: is_on(IN_HOT_STANDBY)?,
            is_read_only: is_on(READ_ONLY)? || is_on(IN_HOT_STANDBY)?,
        })
    }

    /// What holds for all its sessions: whether transactions are read-only by default can differ from
    /// role to role and from database to database.
    #[must_use]
    pub fn of_server(self) -> Self {
        Self { is_read_only: self.is_standby, ..self }
    }

    /// Says how a server that is this, or has not said what it is, goes with what is wanted.
    pub fn fit(standing: Option<Self>, attrs: SessionAttrs) -> Fit {
        let (is_standby, is_read_only) =
            standing.map_or((false, false), |known| (known.is_standby, known.is_read_only));
        let wrong = match attrs {
            SessionAttrs::ReadWrite if is_read_only => "session is read-only",
            SessionAttrs::ReadOnly if !is_read_only => "session is not read-only",
            SessionAttrs::Primary if is_standby => "server is in hot standby mode",
            SessionAttrs::Standby if !is_standby => "server is not in hot standby mode",
            SessionAttrs::PreferStandby if !is_standby => return Fit::Spare,
            SessionAttrs::Any
            | SessionAttrs::ReadWrite
            | SessionAttrs::ReadOnly
            | SessionAttrs::Primary
            | SessionAttrs::Standby
            | SessionAttrs::PreferStandby => return Fit::Wanted,
        };
        Fit::Wrong(wrong)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRIMARY: Standing = Standing { is_standby: false, is_read_only: false };
    const READ_ONLY_PRIMARY: Standing = Standing { is_standby: false, is_read_only: true };
    const STANDBY: Standing = Standing { is_standby: true, is_read_only: true };

    #[test]
    fn every_wish_has_its_servers() {
        use SessionAttrs as A;
        for (attrs, wanted) in [
            (A::Any, &[PRIMARY, READ_ONLY_PRIMARY, STANDBY][..]),
            (A::ReadWrite, &[PRIMARY]),
            (A::ReadOnly, &[READ_ONLY_PRIMARY, STANDBY]),
            (A::Primary, &[PRIMARY, READ_ONLY_PRIMARY]),
            (A::Standby, &[STANDBY]),
            (A::PreferStandby, &[STANDBY]),
        ] {
            for standing in [PRIMARY, READ_ONLY_PRIMARY, STANDBY] {
                let fit = Standing::fit(Some(standing), attrs);
                assert_eq!(fit == Fit::Wanted, wanted.contains(&standing), "{attrs:?} {standing}");
                let is_spare = attrs == A::PreferStandby && standing != STANDBY;
                assert_eq!(fit == Fit::Spare, is_spare, "{attrs:?} {standing}");
            }
        }
        assert_eq!(Standing::fit(None, A::Any), Fit::Wanted);
    }

    #[test]
    fn servers_say_what_they_are_since_version_14() {
        let param = |name: &[u8], value: &[u8]| (name.to_vec(), value.to_vec());
        let version_13 = [param(b"server_version", b"13.9")];
        assert_eq!(Standing::reported(&version_13), None);
        let report = |hot: &[u8], read_only: &[u8]| {
            Standing::reported(&[param(IN_HOT_STANDBY, hot), param(READ_ONLY, read_only)])
        };
        assert_eq!(report(b"off", b"off"), Some(PRIMARY));
        assert_eq!(report(b"off", b"on"), Some(READ_ONLY_PRIMARY));
        assert_eq!(report(b"on", b"off"), Some(STANDBY));
    }
}
