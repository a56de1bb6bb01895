"""What users of asyncpg do, one line of output per check. Connects as libpq's environment says.

    with_asyncpg.py [listen]
"""

import asyncio
import datetime
import hashlib
import io
import json
import sys
import uuid
from decimal import Decimal

import asyncpg

CLIENTS = 6
ROUNDS = 25


def say(what: str, *values: object) -> None:
    print(what, *(repr(value) for value in values), flush=True)


async def fails(what: str, action) -> None:
    """Says how something that is awaited fails."""
    try:
        await action
    except asyncpg.PostgresError as error:
        say(what, error.sqlstate, error.message)
    except (asyncio.TimeoutError, asyncpg.InterfaceError) as error:
        say(what, type(error).__name__)
    else:
        say(what, "no error")


def digest(value: str | bytes) -> tuple[int, str]:
    data = value.encode() if isinstance(value, str) else value
    return len(data), hashlib.md5(data).hexdigest()


async def parameters(connection: asyncpg.Connection) -> None:
    await connection.set_type_codec(
        "jsonb", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
    )
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
        {"key": [1, None, "zwei"]},
        datetime.date(2024, 2, 29),
        datetime.datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=datetime.timezone.utc),
        datetime.timedelta(days=3, seconds=4),
        uuid.UUID("c0ffee00-0000-4000-8000-00000000beef"),
    )
    casts = (
        "text int int8 float8 numeric bool text bytea int[] text[] jsonb date timestamptz "
        "interval uuid"
    ).split()
    query = "select " + ", ".join(f"${n}::{cast}" for n, cast in enumerate(casts, 1))
    for _ in range(3):
        row = await connection.fetchrow(query, *values)
    say("parameters", *(str(value) for value in row.values()))
    big = "x" * 3_000_000 + "ü"
    row = await connection.fetchrow("select $1::text, $2::bytea", big, big.encode())
    say("large values", *(digest(value) for value in row.values()))
    # A type of one's own is looked up in the catalog, by statements of asyncpg's own.
    row = await connection.fetchrow("select $1::mood as mood, array[$1::mood] as moods", "happy")
    say("own types", dict(row))


async def going_on_after_errors(connection: asyncpg.Connection) -> None:
    await fails("division", connection.fetch("select 1 / $1::int", 0))
    await fails("no table", connection.fetch("select * from nowhere where id = $1", 1))
    await fails("syntax", connection.execute("selec 1"))
    await fails("no date", connection.fetch("select 'no date'::date"))
    insert = "insert into items (id, name) values ($1, $2)"
    say("insert", await connection.execute(insert, 1, "one"))
    await fails("duplicate", connection.execute(insert, 1, "again"))
    await fails("not null", connection.execute(insert, 2, None))
    say("still there", [tuple(row) for row in await connection.fetch("table items")])


async def transactions(connection: asyncpg.Connection) -> None:
    async def savepoint() -> None:
        async with connection.transaction():
            await connection.execute("insert into items (id, name) values (12, 'twelve')")
            await connection.execute("insert into items (id, name) values (12, 'twice')")

    async def aborted() -> None:
        async with connection.transaction():
            await fails("error", connection.execute("select 1/0"))
            await connection.execute("select 1")

    async with connection.transaction():
        await connection.execute("insert into items (id, name) values (11, 'eleven')")
        await fails("savepoint", savepoint())
        await connection.execute("insert into items (id, name) values (13, 'thirteen')")
    await fails("aborted", aborted())
    rolled_back = connection.transaction()
    await rolled_back.start()
    await connection.execute("delete from items")
    say("inside", await connection.fetchval("select count(*) from items"))
    await rolled_back.rollback()
    say("rolled back", [row["id"] for row in await connection.fetch("select id from items")])
    async with connection.transaction(isolation="serializable", readonly=True, deferrable=True):
        say("isolation", await connection.fetchval("show transaction_isolation"))
    say("as before", await connection.fetchval("show transaction_isolation"))


async def many_clients() -> None:
    """A pool of more clients than server connections; statements are cached per client."""
    wrong: list[object] = []

    async def work(pool: asyncpg.Pool, number: int) -> None:
        for turn in range(ROUNDS):
            async with pool.acquire() as connection:
                async with connection.transaction():
                    own = f"select {number} * 1000 + $1::int"
                    value = await connection.fetchval(own, turn)
                    if value != number * 1000 + turn:
                        wrong.append(value)
                    await connection.execute(
                        "update counters set value = value + 1 where id = $1", number
                    )
                for shared in range(5):
                    value = await connection.fetchval(f"select {shared} + $1::int", turn)
                    if value != shared + turn:
                        wrong.append(value)
                if turn % 5 == 0:
                    try:
                        await connection.fetch("select 1 / $1::int", 0)
                    except asyncpg.DivisionByZeroError:
                        pass

    # A pool resets connections by statements of its own whenever one is given back.
    async with asyncpg.create_pool(min_size=CLIENTS, max_size=CLIENTS) as pool:
        await asyncio.gather(*(work(pool, number) for number in range(CLIENTS)))
        rows = await pool.fetch("select id, value from counters order by id")
    say("many clients", wrong, [tuple(row) for row in rows])


async def prepared(connection: asyncpg.Connection) -> None:
    statements = [await connection.prepare(f"select {n} + $1::int") for n in range(8)]
    sums = [sum([await one.fetchval(turn) for one in statements]) for turn in range(3)]
    say("prepared", sums, statements[0].get_parameters()[0].name)
    say("attributes", [a.name for a in statements[0].get_attributes()])
    del statements
    query = "select * from changing"
    say("before", tuple(await connection.fetchrow(query)))
    other = await asyncpg.connect()
    await other.execute("alter table changing add column y int default 2")
    await other.close()
    # Outside a transaction asyncpg prepares anew, and tries once more.
    say("changed", tuple(await connection.fetchrow(query)))
    rows = [(n, f"many {n}") for n in range(100, 200)]
    await connection.executemany("insert into items (id, name) values ($1, $2)", rows)
    say("executemany", await connection.fetchval("select count(*) from items where id >= 100"))
    again = [(200, "new"), (100, "duplicate")]
    insert = "insert into items (id, name) values ($1, $2)"
    await fails("executemany fails", connection.executemany(insert, again))
    say("as a whole", await connection.fetchval("select count(*) from items where id = 200"))
    returned = await connection.fetchmany(f"{insert} returning id", [(201, "a"), (202, "b")])
    say("fetchmany", [row["id"] for row in returned])


async def cursors(connection: asyncpg.Connection) -> None:
    query = "select n from generate_series(1, $1::int) n"
    async with connection.transaction():
        total = 0
        async for row in connection.cursor(query, 1000, prefetch=70):
            total += row["n"]
        say("cursor", total)
        cursor = await connection.cursor(query, 1000)
        await cursor.forward(500)
        say("forward", tuple(await cursor.fetchrow()), len(await cursor.fetch(10)))
        async for row in connection.cursor(query, 100_000):
            break
        say("given up", row["n"])
    say("goes on", await connection.fetchval("select 1"))


async def copies(connection: asyncpg.Connection) -> None:
    records = [(n, f"line {n}" if n % 7 else None) for n in range(2000)]
    say("copied in", await connection.copy_records_to_table("lines", records=records))
    csv = io.BytesIO(b"5000,csv\n5001,\n")
    say("csv", await connection.copy_to_table("lines", source=csv, format="csv"))
    out = io.BytesIO()
    query = "select * from lines where id < $1 order by id"
    say("copied out", await connection.copy_from_query(query, 5001, output=out))
    say("bytes", digest(out.getvalue()))
    bad = io.BytesIO(b"no number\tx\n" * 1000)
    await fails("bad line", connection.copy_to_table("lines", source=bad))
    say("lines", tuple(await connection.fetchrow("select count(*), max(id) from lines")))


async def interruptions(connection: asyncpg.Connection) -> None:
    async def limited() -> None:
        async with connection.transaction():
            await connection.execute("set local statement_timeout = 50")
            await connection.execute("select pg_sleep(600)")

    await fails("statement_timeout", limited())
    for _ in range(3):
        # asyncpg sends a cancel request.
        await fails("time-out", connection.fetch("select pg_sleep(600)", timeout=0.2))
        say("goes on", await connection.fetchval("select 1"))
    task = asyncio.ensure_future(connection.execute("select pg_sleep(600)"))
    await asyncio.sleep(0.2)
    task.cancel()
    try:
        await task
    except asyncio.CancelledError:
        say("task cancelled")
    say("goes on", await connection.fetchval("select 1"))


async def settings() -> None:
    wanted = {"timezone": "Asia/Tokyo", "application_name": "a program", "datestyle": "German"}
    connection = await asyncpg.connect(server_settings=wanted)
    query = "select '2024-02-29 12:00+00'::timestamptz::text, current_setting('application_name')"
    for _ in range(3):
        say("settings", tuple(await connection.fetchrow(query)))
    say("reported", connection.get_settings().TimeZone)
    await connection.execute("set timezone to 'Europe/Paris'")
    say("set", await connection.fetchval("show timezone"))
    await connection.close()


async def notifications() -> None:
    listener, other = await asyncpg.connect(), await asyncpg.connect()
    queue: asyncio.Queue = asyncio.Queue()
    await listener.add_listener("news", lambda *given: queue.put_nowait(given[3]))
    await other.execute("select pg_notify('news', $1)", "first")
    await other.execute("notify news, 'second'")
    say("notified", [await asyncio.wait_for(queue.get(), 10) for _ in range(2)])
    await listener.close()
    await other.close()


async def main() -> None:
    connection = await asyncpg.connect()
    await connection.execute(
        f"""create type mood as enum ('happy', 'sad');
        create table items (id int primary key, name text not null);
        create table counters as select n as id, 0 as value from generate_series(0, {CLIENTS - 1}) n;
        create table lines (id int, text text);
        create table changing as select 1 as x"""
    )
    await parameters(connection)
    await going_on_after_errors(connection)
    await transactions(connection)
    await many_clients()
    await prepared(connection)
    await cursors(connection)
    await copies(connection)
    await interruptions(connection)
    await connection.close()
    await settings()
    for _ in range(20):
        connection = await asyncpg.connect()
        assert await connection.fetchval("select $1::int", 1) == 1
        await connection.close()
    say("connections come and go", "ok")
    if "listen" in sys.argv[1:]:
        await notifications()


if __name__ == "__main__":
    asyncio.run(main())
