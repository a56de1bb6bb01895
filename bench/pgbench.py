"""One run of pgbench: start it, measure the pooler meanwhile, read the result and the log."""

import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import servers
from procfs import cpu_time

# A run that is not over this long after its time hangs.
OVERTIME_S = 60
# The longest wait for the first lines of the log, as a share of the run: they are written in blocks
# of 4 KiB, which a slow load takes long to fill.
STEADY_WAIT_SHARE = 0.25
# The CPU time is read this long before the end of the run.
END_MARGIN_S = 0.1
LOG_COLUMNS = 6


class LoadError(Exception):
    """pgbench did not produce a result at all."""


@dataclass(frozen=True)
class Load:
    """What pgbench sends."""

    arguments: tuple[str, ...]
    clients: int
    uses_tls: bool = False


@dataclass
class Result:
    """What one run measured; times in the unit that the name ends with."""

    tps: float
    average_ms: float
    p50_ms: float
    p99_ms: float
    p999_ms: float
    transactions: int
    cpu_user_us: float | None = None
    cpu_system_us: float | None = None
    problem: str | None = None

    @property
    def cpu_us(self) -> float | None:
        """CPU time of the pooler per transaction."""
        if self.cpu_user_us is None or self.cpu_system_us is None:
            return None
        return self.cpu_user_us + self.cpu_system_us

    def figures(self) -> dict[str, float]:
        """Every figure by name; those of a pooler are missing where there is none."""
        named = {**vars(self), "cpu_us": self.cpu_us}
        return {name: value for name, value in named.items() if isinstance(value, int | float)}


@dataclass(frozen=True)
class Log:
    """The per-transaction log of one run, all threads together."""

    latencies_us: list[int]  # sorted
    ends_us: list[int]  # since the epoch, in no order

    @staticmethod
    def read(folder: Path) -> "Log":
        """Reads all log files of `folder`; failed transactions are left out."""
        latencies: list[int] = []
        ends: list[int] = []
        for path in folder.glob("log.*"):
            # client, transaction, latency or "failed", script, seconds, microseconds. Whole-column
            # slices keep this at a fraction of a second for a million lines.
            words = path.read_bytes().split()
            words = words[: len(words) - len(words) % LOG_COLUMNS]
            columns = (words[2::LOG_COLUMNS], words[4::LOG_COLUMNS], words[5::LOG_COLUMNS])
            if not all(map(bytes.isdigit, columns[0])):
                kept = [row for row in zip(*columns) if row[0].isdigit()]
                columns = zip(*kept) if kept else ((), (), ())
            micros, end_seconds, end_micros = (list(map(int, column)) for column in columns)
            latencies += micros
            ends += [s * 1_000_000 + us for s, us in zip(end_seconds, end_micros)]
        latencies.sort()
        return Log(latencies, ends)

    def quantile_ms(self, share: float) -> float:
        """The latency that `share` of the transactions did not exceed."""
        if not self.latencies_us:
            return 0.0
        rank = min(int(len(self.latencies_us) * share), len(self.latencies_us) - 1)
        return self.latencies_us[rank] / 1000

    def count_between(self, start_s: float, end_s: float) -> int:
        """How many transactions ended between two moments of the epoch clock."""
        start_us, end_us = int(start_s * 1e6), int(end_s * 1e6)
        return sum(1 for end in self.ends_us if start_us < end <= end_us)


class Run:
    """A pgbench at work; leaving the `with` block ends it in every case."""

    def __init__(
        self,
        program: Path,
        port: int,
        load: Load,
        seconds: int,
        threads: int,
        database: str = servers.DATABASE,
    ):
        self._seconds = seconds
        self._temporary = tempfile.TemporaryDirectory(prefix="pgtandem-pgbench-")
        self._folder = Path(self._temporary.name)
        command = [program, "-n", "-h", "127.0.0.1", "-p", str(port), "-U", servers.USER]
        command += ["-c", str(load.clients), "-j", str(min(threads, load.clients))]
        command += ["-T", str(seconds), "-l", "--log-prefix", self._folder / "log"]
        command += [*load.arguments, database]
        # Left to itself, pgbench would use TLS wherever it is offered.
        mode = "require" if load.uses_tls else "disable"
        environment = {**os.environ, "PGSSLMODE": mode}
        try:
            with (self._folder / "out").open("w") as out, (self._folder / "err").open("w") as err:
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, env=environment
                )
        except BaseException:
            self._temporary.cleanup()
            raise
        self._started_s = time.time()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        self._temporary.cleanup()

    def await_steady(self) -> None:
        """Waits for the first logged transactions, at most a quarter of the run."""
        while time.time() < self._started_s + STEADY_WAIT_SHARE * self._seconds:
            if self._process.poll() is not None:
                return
            if any(path.stat().st_size > 0 for path in self._folder.glob("log.*")):
                return
            time.sleep(0.01)

    def sleep_until_near_end(self) -> None:
        """Sleeps until just before the run ends."""
        end = self._started_s + self._seconds - END_MARGIN_S
        while time.time() < end and self._process.poll() is None:
            time.sleep(0.02)

    def wait(self) -> tuple[Result, Log]:
        """Waits for the end and reads what pgbench says and logged."""
        try:
            status = self._process.wait(self._seconds + OVERTIME_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            status = self._process.wait()
        output = (self._folder / "out").read_text()
        problem = _problem(status, output, (self._folder / "err").read_text())
        tps = re.search(r"^tps = ([\d.]+)", output, re.MULTILINE)
        average = re.search(r"^latency average = ([\d.]+) ms", output, re.MULTILINE)
        if not tps or not average:
            raise LoadError(problem or "no transaction ended in time")
        log = Log.read(self._folder)
        result = Result(
            tps=float(tps[1]),
            average_ms=float(average[1]),
            p50_ms=log.quantile_ms(0.5),
            p99_ms=log.quantile_ms(0.99),
            p999_ms=log.quantile_ms(0.999),
            transactions=len(log.latencies_us),
            problem=problem,
        )
        return result, log


def _problem(status: int, output: str, complaints: str) -> str | None:
    """What makes a run suspect, in one line: exit code, failed transactions, aborted clients."""
    parts = []
    if status != 0:
        parts.append(f"pgbench ended with {status}")
    failed = re.search(r"number of failed transactions: (\d+)", output)
    if failed and int(failed[1]) > 0:
        parts.append(f"{failed[1]} failed transactions")
    errors = [line for line in complaints.splitlines() if "error:" in line or "aborted" in line]
    if errors:
        parts.append(f"{len(errors)} errors, the first: {errors[0]}")
    return ", ".join(parts) or None


def measure(
    program: Path, port: int, load: Load, seconds: int, threads: int, pooler_pid: int | None
) -> Result:
    """Runs `load` for `seconds`, with the CPU time of the pooler if there is one.

    The CPU time is that of a window inside the run, divided by the transactions that the log says
    ended in that window, so that logging in and out does not count.
    """
    with Run(program, port, load, seconds, threads) as run:
        if pooler_pid is None:
            return run.wait()[0]
        run.await_steady()
        start_s, before = time.time(), cpu_time(pooler_pid)
        run.sleep_until_near_end()
        end_s, spent = time.time(), cpu_time(pooler_pid) - before
        result, log = run.wait()
    if count := log.count_between(start_s, end_s):
        result.cpu_user_us = spent.user_s * 1e6 / count
        result.cpu_system_us = spent.system_s * 1e6 / count
    return result
