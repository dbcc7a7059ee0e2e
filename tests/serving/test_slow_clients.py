"""Clients that send a part of a request and then nothing, or a head without an end."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.ports import free_port
from tests.serving.conftest import ServerHome
from tests.serving.test_failures import ROW

BODY = json.dumps(ROW).encode()
HEAD = b"POST /predict HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
WHOLE = HEAD + b"content-length: " + str(len(BODY)).encode() + b"\r\n\r\n" + BODY
LIMIT_S = 1.0  # for a request to arrive; the server adds a second for its own answer


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    home = ServerHome(tmp_path_factory.mktemp("server"), free_port())
    try:
        home.go_live(home.release().digest)
        home.start(TRIMTAB_ANSWER_S=str(LIMIT_S))
        yield home
    finally:
        if home.process is not None:
            home.kill()


def answer_to(server: ServerHome, *pieces: bytes, pause_s: float = 0.0) -> bytes:
    """What the server sends until it closes the connection, after *pieces* and nothing more."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for piece in pieces:
            connection.sendall(piece)
            time.sleep(pause_s)
        said = b""
        with suppress(ConnectionResetError):  # it closed before it had read everything
            while received := connection.recv(65536):
                said += received
        return said


@pytest.mark.parametrize(
    "sent",
    [b"G", HEAD[:40], HEAD, HEAD + b"content-length: 50\r\n\r\n", HEAD + b"content-length: 50\r\n\r\n{"],
    ids=["a letter", "half a line", "no end of the head", "no body", "half a body"],
)
def test_a_request_that_does_not_arrive_whole_is_not_waited_for(server: ServerHome, sent: bytes) -> None:
    began = time.monotonic()
    said = answer_to(server, sent)
    assert LIMIT_S <= time.monotonic() - began < 15
    assert not said or said.startswith(b"HTTP/1.1 408")
    assert server.post("/predict", ROW)[0] == 200


def test_a_second_request_of_a_connection_is_not_waited_for_either(server: ServerHome) -> None:
    said = answer_to(server, WHOLE, HEAD, pause_s=0.2)
    assert said.startswith(b"HTTP/1.1 200") and b"HTTP/1.1 408" in said


def test_a_request_in_pieces_is_answered(server: ServerHome) -> None:
    cut = [WHOLE[at : at + 40] for at in range(0, len(WHOLE), 40)]
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        for _ in range(2):
            for piece in cut:
                connection.sendall(piece)
                time.sleep(0.01)
            assert connection.recv(65536).startswith(b"HTTP/1.1 200")


def test_a_head_without_an_end_is_cut_off_before_it_takes_memory(server: ServerHome) -> None:
    endless = HEAD + b"".join(b"x-%d: %s\r\n" % (i, b"a" * 1000) for i in range(200))
    began = time.monotonic()
    assert answer_to(server, endless)[:12] in (b"", b"HTTP/1.1 431")
    assert time.monotonic() - began < LIMIT_S, "it did not wait for the rest"
