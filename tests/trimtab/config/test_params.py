"""params.yaml as people write it, rightly and wrongly."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.trimtab import sample_rows
from trimtab.config.params import Params, ParamsError, load

GOOD = """\
project: {name: small, task: binary}
source: {target: "rows:load"}
columns:
  target: late
  time: at
  id: row
  number: [strong, noise]
  category:
    - place
period:
  every: month
  start: 2013-01
  first_train: 2013-02
train:
  window: all
  holdout: 7d
gate:
  metric: roc_auc
  min: 0.6
monitor: {persist: 2 of 3}
schedule:
  retrain: "0 2 * * *"
alerts:
  - kind: log
"""


def trouble(folder: Path, text: str) -> list[str]:
    """What load says about *text*, a line for each error, without the folder."""
    (folder / "params.yaml").write_text(text)
    with pytest.raises(ParamsError) as caught:
        load(folder)
    return str(caught.value).replace(f"{folder}/", "").splitlines()


def test_the_root_project_and_this_one_are_read(tmp_path: Path) -> None:
    assert load(Path(__file__).parents[3]).project.name == "nyc-flights"
    (tmp_path / "params.yaml").write_text(GOOD)
    assert load(tmp_path).train.holdout == timedelta(days=7)


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("task: binary", "task: binaryy", 1, "'binary', 'multiclass' or 'regression'"),
        ("name: small,", "name: Small Flights,", 1, "project.name: String should match pattern"),
        ("name: small, ", "", 1, "project.name: is missing"),
        ("  time: at\n", "", 3, "columns.time: is missing"),
        ("  min: 0.6", "  min: 0.6\n  minn: 0.7", 20, "gate.minn: is not a key that exists here"),
        ("  min: 0.6", "  min: high", 19, "gate.min: Input should be a valid number"),
        ("  min: 0.6", "  min: .nan", 19, "gate.min: Input should be a finite number"),
        ("  min: 0.6", "  min: 0.6\n  max_regression: .inf", 20, "max_regression: Input should be a finite number"),
        ("  min: 0.6", "  min: 0.6\n  slices: {place: -1}", 20, "gate.slices.place: Input should be greater"),
        ("  min: 0.6", "  min: 0.6\n  slices: {plaice: 0.1}", 20, "gate.slices.plaice: is not a feature or the key"),
        (
            "  min: 0.6", "  min: 0.6\nrollout:\n  block: 1d\n  slices: {place: 0.1}", 22,
            "rollout.slices.place: needs a margin under gate.slices too",
        ),
        ("metric: roc_auc", "metric: rmse", 18, "does not measure a binary task: use one of"),
        ("- place", "- place\n    - late", 3, "late cannot be a feature: it would tell the answer"),
        ("- place", "- place\n    - at", 3, "at cannot be a feature"),
        ("- place", "- strong", 3, "a feature is named twice: strong"),
        ("every: month", "every: decade", 11, "'hour', 'day', 'week', 'month', 'quarter' or 'year'"),
        ("start: 2013-01", "start: 2013-13", 12, "'2013-13' is not a month: write it like 2013-03"),
        ("start: 2013-01", "start: 2013-01-05", 12, "'2013-01-05' is not a month: write it like 2013-03"),
        ("start: 2013-01", "start: 2013-01-45", 12, "is not a month"),
        ("first_train: 2013-02", "first_train: 2012-12", 13, "lies before start 2013-01"),
        ("holdout: 7d", "holdout: 7 days", 16, "write a duration as a number and h, d or w, like 7d"),
        ("holdout: 7d", "holdout: 0d", 16, "train.holdout: leaves no row for the gate"),
        ("holdout: 7d", "holdout: 99999999999w", 16, "write a duration"),
        ("holdout: 7d", "holdout: 2", 16, "nothing to train on"),
        ("holdout: 7d", "holdout: 60d", 16, "nothing to train on"),
        ("window: all", "window: 0", 15, "train.window: 0 is impossible"),
        ("window: all", "window: some", 15, "train.window: "),
        ("window: all\n  holdout: 7d", "window: 3\n  holdout: 3", 15, "make window larger than holdout"),
        ("window: all\n  holdout: 7d", "window: 1\n  holdout: 31d", 16, "nothing to train on"),
        ("persist: 2 of 3", "persist: 4 of 3", 20, "like 2 of 3"),
        ('retrain: "0 2 * * *"', "retrain: nightly", 22, "schedule.retrain: "),
        ("- kind: log", "- kind: webhook", 24, "webhook needs one of url"),
        ("- kind: log", "- kind: pigeon", 24, "'log', 'webhook', 'slack'"),
        ("target: late", "target: late\n  target: later", 5, "target is written twice"),
        ("target: late", "target: !late x", 4, "not YAML"),
        ("task: binary}", "task: binary", 2, "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_with_its_line_and_the_cure(
    tmp_path: Path, old: str, new: str, line: int, says: str
) -> None:
    assert GOOD.count(old) == 1
    first = trouble(tmp_path, GOOD.replace(old, new))[0]
    assert first.startswith(f"params.yaml:{line}: "), first
    assert says in first


def test_every_error_of_a_file_is_told_at_once(tmp_path: Path) -> None:
    wrong = (
        GOOD.replace("min: 0.6", "min: high")
        .replace("every: month", "every: decade")
        .replace("task: binary", "task: b")
    )
    said = trouble(tmp_path, wrong)
    assert sorted(int(line.split(":")[1]) for line in said) == [1, 11, 19]


def test_a_missing_file_an_empty_one_and_one_that_is_no_text_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run this in a project's folder, or set TRIMTAB_PROJECT"):
        load(tmp_path)
    assert "expected sections like project" in trouble(tmp_path, "")[0]
    assert "expected sections like project" in trouble(tmp_path, "- a\n- b\n")[0]
    (tmp_path / "params.yaml").write_bytes(b"project: \xff\x00")
    with pytest.raises(ParamsError, match="not YAML"):
        load(tmp_path)


def test_missing_sections_are_named(tmp_path: Path) -> None:
    said = trouble(tmp_path, "project: {name: small, task: binary}\n")
    assert [line.split(": ", 1)[1] for line in said] == [
        f"{name}: is missing" for name in ("source", "columns", "period", "gate")
    ]


def test_the_address_of_a_webhook_is_never_repeated(tmp_path: Path) -> None:
    for wrong in ("  - https://hooks/s3cret", "  - {kind: webhook, url: [https://hooks/s3cret]}"):
        assert "s3cret" not in "".join(trouble(tmp_path, GOOD.replace("  - kind: log", wrong)))


@pytest.mark.parametrize(("text", "hours"), [("12h", 12), ("1d", 24), ("7 d", 168), ("2w", 336), ("0d", 0)], ids=str)
def test_a_duration_is_a_number_and_a_unit(text: str, hours: int) -> None:
    assert sample_rows.params(period={"label_delay": text}).period.label_delay == timedelta(hours=hours)


@pytest.mark.parametrize(
    ("every", "start", "later"),
    [
        ("day", "2013-01-05", "2013-01-06"),
        ("week", "2013-01-07", "2013-01-14"),
        ("hour", "2013-01-05T03", "2013-01-05T09"),
    ],
)
def test_a_period_may_be_written_without_quotes(tmp_path: Path, every: str, start: str, later: str) -> None:
    """YAML reads 2013-01-05 as a date, which is what was meant."""
    text = GOOD.replace("every: month", f"every: {every}").replace("holdout: 7d", "holdout: 1h")
    text = text.replace("first_train: 2013-02", f"first_train: {later}").replace(
        "start: 2013-01\n", f"start: {start}\n"
    )
    (tmp_path / "params.yaml").write_text(text)
    assert str(load(tmp_path).first) == start


@given(
    holdout=st.integers(1, 3) | st.integers(1, 500).map(lambda h: f"{h}h"),
    window=st.just("all") | st.integers(4, 24),
    persist=st.integers(1, 9).flatmap(lambda n: st.integers(1, n).map(lambda k: f"{k} of {n}")),
    delay=st.integers(0, 10_000),
    margins=st.dictionaries(st.sampled_from(["place", "who"]), st.floats(0, 1)),
)
def test_params_come_back_from_json_as_they_were(
    holdout: int | str, window: int | str, persist: str, delay: int, margins: dict[str, float]
) -> None:
    made = sample_rows.params(
        period={"label_delay": f"{delay}h", "first_train": "2013-06"}, train={"holdout": holdout, "window": window},
        monitor={"persist": persist}, gate={"slices": margins},
    )  # fmt: skip
    written: dict[str, Any] = made.model_dump(mode="json", by_alias=True)
    assert Params.model_validate(written) == made
    assert Params.model_validate(yaml.safe_load(yaml.safe_dump(written))) == made
    assert set(written) >= {"validate", "train"}


@pytest.mark.parametrize(
    "columns", [{"id": "prediction_id"}, {"key": "release"}, {"number": ["label", "x"]}, {"target": "prediction"}]
)
def test_names_of_telemetrys_own_columns_are_refused_before_anything_is_trained(columns: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is a column of telemetry: rename it in the source"):
        sample_rows.params(columns=columns)


def test_a_word_that_yaml_takes_for_a_boolean_is_told_to_be_quoted(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "params.yaml").read_text().replace("target: late", "target: NO")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ParamsError, match=r"found False.*put it in quotes"):
        load(tmp_path)
