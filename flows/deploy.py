"""Deploy: a release sets out to become champion. It is loaded beside the champion and probed; then it scores in the
shadow what users ask, answers some of them, and takes over once labels show that it is not worse. The ledger says at
every moment who answers; servers and MLflow's alias follow it."""

from __future__ import annotations

import time

from prefect import flow, task
from prefect.runtime import flow_run

from operations import experiments, rollouts
from operations.context import ProjectContext, load_context, short
from operations.targets import contract
from stores.ledger import LiveRelease, RolloutStep
from stores.releases import bundle
from tasks import alerts, model_server, orchestrator, tracking
from tasks.retries import RETRIED
from trimtab.rollout import state_machine as journey

wait_until_followed = task(name="wait-until-followed", **RETRIED)(model_server.wait_for_version)
crown = task(name="crown", **RETRIED)(tracking.set_champion)

LOOK_EVERY_S = 0.25


class RolloutStopped(RuntimeError):
    """The release was not let in; the champion was not touched."""


class NoSuchRelease(LookupError):
    """The ledger knows no release, or several, by that name."""


def _name() -> str:
    return f"deploy-{short(flow_run.parameters.get('release'))}"


@flow(flow_run_name=_name)
def deploy(
    release: str,
    cause: str = "asked for by hand",
    at_once: bool = False,
    watch_s: int = 300,
    rollout: str | None = None,
) -> str:
    """Roll out *release*; the state that it came to. Doing it again goes on where the last run stopped.

    Args:
        release: digest of a release, or its first characters
        cause: why, for the history
        at_once: make it champion after the probe, without a trial on live traffic
        watch_s: seconds to stay with the rollout; after that reconcile looks at it every minute
        rollout: one that has begun; then this run stays with it, and begins none, whatever became of it
    """
    ctx = load_context()
    digest = known_release(ctx, release)
    if rollout is not None:
        return watch(ctx, rollout, watch_s)
    experiments.make_way(ctx, f"release {short(digest)} is to be deployed")
    before = ctx.ledger.live()
    if before and before.champion == digest and not (at_once and before.challenger):
        print(f"{short(digest)} is live already.")
        follow(ctx, before)
        return "champion"
    if before is None or at_once:
        return switch(ctx, digest, before, cause)
    if not is_challenging(ctx, before, digest):
        before = begin(ctx, digest, before, cause)
    assert before.rollout is not None
    return watch(ctx, before.rollout, watch_s)


def is_challenging(ctx: ProjectContext, live: LiveRelease, digest: str) -> bool:
    """Whether *digest* is the release that is on trial now; the previous champion, in probation, is not."""
    row = ctx.ledger.rollout(live.rollout) if live.rollout and live.challenger == digest else None
    return row is not None and row.release == digest


def known_release(ctx: ProjectContext, text: str) -> str:
    """The digest that *text* begins. Raises NoSuchRelease."""
    found = ctx.ledger.release(text)
    if found is None:
        raise NoSuchRelease(f"no release, or more than one, begins with {text!r}: `trimtab history` lists them")
    return found.digest


def switch(ctx: ProjectContext, digest: str, before: LiveRelease | None, cause: str) -> str:
    """Make *digest* champion at once: there is nothing to compare it with, or a person said so."""
    rollout = start(ctx, digest, before, cause, strategy="switch")
    admit(ctx, digest, rollout)
    now = ctx.ledger.switch(
        digest, expected=before.version if before else 0, move="promote", reason=cause,
        actor=orchestrator.current_run_id(), rollout=rollout,
        step=RolloutStep(rollout, 3, "ended", {"reason": "champion without a trial", "share": 1.0}),
    )  # fmt: skip
    follow(ctx, now)
    orchestrator.emit(
        "trimtab.rollout.promoted", project=ctx.params.project.name, id=rollout,
        payload={"release": digest, "version": now.version, "cause": cause},
    )  # fmt: skip
    return "champion"


def begin(ctx: ProjectContext, digest: str, before: LiveRelease, cause: str) -> LiveRelease:
    """Let *digest* score in the shadow from now on."""
    rollout = start(ctx, digest, before, cause, strategy="rollout")
    admit(ctx, digest, rollout)
    now = ctx.ledger.switch(
        before.champion, expected=before.version, move="shadow", reason=cause, actor=orchestrator.current_run_id(),
        rollout=rollout, challenger=digest, step=RolloutStep(rollout, 3, "shadow", {"reason": cause, "share": 0.0}),
    )  # fmt: skip
    contract.follow(ctx)
    wait_until_followed(ctx.server, now.version)
    orchestrator.emit(
        "trimtab.rollout.started", project=ctx.params.project.name, id=rollout,
        payload={"release": digest, "rollout": rollout, "version": now.version, "cause": cause},
    )  # fmt: skip
    return now


def start(ctx: ProjectContext, digest: str, before: LiveRelease | None, cause: str, *, strategy: str) -> str:
    """The rollout from this champion to that release; the same one when it was started before and interrupted."""
    name, attempt = f"{digest[:16]}-after-{before.version if before else 0}", 1
    while any(step.state == "rolled back" for step in ctx.ledger.rollout_steps(f"{name}-{attempt}")):
        attempt += 1
    rollout = f"{name}-{attempt}"
    champion = before.champion if before else None
    try:
        terms = rollouts.terms_of(ctx, champion, digest).model_dump(mode="json") if champion else None
    except bundle.UnreachableRelease:
        raise  # which says nothing against the release
    except bundle.ReleaseError:
        terms = None  # `admit` says what is wrong with it
    ctx.ledger.start_rollout(
        rollout, release=digest, champion_before=champion, strategy=strategy, cause=cause, policy=terms
    )
    ctx.ledger.step_rollout(rollout, 1, "started")
    return rollout


def admit(ctx: ProjectContext, digest: str, rollout: str) -> None:
    """Have the bundle checked, running where it will answer, and probed. Raises RolloutStopped; then nothing has
    changed. UnreachableRelease and TargetUnavailable leave the rollout begun, so that reconcile has it tried again."""
    target = contract.target_of(ctx)
    try:
        ctx.releases.get(digest)  # also when the server has it in memory since long ago
        found = target.admit(digest, rollout)
    except (bundle.UnreachableRelease, contract.TargetUnavailable):
        raise  # which says nothing against the release
    except (bundle.ReleaseError, contract.TargetRejected) as refusal:
        target.dismiss(digest)
        stop(ctx, rollout, digest, str(refusal))
        raise RolloutStopped(f"{short(digest)} was not deployed, the champion goes on: {refusal}") from refusal
    ctx.ledger.step_rollout(rollout, 2, "probed", found)


def stop(ctx: ProjectContext, rollout: str, digest: str, why: str) -> None:
    """Record and tell that the release was refused."""
    taken = len(ctx.ledger.rollout_steps(rollout))
    ctx.ledger.step_rollout(rollout, taken + 1, "rolled back", {"reason": why})
    project = ctx.params.project.name
    message = f"{project}: release {short(digest)} was refused, the champion goes on: {why}"
    alerts.raise_alert(
        ctx.ledger, ctx.alert_channels, id=f"rollout:{rollout}", kind="release refused", message=message,
        evidence={"release": digest},
    )  # fmt: skip
    orchestrator.emit(
        "trimtab.rollout.rolled-back",
        project=project,
        id=rollout,
        payload={"release": digest, "reason": why},
    )


def watch(ctx: ProjectContext, rollout: str, watch_s: int) -> str:
    """Look whenever something new has come in, until it is decided who is champion, or *watch_s* are over."""
    deadline, last = time.monotonic() + watch_s, None
    progress = orchestrator.ProgressArtifact("rollout-progress")
    while True:
        now = rollouts.stamp(ctx)
        if now != last:
            last, outcome = now, rollouts.advance(ctx, rollout)
            progress.show(outcome.at.share, about=f"{short(rollout)}: {outcome.at.title}, {outcome.seen.reason}")
            if not outcome.at.is_challenging:
                return outcome.at.title
            if outcome.moved:
                last = None
                continue
        if time.monotonic() >= deadline:
            at = journey.current_state(ctx.ledger.rollout_steps(rollout))
            print(f"{at.title}: from here on reconcile looks at it every minute.")
            return at.title
        time.sleep(LOOK_EVERY_S)


def follow(ctx: ProjectContext, live: LiveRelease) -> None:
    """Wait until the target and the server follow the ledger, and let MLflow's alias do so too."""
    contract.follow(ctx)
    if not wait_until_followed(ctx.server, live.version):
        print("The model server has not followed the ledger yet; it will when it is back.")
    released = ctx.ledger.release(live.champion)
    if released is not None:
        crown(ctx.tracking, name=released.model_name, version=released.model_version)
    orchestrator.show_markdown(
        "live", f"**{short(live.champion)}** answers users since ledger version {live.version}: {live.reason}",
        about="Who is live",
    )  # fmt: skip
