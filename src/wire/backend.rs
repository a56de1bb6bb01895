//! Views of the server messages whose bodies a pooler must understand.

use super::cursor::{Cursor, Malformed};

/// The body of ParameterStatus.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ParameterStatus<'a> {
    /// The parameter's name as the server spells it.
    pub name: &'a [u8],
    /// Its value in the server's own form.
    pub value: &'a [u8],
}

/// Reads the body of ParameterStatus.
pub fn parameter_status(body: &[u8]) -> Result<ParameterStatus<'_>, Malformed> {
    let mut cursor = Cursor::new(body);
    let name = cursor.cstr()?;
    let value = cursor.cstr()?;
    cursor.finish()?;
    Ok(ParameterStatus { name, value })
}

/// The fields of an ErrorResponse that decisions are made on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerError<'a> {
    /// Severity, not localised; empty if the server did not send it (before 9.6).
    pub severity: &'a [u8],
    /// SQLSTATE; `XX000` if the server did not send one.
    pub sqlstate: [u8; 5],
    /// The primary message; empty if the server did not send one.
    pub message: &'a [u8],
}

/// Reads the body of ErrorResponse. Fields may be missing: then they have the stated defaults.
pub fn error_response(body: &[u8]) -> ServerError<'_> {
    let mut error = ServerError { severity: b"", sqlstate: *b"XX000", message: b"" };
    let mut cursor = Cursor::new(body);
    while let Ok(field) = cursor.u8() {
        if field == 0 {
            break;
        }
        let Ok(text) = cursor.cstr() else { break };
        match field {
            b'V' => error.severity = text,
            b'C' => error.sqlstate = text.try_into().unwrap_or(error.sqlstate),
            b'M' => error.message = text,
            _ => {}
        }
    }
    error
}

/// The body of NotificationResponse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Notification<'a> {
    /// The server process that notified.
    pub pid: i32,
    /// The channel's name.
    pub channel: &'a [u8],
    /// What was said.
    pub payload: &'a [u8],
}

/// Reads the body of NotificationResponse.
pub fn notification(body: &[u8]) -> Result<Notification<'_>, Malformed> {
    let mut cursor = Cursor::new(body);
    let pid = cursor.i32()?;
    let channel = cursor.cstr()?;
    let payload = cursor.cstr()?;
    cursor.finish()?;
    Ok(Notification { pid, channel, payload })
}

/// Reads the tag of CommandComplete.
pub fn command_tag(body: &[u8]) -> Result<&[u8], Malformed> {
    Cursor::new(body).cstr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_error_response_may_lack_fields() {
        let error = error_response(b"SERROR\0VERROR\0C42P05\0Mno\0\0");
        assert_eq!((error.severity, error.sqlstate), (&b"ERROR"[..], *b"42P05"));
        assert_eq!(error.message, b"no");
        assert_eq!(error_response(b"\0").sqlstate, *b"XX000");
        assert_eq!(error_response(b"C1\0").sqlstate, *b"XX000");
        assert_eq!(error_response(b"Mcut").message, b"");
    }

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = error_response(&body);
            let _ = parameter_status(&body);
            let _ = command_tag(&body);
            let _ = notification(&body);
        }
    }
}
