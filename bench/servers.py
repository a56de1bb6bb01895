"""The throw-away servers of a benchmark: PostgreSQL, PgBouncer and pgtandem.

Each runs in the foreground as our child, in a folder of its own under one temporary folder, and
dies with us. `Server.stop` ends it in every case.
"""

import ctypes
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from client import Client, ServerError

USER = "bench"
DATABASE = "bench"
SCALE = 10
START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 10
PR_SET_PDEATHSIG = 1
LIBC = ctypes.CDLL(None)


class StartError(Exception):
    """A server did not come up, or a program that it needs is missing."""


@dataclass(frozen=True)
class Account:
    """Whom a server runs as: PostgreSQL and PgBouncer refuse to run as root."""

    uid: int
    gid: int

    @staticmethod
    def caller() -> "Account":
        """The account of this process."""
        return Account(os.geteuid(), os.getegid())

    @staticmethod
    def unprivileged() -> "Account":
        """Picks `postgres` or `nobody` for root, else the caller."""
        if os.geteuid() != 0:
            return Account.caller()
        for name in ("postgres", "nobody"):
            try:
                entry = pwd.getpwnam(name)
            except KeyError:
                continue
            return Account(entry.pw_uid, entry.pw_gid)
        raise StartError("running as root, and there is neither a user postgres nor nobody")

    def popen_options(self) -> dict:
        """The arguments that make `subprocess` run a child as this account."""
        if self == Account.caller():
            return {}
        return {"user": self.uid, "group": self.gid, "extra_groups": []}


def postgres_folder() -> Path:
    """Finds the newest PostgreSQL with server and pgbench: Debian's folders, then PATH."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"),
        key=lambda folder: tuple(map(int, re.findall(r"\d+", folder.parent.name))),
        reverse=True,
    )
    if on_path := shutil.which("postgres"):
        folders.append(Path(on_path).resolve().parent)
    for folder in folders:
        if all((folder / name).exists() for name in ("initdb", "postgres", "pgbench")):
            return folder
    raise StartError("no PostgreSQL with initdb, postgres and pgbench found: run .ci/install bench")


def pgbouncer_program() -> Path | None:
    """Finds PgBouncer, which Debian puts where an ordinary user's PATH may not look."""
    path = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/usr/local/sbin"
    found = shutil.which("pgbouncer", path=path)
    return Path(found) if found else None


def version_of(program: Path) -> str:
    """Asks `program --version` and returns the first line."""
    answer = subprocess.run(
        [program, "--version"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=10,
    )
    lines = (answer.stdout + answer.stderr).splitlines()
    return lines[0].strip() if lines else "unknown"


def run_group(command: list, folder: Path, account: Account) -> None:
    """Runs a program to its end; if we are interrupted, its own children end as well.

    initdb has such children, and they would go on writing to a folder that is being removed.
    """
    process = subprocess.Popen(
        command,
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        **account.popen_options(),
    )
    try:
        output, _ = process.communicate()
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        raise
    if process.returncode != 0:
        raise StartError(f"{command[0]} failed:\n{output.decode(errors='replace')}")


def free_port() -> int:
    """Returns a TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def make_certificate(folder: Path, account: Account) -> tuple[Path, Path]:
    """Makes a certificate for clients to accept unseen; returns its file and that of its key."""
    certificate, key = folder / "server.crt", folder / "server.key"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "ec", "-pkeyopt"]
    command += ["ec_paramgen_curve:prime256v1", "-subj", "/CN=localhost", "-days", "30"]
    command += ["-out", certificate, "-keyout", key]
    try:
        run_group(command, folder, account)
    except FileNotFoundError as error:
        raise StartError("no openssl found, to make a certificate") from error
    return certificate, key


class Server:
    """A running server process that listens on `port`."""

    # What asks the program to end at once, without waiting for its clients.
    stop_signal = signal.SIGTERM
    login_database = DATABASE

    def __init__(self, name: str, folder: Path, command: list, account: Account, port: int):
        self.name = name
        self.port = port
        self.log = folder / "log"
        self._expected_parent = os.getpid()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command,
                cwd=folder,
                env={**os.environ, "HOME": str(folder)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                # Ctrl-C at the terminal is ours to handle; `stop` then ends the server in order.
                start_new_session=True,
                preexec_fn=self._die_with_parent,
                **account.popen_options(),
            )
        try:
            self._await_login()
        except BaseException:
            self.stop()
            raise

    @property
    def pid(self) -> int:
        """The process id; its threads are the whole server except for PostgreSQL."""
        return self.process.pid

    def assert_running(self) -> None:
        """Raises `StartError` with the end of the log if the process has ended."""
        if self.process.poll() is not None:
            code = self.process.returncode
            raise StartError(f"{self.name} ended with {code}:\n{self.log_tail()}")

    def log_tail(self) -> str:
        """The last lines that the server wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-20:])

    def stop(self) -> None:
        """Ends the process: politely, then by force; returns when it is gone."""
        if self.process.poll() is not None:
            return
        self.process.send_signal(self.stop_signal)
        try:
            self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _die_with_parent(self) -> None:
        LIBC.prctl(PR_SET_PDEATHSIG, self.stop_signal)
        if os.getppid() != self._expected_parent:
            os._exit(1)

    def _await_login(self) -> None:
        """Waits until a login succeeds, so that a pooler is known to reach its server."""
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            self.assert_running()
            try:
                client = Client(self.port, USER, self.login_database)
                client.query("SELECT 1")
                client.close()
                return
            except (OSError, ServerError) as error:
                if time.monotonic() > deadline:
                    raise StartError(
                        f"{self.name} does not answer: {error}\n{self.log_tail()}"
                    ) from error
            time.sleep(0.05)


class PostgreSQL(Server):
    """A throw-away cluster tuned to be fast and steady, not safe, unless `changed` says otherwise."""

    stop_signal = signal.SIGINT  # a "fast" shutdown: open sessions are cut off
    login_database = "postgres"  # the other one comes later, with `fill`

    def __init__(
        self,
        folder: Path,
        programs: Path,
        account: Account,
        max_connections: int,
        changed: dict[str, str] | None = None,
    ):
        data = folder / "data"
        initdb = [programs / "initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8"]
        run_group([*initdb, "--locale=C", "--no-sync"], folder, account)
        port = free_port()
        settings = {
            "listen_addresses": "127.0.0.1",
            "port": port,
            "unix_socket_directories": "",
            "max_connections": max_connections,
            "shared_buffers": "256MB",
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "max_wal_size": "4GB",
            "checkpoint_timeout": "1h",
            # Nothing may start by itself in the middle of a run.
            "autovacuum": "off",
            "jit": "off",
            **(changed or {}),
        }
        lines = [f"{key} = '{value}'\n" for key, value in settings.items()]
        with (data / "postgresql.conf").open("a") as file:
            file.writelines(lines)
        super().__init__(
            "PostgreSQL", folder, [programs / "postgres", "-D", data], account, port
        )

    def fill(self, programs: Path) -> None:
        """Creates the database with pgbench's tables and the 10,000 rows of the `rows` case."""
        admin = Client(self.port, USER, "postgres")
        admin.query(f"CREATE DATABASE {DATABASE}")
        admin.close()
        pgbench = [programs / "pgbench", "-i", "-q", "-s", str(SCALE), "-h", "127.0.0.1"]
        pgbench += ["-p", str(self.port), "-U", USER, DATABASE]
        run_group(pgbench, self.log.parent, Account.caller())
        client = Client(self.port, USER, DATABASE)
        client.query(
            "CREATE TABLE bench_rows AS SELECT g AS id, repeat('x', 100) AS payload"
            " FROM generate_series(1, 10000) g"
        )
        client.query("VACUUM ANALYZE")
        client.query("CHECKPOINT")
        client.close()


class PgBouncer(Server):
    """Debian's PgBouncer in transaction mode."""

    def __init__(self, folder: Path, program: Path, account: Account, server_port: int, pool: int):
        port = free_port()
        certificate, key = make_certificate(folder, account)
        (folder / "users.txt").write_text(f'"{USER}" ""\n')
        settings = {
            "listen_addr": "127.0.0.1",
            "listen_port": port,
            "unix_socket_dir": "",
            "pool_mode": "transaction",
            "default_pool_size": pool,
            "max_client_conn": 10000,
            "auth_type": "trust",
            "auth_file": folder / "users.txt",
            "client_tls_sslmode": "allow",
            "client_tls_cert_file": certificate,
            "client_tls_key_file": key,
            "log_connections": 0,
            "log_disconnections": 0,
        }
        if self.has_prepared_statements(program):
            settings["max_prepared_statements"] = 200
        lines = [f"{key} = {value}\n" for key, value in settings.items()]
        (folder / "pgbouncer.ini").write_text(
            f"[databases]\n{DATABASE} = host=127.0.0.1 port={server_port}\n"
            f"[pgbouncer]\n{''.join(lines)}"
        )
        super().__init__("pgbouncer", folder, [program, folder / "pgbouncer.ini"], account, port)

    @staticmethod
    def has_prepared_statements(program: Path) -> bool:
        """Whether it tracks prepared statements in transaction mode, as it does since 1.21."""
        found = re.search(r"(\d+)\.(\d+)", version_of(program))
        return found is not None and (int(found[1]), int(found[2])) >= (1, 21)


class Pgtandem(Server):
    """The release build of this repository in transaction mode."""

    def __init__(
        self,
        name: str,
        folder: Path,
        program: Path,
        server_port: int,
        pool: int,
        workers: int | None,
        has_metrics: bool = False,
    ):
        port = free_port()
        self.metrics_port = free_port() if has_metrics else None
        listen = f"127.0.0.1:{self.metrics_port}" if has_metrics else ""
        certificate, key = make_certificate(folder, Account.caller())
        workers_line = "" if workers is None else f"workers = {workers}\n"
        config = folder / "proxy.toml"
        config.write_text(
            f"""\
[general]
listen_addr = "127.0.0.1"
listen_port = {port}
unix_socket_dir = ""
pool_mode = "transaction"
default_pool_size = {pool}
max_client_conn = 10000
auth_type = "trust"
client_tls_sslmode = "allow"
client_tls_cert_file = "{certificate}"
client_tls_key_file = "{key}"
{workers_line}
[metrics]
listen = "{listen}"

[databases.{DATABASE}]
host = "127.0.0.1"
port = {server_port}
{self.more()}"""
        )
        # As the caller: the checkout may lie where no other account can read it.
        super().__init__(
            name, folder, [program, "--config", config, "run"], Account.caller(), port
        )

    def more(self) -> str:
        """What is added to the configuration."""
        return ""
