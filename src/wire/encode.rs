//! Writers for the messages that we originate. Each appends one whole message to `out`.
//!
//! Strings must not contain zero bytes; callers pass constants, names that came out of
//! zero-terminated strings, or text they composed.

use super::tag::{backend, frontend};

/// Appends a message with `tag` whose body is what `body` appends.
pub fn message(out: &mut Vec<u8>, tag: u8, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    untagged(out, body);
}

/// Appends a message without a tag: the first message of a connection.
pub fn untagged(out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    let length_at = out.len();
    out.extend_from_slice(&[0; 4]);
    body(out);
    let length = u32::try_from(out.len() - length_at).unwrap_or(u32::MAX);
    debug_assert!(length < u32::MAX >> 1, "a message of ours never comes near 2 GiB");
    if let Some(field) = out.get_mut(length_at..length_at + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends `text` and its terminating zero byte.
pub fn cstr(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(text);
    out.push(0);
}

/// Appends ErrorResponse or NoticeResponse (by `tag`) with the fields every client understands.
///
/// `severity` is sent both localised (S) and not (V), as PostgreSQL 9.6 and later do.
pub fn report(
    out: &mut Vec<u8>,
    tag: u8,
    severity: &str,
    sqlstate: &[u8; 5],
    message_text: &[u8],
    extra: &[(u8, &[u8])],
) {
    message(out, tag, |out| {
        for (field, text) in
            [(b'S', severity.as_bytes()), (b'V', severity.as_bytes()), (b'C', &sqlstate[..])]
        {
            out.push(field);
            cstr(out, text);
        }
        out.push(b'M');
        cstr(out, message_text);
        for (field, text) in extra {
            out.push(*field);
            cstr(out, text);
        }
        out.push(0);
    });
}

/// Appends a message that is nothing but its tag, such as ParseComplete.
pub fn bare(out: &mut Vec<u8>, tag: u8) {
    out.extend_from_slice(&[tag, 0, 0, 0, 4]);
}

/// Appends CommandComplete.
pub fn command_complete(out: &mut Vec<u8>, command_tag: &[u8]) {
    message(out, backend::COMMAND_COMPLETE, |out| cstr(out, command_tag));
}

/// Appends ParameterDescription: the object ids of the parameters' types.
pub fn parameter_description(out: &mut Vec<u8>, types: &[u32]) {
    message(out, backend::PARAMETER_DESCRIPTION, |out| {
        let count = u16::try_from(types.len()).unwrap_or(u16::MAX);
        out.extend_from_slice(&count.to_be_bytes());
        for oid in types.iter().take(usize::from(count)) {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// Appends ReadyForQuery; `status` is `I`, `T` or `E`.
pub fn ready_for_query(out: &mut Vec<u8>, status: u8) {
    out.extend_from_slice(&[backend::READY_FOR_QUERY, 0, 0, 0, 5, status]);
}

/// Appends AuthenticationOk.
pub fn authentication_ok(out: &mut Vec<u8>) {
    authentication(out, 0, &[]);
}

/// Appends an authentication request of the given `code` with its `data`.
pub fn authentication(out: &mut Vec<u8>, code: u32, data: &[u8]) {
    message(out, backend::AUTHENTICATION, |out| {
        out.extend_from_slice(&code.to_be_bytes());
        out.extend_from_slice(data);
    });
}

/// Appends ParameterStatus.
pub fn parameter_status(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    message(out, backend::PARAMETER_STATUS, |out| {
        cstr(out, name);
        cstr(out, value);
    });
}

/// Appends BackendKeyData; the secret has 4 bytes, or up to 256 as of protocol 3.2.
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: &[u8]) {
    message(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(secret);
    });
}

/// Appends Query.
pub fn query(out: &mut Vec<u8>, sql: &[u8]) {
    message(out, frontend::QUERY, |out| cstr(out, sql));
}

/// Appends Parse; `rest` is everything behind the name: the text and the parameter types.
pub fn parse(out: &mut Vec<u8>, name: &[u8], rest: &[u8]) {
    message(out, frontend::PARSE, |out| {
        cstr(out, name);
        out.extend_from_slice(rest);
    });
}

/// Appends a whole question: Parse and Bind of the unnamed statement, Execute, Sync. Parameters and
/// results are text; there are at most 65,535 parameters.
pub fn question(out: &mut Vec<u8>, sql: &[u8], parameters: &[&[u8]]) {
    message(out, frontend::PARSE, |out| {
        cstr(out, b"");
        cstr(out, sql);
        out.extend_from_slice(&[0, 0]);
    });
    message(out, frontend::BIND, |out| {
        cstr(out, b"");
        cstr(out, b"");
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&u16::try_from(parameters.len()).unwrap_or(u16::MAX).to_be_bytes());
        for parameter in parameters {
            let length = u32::try_from(parameter.len()).unwrap_or(u32::MAX);
            out.extend_from_slice(&length.to_be_bytes());
            out.extend_from_slice(parameter);
        }
        out.extend_from_slice(&[0, 0]);
    });
    message(out, frontend::EXECUTE, |out| {
        cstr(out, b"");
        out.extend_from_slice(&[0; 4]);
    });
    sync(out);
}

/// The value of a parameter of a Bind.
#[derive(Debug, Clone, Copy)]
pub enum Parameter<'a> {
    /// As text, or null.
    Text(Option<&'a [u8]>),
    /// As the type's own format.
    Binary(&'a [u8]),
}

/// Appends Parse with the types of its parameters; there are at most 65,535.
pub fn parse_typed(out: &mut Vec<u8>, name: &[u8], sql: &[u8], types: &[u32]) {
    message(out, frontend::PARSE, |out| {
        cstr(out, name);
        cstr(out, sql);
        out.extend_from_slice(&count(types.len()));
        for oid in types {
            out.extend_from_slice(&oid.to_be_bytes());
        }
    });
}

/// Appends Bind; there are at most 65,535 parameters, and results are text.
pub fn bind(out: &mut Vec<u8>, portal: &[u8], statement: &[u8], parameters: &[Parameter<'_>]) {
    message(out, frontend::BIND, |out| {
        cstr(out, portal);
        cstr(out, statement);
        out.extend_from_slice(&count(parameters.len()));
        for parameter in parameters {
            let format: u16 = match parameter {
                Parameter::Text(_) => 0,
                Parameter::Binary(_) => 1,
            };
            out.extend_from_slice(&format.to_be_bytes());
        }
        out.extend_from_slice(&count(parameters.len()));
        for parameter in parameters {
            let (Parameter::Text(Some(value)) | Parameter::Binary(value)) = parameter else {
                out.extend_from_slice(&(-1_i32).to_be_bytes());
                continue;
            };
            out.extend_from_slice(&u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes());
            out.extend_from_slice(value);
        }
        out.extend_from_slice(&[0, 0]);
    });
}

/// Appends Execute without a limit.
pub fn execute(out: &mut Vec<u8>, portal: &[u8]) {
    message(out, frontend::EXECUTE, |out| {
        cstr(out, portal);
        out.extend_from_slice(&[0; 4]);
    });
}

fn count(count: usize) -> [u8; 2] {
    u16::try_from(count).unwrap_or(u16::MAX).to_be_bytes()
}

/// Appends Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, frontend::CLOSE, |out| {
        out.push(b'S');
        cstr(out, name);
    });
}

/// Appends Close of a portal.
pub fn close_portal(out: &mut Vec<u8>, name: &[u8]) {
    message(out, frontend::CLOSE, |out| {
        out.push(b'P');
        cstr(out, name);
    });
}

/// Appends Bind and Execute of a statement without parameters or results, by a portal of its name.
pub fn run(out: &mut Vec<u8>, name: &[u8]) {
    message(out, frontend::BIND, |out| {
        cstr(out, name);
        cstr(out, name);
        out.extend_from_slice(&[0; 6]);
    });
    message(out, frontend::EXECUTE, |out| {
        cstr(out, name);
        out.extend_from_slice(&[0; 4]);
    });
}

/// Appends PasswordMessage or SASLResponse.
pub fn password(out: &mut Vec<u8>, body: &[u8]) {
    message(out, frontend::PASSWORD, |out| out.extend_from_slice(body));
}

/// Appends Sync.
pub fn sync(out: &mut Vec<u8>) {
    out.extend_from_slice(&[frontend::SYNC, 0, 0, 0, 4]);
}

/// Appends Flush.
pub fn flush(out: &mut Vec<u8>) {
    out.extend_from_slice(&[frontend::FLUSH, 0, 0, 0, 4]);
}

/// Appends Terminate.
pub fn terminate(out: &mut Vec<u8>) {
    out.extend_from_slice(&[frontend::TERMINATE, 0, 0, 0, 4]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::header::{self, MESSAGE_BYTES_MAX};
    use crate::wire::{backend as server, frontend as client};
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        // What is there already must stay as it is.
        let mut out = b"before".to_vec();
        write(&mut out);
        assert_eq!(out.get(..6), Some(&b"before"[..]));
        out.split_off(6)
    }

    /// The body of the one message in `bytes`.
    fn body(bytes: &[u8], tag: u8) -> &[u8] {
        let header = header::read(bytes, MESSAGE_BYTES_MAX).expect("possible").expect("whole");
        assert_eq!((header.tag, header.message_bytes()), (tag, bytes.len()));
        bytes.get(header::HEADER_BYTES..).expect("a body")
    }

    #[test]
    fn messages_are_what_the_protocol_says() {
        for (bytes, expected) in [
            (written(|out| ready_for_query(out, b'T')), &b"Z\0\0\0\x05T"[..]),
            (written(|out| bare(out, backend::NO_DATA)), b"n\0\0\0\x04"),
            (written(|out| command_complete(out, b"SHOW")), b"C\0\0\0\x09SHOW\0"),
            (written(|out| parameter_description(out, &[23])), b"t\0\0\0\x0a\0\x01\0\0\0\x17"),
            (written(authentication_ok), b"R\0\0\0\x08\0\0\0\0"),
            (written(|out| authentication(out, 5, b"salt")), b"R\0\0\0\x0c\0\0\0\x05salt"),
            (written(|out| parameter_status(out, b"a", b"b")), b"S\0\0\0\x08a\0b\0"),
            (written(|out| backend_key_data(out, 258, b"key!")), b"K\0\0\0\x0c\0\0\x01\x02key!"),
            (written(|out| query(out, b"select 1")), b"Q\0\0\0\x0dselect 1\0"),
            (written(|out| parse(out, b"s", b"t\0\0\0")), b"P\0\0\0\x0as\0t\0\0\0"),
            (written(|out| close_statement(out, b"s")), b"C\0\0\0\x07Ss\0"),
            (written(|out| password(out, b"p\0")), b"p\0\0\0\x06p\0"),
            (written(sync), b"S\0\0\0\x04"),
            (written(terminate), b"X\0\0\0\x04"),
            (written(|out| untagged(out, |out| out.push(7))), b"\0\0\0\x05\x07"),
        ] {
            assert_eq!(bytes, expected);
        }
    }

    fn text() -> impl Strategy<Value = Vec<u8>> {
        vec(1..=u8::MAX, 0..24)
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(
            name in text(),
            value in text(),
            types in vec(any::<u32>(), 0..4),
        ) {
            let bytes = written(|out| parameter_status(out, &name, &value));
            let read = server::parameter_status(body(&bytes, backend::PARAMETER_STATUS));
            let expected = server::ParameterStatus { name: &name, value: &value };
            prop_assert_eq!(read, Ok(expected));

            let mut definition = [&value[..], b"\0\0"].concat();
            definition.push(u8::try_from(types.len()).expect("few"));
            definition.extend(types.iter().flat_map(|oid| oid.to_be_bytes()));
            let bytes = written(|out| parse(out, &name, &definition));
            let read = client::parse(body(&bytes, frontend::PARSE));
            prop_assert_eq!(read, Ok(client::Parse { name: &name, definition: &definition }));

            let bytes = written(|out| close_statement(out, &name));
            let read = client::named(body(&bytes, frontend::CLOSE));
            let target = client::Target::Statement;
            prop_assert_eq!(read, Ok(client::Named { target, name: &name }));

            let bytes = written(|out| query(out, &value));
            prop_assert_eq!(client::query(body(&bytes, frontend::QUERY)), Ok(&value[..]));

            let bytes = written(|out| {
                let extra = [(b'H', &name[..])];
                report(out, backend::ERROR_RESPONSE, "ERROR", b"42P05", &value, &extra);
            });
            let read = server::error_response(body(&bytes, backend::ERROR_RESPONSE));
            let expected =
                server::ServerError { severity: b"ERROR", sqlstate: *b"42P05", message: &value };
            prop_assert_eq!(read, expected);
        }
    }
}
