"""Are the ports free that the stack wants, and if not, who has them?"""

import errno
import socket
from collections.abc import Iterable
from dataclasses import dataclass

import psutil

from deployments.stack.plan import StackError


@dataclass(frozen=True)
class Port:
    """A port that a component wants, and the setting that moves it."""

    component: str
    host: str
    number: int
    setting: str


def require_free(ports: Iterable[Port]) -> None:
    """Raise a StackError that names every port that cannot be had, its holder if visible, and its setting."""
    wanted: dict[int, Port] = {}
    problems = []
    for port in ports:
        if port.number in wanted:
            other = wanted[port.number]
            problems.append(
                f"{port.component} and {other.component} both want port {port.number}; "
                f"set {port.setting} or {other.setting} to another one"
            )
            continue
        wanted[port.number] = port
        reason = bind_problem(port.host, port.number)
        if reason:
            problems.append(
                f"port {port.number} for {port.component} {reason}; "
                f"stop what holds it, or choose another port: {port.setting}=<port>"
            )
    if problems:
        raise StackError("\n".join(problems))


def bind_problem(host: str, number: int) -> str | None:
    """Return why a server cannot listen on *number* now, or None."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, number))
            probe.listen(1)
        except PermissionError:
            return "may only be used by root"
        except OSError as error:
            return (
                f"is taken by {_holder(number)}"
                if error.errno == errno.EADDRINUSE
                else f"cannot be used ({error.strerror})"
            )
    return None


def _holder(number: int) -> str:
    try:
        for connection in psutil.net_connections(kind="tcp"):
            if connection.status != psutil.CONN_LISTEN or not connection.laddr or not connection.pid:
                continue
            if connection.laddr.port == number:
                process = psutil.Process(connection.pid)
                return f"process {connection.pid} ({' '.join(process.cmdline())[:80] or process.name()})"
    except psutil.Error:
        pass
    return "another process"
