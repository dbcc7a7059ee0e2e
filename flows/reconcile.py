"""Reconcile: do what the ledger says must happen and has not. Runs every minute and after every failed run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from prefect import flow

from operations import experiments, live, targets
from operations import reconciliation as parts
from operations.context import ProjectContext, load_context

PARTS: Final[tuple[Callable[[ProjectContext], list[str]], ...]] = (
    parts.missing_validations, parts.missing_retrains, parts.missing_monitoring, parts.missing_deploy,
    parts.open_rollouts, experiments.end_finished, targets.reconcile, parts.unannounced_steps, live.sync_aliases,
    parts.missing_in_mlflow, parts.failed_runs, parts.pending_alerts,
)  # fmt: skip


class Unfinished(RuntimeError):
    """Some parts failed; a minute later they are tried again."""


@flow(flow_run_name="reconcile")
def reconcile() -> list[str]:
    """Start missing runs, follow the ledger, report failures; what was done, in words.

    A part that fails keeps no other from being done; it is raised at the end, as Unfinished.
    """
    ctx, done, failures = load_context(), list[str](), list[Exception]()
    for part in PARTS:
        try:
            done += part(ctx)
        except Exception as error:  # noqa: BLE001 - raised below: a store that is away must not hold back alerts
            failures.append(error)
    print("\n".join(done) or "Nothing is missing.")
    if failures:
        raise Unfinished("; ".join(f"{type(error).__name__}: {error}" for error in failures)) from failures[0]
    return done
