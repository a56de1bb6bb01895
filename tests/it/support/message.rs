//! Frontend messages as bytes, including wrong ones.

/// One or several messages, ready to send.
pub type Bytes = Vec<u8>;

/// A message with this tag and body.
pub fn message(tag: u8, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 4).expect("test messages are small");
    [&[tag][..], &length.to_be_bytes(), body].concat()
}

/// A first packet (no tag): length, code, body.
pub fn untagged(code: u32, body: &[u8]) -> Bytes {
    let length = u32::try_from(body.len() + 8).expect("test messages are small");
    [&length.to_be_bytes(), &code.to_be_bytes()[..], body].concat()
}

pub const PROTOCOL_3_0: u32 = 196_608;
pub const PROTOCOL_3_2: u32 = PROTOCOL_3_0 + 2;
pub const PROTOCOL_3_9999: u32 = 196_608 + 9999;
pub const SSL_REQUEST: u32 = 80_877_103;
pub const GSSENC_REQUEST: u32 = 80_877_104;
pub const CANCEL_REQUEST: u32 = 80_877_102;

/// `StartupMessage` with these parameters.
pub fn startup(version: u32, parameters: &[(&str, &str)]) -> Bytes {
    let mut body = Vec::new();
    for (name, value) in parameters {
        body.extend(cstr(name));
        body.extend(cstr(value));
    }
    body.push(0);
    untagged(version, &body)
}

/// `CancelRequest` for this key.
pub fn cancel_request(key: (u32, u32)) -> Bytes {
    untagged(CANCEL_REQUEST, &[key.0.to_be_bytes(), key.1.to_be_bytes()].concat())
}

pub fn query(sql: &str) -> Bytes {
    message(b'Q', &cstr(sql))
}

pub fn parse(name: &str, sql: &str) -> Bytes {
    parse_typed(name, sql, &[])
}

/// Parse that states the types of the first parameters.
pub fn parse_typed(name: &str, sql: &str, oids: &[u32]) -> Bytes {
    let oids: Vec<[u8; 4]> = oids.iter().map(|oid| oid.to_be_bytes()).collect();
    message(b'P', &[cstr(name), cstr(sql), count(oids.len()), oids.concat()].concat())
}

/// Bind without parameters, all results as text.
pub fn bind(portal: &str, statement: &str) -> Bytes {
    bind_values(portal, statement, &[])
}

/// Bind with text parameters, all results as text.
pub fn bind_values(portal: &str, statement: &str, values: &[&str]) -> Bytes {
    let mut body = [cstr(portal), cstr(statement), count(0), count(values.len())].concat();
    for value in values {
        let length = u32::try_from(value.len()).expect("test values are small");
        body.extend(length.to_be_bytes());
        body.extend(value.as_bytes());
    }
    body.extend(count(0));
    message(b'B', &body)
}

pub fn describe_statement(name: &str) -> Bytes {
    message(b'D', &[b"S".to_vec(), cstr(name)].concat())
}

pub fn describe_portal(name: &str) -> Bytes {
    message(b'D', &[b"P".to_vec(), cstr(name)].concat())
}

/// Execute without row limit.
pub fn execute(portal: &str) -> Bytes {
    execute_rows(portal, 0)
}

/// Execute for at most `rows` rows; 0 = all.
pub fn execute_rows(portal: &str, rows: u32) -> Bytes {
    message(b'E', &[cstr(portal), rows.to_be_bytes().to_vec()].concat())
}

pub fn close_statement(name: &str) -> Bytes {
    message(b'C', &[b"S".to_vec(), cstr(name)].concat())
}

pub fn close_portal(name: &str) -> Bytes {
    message(b'C', &[b"P".to_vec(), cstr(name)].concat())
}

pub fn sync() -> Bytes {
    message(b'S', b"")
}

pub fn flush() -> Bytes {
    message(b'H', b"")
}

pub fn terminate() -> Bytes {
    message(b'X', b"")
}

pub fn copy_data(data: &str) -> Bytes {
    message(b'd', data.as_bytes())
}

pub fn copy_done() -> Bytes {
    message(b'c', b"")
}

pub fn copy_fail(reason: &str) -> Bytes {
    message(b'f', &cstr(reason))
}

/// `FunctionCall` with text arguments and a text result.
pub fn function_call(oid: u32, arguments: &[&str]) -> Bytes {
    let mut body = [oid.to_be_bytes().to_vec(), count(0), count(arguments.len())].concat();
    for argument in arguments {
        let length = u32::try_from(argument.len()).expect("test values are small");
        body.extend(length.to_be_bytes());
        body.extend(argument.as_bytes());
    }
    body.extend(count(0));
    message(b'F', &body)
}

pub fn password(text: &str) -> Bytes {
    message(b'p', &cstr(text))
}

pub fn cstr(text: &str) -> Bytes {
    [text.as_bytes(), b"\0"].concat()
}

fn count(number: usize) -> Bytes {
    u16::try_from(number).expect("test lists are short").to_be_bytes().to_vec()
}
