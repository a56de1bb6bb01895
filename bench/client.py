"""The smallest PostgreSQL client: trust login and simple queries over one TCP socket.

It holds thousands of idle connections, which pgbench cannot, and sets the database up.
"""

import socket
import ssl
import struct

PROTOCOL_3_0 = 196608
SSL_REQUEST = struct.pack("!II", 8, 80877103)
READY_FOR_QUERY = ord("Z")
ERROR_RESPONSE = ord("E")
AUTHENTICATION = ord("R")
DATA_ROW = ord("D")
TIMEOUT_S = 30


class ServerError(Exception):
    """The server answered with an ErrorResponse, or asked for a password."""


class Client:
    """One logged-in connection."""

    def __init__(
        self, port: int, user: str, database: str, tls: ssl.SSLContext | None = None
    ):
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S)
        try:
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                self._socket.sendall(SSL_REQUEST)
                if self._socket.recv(1) != b"S":
                    raise ServerError("TLS is refused")
                self._socket = tls.wrap_socket(self._socket)
            self._login(user, database)
        except BaseException:
            self._socket.close()
            raise

    def query(self, sql: str) -> int:
        """Runs `sql` and returns how many bytes the answer had."""
        body = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        return self._until_ready()

    def rows(self, sql: str) -> list[list[str | None]]:
        """Runs `sql` and returns its rows as texts."""
        rows: list[list[str | None]] = []
        body = sql.encode() + b"\0"
        self._socket.sendall(b"Q" + struct.pack("!I", len(body) + 4) + body)
        self._until_ready(rows)
        return rows

    def value(self, sql: str) -> str | None:
        """Runs `sql` and returns the first column of its first row; None if there is none."""
        rows = self.rows(sql)
        return rows[0][0] if rows else None

    def wait(self, seconds: float | None) -> None:
        """Sets how long an answer may take."""
        self._socket.settimeout(seconds)

    def close(self) -> None:
        """Says Terminate and closes the socket."""
        try:
            self._socket.sendall(b"X\0\0\0\4")
        except OSError:
            pass
        self._socket.close()

    def _login(self, user: str, database: str) -> None:
        parameters = f"user\0{user}\0database\0{database}\0\0".encode()
        head = struct.pack("!II", len(parameters) + 8, PROTOCOL_3_0)
        self._socket.sendall(head + parameters)
        self._until_ready()

    def _until_ready(self, rows: list | None = None) -> int:
        """Reads whole messages up to ReadyForQuery; no buffer outlives the call."""
        pending = bytearray()
        received = 0
        error = None
        while True:
            chunk = self._socket.recv(262144)
            if not chunk:
                raise error or ConnectionError("the server closed the connection")
            received += len(chunk)
            pending += chunk
            position = 0
            while len(pending) - position >= 5:
                end = position + 1 + int.from_bytes(pending[position + 1 : position + 5], "big")
                if end > len(pending):
                    break
                tag = pending[position]
                if tag == ERROR_RESPONSE:
                    fields = bytes(pending[position + 5 : end]).rstrip(b"\0").split(b"\0")
                    error = ServerError(b", ".join(fields).decode(errors="replace"))
                elif tag == DATA_ROW and rows is not None:
                    rows.append(_fields(pending[position + 7 : end]))
                elif tag == AUTHENTICATION and any(pending[position + 5 : position + 9]):
                    raise ServerError("a password is wanted; the benchmark logs in by trust")
                elif tag == READY_FOR_QUERY:
                    if error:
                        raise error
                    return received
                position = end
            del pending[:position]


def any_certificate() -> ssl.SSLContext:
    """TLS that takes whatever certificate the server shows."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _fields(row: bytearray) -> list[str | None]:
    """Cuts a DataRow, behind the number of its columns, into texts."""
    fields: list[str | None] = []
    position = 0
    while position < len(row):
        (length,) = struct.unpack_from("!i", row, position)
        position += 4
        fields.append(None if length < 0 else row[position : position + length].decode())
        position += max(length, 0)
    return fields
