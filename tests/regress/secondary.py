"""What the suite leaves behind, on a secondary: every table that follows must be equal there.

What does not follow is listed by the reason, and every table that should and is not equal must be in
`expected.toml`.
"""

import json
import subprocess
import time

import servers
from client import Client, ServerError

DATABASE = "regression"
PATIENCE_S = 300
WITHOUT_KEY = "without a key"
# Why a table does not follow, by the first that is true. Everything else must.
REASONS = """
SELECT c.oid::regclass::text, CASE
    WHEN c.relpersistence = 'u' THEN 'unlogged'
    WHEN c.relkind = 'f' THEN 'foreign'
    WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                 AND d.objid = c.oid AND d.deptype = 'e') THEN 'of an extension'
    WHEN c.relkind = 'r' AND m.amname <> 'heap' THEN 'of another access method'
    WHEN EXISTS (SELECT FROM pg_partition_tree(c.oid) p JOIN pg_class l ON l.oid = p.relid
                 LEFT JOIN pg_am a ON a.oid = l.relam
                 WHERE p.isleaf AND (l.relkind <> 'r' OR l.relpersistence <> 'p'
                                     OR a.amname <> 'heap'))
        THEN 'with partitions that do not follow'
    WHEN NOT EXISTS (
        SELECT FROM pg_index i WHERE i.indrelid = c.oid AND i.indisunique AND i.indimmediate
        AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL
        AND NOT EXISTS (SELECT FROM unnest(i.indkey[0:i.indnkeyatts - 1]) AS k
                        JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = k
                        WHERE NOT a.attnotnull))
        THEN '""" + WITHOUT_KEY + """'
    END
FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_am m ON m.oid = c.relam
WHERE c.relkind IN ('r', 'p', 'f') AND NOT c.relispartition AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pgtandem', 'pg_toast')
ORDER BY 1
"""
# Tables that are better left as they are.
UNFIT = """
SELECT inhrelid::regclass::text FROM pg_inherits
UNION SELECT ev_class::regclass::text FROM pg_rewrite
"""


def say(text: str) -> None:
    """Tells how far it is."""
    print(f"regress: {text}", flush=True)


class Replication:
    """`pgtandem replication` of a running proxy."""

    def __init__(self, proxy):
        self._proxy = proxy

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Runs a command."""
        command = [self._proxy.program, "--config", self._proxy.config, "replication"]
        return subprocess.run(
            [*command, "--user", servers.USER, *arguments],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
            timeout=PATIENCE_S,
        )

    def status(self) -> dict:
        """How the secondary is."""
        rows = json.loads(self.run("status", "--json").stdout or "[]")
        return rows[0] if rows else {}

    def await_state(self, *states: str) -> dict:
        """Waits for one of these states."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            status = self.status()
            if status.get("state") in states or time.monotonic() > deadline:
                return status
            time.sleep(0.2)


def settings(primary: int, secondary: int, exclude: list[str]) -> str:
    """The secondary, for `proxy.toml`; a table without a key must be excluded by name."""
    return f"""
[databases.{DATABASE}]
host = "127.0.0.1"
port = {primary}

[databases.{DATABASE}.replication]
admin_user = "{servers.USER}"
verify_interval = "0s"
exclude = {json.dumps(exclude)}

[databases.{DATABASE}.secondaries.copy]
host = "127.0.0.1"
port = {secondary}
"""


def copied(ground, proxy_class, primary: servers.PostgreSQL, allowed: dict[str, str]) -> bool:
    """Copies all that the suite has left, schema and rows; changes rows of all tables; compares."""
    there = ground.cluster("secondary")
    add_keys(primary)
    left = {table: reason for table, reason in reasons_of(primary).items() if reason}
    more = settings(primary.port, there.port, [table.replace('"', "") for table in left])
    folder = ground.folder("copied-proxy")
    proxy = proxy_class(folder, ground.options.pgtandem, "session", primary.port, more)
    ground.stack.callback(proxy.stop)
    replication = Replication(proxy)
    replication.await_state("paused")
    make_roles(primary, there)
    began = time.monotonic()
    copy = replication.run("copy", "--schema")
    if copy.returncode:
        say(f"copied: {copy.stderr.strip()}")
        return False
    say(f"copied: schema and rows in {time.monotonic() - began:.0f} s")
    verdict = compare(replication, primary, "copied", allowed, is_told=True)
    if verdict:
        change_rows(proxy.port, [name for name, why in reasons_of(primary).items() if not why])
        waited = replication.run("wait", "--timeout", f"{PATIENCE_S - 10}s")
        if waited.returncode:
            say(f"changed: {waited.stderr.strip()}")
            return False
        verdict = compare(replication, primary, "changed", allowed)
    proxy.stop()
    there.stop()
    return verdict


def reasons_of(primary: servers.PostgreSQL) -> dict[str, str | None]:
    """All tables, each with the reason why it does not follow, if there is one."""
    client = Client(primary.port, servers.USER, DATABASE)
    client.query("SET search_path = pg_catalog")
    reasons = dict(client.rows(REASONS))
    client.close()
    return reasons


def make_roles(primary: servers.PostgreSQL, secondary: servers.PostgreSQL) -> None:
    """Makes the roles that own something: they belong to no database, and are not copied."""
    here, there = (Client(server.port, servers.USER, DATABASE) for server in (primary, secondary))
    for (name,) in here.rows("SELECT quote_ident(rolname) FROM pg_roles WHERE oid >= 16384"):
        there.query(f"CREATE ROLE {name} SUPERUSER")
    here.close()
    there.close()


def add_keys(primary: servers.PostgreSQL) -> None:
    """Gives the tables of the suite that have no key one, so that their types are seen too.

    Not those that inherit: pg_dump may write their columns in another order, and such a table is
    refused on the secondary. Nor those with rules, which count columns.
    """
    client = Client(primary.port, servers.USER, DATABASE)
    client.query("SET search_path = pg_catalog")
    unfit = {name for (name,) in client.rows(UNFIT)}
    without = [table for table, why in reasons_of(primary).items() if why == WITHOUT_KEY]
    for table in [table for table in without if table not in unfit]:
        try:
            client.query(
                f"ALTER TABLE ONLY {table} ADD pgtandem_regress bigint GENERATED ALWAYS AS IDENTITY"
                " PRIMARY KEY"
            )
        except ServerError:
            pass  # Typed and partitioned tables, and parents, take no column so.
    client.close()


def change_rows(port: int, tables: list[str]) -> None:
    """Updates all rows of each table through the proxy, and deletes some, as far as they may be."""
    client, done = Client(port, servers.USER, DATABASE), 0
    for table in tables:
        column = client.value(
            "SELECT quote_ident(attname) FROM pg_attribute"
            f" WHERE attrelid = '{table}'::regclass AND attnum > 0 AND NOT attisdropped"
            " AND attgenerated = '' AND attidentity <> 'a' ORDER BY attnum LIMIT 1"
        )
        try:
            client.query(f"UPDATE {table} SET {column} = {column} WHERE ctid <> '(0,1)'")
            client.query(f"DELETE FROM {table} WHERE ctid IN (SELECT ctid FROM {table} LIMIT 5)")
            done += 1
        except ServerError:
            pass  # A trigger, rule or constraint of the suite forbids it.
    client.close()
    say(f"changed: rows of {done} of {len(tables)} tables")


def compare(replication: Replication, primary: servers.PostgreSQL, name: str,
            allowed: dict[str, str], is_told: bool = False) -> bool:
    """Verifies every table that follows, and accounts for every one that does not."""
    verified = replication.run("verify", "--json")
    tables = {row["table"]: row for row in json.loads(verified.stdout or "[]")}
    if not tables:
        say(f"{name}: {verified.stderr.strip()}")
    reasons = reasons_of(primary)
    good, rows, left = True, 0, {}
    for table, reason in reasons.items():
        row = tables.pop(table.replace('"', ""), None)
        if reason:
            left.setdefault(reason, []).append(table)
        elif row and row["verdict"] == "equal":
            rows += row["rows"]
        else:
            why = f"{row['verdict']}, {row['detail']}" if row else "does not follow"
            good = table in allowed and good
            say(f"{name}: {table}: {why}" + (f" (listed: {allowed[table]})" if table in allowed else ""))
    for table, row in tables.items():
        say(f"{name}: {table}: {row['verdict']}, and nothing is known of it")
        good = False
    equal = len(reasons) - sum(map(len, left.values()))
    say(f"{name}: {equal} tables should follow; {rows} rows are equal")
    for reason, names in sorted(left.items()) if is_told else ():
        say(f"{name}: {len(names)} tables do not follow, {reason}: {', '.join(names)}")
    return good
