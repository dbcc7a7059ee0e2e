"""Releases in a Kubernetes cluster: the Deployment's pods are started for a release by its digest, and are ready only
once it is loaded and answers as recorded. Until then those from before answer; all of them follow the ledger."""

from __future__ import annotations

from typing import Any

from operations.context import ProjectContext, short
from operations.targets.contract import TargetRejected, TargetUnavailable, under_way, wanted
from tasks import kubernetes, model_server
from tasks.kubernetes import ClusterRejected, ClusterUnavailable, NotRolledOut, Workload
from tasks.model_server import ServerRejected, ServerUnavailable


class KubernetesTarget:
    """The Deployment of a project's model servers."""

    def __init__(self, ctx: ProjectContext) -> None:
        self._ctx, settings = ctx, ctx.settings
        self._ready_s = settings.ready_s
        self._workload = Workload(
            settings.kube_namespace, settings.kube_deployment, settings.kube_container, settings.kube_config
        )

    def admit(self, digest: str, rollout: str) -> dict[str, Any]:
        """Roll the release out to every pod, and probe it. Raises TargetRejected, and `dismiss` takes it back; or
        TargetUnavailable."""
        try:
            seen = kubernetes.set_release(self._workload, digest, rollout=rollout)
            kubernetes.wait_until_rolled_out(self._workload, seen.generation, within_s=self._ready_s)
            found = model_server.probe(self._ctx.server, digest)
        except (ClusterUnavailable, ServerUnavailable) as error:
            raise TargetUnavailable(str(error)) from error
        except (ClusterRejected, NotRolledOut, ServerRejected) as error:
            raise TargetRejected(str(error)) from error
        return {**found, "generation": seen.generation}

    def dismiss(self, digest: str) -> None:
        """Start pods for the release that the ledger wants again. Users never left them: no pod from before goes before
        a new one is ready."""
        asked = wanted(self._ctx.ledger)
        if asked is None or asked.digest == digest:
            return
        try:
            if kubernetes.read_status(self._workload).release == digest:
                kubernetes.set_release(self._workload, asked.digest, rollout="")
        except ClusterRejected as error:
            print(f"the Deployment still names {short(digest)}; reconcile tries again: {error}")

    def settle(self) -> list[str]:
        """Have the Deployment name the release that the ledger wants, so that new pods are started for that one; they
        are not waited for. One whose rollout has just begun is another run's. Raises TargetRejected."""
        asked = wanted(self._ctx.ledger)
        if asked is None:
            return []
        try:
            seen = kubernetes.read_status(self._workload)
            if seen.release is not None and seen.release in (asked.digest, under_way(self._ctx.ledger)):
                return []
            kubernetes.set_release(self._workload, asked.digest, rollout="")
        except ClusterRejected as error:
            raise TargetRejected(str(error)) from error
        return [f"the Deployment {self._workload.name} starts pods for {short(asked.digest)}"]
