//! Asks the proxy's HTTP listener.

use std::{
    io::{Read, Write},
    net::TcpStream,
};

use super::PATIENCE;

/// An answer: status, headers in lower case, body.
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

/// Asks for a page once.
pub fn get(port: u16, path: &str) -> Answer {
    ask(port, &request(path))
}

/// The request for a page, on a connection for it alone.
pub fn request(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// Sends a request as it is, and reads until the other side closes.
///
/// # Panics
/// If there is no answer.
pub fn ask(port: u16, request: &str) -> Answer {
    try_ask(port, request).expect("metrics are listened for")
}

/// The same; `None` if nobody answers.
pub fn try_ask(port: u16, request: &str) -> Option<Answer> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
    stream.set_read_timeout(Some(3 * PATIENCE)).expect("a time-out is set");
    // The other side may reset what it refuses, before or behind its answer.
    let _ = stream.write_all(request.as_bytes());
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8(answer).expect("UTF-8");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some(Answer { status, head: head.to_lowercase(), body: body.to_owned() })
}
