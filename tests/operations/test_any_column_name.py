"""Column names may have any characters: params, schema, training, MLflow, slices, monitoring, telemetry and pages."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from operations import evaluation, monitoring
from operations.context import ProjectContext
from stores import telemetry
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from stores.releases import backend
from stores.releases.backend import load_scorer
from stores.releases.store import ReleaseStore
from tasks import orchestrator, plots, reports, tracking
from tests.trimtab import sample_rows
from trimtab.config import params as config
from trimtab.config.params import Params
from trimtab.config.settings import Settings
from trimtab.data import schema
from trimtab.data.features import columns_of
from trimtab.data.periods import Period
from trimtab.data.schema import Schema
from trimtab.data.types import RESERVED_NAMES
from trimtab.evaluation.monitoring import Facts, find_violations
from trimtab.model import candidate as artifacts
from trimtab.model import training
from trimtab.model.release import BACKEND, CARD, MODEL, REFERENCE
from trimtab.requests.parser import RowParser

NAMES = [
    "price (€)", "50%", "a[0]", "Category (L1)", "a//b", "..", "größe", "価格", "a:b", "😀", "cost in $ or $",
    r"$\frac$", "a|b", "<b>bold</b>", "'; DROP TABLE x; --", '"', "`", "a\nb", "{x}", "%s", "NO", "1e3", "~", "  ",
    "x" * 200, "#",
]  # fmt: skip
NUMBERS = NAMES[::2]
CATEGORIES = NAMES[1::2]
any_name = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=160)


def project(task: str = "binary") -> Params:
    return sample_rows.params(
        project={"task": task}, train={"holdout": "10d", "params": {"max_iter": 5}},
        columns={"key": CATEGORIES[0], "number": NUMBERS, "category": CATEGORIES},
        gate={"metric": sample_rows.METRIC[task], "slices": dict.fromkeys(CATEGORIES, 0.5)}, monitor={"min_rows": 50},
    )  # fmt: skip


def table(task: str, size: int = 500) -> pd.DataFrame:
    rows, random = sample_rows.rows(size, task=task), np.random.default_rng(0)
    extra: dict[str, Any] = {name: random.normal(size=size) for name in NUMBERS}
    extra |= {name: random.choice(["a", "b", "価"], size) for name in CATEGORIES}
    extra[NUMBERS[0]] = rows["strong"]
    return pd.concat([rows[["row", "at", "late"]], pd.DataFrame(extra)], axis=1)


@settings(max_examples=200, deadline=None)
@given(st.lists(any_name, min_size=1, max_size=4, unique=True))
def test_params_and_schema_keep_any_name(names: list[str]) -> None:
    if ({"late", "at", "row"} | RESERVED_NAMES) & set(names):
        return
    given = sample_rows.params(columns={"key": None, "number": [], "category": names}, gate={"slices": {names[0]: 0.1}})
    with TemporaryDirectory() as folder:
        text = yaml.safe_dump(given.model_dump(mode="json", by_alias=True))
        (Path(folder) / "params.yaml").write_text(text, encoding="utf-8")
        assert config.load(Path(folder)).columns.category == tuple(names)
    rows = sample_rows.rows(30).assign(**dict.fromkeys(names, "a"))
    inferred = schema.infer_schema(rows, given)
    assert Schema.loads(inferred.dumps()) == inferred


@settings(max_examples=60, deadline=None)
@given(st.lists(any_name, min_size=2, max_size=5, unique=True))
def test_telemetry_keeps_any_name(names: list[str]) -> None:
    taken = {"prediction_id", "time", "received_at", "release", "arm", "rollout", "propensity", "prediction",
             "predicted_label", "probabilities"}  # fmt: skip
    if taken & set(names):
        return
    with TemporaryDirectory() as folder:
        recorder = telemetry.Recorder(Path(folder))
        recorder.predictions(
            release="r", arm="champion", received_us=0, times_us=[1, 2], numbers={names[0]: np.array([1.0, 2.0])},
            texts={name: ["a", None] for name in names[1:]}, prediction=np.array([0.1, 0.2]),
        )  # fmt: skip
        recorder.close()
        telemetry.compact(Path(folder))
        found = telemetry.predictions(telemetry.open_telemetry(Path(folder), None))
    assert found[names[0]].tolist() == [1.0, 2.0]
    assert all(found[name].iloc[0] == "a" for name in names[1:])


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_a_model_with_any_names_goes_all_the_way(
    task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Training, MLflow, gate with slices, release, a request, monitoring, and every page; nothing is left to a note."""
    monkeypatch.chdir(tmp_path)
    shown: list[str] = []
    monkeypatch.setattr(orchestrator, "create_markdown_artifact", lambda text, **_: shown.append(text))
    monkeypatch.setattr(orchestrator, "create_link_artifact", lambda *_, **__: None)
    monkeypatch.setattr(ProjectContext, "tracking", uri := f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.setattr(evaluation, "report_performance", reports.performance_report)
    monkeypatch.setattr(monitoring, "measure_drift", reports.drift_report)
    monkeypatch.setattr(monitoring, "log_monitoring", tracking.log_monitoring)
    params, rows = project(task), table(task)
    ledger = Ledger(f"sqlite:///{tmp_path / 'ledger.db'}")
    migrate(ledger)
    ctx = ProjectContext(Settings(project=tmp_path, home=tmp_path), params, ledger)
    rules = Schema.loads(schema.infer_schema(rows, params).dumps())
    assert schema.validate_batch(
        rows[rows["at"] < "2013-02"], rules, params, Period.parse("2013-01", "month")
    ).bad.empty

    parts = training.split(rows, params, params.first_train)
    fitted = training.fit_candidate(params, rules, parts, tmp_path)
    record, files = artifacts.build_artifacts(fitted, parts, params, params.first_train, dataset="d" * 32, lineage={})
    truth = training.labels_of(parts.holdout, params)
    pictures = plots.candidate_plots(truth, fitted.scorer.score(parts.holdout), fitted.importances)
    run = tracking.log_candidate(
        uri, record=record, candidate=fitted, parts=parts, files=files, plots=pictures, flow_run=None
    )
    found = tracking.fetch_candidate(uri, run, cache=tmp_path / "cache")
    fields = artifacts.manifest_fields(found.record, model_name="small", model_version=1, run_id=run)
    card = artifacts.model_card(found.record, name="small", version=1, verdict="v")
    verified = backend.backend_file(model=files[MODEL], reference=files[REFERENCE], fields=fields)
    assert b"gives the answers of scikit-learn" in verified
    bundled = {name: content for name, content in files.items() if name != artifacts.CANDIDATE_FILE}
    release = ReleaseStore(tmp_path / "releases").put(
        manifest_fields=fields, files={**bundled, BACKEND: verified, CARD: card.encode()}
    )

    monkeypatch.setattr(evaluation, "fresh_rows", lambda *_: parts.holdout)
    monkeypatch.setattr(evaluation, "live_role", lambda *_: None)
    result, page = evaluation.compare(ctx, found, release, None)
    assert page is not None
    assert {part.column for part in result.slices} == set(CATEGORIES)
    evaluation.show(ctx, run, result)

    sent = RowParser(record.features, record.columns).read(
        [{name: "a" if name in CATEGORIES else 1.0 for name in NAMES}], now_us=0
    )
    assert load_scorer(release).score_rows(sent).size == 1

    answers = parts.holdout.assign(prediction=fitted.scorer.score(parts.holdout).prediction, label=None)
    facts, drift = monitoring.measure(ctx, release, answers, Period.parse("2013-02", "month"))
    assert drift is not None
    assert facts.distances.keys() == set(NAMES)
    assert set(columns_of(answers, record.features)) == set(NAMES)
    find_violations(Facts.model_validate(facts.model_dump()), params.monitor)
    decision = monitoring.decide(ctx, facts, Period.parse("2013-02", "month"))
    monitoring.publish(ctx, decision, drift)
    reports.summary_report(rows, numbers=params.columns.number, categories=params.columns.category, period="2013-02")
    assert "Note:" not in capsys.readouterr().out
    for text in [*shown, card]:
        tables = [line for line in text.splitlines() if line.startswith("|")]
        assert all(line.endswith("|") for line in tables), "a name breaks a table"
