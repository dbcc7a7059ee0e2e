"""Releases in model servers that run already: they load what the ledger names by themselves."""

from __future__ import annotations

from typing import Any

from prefect import task

from operations.context import ProjectContext
from operations.targets.contract import TargetRejected, TargetUnavailable
from tasks import model_server
from tasks.model_server import ServerRejected, ServerUnavailable
from tasks.retries import RETRIED

load_release = task(name="load-release", **RETRIED)(model_server.load)
probe_release = task(name="probe-release", **RETRIED)(model_server.probe)


class RunningServers:
    """The model servers of the settings."""

    def __init__(self, ctx: ProjectContext) -> None:
        self._server = ctx.server

    def start_and_probe(self, digest: str, rollout: str) -> dict[str, Any]:
        """Load and probe the release. Raises TargetRejected or TargetUnavailable."""
        del rollout
        try:
            load_release(self._server, digest)
            return dict(probe_release(self._server, digest))
        except ServerUnavailable as error:
            raise TargetUnavailable(str(error)) from error
        except ServerRejected as error:
            raise TargetRejected(str(error)) from error

    def remove(self, digest: str) -> None:
        """Do nothing: servers unload what is not used."""

    def reconcile(self) -> list[str]:
        """Do nothing: servers follow the ledger."""
        return []
