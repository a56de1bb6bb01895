#!/usr/bin/env python3
"""Compares PostgreSQL alone, behind PgBouncer and behind pgtandem under the same load.

Starts throw-away servers, lets the targets take turns within every round so that a noisy machine
is noisy for all of them, prints the medians as one table, and leaves nothing behind.
Needs PostgreSQL with pgbench, PgBouncer, and `cargo build --release`; only the standard library.
"""

import argparse
import os
import platform
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import idle
import pgbench
import procfs
import report
import syscalls
from client import ServerError
from pgbench import Load
from report import Measurement, Median
from scrape import Scraper
from servers import StartError, version_of
from targets import Ground, Target, Wanted

BENCH = Path(__file__).resolve().parent
REPOSITORY = BENCH.parent
ROWS = BENCH / "load" / "rows.sql"
# Memory per idle client, by whether they use TLS.
IDLE = {"idle": False, "tls-idle": True}
POOLERS_AND_DIRECT = ("direct", "pgbouncer", "pgtandem")
# For the clients of the idle cases: one file each here and in the pooler.
FILES_SPARE = 2000
WARM_UP_S = 1
# Starting pgbench, and reading its log.
OVERHEAD_S = 0.6


@dataclass(frozen=True)
class Case:
    """A kind of load; `clients` is None where --clients says how many."""

    arguments: tuple[str, ...]
    clients: int | None = None
    needs_statements: bool = False
    # Between pgbench and the pooler; PostgreSQL itself has none here.
    uses_tls: bool = False


CASES = {
    "simple": Case(("-S", "-M", "simple")),
    "extended": Case(("-S", "-M", "extended")),
    "prepared": Case(("-S", "-M", "prepared"), needs_statements=True),
    "tpcb": Case(("-M", "simple"), clients=16),
    "churn": Case(("-S", "-C"), clients=16),
    "rows": Case(("-f", str(ROWS)), clients=4),
    "tls": Case(("-S", "-M", "simple"), uses_tls=True),
    "tls-churn": Case(("-S", "-C"), clients=16, uses_tls=True),
    "tls-rows": Case(("-f", str(ROWS)), clients=4, uses_tls=True),
}


class Terminated(Exception):
    """SIGTERM or SIGHUP came."""


def main() -> int:
    """Returns the exit code: 0 done, 1 a run had problems, 2 nothing measured, 130 interrupted."""
    options = parse_options()
    # A shell's background jobs begin with SIGINT ignored, and so would their children.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, _terminate)
    stack = ExitStack()
    try:
        if options.pin:
            os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        idle.raise_file_limit(options.idle_clients + FILES_SPARE)
        ground = Ground(wanted_of(options), stack, say)
        if options.strace:
            return print_syscalls(options, ground)
        return compare(options, ground)
    except (StartError, syscalls.StraceError, pgbench.LoadError, OSError) as error:
        print(f"compare.py: {error}", file=sys.stderr)
        return 2
    except (KeyboardInterrupt, Terminated):
        say("interrupted")
        return 130
    finally:
        # The way out takes bounded time, and a second Ctrl-C must not leave servers behind.
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)
        stack.close()


def parse_options() -> argparse.Namespace:
    """Reads the command line; --quick only changes what is not given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--rounds", type=positive, help="rounds per figure (5)")
    add("--seconds", type=positive, help="seconds per run (4)")
    add("--clients", type=numbers, help="clients of the select cases (1,16,64,500)")
    add("--cases", type=case_names, help=f"of {','.join([*CASES, *IDLE])} (all)")
    add("--pool-size", type=positive, default=20, help="server connections of a pooler (20)")
    add("--workers", type=numbers, help="one pgtandem target for each value, as in 1,2")
    add("--idle-clients", type=positive, default=5000, help="clients of the idle cases (5000)")
    add("--without", action="append", default=[], choices=POOLERS_AND_DIRECT)
    add("--quick", action="store_true", help="a few minutes: 2 rounds of 2 s, 16 and 64 clients")
    add(
        "--scrape",
        type=seconds,
        help="each pgtandem once more, its metrics read every so many seconds under load",
    )
    add("--pin", action="store_true", help="everything on one core: the steadiest CPU figures")
    add("--strace", action="store_true", help="system calls per transaction instead of speed")
    add("--json", type=Path, help="result file (bench/results/TIME-COMMIT.json)")
    add("--pgtandem", type=Path, default=REPOSITORY / "target/release/pgtandem")
    options = parser.parse_args()
    options.pgtandem = options.pgtandem.resolve()
    quick = options.quick or options.strace
    options.rounds = options.rounds or (2 if quick else 5)
    options.seconds = options.seconds or (2 if quick else 4)
    options.clients = options.clients or ([16, 64] if quick else [1, 16, 64, 500])
    options.cases = options.cases or (["simple"] if options.strace else [*CASES, *IDLE])
    return options


def positive(text: str) -> int:
    """Reads a whole number above 0."""
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def seconds(text: str) -> float:
    """Reads a duration above 0."""
    number = float(text)
    if not 0 < number < float("inf"):
        raise ValueError
    return number


def numbers(text: str) -> list[int]:
    """Reads a list such as 1,16,64."""
    return [positive(part) for part in text.split(",")]


def case_names(text: str) -> list[str]:
    """Reads a list of cases."""
    names = text.split(",")
    if unknown := [name for name in names if name not in (*CASES, *IDLE)]:
        raise argparse.ArgumentTypeError(f"no such case: {', '.join(unknown)}")
    return names


def loads_of(options: argparse.Namespace) -> list[tuple[str, int]]:
    """The loads in the order in which they run: case and number of clients."""
    loads = []
    for name in options.cases:
        if name in IDLE:
            loads.append((name, options.idle_clients))
        elif fixed := CASES[name].clients:
            loads.append((name, fixed))
        else:
            loads += [(name, clients) for clients in options.clients]
    return loads


def wanted_of(options: argparse.Namespace) -> Wanted:
    """What the options ask the set-up for."""
    return Wanted(
        pool_size=options.pool_size,
        direct_clients=max((count for case, count in loads_of(options) if case not in IDLE), default=0),
        pgtandem=options.pgtandem,
        workers=options.workers or [None],
        without=options.without,
        scraped=options.scrape is not None,
    )


def compare(options: argparse.Namespace, ground: Ground) -> int:
    """Measures all rounds; prints and writes what there is even if they are cut short."""
    runs: list[Measurement] = []
    loads = loads_of(options)
    try:
        say(f"{options.rounds} rounds take about {estimated_minutes(options, ground):.0f} minutes")
        warm_up(options, ground)
        measure_rounds(options, ground, loads, runs)
    finally:
        if runs:
            rows = report.medians(runs)
            print_table(options, rows, loads, ground)
            path = options.json or default_json()
            report.write_json(path, context(options, ground), runs, rows)
            say(f"every run is in {path}")
    return 1 if any(run.problem for run in runs) else 0


def estimated_minutes(options: argparse.Namespace, ground: Ground) -> float:
    """How long all rounds take, give or take a fifth."""
    loads = [case for case, _ in loads_of(options)]
    runs = sum(can_run(target, case) for target in ground.targets for case in loads)
    return options.rounds * runs * (options.seconds + OVERHEAD_S) / 60


def warm_up(options: argparse.Namespace, ground: Ground) -> None:
    """Fills PostgreSQL's cache and every pool."""
    load = Load(CASES["simple"].arguments, options.pool_size)
    for target in ground.targets:
        pgbench.measure(
            ground.pgbench, target.server.port, load, WARM_UP_S, threads(), target.pooler_pid
        )


def measure_rounds(
    options: argparse.Namespace,
    ground: Ground,
    loads: list[tuple[str, int]],
    runs: list[Measurement],
) -> None:
    """Appends to `runs` as they end; targets take turns, and another one begins each round."""
    for number in range(options.rounds):
        first = number % len(ground.targets)
        turns = ground.targets[first:] + ground.targets[:first]
        for case, clients in loads:
            for target in turns:
                if not can_run(target, case):
                    continue
                run = Measurement(case, clients, target.name, number + 1)
                try:
                    if case in IDLE:
                        run.figures = measure_idle(options, target, clients, IDLE[case])
                    else:
                        measure_load(options, ground, target, run)
                except (pgbench.LoadError, ServerError, OSError) as error:
                    run.problem = str(error)
                target.server.assert_running()
                runs.append(run)
                say(f"round {number + 1}/{options.rounds}: {progress(run)}")


def can_run(target: Target, case: str) -> bool:
    """Whether the case makes sense for the target."""
    if case in IDLE:
        return target.is_pooler
    if CASES[case].uses_tls and not target.is_pooler:
        return False
    return target.has_statements or not CASES[case].needs_statements


def measure_idle(
    options: argparse.Namespace, target: Target, clients: int, uses_tls: bool
) -> dict[str, float]:
    """Memory per idle client of a fresh instance."""
    with target.fresh() as server:
        used = idle.bytes_per_client(server, clients, options.pool_size, uses_tls)
        return {"bytes_per_client": used}


def measure_load(
    options: argparse.Namespace, ground: Ground, target: Target, run: Measurement
) -> None:
    """Fills in figures and problems of one pgbench run."""
    case = CASES[run.case]
    load = Load(case.arguments, run.clients, case.uses_tls)
    with ExitStack() as stack:
        scraper = None
        if target.metrics_port is not None:
            scraper = stack.enter_context(Scraper(target.metrics_port, options.scrape))
        result = pgbench.measure(
            ground.pgbench,
            target.server.port,
            load,
            options.seconds,
            threads(),
            target.pooler_pid,
        )
    run.problem = result.problem
    run.figures = result.figures()
    if scraper is not None:
        run.problem = run.problem or scraper.problem
        run.figures["scrapes"] = scraper.count
        run.figures["scrape_bytes"] = scraper.bytes
    if run.case.endswith("rows"):
        megabytes = ground.result_bytes(ROWS.read_text()) / 1e6
        run.figures["mb_per_s"] = result.tps * megabytes
        if result.cpu_us is not None:
            run.figures["cpu_us_per_mb"] = result.cpu_us / megabytes


def print_table(
    options: argparse.Namespace,
    rows: list[Median],
    loads: list[tuple[str, int]],
    ground: Ground,
) -> None:
    """Prints what was compared, and the medians."""
    for target in ground.targets:
        print(f"{target.name}: {target.version}")
    print(
        f"{procfs.cpu_model()}, {len(os.sched_getaffinity(0))} cores; pool of"
        f" {options.pool_size}, transaction mode; medians of {options.rounds} interleaved rounds"
        f" of {options.seconds} s; ×PgB = ratio to PgBouncer\n"
    )
    print(report.table(rows, loads, [target.name for target in ground.targets]))
    if "churn" in options.cases:
        print("churn: the average includes logging in, the percentiles do not")


def print_syscalls(options: argparse.Namespace, ground: Ground) -> int:
    """Prints the system calls of each pooler per transaction."""
    for case, clients in loads_of(options):
        for target in ground.targets:
            if case in IDLE or not target.is_pooler or not can_run(target, case):
                continue
            calls = syscalls.per_transaction(
                ground.pgbench,
                target.server,
                Load(CASES[case].arguments, clients),
                options.seconds,
                threads(),
            )
            shown = "  ".join(
                f"{name} {count:.2f}" for name, count in calls.items() if count >= 0.005
            )
            print(f"{case} {clients:>4} {target.name:<12} {shown}", flush=True)
    return 0


def context(options: argparse.Namespace, ground: Ground) -> dict:
    """What one has to know to compare this result with another."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "taken_at": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "host": {
            "name": platform.node(),
            "cpu": procfs.cpu_model(),
            "cores": os.cpu_count(),
            "memory_bytes": memory,
            "kernel": platform.release(),
        },
        "versions": {
            "python": platform.python_version(),
            "pgbench": version_of(ground.pgbench),
            **{target.name: target.version for target in ground.targets},
        },
        "options": {name: _plain(value) for name, value in vars(options).items()},
    }


def default_json(prefix: str = "") -> Path:
    """A file name that tells when and what was measured."""
    moment = datetime.now(timezone.utc).strftime("%Y%m%dT%H%M%SZ")
    name = f"{moment}-{commit()}.json"
    return BENCH / "results" / (f"{prefix}-{name}" if prefix else name)


def commit() -> str:
    """The commit of the checkout, marked if files differ from it."""
    try:
        answer = subprocess.run(
            ["git", "-C", REPOSITORY, "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            check=False,
        )
    except FileNotFoundError:
        return "unknown"
    return answer.stdout.strip().replace("/", "-") or "unknown"


def threads() -> int:
    """Threads of pgbench: no more than cores, and at most two, as it is not what is measured."""
    return min(2, len(os.sched_getaffinity(0)))


def progress(run: Measurement) -> str:
    """One line about a run that has just ended."""
    parts = [f"{run.case} {run.clients} {run.target}"]
    for name, form in (
        ("tps", "{:,.0f} tps"),
        ("cpu_us", "{:.1f} CPU µs/tx"),
        ("bytes_per_client", "{:,.0f} bytes/client"),
    ):
        if name in run.figures:
            parts.append(form.format(run.figures[name]))
    if run.problem:
        parts.append(f"!! {run.problem}")
    return ", ".join(parts)


def say(text: str) -> None:
    """Tells the person in front of the terminal; the table alone goes to standard output."""
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def _plain(value):
    return str(value) if isinstance(value, Path) else value


def _terminate(*_) -> None:
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
