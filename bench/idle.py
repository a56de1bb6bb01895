"""Memory of a pooler per idle client."""

import resource
import time

from client import Client, any_certificate
from procfs import resident_bytes
from servers import DATABASE, USER, Server

# What a pooler frees or hands back a little after the last query has this long to show.
SETTLE_S = 1.0


def raise_file_limit(wanted: int) -> None:
    """Raises the limit of open files, inherited by every server, to at least `wanted`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        # Only root may go past the hard limit; others get the system's own error.
        limit = max(hard, wanted) if hard != resource.RLIM_INFINITY else hard
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, limit))


def bytes_per_client(server: Server, clients: int, warm_clients: int, uses_tls: bool) -> float:
    """Logs `clients` in, lets each run a query, and divides the growth of resident memory.

    `server` should be fresh: memory that earlier clients left behind would be used again unseen.
    `warm_clients` come first and stay, so that server connections, code and shared buffers are
    in place before the first reading.
    """
    connected: list[Client] = []
    tls = any_certificate() if uses_tls else None

    def connect(count: int) -> int:
        for _ in range(count):
            client = Client(server.port, USER, DATABASE, tls)
            connected.append(client)
            client.query("SELECT 1")
        time.sleep(SETTLE_S)
        return resident_bytes(server.pid)

    try:
        before = connect(warm_clients)
        return (connect(clients) - before) / clients
    finally:
        for client in connected:
            client.close()
