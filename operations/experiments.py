"""Begin, watch and end experiments: two releases answer users side by side for a stretch of data time.

Used by the flows experiment, stop-experiment and reconcile. The end of an experiment and the return of the previous
champion are one transaction in the ledger, so any of them may look at any time, be killed at any line, or run beside
another.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from operations import experiment_reports, live
from operations.context import ProjectContext, short
from operations.experiment_reports import NoSuchExperiment, pairs_of, plan_of
from operations.rollout_start import policy_for
from operations.targets.running_servers import load_release, probe_release
from stores.ledger import ConflictError, CurrentRollout, LiveRelease, Rollout, RolloutStep
from stores.releases import bundle
from tasks import model_server, orchestrator
from tasks.best_effort import best_effort
from trimtab.config.fields import format_duration
from trimtab.experiment.report import STRATEGY, ExperimentPlan
from trimtab.rollout.state_machine import RolloutPolicy, current_state

NEWEST: Final = 5


class NotStarted(RuntimeError):
    """The experiment cannot begin; nothing was changed."""


# -- which there are


def find(ctx: ProjectContext, name: str | None) -> Rollout:
    """The experiment called *name*, or the newest one without a name. Raises NoSuchExperiment."""
    known = [rollout for rollout in ctx.ledger.rollouts() if rollout.strategy == STRATEGY]
    found = [rollout for rollout in known if name is None or rollout.id in (name, f"{STRATEGY}-{name}")]
    if not found:
        titles = ", ".join(rollout.id.removeprefix(f"{STRATEGY}-") for rollout in known[-NEWEST:]) or "none so far"
        what = "there is no experiment yet" if name is None else f"there is no experiment {name}"
        raise NoSuchExperiment(f"{what} (known: {titles}): `trimtab experiment start A B` starts one")
    return found[-1]


def list_begun(ctx: ProjectContext) -> list[tuple[Rollout, list[RolloutStep]]]:
    """The newest experiments that have begun, with their steps, oldest first."""
    rollouts = [rollout for rollout in ctx.ledger.rollouts() if rollout.strategy == STRATEGY][-NEWEST:]
    found = [(rollout, ctx.ledger.rollout_steps(rollout.id)) for rollout in rollouts]
    return [(rollout, steps) for rollout, steps in found if steps]


def current(ctx: ProjectContext, at: LiveRelease | None = None) -> CurrentRollout | None:
    """The experiment whose releases answer users now, or at the live release *at*."""
    found = ctx.ledger.current_rollout(at)
    return found if found is not None and found.rollout.strategy == STRATEGY else None


def baseline_champion(ctx: ProjectContext, at: LiveRelease) -> str:
    """The champion without the experiment: during one, A is live in its place."""
    found = current(ctx, at)
    return at.champion if found is None else str(found.steps[0].evidence["before"])


# -- begin


def has_begun(ctx: ProjectContext, plan: ExperimentPlan) -> bool:
    """Whether this experiment has begun. Raises NotStarted when another one has its name."""
    rollout, steps = ctx.ledger.rollout(plan.id), ctx.ledger.rollout_steps(plan.id)
    is_other = rollout is not None and (rollout.champion_before, rollout.release) != (plan.a, plan.b)
    if is_other or (steps and plan_of(steps) != plan):
        raise NotStarted(f"there was another experiment {plan.title}: give this one a name of its own")
    return bool(steps)


def load_and_probe(ctx: ProjectContext, plan: ExperimentPlan) -> None:
    """Check, load and probe both releases. Raises NotStarted."""
    for arm, digest in (("A", plan.a), ("B", plan.b)):
        try:
            ctx.releases.get(digest)
            load_release(ctx.server, digest)
            probe_release(ctx.server, digest)
        except (bundle.ReleaseError, model_server.ServerRejected) as rejection:
            raise NotStarted(f"{arm} ({short(digest)}) cannot answer users: {rejection}") from rejection


def begin(ctx: ProjectContext, plan: ExperimentPlan, *, instead: bool) -> LiveRelease:
    """Let both releases answer from now on; *instead* ends the rollout or experiment that is open.

    Raises NotStarted, or ConflictError when another writer changed the live release meanwhile.
    """
    before = ctx.ledger.live()
    if before is None:
        raise NotStarted("nothing is live yet: deploy a release first, which answers again after the experiment")
    if before.challenger is not None and not instead:
        raise NotStarted(f"{_describe_open(ctx, before)}: wait, or end it with --instead")
    ctx.ledger.start_rollout(
        plan.id, release=plan.b, champion_before=plan.a, strategy=STRATEGY, cause=f"experiment {plan.title}",
        policy=policy_for(ctx, plan.a, plan.b).model_dump(mode="json"),
    )  # fmt: skip
    evidence = {"share": plan.share, "before": baseline_champion(ctx, before), "plan": plan.model_dump(mode="json")}
    now = ctx.ledger.switch(
        plan.a, expected=before.version, move="experiment", actor=orchestrator.current_run_id(), rollout=plan.id,
        reason=f"experiment {plan.title}: A {short(plan.a)}, B {short(plan.b)} for {format_duration(plan.duration)}",
        challenger=plan.b, challenger_share=plan.share, step=RolloutStep(plan.id, 1, "experiment", evidence),
    )  # fmt: skip
    live.follow(ctx, now)
    end_finished(ctx)  # one that this has superseded
    return now


def _describe_open(ctx: ProjectContext, at: LiveRelease) -> str:
    """The open rollout or experiment, in words."""
    found = ctx.ledger.current_rollout(at)
    if found is not None and found.rollout.strategy == STRATEGY:
        return f"{found.rollout.cause} goes on"
    if found is not None and found.state.in_probation:
        return f"release {short(at.champion)} is in probation"
    title = f" ({found.state.title})" if found else ""
    return f"release {short(at.challenger)} is being tried{title}"


# -- end


def end_running(ctx: ProjectContext, reason: str) -> LiveRelease | None:
    """End the experiment that runs, so that the previous champion is live again; None when none runs.

    Raises ConflictError.
    """
    found = current(ctx)
    return None if found is None else end(ctx, found.rollout.id, reason)


def end_finished(ctx: ProjectContext) -> list[str]:
    """End the experiments that are over, and report those that have ended; what was done."""
    done, reported = [], ctx.ledger.outcomes()
    for rollout, steps in list_begun(ctx):
        state = current_state(steps)
        if state.phase == "experiment" and (why := _why_over(ctx, rollout, steps)) is not None:
            with suppress(ConflictError):  # another writer was faster: the next round sees the result
                end(ctx, rollout.id, why)
                done.append(f"experiment {plan_of(steps).title} ended: {why}")
            state = current_state(ctx.ledger.rollout_steps(rollout.id))
        if state.phase == "ended" and experiment_reports.work_of(rollout.id) not in reported:
            with best_effort(f"the report of {rollout.id}"):
                experiment_reports.publish(ctx, rollout.id)
    return done


def end(ctx: ProjectContext, id: str, reason: str) -> LiveRelease:
    """End the experiment *id*, once; the live release then. Raises ConflictError when another writer interferes."""
    steps, before = ctx.ledger.rollout_steps(id), ctx.ledger.live()
    state = current_state(steps)
    assert before is not None
    if state.phase != "experiment":
        return before
    step = RolloutStep(id, state.steps + 1, "ended", {"share": 0.0, "reason": reason})
    if before.rollout != id:
        ctx.ledger.step_rollout(id, step.number, step.state, step.evidence)
        return before
    champion = _loadable_champion(ctx, steps)
    try:
        now = ctx.ledger.switch(
            champion, expected=before.version, move="close", rollout=id, actor=orchestrator.current_run_id(),
            reason=f"experiment {plan_of(steps).title} ended: {reason}", step=step,
        )  # fmt: skip
    except ConflictError:
        if current_state(ctx.ledger.rollout_steps(id)).phase != "ended":
            raise
        return ctx.ledger.live() or before  # another writer ended it
    live.follow(ctx, now)
    return now


def _why_over(ctx: ProjectContext, rollout: Rollout, steps: Sequence[RolloutStep]) -> str | None:
    """Why the experiment has to end now; None when it has not."""
    from trimtab.experiment import analysis
    from trimtab.rollout import observation

    at, plan = ctx.ledger.live(), plan_of(steps)
    if at is None or at.rollout != rollout.id:
        return f"superseded: {at.move} of {short(at.champion)}" if at else "nothing is live any more"
    if refusal := model_server.refusal_reason(ctx.server, plan.b):
        return f"guardrail: the model server will not have B: {refusal}"
    policy = RolloutPolicy.model_validate(rollout.policy)
    found = observation.orient_pairs(pairs_of(ctx, rollout), plan.b, policy)
    if found.empty:
        return None
    if broken := analysis.broken_guardrails(found, policy):
        return f"guardrail: {'; '.join(broken)}"
    return f"{format_duration(plan.duration)} of data went by" if observation.elapsed(found) >= plan.duration else None


def _loadable_champion(ctx: ProjectContext, steps: Sequence[RolloutStep]) -> str:
    """The previous champion; A, which answers most users now, when the previous one's bundle is damaged."""
    before, plan = str(steps[0].evidence["before"]), plan_of(steps)
    try:
        ctx.releases.get(before)
    except bundle.UnreachableRelease:
        raise  # the store does not answer, which says nothing against the release
    except bundle.ReleaseError as error:
        print(f"{error}: A ({short(plan.a)}) stays champion instead")
        return plan.a
    return before
