"""The deployments of a project: which flow runs when, on which events, with which parameters. One row each, as in
`prefect deployment ls`."""

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
from deployments.work_pools import RETRAIN_QUEUE, WorkPoolSpec, ensure_work_pool, work_pool_spec
from tasks.orchestrator import RESOURCE, TAG
from tasks.sources import is_bucket_target
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.config.settings import Settings

CODE = Path(__file__).resolve().parent.parent
ALERTING_TAG = "trimtab-alerting"
CONTAINER_START_LIMIT_S, NODE_START_LIMIT_S = 300, 900  # images are pulled, nodes are added
_SKIP_IF_RUNNING = ConcurrencyLimitConfig(limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW)


@dataclass(frozen=True)
class DeploymentSpec:
    """A deployment of *flow*, started by a cron schedule, by events, or on request.

    *event_parameters* maps parameters of the flow to fields of the event's payload. With *skip_if_running*, a new run
    is cancelled while another one is active. *after_lost_runs* starts a run when one of ours failed or crashed.
    """

    flow: str
    name: str
    description: str
    cron: str | None = None
    is_scheduled: bool = True
    events: tuple[str, ...] = ()
    event_parameters: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    queue: str | None = None
    after_lost_runs: bool = False
    skip_if_running: bool = False

    @property
    def full_name(self) -> str:
        """Prefect's FLOW/DEPLOYMENT name."""
        return f"{self.flow.replace('_', '-')}/{self.name}"


def deployment_specs(project: Params, settings: Settings) -> list[DeploymentSpec]:
    """All deployments of a project."""
    return [
        DeploymentSpec(
            "ingest", "nightly", "Ingest the next period once it is complete and labelled",
            cron=project.schedule.ingest, is_scheduled=settings.scheduled_ingest,
        ),
        DeploymentSpec(
            "ingest", "on-change", "Ingest complete periods whose objects in the source's bucket are new or changed",
            cron=project.schedule.changes, parameters={"changed": True}, skip_if_running=True,
            is_scheduled=settings.scheduled_ingest and is_bucket_target(project.source.target),
        ),
        DeploymentSpec(
            "drift_monitor", "on-batch", "Decide what an accepted period requires",
            events=("trimtab.batch.accepted",), event_parameters={"period": "period", "batch": "batch"},
        ),
        DeploymentSpec(
            "retrain", "on-drift", "Retrain after drift or a loss of quality", queue=RETRAIN_QUEUE,
            events=("trimtab.drift.detected", "trimtab.quality.degraded"), event_parameters={"decision": "decision"},
        ),
        DeploymentSpec(
            "deploy", "on-rollout", "Drive a rollout that has started", events=("trimtab.rollout.started",),
            event_parameters={"release": "release", "cause": "cause", "rollout": "rollout"},
        ),
        DeploymentSpec(
            "retrain", "nightly", "Retrain every night; a better model is released",
            cron=project.schedule.retrain, queue=RETRAIN_QUEUE,
        ),
        DeploymentSpec(
            "reconcile", "every-minute", "Start work that the ledger says is missing",
            cron="* * * * *", skip_if_running=True,
        ),
        DeploymentSpec(
            "reconcile", "on-lost-run", "Report a failed or crashed run, and start missing work", after_lost_runs=True
        ),
        DeploymentSpec("ingest", "on-request", "Land and validate the rows of one period"),
        DeploymentSpec("validate", "on-request", "Validate a landed batch again"),
        DeploymentSpec("train", "on-request", "Train a candidate; nothing is released"),
        DeploymentSpec("evaluate", "on-request", "Compare a candidate with the champion"),
        DeploymentSpec("register", "on-request", "Create a release from a candidate that passed the gate"),
        DeploymentSpec("deploy", "on-request", "Roll a release out: shadow, canary steps, champion"),
        DeploymentSpec("rollback", "on-request", "Undo the newest change of what is live"),
        DeploymentSpec("experiment", "on-request", "Compare two releases on live requests for a set time"),
        DeploymentSpec("stop_experiment", "on-request", "End an experiment early"),
    ]  # fmt: skip


def register(settings: Settings) -> list[str]:
    """Register all deployments with Prefect and delete outdated ones; return their full names. Safe to repeat.

    Also creates the work pool and the automations that detect crashes. Raises InvalidWorkPool.
    """
    project, pool = params.load(settings.root), work_pool_spec(settings, os.environ)
    specs = deployment_specs(project, settings)
    with get_client(sync_client=True) as client:
        ensure_work_pool(client, settings.work_pool, pool)
    deploy(
        *(_deployment(spec, project, settings, pool) for spec in specs),
        work_pool_name=settings.work_pool, build=False, push=False, print_next_steps_message=False,
        ignore_warnings=True,
    )  # fmt: skip
    with get_client(sync_client=True) as client:
        _prune(client, {spec.full_name for spec in specs})
    ensure_crash_automations(start_s=NODE_START_LIMIT_S if pool.kind == "kubernetes" else CONTAINER_START_LIMIT_S)
    return [spec.full_name for spec in specs]


def _deployment(spec: DeploymentSpec, project: Params, settings: Settings, pool: WorkPoolSpec) -> Any:
    source = Flow.from_source(source=str(CODE), entrypoint=f"flows/{spec.flow}.py:{spec.flow}")
    schedules = [Schedule(cron=spec.cron, timezone="UTC", active=spec.is_scheduled, slug=spec.name)]
    deployment: Any = source.to_deployment(  # type: ignore[union-attr]
        name=spec.name,
        work_pool_name=settings.work_pool,
        work_queue_name=spec.queue,
        description=spec.description,
        tags=[TAG, spec.full_name, *([ALERTING_TAG] if spec.flow != "reconcile" else [])],
        parameters=dict(spec.parameters),
        job_variables={**pool.job_variables, **_labels(spec, project, pool)},
        schedules=schedules if spec.cron else [],
        triggers=_triggers(spec, project),
        # After a pause all missed minutes are due at once; one run is enough.
        concurrency_limit=_SKIP_IF_RUNNING if spec.skip_if_running else None,
    )
    if pool.code is not None:
        deployment.storage = pool.code
    return deployment


def _labels(spec: DeploymentSpec, project: Params, pool: WorkPoolSpec) -> dict[str, Any]:
    """Labels by which containers can be found."""
    if pool.kind == "process":
        return {}
    return {"labels": {"trimtab.project": project.project.name, "trimtab.deployment": spec.full_name.replace("/", ".")}}


def _triggers(spec: DeploymentSpec, project: Params) -> list[Any]:
    if spec.events:
        return [
            DeploymentEventTrigger(
                name=spec.full_name,
                description=spec.description,
                expect=set(spec.events),
                match={"prefect.resource.id": f"{RESOURCE}.{project.project.name}"},
                threshold=1,
                within=timedelta(0),
                parameters={name: _field(path) for name, path in spec.event_parameters.items()},
            )
        ]
    if spec.after_lost_runs:
        return [
            DeploymentEventTrigger(
                name=spec.full_name,
                description=spec.description,
                expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
                match={"prefect.resource.id": "prefect.flow-run.*"},
                match_related={"prefect.resource.id": f"prefect.tag.{ALERTING_TAG}"},
                threshold=1,
                within=timedelta(0),
            )
        ]
    return []


def _field(path: str) -> dict[str, Any]:
    """A template for a field of the event's payload; it keeps the field's type."""
    template = "{{ event.payload.%s | tojson }}" % path  # noqa: UP031  # the braces are Jinja's
    return {"__prefect_kind": "json", "value": {"__prefect_kind": "jinja", "template": template}}


def _prune(client: SyncPrefectClient, keep: set[str]) -> None:
    """Delete our deployments that are not in *keep*."""
    known = client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(all_=[TAG])))
    for deployment in known:
        name = next((tag for tag in deployment.tags if "/" in tag), "")
        if name not in keep:
            client.delete_deployment(deployment.id)
