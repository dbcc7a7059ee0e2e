"""A response is sent in one write, and the connection stays open."""

from __future__ import annotations

import asyncio
import socket
from typing import Any, cast

from serving.http.protocol import CoalescingTransport
from tests.serving.conftest import ServerHome

ROW = b'{"distance": 900, "hour": 7, "carrier": "UA"}'


class Wire:
    """Remembers what is written."""

    def __init__(self) -> None:
        self.said: list[bytes | None] = []

    def write(self, data: bytes) -> None:
        self.said.append(data)

    def close(self) -> None:
        self.said.append(None)

    is_closing = get_extra_info = pause_reading = resume_reading = None


def test_a_head_is_written_with_its_body_and_nothing_stays_buffered() -> None:
    wire = Wire()
    one = CoalescingTransport(cast(asyncio.Transport, wire))
    one.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    one.write(b"HTTP/1.1 200 OK\r\n\r\n")
    one.write(b"body")
    one.write(b"more")
    one.write(b"HTTP/1.1 204 No Content\r\n\r\n")
    one.flush()
    one.flush()
    one.write(b"HTTP/1.1 400 Bad Request\r\n\r\nno")
    one.close()
    assert wire.said == [
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\nbody",
        b"more",
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 400 Bad Request\r\n\r\nno",
        None,
    ]


def test_requests_of_every_kind_share_a_connection(running: ServerHome) -> None:
    """HEAD has no body, 100 Continue comes first, two pipelined requests are answered in order, garbage closes it."""
    with socket.create_connection(("127.0.0.1", running.port), timeout=10) as connection:
        stream: Any = connection.makefile("rb")

        def answer(*, body: bool = True) -> tuple[int, bytes]:
            status, length = int(stream.readline().split()[1]), 0
            while (line := stream.readline()) != b"\r\n":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            return status, stream.read(length) if body else b""

        connection.sendall(b"HEAD /docs HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert answer(body=False)[0] in (200, 405)
        head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n" % len(ROW)
        connection.sendall(head + b"Expect: 100-continue\r\n\r\n")
        assert answer(body=False)[0] == 100
        connection.sendall(ROW)
        assert answer()[0] == 200
        connection.sendall((head + b"\r\n" + ROW) * 3)
        assert [answer()[0] for _ in range(3)] == [200] * 3
        connection.sendall(b"no HTTP at all\r\n\r\n")
        assert answer()[0] == 400
        assert stream.read() == b""
