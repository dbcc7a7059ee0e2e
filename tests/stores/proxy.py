"""A connection that misbehaves: between a client and a server, it cuts, throttles or goes away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field


def refusal(status: int, code: str) -> bytes:
    """An answer of S3 with the error *code*."""
    body = f"<Error><Code>{code}</Code><Message>Later</Message></Error>"
    head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\nConnection: close"
    return f"{head}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@dataclass
class Proxy:
    """Passes bytes on to *server* until told otherwise."""

    server: int
    port: int = 0
    cut_sent_after: int | None = None
    cut_received_after: int | None = None
    cuts_left: int = 0
    slow_down: int = 0
    refusal: bytes = refusal(503, "SlowDown")
    away: bool = False
    connections: int = 0
    _open: set[socket.socket] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def leave(self) -> None:
        """Nobody is let through from now on, and nobody stays connected."""
        self.away = True
        for one in list(self._open):
            _close(one)

    def come_back(self) -> None:
        """All is well again."""
        self.away = False

    def cut(self, times: int, *, sent: int | None = None, received: int | None = None) -> None:
        """Break the next connections after so many bytes of a client's or of the server's."""
        self.cuts_left, self.cut_sent_after, self.cut_received_after = times, sent, received

    def serve(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._connected, args=(client,), daemon=True).start()

    def _connected(self, client: socket.socket) -> None:
        with self._lock:
            self.connections += 1
            throttled, self.slow_down = self.slow_down > 0, max(0, self.slow_down - 1)
        if self.away:
            _close(client)
            return
        if throttled:
            _refuse(client, self.refusal)
            return
        upstream = socket.create_connection(("127.0.0.1", self.server))
        self._open |= {client, upstream}
        threading.Thread(target=self._pass, args=(client, upstream, True), daemon=True).start()
        self._pass(upstream, client, False)

    def _pass(self, source: socket.socket, target: socket.socket, sent: bool) -> None:
        passed = 0
        with suppress(OSError):
            while content := source.recv(16_384):
                limit = self.cut_sent_after if sent else self.cut_received_after
                passed += len(content)
                if limit is not None and passed > limit and self._may_cut():
                    target.sendall(content[: max(0, limit - passed)])
                    break
                target.sendall(content)
        _close(source)
        _close(target)
        self._open -= {source, target}

    def _may_cut(self) -> bool:
        with self._lock:
            self.cuts_left -= 1
            return self.cuts_left >= 0


@contextmanager
def proxied(port: int) -> Iterator[Proxy]:
    """A proxy before the server at *port*."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = Proxy(port, port=int(listener.getsockname()[1]))
        threading.Thread(target=proxy.serve, args=(listener,), daemon=True).start()
        yield proxy
        proxy.leave()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _refuse(client: socket.socket, answer: bytes) -> None:
    client.settimeout(2)
    with suppress(OSError):
        head = b""
        while b"\r\n\r\n" not in head:
            head += client.recv(4096)
        client.sendall(answer)
        client.shutdown(socket.SHUT_WR)
        while client.recv(65_536):
            pass
    _close(client)


def _close(one: socket.socket) -> None:
    with suppress(OSError):
        one.shutdown(socket.SHUT_RDWR)
    one.close()
