"""The job that registers every deployment with the stack's Prefect server, then ends.

It is started together with the server: its imports take as long as the server's start."""

import time

from deployments.stack import components, probes
from deployments.stack.plan import Component, Probe, StackError
from trimtab.settings import Settings

_SERVER_WITHIN_S = 120.0


def main() -> None:
    """Register what `deployments.occasions` lists; it may be run again at any time."""
    from deployments.occasions import register

    settings = Settings()
    _wait_for_prefect(settings)
    register(settings)


def _wait_for_prefect(settings: Settings) -> None:
    server = Component("prefect", (), Probe("http", components.health_url(settings, "prefect")))
    deadline = time.monotonic() + _SERVER_WITHIN_S
    while trouble := probes.trouble(server, 0.0, timeout_s=5.0):
        if time.monotonic() > deadline:
            raise StackError(f"Prefect is not there, so nothing can be registered: {trouble}")
        time.sleep(0.1)


if __name__ == "__main__":
    main()
