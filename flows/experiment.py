"""Experiment: two releases answer users side by side, each its share of the keys, for a stretch of data time. Then the
champion from before answers again, whatever was found: an experiment tells, a rollout decides."""

from __future__ import annotations

from prefect import flow
from prefect.runtime import flow_run

from flows.deploy import known_release
from operations import experiments, rollouts
from operations.context import ProjectContext, load_context, short
from operations.targets.contract import load_release, probe_release
from stores.ledger import LiveRelease, RolloutStep
from stores.releases import bundle
from tasks import model_server, orchestrator
from trimtab.config.fields import format_duration
from trimtab.experiment.report import STRATEGY, ExperimentPlan
from trimtab.rollout import state_machine


class NotStarted(RuntimeError):
    """The experiment cannot begin; nothing was changed."""


def _name() -> str:
    given = flow_run.parameters
    return f"experiment-{given.get('name') or short(given.get('a')) + '-' + short(given.get('b'))}"


@flow(flow_run_name=_name)
def experiment(
    a: str, b: str, share: float = 0.5, duration: str = "7d", name: str | None = None, instead: bool = False
) -> str:
    """Let *b* answer *share* of the keys and *a* the others; the report. The same again reports, and starts nothing.

    Args:
        a: digest of a release, or its first characters
        b: the other one
        share: of the keys that b answers, above 0 and below 1
        duration: of data time, like 7d
        name: to tell experiments apart; empty: made from the rest
        instead: also when a rollout or another experiment goes on, which ends then
    """
    ctx = load_context()
    plan = ExperimentPlan.model_validate(
        {"a": known_release(ctx, a), "b": known_release(ctx, b), "share": share, "duration": duration, "name": name}
    )
    if not known(ctx, plan):
        admit(ctx, plan)
        begin(ctx, plan, instead=instead)
    return experiments.publish(ctx, plan.id)


def known(ctx: ProjectContext, plan: ExperimentPlan) -> bool:
    """Whether this experiment has begun. Raises NotStarted when another one has its name."""
    row, steps = ctx.ledger.rollout(plan.id), ctx.ledger.rollout_steps(plan.id)
    is_other = row is not None and (row.champion_before, row.release) != (plan.a, plan.b)
    if is_other or (steps and experiments.plan_of(steps) != plan):
        raise NotStarted(f"there was another experiment {plan.title}: give this one a name of its own")
    return bool(steps)


def admit(ctx: ProjectContext, plan: ExperimentPlan) -> None:
    """Have both bundles checked, loaded and probed. Raises NotStarted."""
    for arm, digest in (("A", plan.a), ("B", plan.b)):
        try:
            ctx.releases.get(digest)
            load_release(ctx.server, digest)
            probe_release(ctx.server, digest)
        except (bundle.ReleaseError, model_server.ServerRejected) as refusal:
            raise NotStarted(f"{arm} ({short(digest)}) cannot answer users: {refusal}") from refusal


def begin(ctx: ProjectContext, plan: ExperimentPlan, *, instead: bool) -> LiveRelease:
    """Both answer from now on. Raises NotStarted, or ConflictError when somebody else moved who is live meanwhile."""
    live = ctx.ledger.live()
    if live is None:
        raise NotStarted("nothing is live yet: deploy a release first, which answers again after the experiment")
    if live.challenger is not None and not instead:
        raise NotStarted(f"{_busy(ctx, live)}: wait, or end it with --instead")
    ctx.ledger.start_rollout(
        plan.id, release=plan.b, champion_before=plan.a, strategy=STRATEGY, cause=f"experiment {plan.title}",
        policy=rollouts.terms_of(ctx, plan.a, plan.b).model_dump(mode="json"),
    )  # fmt: skip
    evidence = {"share": plan.share, "before": experiments.rightful(ctx, live), "plan": plan.model_dump(mode="json")}
    now = ctx.ledger.switch(
        plan.a, expected=live.version, move="experiment", actor=orchestrator.current_run_id(), rollout=plan.id,
        reason=f"experiment {plan.title}: A {short(plan.a)}, B {short(plan.b)} for {format_duration(plan.duration)}",
        challenger=plan.b, challenger_share=plan.share, step=RolloutStep(plan.id, 1, "experiment", evidence),
    )  # fmt: skip
    experiments.follow(ctx, now)
    experiments.settle(ctx)  # one that this has overtaken has ended
    return now


def _busy(ctx: ProjectContext, live: LiveRelease) -> str:
    """What goes on, in words."""
    row = experiments.running(ctx, live)
    if row is not None:
        return f"{row.cause} goes on"
    at = state_machine.current_state(ctx.ledger.rollout_steps(live.rollout or ""))
    doing = "is in probation" if at.in_probation else f"is being tried ({at.title})"
    return f"release {short(live.champion if at.in_probation else live.challenger)} {doing}"
