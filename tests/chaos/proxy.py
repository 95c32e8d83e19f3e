"""An HTTP proxy in front of an S3 endpoint that spoils a share of the requests, as networks and busy stores do."""

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

FAULTS = ("500", "503", "timeout", "reset", "lost answer", "broken off", "shortened")
"""An error; no answer in time; a reset before the request, or after the store obeyed it; a body that breaks off, or that claims to be whole
and is not: of an answer to a GET, of the request of a PUT."""

ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>spoiled</Message><RequestId>0</RequestId></Error>'


class Proxy(ThreadingHTTPServer):
    """`counts` says how many requests came and which faults they met. Headers named in `drop` are not passed on."""

    daemon_threads = True

    def __init__(
        self, upstream: str, share: float, faults: Sequence[str] = FAULTS, seed: int = 0, timeout_s: float = 2.0, drop: tuple[str, ...] = ()
    ):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream, self.share, self.faults, self.timeout_s = urlsplit(upstream).netloc, share, faults, timeout_s
        self.drop = {name.lower() for name in drop}
        self.random, self.lock, self.counts = random.Random(seed), threading.Lock(), Counter[str]()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def draw(self) -> str | None:
        """The fault of the next request, None for most."""
        with self.lock:
            fault = self.random.choice(self.faults) if self.random.random() < self.share else None
            self.counts[fault or "none"] += 1
        return fault

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is what this is for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        fault = self.server.draw()
        if fault == "timeout":
            time.sleep(self.server.timeout_s)
        if fault in ("timeout", "reset") or (fault == "broken off" and self.command == "PUT"):
            self._reset()
        elif fault in ("500", "503"):
            self._answer(int(fault), {}, ERROR.format("InternalError" if fault == "500" else "SlowDown").encode())
        elif fault == "shortened" and self.command == "PUT":
            self._answer(*self._ask(body[: len(body) // 2]))
        else:
            status, headers, data = self._ask(body)
            if fault == "lost answer":
                self._reset()
            elif fault == "broken off" and data:
                self._answer(status, headers, data[: len(data) // 2], len(data))
            elif fault == "shortened" and data:
                self._answer(status, headers, data[: len(data) // 2])
            else:
                self._answer(status, headers, data)

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = handle_any

    def _ask(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.server.upstream, timeout=60)
        skipped = {"content-length", "connection", "expect", "transfer-encoding", *self.server.drop}
        headers = {name: value for name, value in self.headers.items() if name.lower() not in skipped}
        connection.request(self.command, self.path, body or None, {**headers, "Content-Length": str(len(body))})
        answer = connection.getresponse()
        data = answer.read()
        found = {
            name: value for name, value in answer.getheaders() if name.lower() not in ("connection", "transfer-encoding", "server", "date")
        }
        connection.close()
        return answer.status, found, data

    def _answer(self, status: int, headers: dict[str, str], data: bytes, claimed: int | None = None) -> None:
        self.send_response(status)
        length = str(len(data) if claimed is None else claimed)
        if self.command == "HEAD":  # its length is that of the object
            length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
        if claimed is not None:
            self._reset(hard=False)

    def _reset(self, hard: bool = True) -> None:
        if hard:  # closing sends a RST
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.wfile.flush()
        self.connection.close()


@contextmanager
def spoiled(upstream: str, share: float, **options: Any) -> Iterator[Proxy]:
    """A running proxy in front of the endpoint `upstream`."""
    proxy = Proxy(upstream, share, **options)
    thread = threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        proxy.server_close()
