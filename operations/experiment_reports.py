"""Reports of experiments: computed from the ledger and telemetry, logged to MLflow, shown and announced."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from operations.context import ProjectContext
from stores import telemetry
from stores.ledger import Rollout, RolloutStep, utc
from tasks import orchestrator, tracking
from tasks.best_effort import best_effort
from trimtab.experiment.report import ExperimentPlan, Report, measures
from trimtab.rollout.state_machine import RolloutPolicy

if TYPE_CHECKING:
    import pandas as pd

CLOCK_SKEW: Final = timedelta(minutes=10)  # between the database's clock and the model server's


class NoSuchExperiment(LookupError):
    """The ledger has no such experiment, or it has not begun."""


def plan_of(steps: Sequence[RolloutStep]) -> ExperimentPlan:
    """The plan of an experiment, from its first step."""
    return ExperimentPlan.model_validate(steps[0].evidence["plan"])


def pairs_of(ctx: ProjectContext, rollout: Rollout) -> pd.DataFrame:
    """The experiment's pairs."""
    return telemetry.pairs(ctx.telemetry, rollout=rollout.id, since=_began(rollout))


def report(ctx: ProjectContext, id: str) -> Report:
    """The report of an experiment as of now, also long after its end, as labels arrive late.

    Raises NoSuchExperiment for one that has not begun.
    """
    from trimtab.experiment import analysis

    rollout, steps = ctx.ledger.rollout(id), ctx.ledger.rollout_steps(id)
    if rollout is None or not steps:
        raise NoSuchExperiment(f"experiment {id} was not begun: start it again")
    pairs = pairs_of(ctx, rollout)
    first, last = _span(pairs)
    ended, policy = steps[-1].state == "ended", RolloutPolicy.model_validate(rollout.policy)
    labels = telemetry.labels(ctx.telemetry, first, last, since=_began(rollout), rule=policy.label_rule)
    return analysis.report(
        plan_of(steps), policy, metric=ctx.params.gate.metric,
        state="ended" if ended else "running", reason=steps[-1].evidence["reason"] if ended else "",
        pairs=pairs, answers=_answers(ctx, id, first, last),
        labels=labels,
    )  # fmt: skip


def _answers(ctx: ProjectContext, id: str, first: datetime, last: datetime) -> pd.DataFrame:
    """The experiment's predictions, with the key in a column `key` where the project has one."""
    key = ctx.params.columns.key
    columns = ["arm", "rollout", "propensity", "prediction", *([key] if key else [])]
    if ctx.params.project.task == "multiclass":
        columns += ["predicted_label", "probabilities"]
    answers = telemetry.predictions(ctx.telemetry, first, last, columns=columns)
    answers = answers[answers["rollout"] == id].reset_index(drop=True)
    return answers.rename(columns={key: "key"} if key else {})


def _span(pairs: pd.DataFrame) -> tuple[datetime, datetime]:
    """The data times of an experiment's answers, with a day on each side for answers whose pair was lost."""
    if pairs.empty:
        return datetime.fromtimestamp(0, UTC), datetime.fromtimestamp(0, UTC)
    first, last = pairs["time"].min().floor("s"), pairs["time"].max().ceil("s")
    return (first - timedelta(days=1)).to_pydatetime(), (last + timedelta(days=1)).to_pydatetime()


def _began(rollout: Rollout) -> datetime:
    return utc(rollout.recorded_at) - CLOCK_SKEW


def to_markdown(ctx: ProjectContext, found: Report) -> str:
    """The report for people."""
    from trimtab.experiment.markdown import to_markdown as render

    return render(found, {digest: ctx.ledger.model_version(digest) or 0 for digest in (found.plan.a, found.plan.b)})


def log_report(ctx: ProjectContext, id: str, found: Report, text: str) -> str:
    """Log the report to MLflow, always to the same run; the run's address."""
    run = tracking.log_experiment(
        ctx.tracking, project=ctx.params.project.name, id=id,
        params=found.plan.model_dump(mode="json", exclude={"name"}),
        tags={"state": found.state, "conclusion": found.conclusion, "reason": found.reason},
        measures=measures(found), labels=found.effect.labels, report=text, facts=found.model_dump(mode="json"),
        is_over=found.state == "ended",
    )  # fmt: skip
    return tracking.run_url(ctx.tracking, run)


def publish(ctx: ProjectContext, id: str) -> str:
    """Publish the report on the flow run's page, in MLflow, and as an event; its text. Safe to repeat.

    At the end of an experiment a broken guardrail raises an alert, and the ledger records that all this was done.
    """
    found = report(ctx, id)
    text, title, link = to_markdown(ctx, found), found.plan.title, ""
    with best_effort("the report in MLflow, until reconcile logs it,"):
        link = f"\n[In MLflow]({log_report(ctx, id, found, text)})"
    orchestrator.show_markdown("experiment", f"{text}{link}", about=f"Experiment {title}")
    payload = {"id": id, "conclusion": found.conclusion, "reason": found.reason}
    event = "trimtab.experiment.started" if found.state == "running" else "trimtab.experiment.ended"
    ctx.emit(event, id=f"{id}-{found.state}", payload=payload)
    if found.state == "ended":
        if found.reason.startswith("guardrail"):
            message = f"experiment {title} was ended: {found.reason}"
            ctx.raise_alert(id, kind="experiment ended", message=message, evidence=payload)
        ctx.ledger.record_outcome(work_of(id), "reported", owner=orchestrator.current_run_id(), evidence=payload)
    return text


def work_of(id: str) -> str:
    """The ledger's name for the work of reporting an ended experiment."""
    return f"report:{id}"
