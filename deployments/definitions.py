"""When and where flows run: one row per occasion. This table is what `prefect deployment ls` shows."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

from prefect import Flow
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.objects import ConcurrencyLimitConfig, ConcurrencyLimitStrategy
from prefect.deployments import deploy
from prefect.events import DeploymentEventTrigger
from prefect.schedules import Schedule

from deployments.crash_detection import ensure_crash_automations
from deployments.work_pools import RETRAIN_QUEUE, Pool, ensure_pool, pool_of
from stores.ledger import Ledger
from tasks.orchestrator import RESOURCE, TAG
from tasks.sources import in_bucket
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.config.settings import Settings

CODE = Path(__file__).resolve().parent.parent
ALERTING = "trimtab-alerting"
CONTAINERS_MAY_TAKE_S, NODES_MAY_TAKE_S = 300, 900  # until a run begins: images are pulled, nodes are added
ONE = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


@dataclass(frozen=True)
class Occasion:
    """A deployment: *flow* run as *name*, by a schedule, by events, or when somebody asks.

    *given* hands fields of the event's payload to the flow's parameters. With *one_is_enough*, a run that would
    overlap another is cancelled.
    """

    flow: str
    name: str
    about: str
    cron: str | None = None
    is_scheduled: bool = True
    events: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    after_lost_runs: bool = False
    one_is_enough: bool = False

    @property
    def title(self) -> str:
        """What Prefect calls it."""
        return f"{self.flow.replace('_', '-')}/{self.name}"


def occasions(project: Params, settings: Settings) -> list[Occasion]:
    """Every occasion of a project."""
    by_hand = [
        Occasion("ingest", "on-request", "Land and validate the rows of one period"),
        Occasion("validate", "on-request", "Hold a landed batch against the schema again"),
        Occasion("train", "on-request", "Train a candidate; nothing is released"),
        Occasion("evaluate", "on-request", "Judge a candidate against the champion"),
        Occasion("register", "on-request", "Make a release of a candidate that passed"),
        Occasion("deploy", "on-request", "Roll a release out: shadow, canary steps, champion"),
        Occasion("rollback", "on-request", "Take the newest move back"),
        Occasion("experiment", "on-request", "Let two releases answer side by side for a while"),
        Occasion("stop_experiment", "on-request", "End an experiment before its time"),
    ]
    return [
        Occasion("ingest", "nightly", "The next period, once it is complete and its labels are known",
                 cron=project.schedule.ingest, is_scheduled=settings.scheduled_ingest),
        Occasion("ingest", "on-change", "Complete periods whose objects in the source's bucket are new or changed",
                 cron=project.schedule.changes, parameters={"changed": True}, one_is_enough=True,
                 is_scheduled=settings.scheduled_ingest and in_bucket(project.source.target)),
        Occasion("drift_monitor", "on-batch", "What an accepted period asks for",
                 events=("trimtab.batch.accepted",), given={"period": "period", "batch": "batch"}),
        Occasion("retrain", "on-drift", "Drift or lost quality asks for a new model",
                 events=("trimtab.drift.detected", "trimtab.quality.degraded"), given={"decision": "decision"},
                 queue=RETRAIN_QUEUE),
        Occasion("deploy", "on-rollout", "Stay with a rollout that has begun",
                 events=("trimtab.rollout.started",),
                 given={"release": "release", "cause": "cause", "rollout": "rollout"}),
        Occasion("retrain", "nightly", "A new model every night, if it is better",
                 cron=project.schedule.retrain, queue=RETRAIN_QUEUE),
        Occasion("reconcile", "every-minute", "Start what the ledger still lacks", cron="* * * * *",
                 one_is_enough=True),
        Occasion("reconcile", "on-lost-run", "A run failed or crashed: tell, and start again", after_lost_runs=True),
        *by_hand,
    ]  # fmt: skip


def register(settings: Settings) -> list[str]:
    """Tell Prefect about every occasion, and about no others; their titles. Safe to repeat.

    Makes the ledger's tables, the work pool and the automations that find lost runs as well. Raises WrongPool.
    """
    project, pool = params.load(settings.root), pool_of(settings, os.environ)
    if settings.ledger_url is not None:
        Ledger(settings.ledger_url.get_secret_value()).create()
    listed = occasions(project, settings)
    with get_client(sync_client=True) as client:
        ensure_pool(client, settings.work_pool, pool)
    deploy(
        *(_deployment(occasion, project, settings, pool) for occasion in listed),
        work_pool_name=settings.work_pool, build=False, push=False, print_next_steps_message=False,
        ignore_warnings=True,
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        _prune(client, {occasion.title for occasion in listed})
    ensure_crash_automations(start_s=NODES_MAY_TAKE_S if pool.kind == "kubernetes" else CONTAINERS_MAY_TAKE_S)
    return [occasion.title for occasion in listed]


def _deployment(occasion: Occasion, project: Params, settings: Settings, pool: Pool) -> Any:
    source = Flow.from_source(source=str(CODE), entrypoint=f"flows/{occasion.flow}.py:{occasion.flow}")
    schedules = [Schedule(cron=occasion.cron, timezone="UTC", active=occasion.is_scheduled, slug=occasion.name)]
    made: Any = source.to_deployment(  # type: ignore[union-attr]
        name=occasion.name,
        work_pool_name=settings.work_pool,
        work_queue_name=occasion.queue,
        description=occasion.about,
        tags=[TAG, occasion.title, *([ALERTING] if occasion.flow != "reconcile" else [])],
        parameters=dict(occasion.parameters),
        job_variables={**pool.job_variables, **_labels(occasion, project, pool)},
        schedules=schedules if occasion.cron else [],
        triggers=_triggers(occasion, project),
        # After a pause the minutes that were missed all come at once; one of them does what is owed.
        concurrency_limit=ONE if occasion.one_is_enough else None,
    )
    if pool.code is not None:
        made.storage = pool.code
    return made


def _labels(occasion: Occasion, project: Params, pool: Pool) -> dict[str, Any]:
    """What containers can be found by."""
    if pool.kind == "process":
        return {}
    return {"labels": {"trimtab.project": project.project.name, "trimtab.occasion": occasion.title.replace("/", ".")}}


def _triggers(occasion: Occasion, project: Params) -> list[Any]:
    if occasion.events:
        return [
            DeploymentEventTrigger(
                name=occasion.title,
                description=occasion.about,
                expect=set(occasion.events),
                match={"prefect.resource.id": f"{RESOURCE}.{project.project.name}"},
                threshold=1,
                within=timedelta(0),
                parameters={name: _field(path) for name, path in occasion.given.items()},
            )
        ]
    if occasion.after_lost_runs:
        return [
            DeploymentEventTrigger(
                name=occasion.title,
                description=occasion.about,
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.id": f"prefect.tag.{ALERTING}"},
                threshold=1,
                within=timedelta(0),
            )
        ]
    return []


def _field(path: str) -> dict[str, Any]:
    """A field of the event's payload, with its type."""
    template = "{{ event.payload.%s | tojson }}" % path  # noqa: UP031  # braces are the template's
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


def _prune(client: SyncPrefectClient, keep: set[str]) -> None:
    """Forget deployments that an earlier version of the table had."""
    known = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])))
    for deployment in known:
        title = next((tag for tag in deployment.tags if "/" in tag), "")
        if title not in keep:
            client.delete_deployment(deployment.id)
