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

/// Appends BackendKeyData with a 4-byte secret (protocol 3.0).
pub fn backend_key_data(out: &mut Vec<u8>, pid: i32, secret: [u8; 4]) {
    message(out, backend::BACKEND_KEY_DATA, |out| {
        out.extend_from_slice(&pid.to_be_bytes());
        out.extend_from_slice(&secret);
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

/// Appends Close of a statement.
pub fn close_statement(out: &mut Vec<u8>, name: &[u8]) {
    message(out, frontend::CLOSE, |out| {
        out.push(b'S');
        cstr(out, name);
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
