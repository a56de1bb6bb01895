"""Talks to the admin console with psycopg 3, as its users do. Fails by an exception.

    psycopg_console.py DSN
"""

import sys

import psycopg
from psycopg import errors


def main(dsn: str) -> None:
    """Looks around inside transactions that psycopg opens by itself, and outside."""
    with psycopg.connect(dsn) as connection:
        texts = connection.execute("SHOW POOLS").fetchall()
        binary = connection.execute("SHOW POOLS", binary=True)
        names = [column.name for column in binary.description]
        assert names[:3] == ["database", "user", "cl_active"], names
        assert binary.fetchall() == texts, texts
        assert texts[0][2] == 1, texts
        for show in ("STATS", "CLIENTS", "DATABASES", "CONFIG", "WAITS", "TOTALS"):
            plain = connection.execute(f"SHOW {show}").fetchall()
            coded = connection.execute(f"SHOW {show}", binary=True).fetchall()
            assert len(plain) == len(coded), show
        try:
            connection.execute("SHOW NOTHING")
        except errors.SyntaxError as error:
            assert "use SHOW HELP" in str(error), error
        else:
            raise AssertionError("SHOW NOTHING was answered")
        connection.rollback()
        for _ in range(7):
            # From the sixth time on it is a prepared statement.
            version = connection.execute("SHOW VERSION", prepare=None).fetchone()
        assert version[0].startswith("pgtandem "), version
        connection.execute("SHOW STATE", prepare=True)
        connection.commit()
        assert connection.info.transaction_status.name == "IDLE"
    with psycopg.connect(dsn, autocommit=True) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)
        notices = []
        connection.add_notice_handler(lambda notice: notices.append(notice.message_primary))
        connection.execute("SHOW HELP")
        connection.execute("SET client_encoding TO 'UTF8'")
        assert notices == ["Console usage", "SET ignored"], notices
        with connection.pipeline():
            cursors = [connection.execute("SHOW LISTS") for _ in range(3)]
        assert len({len(cursor.fetchall()) for cursor in cursors}) == 1
        connection.execute("RELOAD")


if __name__ == "__main__":
    main(sys.argv[1])
