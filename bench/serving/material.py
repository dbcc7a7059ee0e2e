"""What all servers are measured with: one pipeline, fitted once by our own code on January and February, as a release
and as an MLflow model; rows of later months as request bodies; and what the pipeline itself says of some.

Kept under .trimtab/bench and made again when the code or the params that made it change.

    python -m bench.serving.material
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    import pandas as pd

    from trimtab.config.params import Params
    from trimtab.model.training import Candidate, Split

ROOT = Path(__file__).resolve().parents[2]
SCRATCH = ROOT / ".trimtab" / "bench"
ARROW = "application/vnd.apache.arrow.stream"
ROWS, CHECKED_ROWS = 4096, 20
BULK_ROWS, BULK_BODIES = 10_000, 4
_MADE_BY = (
    *(
        "params.yaml",
        "schema.yaml",
        "requirements.lock",
        "sources/*.py",
        "stores/releases/bundle.py",
        "bench/serving/material.py",
    ),
    *(
        f"trimtab/{name}.py"
        for name in (
            "model/training",
            "model/candidate",
            "model/release",
            "model/scoring",
            "data/features",
            "predictors/compile",
            "config/params",
        )
    ),
)


@dataclass(frozen=True)
class Material:
    """A folder of it. *champion* and *challenger* are digests of releases in `releases`; *expected* are the pipeline's
    probabilities of the first CHECKED_ROWS bodies."""

    folder: Path
    champion: str
    challenger: str
    expected: tuple[float, ...]

    @property
    def releases(self) -> Path:
        """Release bundles of both."""
        return self.folder / "releases"

    @property
    def pipeline(self) -> Path:
        """The champion's fitted pipeline, as skops saved it."""
        return self.releases / self.champion / "model.skops"

    def bodies(self, form: str) -> Path:
        """The file of request bodies in a form: trimtab, mlflow and bentoml have one row, bulk-json and bulk-arrow
        BULK_ROWS; each with its length before it."""
        return self.folder / f"{form}.bodies"

    def read(self, form: str) -> Iterator[bytes]:
        """The bodies of a form, one after another."""
        with self.bodies(form).open("rb") as file:
            while length := file.read(11):
                yield file.read(int(length))

    def checked(self, form: str) -> Iterator[bytes]:
        """The one-row bodies that *expected* is about."""
        return islice(self.read(form), CHECKED_ROWS)

    def bulk_expected(self) -> list[float]:
        """The pipeline's probabilities of the first large body."""
        return list(json.loads((self.folder / "bulk-expected.json").read_text()))


def ready() -> Material:
    """The material, made now if there is none for this code."""
    folder = SCRATCH / f"material-{_fingerprint()}"
    if not (folder / "facts.json").exists():
        print("making what is measured with: a quarter of a minute", flush=True)
        for old in SCRATCH.glob("material-*"):
            shutil.rmtree(old)
        _make(folder.with_suffix(".new"))
        folder.with_suffix(".new").rename(folder)
    facts = json.loads((folder / "facts.json").read_text())
    return Material(folder, facts["champion"], facts["challenger"], tuple(facts["expected"]))


def _fingerprint() -> str:
    hashed = hashlib.sha256()
    for path in sorted({p for pattern in _MADE_BY for p in ROOT.glob(pattern)}):
        hashed.update(path.read_bytes())
    return hashed.hexdigest()[:16]


def _make(folder: Path) -> None:
    import pandas as pd

    from deployments.replay.baselines import accepted_rows
    from trimtab.config import params
    from trimtab.data.features import frame
    from trimtab.data.periods import span
    from trimtab.data.schema import Schema
    from trimtab.model import training

    settings, rules = params.load(ROOT), Schema.loads((ROOT / "schema.yaml").read_text())
    last = settings.first_train
    fetched = partial(accepted_rows, ROOT, settings, rules)
    parts = training.split(pd.concat(map(fetched, span(settings.first, last)), ignore_index=True), settings, last)
    later = pd.concat([fetched(last.shift(1)), fetched(last.shift(2))], ignore_index=True)
    fitted = training.fit_candidate(settings, rules, parts, ROOT)
    other_seed = settings.model_copy(update={"train": settings.train.model_copy(update={"seed": 1})})
    other = training.fit_candidate(other_seed, rules, parts, ROOT)
    digests = {
        "champion": _release(folder, fitted, parts, settings, version=1),
        "challenger": _release(folder, other, parts, other_seed, version=2),
    }
    features = fitted.scorer.features
    rows = later.sample(ROWS, random_state=0)
    _one_row_bodies(folder, rows, settings)
    _bulk_bodies(folder, later, settings)
    bulk = frame(later.head(BULK_ROWS * BULK_BODIES), features)
    bulk.to_parquet(folder / "bulk.parquet")
    (folder / "bulk-expected.json").write_text(
        json.dumps(fitted.pipeline.predict_proba(bulk.head(BULK_ROWS))[:, 1].tolist())
    )
    expected = fitted.pipeline.predict_proba(frame(rows.head(CHECKED_ROWS), features))[:, 1].tolist()
    _mlflow_model(folder / "mlflow", fitted, frame(rows.head(3), features))
    (folder / "facts.json").write_text(json.dumps({**digests, "expected": expected}))


def _release(folder: Path, fitted: Candidate, parts: Split, settings: Params, *, version: int) -> str:
    """The candidate as register makes it a release; the digest."""
    from stores.releases import backend, bundle
    from trimtab.model.candidate import CANDIDATE_FILE, build_artifacts, manifest_fields, model_card
    from trimtab.model.release import BACKEND, CARD, MODEL, REFERENCE

    record, files = build_artifacts(fitted, parts, settings, settings.first_train, dataset="bench", lineage={})
    del files[CANDIDATE_FILE]
    card = model_card(record, name=record.project, version=version, verdict="a benchmark's model").encode()
    fields = manifest_fields(record, model_name=record.project, model_version=version, run_id=f"bench-{version}")
    record_file = backend.backend_file(model=files[MODEL], reference=files[REFERENCE], fields=fields)
    contents = {**files, CARD: card, BACKEND: record_file}
    return bundle.write_bundle(folder / "releases", manifest_fields=fields, files=contents).digest


def _one_row_bodies(folder: Path, rows: pd.DataFrame, settings: Params) -> None:
    """One row each. Ours have time, id and key beside the features, as the replay sends them; the others know features
    only."""
    ours = [orjson.dumps({"rows": [row]}) for row in _objects(_sent(rows, settings))]
    features = list(settings.columns.features)
    plain = list(_objects(rows[features]))
    _write(folder / "trimtab.bodies", ours)
    _write(
        folder / "mlflow.bodies",
        (orjson.dumps({"dataframe_split": {"columns": features, "data": [list(row.values())]}}) for row in plain),
    )
    _write(folder / "bentoml.bodies", (orjson.dumps({"rows": [row]}) for row in plain))


def _bulk_bodies(folder: Path, rows: pd.DataFrame, settings: Params) -> None:
    import pyarrow as pa

    tables = [_sent(rows.iloc[i * BULK_ROWS : (i + 1) * BULK_ROWS], settings) for i in range(BULK_BODIES)]
    _write(
        folder / "bulk-json.bodies",
        (orjson.dumps({"columns": {name: table[name].tolist() for name in table}}) for table in tables),
    )

    def arrow(table: pd.DataFrame) -> bytes:
        content = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, content.schema) as stream:
            stream.write_table(content)
        return bytes(sink.getvalue())

    _write(folder / "bulk-arrow.bodies", map(arrow, tables))


def _sent(rows: pd.DataFrame, settings: Params) -> pd.DataFrame:
    """*rows* as a client has them before they happened: features, time, id and key."""
    columns = settings.columns
    names = dict.fromkeys([*columns.features, columns.time, columns.id, *([columns.key] if columns.key else [])])
    return rows[list(names)].assign(**{columns.time: rows[columns.time].dt.strftime("%Y-%m-%dT%H:%M:%S")})


def _objects(rows: pd.DataFrame) -> Iterator[dict[str, Any]]:
    columns: Sequence[list[Any]] = [rows[name].tolist() for name in rows]
    for values in zip(*columns, strict=True):
        yield dict(zip(rows.columns, values, strict=True))


def _write(path: Path, bodies: Iterable[bytes]) -> None:
    with path.open("wb") as file:
        for body in bodies:
            file.write(b"%010d\n" % len(body) + body)


def _mlflow_model(folder: Path, fitted: Candidate, example: pd.DataFrame) -> None:
    """The same pipeline as `mlflow models serve` takes it, with a signature, as our own runs have one."""
    import mlflow
    from mlflow.models import infer_signature

    from stores.releases.bundle import ALLOWED_TYPES

    mlflow.sklearn.save_model(
        fitted.pipeline, str(folder), serialization_format="skops", skops_trusted_types=sorted(ALLOWED_TYPES),
        pyfunc_predict_fn="predict_proba", pip_requirements=["scikit-learn"],
        signature=infer_signature(example, fitted.pipeline.predict_proba(example)),
    )  # fmt: skip


if __name__ == "__main__":
    print(ready().folder)
