"""`python -m deployments.exporter`: the loop's metrics on a port of their own, until told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from functools import partial

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

from deployments import stack
from deployments.exporter import machine, records
from deployments.exporter.rounds import Rounds, Source
from stores.ledger import Ledger
from trimtab.settings import Settings

# Whatever the environment says instead wins. A server that is away is asked again in the next round.
OURS = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_LOGGING_LEVEL": "WARNING"}


def sources(settings: Settings) -> list[Source]:
    """What is read in the place that *settings* name."""
    from deployments.exporter import runs

    ledger = Ledger(stack.ledger_url(settings))
    project = records.Project(settings.root)
    return [
        Source("ledger", lambda: records.of(ledger)),
        Source("data", lambda: records.freshness(ledger, project, records.utc_now)),
        Source("prefect", lambda: runs.of(settings.work_pool, records.utc_now)),
        Source("machine", partial(machine.of, settings.state)),
    ]


def main() -> int:
    """Serve until SIGTERM or SIGINT; 1 when the port is taken."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = Settings()
    os.environ.update({**OURS, **stack.environment(settings), **os.environ})  # before Prefect is imported
    rounds = Rounds(sources(settings))
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
