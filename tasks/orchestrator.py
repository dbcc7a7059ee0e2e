"""Prefect from inside a flow: events, runs of other deployments, artifacts.

An event is fast but may be lost; what must happen is in the ledger, and `flows.reconcile` starts it. Artifacts only
inform. So neither can make a flow fail."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from prefect.artifacts import (
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    update_progress_artifact,
)
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterParentFlowRunId,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.deployments import run_deployment
from prefect.events import emit_event
from prefect.exceptions import ObjectNotFound
from prefect.runtime import flow_run
from prefect.states import Crashed

from tasks.best_effort import best_effort

RESOURCE = "trimtab.project"
TAG = "trimtab"


def emit(event: str, *, project: str, id: str, payload: Mapping[str, Any]) -> None:
    """Emit *event* about *project*. *id* names the fact, so that repeated events can be recognised."""
    with best_effort(f"the event {event}"):
        emit_event(
            event=event,
            resource={
                "prefect.resource.id": f"{RESOURCE}.{project}",
                "prefect.resource.name": project,
                "trimtab.fact": id,
            },
            payload=dict(payload),
        )


def start_run(deployment: str, *, key: str, parameters: Mapping[str, Any], tags: Sequence[str] = ()) -> str:
    """Request a run of *deployment* without waiting for it and return its id. The same *key* gives the same run."""
    run = run_deployment(
        deployment, parameters=dict(parameters), idempotency_key=key, timeout=0, as_subflow=False, tags=[*tags]
    )
    return str(run.id)  # type: ignore[union-attr]


def run_state(id: str) -> str | None:
    """Return the state type of a flow run, such as COMPLETED; None when Prefect does not know the run."""
    with get_client(sync_client=True) as client:
        try:
            run = client.read_flow_run(UUID(id))
        except (ObjectNotFound, ValueError):
            return None
    return run.state_type.value if run.state_type else None


ACTIVE_STATES = (StateType.SCHEDULED, StateType.PENDING, StateType.RUNNING, StateType.PAUSED, StateType.CANCELLING)


def has_active_run(deployment: str, parameters: Mapping[str, Any]) -> bool:
    """Whether a run of *deployment* with these *parameters* is running or waiting for a worker."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[*ACTIVE_STATES])),
                tags=FlowRunFilterTags(all_=[deployment]),
            ),
            sort=FlowRunSort.EXPECTED_START_TIME_DESC,
        )
    return any(all(run.parameters.get(name) == value for name, value in parameters.items()) for run in runs)


@dataclass(frozen=True)
class FailedRun:
    """A flow run that failed or crashed."""

    id: str
    name: str
    deployment: str
    state: str
    message: str
    ended: datetime

    @property
    def cause(self) -> str:
        """The deployment and the message without what differs from run to run: numbers, ids and digests."""
        text = re.sub(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b|\b[0-9a-f]{8,}\b|\d+", "#", self.message)
        return f"{self.deployment} {self.state}: {text[:500]}"


def list_failed_runs(*, limit: int = 100) -> list[FailedRun]:
    """The newest runs of our deployments that failed or crashed."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.FAILED, StateType.CRASHED])),
                tags=FlowRunFilterTags(all_=[TAG]),
            ),
            sort=FlowRunSort.END_TIME_DESC,
            limit=limit,
        )
    return [
        FailedRun(
            id=str(run.id), name=run.name, deployment=next((t for t in run.tags if "/" in t), "a flow run"),
            state=run.state_type.value if run.state_type else "",
            message=(run.state.message or "") if run.state else "",
            ended=run.end_time or (run.state.timestamp if run.state else datetime.now(UTC)),
        )
        for run in runs
    ]  # fmt: skip


def completed_after(deployment: str, moment: datetime) -> datetime | None:
    """When the first run of *deployment* that began after *moment* and completed ended; None when there is none."""
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.COMPLETED])),
                start_time=FlowRunFilterStartTime(after_=moment),
                tags=FlowRunFilterTags(all_=[deployment]),
            ),
            sort=FlowRunSort.START_TIME_ASC,
            limit=1,
        )
    return runs[0].end_time if runs else None


def crash_orphaned_subflows(parents: Sequence[str]) -> list[str]:
    """Set the unfinished subflow runs of the lost runs *parents* to Crashed and return their names."""
    if not parents:
        return []
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(
            flow_run_filter=FlowRunFilter(
                parent_flow_run_id=FlowRunFilterParentFlowRunId(any_=[UUID(parent) for parent in parents]),
                state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING])),
            )
        )
        for run in runs:
            client.set_flow_run_state(run.id, Crashed(message="the run that it was a part of was lost"), force=True)
    return [run.name for run in runs]


def run_times(id: str) -> tuple[datetime | None, datetime | None]:
    """Return when a flow run started and ended."""
    with get_client(sync_client=True) as client:
        run = client.read_flow_run(UUID(id))
    return run.start_time, run.end_time


def current_run_id() -> str:
    """Return the id of the current flow run; `local` outside of one."""
    return str(flow_run.id or "local")


def show_markdown(key: str, text: str, *, about: str) -> None:
    """A Markdown artifact on this run's page."""
    with best_effort(f"the artifact {key}"):
        create_markdown_artifact(text, key=key, description=about)


def show_link(key: str, url: str, *, text: str, about: str) -> None:
    """A link artifact on this run's page."""
    with best_effort(f"the artifact {key}"):
        create_link_artifact(url, link_text=text, key=key, description=about)


class ProgressArtifact:
    """A progress artifact on this run's page, updated only when its value changes."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._id: UUID | None = None
        self._shown: tuple[float, str] | None = None

    def show(self, share: float, *, about: str) -> None:
        """Set the progress to *share*, 0 to 1."""
        if self._shown == (share, about):
            return
        self._shown = (share, about)
        percent = round(100 * share, 1)
        with best_effort(f"the artifact {self._key}"):
            if self._id is None:
                made = create_progress_artifact(percent, key=self._key, description=about)
                self._id = made  # type: ignore[assignment]
            else:
                update_progress_artifact(self._id, percent, description=about)
