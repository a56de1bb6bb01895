//! Writes identifiers and literals for PostgreSQL, and reads fields of composite literals.

/// Writes an identifier in quotes.
pub fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Writes `schema.name` in quotes.
pub fn qualified(schema: &str, name: &str) -> String {
    format!("{}.{}", identifier(schema), identifier(name))
}

/// Writes a string literal that reads the same under any `standard_conforming_strings`.
pub fn text(value: &str) -> String {
    let quoted = value.replace('\'', "''");
    if quoted.contains('\\') {
        format!(" E'{}'", quoted.replace('\\', "\\\\"))
    } else {
        format!("'{quoted}'")
    }
}

/// Writes a one-dimensional array as its text; `None` is NULL.
pub fn array<'a>(elements: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut array = String::from("{");
    for element in elements {
        if array.len() > 1 {
            array.push(',');
        }
        match element {
            None => array.push_str("NULL"),
            Some(element) => push_quoted(&mut array, element),
        }
    }
    array.push('}');
    array
}

/// Writes a composite value as its text; `None` is NULL.
pub fn composite<'a>(fields: impl IntoIterator<Item = Option<&'a str>>) -> String {
    let mut composite = String::from("(");
    for (position, field) in fields.into_iter().enumerate() {
        if position > 0 {
            composite.push(',');
        }
        if let Some(field) = field {
            push_quoted(&mut composite, field);
        }
    }
    composite.push(')');
    composite
}

fn push_quoted(to: &mut String, value: &str) {
    to.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\') {
            to.push('\\');
        }
        to.push(c);
    }
    to.push('"');
}

/// Reads all fields of a composite literal as PostgreSQL prints one; `None` if it is none.
pub fn fields(composite: &str) -> Option<Vec<Option<String>>> {
    first_fields(composite, usize::MAX)
}

/// Reads the first fields of a composite literal, and looks no further than needed; `None` if it is
/// none.
///
/// Source: `record_in` in `rowtypes.c`: a backslash takes the next character as it is, inside quotes
/// and outside, `""` inside quotes is one quote, and an empty field without quotes is NULL.
pub fn first_fields(composite: &str, count: usize) -> Option<Vec<Option<String>>> {
    let inner = composite.trim().strip_prefix('(')?.strip_suffix(')')?;
    let mut fields = Vec::new();
    let mut field: Option<String> = None;
    let mut is_quoted = false;
    let mut chars = inner.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\\' => field.get_or_insert_default().push(chars.next()?),
            '"' if is_quoted && chars.peek() == Some(&'"') => {
                chars.next();
                field.get_or_insert_default().push('"');
            }
            '"' => {
                is_quoted = !is_quoted;
                field.get_or_insert_default();
            }
            ',' if !is_quoted => {
                fields.push(field.take());
                if fields.len() == count {
                    return Some(fields);
                }
            }
            '(' | ')' if !is_quoted => return None,
            c => field.get_or_insert_default().push(c),
        }
    }
    fields.push(field);
    (!is_quoted).then_some(fields)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quotes() {
        assert_eq!(identifier(r#"a"b"#), r#""a""b""#);
        assert_eq!(qualified("s p", "t"), r#""s p"."t""#);
        assert_eq!(text("it's"), "'it''s'");
        assert_eq!(text(r"a\'b"), r" E'a\\''b'");
        assert_eq!(array([Some("a"), None, Some(r#"b"\"#)]), r#"{"a",NULL,"b\"\\"}"#);
        assert_eq!(array([]), "{}");
        assert_eq!(composite([Some(""), None, Some("x")]), r#"("",,"x")"#);
    }

    #[test]
    fn fields_as_postgresql_prints_them() {
        let check = |literal: &str, expected: &[Option<&str>]| {
            let expected: Vec<_> = expected.iter().map(|f| f.map(str::to_owned)).collect();
            assert_eq!(fields(literal), Some(expected), "{literal}");
        };
        check("(1,abc)", &[Some("1"), Some("abc")]);
        check("(,)", &[None, None]);
        check(r#"("",)"#, &[Some(""), None]);
        check(r#"("a ""b"" \\ c","(1,""x y"")")"#, &[Some(r#"a "b" \ c"#), Some(r#"(1,"x y")"#)]);
        check("()", &[None]);
        for broken in ["", "(", "1,2", "(\"a)", "(a(b)", "(a\\"] {
            assert_eq!(fields(broken), None, "{broken}");
        }
    }

    proptest! {
        #[test]
        fn a_composite_is_read_back(values in prop::collection::vec(any::<Option<String>>(), 1..6)) {
            let literal = composite(values.iter().map(Option::as_deref));
            prop_assert_eq!(fields(&literal), Some(values));
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = fields(&text);
        }
    }
}
