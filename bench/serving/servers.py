"""The servers that are compared: how each is started, asked and understood. Settings of the peers are argued for in
docs/design/benchmarks.md."""

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

from bench.serving.environment import PEERS
from bench.serving.load import Target
from bench.serving.material import ARROW, ROOT, SCRATCH, Material
from bench.serving.processes import DidNotRun, free_port, running

TOLERANCE = 1e-9
SLICES = {"origin": 0.02, "carrier": 0.05}  # columns that are recorded beside the predictions of both
_BIN = Path(sys.executable).parent
_QUIET = {"OMP_WAIT_POLICY": "passive", "DO_NOT_TRACK": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
# Ours sets this for itself. Without it threads of one-row calls fight for the cores: half the requests/s for both.
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}


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
    env = {**clean_environment(), **server.env(port)}
    with running(server.name, server.command(port), ready=url + server.ready, log=log, cwd=ROOT, env=env) as process:
        target = Target(url + server.predict, material.bodies(server.bodies))
        if server.probability is not None:
            given = [server.probability(json.loads(post(target, body))) for body in material.checked(server.bodies)]
            _hold(server.name, given, material.expected)
        yield Running(process, url, target)


def clean_environment() -> dict[str, str]:
    """This process's variables without those that would change what is measured."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("TRIMTAB_", "OMP_", "MLFLOW_", "BENTOML_"))}
    return {**kept, **_QUIET, "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}"}


def check_bulk(target: Target, material: Material, form: str) -> None:
    """Raise DidNotRun unless a whole large request is answered as the pipeline does."""
    answer = post(target, next(material.read(form)))
    if target.accept == ARROW:
        import pyarrow as pa

        given = pa.ipc.open_stream(answer).read_all()["probability"].to_pylist()
    else:
        given = [prediction["probability"] for prediction in json.loads(answer)["predictions"]]
    _hold(form, given, material.bulk_expected())


def _hold(name: str, given: Sequence[float], expected: Sequence[float]) -> None:
    if len(given) != len(expected):
        raise DidNotRun(f"{name} gave {len(given)} answers to {len(expected)} rows")
    worst = max(abs(a - b) for a, b in zip(given, expected, strict=True))
    if not worst <= TOLERANCE:
        raise DidNotRun(f"{name} differs from the pipeline by {worst:g} in {len(expected)} rows")


def post(target: Target, body: bytes) -> bytes:
    """The body of the answer. Raises DidNotRun when it is none."""
    request = urllib.request.Request(target.url, body, {"content-type": target.content_type, "accept": target.accept})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        raise DidNotRun(f"{target.url} answered {error.code}: {error.read()[:300]!r}") from error


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


def mlflow(material: Material) -> Server:
    """`mlflow models serve`, which starts one uvicorn process."""
    model = ("models", "serve", "--model-uri", str(material.folder / "mlflow"), "--env-manager", "local")
    return Server(
        name="mlflow",
        command=lambda port: (str(_BIN / "mlflow"), *model, "--host", "127.0.0.1", "--port", str(port)),
        ready="/ping",
        predict="/invocations",
        bodies="mlflow",
        probability=lambda answer: float(answer["predictions"][0][1]),
        env=lambda _: _ONE_THREAD,
    )


def bentoml(material: Material, programs: Path) -> Server:
    """BentoML with adaptive batching, one process, from the environment whose *programs* are given."""
    serve = (str(programs / "bentoml"), "serve", "service:Flights", "--working-dir", str(PEERS))
    return Server(
        name="bentoml",
        command=lambda port: (*serve, "--host", "127.0.0.1", "--port", str(port)),
        ready="/readyz",
        predict="/predict",
        bodies="bentoml",
        probability=lambda answer: float(answer[0]),
        env=lambda _: {
            **_ONE_THREAD,
            "BENTOML_HOME": str(SCRATCH / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
            "BENCH_MODEL": str(material.pipeline),
            "BENCH_SCHEMA": str(material.pipeline.with_name("schema.json")),
            "PATH": f"{programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONDONTWRITEBYTECODE": "1",
        },
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
    from stores.ledger import Ledger
    from stores.ledger.migrations import migrate
    from stores.releases.bundle import open_bundle

    SCRATCH.mkdir(parents=True, exist_ok=True)
    home = Path(tempfile.mkdtemp(prefix="home-", dir=SCRATCH))
    try:
        shutil.copytree(material.releases, home / "releases")
        ledger = Ledger(f"sqlite:///{home}/ledger.db")
        migrate(ledger)
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
                cause="bench", policy={"slices": SLICES},
            )  # fmt: skip
            switch(expected=1, move="shadow", challenger=material.challenger, challenger_share=0.0, rollout="bench")
        yield home
    finally:
        shutil.rmtree(home, ignore_errors=True)
