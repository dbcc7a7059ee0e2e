"""Releases in a Kubernetes cluster. The Deployment's pods are started for a release by its digest and become ready once
it is loaded and answers as recorded. Until then the previous pods answer; all of them follow the ledger."""

from __future__ import annotations

from typing import Any

from operations.context import ProjectContext, short
from operations.targets.contract import TargetRejected, TargetUnavailable, desired_release, pending_release
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

    def start_and_probe(self, digest: str, rollout: str) -> dict[str, Any]:
        """Roll the release out to every pod, and probe it.

        Raises TargetRejected, after which `remove` takes it back, or TargetUnavailable.
        """
        try:
            seen = kubernetes.set_release(self._workload, digest, rollout=rollout)
            kubernetes.wait_until_rolled_out(self._workload, seen.generation, within_s=self._ready_s)
            found = model_server.probe(self._ctx.server, digest)
        except (ClusterUnavailable, ServerUnavailable) as error:
            raise TargetUnavailable(str(error)) from error
        except (ClusterRejected, NotRolledOut, ServerRejected) as error:
            raise TargetRejected(str(error)) from error
        return {**found, "generation": seen.generation}

    def remove(self, digest: str) -> None:
        """Start pods for the desired release again.

        Its pods never stopped answering, as Kubernetes ends no pod before a new one is ready.
        """
        desired = desired_release(self._ctx.ledger)
        if desired is None or desired.digest == digest:
            return
        try:
            if kubernetes.read_status(self._workload).release == digest:
                kubernetes.set_release(self._workload, desired.digest, rollout="")
        except ClusterRejected as error:
            print(f"the Deployment still names {short(digest)}; reconcile tries again: {error}")

    def reconcile(self) -> list[str]:
        """Let the Deployment name the desired release, so that new pods start for it; does not wait for them.

        Leaves a pending rollout's release alone. Raises TargetRejected.
        """
        desired = desired_release(self._ctx.ledger)
        if desired is None:
            return []
        try:
            seen = kubernetes.read_status(self._workload)
            if seen.release is not None and seen.release in (desired.digest, pending_release(self._ctx.ledger)):
                return []
            kubernetes.set_release(self._workload, desired.digest, rollout="")
        except ClusterRejected as error:
            raise TargetRejected(str(error)) from error
        return [f"the Deployment {self._workload.name} starts pods for {short(desired.digest)}"]
