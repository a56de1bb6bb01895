//! Channel binding: what ties a proof to the TLS connection that it is given on, so that nobody in
//! between can use it elsewhere.
//!
//! Source: RFC 5802, section 6; PostgreSQL `src/backend/libpq/auth-scram.c`,
//! `read_client_first_message`.

use std::sync::Arc;

use base64::Engine;
use base64::prelude::BASE64_STANDARD as BASE64;

use super::ScramError;
use super::grammar::Gs2;

/// The header of a client that demands it, up to the data.
const END_POINT_HEADER: &str = "p=tls-server-end-point,,";

/// What a server offers to its client, and what that chose.
#[derive(Debug, Clone, Default)]
pub enum Offer {
    /// There is nothing to bind to: no TLS, or a certificate without a hash of its own.
    #[default]
    Nothing,
    /// The client was offered `SCRAM-SHA-256-PLUS` with this data, and chose to go without.
    Declined,
    /// The client chose `SCRAM-SHA-256-PLUS`; this is the data.
    Chosen(Arc<[u8]>),
}

impl Offer {
    /// Checks the header of client-first-message; returns what client-final-message must repeat.
    pub(super) fn check(&self, header: Gs2<'_>) -> Result<Vec<u8>, ScramError> {
        match (header, self) {
            (Gs2::Unsupported, Self::Nothing | Self::Declined) => Ok(b"biws".to_vec()),
            (Gs2::NotOffered, Self::Nothing) => Ok(b"eSws".to_vec()),
            // Somebody has taken it off the list.
            (Gs2::NotOffered, Self::Declined) => Err(ScramError::Downgrade),
            (Gs2::Unsupported | Gs2::NotOffered, Self::Chosen(_)) => {
                Err(ScramError::Malformed { what: "channel binding is missing" })
            }
            (Gs2::Bound(_), Self::Nothing | Self::Declined) => Err(ScramError::ChannelBinding),
            (Gs2::Bound(b"tls-server-end-point"), Self::Chosen(data)) => {
                Ok(BASE64.encode([END_POINT_HEADER.as_bytes(), data].concat()).into_bytes())
            }
            (Gs2::Bound(_), Self::Chosen(_)) => Err(ScramError::BindingType),
        }
    }

    /// Says what is wrong if client-final-message repeats something else.
    pub(super) fn mismatch(&self) -> ScramError {
        match self {
            Self::Nothing | Self::Declined => ScramError::ChannelBinding,
            Self::Chosen(_) => ScramError::BindingMismatch,
        }
    }
}

/// What a client binds its proof to.
#[derive(Debug, Clone, Default)]
pub enum Binding {
    /// Nothing: it cannot.
    #[default]
    Unsupported,
    /// Nothing: it could, and the server does not offer it.
    NotOffered,
    /// The data of `tls-server-end-point`.
    EndPoint(Arc<[u8]>),
}

impl Binding {
    /// Returns the name of the mechanism that goes with it.
    pub fn mechanism(&self) -> &'static str {
        match self {
            Self::Unsupported | Self::NotOffered => super::MECHANISM,
            Self::EndPoint(_) => super::MECHANISM_PLUS,
        }
    }

    pub(super) fn header(&self) -> &'static str {
        match self {
            Self::Unsupported => "n,,",
            Self::NotOffered => "y,,",
            Self::EndPoint(_) => END_POINT_HEADER,
        }
    }

    /// Returns header and data in base64.
    pub(super) fn attribute(&self) -> String {
        let data: &[u8] = match self {
            Self::Unsupported | Self::NotOffered => &[],
            Self::EndPoint(data) => data,
        };
        BASE64.encode([self.header().as_bytes(), data].concat())
    }
}
