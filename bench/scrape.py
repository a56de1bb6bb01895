"""Reads a pooler's metrics at an interval while it is under load, as Prometheus would."""

import socket
import threading
import time

PATIENCE_S = 5.0
REQUEST = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"


class Scraper:
    """Scrapes within a `with` block."""

    def __init__(self, port: int, interval_s: float):
        self.count = 0
        self.bytes = 0
        self.problem: str | None = None
        self._port = port
        self._interval_s = interval_s
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Scraper":
        self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._ends.set()
        self._thread.join(PATIENCE_S * 2)
        if self.problem is None and self.count == 0:
            self.problem = "nothing was scraped"

    def _run(self) -> None:
        due = time.monotonic()
        while not self._ends.is_set():
            try:
                self.bytes = self._scrape()
                self.count += 1
            except OSError as error:
                self.problem = f"cannot scrape: {error}"
                return
            due += self._interval_s
            self._ends.wait(max(0.0, due - time.monotonic()))

    def _scrape(self) -> int:
        """Returns the size of the answer, which is read and not looked into: that costs less than
        what is measured."""
        with socket.create_connection(("127.0.0.1", self._port), PATIENCE_S) as connection:
            connection.sendall(REQUEST)
            first = connection.recv(65536)
            if not first.startswith(b"HTTP/1.1 200"):
                raise OSError(first[:40].decode(errors="replace"))
            size = len(first)
            while part := connection.recv(1 << 20):
                size += len(part)
        return size
