"""Tell the proxy which replicas get requests: `python haproxy_control.py drain NAME`, `python haproxy_control.py ready
NAME`, `python haproxy_control.py show`.

`drain` waits until the replica has answered all that it was asked (at most half a minute), so that it can be stopped
then; `ready` waits until the proxy's own check has found it ready."""

from __future__ import annotations

import csv
import socket
import sys
import time

_SOCKET, _BACKEND = "/run/scratch/haproxy.sock", "models"
_WITHIN_S = 60.0


class Unable(Exception):
    """The proxy does not do it; the text is what it says."""


def main(arguments: list[str]) -> int:
    """Do it; 1 when the proxy does not."""
    if arguments == ["show"]:
        for name, state in states().items():
            print(f"{name}: {state['status']}, {state['scur']} requests, {state['stot']} so far")
        return 0
    if len(arguments) != 2 or arguments[0] not in {"drain", "ready"}:
        print(__doc__, file=sys.stderr)
        return 2
    wanted, name = arguments
    try:
        set_state(wanted, name)
    except (Unable, OSError) as error:
        print(f"the proxy does not {wanted} {name}: {error}", file=sys.stderr)
        return 1
    return 0


def set_state(wanted: str, name: str) -> None:
    """Raise Unable when it is not so in time."""
    if name not in states():
        raise Unable(f"it knows only {', '.join(states())}")
    if refused := say(f"set server {_BACKEND}/{name} state {wanted}").strip():
        raise Unable(refused)
    end = time.monotonic() + _WITHIN_S
    state = states()[name]
    while time.monotonic() < end:
        if wanted == "drain" and state["scur"] == "0":
            return
        if wanted == "ready" and state["status"] == "UP":
            return
        time.sleep(0.1)
        state = states()[name]
    raise Unable(f"after {_WITHIN_S:g} s it is {state['status']}, with {state['scur']} requests")


def states() -> dict[str, dict[str, str]]:
    """What the proxy knows of each replica."""
    rows = csv.DictReader(say("show stat").lstrip("# ").splitlines())
    return {row["svname"]: row for row in rows if row["pxname"] == _BACKEND and row["svname"] != "BACKEND"}


def say(command: str) -> str:
    """The proxy's answer to *command*."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(10)
        connection.connect(_SOCKET)
        connection.sendall(f"{command}\n".encode())
        answer = b""
        while piece := connection.recv(65536):
            answer += piece
    return answer.decode()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
