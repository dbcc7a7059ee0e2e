"""The floor: an ASGI application that reads a body and answers always the same bytes, about as many as the model server
does. Nothing in Python on this machine answers faster; all that a server does more is its own cost.

    python -m bench.serving.floor PORT
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Message = MutableMapping[str, Any]

ANSWER = orjson.dumps(
    {
        "release": "0" * 64,
        "version": 1,
        "predictions": [{"id": "0" * 32, "probability": 0.123456789012345}],
    }
)
HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(ANSWER)).encode())]


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """One request."""
    if scope["type"] != "http":
        return
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": ANSWER})


def main(port: int) -> None:
    """Serve as the model server is served."""
    import uvicorn

    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", lifespan="off", access_log=False,
        log_level="warning",
    )  # fmt: skip


if __name__ == "__main__":
    main(int(sys.argv[1]))
