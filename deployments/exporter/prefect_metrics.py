"""Metrics from Prefect: finished, late and running flow runs of our deployments, workers and schedules.

Prefect's client handles addresses, keys and CSRF tokens; the JSON responses are used as they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, single
from tasks.orchestrator import TAG

PAGE, PAGES = 200, 5
TIMEOUT_S = 5.0
FAILED_STATES = ("FAILED", "CRASHED")
RECONCILE = "reconcile/every-minute"
Run = Mapping[str, Any]


def run_metrics(pool: str, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Flow runs and workers. Raises httpx's errors when Prefect does not answer."""
    with _client() as client:
        yield from finished_runs(client, now)
        yield from failed_deployments(client, now)
        yield from late_runs(client, now)
        yield from running_runs(client)
        yield from workers(client, pool)


def schedule_metrics() -> Iterator[GaugeMetricFamily]:
    """Schedules. They change rarely and cost Prefect half a second. Raises as `run_metrics` does."""
    with _client() as client:
        yield from schedules(client)


def finished_runs(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Runs that ended within the last hour, and the time of the last completed reconcile."""
    found = _runs(client, {"end_time": {"after_": (now - timedelta(hours=1)).isoformat()}}, "END_TIME_DESC")
    counts = Counter((deployment(run), str(run["state_type"])) for run in found)
    yield gauge(
        "flow_runs", "Flow runs that ended within the last hour.", ["deployment", "state"],
        [(key, count) for key, count in counts.items()],
    )  # fmt: skip
    completed = {"state": {"type": {"any_": ["COMPLETED"]}}, "tags": {"all_": [TAG, RECONCILE]}}
    last = _page(client, completed, "END_TIME_DESC", limit=1)
    reconciled = _moment(last[0]["end_time"]) if last else None
    yield single("last_reconcile_timestamp_seconds", "Time when reconcile last completed.", reconciled)


def failed_deployments(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Deployments with a failed or crashed run within a day, and no completed run after it."""
    since = {"end_time": {"after_": (now - timedelta(days=1)).isoformat()}}
    failed = _page(client, {**since, "state": {"type": {"any_": [*FAILED_STATES]}}}, "END_TIME_DESC")
    newest: dict[str, Run] = {}
    for run in failed:
        newest.setdefault(deployment(run), run)
    samples = []
    for name, run in newest.items():
        completed = {"state": {"type": {"any_": ["COMPLETED"]}}, "end_time": {"after_": run["end_time"]}}
        if not _page(client, {**completed, "tags": {"all_": [TAG, name]}}, "END_TIME_DESC", limit=1):
            samples.append(((name, str(run["state_type"])), _moment(run["end_time"])))
    yield gauge(
        "failed_run_timestamp_seconds", "End of a deployment's newest run, if it failed or crashed.",
        ["deployment", "state"], samples,
    )  # fmt: skip


def late_runs(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Runs that are due and have not started, by work queue."""
    due = {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}, "expected_start_time": {"before_": now.isoformat()}}
    found = _runs(client, due, "EXPECTED_START_TIME_ASC")
    queues = Counter(str(run["work_queue_name"] or "none") for run in found)
    oldest: dict[str, float] = {}
    for run in found:
        oldest.setdefault(str(run["work_queue_name"] or "none"), _moment(run["expected_start_time"]))
    yield gauge(
        "late_runs", "Runs that are due and have not started.", ["queue"], [((q,), n) for q, n in queues.items()]
    )
    yield gauge(
        "late_runs_oldest_timestamp_seconds", "Time when the oldest of these was due.", ["queue"],
        [((queue,), at) for queue, at in oldest.items()],
    )  # fmt: skip


def running_runs(client: SyncPrefectClient) -> Iterator[GaugeMetricFamily]:
    """Running flow runs, by deployment."""
    found = _runs(client, {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}, "START_TIME_ASC")
    counts = Counter(deployment(run) for run in found)
    oldest: dict[str, float] = {}
    for run in found:
        if run["start_time"]:
            oldest.setdefault(deployment(run), _moment(run["start_time"]))
    yield gauge("running_runs", "Running flow runs.", ["deployment"], [((d,), n) for d, n in counts.items()])
    yield gauge(
        "running_runs_oldest_timestamp_seconds", "Start of the oldest of these.", ["deployment"],
        [((name,), at) for name, at in oldest.items()],
    )  # fmt: skip


def workers(client: SyncPrefectClient, pool: str) -> Iterator[GaugeMetricFamily]:
    """Online workers of the pool. Prefect lists stopped workers as offline for a long time."""
    where = {"work_pool_name": pool}
    found = client.request("POST", "/work_pools/{work_pool_name}/workers/filter", path_params=where, json={}).json()
    online = sum(worker["status"] == "ONLINE" for worker in found)
    yield single("workers", "Online workers of the pool.", online)
    heartbeats = [_moment(worker["last_heartbeat_time"]) for worker in found if worker["last_heartbeat_time"]]
    yield single("worker_heartbeat_timestamp_seconds", "Newest heartbeat of a worker.", max(heartbeats, default=None))
    found_pool = client.request("GET", "/work_pools/{name}", path_params={"name": pool}).json()
    yield single("work_pool_paused", "1 if the work pool is paused.", bool(found_pool["is_paused"]))


def schedules(client: SyncPrefectClient) -> Iterator[GaugeMetricFamily]:
    """Deployments with a schedule, and whether it is active."""
    query = {"deployments": {"tags": {"all_": [TAG]}}, "limit": PAGE}
    found = client.request("POST", "/deployments/filter", json=query).json()
    samples = [
        ((deployment(row),), float(not row["paused"] and any(s["active"] for s in row["schedules"])))
        for row in found
        if row["schedules"]
    ]
    yield gauge("schedule_active", "1 if a deployment's schedule is active.", ["deployment"], samples)


def deployment(row: Run) -> str:
    """The deployment's full name in the tags of a run or a deployment, or "other"."""
    return next((str(tag) for tag in row["tags"] if "/" in tag), "other")


def _client() -> SyncPrefectClient:
    return get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True)


def _runs(client: SyncPrefectClient, query: Mapping[str, Any], sort: str) -> list[Run]:
    """All matching runs, up to PAGES pages."""
    found: list[Run] = []
    for page in range(PAGES):
        more = _page(client, query, sort, offset=page * PAGE)
        found += more
        if len(more) < PAGE:
            break
    return found


def _page(
    client: SyncPrefectClient, query: Mapping[str, Any], sort: str, *, limit: int = PAGE, offset: int = 0
) -> list[Run]:
    body = {"flow_runs": {"tags": {"all_": [TAG]}, **query}, "sort": sort, "limit": limit, "offset": offset}
    found: list[Run] = client.request("POST", "/flow_runs/filter", json=body).json()
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
