//! Backend messages, and how they read in a script.

use std::{fmt, ops::Deref};

/// One message from the server side, or the end of the connection.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    Message { tag: u8, body: Vec<u8> },
    Eof,
}

impl Reply {
    /// Its tag; 0 for the end of the connection.
    pub fn tag(&self) -> u8 {
        match self {
            Self::Message { tag, .. } => *tag,
            Self::Eof => 0,
        }
    }

    /// Its body; empty for the end of the connection.
    pub fn body(&self) -> &[u8] {
        match self {
            Self::Message { body, .. } => body,
            Self::Eof => &[],
        }
    }

    /// A field of an `ErrorResponse` or `NoticeResponse`: `C` = SQLSTATE, `M` = message, `S` =
    /// severity.
    pub fn field(&self, code: u8) -> Option<String> {
        self.body()
            .split(|byte| *byte == 0)
            .find_map(|field| field.strip_prefix(&[code]))
            .map(|value| String::from_utf8_lossy(value).into_owned())
    }

    /// SQLSTATE of an `ErrorResponse`.
    pub fn sqlstate(&self) -> String {
        self.field(b'C').unwrap_or_default()
    }

    /// Columns of a `DataRow`; NULL reads as `NULL`.
    pub fn columns(&self) -> Vec<String> {
        let mut cursor = Cursor(self.body());
        let number = cursor.u16();
        (0..number).map(|_| cursor.value()).collect()
    }

    /// Names of the columns in a `RowDescription`.
    pub fn column_names(&self) -> Vec<String> {
        self.column_types().into_iter().map(|(name, ..)| name).collect()
    }

    /// Name, type and format of the columns in a `RowDescription`.
    pub fn column_types(&self) -> Vec<(String, u32, u16)> {
        let mut cursor = Cursor(self.body());
        let number = cursor.u16();
        let column = |_| {
            let name = cursor.cstr();
            // Table and column number.
            cursor.skip(6);
            let oid = cursor.u32();
            // Length and modifier of the type.
            cursor.skip(6);
            (name, oid, cursor.u16())
        };
        (0..number).map(column).collect()
    }

    /// Name and value of a `ParameterStatus`.
    pub fn parameter(&self) -> (String, String) {
        let mut cursor = Cursor(self.body());
        (cursor.cstr(), cursor.cstr())
    }

    /// Everything that must be the same from PostgreSQL and through the proxy.
    pub fn detail(&self) -> String {
        let mut cursor = Cursor(self.body());
        match self.tag() {
            b'E' | b'N' => {
                // File, line and routine name a place in PostgreSQL's source; V repeats S. What a
                // function was at when it was cancelled is chance.
                let left_out: &[u8] = if self.sqlstate() == "57014" { b"FLRVW" } else { b"FLRV" };
                let fields = self
                    .body()
                    .split(|byte| *byte == 0)
                    .filter(|field| field.first().is_some_and(|code| !left_out.contains(code)));
                let text: Vec<_> = fields.map(String::from_utf8_lossy).collect();
                if self.sqlstate() == "08P01" {
                    // Where Bind does not fit, the server names its own statement.
                    return format!("E {}", self.sqlstate());
                }
                format!("{} {}", char::from(self.tag()), text.join(" | "))
            }
            b'T' => {
                // Table and column number differ between two runs; the type does not.
                let columns = self.column_types().into_iter();
                let columns = columns.map(|(name, oid, format)| format!(" {name}:{oid}:{format}"));
                format!("T{}", columns.collect::<String>())
            }
            b't' => {
                let oids = (0..cursor.u16()).map(|_| format!(" {}", cursor.u32()));
                format!("t{}", oids.collect::<String>())
            }
            _ => self.to_string(),
        }
    }
}

/// The short form: tag and what a reader wants to see, such as `D 1`, `C SELECT 1`, `Z I`, `E
/// 26000`.
impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut cursor = Cursor(self.body());
        let tag = char::from(self.tag());
        match tag {
            '\0' => write!(f, "EOF"),
            'C' => write!(f, "C {}", cursor.cstr()),
            'D' => write!(f, "D {}", self.columns().join(",")),
            'E' if self.field(b'S').is_some_and(|severity| severity == "FATAL") => {
                write!(f, "E FATAL {}", self.sqlstate())
            }
            'E' | 'N' => write!(f, "{tag} {}", self.sqlstate()),
            'S' => write!(f, "S {}={}", cursor.cstr(), cursor.cstr()),
            'Z' => write!(f, "Z {}", cursor.rest()),
            'd' => write!(f, "d {}", cursor.rest().trim_end()),
            'V' => write!(f, "V {}", cursor.value()),
            'R' => write!(f, "R {}", cursor.u32()),
            'A' => {
                cursor.skip(4);
                write!(f, "A {} {}", cursor.cstr(), cursor.cstr())
            }
            'v' => write!(f, "v {}.{}", cursor.u16(), cursor.u16()),
            _ => write!(f, "{tag}"),
        }
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail())
    }
}

/// Several messages in their short form; compares with a text such as `T | D 1 | C SELECT 1 | Z I`.
#[derive(Clone, PartialEq, Eq)]
pub struct Answers(Vec<String>);

impl Answers {
    /// The same without ParameterStatus: a server before version 14 reports at once, what is changed and
    /// changed back too, as by the settings of a function.
    #[must_use]
    pub fn without_parameters(mut self) -> Self {
        self.0.retain(|answer| !answer.starts_with("S "));
        self
    }

    /// The last of them.
    pub fn last(&self) -> &str {
        self.0.last().map_or("", String::as_str)
    }
}

impl FromIterator<Reply> for Answers {
    fn from_iter<I: IntoIterator<Item = Reply>>(replies: I) -> Self {
        Self(replies.into_iter().map(|reply| reply.to_string()).collect())
    }
}

impl Deref for Answers {
    type Target = [String];

    fn deref(&self) -> &[String] {
        &self.0
    }
}

impl<T: AsRef<str>> PartialEq<T> for Answers {
    fn eq(&self, expected: &T) -> bool {
        self.0.join(" | ") == expected.as_ref()
    }
}

impl fmt::Display for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(" | "))
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

struct Cursor<'a>(&'a [u8]);

impl Cursor<'_> {
    fn skip(&mut self, length: usize) {
        self.0 = &self.0[length..];
    }

    fn u16(&mut self) -> u16 {
        let (head, rest) = self.0.split_first_chunk().expect("a reply holds what it announces");
        self.0 = rest;
        u16::from_be_bytes(*head)
    }

    fn u32(&mut self) -> u32 {
        let (head, rest) = self.0.split_first_chunk().expect("a reply holds what it announces");
        self.0 = rest;
        u32::from_be_bytes(*head)
    }

    fn cstr(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).expect("strings are terminated");
        let text = String::from_utf8_lossy(&self.0[..end]).into_owned();
        self.skip(end + 1);
        text
    }

    fn value(&mut self) -> String {
        let Ok(length) = usize::try_from(self.u32().cast_signed()) else {
            return "NULL".to_owned();
        };
        let text = String::from_utf8_lossy(&self.0[..length]).into_owned();
        self.skip(length);
        text
    }

    fn rest(&self) -> String {
        String::from_utf8_lossy(self.0).into_owned()
    }
}
