"""Instructions of a backend of PostgreSQL per transaction and per row, counted by callgrind.

Counted in single-user mode, without network, kernel and other processes: two runs differ by less
than a hundredth, however busy the machine is. What clients see of it is for the other cases.
"""

import random
import re
import shutil
import subprocess
from pathlib import Path

from servers import Account

# A run is counted twice, so that what it takes to start drops out.
FEW, MANY = 50, 250
TPCB = (
    "PREPARE a(int, int) AS UPDATE pgbench_accounts SET abalance = abalance + $1 WHERE aid = $2",
    "PREPARE s(int) AS SELECT abalance FROM pgbench_accounts WHERE aid = $1",
    "PREPARE t(int, int) AS UPDATE pgbench_tellers SET tbalance = tbalance + $1 WHERE tid = $2",
    "PREPARE b(int, int) AS UPDATE pgbench_branches SET bbalance = bbalance + $1 WHERE bid = $2",
    "PREPARE h(int, int, int, int) AS INSERT INTO pgbench_history (tid, bid, aid, delta, mtime)"
    " VALUES ($1, $2, $3, $4, CURRENT_TIMESTAMP)",
)


class CallgrindError(Exception):
    """valgrind is missing, or a statement failed."""


def is_possible() -> bool:
    """Whether valgrind is installed."""
    return shutil.which("valgrind") is not None


class Backend:
    """A backend in single-user mode, of a cluster that has been stopped."""

    def __init__(self, programs: Path, account: Account, data: Path, database: str):
        self._account = account
        self._folder = data.parent
        self._command = ["valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null"]
        self._command += [programs / "postgres", "--single", "-j", "-D", data, database]

    def per_transaction(self, scale: int) -> float:
        """Counts for a transaction of TPC-B, prepared."""
        few, many = (self._count(tpcb(count, scale)) for count in (FEW, MANY))
        return (many - few) / (MANY - FEW)

    def per_row(self, statement: str) -> float:
        """Counts for a row of a statement that writes `{rows}` of them into `bulk`."""
        few, many = (
            self._count(["TRUNCATE bulk", statement.format(rows=10 * count)])
            for count in (FEW, MANY)
        )
        return (many - few) / (10 * (MANY - FEW))

    def _count(self, statements: list[str]) -> int:
        """Counts what it takes to run `statements` in a backend of their own."""
        run = subprocess.run(
            self._command,
            # With -j, an empty line ends a statement.
            input="".join(f"{sql};\n\n" for sql in statements),
            capture_output=True,
            text=True,
            cwd=self._folder,
            check=False,
            **self._account.popen_options(),
        )
        found = re.search(r"Collected : (\d+)", run.stderr)
        if run.returncode != 0 or not found or "ERROR:" in run.stderr:
            raise CallgrindError(f"callgrind failed: {run.stderr[-1000:]}")
        return int(found[1])


def tpcb(count: int, scale: int) -> list[str]:
    """TPC-B as pgbench does it, the same each time."""
    chance = random.Random(1)
    statements = list(TPCB)
    for _ in range(count):
        account, teller = chance.randint(1, 100_000 * scale), chance.randint(1, 10 * scale)
        branch, delta = chance.randint(1, scale), chance.randint(-5000, 5000)
        statements += [
            "BEGIN",
            f"EXECUTE a({delta}, {account})",
            f"EXECUTE s({account})",
            f"EXECUTE t({delta}, {teller})",
            f"EXECUTE b({delta}, {branch})",
            f"EXECUTE h({teller}, {branch}, {account}, {delta})",
            "COMMIT",
        ]
    return statements
