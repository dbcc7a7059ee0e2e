"""Where releases run: in servers that follow the ledger by themselves, in Docker containers, or in Kubernetes. Which
release answers users is the ledger's to say, whatever the target; a target only sees to it that the processes that can
do so are there, and goes after the ledger's moves. Everything here is safe to repeat, and to interrupt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from prefect import task

from operations.context import ProjectContext
from stores.ledger import Ledger, Rollout
from tasks import model_server
from tasks.model_server import ServerRejected, ServerUnavailable
from tasks.retries import RETRIED
from trimtab.experiment.report import STRATEGY
from trimtab.rollout import state_machine as journey

load_release = task(name="load-release", **RETRIED)(model_server.load)
probe_release = task(name="probe-release", **RETRIED)(model_server.probe)


class TargetRejected(RuntimeError):
    """A release could not be made to run where it would have to answer; users did not notice."""


class TargetUnavailable(TargetRejected):
    """Where it would have to answer, nothing can be said or done at present. Later it may: this says nothing against
    the release."""


class Target(Protocol):
    """What deploy needs of a place where releases run."""

    def admit(self, digest: str, rollout: str) -> dict[str, Any]:
        """Have the release running beside the live one, probed; what was found. Raises TargetRejected;
        TargetUnavailable when that is not the release's doing."""

    def dismiss(self, digest: str) -> None:
        """Take away what `admit` left of a release that was refused; what cannot be taken away now, `settle` does."""

    def settle(self) -> list[str]:
        """Go after the ledger: what ought to run runs, and the rest is gone; what was done. Raises TargetRejected."""


@dataclass(frozen=True)
class DesiredRelease:
    """Whose processes users should be sent to, since the ledger's *version*."""

    digest: str
    version: int


def wanted(ledger: Ledger) -> DesiredRelease | None:
    """The release on trial, if there is one, as its processes answer with both; the champion otherwise."""
    live = ledger.live()
    if live is None:
        return None
    row = ledger.rollout(live.rollout) if live.rollout and live.challenger else None
    is_challenging = (
        row is not None
        and row.strategy == "rollout"
        and journey.current_state(ledger.rollout_steps(row.id)).is_challenging
        and row.release == live.challenger
    )
    return DesiredRelease(row.release if row and is_challenging else live.champion, live.version)


def begun(ledger: Ledger) -> Rollout | None:
    """The rollout whose release has not been let in yet: somebody is at it, or will be. None when the newest one has
    come further, or was overtaken by a champion that it did not set out from; older ones were overtaken by it."""
    rollouts = [row for row in ledger.rollouts() if row.strategy != STRATEGY]
    if not rollouts:
        return None
    newest, live = rollouts[-1], ledger.live()
    was_overtaken = (live.champion if live else None) != newest.champion_before
    at = journey.current_state(ledger.rollout_steps(newest.id))
    return newest if at.phase in ("started", "probed") and not was_overtaken else None


def under_way(ledger: Ledger) -> str | None:
    """The release of the rollout that has begun, whose processes somebody may be about to need."""
    row = begun(ledger)
    return row.release if row else None


class RunningServers:
    """The model servers that run anyhow: they load what the ledger names."""

    def __init__(self, ctx: ProjectContext) -> None:
        self._server = ctx.server

    def admit(self, digest: str, rollout: str) -> dict[str, Any]:
        """Load and probe the release in the running server. Raises TargetRejected, or TargetUnavailable."""
        del rollout
        try:
            load_release(self._server, digest)
            return dict(probe_release(self._server, digest))
        except ServerUnavailable as error:
            raise TargetUnavailable(str(error)) from error
        except ServerRejected as error:
            raise TargetRejected(str(error)) from error

    def dismiss(self, digest: str) -> None:
        """Nothing: servers forget by themselves what nobody asks for."""

    def settle(self) -> list[str]:
        """Nothing: servers follow the ledger by themselves."""
        return []


def target_of(ctx: ProjectContext) -> Target:
    """The target that the settings name."""
    if ctx.settings.target == "docker":
        from operations.targets.docker import DockerTarget

        return DockerTarget(ctx)
    if ctx.settings.target == "kubernetes":
        from operations.targets.kubernetes import KubernetesTarget

        return KubernetesTarget(ctx)
    return RunningServers(ctx)


def settle(ctx: ProjectContext) -> list[str]:
    """Let the target go after the ledger; what was done, in words. What cannot be done now is said, and tried again by
    reconcile a minute later: users are answered meanwhile by who is there, as every server follows the ledger."""
    try:
        return target_of(ctx).settle()
    except TargetRejected as error:
        return [f"the {ctx.settings.target} target has not followed the ledger: {error}"]


def follow(ctx: ProjectContext) -> None:
    """`settle`, told in the flow's log."""
    for words in settle(ctx):
        print(words)
