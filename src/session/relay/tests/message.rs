//! What clients send and what they get, in a form that can be read.

use std::fmt;

use crate::wire::encode;
use crate::wire::header::{self, HEADER_BYTES};
use crate::wire::tag::{backend, frontend as tag};

/// A message of a client.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Message {
    /// Name and text; the text is also what the result looks like.
    Parse(&'static str, &'static str),
    /// As before, with so many parameter types.
    ParseTypes(&'static str, &'static str, u16),
    /// As before, with a comment of so many bytes behind the text.
    ParseLong(&'static str, &'static str, usize),
    /// Portal, statement, and a parameter that comes back with the rows.
    Bind(&'static str, &'static str, &'static str),
    DescribeStatement(&'static str),
    DescribePortal(&'static str),
    /// Portal and limit of rows; 0 is none.
    Execute(&'static str, u8),
    CloseStatement(&'static str),
    ClosePortal(&'static str),
    Query(&'static str),
    FunctionCall,
    CopyData(&'static str),
    CopyDone,
    CopyFail,
    Flush,
    Sync,
    /// Any tag with any body.
    Raw(u8, &'static [u8]),
}

impl Message {
    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Parse(name, sql) => parse(out, name, sql.as_bytes(), 0),
            Self::ParseTypes(name, sql, types) => parse(out, name, sql.as_bytes(), *types),
            Self::ParseLong(name, sql, bytes) => {
                let text = format!("{sql}--{}", "x".repeat(*bytes));
                parse(out, name, text.as_bytes(), 0);
            }
            Self::Bind(portal, statement, parameter) => encode::message(out, tag::BIND, |out| {
                encode::cstr(out, portal.as_bytes());
                encode::cstr(out, statement.as_bytes());
                encode::cstr(out, parameter.as_bytes());
            }),
            Self::DescribeStatement(name) => named(out, tag::DESCRIBE, b'S', name),
            Self::DescribePortal(name) => named(out, tag::DESCRIBE, b'P', name),
            Self::Execute(portal, rows) => encode::message(out, tag::EXECUTE, |out| {
                encode::cstr(out, portal.as_bytes());
                out.extend_from_slice(&u32::from(*rows).to_be_bytes());
            }),
            Self::CloseStatement(name) => named(out, tag::CLOSE, b'S', name),
            Self::ClosePortal(name) => named(out, tag::CLOSE, b'P', name),
            Self::Query(sql) => encode::query(out, sql.as_bytes()),
            Self::FunctionCall => encode::message(out, tag::FUNCTION_CALL, |_| {}),
            Self::CopyData(data) => encode::message(out, tag::COPY_DATA, |out| {
                out.extend_from_slice(data.as_bytes());
            }),
            Self::CopyDone => encode::message(out, tag::COPY_DONE, |_| {}),
            Self::CopyFail => encode::message(out, tag::COPY_FAIL, |out| encode::cstr(out, b"no")),
            Self::Flush => encode::message(out, tag::FLUSH, |_| {}),
            Self::Sync => encode::sync(out),
            Self::Raw(tag, body) => {
                encode::message(out, *tag, |out| out.extend_from_slice(body));
            }
        }
    }
}

fn parse(out: &mut Vec<u8>, name: &str, sql: &[u8], types: u16) {
    encode::message(out, tag::PARSE, |out| {
        encode::cstr(out, name.as_bytes());
        encode::cstr(out, sql);
        out.extend_from_slice(&types.to_be_bytes());
        for _ in 0..types {
            out.extend_from_slice(&[0, 0, 0, 23]);
        }
    });
}

fn named(out: &mut Vec<u8>, tag: u8, target: u8, name: &str) {
    encode::message(out, tag, |out| {
        out.push(target);
        encode::cstr(out, name.as_bytes());
    });
}

/// The bytes of messages.
pub(super) fn encoded(messages: &[Message]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for message in messages {
        message.encode(&mut bytes);
    }
    bytes
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parse(name, sql) => write!(f, "Parse {name:?} {sql:?}"),
            Self::ParseTypes(name, sql, types) => write!(f, "Parse {name:?} {sql:?} {types}"),
            Self::ParseLong(name, sql, bytes) => write!(f, "Parse {name:?} {sql:?}+{bytes}"),
            Self::Bind(portal, name, value) => write!(f, "Bind {portal:?} {name:?} {value:?}"),
            Self::DescribeStatement(name) => write!(f, "Describe S {name:?}"),
            Self::DescribePortal(name) => write!(f, "Describe P {name:?}"),
            Self::Execute(portal, rows) => write!(f, "Execute {portal:?} {rows}"),
            Self::CloseStatement(name) => write!(f, "Close S {name:?}"),
            Self::ClosePortal(name) => write!(f, "Close P {name:?}"),
            Self::Query(sql) => write!(f, "Query {sql:?}"),
            Self::FunctionCall => f.write_str("FunctionCall"),
            Self::CopyData(data) => write!(f, "CopyData {data:?}"),
            Self::CopyDone => f.write_str("CopyDone"),
            Self::CopyFail => f.write_str("CopyFail"),
            Self::Flush => f.write_str("Flush"),
            Self::Sync => f.write_str("Sync"),
            Self::Raw(tag, body) => write!(f, "{} {body:?}", char::from(*tag)),
        }
    }
}

/// The messages in `bytes`, one text each: the tag and what can be read of the body.
///
/// What comes asynchronously in PostgreSQL, ParameterStatus, is left out: when it comes is not
/// part of the order of replies.
pub(super) fn read_all(bytes: &[u8]) -> Vec<String> {
    let mut texts = Vec::new();
    let mut rest = bytes;
    while let Some(header) = header::read(rest, u32::MAX >> 1).expect("a possible length") {
        let body = rest.get(HEADER_BYTES..header.message_bytes()).expect("a whole message");
        rest = &rest[header.message_bytes()..];
        if header.tag != backend::PARAMETER_STATUS {
            texts.push(text(header.tag, body));
        }
    }
    assert!(rest.is_empty(), "half a header");
    texts
}

fn text(tag: u8, body: &[u8]) -> String {
    let tag_text = char::from(tag);
    let mut text = if tag == backend::ERROR_RESPONSE {
        let error = crate::wire::backend::error_response(body);
        let sqlstate = String::from_utf8_lossy(&error.sqlstate);
        format!("{tag_text} {sqlstate} {}", String::from_utf8_lossy(error.message))
    } else {
        format!("{tag_text} {}", String::from_utf8_lossy(body).replace('\0', " "))
    };
    text.truncate(text.trim_end().len().min(90));
    text
}
