"""`python -m deployments.exporter`: the loop's metrics on a port of their own, until told to stop."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from types import ModuleType

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from deployments import stack
from deployments.exporter import host_metrics, ledger_metrics
from deployments.exporter.polling import EVERY_S, Rounds, Source
from stores.ledger import Ledger
from trimtab.config.settings import Settings

# Whatever the environment says instead wins. A server that is away is asked again in the next round.
OURS = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_LOGGING_LEVEL": "WARNING"}


def sources(settings: Settings, every_s: float) -> list[Source]:
    """What is read in the place that *settings* name, most of it every *every_s*."""
    ledger = Ledger(stack.ledger_url(settings))
    project = ledger_metrics.Project(settings.root)
    return [
        Source("ledger", lambda: ledger_metrics.of(ledger), every_s=every_s),
        Source("data", lambda: ledger_metrics.freshness(ledger, project, ledger_metrics.utc_now), every_s=every_s),
        Source("prefect", lambda: _runs().of(settings.work_pool, ledger_metrics.utc_now), every_s=every_s),
        Source("schedules", lambda: _runs().schedules_of(), every_s=4 * every_s),
        Source("machine", lambda: host_metrics.of(settings.state), every_s=every_s),
    ]


def _runs() -> ModuleType:
    """Loaded by the threads that read: Prefect takes seconds, and the port should answer before."""
    from deployments.exporter import prefect_metrics

    return prefect_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; 1 when the port is taken."""
    parser = argparse.ArgumentParser(prog="deployments.exporter", description="The loop's metrics, for Prometheus.")
    parser.add_argument("--every", type=float, default=EVERY_S, help="seconds between readings of a source")
    every_s = max(parser.parse_args(arguments).every, 0.5)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings()
    os.environ.update({**OURS, **stack.environment(settings), **os.environ})  # before Prefect is imported
    rounds = Rounds(sources(settings, every_s))
    registry = CollectorRegistry()
    registry.register(rounds)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(settings.exporter_port, settings.host, registry)
    except OSError as error:
        where = f"{settings.host}:{settings.exporter_port}"
        print(f"exporter: cannot listen on {where} ({error.strerror}): set TRIMTAB_EXPORTER_PORT", file=sys.stderr)
        return 1
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    rounds.start()
    asked.wait()
    rounds.stop()
    server.shutdown()
    thread.join()
    return 0


if __name__ == "__main__":
    sys.exit(main())
