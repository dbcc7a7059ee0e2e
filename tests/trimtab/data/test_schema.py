"""Good rows go on, bad rows are kept with their reasons, bad batches are refused whole; nothing is lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.trimtab import sample_rows
from trimtab.config.params import Params
from trimtab.data import conversion, schema
from trimtab.data.periods import Period
from trimtab.data.schema import ColumnRule, Schema, SchemaError, ValidationResult
from trimtab.model import training

PARAMS = sample_rows.params()
MARCH = Period.parse("2013-03", "month")
CLEAN = sample_rows.rows(100, start=str(MARCH.start.date()), days=31)


def reviewed(inferred: Schema) -> Schema:
    """The rules as a person may confirm them: ranges are bounds, and nothing may be missing."""

    def confirmed(rule: ColumnRule) -> ColumnRule:
        low, high = rule.expected or (rule.min, rule.max)
        return rule.model_copy(update={"min": low, "max": high, "expected": None, "nullable": False})

    return Schema(columns={name: confirmed(rule) for name, rule in inferred.columns.items()})


INFERRED = schema.infer_schema(CLEAN, PARAMS)
RULES = reviewed(INFERRED)

FAULTS: dict[str, tuple[str, Any, str]] = {
    "text for a number": ("strong", "n/a", "strong: not a number"),
    "an endless number": ("strong", np.inf, "strong: not a number"),
    "a number far out": ("noise", 1e6, "noise: outside"),
    "no number": ("strong", None, "strong: missing"),
    "no category": ("place", None, "place: missing"),
    "no id": ("row", None, "row: missing"),
    "no time": ("at", None, "at: missing"),
    "text for a time": ("at", "soon", "at: not a time"),
    "another period": ("at", pd.Timestamp("2013-04-01"), "at: outside 2013-03"),
    "a label out of range": ("late", 2, "late: no label of a binary task"),
}


def spoiled(faults: dict[int, str]) -> pd.DataFrame:
    frame = CLEAN.astype({FAULTS[name][0]: object for name in faults.values()})
    for row, name in faults.items():
        column, value, _ = FAULTS[name]
        frame.at[row, column] = value
    return frame


def check(frame: pd.DataFrame, params: Params = PARAMS, rules: Schema = RULES) -> ValidationResult:
    return schema.validate_batch(frame, rules, params, MARCH)


def test_the_rows_it_was_inferred_from_pass_and_keep_their_values() -> None:
    checked = check(CLEAN)
    assert (checked.refusal, len(checked.bad), dict(checked.reasons)) == (None, 0, {})
    pd.testing.assert_frame_equal(checked.good, CLEAN[list(RULES.columns)], check_dtype=False)
    assert checked.good["at"].dtype == "datetime64[us]"
    assert checked.good["strong"].dtype == "float64"
    assert checked.good["place"].dtype == "str"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.none() | st.floats(width=64) | st.integers(-(10**9), 10**9), min_size=2, max_size=20),
    st.sampled_from(["float64", "object"]),
)
def test_inferred_rules_are_kept_by_the_rows_they_come_from(values: list[float | None], dtype: str) -> None:
    frame = CLEAN.head(len(values)).assign(strong=pd.Series(values, dtype=dtype))
    rules = Schema.loads(schema.infer_schema(frame, PARAMS).dumps())
    endless = pd.to_numeric(frame["strong"]).isin([np.inf, -np.inf])
    reasons = check(frame, rules=rules).reasons
    assert dict(reasons) == ({"strong: not a number": int(endless.sum())} if endless.any() else {}) or (
        check(frame, rules=rules).refusal is not None and endless.mean() > PARAMS.checks.max_bad_share
    )


@pytest.mark.parametrize("name", FAULTS)
def test_a_bad_row_is_set_aside_with_its_reason(name: str) -> None:
    checked = check(spoiled({7: name}))
    column, _, reason = FAULTS[name]
    assert checked.refusal is None
    assert len(checked.good) == len(CLEAN) - 1
    assert len(checked.bad) == 1
    assert checked.bad["reason"].iloc[0].startswith(reason)
    assert [k.startswith(reason) for k in checked.reasons] == [True]
    kept = [c for c in CLEAN if c != column]
    assert checked.bad[kept].iloc[0].to_dict() == CLEAN[kept].iloc[7].to_dict()


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.integers(0, len(CLEAN) - 1), st.sampled_from(list(FAULTS)), max_size=60))
def test_whatever_is_wrong_no_row_is_lost_and_no_bad_one_goes_on(faults: dict[int, str]) -> None:
    frame = spoiled(faults)
    before = frame.copy()
    checked = check(frame)
    pd.testing.assert_frame_equal(frame, before)
    assert (checked.bad["reason"] != "").all()
    if checked.refusal:
        assert len(faults) > 30
        assert checked.good.empty
        pd.testing.assert_frame_equal(checked.bad.drop(columns="reason"), frame)
    else:
        bad_ids = [frame.at[row, "row"] for row in sorted(faults)]
        assert [i if isinstance(i, str) else None for i in checked.bad["row"]] == bad_ids
        assert sorted([*checked.good["row"], *(i for i in bad_ids if i)]) == sorted(frame["row"].dropna())
        assert len(checked.good) + len(checked.bad) == len(frame)


BATCH_FAULTS: dict[str, tuple[Callable[[pd.DataFrame], pd.DataFrame], str]] = {
    "a column is gone": (lambda f: f.drop(columns=["noise", "late"]), "missing column: late, noise"),
    "no row": (lambda f: f.iloc[:0], "empty: the source gave no row for 2013-03"),
    "nothing at all": (lambda f: pd.DataFrame(), "empty: the source gave no row for 2013-03"),
    "ids twice": (lambda f: f.assign(row=["r0", "r0", *f["row"][2:]]), "duplicate ids: 2 rows .*row=r0"),
    "ids twice, as number and text": (lambda f: f.assign(row=pd.array([1, "1", *f["row"][2:]], dtype=object)), "ids"),
    "too many bad rows": (lambda f: f.assign(strong=f["strong"].where(f.index > 30)), "31 of 100 rows are bad"),
    "another month": (lambda f: f.assign(at=f["at"] + pd.Timedelta(days=31)), "wrong period: 100 of 100 rows"),
}  # fmt: skip


@pytest.mark.parametrize("name", BATCH_FAULTS)
def test_a_bad_batch_is_refused_whole_and_passes_once_corrected(name: str) -> None:
    spoil, why = BATCH_FAULTS[name]
    frame = spoil(CLEAN)
    refused = check(frame)
    assert refused.refusal is not None
    assert pd.Series([refused.refusal]).str.contains(why).all(), refused.refusal
    assert refused.good.empty
    assert len(refused.bad) == len(frame)
    assert sum(refused.reasons.values()) >= len(frame)
    assert check(CLEAN).refusal is None


def test_rows_without_an_id_are_bad_rows_and_no_duplicates() -> None:
    checked = check(spoiled({1: "no id", 2: "no id", 3: "no id"}))
    assert checked.refusal is None
    assert dict(checked.reasons) == {"row: missing": 3}


def test_columns_that_the_schema_does_not_name_are_left_out() -> None:
    checked = check(CLEAN.assign(extra=1))
    assert list(checked.good) == list(RULES.columns)


def test_a_row_with_two_faults_has_both_reasons() -> None:
    frame = CLEAN.assign(
        strong=CLEAN["strong"].where(CLEAN.index > 0), noise=CLEAN["noise"].where(CLEAN.index > 0, 1e9)
    )
    bad = check(frame).bad
    assert bad["reason"].tolist() == [
        f"strong: missing; noise: outside {RULES.columns['noise'].min:g} to {RULES.columns['noise'].max:g}"
    ]


def test_a_category_is_spelled_alike_whatever_type_the_source_gives_it() -> None:
    """A month with a missing value makes floats of integers; 3 and 3.0 are one category."""
    whole = pd.Series(range(100)) % 4
    spellings = [
        check(CLEAN.assign(place=values)).good["place"].unique().tolist()
        for values in (
            whole,
            whole.astype("float64"),
            whole.astype("Int64"),
            whole.astype("str"),
            whole.astype("category"),
        )
    ]
    assert spellings == [["0", "1", "2", "3"]] * 5


@pytest.mark.parametrize("dtype", ["float64", "Int64", "boolean", "object", "int8"])
def test_numbers_may_come_in_any_type(dtype: Any) -> None:
    values = CLEAN["late"].astype("int64").astype(dtype)
    checked = check(CLEAN.assign(late=values))
    assert checked.refusal is None
    assert checked.good["late"].tolist() == CLEAN["late"].tolist()


@pytest.mark.parametrize(
    "times",
    [
        CLEAN["at"].dt.tz_localize("UTC").dt.tz_convert("America/New_York"),
        CLEAN["at"].astype("str"),
        CLEAN["at"].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        CLEAN["at"].dt.floor("D").astype("str").where(CLEAN.index % 2 == 0, CLEAN["at"].astype("str")),
    ],
    ids=["another zone", "text", "ISO 8601", "dates among times"],
)
def test_times_may_come_in_any_form(times: pd.Series) -> None:
    checked = check(CLEAN.assign(at=times))
    assert checked.refusal is None
    assert len(checked.good) == len(CLEAN)


def test_a_column_that_was_all_missing_has_no_bounds_yet() -> None:
    rules = schema.infer_schema(CLEAN.assign(noise=np.nan), PARAMS)
    assert rules.columns["noise"] == ColumnRule(kind="number", nullable=True)
    assert check(CLEAN, rules=Schema.loads(rules.dumps())).refusal is None


def test_a_stray_text_does_not_keep_the_rules_from_being_inferred() -> None:
    """Mixed columns land as text."""
    rules = schema.infer_schema(spoiled({3: "text for a number"}).astype({"strong": "str"}), PARAMS)
    assert rules.columns["strong"].kind == "number"
    assert dict(check(spoiled({3: "text for a number"}), rules=rules).reasons) == {"strong: not a number": 1}


def test_a_bound_on_one_side_only_is_held() -> None:
    tight = RULES.model_copy(update={"columns": RULES.columns | {"strong": ColumnRule(kind="number", min=0)}})
    checked = check(CLEAN, sample_rows.params(validate={"max_bad_share": 0.9}), tight)
    assert checked.refusal is None
    assert (checked.good["strong"] >= 0).all()
    assert len(checked.bad) == int((CLEAN["strong"] < 0).sum()) > 0


names = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12) | st.sampled_from(
    ["yes", "no", "null", "1", "1.5", "a: b", "#", "- x", "2013-01", "'", '"', "x" * 120]
)
bounds = st.none() | st.floats(allow_nan=False)


def in_order(ends: tuple[float | None, float | None]) -> bool:
    return ends[0] is None or ends[1] is None or ends[0] <= ends[1]


rules_ = st.builds(
    lambda kind, nullable, ends: ColumnRule(kind=kind, nullable=nullable, min=ends[0], max=ends[1]),
    st.sampled_from(["number", "category", "time", "id"]),
    st.booleans(),
    st.tuples(bounds, bounds).filter(in_order),
)


@given(st.dictionaries(names, rules_, min_size=1, max_size=6))
def test_a_schema_is_read_as_it_is_written(columns: dict[str, ColumnRule]) -> None:
    made = Schema(columns=columns)
    again = Schema.loads(made.dumps())
    assert again == made
    assert again.digest == made.digest
    assert len(made.dumps().splitlines()) == 2 + len(columns)


@pytest.mark.parametrize(
    "text",
    ["", "columns: [", "columns: {strong: {kind: numbr}}", "columns: {strong: {kind: number, min: 3, max: 1}}"],
    ids=["empty", "no YAML", "unknown kind", "min above max"],
)
def test_a_broken_schema_file_is_named(text: str) -> None:
    with pytest.raises(SchemaError, match=r"schema\.yaml"):
        Schema.loads(text)


def test_a_schema_that_lost_a_needed_column_says_so() -> None:
    cut = Schema(columns={name: rule for name, rule in RULES.columns.items() if name not in ("at", "strong")})
    with pytest.raises(SchemaError, match="no rule for at, strong"):
        check(CLEAN, rules=cut)


def test_params_that_name_a_column_the_source_lacks_are_told() -> None:
    with pytest.raises(SchemaError, match=r"no column noise; params\.yaml names it"):
        schema.infer_schema(CLEAN.drop(columns="noise"), PARAMS)


TARGETS: dict[str, tuple[list[Any], dict[str, str]]] = {
    "yes/no": (["yes", "no"], {}),
    "NO/YES": (["NO", "YES"], {}),
    "booleans": ([True, False], {}),
    "booleans with a gap": ([True, False, None], {}),
    "texts that are named": (["on time", "late"], {"negative": "on time", "positive": "late"}),
    "0 and 1 as text": (["0", "1", ""], {}),
}


@pytest.mark.parametrize("target", TARGETS)
def test_a_schema_accepts_the_batch_that_it_was_inferred_from_whatever_the_two_labels_are(target: str) -> None:
    values, named = TARGETS[target]
    conf = sample_rows.params(project=named)
    raw = sample_rows.rows(300, start="2013-03-01", days=31)
    raw["late"] = pd.Series([values[i % len(values)] for i in range(300)], dtype=object)
    raw["late"] = raw["late"].replace("", None)
    checked = schema.validate_batch(raw, schema.infer_schema(raw, conf), conf, MARCH)
    assert checked.refusal is None and checked.bad.empty, checked.reasons
    assert set(checked.good["late"].dropna()) == {0.0, 1.0}
    assert checked.good["late"].isna().sum() == raw["late"].isna().sum()
    assert set(training.labels_of(checked.good[checked.good["late"].notna()], conf)) == {0, 1}


def test_growth_beyond_the_first_batch_is_a_warning_until_a_person_makes_it_a_bound() -> None:
    grown = CLEAN.assign(strong=CLEAN["strong"] + 1000)
    checked = schema.validate_batch(grown, INFERRED, PARAMS, MARCH)
    assert checked.refusal is None and len(checked.good) == len(CLEAN)
    ((what, rows),) = checked.warnings.items()
    assert what.startswith("strong: outside the expected") and rows == len(CLEAN)
    assert schema.validate_batch(grown, RULES, PARAMS, MARCH).refusal is not None


def test_a_first_batch_without_gaps_says_nothing_about_the_next() -> None:
    holed = CLEAN.assign(strong=CLEAN["strong"].where(CLEAN.index > 3), place=CLEAN["place"].where(CLEAN.index > 3))
    assert len(schema.validate_batch(holed, INFERRED, PARAMS, MARCH).good) == len(CLEAN)
    assert Schema.loads(INFERRED.dumps()) == INFERRED


def test_a_reason_of_the_source_is_kept_beside_ours() -> None:
    spoiled = CLEAN.assign(reason="theirs", row=CLEAN["row"].where(CLEAN.index > 0))
    bad = schema.validate_batch(spoiled, RULES, PARAMS, MARCH).bad
    assert (bad["reason"][0], bad["reason_of_source"][0]) == ("row: missing", "theirs")


def test_a_period_without_rows_is_refused_unless_params_allow_it() -> None:
    assert "empty" in str(schema.validate_batch(CLEAN.iloc[:0], RULES, PARAMS, MARCH).refusal)
    allowed = schema.validate_batch(pd.DataFrame(), RULES, sample_rows.params(validate={"allow_empty": True}), MARCH)
    assert allowed.refusal is None and allowed.good.empty
    assert allowed.good.dtypes.to_dict() == schema.validate_batch(CLEAN, RULES, PARAMS, MARCH).good.dtypes.to_dict()


@pytest.mark.parametrize("values", [pd.to_datetime(["2013-03-01"]), pd.to_timedelta([1], unit="h")])
def test_a_time_is_no_number(values: Any) -> None:
    assert conversion.convert(pd.Series(values), "number").isna().all()


def test_rows_that_were_accepted_are_accepted_again_whatever_the_labels_are_called() -> None:
    conf = sample_rows.params(project={"negative": "1", "positive": "2"})
    raw = CLEAN.assign(late=CLEAN["late"] + 1)
    good = schema.validate_batch(raw, schema.infer_schema(raw, conf), conf, MARCH).good
    assert good["late"].tolist() == CLEAN["late"].tolist()
    again = schema.validate_batch(good, RULES, conf, MARCH, labels=conf.project.label_rule.stored())
    assert again.good["late"].tolist() == good["late"].tolist()
