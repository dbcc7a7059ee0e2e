"""What Prefect says of the loop: runs that ended, wait, run, and whether anybody is there to run them. Only runs of our
own deployments count. Prefect's client sees to addresses, keys and CSRF; answers are taken as they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any

from prefect.client.orchestration import SyncPrefectClient, get_client
from prometheus_client.core import GaugeMetricFamily

from deployments.exporter.polling import gauge, one
from tasks.orchestrator import TAG

PAGE, PAGES = 200, 5
TIMEOUT_S = 5.0
LOST = ("FAILED", "CRASHED")
RECONCILE = "reconcile/every-minute"
Clock = Callable[[], datetime]
Run = Mapping[str, Any]


def of(pool: str, clock: Clock) -> Iterator[GaugeMetricFamily]:
    """Runs and workers. Raises httpx's errors when Prefect does not answer."""
    with _client() as client:
        now = clock()
        yield from ended(client, now)
        yield from lost(client, now)
        yield from waiting(client, now)
        yield from running(client)
        yield from workers(client, pool)


def schedules_of() -> Iterator[GaugeMetricFamily]:
    """Schedules, which seldom change and weigh more: half a second of Prefect's time. Raises as `of` does."""
    with _client() as client:
        yield from schedules(client)


def ended(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """What ended within the last hour, and when reconcile last did."""
    found = _runs(client, {"end_time": {"after_": (now - timedelta(hours=1)).isoformat()}}, "END_TIME_DESC")
    counts = Counter((deployment(run), str(run["state_type"])) for run in found)
    yield gauge(
        "flow_runs", "Flow runs that ended within the last hour.", ["deployment", "state"],
        [(key, count) for key, count in counts.items()],
    )  # fmt: skip
    done = {"state": {"type": {"any_": ["COMPLETED"]}}, "tags": {"all_": [TAG, RECONCILE]}}
    last = _page(client, done, "END_TIME_DESC", limit=1)
    yield one("reconciled_seconds", "When reconcile last completed.", _moment(last[0]["end_time"]) if last else None)


def lost(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Deployments whose newest run of the last day did not end well."""
    since = {"end_time": {"after_": (now - timedelta(days=1)).isoformat()}}
    bad = _page(client, {**since, "state": {"type": {"any_": [*LOST]}}}, "END_TIME_DESC")
    newest: dict[str, Run] = {}
    for run in bad:
        newest.setdefault(deployment(run), run)
    samples = []
    for name, run in newest.items():
        good = {"state": {"type": {"any_": ["COMPLETED"]}}, "end_time": {"after_": run["end_time"]}}
        if not _page(client, {**good, "tags": {"all_": [TAG, name]}}, "END_TIME_DESC", limit=1):
            samples.append(((name, str(run["state_type"])), _moment(run["end_time"])))
    yield gauge(
        "lost_run_seconds", "When the newest run of a deployment ended, if it failed or crashed.",
        ["deployment", "state"], samples,
    )  # fmt: skip


def waiting(client: SyncPrefectClient, now: datetime) -> Iterator[GaugeMetricFamily]:
    """Runs that are due and have not begun, by work queue."""
    due = {"state": {"type": {"any_": ["SCHEDULED", "PENDING"]}}, "expected_start_time": {"before_": now.isoformat()}}
    found = _runs(client, due, "EXPECTED_START_TIME_ASC")
    queues = Counter(str(run["work_queue_name"] or "none") for run in found)
    oldest: dict[str, float] = {}
    for run in found:
        oldest.setdefault(str(run["work_queue_name"] or "none"), _moment(run["expected_start_time"]))
    yield gauge(
        "waiting_runs", "Runs that are due and have not begun.", ["queue"], [((q,), n) for q, n in queues.items()]
    )
    yield gauge(
        "waiting_since_seconds", "When the oldest of these was due.", ["queue"],
        [((queue,), at) for queue, at in oldest.items()],
    )  # fmt: skip


def running(client: SyncPrefectClient) -> Iterator[GaugeMetricFamily]:
    """Runs that run, by deployment."""
    found = _runs(client, {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}, "START_TIME_ASC")
    counts = Counter(deployment(run) for run in found)
    oldest: dict[str, float] = {}
    for run in found:
        if run["start_time"]:
            oldest.setdefault(deployment(run), _moment(run["start_time"]))
    yield gauge("running_runs", "Flow runs that run.", ["deployment"], [((d,), n) for d, n in counts.items()])
    yield gauge(
        "running_since_seconds", "When the oldest of these began.", ["deployment"],
        [((name,), at) for name, at in oldest.items()],
    )  # fmt: skip


def workers(client: SyncPrefectClient, pool: str) -> Iterator[GaugeMetricFamily]:
    """Who is there to run flows. Workers that are gone stay on Prefect's list for long, and count as offline."""
    where = {"work_pool_name": pool}
    found = client.request("POST", "/work_pools/{work_pool_name}/workers/filter", path_params=where, json={}).json()
    online = sum(worker["status"] == "ONLINE" for worker in found)
    yield one("workers", "Workers of the pool that report.", online)
    heard = [_moment(worker["last_heartbeat_time"]) for worker in found if worker["last_heartbeat_time"]]
    yield one("worker_heard_seconds", "When a worker last reported.", max(heard, default=None))
    about = client.request("GET", "/work_pools/{name}", path_params={"name": pool}).json()
    yield one("pool_paused", "1 when the work pool is paused.", bool(about["is_paused"]))


def schedules(client: SyncPrefectClient) -> Iterator[GaugeMetricFamily]:
    """Which deployments start by themselves at set times."""
    wanted = {"deployments": {"tags": {"all_": [TAG]}}, "limit": PAGE}
    found = client.request("POST", "/deployments/filter", json=wanted).json()
    timed = [
        ((deployment(one_of),), float(not one_of["paused"] and any(s["active"] for s in one_of["schedules"])))
        for one_of in found
        if one_of["schedules"]
    ]
    yield gauge("schedule_active", "1 when a deployment with a schedule follows it.", ["deployment"], timed)


def deployment(row: Run) -> str:
    """The deployment that a run, or Prefect's row about one, belongs to, as our tags name it."""
    return next((str(tag) for tag in row["tags"] if "/" in tag), "other")


def _client() -> SyncPrefectClient:
    return get_client(httpx_settings={"timeout": TIMEOUT_S}, sync_client=True)


def _runs(client: SyncPrefectClient, wanted: Mapping[str, Any], sort: str) -> list[Run]:
    """All of them, up to some pages: more are as bad as these."""
    found: list[Run] = []
    for page in range(PAGES):
        more = _page(client, wanted, sort, offset=page * PAGE)
        found += more
        if len(more) < PAGE:
            break
    return found


def _page(
    client: SyncPrefectClient, wanted: Mapping[str, Any], sort: str, *, limit: int = PAGE, offset: int = 0
) -> list[Run]:
    body = {"flow_runs": {"tags": {"all_": [TAG]}, **wanted}, "sort": sort, "limit": limit, "offset": offset}
    found: list[Run] = client.request("POST", "/flow_runs/filter", json=body).json()
    return found


def _moment(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()
