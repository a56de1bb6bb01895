"""What is compared: PostgreSQL itself and the poolers in front of it, set up alike."""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import servers
from client import Client

# Beside load and pools: PostgreSQL's reserved connections and our own.
SPARE_CONNECTIONS = 40
LEAST_CONNECTIONS = 700


@dataclass(frozen=True)
class Target:
    """A server that takes the load; `start` is there for poolers, and starts another like it."""

    name: str
    server: servers.Server
    version: str
    start: Callable[[], servers.Server] | None = None
    # Whether prepared statements work in transaction mode.
    has_statements: bool = True
    # Where its metrics are read under load, if they are.
    metrics_port: int | None = None

    @property
    def is_pooler(self) -> bool:
        """Whether it stands in front of PostgreSQL instead of being it."""
        return self.start is not None

    @property
    def pooler_pid(self) -> int | None:
        """The process whose CPU time and memory are the pooler's."""
        return self.server.pid if self.is_pooler else None

    @contextmanager
    def fresh(self):
        """Lends another instance, which nobody has talked to, for the `with` block."""
        server = self.start()
        try:
            yield server
        finally:
            server.stop()


@dataclass(frozen=True)
class Wanted:
    """Which targets to set up, and how large."""

    pool_size: int
    direct_clients: int
    pgtandem: Path
    # One pgtandem each; None leaves the number to its default.
    workers: list[int | None]
    without: list[str]
    # Each pgtandem a second time, with its metrics read under load.
    scraped: bool = False


class Ground:
    """The servers, up and filled; `stack` stops them and removes their folders."""

    def __init__(self, wanted: Wanted, stack: ExitStack, say: Callable[[str], None]):
        self.targets: list[Target] = []
        self._wanted = wanted
        self._stack = stack
        self._say = say
        self._programs = servers.postgres_folder()
        self._account = servers.Account.unprivileged()
        self._top = Path(tempfile.mkdtemp(prefix="pgtandem-bench-"))
        stack.callback(remove, self._top)
        # Servers of another account must get through to their folders.
        self._top.chmod(0o711)
        self._postgres = self._start_postgres()
        if "direct" not in wanted.without:
            version = servers.version_of(self._programs / "postgres")
            self.targets.append(Target("direct", self._postgres, version))
        if "pgbouncer" not in wanted.without:
            self._add_pgbouncer()
        if "pgtandem" not in wanted.without:
            self._add_pgtandem()
        if not self.targets:
            raise servers.StartError("nothing left to measure")

    @property
    def pgbench(self) -> Path:
        """The load generator."""
        return self._programs / "pgbench"

    def result_bytes(self, sql: str) -> int:
        """How many bytes the answer to `sql` has on the wire."""
        connection = Client(self._postgres.port, servers.USER, servers.DATABASE)
        try:
            return connection.query(sql)
        finally:
            connection.close()

    def _start_postgres(self) -> servers.PostgreSQL:
        self._say("starting PostgreSQL and filling its tables")
        # Each pooler may have its pool, and so may the fresh one of the idle case.
        tandems = len(self._wanted.workers) * (2 if self._wanted.scraped else 1)
        pools = (2 + tandems) * self._wanted.pool_size
        connections = self._wanted.direct_clients + pools + SPARE_CONNECTIONS
        postgres = servers.PostgreSQL(
            self._folder("postgres"),
            self._programs,
            self._account,
            max(LEAST_CONNECTIONS, connections),
        )
        self._stack.callback(postgres.stop)
        postgres.fill(self._programs)
        return postgres

    def _add_pgbouncer(self) -> None:
        program = servers.pgbouncer_program()
        if program is None:
            self._say("no pgbouncer found, going on without: run .ci/install bench")
            return
        self._add(
            "pgbouncer",
            program,
            lambda: servers.PgBouncer(
                self._folder("pgbouncer"),
                program,
                self._account,
                self._postgres.port,
                self._wanted.pool_size,
            ),
            servers.PgBouncer.has_prepared_statements(program),
        )

    def _add_pgtandem(self) -> None:
        program = self._wanted.pgtandem
        if not program.exists():
            self._say(f"no {program}, going on without pgtandem: run cargo build --release")
            return
        for workers in self._wanted.workers:
            name = "pgtandem" if workers is None else f"pgtandem w{workers}"
            self._add_one_pgtandem(name, workers, False)
            if self._wanted.scraped:
                self._add_one_pgtandem(f"{name} scraped", workers, True)

    def _add_one_pgtandem(self, name: str, workers: int | None, is_scraped: bool) -> None:
        program = self._wanted.pgtandem
        self._add(
            name,
            program,
            lambda: servers.Pgtandem(
                name,
                self._folder(name.replace(" ", "-")),
                program,
                self._postgres.port,
                self._wanted.pool_size,
                workers,
                is_scraped,
            ),
        )

    def _add(
        self,
        name: str,
        program: Path,
        start: Callable[[], servers.Server],
        has_statements: bool = True,
    ) -> None:
        self._say(f"starting {name}")
        server = start()
        self._stack.callback(server.stop)
        version = servers.version_of(program)
        metrics_port = getattr(server, "metrics_port", None)
        self.targets.append(Target(name, server, version, start, has_statements, metrics_port))

    def _folder(self, name: str) -> Path:
        """Makes a new folder that belongs to the servers' account."""
        path = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self._top))
        os.chown(path, self._account.uid, self._account.gid)
        return path


def remove(folder: Path) -> None:
    """Removes a folder in which a process may be writing its last."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
        time.sleep(0.1)
    shutil.rmtree(folder)
