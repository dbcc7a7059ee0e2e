"""Stop-experiment: an experiment ends before its time; the champion from before answers again, in one step."""

from __future__ import annotations

from prefect import flow

from flows import observe
from flows.door import here


@flow(name="stop-experiment", flow_run_name="stop-experiment")
def stop_experiment(name: str | None = None, reason: str = "asked for by hand") -> str:
    """End an experiment; its report. One that has ended is only reported.

    Args:
        name: of the experiment; empty: the newest
        reason: why, for the history
    """
    place = here()
    row = observe.named(place, name)
    observe.end(place, row["id"], reason)
    return observe.publish(place, row["id"])
