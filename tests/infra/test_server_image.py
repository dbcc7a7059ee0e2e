"""The server's image: small, closed, and with everything in it that answering needs, after all that was pruned."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest
from sklearn.neighbors import KNeighborsClassifier

from tests.infra.containers import HARDENED, build, docker, engine, running
from tests.ports import free_ports
from tests.serving.conftest import ServerHome
from tests.serving.sample_project import flights
from tests.trimtab import sample_rows
from tests.waiting import eventually
from trimtab.data.features import describe
from trimtab.model.pipeline import build_pipeline

pytestmark = pytest.mark.docker
MAX_MB = 320
KEY = "a-key-for-this-test-only"
STREAM = "application/vnd.apache.arrow.stream"
MODELS = {
    "tables": ("hist_gradient_boosting", {"max_iter": 5}),
    "linear": ("logistic_regression", {}),
    "treelite": ("random_forest", {"n_estimators": 5}),
    "scikit-learn": (None, {}),
}


@pytest.fixture(scope="module")
def facts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The image, built."""
    engine()
    folder = tmp_path_factory.mktemp("images")
    return {**build("server", into=folder)["images"]["server"], "folder": folder}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, facts: dict[str, Any]) -> Iterator[ServerHome]:
    """A state folder with a release for each way to ask a model, and a container that serves from it."""
    (port,) = free_ports(1)
    there = ServerHome(tmp_path_factory.mktemp("state"), port)
    there.digests = {way: there.release(model=_model(way), version=i).digest for i, way in enumerate(MODELS, 1)}  # type: ignore[attr-defined]
    there.go_live(there.digests["tables"])  # type: ignore[attr-defined]
    for path in (there.home, *there.home.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    home = "/srv/trimtab/state"
    env = {"TRIMTAB_LEDGER_URL": f"sqlite:///{home}/ledger.db", "TRIMTAB_ADMIN_KEYS": KEY,
           "TRIMTAB_COMPACT_S": "1", "TRIMTAB_SEGMENT_S": "1", "ARROW_DEFAULT_MEMORY_POOL": "system"}  # fmt: skip
    options = (*HARDENED, "--volume", f"{there.home}:{home}", "--publish", f"127.0.0.1:{port}:8000")
    started = time.monotonic()
    with running(facts["tag"], *options, env=env) as name:
        there.container = name  # type: ignore[attr-defined]
        eventually(
            lambda: there.get("/ready")[0] == 200, "the server is ready", within_s=90, said=lambda: docker("logs", name)
        )
        there.started_s = time.monotonic() - started  # type: ignore[attr-defined]
        yield there


def test_it_is_at_most_320_mb_above_its_base(facts: dict[str, Any]) -> None:
    assert facts["bytes_above_base"] / 1e6 <= MAX_MB


def test_its_labels_name_commit_lock_and_bill_of_materials(facts: dict[str, Any]) -> None:
    labels = json.loads(docker("image", "inspect", "--format", "{{json .Config.Labels}}", facts["tag"]))
    assert len(labels["org.opencontainers.image.revision"].removesuffix("-dirty")) == 40
    assert labels["trimtab.lock"].startswith("sha256:")
    assert labels["trimtab.sbom"].startswith("trimtab-server.cdx.json@sha256:")


def test_its_bill_of_materials_lists_python_and_debian_packages(facts: dict[str, Any]) -> None:
    sbom = json.loads((facts["folder"] / "trimtab-server.cdx.json").read_text())
    purls = {component["purl"].partition("?")[0] for component in sbom["components"] if "purl" in component}
    assert sbom["bomFormat"] == "CycloneDX"
    assert any(purl.startswith("pkg:pypi/scikit-learn@") for purl in purls)
    assert any(purl.startswith("pkg:deb/debian/libc6@") for purl in purls)
    assert not any("prefect" in purl or "mlflow" in purl or "evidently" in purl for purl in purls)


def test_it_runs_as_nobody_in_particular_from_a_file_system_that_is_read_only(place: ServerHome) -> None:
    name = place.container  # type: ignore[attr-defined]
    assert docker("exec", name, "python", "-c", "import os; print(os.getuid())").strip() == "10001"
    write = "import pathlib; pathlib.Path('/srv/code/x').write_text('')"
    assert "Read-only" in docker("exec", name, "python", "-c", f"try:\n {write}\nexcept OSError as e: print(e)")


def test_no_tests_caches_or_history_are_in_it(facts: dict[str, Any]) -> None:
    look = (
        "import pathlib as p; print([str(f) for d in ('/srv', '/opt', '/root', '/var/lib/apt/lists', '/var/cache/apt') "
        "for f in p.Path(d).rglob('*') if f.name in {'tests', '.git', '.cache', '.env'} or f.suffix == '.deb'])"
    )
    assert docker("run", "--rm", "--user", "0", "--entrypoint", "python", facts["tag"], "-c", look).strip() == "[]"


@pytest.mark.parametrize("way", MODELS)
def test_it_answers_by_each_way_to_ask_a_model(place: ServerHome, way: str) -> None:
    place.go_live(place.digests[way])  # type: ignore[attr-defined]
    place.wait(lambda: _metric(place, f'backend="{way}"'), f"{way} is live")
    rows = flights(20, seed=3).drop(columns="late")
    text = rows.assign(scheduled=rows["scheduled"].dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
    objects = text.astype(object).where(text.notna(), None).to_dict("records")
    status, answer = place.post("/predict", {"rows": objects}, {"X-API-Key": KEY})
    assert status == 200, answer
    assert answer["release"] == place.digests[way]  # type: ignore[attr-defined]
    found = _by_arrow(place, rows)
    assert found["probability"].tolist() == pytest.approx([p["probability"] for p in answer["predictions"]], abs=1e-12)


def test_telemetry_is_compacted(place: ServerHome) -> None:
    place.wait(lambda: list(place.telemetry.rglob("*.parquet")), "a part", within_s=30)
    assert place.get("/ready", {"X-API-Key": KEY})[1]["compaction"] == "ok"


def test_without_a_key_nothing_but_health_is_told(place: ServerHome) -> None:
    assert place.post("/predict", {"rows": []})[0] == 401
    assert place.get("/health")[0] == 200


def test_its_health_is_found_by_the_engine(place: ServerHome) -> None:
    name = place.container  # type: ignore[attr-defined]

    def health() -> str:
        return docker("inspect", "--format", "{{.State.Health.Status}}", name).strip()

    eventually(lambda: health() != "starting", "its first check", within_s=90)
    assert health() == "healthy"


def test_it_says_what_is_missing_and_ends_with_2(facts: dict[str, Any]) -> None:
    with running(facts["tag"], *HARDENED, env={"TRIMTAB_LEDGER_URL": "sqlite:////dev/shm/x.db"}) as name:
        assert docker("wait", name).strip() == "2"
        assert "TRIMTAB_ADMIN_KEYS" in docker("logs", name)


def test_it_stops_when_it_is_told_to(place: ServerHome) -> None:
    name = place.container  # type: ignore[attr-defined]
    started = time.monotonic()
    docker("stop", "--time", "30", name)
    assert time.monotonic() - started < 20
    assert docker("inspect", "--format", "{{.State.ExitCode}}", name).strip() == "0"


def _model(way: str) -> Any:
    name, options = MODELS[way]
    rows = flights()
    features = describe(rows, number=["distance", "hour"], category=["carrier"])
    params = sample_rows.params(train={"model": name or "logistic_regression", "params": options})
    pipeline = build_pipeline(params, features, Path())
    if name is None:
        pipeline.steps[-1] = ("knn", KNeighborsClassifier(3))
    return pipeline


def _metric(place: ServerHome, label: str) -> bool:
    return any(label in line and "live_release{" in line for line in str(place.get("/metrics")[1]).splitlines())


def _by_arrow(place: ServerHome, rows: pd.DataFrame) -> pd.DataFrame:
    sink = io.BytesIO()
    table = pa.Table.from_pandas(rows)
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    import urllib.request

    headers = {"Content-Type": STREAM, "Accept": STREAM, "X-API-Key": KEY}
    request = urllib.request.Request(f"http://127.0.0.1:{place.port}/predict", sink.getvalue(), headers)
    with urllib.request.urlopen(request, timeout=20) as answer:
        found: pd.DataFrame = pa.ipc.open_stream(answer.read()).read_all().to_pandas()
    return found
