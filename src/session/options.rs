//! The startup parameter `options`: settings on a command line.
//!
//! Source: PostgreSQL `src/backend/utils/init/postinit.c` (`pg_split_opts`), and the manual on
//! `options` of libpq: `-c name=value` and `--name=value`, separated by white space that a backslash
//! takes literally.

/// A setting: name and value.
type Setting = (Vec<u8>, Vec<u8>);

/// Reads the settings out of `options`. What is not a setting comes back as a setting of that name,
/// which no server knows: it refuses the login.
pub fn settings(options: &[u8]) -> Vec<Setting> {
    let mut words = split(options).into_iter();
    let mut settings = Vec::new();
    while let Some(word) = words.next() {
        let setting = if word == b"-c" {
            words.next().unwrap_or_default()
        } else if let Some(rest) = word.strip_prefix(b"--").or(word.strip_prefix(b"-c")) {
            rest.to_vec()
        } else {
            word
        };
        settings.push(pair(&setting));
    }
    settings
}

/// Splits at the first `=`; dashes in a name stand for underscores (`ParseLongOption`).
fn pair(setting: &[u8]) -> Setting {
    let mut parts = setting.splitn(2, |byte| *byte == b'=');
    let name = parts.next().unwrap_or_default();
    let name = name.iter().map(|byte| if *byte == b'-' { b'_' } else { *byte }).collect();
    (name, parts.next().unwrap_or_default().to_vec())
}

fn split(options: &[u8]) -> Vec<Vec<u8>> {
    let mut words = Vec::new();
    let mut word: Option<Vec<u8>> = None;
    let mut bytes = options.iter();
    while let Some(byte) = bytes.next() {
        if byte.is_ascii_whitespace() {
            words.extend(word.take());
        } else {
            let literal = if *byte == b'\\' { bytes.next() } else { Some(byte) };
            word.get_or_insert_default().extend(literal);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(options: &str, expected: &[(&str, &str)]) {
        let settings = settings(options.as_bytes());
        let settings: Vec<(&str, &str)> = settings
            .iter()
            .map(|(name, value)| {
                (std::str::from_utf8(name).unwrap(), std::str::from_utf8(value).unwrap())
            })
            .collect();
        assert_eq!(settings, expected, "{options:?}");
    }

    #[test]
    fn c30_options_are_read_as_postgresql_reads_them() {
        check("", &[]);
        check("-c TimeZone=Europe/Paris", &[("TimeZone", "Europe/Paris")]);
        check("-cTimeZone=UTC --work-mem=4MB", &[("TimeZone", "UTC"), ("work_mem", "4MB")]);
        check("  --application_name=a\\ b\\\\c ", &[("application_name", "a b\\c")]);
        check("-c", &[("", "")]);
        check("-F", &[("_F", "")]);
        check("-c a=b=c", &[("a", "b=c")]);
    }
}
