//! Views of the client messages whose bodies a pooler must understand.

use super::cursor::{Cursor, Malformed};

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

    proptest! {
        #[test]
        fn no_input_panics(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = parse(&body);
            let _ = bind(&body);
            let _ = named(&body);
            let _ = query(&body);
        }
    }
}
