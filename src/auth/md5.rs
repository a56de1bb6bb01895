//! PostgreSQL's md5 passwords: kept as `md5` + MD5(password ‖ user), proven with a salt of four
//! bytes. Weak, and on its way out of PostgreSQL; here because servers and clients still use it.
//!
//! Source: PostgreSQL `src/common/md5_common.c`, `pg_md5_encrypt`.

use ::md5::{Digest, Md5};

/// Length of `md5` and its hexadecimal digits.
const SHADOW_LEN: usize = 35;

/// Makes the stored form of `password`, as in `pg_authid`.
pub fn shadow(password: &[u8], user: &[u8]) -> String {
    encrypt(password, user)
}

/// Answers a request with `salt`, from the stored form; `None` if `shadow` is no md5 form.
pub fn response(shadow: &str, salt: [u8; 4]) -> Option<String> {
    let digits = shadow.as_bytes().strip_prefix(b"md5").filter(|_| is_shadow(shadow.as_bytes()))?;
    Some(encrypt(digits, &salt))
}

/// Says whether `text` has the stored form: `md5` and 32 lower-case hexadecimal digits.
///
/// Source: PostgreSQL `src/backend/libpq/crypt.c`, `get_password_type`.
pub fn is_shadow(text: &[u8]) -> bool {
    text.len() == SHADOW_LEN
        && text.strip_prefix(b"md5").is_some_and(|digits| {
            digits.iter().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))
        })
}

fn encrypt(text: &[u8], salt: &[u8]) -> String {
    let digest = Md5::new().chain_update(text).chain_update(salt).finalize();
    let mut out = String::with_capacity(SHADOW_LEN);
    out.push_str("md5");
    for nibble in digest.iter().flat_map(|byte| [byte >> 4, byte & 0xf]) {
        out.extend(char::from_digit(u32::from(nibble), 16));
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn agrees_with_an_independent_implementation() {
        let cases: [(&[u8], &[u8], [u8; 4]); 4] = [
            (b"password", b"postgres", [1, 2, 3, 4]),
            (b"", b"u", [0; 4]),
            (b"x", b"", [255; 4]),
            ("pässwörd".as_bytes(), "müller".as_bytes(), [0x2a, 0x3d, 0x8f, 0xe0]),
        ];
        for (password, user, salt) in cases {
            let theirs = postgres_protocol::authentication::md5_hash(user, password, salt);
            assert_eq!(response(&shadow(password, user), salt), Some(theirs));
        }
    }

    #[test]
    fn matches_what_postgresql_stores() {
        // SELECT 'md5' || md5('secret' || 'bob');
        assert_eq!(shadow(b"secret", b"bob"), "md521f3163f8f86fa10bdefbfbd502a8f06");
    }

    #[test]
    fn answers_only_from_a_stored_form() {
        for text in [
            "",
            "md5",
            "secret",
            "md5a8d09f5b1d2c3e4f5a6b7c8d9e0f1a2",
            "MD5a8d09f5b1d2c3e4f5a6b7c8d9e0f1a2b",
        ] {
            assert_eq!(response(text, [0; 4]), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_shadow_has_the_stored_form(password: Vec<u8>, user: Vec<u8>, salt: [u8; 4]) {
            let shadow = shadow(&password, &user);
            prop_assert!(is_shadow(shadow.as_bytes()));
            prop_assert!(is_shadow(response(&shadow, salt).unwrap().as_bytes()));
        }

        #[test]
        fn no_input_panics(text: String, salt: [u8; 4]) {
            prop_assert_eq!(response(&text, salt).is_some(), is_shadow(text.as_bytes()));
        }
    }
}
