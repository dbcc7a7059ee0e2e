"""Prometheus and Alertmanager with the configuration that infra ships, made quick, and a receiver of their messages."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.waiting import eventually

INFRA = Path(__file__).resolve().parents[2] / "infra"
PACKAGES = {
    "promtool": "prometheus", "prometheus": "prometheus", "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
}  # fmt: skip


def needed(program: str) -> str:
    """The path of a program from Debian's packages. Without it the test is skipped, and in CI it fails."""
    found = shutil.which(program)
    if found is None:
        why = f"there is no {program}: apt-get install {PACKAGES[program]}"
        if os.environ.get("CI") == "true":
            pytest.fail(why)
        pytest.skip(why)
    return found


@dataclass
class Watched:
    """A running pair, and what arrived by receiver."""

    prometheus: str
    alertmanager: str
    arrived: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"pager": [], "tickets": []})

    def alerts(self, receiver: str, status: str) -> set[str]:
        """Names of the alerts that came to *receiver* in that *status*."""
        messages = list(self.arrived[receiver])
        return {
            alert["labels"]["alertname"] for m in messages for alert in m["alerts"] if alert["status"] == status
        }  # fmt: skip

    def raised(self) -> dict[str, str]:
        """What Alertmanager holds: names, and whether they are active or suppressed."""
        found = _read(f"{self.alertmanager}/api/v2/alerts")
        return {alert["labels"]["alertname"]: alert["status"]["state"] for alert in found}

    def raise_by_hand(self, *alerts: dict[str, str]) -> None:
        """Give Alertmanager alerts with these labels."""
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = urllib.request.Request(
            f"{self.alertmanager}/api/v2/alerts", body, {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert answer.status == 200


@contextmanager
def watching(folder: Path, ports: Sequence[int], server_port: int, exporter_port: int) -> Iterator[Watched]:
    """Watch a model server and an exporter every second; alerts come after one second instead of minutes."""
    prometheus_port, alertmanager_port, receiver_port = ports
    programs = needed("prometheus"), needed("prometheus-alertmanager")
    _configure(folder, ports, server_port, exporter_port)
    watched = Watched(f"http://127.0.0.1:{prometheus_port}", f"http://127.0.0.1:{alertmanager_port}")
    receiver = _receiver(receiver_port, watched.arrived)
    commands = [
        [
            programs[0], f"--config.file={folder}/prometheus.yaml", f"--storage.tsdb.path={folder}/metrics",
            f"--web.listen-address=127.0.0.1:{prometheus_port}",
        ],
        [
            programs[1], f"--config.file={folder}/alertmanager.yaml", f"--storage.path={folder}/alerts",
            f"--web.listen-address=127.0.0.1:{alertmanager_port}", "--cluster.listen-address=",
        ],
    ]  # fmt: skip
    started = []
    try:
        for command in commands:
            log = (folder / f"{Path(command[0]).name}.log").open("wb")
            started.append(subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True))
        eventually(lambda: _answers(f"{watched.prometheus}/-/ready"), "Prometheus")
        eventually(lambda: _answers(f"{watched.alertmanager}/-/ready"), "Alertmanager")
        yield watched
    finally:
        for process in started:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        receiver.shutdown()
        receiver.server_close()


def _configure(folder: Path, ports: Sequence[int], server_port: int, exporter_port: int) -> None:
    """What infra ships, with other ports and shorter times. Debian's Alertmanager reads no address from a file yet."""
    for name in ("alerts.yaml", "loop.yaml"):
        rules = (INFRA / "prometheus" / name).read_text()
        (folder / name).write_text(re.sub(r"for: \d+[mh]", "for: 1s", rules))
    config = (INFRA / "prometheus" / "prometheus.yaml").read_text()
    for shipped, ours in ((9093, ports[1]), (8000, server_port), (9464, exporter_port)):
        assert f"127.0.0.1:{shipped}" in config
        config = config.replace(f"127.0.0.1:{shipped}", f"127.0.0.1:{ours}")
    (folder / "prometheus.yaml").write_text(re.sub(r"interval: \d+s", "interval: 1s", config))
    routes = (INFRA / "alertmanager" / "alertmanager.yaml").read_text()
    routes = re.sub(r"url_file: (\w+)\.url", rf"url: 'http://127.0.0.1:{ports[2]}/\1'", routes)
    routes = re.sub(r"group_wait: \d+s", "group_wait: 0s", routes)
    (folder / "alertmanager.yaml").write_text(re.sub(r"group_interval: \d+m", "group_interval: 1s", routes))


def _receiver(port: int, arrived: dict[str, list[dict[str, Any]]]) -> ThreadingHTTPServer:
    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            arrived[self.path.strip("/")].append(json.loads(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", port), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


def _answers(url: str) -> bool:
    with urllib.request.urlopen(url, timeout=2) as answer:
        return bool(answer.status == 200)


def _read(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=5) as answer:
        return json.loads(answer.read())
