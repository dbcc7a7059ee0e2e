"""Running a flow in this process, against the stack whose addresses are in the environment; and what a person at a
terminal sees of it: what the flow prints, what is being tried again, what went wrong. The rest is on the run's page."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

RUNS = ("prefect.flow_runs", "prefect.task_runs")


class WrongParameters(ValueError):
    """The flow takes no such parameters; the message names those that it takes."""


class Unreachable(RuntimeError):
    """Prefect does not answer, so there is nothing to run a flow against."""


def run(flow: str, parameters: Mapping[str, Any]) -> Any:
    """The result of the flow called *flow*, like drift-monitor.

    Raises WrongParameters, Unreachable, and whatever the flow raises.
    """
    name = flow.replace("-", "_")
    found = getattr(importlib.import_module(f"flows.{name}"), name)
    from prefect.exceptions import ParameterBindError, ParameterTypeError

    if unknown := sorted(set(parameters) - set(found.parameters.properties)):
        takes = ", ".join(found.parameters.properties) or "none"
        raise WrongParameters(f"{flow} has no parameter {', '.join(unknown)}: its parameters are {takes}")
    require_prefect()
    if not os.environ.get("TRIMTAB_DEBUG"):
        hush()
    try:
        return found(**parameters)
    except (ParameterBindError, ParameterTypeError) as error:
        raise WrongParameters(f"{flow} cannot be run with these parameters: {error}") from error


def require_prefect() -> None:
    """Whether there is a server to record the run. Raises Unreachable."""
    import httpx
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    try:
        httpx.get(f"{url}/health", timeout=10.0)
    except httpx.HTTPError as error:
        raise Unreachable(
            f"Prefect at {url} does not answer ({type(error).__name__}): start the stack with `trimtab up`"
        ) from error


def hush() -> None:
    """Keep Prefect's own account of a run off the terminal: it is on the run's page, tracebacks included."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_worth_reading)


def _worth_reading(record: logging.LogRecord) -> bool:
    if not record.name.startswith("prefect"):
        return record.levelno >= logging.WARNING
    if record.name.startswith(RUNS):
        text = record.getMessage()
        return "will start" in text or "View at" in text
    is_said_at_the_end = record.name in ("prefect.flows", "prefect.engine")
    return record.levelno >= logging.ERROR and record.exc_info is None and not is_said_at_the_end
