"""MLflow on a real store: valid keys for any name, one run for each record, and what people delete comes back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks import tracking
from tasks.tracking import mlflow_runs

NAMES = ["price (€)", "50%", "a[0]", "Category (L1)", "a//b", "..", ".", "größe", "価格", "a:b", "x\n", "😀", "a" * 400]


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tracking store in a folder of its own."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # where MLflow puts artifacts when it has no server
        yield f"sqlite:///{folder / 'mlflow.db'}"


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300), st.text(max_size=300))
def test_any_name_has_a_key_of_its_own_that_mlflow_takes(name: str, other: str) -> None:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.utils import validation

    key = mlflow_runs.entity_key(name)
    check: Any = validation  # which has no types
    check._validate_batch_log_data([Metric(key, 1.0, 0, 0)], [Param(key, "x")], [RunTag(key, "x")])
    assert (mlflow_runs.entity_key(other) == key) == (other == name)


def test_a_plain_name_stays_as_it_is() -> None:
    assert mlflow_runs.entity_key("distance_Große Höhe.x-1") == "distance_Große Höhe.x-1"


def log_decision(uri: str, decision: str, **changes: Any) -> str:
    given: dict[str, Any] = {
        "project": "small", "tags": {"period": "2013-03"}, "measures": {"impact": 0.5}, "facts": {}, "report": None,
    }  # fmt: skip
    return tracking.log_monitoring(uri, decision=decision, **{**given, **changes})


def test_a_decision_is_logged_with_any_and_with_many_columns(uri: str) -> None:
    columns = [*NAMES, *(f"column {i}" for i in range(1200))]
    run = log_decision(uri, "names", measures={f"distance_{name}": 0.5 for name in columns}, report="<html>")
    found = mlflow_runs.connect(uri).get_run(run)
    assert len(found.data.metrics) == len(columns)
    assert found.data.metrics["distance_価格"] == 0.5
    assert found.info.status == "FINISHED"


def test_a_decision_has_one_run_however_often_it_is_logged(uri: str) -> None:
    assert log_decision(uri, "twice") == log_decision(uri, "twice")


def test_of_two_runs_that_were_made_at_once_one_is_left(uri: str) -> None:
    first = log_decision(uri, "at-once")
    client = mlflow_runs.connect(uri)
    experiment = client.get_run(first).info.experiment_id
    tags = {tracking.DECISION: "at-once"}
    second = client.create_run(experiment, tags=tags, start_time=client.get_run(first).info.start_time + 1)
    client.set_terminated(second.info.run_id)
    assert "at-once" in tracking.finished_records(uri, project="small", tag=tracking.DECISION)
    left = client.search_runs([experiment], f"tags.`{tracking.DECISION}` = 'at-once'")
    assert [run.info.run_id for run in left] == [first]


def test_a_run_that_was_deleted_is_restored(uri: str) -> None:
    run, client = log_decision(uri, "deleted"), mlflow_runs.connect(uri)
    client.delete_run(run)
    assert log_decision(uri, "deleted") == run
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_an_experiment_that_was_deleted_is_restored_with_its_runs(uri: str) -> None:
    run, client = log_decision(uri, "kept"), mlflow_runs.connect(uri)
    client.delete_experiment(client.get_run(run).info.experiment_id)
    assert "kept" in tracking.finished_records(uri, project="small", tag=tracking.DECISION)
    client.delete_experiment(client.get_run(run).info.experiment_id)
    log_decision(uri, "after")
    assert client.get_run(run).info.lifecycle_stage == "active"


def test_a_run_that_is_gone_for_good_is_said_to_be_gone(uri: str) -> None:
    assert not tracking.has_candidate(uri, "0" * 32)
    with pytest.raises(LookupError, match="no run"):
        tracking.fetch_candidate(uri, "0" * 32, cache=Path("cache"))


def test_aliases_are_set_moved_and_removed(uri: str) -> None:
    client = mlflow_runs.connect(uri)
    run = client.get_run(log_decision(uri, "with-model")).info
    client.create_registered_model("aliased")
    for _ in range(3):
        client.create_model_version("aliased", f"{run.artifact_uri}/model", run.run_id)

    def aliases(champion: int, challenger: int | None) -> tuple[list[str], dict[str, int]]:
        changed = tracking.sync_aliases(uri, name="aliased", champion=champion, challenger=challenger)
        return changed, {name: int(at) for name, at in client.get_registered_model("aliased").aliases.items()}

    assert aliases(1, 2)[1] == {"champion": 1, "challenger": 2}
    assert aliases(1, 2)[0] == []
    assert aliases(2, None) == (
        ["MLflow's champion is version 2", "MLflow's alias challenger was removed from version 2"], {"champion": 2},
    )  # fmt: skip
    client.delete_model_version("aliased", "3")
    with pytest.raises(tracking.NoSuchVersion):
        aliases(3, None)
    with pytest.raises(tracking.NoSuchVersion):
        tracking.sync_aliases(uri, name="renamed", champion=1, challenger=None)
