//! Asks a server what it is, which those before version 14 do not say by themselves.

use tokio::io::{AsyncRead, AsyncWrite};

use super::{ConnectError, Server};
use crate::backend::standing::Standing;
use crate::wire::cursor::{Cursor, Malformed};
use crate::wire::encode;
use crate::wire::tag::backend as tag;

/// What libpq asks, in one.
const QUERY: &[u8] = b"SELECT pg_catalog.pg_is_in_recovery(), \
    pg_catalog.current_setting('transaction_read_only')";

/// Asks a server that has just let us in.
///
/// # Errors
/// See [`ConnectError`].
pub(super) async fn ask<S: AsyncRead + AsyncWrite + Unpin>(
    server: &mut Server<S>,
) -> Result<Standing, ConnectError> {
    server.send(|out| encode::query(out, QUERY)).await?;
    let mut standing = Err(ConnectError::Unexpected { tag: tag::READY_FOR_QUERY });
    loop {
        let message = server.message().await?;
        match message.tag {
            tag::DATA_ROW => standing = read(&message.body).map_err(malformed),
            tag::ROW_DESCRIPTION | tag::COMMAND_COMPLETE | tag::PARAMETER_STATUS => {}
            tag::READY_FOR_QUERY => return standing,
            tag => return Err(ConnectError::Unexpected { tag }),
        }
    }
}

fn malformed(source: Malformed) -> ConnectError {
    ConnectError::Malformed { tag: tag::DATA_ROW, source }
}

fn read(row: &[u8]) -> Result<Standing, Malformed> {
    let mut cursor = Cursor::new(row);
    if cursor.i16()? != 2 {
        return Err(Malformed::UnknownValue);
    }
    let mut is_either = |yes: &[u8], no: &[u8]| {
        let length = usize::try_from(cursor.i32()?).map_err(|_| Malformed::UnknownValue)?;
        match cursor.bytes(length)? {
            value if value == yes => Ok(true),
            value if value == no => Ok(false),
            _ => Err(Malformed::UnknownValue),
        }
    };
    let is_standby = is_either(b"t", b"f")?;
    Ok(Standing { is_standby, is_read_only: is_either(b"on", b"off")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_within_their_bounds() {
        let standby = Standing { is_standby: true, is_read_only: true };
        assert_eq!(read(b"\0\x02\0\0\0\x01t\0\0\0\x02on"), Ok(standby));
        let primary = Standing { is_standby: false, is_read_only: false };
        assert_eq!(read(b"\0\x02\0\0\0\x01f\0\0\0\x03off"), Ok(primary));
        for bad in [
            &b""[..],
            b"\0\x01\0\0\0\x01t",
            b"\0\x02\0\0\0\x01t\xff\xff\xff\xff",
            b"\0\x02\0\0\0\x01x\0\0\0\x02on",
            b"\0\x02\0\0\0\x09t",
        ] {
            assert!(read(bad).is_err(), "{}", bad.escape_ascii());
        }
    }
}
