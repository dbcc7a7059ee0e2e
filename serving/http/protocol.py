"""uvicorn's HTTP protocol, but an answer's head and body leave in one write: every second one costs microseconds."""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol


class CoalescingTransport:
    """A transport that holds an answer's head until its body comes, or until `flush` or `close`."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._write, self._close = transport.write, transport.close
        self._held: bytes | None = None
        self.is_closing, self.get_extra_info = transport.is_closing, transport.get_extra_info
        self.pause_reading, self.resume_reading = transport.pause_reading, transport.resume_reading

    def write(self, data: bytes) -> None:
        """Write *data*, after the head that is held; a head by itself is held, but for "100 Continue"."""
        held = self._held
        if held is not None:
            self._held = None
            self._write(held + data)
        elif data[:9] == b"HTTP/1.1 " and data[9:10] != b"1":
            self._held = data
        else:
            self._write(data)

    def flush(self) -> None:
        """Write what is held: an answer without a body ends like this."""
        if self._held is not None:
            held, self._held = self._held, None
            self._write(held)

    def close(self) -> None:
        """Write what is held, and close."""
        self.flush()
        self._close()


class HttpProtocol(HttpToolsProtocol):
    """One connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Somebody connected."""
        super().connection_made(cast(Any, CoalescingTransport(transport)))

    def on_response_complete(self) -> None:
        """An answer is complete."""
        cast(CoalescingTransport, self.transport).flush()
        super().on_response_complete()
