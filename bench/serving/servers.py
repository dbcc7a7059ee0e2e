"""The servers that are compared: how each is started, asked and understood. Settings of the peers are argued for in
docs/benchmarks.md."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from bench.serving.load import Target
from bench.serving.material import CHECKED_ROWS, ROOT, SCRATCH, Material
from bench.serving.processes import DidNotRun, free_port, running

TOLERANCE = 1e-9
SLICES = {"origin": 0.02, "carrier": 0.05}  # columns that are recorded beside the predictions of both
_BIN = Path(sys.executable).parent
_QUIET = {"OMP_WAIT_POLICY": "passive", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}


@dataclass(frozen=True)
class Server:
    """How to start one on a port, where it says that it is ready, where it predicts, and what its answer to one row
    means: the probability, or None for a server that knows of none."""

    name: str
    command: Callable[[int], Sequence[str]]
    ready: str
    predict: str
    bodies: str
    probability: Callable[[Any], float] | None
    env: Callable[[int], Mapping[str, str]] = field(default=lambda _: {})


@dataclass(frozen=True)
class Running:
    """A server that answers."""

    process: psutil.Process
    url: str
    target: Target


@contextmanager
def serving(server: Server, material: Material) -> Iterator[Running]:
    """*server* while the block runs, once it has given the pipeline's own answers. Raises DidNotRun."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    log = SCRATCH / "logs" / f"{server.name}.log"
    path = f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"
    with running(
        server.name, server.command(port), ready=url + server.ready, log=log, cwd=ROOT,
        env={**_QUIET, "PATH": path, **server.env(port)},
    ) as process:  # fmt: skip
        target = Target(url + server.predict, material.bodies(server.bodies))
        if server.probability is not None:
            _check(server.name, target, material, server.bodies, server.probability)
        yield Running(process, url, target)


def _check(name: str, target: Target, material: Material, bodies: str, probability: Callable[[Any], float]) -> None:
    """Raise DidNotRun unless the server answers as the pipeline does."""
    given = [probability(json.loads(post(target.url, body))) for body in material.first_bodies(bodies)]
    worst = max(abs(a - b) for a, b in zip(given, material.expected, strict=True))
    if not worst <= TOLERANCE:
        raise DidNotRun(f"{name} differs from the pipeline by {worst:g} in {CHECKED_ROWS} rows")


def post(url: str, body: bytes, content_type: str = "application/json") -> bytes:
    """The body of the answer. Raises DidNotRun when it is none."""
    request = urllib.request.Request(url, body, {"content-type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise DidNotRun(f"{url} answered {error.code}: {error.read()[:500]!r}") from error


def floor() -> Server:
    """An empty application on the same HTTP server as ours, asked with our bodies."""
    return Server(
        name="floor",
        command=lambda port: (sys.executable, "-m", "bench.serving.floor", str(port)),
        ready="/",
        predict="/predict",
        bodies="trimtab",
        probability=None,
    )


def trimtab(home: Path, name: str = "trimtab") -> Server:
    """Our model server, as the stack starts it, on a state folder that `state` made."""
    return Server(
        name=name,
        command=lambda _: (sys.executable, "-m", "serving"),
        ready="/ready",
        predict="/predict",
        bodies="trimtab",
        probability=lambda answer: float(answer["predictions"][0]["probability"]),
        env=lambda port: {
            "TRIMTAB_PROJECT": str(ROOT),
            "TRIMTAB_HOME": str(home),
            "TRIMTAB_HOST": "127.0.0.1",
            "TRIMTAB_SERVER_PORT": str(port),
            "TRIMTAB_LEDGER_URL": f"sqlite:///{home}/ledger.db",
            "PYTHONPATH": str(ROOT),
            "ARROW_DEFAULT_MEMORY_POOL": "system",
        },
    )


@contextmanager
def state(material: Material, *, shadow: bool) -> Iterator[Path]:
    """A fresh state folder with both releases and a ledger in which the champion is live, alone or with the challenger
    in its shadow."""
    from stores.bundles import open_bundle
    from stores.ledger import Ledger

    SCRATCH.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="home-", dir=SCRATCH))
    try:
        shutil.copytree(material.releases, home / "releases")
        ledger = Ledger(f"sqlite:///{home}/ledger.db")
        ledger.create()
        for digest in (material.champion, material.challenger):
            manifest = open_bundle(home / "releases", digest).manifest
            ledger.record_release(
                digest, model_name=manifest.model_name, model_version=manifest.model_version,
                run_id=manifest.run_id, manifest=manifest.model_dump(mode="json"),
            )  # fmt: skip
        switch = partial(ledger.switch, material.champion, reason="measured", actor="bench")
        switch(expected=0, move="promote")
        if shadow:
            ledger.start_rollout(
                "bench", release=material.challenger, champion_before=material.champion, strategy="shadow",
                cause="bench", terms={"slices": SLICES},
            )  # fmt: skip
            switch(expected=1, move="shadow", challenger=material.challenger, challenger_share=0.0, rollout="bench")
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
