"""What users of psycopg 3 do, one line of output per check. Connects as libpq's environment says.

    with_psycopg.py [listen]
"""

import datetime
import hashlib
import sys
import threading
import uuid
from decimal import Decimal

import psycopg
from psycopg import errors, sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

CLIENTS = 6
ROUNDS = 25


def say(what: str, *values: object) -> None:
    print(what, *(repr(value) for value in values), flush=True)


def fails(what: str, action) -> None:
    """Says how an action fails."""
    try:
        action()
    except psycopg.Error as error:
        say(what, error.sqlstate, str(error).splitlines()[0])
    else:
        say(what, "no error")


def digest(value: str | bytes) -> tuple[int, str]:
    data = value.encode() if isinstance(value, str) else value
    return len(data), hashlib.md5(data).hexdigest()


def parameters(connection: psycopg.Connection) -> None:
    values = (
        "ü\n'\\",
        7,
        2**40,
        1.5,
        Decimal("12345.6789"),
        True,
        None,
        b"\x00\x01\xff",
        [1, None, 3],
        ["a", 'b"', "c,d"],
        Jsonb({"key": [1, None, "zwei"]}),
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=3, seconds=4),
        uuid.UUID("c0ffee00-0000-4000-8000-00000000beef"),
    )
    casts = (
        "text int int8 float8 numeric bool text bytea int[] text[] jsonb date timestamptz "
        "interval uuid"
    ).split()
    query = "select " + ", ".join(f"%s::{cast}" for cast in casts)
    for binary in (False, True):
        row = connection.execute(query, values, binary=binary).fetchone()
        say(f"parameters, binary {binary}", *row)
    big = "x" * 3_000_000 + "ü"
    row = connection.execute("select %s::text, %b::bytea", (big, big.encode())).fetchone()
    say("large values", *(digest(value) for value in row))
    with connection.cursor(row_factory=dict_row) as cursor:
        say("names", cursor.execute("select 1 as one, 'zwei' as two").fetchone())
    connection.commit()


def going_on_after_errors(connection: psycopg.Connection) -> None:
    fails("division", lambda: connection.execute("select 1 / %s", (0,)))
    fails("aborted", lambda: connection.execute("select 1"))
    connection.rollback()
    fails("no table", lambda: connection.execute("select * from nowhere where id = %s", (1,)))
    connection.rollback()
    fails("syntax", lambda: connection.execute("selec 1"))
    connection.rollback()
    insert = "insert into items (id, name) values (%s, %s)"
    connection.execute(insert, (1, "one"))
    connection.commit()
    fails("duplicate", lambda: connection.execute(insert, (1, "again")))
    connection.rollback()
    fails("not null", lambda: connection.execute(insert, (2, None)))
    connection.rollback()
    say("still there", connection.execute("select id, name from items").fetchall())
    connection.commit()


def transactions(connection: psycopg.Connection) -> None:
    def savepoint() -> None:
        with connection.transaction():
            connection.execute("insert into items (id, name) values (12, 'twelve')")
            connection.execute("insert into items (id, name) values (12, 'twice')")

    with connection.transaction():
        connection.execute("insert into items (id, name) values (11, 'eleven')")
        fails("savepoint", savepoint)
        connection.execute("insert into items (id, name) values (13, 'thirteen')")
    with connection.transaction(force_rollback=True):
        connection.execute("delete from items")
        say("inside", connection.execute("select count(*) from items").fetchone())
    say("rolled back", connection.execute("select id from items order by id").fetchall())
    connection.commit()
    connection.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
    connection.read_only = True
    say("isolation", connection.execute("show transaction_isolation").fetchone())
    fails("read only", lambda: connection.execute("delete from items"))
    connection.rollback()
    connection.isolation_level = None
    connection.read_only = None
    say("as before", connection.execute("show transaction_read_only").fetchone())
    connection.commit()


def many_clients() -> None:
    """More clients than server connections; each prepares what the others prepare, and its own."""
    wrong: list[object] = []

    def client(number: int) -> None:
        name = f"client {number}"
        with psycopg.connect(application_name=name, prepare_threshold=1) as connection:
            for turn in range(ROUNDS):
                with connection.transaction():
                    own = f"select {number} * 1000 + %s, current_setting('application_name')"
                    row = connection.execute(own, (turn,)).fetchone()
                    if row != (number * 1000 + turn, name):
                        wrong.append(row)
                    connection.execute(
                        "update counters set value = value + 1 where id = %s", (number,)
                    )
                    row = connection.execute(
                        "select value from counters where id = %s", (number,)
                    ).fetchone()
                    if row != (turn + 1,):
                        wrong.append(row)
                for shared in range(5):
                    row = connection.execute(f"select {shared} + %s::int", (turn,)).fetchone()
                    if row != (shared + turn,):
                        wrong.append(row)
                connection.commit()
                if turn % 5 == 0:
                    try:
                        connection.execute("select 1 / %s", (0,), prepare=True)
                    except errors.DivisionByZero:
                        connection.rollback()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with psycopg.connect() as connection:
        rows = connection.execute("select id, value from counters order by id").fetchall()
        say("many clients", wrong, rows)


def prepared(connection: psycopg.Connection) -> None:
    connection.prepare_threshold = 2
    connection.prepared_max = 3
    for turn in range(4):
        for number in range(5):
            row = connection.execute(f"select {number} + %s", (turn,)).fetchone()
            assert row == (number + turn,), row
        connection.commit()
    say("more statements than are kept", "ok")
    connection.prepare_threshold = 0
    query = "select * from changing"
    say("before", connection.execute(query).fetchone())
    connection.commit()
    # Elsewhere, so that psycopg does not know.
    with psycopg.connect() as other:
        other.execute("alter table changing add column y int default 2")
    # The first time PostgreSQL refuses, and the transaction is repeated.
    for _ in range(2):
        try:
            say("changed", connection.execute(query).fetchone())
            connection.commit()
        except errors.FeatureNotSupported as error:
            say("changed", error.sqlstate)
            connection.rollback()
    connection.prepare_threshold = 5
    connection.prepared_max = 100
    connection.execute("deallocate all")
    connection.commit()
    say("deallocated", connection.execute("select %s::int", (1,), prepare=True).fetchone())
    connection.commit()


def pipelines(connection: psycopg.Connection) -> None:
    connection.autocommit = True
    with connection.pipeline():
        cursors = [connection.execute("select %s::int", (n,), prepare=True) for n in range(100)]
        say("pipeline", sum(cursor.fetchone()[0] for cursor in cursors))
    answered: list[psycopg.Cursor] = []

    def error_within() -> None:
        with connection.pipeline() as pipeline:
            answered.append(connection.execute("select 1"))
            pipeline.sync()
            connection.execute("select 1 / %s", (0,))
            connection.execute("insert into items (id, name) values (20, 'skipped')")

    fails("error in a pipeline", error_within)
    say("before the error", answered[0].fetchone())
    with connection.pipeline():
        say("after it", connection.execute("select 4").fetchone())
    with connection.pipeline(), connection.transaction():
        connection.execute("insert into items (id, name) values (21, 'in a pipeline')")
        row = connection.execute("select name from items where id = 21").fetchone()
        say("transaction in a pipeline", row)
    with connection.cursor() as cursor:
        query = "insert into items (id, name) values (%s, %s) returning id"
        cursor.executemany(query, [(n, f"many {n}") for n in range(100, 150)], returning=True)
        ids = []
        while True:
            ids.append(cursor.fetchone()[0])
            if not cursor.nextset():
                break
        say("executemany", len(ids), ids[0], ids[-1])
    connection.autocommit = False


def cursors(connection: psycopg.Connection) -> None:
    with connection.cursor("walker") as cursor:
        cursor.itersize = 100
        cursor.execute("select n from generate_series(1, %s) n", (1000,))
        say("server cursor", sum(row[0] for row in cursor))
    with connection.cursor("jumper", scrollable=True) as cursor:
        cursor.execute("select n from generate_series(1, 1000) n")
        cursor.scroll(500)
        say("scrolled", cursor.fetchone(), cursor.fetchmany(2))
        cursor.scroll(-10)
        say("back", cursor.fetchone())
    connection.commit()
    with connection.cursor() as cursor:
        rows = cursor.stream("select n from generate_series(1, 1000) n")
        say("stream", sum(row[0] for row in rows))
    with connection.cursor() as cursor:
        rows = cursor.stream("select n from generate_series(1, 100000) n")
        say("given up", next(rows))
        rows.close()
    connection.rollback()
    say("goes on", connection.execute("select 1").fetchone())
    connection.commit()


def copies(connection: psycopg.Connection) -> None:
    with connection.cursor() as cursor:
        with cursor.copy("copy lines (id, text) from stdin") as copy:
            for number in range(2000):
                copy.write_row((number, f"line {number}" if number % 7 else None))
        say("copied in", cursor.rowcount)
        with cursor.copy("copy lines from stdin (format binary)") as copy:
            copy.set_types(["int4", "text"])
            copy.write_row((5000, "binary"))
        with cursor.copy("copy (select * from lines order by id) to stdout") as copy:
            say("copied out", digest(b"".join(bytes(data) for data in copy)))
    connection.commit()

    def wrong() -> None:
        with connection.cursor() as cursor:
            with cursor.copy("copy lines from stdin") as copy:
                copy.write("no number\tx\n" * 1000)

    fails("bad line", wrong)
    connection.rollback()

    def given_up() -> None:
        with connection.cursor() as cursor:
            with cursor.copy("copy lines from stdin") as copy:
                copy.write("9000\tx\n")
                raise psycopg.DataError("enough")

    fails("given up", given_up)
    connection.rollback()
    say("lines", connection.execute("select count(*), max(id) from lines").fetchone())
    connection.commit()


def interruptions(connection: psycopg.Connection) -> None:
    connection.execute("set local statement_timeout = 50")
    fails("statement_timeout", lambda: connection.execute("select pg_sleep(600)"))
    connection.rollback()
    for _ in range(3):
        timer = threading.Timer(0.2, connection.cancel_safe)
        timer.start()
        fails("cancelled", lambda: connection.execute("select pg_sleep(600)"))
        timer.join()
        connection.rollback()
    say("goes on", connection.execute("select 1").fetchone())
    connection.commit()


def settings() -> None:
    options = "-c timezone=Asia/Tokyo -c datestyle=German"
    with psycopg.connect(options=options, client_encoding="latin1") as connection:
        for _ in range(3):
            query = "select '2024-02-29 12:00+00'::timestamptz::text, %s::text"
            say("settings", connection.execute(query, ("ü",)).fetchone())
            connection.commit()
        say("reported", connection.info.parameter_status("TimeZone"), connection.info.encoding)
        connection.execute("set timezone to 'Europe/Paris'")
        connection.rollback()
        say("rolled back", connection.info.parameter_status("TimeZone"))
        connection.execute("set timezone to 'Europe/Paris'")
        connection.commit()
        say("set", connection.execute("show timezone").fetchone())


def notifications() -> None:
    with psycopg.connect(autocommit=True) as listener, psycopg.connect(autocommit=True) as other:
        listener.execute("listen news")
        other.execute("select pg_notify('news', %s)", ("first",))
        other.execute("notify news, 'second'")
        got = [notice.payload for notice in listener.notifies(timeout=10, stop_after=2)]
        say("notified", got)


def main() -> None:
    with psycopg.connect() as connection:
        connection.execute(
            sql.SQL(
                """create table items (id int primary key, name text not null);
                create table counters as select n as id, 0 as value from generate_series(0, {}) n;
                create table lines (id int, text text);
                create table changing as select 1 as x"""
            ).format(sql.Literal(CLIENTS - 1))
        )
        connection.commit()
        parameters(connection)
        going_on_after_errors(connection)
        transactions(connection)
        many_clients()
        prepared(connection)
        pipelines(connection)
        cursors(connection)
        copies(connection)
        interruptions(connection)
    settings()
    for _ in range(20):
        with psycopg.connect() as connection:
            assert connection.execute("select 1").fetchone() == (1,)
    say("connections come and go", "ok")
    if "listen" in sys.argv[1:]:
        notifications()


if __name__ == "__main__":
    main()
