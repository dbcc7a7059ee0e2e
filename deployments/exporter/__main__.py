"""`python -m deployments.exporter`: serves the loop's metrics until SIGTERM or SIGINT."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime
from types import ModuleType

from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server
from prometheus_client.core import GaugeMetricFamily

from deployments import stack
from deployments.exporter import host_metrics, ledger_metrics
from deployments.exporter.polling import INTERVAL_S, PolledSource, PollingCollector
from stores.ledger import Ledger
from trimtab.config.settings import Settings

# Defaults; variables of the environment take precedence. The next poll is the retry.
DEFAULTS = {"PREFECT_CLIENT_MAX_RETRIES": "0", "PREFECT_LOGGING_LEVEL": "WARNING"}


def sources(settings: Settings, interval_s: float) -> list[PolledSource]:
    """The sources for *settings*, most of them polled every *interval_s*."""
    ledger = Ledger(stack.ledger_url(settings))
    reader = ledger_metrics.ParamsReader(settings.root)
    reads: dict[str, Callable[[], Iterable[GaugeMetricFamily]]] = {
        "ledger": lambda: ledger_metrics.loop_metrics(ledger),
        "data": lambda: ledger_metrics.freshness_metrics(ledger, reader, utc_now()),
        "prefect": lambda: _prefect_metrics().run_metrics(settings.work_pool, utc_now()),
        "host": lambda: host_metrics.host_metrics(settings.state),
    }
    schedules = PolledSource("schedules", lambda: _prefect_metrics().schedule_metrics(), interval_s=4 * interval_s)
    return [*(PolledSource(name, read, interval_s=interval_s) for name, read in reads.items()), schedules]


def utc_now() -> datetime:
    """The current time."""
    return datetime.now(UTC)


def _prefect_metrics() -> ModuleType:
    """Imported in the polling threads: importing Prefect takes seconds, and the port should open at once."""
    from deployments.exporter import prefect_metrics

    return prefect_metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return 1 when the port is in use."""
    parser = argparse.ArgumentParser(prog="deployments.exporter", description="The loop's metrics, for Prometheus.")
    parser.add_argument("--every", type=float, default=INTERVAL_S, help="seconds between polls of a source")
    interval_s = max(parser.parse_args(arguments).every, 0.5)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    settings = Settings()
    os.environ.update({**DEFAULTS, **stack.environment(settings), **os.environ})  # before Prefect is imported
    collector = PollingCollector(sources(settings, interval_s))
    registry = CollectorRegistry()
    registry.register(collector)
    ProcessCollector(registry=registry)
    try:
        server, thread = start_http_server(settings.exporter_port, settings.host, registry)
    except OSError as error:
        address = f"{settings.host}:{settings.exporter_port}"
        print(f"exporter: cannot listen on {address} ({error.strerror}): set TRIMTAB_EXPORTER_PORT", file=sys.stderr)
        return 1
    stop_requested = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop_requested.set())
    collector.start()
    stop_requested.wait()
    collector.stop()
    server.shutdown()
    thread.join()
    return 0


if __name__ == "__main__":
    status = main(sys.argv[1:])
    sys.stderr.flush()
    os._exit(status)  # a normal exit aborts when a polling thread is inside C++ code
