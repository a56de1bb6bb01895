"""System calls of a pooler per transaction, counted by strace."""

import os
import re
import select
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from pgbench import Load, Run
from servers import Server

ATTACH_TIMEOUT_S = 10
DETACH_TIMEOUT_S = 10


class StraceError(Exception):
    """strace is missing or may not attach."""


def per_transaction(
    pgbench: Path, server: Server, load: Load, seconds: int, threads: int
) -> dict[str, float]:
    """Counts each system call of `server` while `load` runs; most frequent first."""
    if not shutil.which("strace"):
        raise StraceError("strace is not installed: apt-get install strace")
    with (
        tempfile.TemporaryDirectory(prefix="pgtandem-strace-") as folder,
        Run(pgbench, server.port, load, seconds, threads) as run,
    ):
        run.await_steady()
        summary = Path(folder) / "summary"
        strace = subprocess.Popen(
            ["strace", "-c", "-f", "-U", "name,calls", "-o", summary, "-p", str(server.pid)],
            stdin=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        try:
            _await_attached(strace)
            start_s = time.time()
            run.sleep_until_near_end()
            end_s = time.time()
            # On SIGINT strace lets the process go on and writes its table.
            strace.send_signal(signal.SIGINT)
            strace.wait(DETACH_TIMEOUT_S)
        finally:
            if strace.poll() is None:
                strace.kill()
                strace.wait()
            strace.stderr.close()
        _, log = run.wait()
        count = log.count_between(start_s, end_s)
        if count == 0:
            raise StraceError("no transaction ended under strace")
        return {name: calls / count for name, calls in _table(summary.read_text())}


def _await_attached(strace: subprocess.Popen) -> None:
    """Waits until strace says that it has attached."""
    deadline = time.monotonic() + ATTACH_TIMEOUT_S
    said = b""
    while time.monotonic() < deadline:
        if not select.select([strace.stderr], [], [], 0.1)[0]:
            continue
        chunk = os.read(strace.stderr.fileno(), 4096)
        said += chunk
        if b" attached" in said:
            return
        if not chunk:
            break
    raise StraceError(f"strace did not attach: {said.decode(errors='replace').strip()}")


def _table(summary: str) -> list[tuple[str, int]]:
    """Reads strace's table of two columns, leaving out heading and total."""
    rows = re.findall(r"^(\w+) +(\d+) *$", summary, re.MULTILINE)
    calls = [(name, int(count)) for name, count in rows if name != "total"]
    return sorted(calls, key=lambda row: -row[1])
