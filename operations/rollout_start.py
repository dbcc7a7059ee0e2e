"""Begin a rollout: record it, have its release run and probed, and take its first step."""

from __future__ import annotations

from operations import live as live_release
from operations import targets
from operations.context import ProjectContext, short
from operations.targets.contract import TargetRejected, TargetUnavailable
from stores.ledger import LiveRelease, RolloutStep
from stores.releases import bundle
from stores.releases.bundle import Bundle
from tasks import orchestrator
from trimtab.rollout import losses
from trimtab.rollout.state_machine import RolloutPolicy


class RolloutStopped(RuntimeError):
    """The release was rejected; the champion was not touched."""


def policy_for(ctx: ProjectContext, champion: str, challenger: str) -> RolloutPolicy:
    """The rules of params.yaml as they are now, with what they apply to: a rollout between these two releases."""
    pair = [ctx.releases.get(digest) for digest in (champion, challenger)]
    gate, rollout, task = ctx.params.gate, ctx.params.rollout, ctx.params.project.task
    return RolloutPolicy(
        **rollout.model_dump(),
        task=task,
        metric=gate.metric,
        metric_margin=gate.max_regression,
        metric_slices={column: margin for column, margin in gate.slices.items() if column in rollout.slices},
        classes={bundle.digest: bundle.manifest.classes for bundle in pair},
        cap=_loss_cap(pair[0]) if task == "regression" else None,
    )


def _loss_cap(champion: Bundle) -> float:
    """The absolute error at which a loss is 1, from the champion's predictions for its reference rows."""
    rows = champion.reference()
    rows = rows[rows[champion.manifest.columns.target].notna()]
    return losses.regression_cap(
        rows[champion.manifest.columns.target].to_numpy(dtype=float), rows["prediction"].to_numpy(dtype=float)
    )


def promote_at_once(ctx: ProjectContext, digest: str, before: LiveRelease | None, cause: str) -> str:
    """Make the release champion without a trial, as its first step; its state.

    This is for the first release of all, which has no champion to be compared with, and for a person's request.
    """
    rollout = record(ctx, digest, before, cause, strategy="switch")
    start_and_probe(ctx, digest, rollout)
    now = ctx.ledger.switch(
        digest, expected=before.version if before else 0, move="promote", reason=cause,
        actor=orchestrator.current_run_id(), rollout=rollout,
        step=RolloutStep(rollout, 3, "ended", {"reason": "champion without a trial", "share": 1.0}),
    )  # fmt: skip
    live_release.follow(ctx, now)
    live_release.show_live(now)
    ctx.emit(
        "trimtab.rollout.promoted", id=rollout, payload={"release": digest, "version": now.version, "cause": cause}
    )
    return "champion"


def begin_shadow(ctx: ProjectContext, digest: str, before: LiveRelease, cause: str) -> str:
    """Let the release score in the shadow from now on; the rollout's id."""
    rollout = record(ctx, digest, before, cause, strategy="rollout")
    start_and_probe(ctx, digest, rollout)
    now = ctx.ledger.switch(
        before.champion, expected=before.version, move="shadow", reason=cause, actor=orchestrator.current_run_id(),
        rollout=rollout, challenger=digest, step=RolloutStep(rollout, 3, "shadow", {"reason": cause, "share": 0.0}),
    )  # fmt: skip
    live_release.follow(ctx, now)
    ctx.emit(
        "trimtab.rollout.started", id=rollout,
        payload={"release": digest, "rollout": rollout, "version": now.version, "cause": cause},
    )  # fmt: skip
    return rollout


def record(ctx: ProjectContext, digest: str, before: LiveRelease | None, cause: str, *, strategy: str) -> str:
    """Record the rollout from this champion to this release; the id of the same one when it began before.

    A release that was rolled back gets another attempt.
    """
    name, attempt = f"{digest[:16]}-after-{before.version if before else 0}", 1
    while any(step.state == "rolled back" for step in ctx.ledger.rollout_steps(f"{name}-{attempt}")):
        attempt += 1
    rollout = f"{name}-{attempt}"
    champion = before.champion if before else None
    try:
        policy = policy_for(ctx, champion, digest).model_dump(mode="json") if champion else None
    except bundle.UnreachableRelease:
        raise  # the store does not answer, which says nothing against the release
    except bundle.ReleaseError:
        policy = None  # `start_and_probe` says what is wrong with the release
    ctx.ledger.start_rollout(
        rollout, release=digest, champion_before=champion, strategy=strategy, cause=cause, policy=policy
    )
    ctx.ledger.step_rollout(rollout, 1, "started")
    return rollout


def start_and_probe(ctx: ProjectContext, digest: str, rollout: str) -> None:
    """Check the bundle, and have the release run on the target and probed.

    Raises RolloutStopped for a rejected release, which changes nothing for users. Raises UnreachableRelease or
    TargetUnavailable and leaves the rollout pending, so that reconcile tries again.
    """
    target = targets.target_for(ctx)
    try:
        ctx.releases.get(digest)  # also when the server has had it in memory for a long time
        found = target.start_and_probe(digest, rollout)
    except (bundle.UnreachableRelease, TargetUnavailable):
        raise  # which says nothing against the release
    except (bundle.ReleaseError, TargetRejected) as rejection:
        target.remove(digest)
        reject(ctx, rollout, digest, str(rejection))
        raise RolloutStopped(f"{short(digest)} was not deployed, the champion stays: {rejection}") from rejection
    ctx.ledger.step_rollout(rollout, 2, "probed", found)


def reject(ctx: ProjectContext, rollout: str, digest: str, reason: str) -> None:
    """Record that the release was rejected, alert, and emit the event."""
    taken = len(ctx.ledger.rollout_steps(rollout))
    ctx.ledger.step_rollout(rollout, taken + 1, "rolled back", {"reason": reason})
    ctx.raise_alert(
        f"rollout:{rollout}", kind="release rejected", evidence={"release": digest},
        message=f"release {short(digest)} was rejected, the champion stays: {reason}",
    )  # fmt: skip
    ctx.emit("trimtab.rollout.rolled-back", id=rollout, payload={"release": digest, "reason": reason})
