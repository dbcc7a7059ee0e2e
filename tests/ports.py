"""Ports for the servers that tests start. They are below those that the system deals out to whoever asks, and each
process of a run that is split has its own: a port stays free from being found until its server listens."""

from __future__ import annotations

import os
import random
import socket
from itertools import count
from typing import Final

_FIRST: Final = 10_240
_EACH: Final = 2_400  # for each of four processes; those of their neighbours (see *beside*) end below 30,000
_PROCESSES: Final = 4


def _own() -> int:
    """Where the ports of this process begin."""
    number = os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")
    return _FIRST + int(number) % _PROCESSES * _EACH


_turn = count(random.randrange(_EACH))  # two runs on one machine begin at different ones


def free_ports(wanted: int, *, beside: int = 0) -> list[int]:
    """Ports that nobody listens on, none of them twice; with *beside*, the ports that much higher are free as well."""
    found: list[int] = []
    while len(found) < wanted:
        port = _own() + next(_turn) % _EACH
        if _free(port) and (not beside or _free(port + beside)):
            found.append(port)
    return found


def free_port() -> int:
    """A port that nobody listens on."""
    return free_ports(1)[0]


def free_block(wanted: int) -> int:
    """The first of that many free ports in a row."""
    row: list[int] = []
    while len(row) < wanted:
        (port,) = free_ports(1)
        row = [*row, port] if row and port == row[-1] + 1 else [port]
    return row[0]


def _free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
