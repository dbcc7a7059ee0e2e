"""A small API server of Kubernetes: one Deployment, over real HTTP, with server-side apply, resource versions, watches
and a controller that rolls pods out; and the troubles that the real one has. It is no cluster: no pod runs."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

NAMESPACE, NAME = "models", "trimtab-server"
PATH = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"
TOKEN = "marked-token"


@dataclass
class Cluster:
    """The Deployment, and what is to go wrong. *troubles* are answered to the next requests, one each: a status, or
    "cut" for a connection that breaks. *owners* are field managers by field. *broken* releases never become ready."""

    replicas: int = 2
    pod_s: float = 0.05
    deadline_s: float = 1.0
    generation: int = 1
    version: int = 100
    annotations: dict[str, str] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=lambda: {"TRIMTAB_HOST": "0.0.0.0"})
    owners: dict[str, str] = field(default_factory=lambda: {"env.TRIMTAB_HOST": "helm"})
    status: dict[str, Any] = field(default_factory=dict)
    troubles: list[int | str] = field(default_factory=list)
    before_apply: list[Any] = field(default_factory=list)
    broken: set[str] = field(default_factory=set)
    requests: list[tuple[str, str]] = field(default_factory=list)
    watches: int = 0
    watch_ends: bool = False
    port: int = 0

    def __post_init__(self) -> None:
        self.changed = threading.Condition(threading.RLock())
        self.status = {"observedGeneration": 1, "replicas": self.replicas, "updatedReplicas": self.replicas,
                       "availableReplicas": self.replicas}  # fmt: skip

    def deployment(self) -> dict[str, Any]:
        env = [{"name": name, "value": value} for name, value in self.env.items()]
        return {
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": NAME, "namespace": NAMESPACE, "generation": self.generation,
                         "resourceVersion": str(self.version), "annotations": dict(self.annotations)},
            "spec": {"replicas": self.replicas, "template": {"spec": {"containers": [{"name": "server", "env": env}]}}},
            "status": dict(self.status),
        }  # fmt: skip

    def touch(self, **status: Any) -> None:
        """A controller or a person changes it."""
        with self.changed:
            self.version += 1
            self.status |= status
            self.changed.notify_all()

    def give_up(self) -> None:
        """The controller says that the pods of this generation were not ready in time."""
        self.touch(
            conditions=[{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "has timed out"}]
        )

    def apply(self, body: dict[str, Any], manager: str) -> tuple[int, dict[str, Any]]:
        """Server-side apply of annotations and variables."""
        with self.changed:
            if self.before_apply:
                self.before_apply.pop(0)()
            if (asked := body["metadata"].get("resourceVersion")) not in (None, str(self.version)):
                return 409, failure(409, "Conflict", f"the object has been modified: {asked} is not {self.version}")
            containers = body["spec"]["template"]["spec"]["containers"]
            fields = {f"annotations.{name}": value for name, value in body["metadata"]["annotations"].items()}
            fields |= {f"env.{entry['name']}": entry["value"] for entry in containers[0]["env"]}
            holders = {self.owners[f] for f, value in fields.items() if self._held(f, value, manager)}
            if holders:
                told = [{"reason": "FieldManagerConflict", "message": f'conflict with "{h}"'} for h in sorted(holders)]
                return 409, failure(409, "Conflict", "Apply failed with conflicts", causes=told)
            before = dict(self.env)
            for name, value in fields.items():
                kind, _, key = name.partition(".")
                (self.annotations if kind == "annotations" else self.env)[key] = value
                self.owners[name] = manager
            self.version += 1
            if self.env != before:
                self.generation += 1
                threading.Thread(target=self._roll_out, args=(self.generation,), daemon=True).start()
            self.changed.notify_all()
            return 200, self.deployment()

    def _held(self, name: str, value: str, manager: str) -> bool:
        kind, _, key = name.partition(".")
        now = (self.annotations if kind == "annotations" else self.env).get(key)
        return self.owners.get(name, manager) != manager and now != value

    def _roll_out(self, generation: int) -> None:
        """One pod after the other, as with maxUnavailable 0; pods of a broken release never become ready."""
        time.sleep(self.pod_s)
        broken = self.env.get("TRIMTAB_PRELOAD") in self.broken
        self.touch(observedGeneration=generation, updatedReplicas=0, replicas=self.replicas, conditions=[])
        for pod in range(1, self.replicas + 1):
            time.sleep(self.pod_s)
            if self.generation != generation:
                return
            self.touch(updatedReplicas=pod, replicas=self.replicas + 1, availableReplicas=self.replicas)
            if broken:
                time.sleep(self.deadline_s)
                if self.generation == generation:
                    self.give_up()
                return
        self.touch(replicas=self.replicas)

    def kubeconfig(self, folder: Path) -> Path:
        """The file by which clients find it."""
        told = {
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{self.port}"}}],
            "users": [{"name": "deploy", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "deploy"}}],
        }  # fmt: skip
        path = folder / "kubeconfig"
        path.write_text(json.dumps(told))
        return path


def failure(code: int, reason: str, message: str, *, causes: list[dict[str, str]] | None = None) -> dict[str, Any]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message,
            "details": {"causes": causes or []}}  # fmt: skip


class Handler(BaseHTTPRequestHandler):
    """Answers as the API server does, for the *cluster* that `running` gives it."""

    protocol_version = "HTTP/1.1"
    cluster: Cluster

    def log_message(self, *_: Any) -> None:
        """Tests are told by what they see."""

    def do_GET(self) -> None:
        where = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(where.query).items()}
        if self._troubled():
            return
        if where.path == PATH and asked.get("watch") == "True":
            self._watch(asked)
        elif where.path == f"{PATH}/{NAME}":
            self._say(200, self.cluster.deployment())
        else:
            self._say(404, failure(404, "NotFound", f"{where.path} not found"))

    def do_PATCH(self) -> None:
        where = urlsplit(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self._troubled():
            return
        assert self.headers["Content-Type"] == "application/apply-patch+yaml"
        self._say(*self.cluster.apply(body, parse_qs(where.query)["fieldManager"][0]))

    def _troubled(self) -> bool:
        self.cluster.requests.append((self.command, self.path))
        if self.headers["Authorization"] != f"Bearer {TOKEN}":
            self._say(401, failure(401, "Unauthorized", "Unauthorized"))
            return True
        trouble = self.cluster.troubles.pop(0) if self.cluster.troubles else None
        if trouble == "cut":
            self.close_connection = True
            self.connection.close()
        elif isinstance(trouble, int):
            self._say(trouble, failure(trouble, "Trouble", f"no: {trouble}"))
        return trouble is not None

    def _watch(self, asked: dict[str, str]) -> None:
        cluster = self.cluster
        cluster.watches += 1
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        deadline, seen = time.monotonic() + float(asked["timeoutSeconds"]), int(asked["resourceVersion"])
        with cluster.changed:
            while not cluster.watch_ends and cluster.version == seen and time.monotonic() < deadline:
                cluster.changed.wait(0.2)
            changed = cluster.version != seen and not cluster.watch_ends
            event = json.dumps({"type": "MODIFIED", "object": cluster.deployment()}).encode() + b"\n"
        if changed:
            self.wfile.write(b"%x\r\n%s\r\n" % (len(event), event))
        self.wfile.write(b"0\r\n\r\n")

    def _say(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def running(cluster: Cluster) -> Iterator[Cluster]:
    """The API server, until the end of the block."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"cluster": cluster}))
    server.daemon_threads = True
    cluster.port = server.server_port
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield cluster
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
