//! Durations and sizes with units: `250ms`, `10min`, `64MiB`.

use std::time::Duration;

use super::problem::Reason;

/// The longest duration that can be configured, ten years; adding it to a clock never overflows.
pub(super) const DURATION_MAX: Duration = Duration::from_hours(3650 * 24);

/// The shortest duration other than 0: timers have millisecond steps, and 0 would mean "off".
const DURATION_MIN: Duration = Duration::from_millis(1);

const DURATION_UNITS: [(&str, Duration); 5] = [
    ("ms", Duration::from_millis(1)),
    ("s", Duration::from_secs(1)),
    ("min", Duration::from_mins(1)),
    ("h", Duration::from_hours(1)),
    ("d", Duration::from_hours(24)),
];

const SIZE_UNITS: [(&str, u64); 4] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// Reads `text` as a number with a unit; without one it counts in `unit`.
pub(super) fn duration_from_text(text: &str, unit: Duration) -> Result<Duration, Reason> {
    let malformed = || Reason::Malformed {
        found: text.to_owned(),
        expected: "a duration: write a number with ms, s, min, h or d, such as \"250ms\"",
    };
    let (number, name) = split_unit(text);
    let unit = match name {
        "" => unit,
        name => find_unit(name, &DURATION_UNITS).ok_or_else(malformed)?,
    };
    if let Ok(number) = number.parse::<u32>() {
        return in_range(unit.checked_mul(number), text);
    }
    let number = number.parse::<f64>().map_err(|_| malformed())?;
    in_range(scaled(unit, number), text)
}

/// Converts a bare number, which counts in `unit`.
pub(super) fn duration_from_integer(number: i64, unit: Duration) -> Result<Duration, Reason> {
    let duration = u32::try_from(number).ok().and_then(|number| unit.checked_mul(number));
    in_range(duration, &number.to_string())
}

/// Converts a bare number with a fraction, which counts in `unit`.
pub(super) fn duration_from_float(number: f64, unit: Duration) -> Result<Duration, Reason> {
    in_range(scaled(unit, number), &format!("{number:?}"))
}

/// Reads a duration as `proxy.toml` has them; without a unit it counts in seconds.
pub fn duration(text: &str) -> Option<Duration> {
    duration_from_text(text, Duration::from_secs(1)).ok()
}

/// Reads `text` as bytes, or as a number of `KiB`, `MiB` or `GiB`.
pub(super) fn size_from_text(text: &str) -> Result<u64, Reason> {
    let malformed = || Reason::Malformed {
        found: text.to_owned(),
        expected: "a size: write a number of bytes, or with KiB, MiB or GiB, such as \"64MiB\"",
    };
    let (number, name) = split_unit(text);
    let unit = match name {
        "" => 1,
        name => find_unit(name, &SIZE_UNITS).ok_or_else(malformed)?,
    };
    let number = number.parse::<u64>().map_err(|_| malformed())?;
    // A size past 64 bits is past every bound too; the caller's range check says so.
    Ok(number.saturating_mul(unit))
}

fn find_unit<T: Copy>(name: &str, units: &[(&str, T)]) -> Option<T> {
    units.iter().find(|(known, _)| *known == name).map(|&(_, unit)| unit)
}

/// Splits "5 min" into "5" and "min".
fn split_unit(text: &str) -> (&str, &str) {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, name) = text.split_at_checked(end).unwrap_or((text, ""));
    (number, name.trim_start())
}

fn scaled(unit: Duration, number: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(unit.as_secs_f64() * number).ok()
}

fn in_range(duration: Option<Duration>, found: &str) -> Result<Duration, Reason> {
    duration.filter(|d| d.is_zero() || (DURATION_MIN..=DURATION_MAX).contains(d)).ok_or_else(|| {
        Reason::OutOfRange { found: found.to_owned(), expected: "0 or 1ms to 3650d".to_owned() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn durations() {
        let check = |text: &str, millis: Option<u64>| {
            let found = duration_from_text(text, SECOND).ok();
            assert_eq!(found, millis.map(Duration::from_millis), "{text}");
        };
        check("0", Some(0));
        check("5", Some(5_000));
        check("0.25", Some(250));
        check("250ms", Some(250));
        check("1.5s", Some(1_500));
        check("10min", Some(600_000));
        check(" 10 min ", Some(600_000));
        check("2h", Some(7_200_000));
        check("1d", Some(86_400_000));
        check("3650d", Some(315_360_000_000));
        check("3651d", None);
        check("99999999999999999999d", None);
        check("0.1ms", None);
        check("0.0004", None);
        check("", None);
        check("s", None);
        check(".", None);
        check("-5s", None);
        check("5m", None);
        check("5 seconds", None);
        check("1e3", None);
        check("1.2.3", None);
        check("inf", None);
        check("nan", None);
        check("5ß", None);
    }

    #[test]
    fn bare_numbers() {
        assert_eq!(duration_from_integer(5, SECOND), Ok(Duration::from_secs(5)));
        assert_eq!(
            duration_from_integer(5, Duration::from_millis(1)),
            Ok(Duration::from_millis(5))
        );
        assert_eq!(duration_from_float(0.1, SECOND), Ok(Duration::from_millis(100)));
        for number in [-1, i64::MIN, i64::MAX] {
            assert!(duration_from_integer(number, SECOND).is_err(), "{number}");
        }
        for number in [-0.5, 1e300, f64::INFINITY, f64::NAN, 1e-9] {
            assert!(duration_from_float(number, SECOND).is_err(), "{number}");
        }
    }

    #[test]
    fn sizes() {
        let check = |text: &str, bytes| assert_eq!(size_from_text(text).ok(), bytes, "{text}");
        check("0", Some(0));
        check("100B", Some(100));
        check("64MiB", Some(64 << 20));
        check("2 GiB", Some(2 << 30));
        check("18446744073709551615GiB", Some(u64::MAX));
        check("64MB", None);
        check("1.5GiB", None);
        check("-1", None);
        check("", None);
        check("99999999999999999999", None);
    }
}
