//! Views of the client messages whose bodies a pooler must understand.

use super::cursor::{Cursor, Malformed};
use super::rows::Format;

/// What Close and Describe are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// A prepared statement.
    Statement,
    /// A portal.
    Portal,
}

/// The body of Close or Describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<'a> {
    /// Statement or portal.
    pub target: Target,
    /// Its name; empty means the unnamed one.
    pub name: &'a [u8],
}

/// Reads the body of Close or Describe.
pub fn named(body: &[u8]) -> Result<Named<'_>, Malformed> {
    let mut cursor = Cursor::new(body);
    let target = match cursor.u8()? {
        b'S' => Target::Statement,
        b'P' => Target::Portal,
        _ => return Err(Malformed::UnknownValue),
    };
    let name = cursor.cstr()?;
    cursor.finish()?;
    Ok(Named { target, name })
}

/// The body of Parse.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty means the unnamed one.
    pub name: &'a [u8],
    /// Everything behind the name: the text and the parameter types. Two statements are the same
    /// exactly if these bytes are.
    pub definition: &'a [u8],
}

/// Reads the body of Parse.
pub fn parse(body: &[u8]) -> Result<Parse<'_>, Malformed> {
    let mut cursor = Cursor::new(body);
    let name = cursor.cstr()?;
    let definition = cursor.rest();
    cursor.cstr()?;
    // PostgreSQL reads the number as unsigned: drivers may pass 65,535 parameters.
    let types = usize::from(cursor.i16()?.cast_unsigned());
    cursor.bytes(types * 4)?;
    cursor.finish()?;
    Ok(Parse { name, definition })
}

/// The start of the body of Bind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name; empty means the unnamed one.
    pub portal: &'a [u8],
    /// The statement's name; empty means the unnamed one.
    pub statement: &'a [u8],
}

/// Reads the two names at the start of Bind; `None` if they are not all there.
pub fn bind(body: &[u8]) -> Option<Bind<'_>> {
    let mut cursor = Cursor::new(body);
    let portal = cursor.cstr().ok()?;
    let statement = cursor.cstr().ok()?;
    Some(Bind { portal, statement })
}

/// What Bind wants of the statement's result and says of its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Binding {
    /// How many parameters it passes.
    pub parameters: usize,
    /// The formats of the result's columns, as stated: none, one for all, or one each.
    pub formats: Vec<Format>,
}

/// Reads what follows the two names of Bind; the parameters' values are passed over.
///
/// # Errors
/// [`Malformed`]; an unknown format is [`Malformed::UnknownValue`].
pub fn binding(body: &[u8]) -> Result<Binding, Malformed> {
    let mut cursor = Cursor::new(body);
    cursor.cstr()?;
    cursor.cstr()?;
    let parameter_formats = usize::from(cursor.i16()?.cast_unsigned());
    cursor.bytes(parameter_formats * 2)?;
    let parameters = usize::from(cursor.i16()?.cast_unsigned());
    for _ in 0..parameters {
        match cursor.i32()? {
            -1 => {}
            length => {
                let length = usize::try_from(length).map_err(|_| Malformed::UnknownValue)?;
                cursor.bytes(length)?;
            }
        }
    }
    let columns = cursor.i16()?.cast_unsigned();
    let mut formats = Vec::new();
    for _ in 0..columns {
        formats.push(Format::from_code(cursor.i16()?).ok_or(Malformed::UnknownValue)?);
    }
    cursor.finish()?;
    Ok(Binding { parameters, formats })
}

/// The body of Execute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Execute<'a> {
    /// The portal's name; empty means the unnamed one.
    pub portal: &'a [u8],
    /// Rows wanted now; `None` wants all.
    pub rows_max: Option<usize>,
}

/// Reads the body of Execute.
pub fn execute(body: &[u8]) -> Result<Execute<'_>, Malformed> {
    let mut cursor = Cursor::new(body);
    let portal = cursor.cstr()?;
    let rows = cursor.i32()?;
    cursor.finish()?;
    // As PostgreSQL: nothing and less than nothing mean all.
    Ok(Execute { portal, rows_max: usize::try_from(rows).ok().filter(|rows| *rows > 0) })
}

/// Reads the one string of Query.
pub fn query(body: &[u8]) -> Result<&[u8], Malformed> {
    Cursor::new(body).cstr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parse_splits_name_and_definition() {
        let body = b"s1\0select $1\0\0\x01\0\0\0\x17";
        let parsed = parse(body).expect("well-formed");
        assert_eq!(parsed.name, b"s1");
        assert_eq!(parsed.definition, b"select $1\0\0\x01\0\0\0\x17");
        assert_eq!(parse(b"s1\0select 1\0\0\x01"), Err(Malformed::Truncated));
        assert_eq!(parse(b"s1\0select 1\0\0\0x"), Err(Malformed::Trailing));
        assert_eq!(parse(b"s1\0select 1\0\xff\xff"), Err(Malformed::Truncated));
    }

    #[test]
    fn named_wants_a_known_target_and_nothing_behind() {
        assert_eq!(named(b"Sx\0"), Ok(Named { target: Target::Statement, name: b"x" }));
        assert_eq!(named(b"P\0"), Ok(Named { target: Target::Portal, name: b"" }));
        assert_eq!(named(b"Qx\0"), Err(Malformed::UnknownValue));
        assert_eq!(named(b"Sx"), Err(Malformed::Unterminated));
        assert_eq!(named(b"Sx\0y"), Err(Malformed::Trailing));
    }

    #[test]
    fn binding_reads_what_follows_the_names() {
        let body = b"\0s\0\0\x01\0\x01\0\x02\xff\xff\xff\xff\0\0\0\x01x\0\x02\0\0\0\x01";
        let formats = vec![Format::Text, Format::Binary];
        assert_eq!(binding(body), Ok(Binding { parameters: 2, formats }));
        assert_eq!(binding(b"\0\0\0\0\0\0\0\0"), Ok(Binding { parameters: 0, formats: vec![] }));
        assert_eq!(binding(b"\0\0\0\0\0\0\0\x01\0\x02"), Err(Malformed::UnknownValue));
        assert_eq!(binding(b"\0\0\0\0\0\x01\0\0\0\x05x\0\0"), Err(Malformed::Truncated));
        assert_eq!(binding(b"\0\0\0\0\0\x01\xff\0\0\x05x\0\0"), Err(Malformed::UnknownValue));
        assert_eq!(binding(b"\0\0\0\0\0\0\0\0x"), Err(Malformed::Trailing));
    }

    #[test]
    fn execute_wants_some_rows_or_all() {
        assert_eq!(execute(b"p\0\0\0\0\x02"), Ok(Execute { portal: b"p", rows_max: Some(2) }));
        assert_eq!(execute(b"\0\0\0\0\0"), Ok(Execute { portal: b"", rows_max: None }));
        assert_eq!(execute(b"\0\xff\0\0\0"), Ok(Execute { portal: b"", rows_max: None }));
        assert_eq!(execute(b"\0\0\0\0"), Err(Malformed::Truncated));
    }

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = binding(&body);
            let _ = execute(&body);
            let _ = parse(&body);
            let _ = bind(&body);
            let _ = named(&body);
            let _ = query(&body);
        }
    }
}
