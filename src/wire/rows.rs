//! Result sets that we originate: what the columns are, and rows of them, as text or binary.
//!
//! Source: PostgreSQL manual, "Message Formats" (RowDescription, DataRow); the binary forms are those
//! of the types' `send` functions, e.g. `numeric_send` in `src/backend/utils/adt/numeric.c`.

use std::borrow::Cow;

use super::encode;
use super::tag::backend;

/// A type that our results have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`.
    Text,
    /// `boolean`.
    Bool,
    /// `integer`.
    Int4,
    /// `bigint`.
    Int8,
    /// `double precision`.
    Float8,
    /// `numeric`, of whole numbers only.
    Numeric,
}

impl Type {
    /// Returns the object id in `pg_type`; the same on every server.
    pub fn oid(self) -> u32 {
        match self {
            Self::Bool => 16,
            Self::Int8 => 20,
            Self::Int4 => 23,
            Self::Text => 25,
            Self::Float8 => 701,
            Self::Numeric => 1700,
        }
    }

    /// Returns `pg_type.typlen`: bytes of the binary form, or -1 if they vary.
    fn length(self) -> i16 {
        match self {
            Self::Bool => 1,
            Self::Int4 => 4,
            Self::Int8 | Self::Float8 => 8,
            Self::Text | Self::Numeric => -1,
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// What it is called.
    pub name: &'static str,
    /// What its values are.
    pub kind: Type,
}

/// One value of a row. Its column says how it is sent; one that does not fit there is sent as NULL.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// NULL.
    Null,
    /// For [`Type::Text`].
    Text(Cow<'static, str>),
    /// For [`Type::Int4`] (where it stops at the bounds of the type), [`Type::Int8`],
    /// [`Type::Numeric`].
    Int(i64),
    /// For [`Type::Float8`].
    Float(f64),
    /// For [`Type::Bool`].
    Bool(bool),
}

/// How a value is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// As people write it.
    #[default]
    Text,
    /// As the type's `send` function does.
    Binary,
}

impl Format {
    /// Reads a format code of the protocol.
    pub fn from_code(code: i16) -> Option<Self> {
        match code {
            0 => Some(Self::Text),
            1 => Some(Self::Binary),
            _ => None,
        }
    }

    fn code(self) -> i16 {
        match self {
            Self::Text => 0,
            Self::Binary => 1,
        }
    }
}

/// The formats of all columns of a result, as Bind states them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Formats(Vec<Format>);

impl Formats {
    /// Takes the list of a Bind message: none (all text), one for all, or one per column.
    ///
    /// `None` if the list fits no result of `columns` columns.
    pub fn new(stated: Vec<Format>, columns: usize) -> Option<Self> {
        (stated.len() <= 1 || stated.len() == columns).then_some(Self(stated))
    }

    /// Returns the format of the column at `at`.
    pub fn of(&self, at: usize) -> Format {
        match self.0.as_slice() {
            [] => Format::Text,
            [all] => *all,
            each => each.get(at).copied().unwrap_or_default(),
        }
    }
}

/// Appends RowDescription.
pub fn row_description(out: &mut Vec<u8>, columns: &[Column], formats: &Formats) {
    encode::message(out, backend::ROW_DESCRIPTION, |out| {
        out.extend_from_slice(&count(columns.len()));
        for (at, column) in columns.iter().enumerate() {
            encode::cstr(out, column.name.as_bytes());
            // Of no table, and no column of one.
            out.extend_from_slice(&[0; 6]);
            out.extend_from_slice(&column.kind.oid().to_be_bytes());
            out.extend_from_slice(&column.kind.length().to_be_bytes());
            // No type modifier.
            out.extend_from_slice(&(-1i32).to_be_bytes());
            out.extend_from_slice(&formats.of(at).code().to_be_bytes());
        }
    });
}

/// Appends DataRow; `row` has one value per column.
pub fn data_row(out: &mut Vec<u8>, columns: &[Column], row: &[Value], formats: &Formats) {
    debug_assert_eq!(columns.len(), row.len(), "a row has one value per column");
    encode::message(out, backend::DATA_ROW, |out| {
        out.extend_from_slice(&count(columns.len()));
        for (at, column) in columns.iter().enumerate() {
            let value = row.get(at).unwrap_or(&Value::Null);
            field(out, column.kind, value, formats.of(at));
        }
    });
}

/// Appends one field: its length and its bytes, or -1 for NULL.
fn field(out: &mut Vec<u8>, kind: Type, value: &Value, format: Format) {
    let length_at = out.len();
    out.extend_from_slice(&(-1i32).to_be_bytes());
    let is_there = match format {
        Format::Text => text(out, kind, value),
        Format::Binary => binary(out, kind, value),
    };
    if !is_there {
        return;
    }
    let length = i32::try_from(out.len() - length_at - 4).unwrap_or(i32::MAX);
    if let Some(place) = out.get_mut(length_at..length_at + 4) {
        place.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends the text form; says whether there is one.
fn text(out: &mut Vec<u8>, kind: Type, value: &Value) -> bool {
    match (kind, value) {
        (Type::Text, Value::Text(value)) => out.extend_from_slice(value.as_bytes()),
        (Type::Int4, Value::Int(value)) => {
            out.extend_from_slice(int4(*value).to_string().as_bytes());
        }
        (Type::Int8 | Type::Numeric, Value::Int(value)) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
        (Type::Float8, Value::Float(value)) => {
            out.extend_from_slice(value.to_string().as_bytes());
        }
        (Type::Bool, Value::Bool(value)) => out.push(if *value { b't' } else { b'f' }),
        (_, value) => return is_misplaced(value),
    }
    true
}

/// Appends the binary form; says whether there is one.
fn binary(out: &mut Vec<u8>, kind: Type, value: &Value) -> bool {
    match (kind, value) {
        (Type::Text, Value::Text(value)) => out.extend_from_slice(value.as_bytes()),
        (Type::Int4, Value::Int(value)) => out.extend_from_slice(&int4(*value).to_be_bytes()),
        (Type::Int8, Value::Int(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (Type::Numeric, Value::Int(value)) => numeric(out, *value),
        (Type::Float8, Value::Float(value)) => out.extend_from_slice(&value.to_be_bytes()),
        (Type::Bool, Value::Bool(value)) => out.push(u8::from(*value)),
        (_, value) => return is_misplaced(value),
    }
    true
}

/// Only NULL fits everywhere; anything else in the wrong column is our own mistake.
fn is_misplaced(value: &Value) -> bool {
    debug_assert_eq!(*value, Value::Null, "a value does not fit its column");
    false
}

fn int4(value: i64) -> i32 {
    i32::try_from(value).unwrap_or(if value < 0 { i32::MIN } else { i32::MAX })
}

/// Appends the binary form of a whole `numeric`: digits to the base 10,000, the highest first,
/// without zeros at either end.
fn numeric(out: &mut Vec<u8>, value: i64) {
    const BASE: u64 = 10_000;
    const POSITIVE: u16 = 0;
    const NEGATIVE: u16 = 0x4000;
    let mut digits = Vec::new();
    let mut rest = value.unsigned_abs();
    while rest > 0 {
        digits.push(u16::try_from(rest % BASE).unwrap_or(0));
        rest /= BASE;
    }
    // The power of the highest digit; 0 for zero itself.
    let weight = count(digits.len().saturating_sub(1));
    let zeros = digits.iter().take_while(|digit| **digit == 0).count();
    digits.drain(..zeros);
    out.extend_from_slice(&count(digits.len()));
    out.extend_from_slice(&weight);
    out.extend_from_slice(&(if value < 0 { NEGATIVE } else { POSITIVE }).to_be_bytes());
    // Digits behind the decimal point.
    out.extend_from_slice(&[0; 2]);
    for digit in digits.iter().rev() {
        out.extend_from_slice(&digit.to_be_bytes());
    }
}

fn count(number: usize) -> [u8; 2] {
    debug_assert!(u16::try_from(number).is_ok(), "our results have few columns");
    u16::try_from(number).unwrap_or(u16::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use postgres_protocol::types;
    use proptest::prelude::*;

    fn sent(kind: Type, value: &Value, format: Format) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        field(&mut out, kind, value, format);
        let (length, body) = out.split_first_chunk().expect("a length");
        let length = i32::from_be_bytes(*length);
        assert_eq!(usize::try_from(length).unwrap_or(0), body.len());
        (length >= 0).then(|| body.to_vec())
    }

    fn check(kind: Type, value: &Value, text: &str, binary: &[u8]) {
        assert_eq!(sent(kind, value, Format::Text).as_deref(), Some(text.as_bytes()));
        assert_eq!(sent(kind, value, Format::Binary).as_deref(), Some(binary), "{text}");
    }

    #[test]
    fn values_are_sent_as_postgresql_sends_them() {
        check(Type::Text, &Value::Text("ä".into()), "ä", "ä".as_bytes());
        check(Type::Text, &Value::Text("".into()), "", b"");
        check(Type::Bool, &Value::Bool(true), "t", b"\x01");
        check(Type::Bool, &Value::Bool(false), "f", b"\0");
        check(Type::Int4, &Value::Int(-2), "-2", b"\xff\xff\xff\xfe");
        check(Type::Int4, &Value::Int(1 << 40), "2147483647", b"\x7f\xff\xff\xff");
        check(Type::Int8, &Value::Int(258), "258", b"\0\0\0\0\0\0\x01\x02");
        check(Type::Float8, &Value::Float(1.5), "1.5", b"\x3f\xf8\0\0\0\0\0\0");
        // As `select 0::numeric`, `10000::numeric`, `12345678::numeric`, `-1::numeric` are sent.
        check(Type::Numeric, &Value::Int(0), "0", b"\0\0\0\0\0\0\0\0");
        check(Type::Numeric, &Value::Int(10_000), "10000", b"\0\x01\0\x01\0\0\0\0\0\x01");
        let digits = b"\0\x02\0\x01\0\0\0\0\x04\xd2\x16\x2e";
        check(Type::Numeric, &Value::Int(12_345_678), "12345678", digits);
        check(Type::Numeric, &Value::Int(-1), "-1", b"\0\x01\0\0\x40\0\0\0\0\x01");
    }

    #[test]
    fn null_has_no_bytes() {
        for kind in [Type::Text, Type::Bool, Type::Int4, Type::Int8, Type::Float8, Type::Numeric] {
            assert_eq!(sent(kind, &Value::Null, Format::Text), None);
            assert_eq!(sent(kind, &Value::Null, Format::Binary), None);
        }
    }

    #[test]
    fn formats_are_for_none_one_or_all_columns() {
        use Format::{Binary, Text};
        assert_eq!(Formats::new(vec![], 2).map(|formats| formats.of(1)), Some(Text));
        assert_eq!(Formats::new(vec![Binary], 2).map(|formats| formats.of(1)), Some(Binary));
        let each = Formats::new(vec![Binary, Text], 2).expect("one per column");
        assert_eq!((each.of(0), each.of(1)), (Binary, Text));
        assert_eq!(Formats::new(vec![Binary, Text], 3), None);
    }

    #[test]
    fn a_result_is_described() {
        let mut out = Vec::new();
        let columns = [Column { name: "n", kind: Type::Int8 }];
        row_description(&mut out, &columns, &Formats::default());
        let expected = b"T\0\0\0\x1a\0\x01n\0\0\0\0\0\0\0\0\0\0\x14\0\x08\xff\xff\xff\xff\0\0";
        assert_eq!(out, expected);
        out.clear();
        data_row(&mut out, &columns, &[Value::Int(7)], &Formats::default());
        assert_eq!(out, b"D\0\0\0\x0b\0\x01\0\0\0\x017");
    }

    proptest! {
        #[test]
        fn clients_read_what_was_meant(number in any::<i64>()) {
            let value = Value::Int(number);
            let binary = sent(Type::Int8, &value, Format::Binary).expect("not null");
            prop_assert_eq!(types::int8_from_sql(&binary).expect("eight bytes"), number);
            let binary = sent(Type::Numeric, &value, Format::Binary).expect("not null");
            let words: Vec<i64> = binary
                .chunks(2)
                .map(|word| i64::from(i16::from_be_bytes([word[0], word[1]])))
                .collect();
            let (head, digits) = words.split_at(4);
            prop_assert_eq!(digits.len(), usize::try_from(head[0]).expect("few"));
            let power = |at: usize| 10_000i128.pow(u32::try_from(head[1]).expect("whole") - u32::try_from(at).expect("few"));
            let magnitude: i128 =
                digits.iter().enumerate().map(|(at, digit)| i128::from(*digit) * power(at)).sum();
            let sign = if head[2] == 0 { 1 } else { -1 };
            prop_assert_eq!(sign * magnitude, i128::from(number));
            prop_assert!(digits.first() != Some(&0) && digits.last() != Some(&0));
        }
    }
}
