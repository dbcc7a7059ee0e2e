"""The front of containers: an HAProxy that sends users to the model servers named in its file. The file is replaced and
HAProxy reloaded, so a restart of the front forgets nothing, and requests that are under way are answered to their end.
"""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from dataclasses import dataclass

import httpx

from tasks import containers

PATH = "/etc/trimtab/haproxy.cfg"  # in the front's container, on a volume
ASKED_AT = "/front"


class FrontRefused(RuntimeError):
    """The front does not send users where it should; they go where they went before."""


@dataclass(frozen=True)
class Front:
    """The front in the container *name*, for users at *url*."""

    name: str
    url: str

    def shown(self) -> tuple[int, tuple[str, ...]]:
        """Ledger version and containers that users are sent to now; 0 and none when it does not say."""
        try:
            answer = httpx.get(f"{self.url}{ASKED_AT}", timeout=2.0, headers={"Connection": "close"})
        except httpx.HTTPError:
            return 0, ()
        found = re.fullmatch(r"(\d+) ?(.*)", answer.text.strip())
        return (int(found[1]), tuple(found[2].split())) if found and answer.is_success else (0, ())

    def point(self, servers: Sequence[str], *, version: int, drain_s: float, within_s: float = 20.0) -> bool:
        """Send users to these containers from now on, as the ledger's *version* asks; whether anything had to change.

        Raises FrontRefused when it does not do so in time.
        """
        if self.shown() == (version, tuple(servers)):
            return False
        content = written(servers, version=version, drain_s=drain_s)
        containers.write_file(self.name, PATH, content.encode(), then_signal="SIGUSR2")
        deadline = time.monotonic() + within_s
        while self.shown() != (version, tuple(servers)):
            if time.monotonic() >= deadline:
                raise FrontRefused(
                    f"the front {self.name} was told to send users to {', '.join(servers)}, and {self.url}{ASKED_AT} "
                    f"does not say so after {within_s:g} s: {containers.last_words(self.name)}"
                )
            time.sleep(0.1)
        return True


def written(servers: Sequence[str], *, version: int, drain_s: float) -> str:
    """HAProxy's file. Servers are found by name again and again, so one that restarts with another address is found."""
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
        f"if {{ path {ASKED_AT} }}",
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
