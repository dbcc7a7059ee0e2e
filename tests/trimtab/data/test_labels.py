"""One label has many spellings, and what is no label of the task is none anywhere."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzzing import ODD_VALUES
from trimtab.data.labels import LabelRule, NoLabel, only_readable, read_labels, rule_of

BINARY, REGRESSION = LabelRule(task="binary"), LabelRule(task="regression")
CLASSES = rule_of("multiclass", [1, 2, 3])
NAMED = rule_of("binary", spellings=("on time", "late"))


@pytest.mark.parametrize(
    "value", [1, 1.0, True, "1", "1.0", "true", "True", "yes", "Y", " yes ", np.int64(1), np.bool_(True)]
)
def test_a_positive_label_has_many_spellings(value: Any) -> None:
    assert BINARY.read(value) == 1


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", np.float64(1)])
def test_a_class_that_is_a_number_is_one_class_however_it_comes(value: Any) -> None:
    assert CLASSES.read(value) == "1"


def test_any_two_values_can_be_the_labels() -> None:
    assert [NAMED.read(v) for v in ("late", "on time", None, 1, 0)] == [1, 0, None, 1, 0]
    with pytest.raises(NoLabel, match="must be on time or late"):
        NAMED.read("Late?")


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (BINARY, 5), (BINARY, 0.3), (BINARY, -1e308), (BINARY, "late"), (BINARY, ""),
        (REGRESSION, "far"), (REGRESSION, math.inf), (REGRESSION, 10**400), (CLASSES, 4), (CLASSES, "late"),
        (LabelRule(task="multiclass"), "x" * 257),
    ],
)  # fmt: skip
def test_what_is_no_label_of_the_task_says_what_one_is(rule: LabelRule, value: Any) -> None:
    with pytest.raises(NoLabel, match="must"):
        rule.read(value)


@given(
    st.lists(st.sampled_from(ODD_VALUES) | st.floats() | st.integers() | st.text(max_size=5) | st.none(), max_size=30)
)
def test_reading_many_never_fails_and_gives_labels_of_the_task_only(values: list[Any]) -> None:
    frame = pd.DataFrame({"label": pd.Series(values, dtype=object)})
    for rule in (BINARY, REGRESSION, CLASSES, NAMED):
        kept, unreadable = only_readable(frame, rule)
        assert len(kept) + unreadable == frame["label"].notna().sum()
        again = read_labels(kept["label"], rule)
        assert again.tolist() == kept["label"].tolist(), "what was read is read as the same"
        if rule.task == "binary":
            assert set(kept["label"]) <= {0, 1}
        elif rule.task == "regression":
            assert np.isfinite(kept["label"].astype(float)).all()
        else:
            assert set(kept["label"]) <= {"1", "2", "3"}
