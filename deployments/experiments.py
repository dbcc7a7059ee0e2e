"""A/B experiments for people at a terminal: start and stop run as flows, so that Prefect has a record of them; a report
needs no flow, and works while Prefect is away. The stack's addresses are in the environment."""

from __future__ import annotations

from collections.abc import Callable

from deployments import local_run


def start(
    a: str, b: str, *, share: float, duration: str, name: str | None, instead: bool, echo: Callable[[str], None]
) -> None:
    """Let two releases answer side by side; the same again only reports."""
    asked = {"a": a, "b": b, "share": share, "duration": duration, "name": name, "instead": instead}
    echo(local_run.run("experiment", asked))


def stop(name: str | None, reason: str, *, echo: Callable[[str], None]) -> None:
    """End an experiment before its time."""
    echo(local_run.run("stop-experiment", {"name": name, "reason": reason}))


def report(name: str | None, *, as_json: bool, echo: Callable[[str], None]) -> None:
    """What there is to say now, printed and kept in the experiment's run in MLflow."""
    from operations import experiments
    from operations.context import load_context

    place = load_context()
    row = experiments.named(place, name)
    found = experiments.report(place, row.id)
    text = experiments.text_of(place, found)
    echo(found.model_dump_json(indent=1) if as_json else text)
    experiments.keep(place, row.id, found, text)
