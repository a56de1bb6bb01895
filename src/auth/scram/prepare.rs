//! `SASLprep` (RFC 4013) the way PostgreSQL does it, so that a password gives the same keys here
//! and there.

use std::borrow::Cow;

use stringprep::tables;
use zeroize::Zeroizing;

/// Normalises a password; one that cannot be normalised is taken as it is.
///
/// PostgreSQL looks for forbidden and unassigned characters before it normalises, where RFC 3454
/// would look afterwards, and does not let a password become empty.
///
/// Source: PostgreSQL `src/common/saslprep.c`, `pg_saslprep`.
pub(super) fn password(raw: &[u8]) -> Zeroizing<Vec<u8>> {
    Zeroizing::new(normalised(raw).map_or_else(|| raw.to_vec(), |text| text.into_owned().into()))
}

fn normalised(raw: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(raw).ok()?;
    if text.is_ascii() {
        return None;
    }
    if text.chars().any(|c| is_kept(c) && is_prohibited(c)) {
        return None;
    }
    stringprep::saslprep(text).ok().filter(|text| !text.is_empty())
}

/// Whether `c` is neither mapped to a blank nor to nothing: RFC 4013, section 2.1.
fn is_kept(c: char) -> bool {
    !tables::non_ascii_space_character(c) && !tables::commonly_mapped_to_nothing(c)
}

/// RFC 4013, sections 2.3 and 2.5.
fn is_prohibited(c: char) -> bool {
    tables::ascii_control_character(c)
        || tables::non_ascii_control_character(c)
        || tables::private_use(c)
        || tables::non_character_code_point(c)
        || tables::surrogate_code(c)
        || tables::inappropriate_for_plain_text(c)
        || tables::inappropriate_for_canonical_representation(c)
        || tables::change_display_properties_or_deprecated(c)
        || tables::tagging_character(c)
        || tables::unassigned_code_point(c)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(raw: impl AsRef<[u8]>, expected: impl AsRef<[u8]>) {
        let (raw, expected) = (raw.as_ref(), expected.as_ref());
        assert_eq!(*password(raw), expected, "{}", String::from_utf8_lossy(raw));
    }

    /// The examples of RFC 4013, section 3, and of PostgreSQL's `t/002_saslprep.pl`.
    #[test]
    fn normalises_as_postgresql_does() {
        check("user", "user");
        check("USER", "USER");
        check("I\u{ad}X", "IX");
        check("\u{aa}", "a");
        check("\u{2168}", "IX");
        check("\u{ad}IX\u{ad}", "IX");
        check("a\u{a0}b", "a b");
    }

    #[test]
    fn leaves_alone_what_cannot_be_normalised() {
        check("\u{7}", "\u{7}"); // A control character.
        check("\u{627}1", "\u{627}1"); // Right-to-left that does not end so.
        check("\u{ad}", "\u{ad}"); // Would become empty.
        check(b"\xff\xfe", b"\xff\xfe"); // Not UTF-8.
        check("pass\u{1f600}", "pass\u{1f600}"); // Unassigned in Unicode 3.2.
        check("a\u{340}\u{2168}", "a\u{340}\u{2168}"); // Forbidden before it is normalised.
        check("", "");
    }

    proptest! {
        #[test]
        fn no_input_panics(raw: Vec<u8>, text in "\\PC*") {
            password(&raw);
            let once = password(text.as_bytes());
            prop_assert!(text.is_empty() || !once.is_empty());
        }
    }
}
