//! Proving who one is: SCRAM-SHA-256 and md5, on both sides of the proxy.
//!
//! Job: the exchanges themselves and the forms in which a password is kept. Nothing here knows
//! sockets or configuration; nonces and salts are arguments, so every exchange can be replayed.

use std::fmt;
use std::sync::Arc;

use crate::secret::Secret;

pub mod hba;
pub mod md5;
pub mod scram;

use scram::{ClientCredential, ClientKeys, DerivedKeys, ScramSecret};

/// A kept password, told apart by its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// The password itself.
    Plain(Secret),
    /// `md5` and 32 hexadecimal digits; opens a server that asks for md5.
    Md5(Secret),
    /// A SCRAM secret; checks a client, but opens nothing by itself.
    Scram(ScramSecret),
}

impl Stored {
    /// Tells the form of `secret`; what is neither md5 nor SCRAM is a plain password.
    ///
    /// Source: PostgreSQL `src/backend/libpq/crypt.c`, `get_password_type`.
    pub fn parse(secret: &Secret) -> Self {
        if md5::is_shadow(secret.expose()) {
            return Self::Md5(secret.clone());
        }
        ScramSecret::parse(secret.expose()).map_or_else(|| Self::Plain(secret.clone()), Self::Scram)
    }
}

/// What a client's login taught us that opens servers too.
#[derive(Clone, PartialEq, Eq)]
pub enum Learned {
    /// The client's password, in clear text: it sent it, or a server had it.
    Password(Secret),
    /// The md5 form of a password, which a server had.
    Shadow(Secret),
    /// The client's SCRAM proof gave away its keys.
    Keys(ClientKeys),
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(***)",
            Self::Shadow(_) => "Shadow(***)",
            Self::Keys(_) => "Keys(***)",
        })
    }
}

/// What we can log in with at a server.
///
/// Each request is answered from `stored` if that can answer it, else from `learned`.
#[derive(Debug, Clone, Default)]
pub struct Credentials {
    /// What the configuration holds: plain, md5 or SCRAM.
    pub stored: Option<Secret>,
    /// What the client's own login taught us.
    pub learned: Option<Learned>,
    /// What a password of these was derived to; shared by all logins of a pool.
    pub derived: Arc<DerivedKeys>,
}

impl Credentials {
    /// Returns the password for a server that wants it in clear text.
    ///
    /// One with a zero byte in it cannot be sent.
    pub fn password(&self) -> Option<Secret> {
        self.stored_form()
            .and_then(|stored| match stored {
                Stored::Plain(password) => Some(password),
                Stored::Md5(_) | Stored::Scram(_) => None,
            })
            .or_else(|| self.learned_password().cloned())
            .filter(|password| !password.expose().contains(&0))
    }

    /// Returns the answer to an md5 request with `salt` for `user`.
    pub fn md5_response(&self, user: &[u8], salt: [u8; 4]) -> Option<String> {
        let from_password =
            |password: &Secret| md5::response(&md5::shadow(password.expose(), user), salt);
        let from_shadow = |shadow: &Secret| {
            std::str::from_utf8(shadow.expose()).ok().and_then(|text| md5::response(text, salt))
        };
        self.stored_form()
            .and_then(|stored| match stored {
                Stored::Plain(password) => from_password(&password),
                Stored::Md5(shadow) => from_shadow(&shadow),
                Stored::Scram(_) => None,
            })
            .or_else(|| match self.learned.as_ref()? {
                Learned::Password(password) => from_password(password),
                Learned::Shadow(shadow) => from_shadow(shadow),
                Learned::Keys(_) => None,
            })
    }

    /// Returns what a SCRAM exchange can be held with.
    pub fn scram(&self) -> Option<ClientCredential> {
        self.stored_form()
            .and_then(|stored| match stored {
                Stored::Plain(password) => Some(ClientCredential::Password(password)),
                Stored::Md5(_) | Stored::Scram(_) => None,
            })
            .or_else(|| match self.learned.as_ref()? {
                Learned::Password(password) => Some(ClientCredential::Password(password.clone())),
                Learned::Keys(keys) => Some(ClientCredential::Keys(keys.clone())),
                Learned::Shadow(_) => None,
            })
    }

    fn stored_form(&self) -> Option<Stored> {
        self.stored.as_ref().map(Stored::parse)
    }

    fn learned_password(&self) -> Option<&Secret> {
        match self.learned.as_ref()? {
            Learned::Password(password) => Some(password),
            Learned::Shadow(_) | Learned::Keys(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCRAM: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==\
        $WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    fn credentials(stored: Option<&str>, learned: Option<Learned>) -> Credentials {
        Credentials { stored: stored.map(Secret::new), learned, ..Credentials::default() }
    }

    fn keys() -> Learned {
        Learned::Keys(ClientKeys { client_key: [1; 32], server_key: [2; 32] })
    }

    fn password(text: &str) -> Learned {
        Learned::Password(Secret::new(text))
    }

    /// Which requests can be answered: clear text, md5, SCRAM.
    fn answers(credentials: &Credentials) -> [bool; 3] {
        [
            credentials.password().is_some(),
            credentials.md5_response(b"u", [1, 2, 3, 4]).is_some(),
            credentials.scram().is_some(),
        ]
    }

    #[test]
    fn tells_the_forms_apart() {
        let form = |text: &str| match Stored::parse(&Secret::new(text)) {
            Stored::Plain(_) => "plain",
            Stored::Md5(_) => "md5",
            Stored::Scram(_) => "scram",
        };
        assert_eq!(form("secret"), "plain");
        assert_eq!(form(""), "plain");
        assert_eq!(form("md5"), "plain");
        assert_eq!(form("md5a8d09f5b1d2c3e4f5a6b7c8d9e0f1a2b"), "md5");
        assert_eq!(form("md5A8D09F5B1D2C3E4F5A6B7C8D9E0F1A2B"), "plain");
        assert_eq!(form(SCRAM), "scram");
        assert_eq!(form("SCRAM-SHA-256$4096:x$y:z"), "plain");
    }

    #[test]
    fn answers_what_each_credential_can() {
        let shadow = md5::shadow(b"p", b"u");
        assert_eq!(answers(&credentials(None, None)), [false, false, false]);
        assert_eq!(answers(&credentials(Some("p"), None)), [true, true, true]);
        assert_eq!(answers(&credentials(Some(&shadow), None)), [false, true, false]);
        assert_eq!(answers(&credentials(Some(SCRAM), None)), [false, false, false]);
        assert_eq!(answers(&credentials(Some(SCRAM), Some(keys()))), [false, false, true]);
        assert_eq!(answers(&credentials(None, Some(keys()))), [false, false, true]);
        assert_eq!(answers(&credentials(None, Some(password("p")))), [true, true, true]);
        let learned = || Learned::Shadow(Secret::new(md5::shadow(b"p", b"u")));
        assert_eq!(answers(&credentials(None, Some(learned()))), [false, true, false]);
        assert_eq!(answers(&credentials(Some(&shadow), Some(password("p")))), [true, true, true]);
        assert_eq!(answers(&credentials(Some(&shadow), Some(keys()))), [false, true, true]);
    }

    #[test]
    fn the_stored_password_wins_over_the_learned_one() {
        let both = credentials(Some("stored"), Some(password("learned")));
        assert_eq!(both.password(), Some(Secret::new("stored")));
        let expected = md5::response(&md5::shadow(b"stored", b"u"), [9; 4]);
        assert_eq!(both.md5_response(b"u", [9; 4]), expected);
        let Some(ClientCredential::Password(used)) = both.scram() else {
            unreachable!("a password is at hand");
        };
        assert_eq!(used, Secret::new("stored"));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let shown = format!(
            "{:?} {:?} {:?}",
            credentials(Some("hunter2"), Some(keys())),
            credentials(Some(SCRAM), Some(password("hunter2"))),
            Stored::parse(&Secret::new(SCRAM)),
        );
        for leak in ["hunter2", "WG5d", "wfPL", "1, 1", "2, 2", "88, 110"] {
            assert!(!shown.contains(leak), "{leak} in {shown}");
        }
    }
}
