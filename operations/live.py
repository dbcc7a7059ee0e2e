"""The live release: find it, find the trial beside it, and let everything else follow it."""

from __future__ import annotations

from prefect import task

from operations import targets
from operations.context import ProjectContext, short
from stores.ledger import CurrentRollout, LiveRelease
from tasks import model_server, orchestrator, tracking
from tasks.best_effort import best_effort
from tasks.retries import RETRIED

wait_for_version = task(name="wait-for-version", **RETRIED)(model_server.wait_for_version)


class NoSuchRelease(LookupError):
    """The ledger has no release, or several, whose digest begins so."""


class NothingBefore(RuntimeError):
    """There is no earlier release to go back to."""


def find_release(ctx: ProjectContext, text: str) -> str:
    """The digest that begins with *text*. Raises NoSuchRelease."""
    found = ctx.ledger.release(text)
    if found is None:
        raise NoSuchRelease(f"no release, or more than one, begins with {text!r}: `trimtab history` lists them")
    return found.digest


def previous_release(ctx: ProjectContext, to: str | None) -> tuple[str, int]:
    """The release to go back to, or the one named *to*, and the ledger version that was read.

    Going back twice goes back further: a release that was rolled back from does not return. Raises NothingBefore or
    NoSuchRelease.
    """
    history = ctx.ledger.history()
    if not history:
        raise NothingBefore("nothing is live yet: deploy a release first")
    if to is not None:
        return find_release(ctx, to), history[-1].version
    stack: list[str] = []
    for entry in history:
        if entry.move == "experiment":
            continue
        if entry.move == "rollback" and entry.champion in stack:
            last = len(stack) - 1 - stack[::-1].index(entry.champion)
            del stack[last + 1 :]
        elif stack[-1:] != [entry.champion]:
            stack.append(entry.champion)
    if len(stack) < 2:
        raise NothingBefore(f"{short(stack[-1])} is the first release: there is none before it")
    return stack[-2], history[-1].version


def current_trial(ctx: ProjectContext, live: LiveRelease | None = None) -> CurrentRollout | None:
    """The open rollout while its release is the challenger; None in probation and during an experiment."""
    current = ctx.ledger.current_rollout(live)
    return current if current is not None and current.state.is_challenging else None


def follow(ctx: ProjectContext, live: LiveRelease) -> None:
    """Let the target, the model servers and MLflow's aliases follow the ledger."""
    targets.follow(ctx)
    if not wait_for_version(ctx.server, live.version):
        print("The model server has not followed the ledger yet; it will when it is back.")
    with best_effort("MLflow's aliases, until reconcile sets them,"):
        sync_aliases(ctx)


def sync_aliases(ctx: ProjectContext) -> list[str]:
    """Set MLflow's aliases to what the ledger says, where they differ: `champion`, and `challenger` while a release is
    tried; what was done.

    A version that was deleted in MLflow stays live, as servers load releases from the store; an alert says so, once.
    """
    live = ctx.ledger.live()
    champion = ctx.ledger.release(live.champion) if live else None
    if champion is None:
        return []
    name, trial = champion.model_name, current_trial(ctx, live)
    challenger = ctx.ledger.model_version(trial.rollout.release) if trial else None
    try:
        return tracking.sync_aliases(ctx.tracking, name=name, champion=champion.model_version, challenger=challenger)
    except tracking.NoSuchVersion as error:
        wanted = f"{champion.model_version}" + (f" and {challenger}" if challenger else "")
        ctx.raise_alert(
            f"mlflow:{name}:{wanted}", kind="model version deleted", evidence={"release": champion.digest},
            message=f"a version of {name} that is live ({wanted}) was deleted or renamed in MLflow ({error}): users "
            "are answered as before, as servers load releases from the store; only MLflow's aliases are missing, "
            "until another release is live",
        )  # fmt: skip
        return []


def show_live(live: LiveRelease) -> None:
    """Show the live release on the flow run's page."""
    orchestrator.show_markdown(
        "live", f"**{short(live.champion)}** answers users since ledger version {live.version}: {live.reason}",
        about="The live release",
    )  # fmt: skip
