//! Lines for syslog, in the form that local programs use.
//!
//! Source: RFC 3164, section 4.1; without a host name, as glibc's `syslog` sends it.

use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tracing::Level;

/// Where the system takes lines.
pub const SOCKET: &str = "/dev/log";

/// Facilities by name. Source: RFC 3164, section 4.1.1.
const FACILITIES: [(&str, u8); 20] = [
    ("kern", 0),
    ("user", 1),
    ("mail", 2),
    ("daemon", 3),
    ("auth", 4),
    ("syslog", 5),
    ("lpr", 6),
    ("news", 7),
    ("uucp", 8),
    ("cron", 9),
    ("authpriv", 10),
    ("ftp", 11),
    ("local0", 16),
    ("local1", 17),
    ("local2", 18),
    ("local3", 19),
    ("local4", 20),
    ("local5", 21),
    ("local6", 22),
    ("local7", 23),
];

const MONTHS: [&str; 12] =
    ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// What goes in front of every line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// What the lines are from.
    pub ident: String,
    /// A facility's name, such as `daemon`; an unknown one counts as that.
    pub facility: String,
}

impl Tag {
    fn priority(&self, level: Level) -> u8 {
        let facility = FACILITIES.iter().find(|(name, _)| *name == self.facility);
        let severity = match level {
            Level::ERROR => 3,
            Level::WARN => 4,
            Level::INFO => 6,
            _ => 7,
        };
        facility.map_or(3, |(_, number)| *number) * 8 + severity
    }

    /// Writes one datagram. `line` is text without its time, or JSON.
    pub fn datagram(&self, level: Level, now: SystemTime, line: &[u8]) -> Vec<u8> {
        let (pid, ident) = (std::process::id(), &self.ident);
        let head = format!("<{}>{} {ident}[{pid}]: ", self.priority(level), stamp(now));
        let mut datagram = head.into_bytes();
        datagram.extend_from_slice(line.trim_ascii_end());
        datagram
    }
}

/// Writes a time as `Nov  2 21:43:23`, in UTC.
fn stamp(time: SystemTime) -> String {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (month, day) = date(days);
    let month = MONTHS.get(month).copied().unwrap_or_default();
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{month} {day:>2} {hour:02}:{minute:02}:{second:02}")
}

/// The month, counted from 0, and the day of a day since 1970.
///
/// Years are taken to begin in March, so that the odd day of a leap year is the last of its year;
/// they come in eras of 400. Source: H. Hinnant, "chrono-compatible low-level date algorithms".
fn date(days: u64) -> (usize, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    let day_of_era = (days + DAYS_TO_1970) % 146_097;
    let year = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    (usize::try_from((month + 2) % 12).unwrap_or(0), day)
}

/// A connection to the system's log.
#[derive(Debug)]
pub struct Syslog {
    socket: UnixDatagram,
}

impl Syslog {
    /// Connects to the socket at `path`.
    ///
    /// # Errors
    /// Nobody takes lines there.
    pub fn connect(path: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.connect(path)?;
        Ok(Self { socket })
    }

    /// Sends one line. Waits while the system's log is full.
    ///
    /// # Errors
    /// The other side is gone, or the line is too long for it.
    pub fn send(&self, datagram: &[u8]) -> io::Result<()> {
        self.socket.send(datagram).map(drop)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn times() {
        let check = |seconds: u64, expected: &str| {
            assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        };
        check(0, "Jan  1 00:00:00");
        check(951_782_399, "Feb 28 23:59:59");
        check(951_782_400, "Feb 29 00:00:00");
        check(951_868_800, "Mar  1 00:00:00");
        check(1_700_000_000, "Nov 14 22:13:20");
        check(4_107_542_399, "Feb 28 23:59:59"); // 2100 is no leap year.
        check(4_107_542_400, "Mar  1 00:00:00");
    }

    #[test]
    fn lines_have_priority_and_tag() {
        let tag = Tag { ident: "pool".to_owned(), facility: "local3".to_owned() };
        let line = tag.datagram(Level::WARN, UNIX_EPOCH, b"WARN hello\n");
        let expected = format!("<156>Jan  1 00:00:00 pool[{}]: WARN hello", std::process::id());
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }

    #[test]
    fn lines_arrive() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        assert!(Syslog::connect(&path).is_err());
        let system = UnixDatagram::bind(&path).unwrap();
        Syslog::connect(&path).unwrap().send(b"hello").unwrap();
        let mut buffer = [0; 16];
        assert_eq!(system.recv(&mut buffer).unwrap(), 5);
    }
}
