"""A port that cannot be had is named, with its holder and the setting that moves it."""

import os
import socket

import pytest

from deployments.stack import StackError
from deployments.stack.ports import Port, bind_problem, require_free
from tests.ports import free_port


def test_free_ports_pass() -> None:
    ports = [Port("prefect", "127.0.0.1", free_port(), "A"), Port("mlflow", "127.0.0.1", free_port(), "B")]
    require_free(ports)
    assert [bind_problem(port.host, port.number) for port in ports] == [None, None], "looking left nobody in the way"


def test_a_taken_port_is_named_with_its_holder_and_its_setting() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = other.getsockname()[1]
        with pytest.raises(StackError) as caught:
            require_free([Port("prefect", "127.0.0.1", number, "TRIMTAB_PREFECT_PORT")])
    text = str(caught.value)
    assert f"port {number} for prefect is taken by process {os.getpid()}" in text
    assert "TRIMTAB_PREFECT_PORT=<port>" in text


def test_every_taken_port_is_named_at_once() -> None:
    with socket.socket() as one, socket.socket() as two:
        for other in (one, two):
            other.bind(("127.0.0.1", 0))
            other.listen()
        ports = [Port("a", "127.0.0.1", one.getsockname()[1], "A"), Port("b", "127.0.0.1", two.getsockname()[1], "B")]
        with pytest.raises(StackError, match=r"port \d+ for a .*\nport \d+ for b "):
            require_free(ports)


def test_two_parts_on_one_port_are_told_apart_by_their_settings() -> None:
    number = free_port()
    with pytest.raises(StackError, match=f"mlflow and prefect both want port {number}; set B or A"):
        require_free([Port("prefect", "127.0.0.1", number, "A"), Port("mlflow", "127.0.0.1", number, "B")])


def test_a_port_that_was_just_closed_is_free_again() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as servers do
        server.bind(("127.0.0.1", 0))
        server.listen()
        number = server.getsockname()[1]
        client.connect(("127.0.0.1", number))
        accepted, _ = server.accept()
        accepted.close()
    assert bind_problem("127.0.0.1", number) is None
    require_free([Port("prefect", "127.0.0.1", number, "A")])
