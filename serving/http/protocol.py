"""uvicorn's HTTP protocol, changed in two ways: a response's head and body are sent in one write, as a second write
costs microseconds, and a request that does not arrive whole is not waited for."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingTransport:
    """A transport that buffers a response's head until its body is written, or until `flush` or `close`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._write, self._close = transport.write, transport.close
        self._buffered: bytes | None = None
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write the buffered head and *data*. If *data* is a head itself it is buffered, except "100 Continue"."""
        head = self._buffered
        if head is not None:
            self._buffered = None
            self._write(head + data)
        elif data[:9] == b"HTTP/1.1 " and data[9:10] != b"1":
            self._buffered = data
        else:
            self._write(data)

    def flush(self) -> None:
        """Write the buffered head, for a response without a body."""
        if self._buffered is not None:
            head, self._buffered = self._buffered, None
            self._write(head)

    def close(self) -> None:
        """Write the buffered head and close."""
        self.flush()
        self._close()


class HttpProtocol(HttpToolsProtocol):
    """One connection. A request has to arrive whole within `arrival_s` seconds of its first byte, with at most
    `max_head_bytes` before its body; uvicorn itself waits for ever and keeps all of it."""

    arrival_s: ClassVar[float] = 15.0
    max_head_bytes: ClassVar[int] = 64 * 1024

    _arriving: str | None = None  # what of a request has begun to arrive and is not complete: its head or its body
    _head_bytes = 0
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the connection's transport. One that sends nothing is closed as an idle one."""
        super().connection_made(cast(Any, CoalescingTransport(transport)))
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the deadline of what was arriving."""
        self._clear_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse *data*, and see that what is incomplete does not stay so."""
        super().data_received(data)
        if self._arriving is None:
            if self._deadline is not None:
                self._clear_deadline()
            return
        if self._arriving == "head":
            self._head_bytes += len(data)
            if self._head_bytes > self.max_head_bytes:
                self._reject(b"431 Request Header Fields Too Large")
                return
        if self._deadline is None and not self.transport.is_closing():
            self._deadline = self.loop.call_later(self.arrival_s, self._reject, b"408 Request Timeout")

    def on_message_begin(self) -> None:
        """A request begins to arrive."""
        self._arriving, self._head_bytes = "head", 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The head has arrived."""
        self._arriving = "body"
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        """The whole request has arrived."""
        self._arriving = None
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Write a head that had no body."""
        cast(CoalescingTransport, self.transport).flush()
        super().on_response_complete()

    def _reject(self, status: bytes) -> None:
        """Close the connection. The client reads *status* unless it has had a response or a part of one."""
        self._clear_deadline()
        if self.transport.is_closing():
            return
        if self._arriving == "head" and getattr(self.cycle, "response_complete", True):
            self.transport.write(b"HTTP/1.1 " + status + b"\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
            cast(CoalescingTransport, self.transport).flush()
        self.transport.close()

    def _clear_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


def with_arrival_limit(arrival_s: float) -> type[HttpProtocol]:
    """The protocol for servers on which a request has *arrival_s* seconds to arrive."""
    return type("HttpProtocol", (HttpProtocol,), {"arrival_s": arrival_s})
