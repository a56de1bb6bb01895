#!/usr/bin/env python3
"""Runs PostgreSQL's own regression suite directly and through pgtandem, and compares.

What fails only through the proxy is the proxy's fault: `expected.toml` lists what cannot be
otherwise, with the reason, and anything else ends the run with 1. Only the standard library is
needed, and PostgreSQL of Debian; `source.py` fetches the suite.
"""

import argparse
import difflib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parent.parent
sys.path.insert(0, str(TOP / "bench"))

import secondary  # noqa: E402
import servers  # noqa: E402
import source  # noqa: E402
from client import Client  # noqa: E402

DATABASE = "regression"
# What the suite sets for a cluster of its own, and what it needs.
SETTINGS = {
    "max_prepared_transactions": "2",
    "max_connections": "100",
    "autovacuum": "on",
    "shared_buffers": "128MB",
    "checkpoint_timeout": "5min",
}
# What the suite's clients begin with: in a pooled session RESET goes back to the server's values.
DATABASE_SETTINGS = {
    "DateStyle": "Postgres, MDY",
    "IntervalStyle": "postgres_verbose",
    "lc_messages": "C",
    "lc_monetary": "C",
    "lc_numeric": "C",
    "lc_time": "C",
    "bytea_output": "hex",
    "timezone_abbreviations": "Default",
}
RUN_TIMEOUT_S = 1800
SHOWN_LINES = 40


@dataclass
class Outcome:
    """What one run of the suite showed."""

    name: str
    results: Path
    tests: dict[str, bool] = field(default_factory=dict)
    seconds: float = 0.0

    def failed(self) -> set[str]:
        """The tests whose output is not what PostgreSQL's authors expect."""
        return {test for test, passed in self.tests.items() if not passed}

    def output(self, test: str) -> list[str]:
        """What a test printed."""
        path = self.results / "results" / f"{test}.out"
        return path.read_text(errors="surrogateescape").splitlines() if path.exists() else []


class Proxy(servers.Server):
    """pgtandem in front of a cluster; `more` is added to its settings."""

    login_database = "postgres"

    def __init__(self, folder: Path, program: Path, mode: str, server_port: int, more: str = ""):
        port = servers.free_port()
        self.config = folder / "proxy.toml"
        self.program = program
        self.config.write_text(
            f"""\
[general]
listen_addr = "127.0.0.1"
listen_port = {port}
unix_socket_dir = ""
auth_type = "trust"
admin_users = ["{servers.USER}"]
pool_mode = "{mode}"
default_pool_size = 40
log_connections = false
log_disconnections = false

[metrics]
listen = ""

[databases."*"]
host = "127.0.0.1"
port = {server_port}
{more}"""
        )
        account, command = servers.Account.caller(), [program, "--config", self.config]
        super().__init__(f"pgtandem-{mode}", folder, command, account, port)


class Ground:
    """The folders, programs and clusters of all runs."""

    def __init__(self, options: argparse.Namespace, stack: ExitStack):
        self.options = options
        self.stack = stack
        self.account = servers.Account.unprivileged()
        self.programs = servers.postgres_folder()
        cache = Path(os.environ.get("CARGO_TARGET_DIR", TOP / "target")).resolve() / "regress"
        self.suite = source.prepare(self.programs, cache)
        if options.keep:
            self.top = Path(tempfile.mkdtemp(prefix="pgtandem-regress-"))
        else:
            folder = tempfile.TemporaryDirectory(prefix="pgtandem-regress-", ignore_cleanup_errors=True)
            self.top = Path(stack.enter_context(folder))
        self.top.chmod(0o711)
        self.input = self._own_suite()

    def folder(self, name: str) -> Path:
        """Makes a folder that belongs to the servers' account."""
        path = self.top / name
        path.mkdir()
        os.chown(path, self.account.uid, self.account.gid)
        return path

    def cluster(self, name: str) -> servers.PostgreSQL:
        """Starts a cluster with the suite's database."""
        server = servers.PostgreSQL(self.folder(name), self.programs, self.account, 100, SETTINGS)
        self.stack.callback(server.stop)
        admin = Client(server.port, servers.USER, "postgres")
        admin.query(f"CREATE DATABASE {DATABASE} TEMPLATE template0")
        settings = {**DATABASE_SETTINGS, "TimeZone": self.suite.time_zone}
        for key, value in settings.items():
            admin.query(f"ALTER DATABASE {DATABASE} SET {key} = '{value}'")
        admin.close()
        return server

    def _own_suite(self) -> Path:
        """A copy that the server may read, with the libraries that its tests load beside it."""
        copy = self.folder("suite")
        for name in ("sql", "expected", "data", "parallel_schedule"):
            origin = self.suite.regress / name
            (shutil.copytree if origin.is_dir() else shutil.copy2)(origin, copy / name)
        library = copy / "lib"
        library.mkdir()
        shutil.copy2(self.suite.library, library / "regress.so")
        for name in ("autoinc.so", "refint.so"):
            shutil.copy2(source.config_of(self.programs, "--pkglibdir") / name, library / name)
        return copy


def run_suite(ground: Ground, name: str, port: int, launcher: Path | None = None) -> Outcome:
    """Runs the suite, or the tests that were asked for, at a port."""
    output = ground.folder(f"{name}-output")
    command = [ground.suite.driver, "--use-existing", "--host=127.0.0.1", f"--port={port}"]
    command += [f"--user={servers.USER}", f"--dbname={DATABASE}", f"--bindir={ground.programs}"]
    command += [f"--inputdir={ground.input}", f"--outputdir={output}"]
    command += [f"--dlpath={ground.input / 'lib'}"]
    if launcher:
        command += [f"--launcher={launcher}", "--max-connections=1"]
    command += ground.options.tests or [f"--schedule={ground.input / 'parallel_schedule'}"]
    began = time.monotonic()
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    answer = subprocess.run(
        command,
        cwd=output,
        env={**environment, "LC_ALL": "C"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=RUN_TIMEOUT_S,
        **ground.account.popen_options(),
    )
    outcome = Outcome(name, output, seconds=time.monotonic() - began)
    line = re.compile(r"^(?:test |     )(\S+) +\.\.\. (ok|FAILED|failed \(ignored\))", re.MULTILINE)
    for test, verdict in line.findall(answer.stdout):
        outcome.tests[test] = verdict == "ok"
    if not outcome.tests:
        raise servers.StartError(f"the suite did not run:\n{answer.stdout}")
    say(f"{name}: {len(outcome.tests)} tests in {outcome.seconds:.0f} s, "
        f"{len(outcome.failed())} differ from what is expected"
        + "".join(f" {test}" for test in sorted(outcome.failed())))
    return outcome


def judge(direct: Outcome, proxied: Outcome, allowed: dict[str, str]) -> bool:
    """Says what is different through the proxy; returns whether all of it is known."""
    good = True
    only = proxied.failed() - direct.failed()
    for test in sorted(proxied.failed() & direct.failed()):
        if proxied.output(test) != direct.output(test):
            say(f"{proxied.name}: {test} fails directly too, otherwise")
    missing = set(direct.tests) - set(proxied.tests)
    for test in sorted(only | missing):
        if test in allowed:
            say(f"{proxied.name}: {test} differs as listed: {allowed[test]}")
            continue
        good = False
        say(f"{proxied.name}: {test} FAILS only through the proxy")
        for line in list(difflib.unified_diff(
            direct.output(test), proxied.output(test), "direct", proxied.name, lineterm="", n=2,
        ))[:SHOWN_LINES]:
            print("    " + line.encode(errors="replace").decode())
    for test in sorted(set(allowed) & set(direct.tests) - only):
        say(f"{proxied.name}: {test} is listed, and does not differ")
    return good


def launcher_of(ground: Ground, port: int) -> Path:
    """A program that gives each test new backends, and then runs it."""
    script = ground.top / "launcher"
    script.write_text(
        "#!/bin/sh\n"
        f"PGOPTIONS= {ground.programs}/psql -X -q -h 127.0.0.1 -p {port} -U {servers.USER} "
        "-d pgtandem -c RECONNECT >/dev/null || exit\n"
        'exec "$@"\n'
    )
    script.chmod(0o755)
    return script


def main() -> int:
    """Runs all that was asked for; 0 if nothing differs but what is listed."""
    options = parse_options()
    allowed = tomllib.loads((HERE / "expected.toml").read_text())
    good = True
    with ExitStack() as stack:
        ground = Ground(options, stack)
        say(f"PostgreSQL {ground.suite.version}, in {ground.top}")
        cluster = ground.cluster("direct")
        direct = run_suite(ground, "direct", cluster.port)
        cluster.stop()
        for mode in options.modes:
            cluster = ground.cluster(mode)
            proxy = Proxy(ground.folder(f"{mode}-proxy"), options.pgtandem, mode, cluster.port)
            stack.callback(proxy.stop)
            launcher = launcher_of(ground, proxy.port) if mode == "transaction" else None
            outcome = run_suite(ground, mode, proxy.port, launcher)
            proxy.assert_running()
            good = judge(direct, outcome, allowed.get(mode, {})) and good
            proxy.stop()
            if mode == "session" and "copied" in options.secondary:
                good = secondary.copied(ground, Proxy, cluster, allowed.get("tables", {})) and good
            cluster.stop()
    say("nothing differs but what is listed" if good else "there are differences")
    return 0 if good else 1


def parse_options() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pgtandem", type=Path, default=TOP / "target/debug/pgtandem")
    parser.add_argument("--modes", type=lambda text: text.split(","), default=["session", "transaction"])
    parser.add_argument(
        "--secondary", type=lambda text: text.split(","), default=["copied"],
        help="what to do with one: copied = what the suite leaves is copied, and changed",
    )
    parser.add_argument("--keep", action="store_true", help="leave folders and outputs")
    parser.add_argument("tests", nargs="*", help="some tests instead of all")
    return parser.parse_args()


def say(text: str) -> None:
    """Tells how far it is."""
    print(f"regress: {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
