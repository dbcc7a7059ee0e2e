"""uvicorn's HTTP protocol, changed so that a response's head and body are sent in one write: a second write costs
microseconds."""

from __future__ import annotations

import asyncio
from typing import Any, cast

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
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wrap the connection's transport."""
        super().connection_made(cast(Any, CoalescingTransport(transport)))

    def on_response_complete(self) -> None:
        """Write a head that had no body."""
        cast(CoalescingTransport, self.transport).flush()
        super().on_response_complete()
