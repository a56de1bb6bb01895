#!/usr/bin/env python3
"""Measures the replication mode: what capture costs the primary, and how fast a secondary follows.

Beside PostgreSQL's built-in logical replication and Pgpool-II in native replication mode, in the
same run and in turns; ratios are what counts. Needs PostgreSQL with pgbench, pgpool2,
valgrind (for instructions, which do not depend on the machine), and `cargo build --release`; only
the standard library.
"""

import argparse
import random
import signal
import sys
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import compare
import instructions
import pairs
import pgbench
import procfs
import report
import servers
from client import ServerError
from compare import say
from pairs import Cluster, Ground, Logical, NotAlike, Pgpool, Tandem
from pgbench import Load
from report import Measurement
from servers import StartError

CASES = ("capture", "bulk", "copy", "backlog", "steady", "lag", "verify", "instructions")
CLIENTS = 8
BULK_ROWS = 100_000
BULK_ANY = (
    "SELECT g, g % 1000, 'name ' || g, g * 1.25, '2020-01-01'::timestamptz + g * interval '1 min',"
    " 'abcdefghijklmnopqrstuvwxyz' FROM generate_series(1, {rows}) g"
)
BULK_SELECT = BULK_ANY.format(rows=BULK_ROWS)
FAILURES = (
    StartError, NotAlike, ServerError, pgbench.LoadError, instructions.CallgrindError, OSError
)
BEAT_PAUSE_S = (0.02, 0.08)
LAG_LOAD_TPS = 300


class Bench:
    """The clusters, and what was measured so far."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack):
        self.options = options
        self.runs: list[Measurement] = []
        top = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="pgtandem-bench-")))
        # Servers of another account must get through to their folders.
        top.chmod(0o711)
        durable = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}
        self.ground = Ground(top, stack, options.scale, {} if options.no_fsync else durable)
        self.tandem: Tandem | None = None
        self.logical: Logical | None = None
        self.pgpool: Pgpool | None = None

    def note(self, case: str, target: str, number: int, **figures: float) -> None:
        """Keeps what one run showed, and tells."""
        self.runs.append(Measurement(case, CLIENTS, target, number, figures))
        shown = ", ".join(f"{name} {value:,.2f}" for name, value in figures.items())
        say(f"round {number}: {case} {target}: {shown}")

    def start(self) -> None:
        """Starts and fills what the cases need; measures the initial copy on the way."""
        say("starting clusters and filling them")
        cases = self.options.cases
        self.tandem = Tandem(self.ground, self.options.pgtandem)
        if {"copy", "backlog", "steady", "lag"} & set(cases):
            self.logical = Logical(self.ground)
        program = pairs.pgpool_program()
        if "steady" in cases:
            if program is None:
                say("no pgpool found, going on without: run .ci/install bench")
            else:
                self.pgpool = Pgpool(self.ground, program)

    def first_copy(self) -> None:
        """Copies everything, by each way; afterwards both pairs follow."""
        tandem, logical = self.tandem, self.logical
        megabytes = database_megabytes(tandem.primary)
        for number in range(1, self.options.rounds + 1 if "copy" in self.options.cases else 2):
            if "copy" in self.options.cases:
                restored = self.ground.cluster(f"restored-{number}")
                restore = partial(pairs.dump_and_restore, self.ground, tandem.primary, restored)
                self.timed_copy("pg_dump | psql", number, megabytes, restored, restore)
                restored.server.stop()
            if number > 1:
                tandem.hold()
                tandem.empty_secondary()
            self.timed_copy("pgtandem", number, megabytes, tandem.secondary,
                            lambda: (tandem.release(), tandem.copied()))
        if logical:
            self.timed_copy("logical", 1, database_megabytes(logical.primary), logical.secondary,
                            lambda: (logical.subscribe(), logical.copied()))

    def timed_copy(self, name: str, number: int, megabytes: float, target: Cluster, work) -> None:
        """Measures one copy."""
        began, cpu = time.monotonic(), target.cpu_s()
        work()
        seconds = time.monotonic() - began
        self.note("copy", name, number, mb_per_s=megabytes / seconds, seconds=seconds,
                  secondary_cpu_s=target.cpu_s() - cpu)

    def capture(self, number: int) -> None:
        """TPC-B with and without capture: two databases of one cluster, in turns.

        Then once more while the secondary follows, on the same cores.
        """
        tandem = self.tandem
        turns = [("off", "plain"), ("on", servers.DATABASE)]
        # Nothing is applied meanwhile: only what capture costs the primary is to be seen.
        tandem.hold()
        for mode in ("simple", "prepared"):
            for target, database in turns if number % 2 else turns[::-1]:
                self.timed_tpcb(mode, target, database, number)
        tandem.release()
        for mode in ("simple", "prepared"):
            tandem.caught_up()
            self.timed_tpcb(mode, "on, followed", servers.DATABASE, number)
        tandem.caught_up()
        self.assert_alike(tandem)

    def timed_tpcb(self, mode: str, target: str, database: str, number: int) -> None:
        """Measures one run of TPC-B directly on the primary."""
        cluster = self.tandem.primary
        cpu = cluster.cpu_s()
        result = self.tpcb(cluster.port, CLIENTS, database, mode)
        spent = (cluster.cpu_s() - cpu) * 1e6 / max(result.transactions, 1)
        self.note(f"tpcb {mode}", target, number, tps=result.tps, cpu_us=spent,
                  p99_ms=result.p99_ms)

    def bulk(self, number: int) -> None:
        """INSERT … SELECT and COPY of many rows, with and without capture."""
        cluster = self.tandem.primary
        file = cluster.server.log.parent / "bulk.data"
        if not file.exists():
            cluster.run(f"COPY ({BULK_SELECT}) TO '{file}'")
        turns = [("off", "plain"), ("on", servers.DATABASE)]
        statements = {
            "INSERT": f"INSERT INTO bulk {BULK_SELECT}",
            "COPY": f"COPY bulk FROM '{file}'",
        }
        for kind, sql in statements.items():
            for target, database in turns if number % 2 else turns[::-1]:
                client = cluster.connect(database)
                client.query("CHECKPOINT")
                began, cpu = time.monotonic(), cluster.cpu_s()
                client.query(sql)
                seconds, spent = time.monotonic() - began, cluster.cpu_s() - cpu
                client.query("TRUNCATE bulk")
                client.close()
                self.note(f"bulk {kind}", target, number, rows_per_s=BULK_ROWS / seconds,
                          cpu_us=spent * 1e6 / BULK_ROWS)
        self.tandem.empty_log()

    def backlog(self, number: int) -> None:
        """How fast a secondary catches up with transactions that were made while nobody applied."""
        for pair in self.in_turns(number, self.tandem, self.logical):
            pair.caught_up()
            pair.hold()
            self.transactions(pair.primary.port, self.options.transactions, number)
            # The proxy that is started then has spent nothing yet.
            began, cpu = time.monotonic(), pair.cpu_s()
            pair.release()
            pair.caught_up()
            seconds, spent = time.monotonic() - began, pair.cpu_s() - cpu
            self.note("backlog", pair.name, number,
                      tps=self.options.transactions / seconds,
                      cpu_us=spent * 1e6 / self.options.transactions)
            self.assert_alike(pair)

    def steady(self, number: int) -> None:
        """From the first transaction to the moment at which the secondary has the last one."""
        for pair in self.in_turns(number, self.tandem, self.logical):
            self.timed_steady("steady, direct", pair, pair.primary.port, number)
            self.assert_alike(pair)
        for pair in self.in_turns(number, self.tandem, self.pgpool):
            self.timed_steady("steady, through the pooler", pair, pair.load_port, number)
            if pair is not self.pgpool:
                self.assert_alike(pair)

    def timed_steady(self, case: str, pair, port: int, number: int) -> None:
        """Measures so many transactions up to the moment at which the secondary has them."""
        count = self.options.transactions // 4
        began, cpu = time.monotonic(), pair.cpu_s()
        self.transactions(port, count, number)
        loaded = time.monotonic() - began
        pair.caught_up()
        seconds, spent = time.monotonic() - began, pair.cpu_s() - cpu
        self.note(case, pair.name, number, tps=count / seconds, load_tps=count / loaded,
                  cpu_us=spent * 1e6 / count)

    def lag(self, number: int) -> None:
        """How long after a commit on the primary a reader of the secondary sees it, under load."""
        for pair in self.in_turns(number, self.tandem, self.logical):
            load = Load(("-M", "prepared", "-R", str(LAG_LOAD_TPS)), 4)
            run = pgbench.Run(
                self.ground.programs / "pgbench", pair.primary.port, load, self.options.seconds, 1
            )
            with run:
                lags = beats(pair, self.options.seconds - 0.5)
                run.wait()
            lags.sort()
            self.note("lag", pair.name, number, p50_ms=quantile(lags, 0.5) * 1e3,
                      p99_ms=quantile(lags, 0.99) * 1e3, beats=len(lags))

    def verify(self) -> None:
        """How fast the background verification reads."""
        tandem = self.tandem
        tandem.caught_up()
        tandem.hold()
        tandem.secondary.run("DROP TABLE IF EXISTS pgtandem.verified, pgtandem.divergence")
        cpu = tandem.cpu_s()
        tandem.release(verify="24h")
        # Tables are verified one after the other, these two in this order.
        sql = (
            "SELECT extract(epoch FROM b.verified_at - a.verified_at), b.rows, b.verdict"
            " FROM pgtandem.verified a, pgtandem.verified b"
            " WHERE a.table_name = 'pgbench_branches' AND b.table_name = 'pgbench_accounts'"
        )
        client = tandem.secondary.connect()
        deadline = time.monotonic() + pairs.CATCH_UP_S
        rows = []
        while not rows:
            try:
                rows = client.rows(sql)
            except ServerError:
                pass  # not there yet
            if time.monotonic() > deadline:
                raise NotAlike("nothing is verified")
            time.sleep(0.05)
        client.close()
        seconds, count, verdict = float(rows[0][0]), int(rows[0][1]), rows[0][2]
        if verdict != "equal":
            raise NotAlike(f"pgbench_accounts is {verdict}")
        self.note("verify", "pgtandem", 1, rows_per_s=count / seconds,
                  cpu_us=(tandem.cpu_s() - cpu) * 1e6 / count)

    def instructions(self) -> None:
        """What capture costs a backend in instructions; the primary is of no use afterwards."""
        primary = self.tandem.primary
        self.tandem.hold()
        databases = {"off": "plain", "on": servers.DATABASE}
        for database in databases.values():
            primary.run("TRUNCATE bulk", database)
            primary.run("VACUUM ANALYZE", database)
        primary.server.stop()
        for target, database in databases.items():
            backend = instructions.Backend(
                self.ground.programs, self.ground.account, primary.server.log.parent / "data",
                database,
            )
            self.note("instructions", target, 1,
                      per_transaction=backend.per_transaction(self.ground.scale),
                      per_row=backend.per_row(f"INSERT INTO bulk {BULK_ANY}"))

    def in_turns(self, number: int, *targets) -> list:
        """Those that are there, another one first in each round."""
        there = [pair for pair in targets if pair]
        first = number % len(there)
        return there[first:] + there[:first]

    def tpcb(self, port: int, clients: int, database: str, mode: str) -> pgbench.Result:
        """Runs TPC-B for the time of a run."""
        load = Load(("-M", mode), clients)
        with pgbench.Run(
            self.ground.programs / "pgbench", port, load, self.options.seconds, 2, database
        ) as run:
            result, _ = run.wait()
        if result.problem:
            raise pgbench.LoadError(result.problem)
        return result

    def transactions(self, port: int, count: int, seed: int) -> None:
        """Runs so many TPC-B transactions, the same for the same seed."""
        command = [self.ground.programs / "pgbench", "-n", "-M", "prepared", "-h", "127.0.0.1"]
        command += ["-p", str(port), "-U", servers.USER, "-c", str(CLIENTS), "-j", "2"]
        command += ["-t", str(count // CLIENTS), f"--random-seed={seed}", servers.DATABASE]
        servers.run_group(command, Path("/"), servers.Account.caller())

    def assert_alike(self, pair) -> None:
        """A fast copy that is not one would be worth nothing."""
        if different := pair.differences():
            raise NotAlike(f"{pair.name}: {', '.join(different)} differ")


def beats(pair, seconds: float) -> list[float]:
    """Writes rows on the primary now and then, and says how long each took to be seen."""
    here, there = pair.primary.connect(), pair.secondary.connect()
    number = int(here.value("SELECT coalesce(max(id), 0) FROM beat"))
    lags = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number += 1
        here.query(f"INSERT INTO beat VALUES ({number})")
        written = time.monotonic()
        while not there.rows(f"SELECT FROM beat WHERE id = {number}"):
            if time.monotonic() > written + pairs.CATCH_UP_S:
                raise NotAlike(f"{pair.name}: a row did not arrive")
            time.sleep(0.001)
        lags.append(time.monotonic() - written)
        time.sleep(random.uniform(*BEAT_PAUSE_S))
    here.close()
    there.close()
    return lags


def quantile(ordered: list[float], share: float) -> float:
    """The value that `share` of them do not exceed."""
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def database_megabytes(cluster: Cluster) -> float:
    """Bytes of the tables without their indexes."""
    sql = (
        "SELECT sum(pg_table_size(oid)) FROM pg_class"
        " WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace"
    )
    return int(cluster.run(sql)) / 1e6


def main() -> int:
    """Returns the exit code: 0 done, 1 a copy was not equal or a run failed, 130 interrupted."""
    options = parse_options()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    bench = None
    try:
        with ExitStack() as stack:
            bench = Bench(options, stack)
            measure(bench)
        return 0
    except FAILURES as error:
        print(f"replication.py: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        say("interrupted")
        return 130
    finally:
        if bench and bench.runs:
            finish(options, bench)


def measure(bench: Bench) -> None:
    """All cases in turns, round after round."""
    options, cases = bench.options, bench.options.cases
    bench.start()
    bench.first_copy()
    if bench.logical:
        bench.logical.caught_up()
    for number in range(1, options.rounds + 1 if "capture" in cases else 1):
        bench.capture(number)
    if "bulk" in cases:
        bench.tandem.hold()
        for number in range(1, options.rounds + 1):
            bench.bulk(number)
        bench.tandem.empty_secondary()
        bench.tandem.release()
        bench.tandem.copied()
    for number in range(1, options.rounds + 1):
        for case in ("backlog", "steady", "lag"):
            if case in cases:
                getattr(bench, case)(number)
    if "verify" in cases:
        bench.verify()
    if "instructions" in cases:
        if instructions.is_possible():
            bench.instructions()
        else:
            say("no valgrind found, going on without: run .ci/install bench")


def finish(options: argparse.Namespace, bench: Bench) -> None:
    """Prints the table and writes the result."""
    rows = report.medians(bench.runs)
    durable = "fsync off" if options.no_fsync else "fsync and synchronous_commit on"
    print(
        f"{procfs.cpu_model()}, {procfs.cores()} cores; pgbench scale {options.scale},"
        f" {CLIENTS} clients, {durable}; medians of {options.rounds} interleaved rounds\n"
    )
    print(report.comparison(rows))
    path = options.json or compare.default_json("replication")
    about = {
        "commit": compare.commit(),
        "cpu": procfs.cpu_model(),
        "postgresql": servers.version_of(bench.ground.programs / "postgres"),
        "pgpool": servers.version_of(pairs.pgpool_program()) if pairs.pgpool_program() else None,
        "options": {name: str(value) for name, value in vars(options).items()},
    }
    report.write_json(path, about, bench.runs, rows)
    say(f"every run is in {path}")


def parse_options() -> argparse.Namespace:
    """Reads the command line; --quick only changes what is not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=compare.positive, help="rounds per figure (3)")
    add("--seconds", type=compare.positive, help="seconds per run of pgbench (10)")
    add("--scale", type=compare.positive, help="pgbench's scale: 100,000 rows each (20)")
    add("--transactions", type=compare.positive, help="transactions of a backlog (100000)")
    add("--cases", type=case_names, default=list(CASES), help=f"of {','.join(CASES)} (all)")
    add("--no-fsync", action="store_true", help="nothing waits for the disk: CPU alone counts")
    add("--quick", action="store_true", help="a few minutes: 1 round, scale 5, 20,000 transactions")
    add("--json", type=Path, help="result file (bench/results/replication-TIME-COMMIT.json)")
    add("--pgtandem", type=Path, default=compare.REPOSITORY / "target/release/pgtandem")
    options = parser.parse_args()
    options.pgtandem = options.pgtandem.resolve()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (5 if options.quick else 10)
    options.scale = options.scale or (5 if options.quick else 20)
    options.transactions = options.transactions or (20_000 if options.quick else 100_000)
    return options


def case_names(text: str) -> list[str]:
    """Reads a list of cases."""
    names = text.split(",")
    if unknown := [name for name in names if name not in CASES]:
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(unknown)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
