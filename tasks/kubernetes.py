"""Kubernetes, through its client: which release a Deployment's pods are started for, and whether they are rolled out.
The chart in infra/helm/trimtab creates the Deployment.

Server-side apply sets only the fields below: the autoscaler owns the replicas, the chart the image."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
MANAGER = "trimtab-deploy"
RELEASE, ROLLOUT = "trimtab.io/release", "trimtab.io/rollout"
PRELOAD = "TRIMTAB_PRELOAD"  # pods are ready only with this release
_PASSING = {408, 429, 500, 502, 503, 504}
_TRIES = 6
_ASK_S = 10.0


class ClusterRejected(RuntimeError):
    """The cluster denied the request; the text says what was asked and what it answered."""


class ClusterUnavailable(ClusterRejected):
    """The API server does not answer, or other writers keep changing the Deployment. A retry may succeed."""


class NotRolledOut(RuntimeError):
    """The pods did not become ready in time; the old ones still answer."""


@dataclass(frozen=True)
class Workload:
    """The Deployment of the model servers. *config* is a kubeconfig; without one the pod's own account is used, or the
    usual file."""

    namespace: str
    name: str
    container: str = "server"
    config: Path | None = None


@dataclass(frozen=True)
class WorkloadStatus:
    """The state of a Deployment. *progress* is None once all pods are new and ready. *stuck* is set when the controller
    gave up on this generation; what it reported of an earlier one is ignored."""

    release: str | None
    rollout: str
    generation: int
    version: str
    progress: str | None
    stuck: bool


class _Refusal(Exception):
    """An answer that is no success."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{status}: {body.get('message') or body}")
        self.status, self.body = status, body

    @property
    def holders(self) -> str:
        """Who else owns the fields, in the API server's words; empty when it is another kind of refusal."""
        causes = (self.body.get("details") or {}).get("causes") or []
        return "; ".join(c.get("message", "") for c in causes if c.get("reason") == "FieldManagerConflict")


def read_status(workload: Workload) -> WorkloadStatus:
    """Return the Deployment's status. Raises ClusterRejected; ClusterUnavailable while the API server does not
    answer."""
    return _run(workload, _read_status)


def set_release(workload: Workload, digest: str, *, rollout: str) -> WorkloadStatus:
    """Set the release that the Deployment's pods are started for, and return its status. Safe to repeat and to run
    beside other writers. Raises ClusterRejected, also when another field manager owns these fields."""

    async def apply(api: Any, workload: Workload) -> WorkloadStatus:
        for attempt in range(_TRIES):
            seen = await _read_status(api, workload)
            if (seen.release, seen.rollout) == (digest, rollout):
                return seen
            try:
                return await _apply(api, workload, digest, rollout, seen.version)
            except _Refusal as refusal:
                if refusal.status != 409 or refusal.holders:
                    raise
            await asyncio.sleep(0.1 * 2**attempt)  # its status changes while pods come and go
        raise ClusterUnavailable(
            f"the Deployment {workload.name} changed each of {_TRIES} times that it was to be written"
        )

    return _run(workload, apply)


def wait_until_rolled_out(workload: Workload, generation: int, *, within_s: float) -> None:
    """Until every pod is of that generation, or a later one, and ready. Raises NotRolledOut, or ClusterRejected."""

    async def wait(api: Any, workload: Workload) -> None:
        deadline, seen = time.monotonic() + within_s, await _read_status(api, workload)
        while seen.generation < generation or seen.progress is not None:
            if seen.stuck:
                raise NotRolledOut(f"the Deployment {workload.name} is stuck: {seen.progress}")
            left = deadline - time.monotonic()
            if left <= 0:
                raise NotRolledOut(f"the Deployment {workload.name} is not ready after {within_s:g} s: {seen.progress}")
            await _until_changed(api, workload, seen.version, min(left, 30.0))
            seen = await _read_status(api, workload)

    _run(workload, wait)


async def _read_status(api: Any, workload: Workload) -> WorkloadStatus:
    return _to_status(
        await _request(lambda: api.read_namespaced_deployment(workload.name, workload.namespace, **_raw()))
    )


async def _apply(api: Any, workload: Workload, digest: str, rollout: str, version: str) -> WorkloadStatus:
    marks = {RELEASE: digest, ROLLOUT: rollout}
    container = {"name": workload.container, "env": [{"name": PRELOAD, "value": digest}]}
    body = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": workload.name, "resourceVersion": version, "annotations": marks},
        "spec": {"template": {"metadata": {"annotations": {RELEASE: digest}}, "spec": {"containers": [container]}}},
    }
    return _to_status(
        await _request(
            lambda: api.patch_namespaced_deployment(
                workload.name, workload.namespace, body, field_manager=MANAGER, force=False,
                _content_type="application/apply-patch+yaml", **_raw(),
            )
        )
    )  # fmt: skip


async def _until_changed(api: Any, workload: Workload, version: str, within_s: float) -> None:
    """Until the Deployment is no longer at *version*; or the time is over, or the stream ends: then look again."""
    from aiohttp import ClientError

    try:
        answer = await api.list_namespaced_deployment(
            workload.namespace, field_selector=f"metadata.name={workload.name}", watch=True, resource_version=version,
            timeout_seconds=max(1, round(within_s)), _preload_content=False, _request_timeout=within_s + 5,
        )  # fmt: skip
        try:
            if answer.status == 200:
                async for chunk in answer.content.iter_any():
                    if b"\n" in chunk:
                        return
        finally:
            answer.close()
    except (ClientError, TimeoutError):
        pass
    await asyncio.sleep(0.5)


async def _request(ask: Callable[[], Awaitable[Any]]) -> dict[str, Any]:
    """What the API server says; troubles that pass are waited for. Raises _Refusal, or ClusterUnavailable."""
    from aiohttp import ClientError

    trouble = ""
    for attempt in range(_TRIES):
        try:
            answer = await ask()
            text = await answer.text()
        except (ClientError, TimeoutError) as error:
            trouble = f"{type(error).__name__}: {error}"
        else:
            body = _parsed(text)
            if answer.status < 400:
                return body
            if answer.status not in _PASSING:
                raise _Refusal(answer.status, body)
            trouble = f"{answer.status}: {body.get('message')}"
        if attempt + 1 < _TRIES:
            await asyncio.sleep(0.1 * 2**attempt)
    raise ClusterUnavailable(f"the API server did not answer {_TRIES} times: {trouble}")


def _parsed(text: str) -> dict[str, Any]:
    try:
        return dict(json.loads(text))
    except ValueError:
        return {"message": text[:300]}


def _raw() -> dict[str, Any]:
    return {"_preload_content": False, "_request_timeout": _ASK_S}


def _to_status(deployment: dict[str, Any]) -> WorkloadStatus:
    meta, spec, status = deployment["metadata"], deployment["spec"], deployment.get("status") or {}
    marks = meta.get("annotations") or {}
    wanted, updated = int(spec.get("replicas", 1)), int(status.get("updatedReplicas") or 0)
    there, available = int(status.get("replicas") or 0), int(status.get("availableReplicas") or 0)
    conditions = {c["type"]: c for c in status.get("conditions") or []}
    moving = conditions.get("Progressing", {})
    is_observed = int(status.get("observedGeneration") or 0) >= int(meta["generation"])
    is_over = is_observed and moving.get("reason") == "ProgressDeadlineExceeded"
    progress = None
    if not is_observed:
        progress = "the change has not been seen yet"
    elif is_over:
        progress = moving.get("message") or "its progress deadline is over"
    elif updated < wanted:
        progress = f"{updated} of {wanted} pods are new"
    elif there > updated:
        progress = f"{there - updated} pods from before have not gone yet"
    elif available < updated:
        progress = f"{available} of {updated} new pods are ready"
    return WorkloadStatus(
        release=marks.get(RELEASE), rollout=marks.get(ROLLOUT, ""), generation=int(meta["generation"]),
        version=str(meta["resourceVersion"]), progress=progress, stuck=is_over,
    )  # fmt: skip


def _run(workload: Workload, work: Callable[[Any, Workload], Coroutine[Any, Any, T]]) -> T:
    """*work* with a connection to the cluster, in a thread of its own, as flows may be inside an event loop."""

    async def connected() -> T:
        async with _api(workload) as api:
            return await work(api, workload)

    try:
        with ThreadPoolExecutor(1) as pool:
            return pool.submit(asyncio.run, connected()).result()
    except _Refusal as refusal:
        raise ClusterRejected(_explain(workload, refusal)) from refusal


def _explain(workload: Workload, refusal: _Refusal) -> str:
    what = f"Deployment {workload.name} in namespace {workload.namespace}"
    if refusal.holders:
        return (
            f"another client holds the release of the {what} ({refusal.holders}): take {PRELOAD} and the annotations "
            "trimtab.io/* out of what they apply, then deploy again"
        )
    if refusal.status == 404:
        return f"there is no {what}: install the chart, or set TRIMTAB_KUBE_NAMESPACE and TRIMTAB_KUBE_DEPLOYMENT"
    if refusal.status in (401, 403):
        return f"this account may not change the {what} (get, list, watch and patch are needed): {refusal}"
    return f"the {what} would not change: {refusal}"


@asynccontextmanager
async def _api(workload: Workload) -> AsyncIterator[Any]:
    from kubernetes_asyncio import client, config

    settings = client.Configuration()
    try:
        if workload.config is not None:
            await config.load_kube_config(str(workload.config), client_configuration=settings, persist_config=False)
        else:
            try:
                config.load_incluster_config(client_configuration=settings)  # type: ignore[no-untyped-call]
            except config.ConfigException:
                await config.load_kube_config(client_configuration=settings, persist_config=False)
    except (config.ConfigException, OSError, TypeError) as error:
        raise ClusterRejected(
            "no cluster is known: run in a pod with a service account, or name a kubeconfig in TRIMTAB_KUBE_CONFIG: "
            f"{error}"
        ) from error
    async with client.ApiClient(configuration=settings) as connection:
        yield client.AppsV1Api(connection)
