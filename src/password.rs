//! `pgtandem password`: asks for a password, prints what `proxy.toml` and PostgreSQL keep of it.
//!
//! The password is read from the terminal without being shown, or from standard input when that is
//! no terminal. It goes nowhere else, and is wiped.

use std::io::{self, BufRead, IsTerminal, Write};

use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcsetattr,
};
use zeroize::Zeroizing;

use crate::auth::scram::{DEFAULT_ITERATIONS, ScramSecret};

/// LIMIT: bytes of a password; our own login takes no more.
const PASSWORD_BYTES_MAX: u64 = 8 * 1024;

/// Bytes of salt. Source: PostgreSQL `SCRAM_SHA_256_DEFAULT_SALT_LEN`.
const SALT_BYTES: usize = 16;

/// What Ctrl-C types while it sends no signal.
const INTERRUPT: u8 = 0x03;

/// What to make of the password.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print a whole section of proxy.toml for this user
    #[arg(long, short, value_name = "NAME")]
    pub user: Option<String>,
    /// Rounds of the key derivation: each makes guessing, and every first login, slower
    #[arg(long, value_name = "N", default_value_t = DEFAULT_ITERATIONS,
          value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub iterations: u32,
}

/// There is no secret to print.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The terminal or standard input cannot be read.
    #[error("cannot read the password")]
    Read(#[from] io::Error),
    /// Nothing was typed.
    #[error("the password is empty; PostgreSQL refuses empty passwords")]
    Empty,
    /// A zero byte ends a password of the protocol.
    #[error("the password has a zero byte in it")]
    Nul,
    /// More than the protocol can carry.
    #[error("the password is longer than {PASSWORD_BYTES_MAX} bytes")]
    TooLong,
    /// Two different ones were typed.
    #[error("the two passwords differ")]
    Differ,
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Reads a password and returns what to print.
///
/// From a pipe one line is taken, without its line break. The password is normalised as PostgreSQL
/// does it (SASLprep).
///
/// # Errors
/// See [`PasswordError`].
pub fn run(args: &Args) -> Result<String, PasswordError> {
    let password = if io::stdin().is_terminal() {
        let password = ask("Password: ")?;
        if ask("Again: ")? != password {
            return Err(PasswordError::Differ);
        }
        password
    } else {
        line(io::stdin().lock())?
    };
    let password = checked(password)?;
    let salt: [u8; SALT_BYTES] = rand::random();
    let secret = ScramSecret::from_password(&password, &salt, args.iterations);
    Ok(match &args.user {
        None => format!("{secret}\n"),
        // A secret has no character that TOML would see to, a name may.
        Some(user) => {
            let user = toml::Value::String(user.clone());
            format!("[users.{user}]\npassword = \"{secret}\"\n")
        }
    })
}

/// A password, wiped when dropped.
type Password = Zeroizing<Vec<u8>>;

fn checked(password: Password) -> Result<Password, PasswordError> {
    if password.is_empty() {
        Err(PasswordError::Empty)
    } else if password.contains(&0) {
        Err(PasswordError::Nul)
    } else {
        Ok(password)
    }
}

/// Reads one line without its end, which may be missing.
fn line(input: impl BufRead) -> Result<Password, PasswordError> {
    // One for the line break, and one that is too many.
    let room = usize::try_from(PASSWORD_BYTES_MAX + 3).unwrap_or(usize::MAX);
    let mut line = Zeroizing::new(Vec::with_capacity(room));
    input.take(PASSWORD_BYTES_MAX + 3).read_until(b'\n', &mut line)?;
    if line.last() == Some(&b'\n') {
        line.pop();
        if line.last() == Some(&b'\r') {
            line.pop();
        }
    }
    let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
    if length > PASSWORD_BYTES_MAX { Err(PasswordError::TooLong) } else { Ok(line) }
}

/// Asks on the terminal, on standard error, so that the output can be redirected.
fn ask(prompt: &str) -> Result<Password, PasswordError> {
    let _hidden = Hidden::begin()?;
    let mut screen = io::stderr().lock();
    screen.write_all(prompt.as_bytes())?;
    screen.flush()?;
    // A terminal gives one line per read, without a bound of ours: it keeps less than 8 KiB itself.
    let mut input = io::stdin().lock();
    let typed = Zeroizing::new(input.fill_buf()?.to_vec());
    input.consume(typed.len());
    screen.write_all(b"\n")?;
    if typed.contains(&INTERRUPT) {
        return Err(PasswordError::Interrupted);
    }
    line(typed.as_slice())
}

/// Keeps what is typed from being shown; undone when dropped.
struct Hidden(Termios);

impl Hidden {
    fn begin() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut hidden = before.clone();
        // No signals: one that ends us would leave the terminal without an echo.
        hidden.local_modes.remove(LocalModes::ECHO | LocalModes::ISIG);
        // Ctrl-C ends the line instead.
        hidden.special_codes[SpecialCodeIndex::VEOL] = INTERRUPT;
        tcsetattr(io::stdin(), OptionalActions::Flush, &hidden)?;
        Ok(Self(before))
    }
}

impl Drop for Hidden {
    fn drop(&mut self) {
        // A terminal that is gone needs no echo.
        let _ = tcsetattr(io::stdin(), OptionalActions::Flush, &self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_read() {
        let check = |input: &[u8], expected: &[u8]| {
            assert_eq!(line(input).unwrap().as_slice(), expected, "{input:?}");
        };
        check(b"secret\nmore\n", b"secret");
        check(b"secret\r\n", b"secret");
        check(b" with blanks \n", b" with blanks ");
        check(b"no end", b"no end");
        check(b"", b"");
    }

    #[test]
    fn what_cannot_be_a_password_is_refused() {
        let checked = |bytes: &[u8]| checked(Zeroizing::new(bytes.to_vec()));
        assert!(matches!(checked(b""), Err(PasswordError::Empty)));
        assert!(matches!(checked(b"a\0b"), Err(PasswordError::Nul)));
        assert!(checked(b"x").is_ok());
        let long = vec![b'x'; 8 * 1024 + 1];
        assert!(matches!(line(long.as_slice()), Err(PasswordError::TooLong)));
        assert!(line(&long[1..]).is_ok());
    }
}
