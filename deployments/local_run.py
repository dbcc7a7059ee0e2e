"""Runs a flow in this process, against the stack whose addresses are in the environment. The terminal shows what the
flow prints, retries and errors; Prefect's page of the run has the rest."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Mapping
from typing import Any

_RUN_LOGGERS = ("prefect.flow_runs", "prefect.task_runs")


class InvalidParameters(ValueError):
    """The flow has no such parameters, or their values are invalid; the message names its parameters."""


class PrefectUnavailable(RuntimeError):
    """Prefect's server does not answer."""


def run(flow: str, parameters: Mapping[str, Any]) -> Any:
    """Run the flow named *flow*, e.g. drift-monitor, and return its result.

    Raises InvalidParameters, PrefectUnavailable, and the flow's own errors.
    """
    name = flow.replace("-", "_")
    found = getattr(importlib.import_module(f"flows.{name}"), name)
    from prefect.exceptions import ParameterBindError, ParameterTypeError

    if unknown := sorted(set(parameters) - set(found.parameters.properties)):
        takes = ", ".join(found.parameters.properties) or "none"
        raise InvalidParameters(f"{flow} has no parameter {', '.join(unknown)}: its parameters are {takes}")
    require_prefect()
    if not os.environ.get("TRIMTAB_DEBUG"):
        quiet_prefect_logs()
    try:
        return found(**parameters)
    except (ParameterBindError, ParameterTypeError) as error:
        raise InvalidParameters(f"{flow} cannot be run with these parameters: {error}") from error


def require_prefect() -> None:
    """Raise PrefectUnavailable unless Prefect's server answers."""
    import httpx
    from prefect.settings import PREFECT_API_URL

    url = PREFECT_API_URL.value()
    try:
        httpx.get(f"{url}/health", timeout=10.0)
    except httpx.HTTPError as error:
        raise PrefectUnavailable(
            f"Prefect at {url} does not answer ({type(error).__name__}): start the stack with `trimtab up`"
        ) from error


def quiet_prefect_logs() -> None:
    """Keep Prefect's log of a run off the terminal; the run's page has it, with tracebacks."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(_is_for_terminal)


def _is_for_terminal(record: logging.LogRecord) -> bool:
    if not record.name.startswith("prefect"):
        return record.levelno >= logging.WARNING
    if record.name.startswith(_RUN_LOGGERS):
        text = record.getMessage()
        return "will start" in text or "View at" in text
    is_raised_again = record.name in ("prefect.flows", "prefect.engine")
    return record.levelno >= logging.ERROR and record.exc_info is None and not is_raised_again
