"""Releases as Docker containers. Each release is baked into an image named by its digest, started beside the running
one, and probed; then the proxy in front of them sends requests to it (docs/decisions/0009).

Labels on the containers are the only record of what they are for; the ledger says which of them should run."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from operations.context import ProjectContext, short
from operations.targets.contract import (
    DesiredRelease,
    TargetRejected,
    TargetUnavailable,
    desired_release,
    pending_release,
)
from stores.releases import bundle as bundle_module
from tasks import containers, model_server
from tasks.containers import Container, EngineRejected, EngineUnavailable
from tasks.load_balancer import HAProxy, ProxyRejected
from tasks.model_server import ModelServerClient, ReplicaUnreachable, ServerRejected, ServerUnavailable
from trimtab.config.run_with_secrets import SUFFIX
from trimtab.config.secret_files import holds_secret

PROJECT, RELEASE, ROLLOUT = "trimtab.project", "trimtab.release", "trimtab.rollout"
BASE = "trimtab.base"  # label of images: the id of the server's image that the release was baked into
BAKED = "/srv/baked"
_STOP_S = 60  # a server answers its last requests and uploads its telemetry before it ends
_STATE = "/srv/trimtab/state"
_QUIET_S = 2.0  # longer than a request takes from the proxy to the server


def server_environment(pairs: Sequence[str]) -> dict[str, str]:
    """The environment of model servers. Raises TargetRejected for a secret's value, which Docker would show."""
    given = {}
    for pair in pairs:
        name, sign, value = pair.partition("=")
        if not sign:
            raise TargetRejected(f"TRIMTAB_DOCKER_ENV: {pair!r} is not NAME=value")
        if holds_secret(name):
            raise TargetRejected(
                f"TRIMTAB_DOCKER_ENV holds {name}, which Docker would show to every user: give {name}{SUFFIX}, and "
                "mount the file with TRIMTAB_DOCKER_VOLUMES"
            )
        given[name] = value
    return given


class DockerTarget:
    """The containers of a project's releases on one Docker engine."""

    def __init__(self, ctx: ProjectContext) -> None:
        self._ctx, self._settings = ctx, ctx.settings
        self._project = ctx.params.project.name
        self._proxy = HAProxy(ctx.settings.docker_proxy, ctx.settings.model_server)

    def start_and_probe(self, digest: str, rollout: str) -> dict[str, Any]:
        """Start the release's containers, wait until they are ready, and probe them.

        Raises TargetRejected or TargetUnavailable.
        """
        try:
            self._ensure_image(digest)
            started = self._ensure_containers(digest, rollout)
            found = [self._probe(container.name, digest) for container in started]
        except (EngineUnavailable, ServerUnavailable, bundle_module.UnreachableRelease) as error:
            raise TargetUnavailable(str(error)) from error
        except (EngineRejected, ServerRejected, bundle_module.ReleaseError) as error:
            raise TargetRejected(str(error)) from error
        return {**found[0], "image": self.image(digest), "containers": [container.name for container in started]}

    def remove(self, digest: str) -> None:
        """Remove the containers and the image of a rejected release, unless it is live after all.

        An engine that does not answer keeps them; they get no requests, and `reconcile` removes the containers.
        """
        live = self._ctx.ledger.live()
        if live is not None and digest in (live.champion, live.challenger):
            return
        try:
            for container in self._containers(digest):
                containers.remove(container.name)
            containers.remove_image(self.image(digest))
        except EngineRejected as error:
            print(f"something of {short(digest)} is still there; reconcile tries again: {error}")

    def reconcile(self) -> list[str]:
        """Route requests to the containers of the desired release; then remove the others once they are idle.

        Where the desired ones do not become ready, the route stays as it is. Raises TargetRejected.
        """
        try:
            done: list[str] = []
            while (desired := desired_release(self._ctx.ledger)) is not None:
                done += self._route_to(desired.digest, desired.version)
                if desired_release(self._ctx.ledger) == desired:
                    return done + self._remove_others(keep=desired.digest)
            return done
        except (EngineRejected, ProxyRejected, ServerRejected, bundle_module.ReleaseError) as error:
            raise TargetRejected(str(error)) from error

    def image(self, digest: str) -> str:
        """The name of the release's image."""
        name = f"trimtab-{self._project}:{digest}"
        return f"{self._settings.registry}/{name}" if self._settings.registry else name

    def _route_to(self, digest: str, version: int) -> list[str]:
        names = self._names(digest)
        at, shown = self._proxy.current()
        if at > version and desired_release(self._ctx.ledger) != DesiredRelease(digest, version):
            return []  # another run has read a newer version and changed the route
        if containers.find_image(self.image(digest)) is None:
            self._ensure_image(digest)
        for container in self._ensure_containers(digest, ""):
            self._wait_until_ready(container.name)
        if not self._proxy.route_to(names, version=version, drain_s=self._settings.docker_drain_s):
            return []
        return [] if list(shown) == names else [f"requests are routed to {', '.join(names)}"]

    def _ensure_image(self, digest: str) -> None:
        """Bake the release into the server's present image unless that was done; push it where there is a registry."""
        image, base = self.image(digest), self._settings.server_image
        if base is None:
            raise TargetRejected(
                "TRIMTAB_TARGET=docker bakes releases into an image: name the server's in TRIMTAB_SERVER_IMAGE"
            )
        there, present = containers.find_image(image), containers.find_image(base)
        if there is None or (present is not None and there.labels.get(BASE) != present.id):
            bundle = self._ctx.releases.get(digest)
            version = str(bundle.manifest.model_version)
            labels = {PROJECT: self._project, RELEASE: digest, BASE: present.id if present else "",
                      "org.opencontainers.image.version": version}  # fmt: skip
            containers.bake(
                bundle.path, f"{BAKED}/{digest}", base=base, reference=image, labels=labels,
                environment={"TRIMTAB_BAKED": BAKED, "TRIMTAB_PRELOAD": digest},
            )  # fmt: skip
        if self._settings.registry:
            containers.push(image)  # also an old one: the run that baked it may have been killed

    def _ensure_containers(self, digest: str, rollout: str) -> list[Container]:
        """Start the release's containers from its present image; those that get requests stay as they are."""
        environment = server_environment(self._settings.docker_env)
        labels = {PROJECT: self._project, RELEASE: digest, ROLLOUT: rollout}
        _, shown = self._proxy.current()
        return [
            containers.start(
                name, self.image(digest), labels=labels, environment=environment,
                network=self._settings.docker_network, volumes=self._volumes(), replace=name not in shown,
            )
            for name in self._names(digest)
        ]  # fmt: skip

    def _volumes(self) -> list[str]:
        """The configured volumes, and an anonymous one for the state folder where none of them is for it."""
        given = self._settings.docker_volumes
        return [*given, *([] if any(f":{_STATE}" in volume for volume in given) else [_STATE])]

    def _names(self, digest: str) -> list[str]:
        return [f"trimtab-{self._project}-{digest[:12]}-{n}" for n in range(1, self._settings.replicas + 1)]

    def _server(self, name: str) -> ModelServerClient:
        found = containers.inspect(name)
        if found is None or found.address is None:
            raise ServerRejected(f"the container {name} has no address: {containers.tail_logs(name)}")
        return ModelServerClient(found.address, self._settings.server_key)

    def _probe(self, name: str, digest: str) -> dict[str, Any]:
        """Probe the release in a container. Raises ServerRejected when it fails, without waiting for it to recover."""
        self._wait_until_ready(name, path="/health")
        try:
            found = model_server.probe(self._server(name), digest, timeout_s=self._settings.ready_s)
        except ReplicaUnreachable as error:
            if containers.inspect(name) is None:
                raise
            # The process served only this release, so the release ended it.
            raise ServerRejected(f"{error}; {containers.tail_logs(name)}") from error
        self._wait_until_ready(name)
        return found

    def _wait_until_ready(self, name: str, *, path: str = "/ready") -> None:
        """Wait until the server in the container answers.

        Raises ServerRejected with the end of its logs when it exits or is not ready in time, and ReplicaUnreachable
        when another run removed it, because its rollout was superseded.
        """
        deadline = time.monotonic() + self._settings.ready_s
        while time.monotonic() < deadline:
            found = containers.inspect(name)
            if found is None:
                raise ReplicaUnreachable(f"the container {name} was removed by another run")
            if found.state in ("exited", "dead", "restarting"):
                break
            if found.address and model_server.wait_until_ready(
                ModelServerClient(found.address), within_s=0.5, path=path
            ):
                return
        why = (
            model_server.unready_reasons(self._server(name))
            if (seen := containers.inspect(name)) and seen.runs
            else "it ended"
        )
        raise ServerRejected(f"the container {name} is not ready: {why}; {containers.tail_logs(name)}")

    def _containers(self, digest: str | None = None) -> list[Container]:
        return containers.find({PROJECT: self._project, **({RELEASE: digest} if digest else {})})

    def _remove_others(self, *, keep: str) -> list[str]:
        """Remove the containers of other releases once they are idle, but not those of a pending rollout."""
        names, pending = self._names(keep), pending_release(self._ctx.ledger)
        going = [
            container for container in self._containers()
            if container.name not in names and container.labels.get(RELEASE, "") != pending
        ]  # fmt: skip
        if not going:
            return []
        self._wait_until_idle(going)
        done = []
        for container in going:
            containers.remove(container.name, stop_s=_STOP_S)
            done.append(f"{container.name} of release {short(container.labels.get(RELEASE))} is removed")
        return done

    def _wait_until_idle(self, going: list[Container]) -> None:
        """Return when none of them has answered a request for `_QUIET_S`, or after `docker_drain_s`."""
        now = time.monotonic()
        deadline, quiet_since = now + self._settings.docker_drain_s, now
        while now < deadline and now - quiet_since < _QUIET_S:
            time.sleep(0.2)
            now = time.monotonic()
            if any(self._is_busy(container) for container in going):
                quiet_since = now

    def _is_busy(self, container: Container) -> bool:
        """Whether the container is answering requests; False when it does not say."""
        return (
            container.runs
            and container.address is not None
            and model_server.in_flight(ModelServerClient(container.address)) > 0
        )
