"""HAProxy in front of the model servers' containers. A switch replaces its configuration file and reloads it, so a
restart keeps the route, and requests in flight finish on the old server."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from tasks import containers

PATH = "/etc/trimtab/haproxy.cfg"  # in HAProxy's container, on a volume
BACKEND_PATH = "/backend"


class ProxyRejected(RuntimeError):
    """HAProxy did not take the new route in time; users keep the old one."""


@dataclass(frozen=True)
class HAProxy:
    """HAProxy in the container *name*; users reach it at *url*."""

    name: str
    url: str

    def current(self) -> tuple[int, tuple[str, ...]]:
        """The ledger version and the containers of the current route; (0, ()) when HAProxy does not answer."""
        try:
            answer = httpx.get(f"{self.url}{BACKEND_PATH}", timeout=2.0, headers={"Connection": "close"})
        except httpx.HTTPError:
            return 0, ()
        found = re.fullmatch(r"(\d+) ?(.*)", answer.text.strip())
        return (int(found[1]), tuple(found[2].split())) if found and answer.is_success else (0, ())

    def route_to(self, servers: Sequence[str], *, version: int, drain_s: float, within_s: float = 20.0) -> bool:
        """Route users to the containers *servers*, as of the ledger's *version*; False when it was the route already.

        Raises ProxyRejected when HAProxy does not show the route within *within_s* seconds.
        """
        if self.current() == (version, tuple(servers)):
            return False
        content = haproxy_config(servers, version=version, drain_s=drain_s)
        containers.write_file(self.name, PATH, content.encode(), then_signal="SIGUSR2")
        deadline = time.monotonic() + within_s
        while self.current() != (version, tuple(servers)):
            if time.monotonic() >= deadline:
                raise ProxyRejected(
                    f"HAProxy in {self.name} was asked to route to {', '.join(servers)}, but {self.url}{BACKEND_PATH} "
                    f"does not show it after {within_s:g} s: {containers.tail_logs(self.name)}"
                )
            time.sleep(0.1)
        return True


def haproxy_config(servers: Sequence[str], *, version: int, drain_s: float) -> str:
    """The text of haproxy.cfg. HAProxy resolves names repeatedly, so a container may restart with a new address."""
    lines = [
        "# Written by deploy; a change by hand lasts until the next one.",
        "global",
        "    maxconn 4096",
        "    tune.bufsize 65536",
        f"    hard-stop-after {max(1, round(drain_s))}s",
        "defaults",
        "    mode http",
        "    timeout connect 2s",
        "    timeout client 75s",
        "    timeout server 30s",
        "    timeout http-request 30s",
        "    option http-buffer-request",
        "    option redispatch 1",
        "    retries 3",
        "    retry-on conn-failure empty-response",
        "resolvers docker",
        "    nameserver dns 127.0.0.11:53",
        "    hold valid 2s",
        "frontend users",
        f"    bind :{containers.PORT}",
        f'    http-request return status 200 content-type text/plain string "{version} {" ".join(servers)}" '
        f"if {{ path {BACKEND_PATH} }}",
        "    default_backend servers",
        "frontend inside",
        "    bind :8404",
        "    monitor-uri /up",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        "backend servers",
        "    balance leastconn",
        # Predictions and labels have ids, so that what arrives twice counts once; the rest is asked once.
        "    http-request disable-l7-retry unless { path /predict /labels }",
        "    option httpchk GET /ready",
        "    default-server check inter 1s fall 2 rise 1 resolvers docker init-addr last,libc,none",
        *(f"    server {name} {name}:{containers.PORT}" for name in servers),
    ]
    return "\n".join(lines) + "\n"
