"""Observe an experiment: report what is seen of it, and end it when its time is over, when B would harm users, or when
somebody asks. Used by experiment, by reconcile, which looks every minute, and by the `trimtab experiment` command.

An experiment's end and the return of the champion from before are one transaction in the ledger, so any of them may
look at any time, be killed at any line, or meet another."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from operations.context import ProjectContext, short
from operations.targets import contract
from stores import telemetry
from stores.ledger import ConflictError, LiveRelease, Rollout, RolloutStep, utc
from stores.releases import bundle
from tasks import alerts, model_server, orchestrator, tracking
from trimtab.config.fields import format_duration
from trimtab.experiment.report import STRATEGY, ExperimentPlan, Report, measures
from trimtab.rollout import state_machine
from trimtab.rollout.state_machine import RolloutPolicy

if TYPE_CHECKING:
    import pandas as pd

CLOCKS_APART = timedelta(minutes=10)  # the database's clock and the model server's
NEWEST = 5


class NoSuchExperiment(LookupError):
    """The ledger has no experiment by that name."""


def experiments(ctx: ProjectContext) -> list[tuple[Rollout, list[RolloutStep]]]:
    """The newest experiments that did begin, with their steps, oldest first."""
    rows = [row for row in ctx.ledger.rollouts() if row.strategy == STRATEGY][-NEWEST:]
    found = [(row, ctx.ledger.rollout_steps(row.id)) for row in rows]
    return [(row, steps) for row, steps in found if steps]


def named(ctx: ProjectContext, name: str | None) -> Rollout:
    """The experiment that people call *name*, or the newest. Raises NoSuchExperiment."""
    known = [row for row in ctx.ledger.rollouts() if row.strategy == STRATEGY]
    found = [row for row in known if name is None or row.id in (name, f"{STRATEGY}-{name}")]
    if not found:
        titles = ", ".join(row.id.removeprefix(f"{STRATEGY}-") for row in known[-NEWEST:]) or "none so far"
        what = "there is no experiment yet" if name is None else f"there is no experiment {name}"
        raise NoSuchExperiment(f"{what} (known: {titles}): `trimtab experiment start A B` starts one")
    return found[-1]


def running(ctx: ProjectContext, live: LiveRelease | None) -> Rollout | None:
    """The experiment that answers users now."""
    row = ctx.ledger.rollout(live.rollout) if live and live.rollout and live.challenger else None
    return row if row is not None and row.strategy == STRATEGY else None


def rightful(ctx: ProjectContext, live: LiveRelease) -> str:
    """Who is champion when no experiment runs: an experiment's A only stands in its ctx."""
    row = running(ctx, live)
    return live.champion if row is None else str(ctx.ledger.rollout_steps(row.id)[0].evidence["before"])


def make_way(ctx: ProjectContext, reason: str) -> LiveRelease | None:
    """End the experiment that runs, if one does: the champion from before is live again. Raises ConflictError."""
    row = running(ctx, ctx.ledger.live())
    return None if row is None else end(ctx, row.id, reason)


def settle(ctx: ProjectContext) -> list[str]:
    """End what is over, and report what has ended; what was done, in words. With nothing to do it does nothing."""
    done, told = [], ctx.ledger.outcomes()
    for row, steps in experiments(ctx):
        at = state_machine.current_state(steps)
        if at.phase == "experiment" and (why := _over(ctx, row, steps)) is not None:
            with suppress(ConflictError):  # another writer is faster: the next round sees the result
                end(ctx, row.id, why)
                done.append(f"experiment {plan_of(steps).title} ended: {why}")
            at = state_machine.current_state(ctx.ledger.rollout_steps(row.id))
        if at.phase == "ended" and _told(row.id) not in told:
            publish(ctx, row.id)
    return done


def _over(ctx: ProjectContext, row: Rollout, steps: Sequence[RolloutStep]) -> str | None:
    """Why the experiment has to end now; None when it has not."""
    from trimtab.experiment import analysis
    from trimtab.rollout import observation

    live, plan = ctx.ledger.live(), plan_of(steps)
    if live is None or live.rollout != row.id:
        return f"overtaken: {live.move} of {short(live.champion)}" if live else "nothing is live any more"
    if why := model_server.refusal_reason(ctx.server, plan.b):
        return f"guardrail: the model server will not have B: {why}"
    terms = RolloutPolicy.model_validate(row.policy)
    found = observation.orient_pairs(_pairs(ctx, row), plan.b, terms)
    if found.empty:
        return None
    if broken := analysis.broken_guardrails(found, terms):
        return f"guardrail: {'; '.join(broken)}"
    return f"{format_duration(plan.duration)} of data went by" if observation.elapsed(found) >= plan.duration else None


def end(ctx: ProjectContext, id: str, reason: str) -> LiveRelease:
    """End the experiment *id*, once; the live release then. Raises ConflictError when another writer interferes."""
    steps, live = ctx.ledger.rollout_steps(id), ctx.ledger.live()
    at = state_machine.current_state(steps)
    assert live is not None
    if at.phase != "experiment":
        return live
    evidence = {"share": 0.0, "reason": reason}
    if live.rollout != id:
        ctx.ledger.step_rollout(id, at.steps + 1, "ended", evidence)
        return live
    champion = _sound(ctx, steps)
    try:
        now = ctx.ledger.switch(
            champion, expected=live.version, move="close", rollout=id, actor=orchestrator.current_run_id(),
            reason=f"experiment {plan_of(steps).title} ended: {reason}",
            step=RolloutStep(id, at.steps + 1, "ended", evidence),
        )  # fmt: skip
    except ConflictError:
        if state_machine.current_state(ctx.ledger.rollout_steps(id)).phase != "ended":
            raise
        return ctx.ledger.live() or live  # another ended it, which is as good
    follow(ctx, now)
    return now


def _sound(ctx: ProjectContext, steps: Sequence[RolloutStep]) -> str:
    """The champion from before; A, which answers most users now, when that one's bundle was damaged meanwhile."""
    before, plan = str(steps[0].evidence["before"]), plan_of(steps)
    try:
        ctx.releases.get(before)
    except bundle.UnreachableRelease:
        raise  # which says nothing against the release
    except bundle.ReleaseError as error:
        print(f"{error}: A ({short(plan.a)}) stays champion instead")
        return plan.a
    return before


def follow(ctx: ProjectContext, live: LiveRelease) -> None:
    """Let target, model server and MLflow's alias follow the ledger."""
    contract.follow(ctx)
    if not model_server.wait_for_version(ctx.server, live.version):
        print("The model server has not followed the ledger yet; it will when it is back.")
    released = ctx.ledger.release(live.champion)
    if released is not None:
        tracking.set_champion(ctx.tracking, name=released.model_name, version=released.model_version)


def plan_of(steps: Sequence[RolloutStep]) -> ExperimentPlan:
    """What was asked for, from the experiment's first step."""
    return ExperimentPlan.model_validate(steps[0].evidence["plan"])


def report(ctx: ProjectContext, id: str) -> Report:
    """What there is to say of the experiment called *id* now; also long after its end, as labels come late."""
    from trimtab.experiment import analysis

    row, steps = ctx.ledger.rollout(id), ctx.ledger.rollout_steps(id)
    if row is None or not steps:
        raise NoSuchExperiment(f"experiment {id} was not begun: start it again")
    pairs = _pairs(ctx, row)
    multi = ctx.params.project.task == "multiclass"
    key = ctx.params.columns.key
    columns = ["arm", "rollout", "propensity", "prediction"]
    columns += [*(["predicted_label", "probabilities"] if multi else []), *([key] if key else [])]
    first, last = _span(pairs)
    answers = telemetry.predictions(ctx.telemetry, first, last, columns=columns)
    answers = answers[answers["rollout"] == id].reset_index(drop=True)
    ended = steps[-1].state == "ended"
    return analysis.report(
        plan_of(steps), RolloutPolicy.model_validate(row.policy), metric=ctx.params.gate.metric,
        state="ended" if ended else "running", reason=steps[-1].evidence["reason"] if ended else "",
        pairs=pairs, answers=answers.rename(columns={key: "key"} if key else {}),
        labels=telemetry.labels(ctx.telemetry, first, last, since=_began(row)),
    )  # fmt: skip


def _pairs(ctx: ProjectContext, row: Rollout) -> pd.DataFrame:
    return telemetry.pairs(ctx.telemetry, rollout=row.id, since=_began(row))


def _span(pairs: pd.DataFrame) -> tuple[datetime, datetime]:
    """Data times between which an experiment's answers lie, with room for some whose pair got lost."""
    if pairs.empty:
        return datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(0, UTC)
    first, last = pairs["time"].min().floor("s"), pairs["time"].max().ceil("s")
    return (first - timedelta(days=1)).to_pydatetime(), (last + timedelta(days=1)).to_pydatetime()


def _began(row: Rollout) -> datetime:
    return utc(row.recorded_at) - CLOCKS_APART


def keep(ctx: ProjectContext, id: str, found: Report, text: str) -> str:
    """The report into MLflow, always into the same run; its page there."""
    plan, project = found.plan, ctx.params.project.name
    run = tracking.log_experiment(
        ctx.tracking, project=project, id=id, params=plan.model_dump(mode="json", exclude={"name"}),
        tags={"state": found.state, "conclusion": found.conclusion, "reason": found.reason},
        measures=measures(found), labels=found.effect.labels, report=text, facts=found.model_dump(mode="json"),
        is_over=found.state == "ended",
    )  # fmt: skip
    return tracking.run_url(ctx.tracking, run)


def text_of(ctx: ProjectContext, found: Report) -> str:
    """The report as people read it."""
    from trimtab.experiment.markdown import to_markdown

    plan = found.plan
    return to_markdown(found, {d: ctx.ledger.model_version(d) or 0 for d in (plan.a, plan.b)})


def publish(ctx: ProjectContext, id: str) -> str:
    """The report for everybody: on the run's page, in MLflow, and at the end an event, an alert when B would have
    harmed users, and a note in the ledger that all this was done. Safe to repeat. The report's text."""
    found = report(ctx, id)
    text, project = text_of(ctx, found), ctx.params.project.name
    link = keep(ctx, id, found, text)
    orchestrator.show_markdown("experiment", f"{text}\n[In MLflow]({link})", about=f"Experiment {found.plan.title}")
    payload = {"id": id, "conclusion": found.conclusion, "reason": found.reason}
    orchestrator.emit(
        "trimtab.experiment.started" if found.state == "running" else "trimtab.experiment.ended",
        project=project, id=f"{id}-{found.state}", payload=payload,
    )  # fmt: skip
    if found.state == "ended":
        if found.reason.startswith("guardrail"):
            message = f"{project}: experiment {found.plan.title} was ended: {found.reason}"
            alerts.raise_alert(
                ctx.ledger, ctx.alert_channels, id=id, kind="experiment ended", message=message, evidence=payload
            )
        ctx.ledger.record_outcome(_told(id), "reported", owner=orchestrator.current_run_id(), evidence=payload)
    return text


def _told(id: str) -> str:
    return f"report:{id}"
