"""Columns that give the target away: known only after it, filled only for one of its values, or a copy of it.

One small tree on one column at a time, fitted on the earlier rows and scored on the later ones: the idea of H2O
Driverless AI's leakage detection. A column that alone ranks later rows nearly perfectly is a suspect."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from trimtab.data.types import Task

AUC_LIMIT = 0.95
R2_LIMIT = 0.95
ACCURACY_LIMIT = 0.98
EARLIER = 0.7  # share of the rows, in time order, that each tree learns from
MOST_ROWS = 20_000
_Array = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True)
class LeakSuspect:
    """A column that alone predicts the target. *score* is of the later rows, by the measure in *evidence*."""

    column: str
    score: float
    evidence: str


def find_leaks(features: pd.DataFrame, target: pd.Series[Any], task: Task) -> list[LeakSuspect]:
    """The suspects among *features*, strongest first. Rows are in time order; *target* has no missing value.

    *target* is 0 or 1 for a binary task, numbers for a regression, texts for a multiclass one. Numbers and times are
    used as they are, texts by the target's mean in each level among the earlier rows.
    """
    rows = np.linspace(0, len(target) - 1, min(len(target), MOST_ROWS)).astype(int)
    features, target = features.iloc[rows], target.iloc[rows]
    cut = int(len(target) * EARLIER)
    suspects = []
    for name in features:
        score = _score(features[name], target, task, cut)
        if score is not None and score[0] >= score[1]:
            suspects.append(
                LeakSuspect(str(name), score[0], f"{_MEASURE[task]} {score[0]:.3f} on later rows by itself")
            )
    return sorted(suspects, key=lambda found: -found.score)


_MEASURE: dict[Task, str] = {"binary": "ROC AUC", "multiclass": "accuracy", "regression": "R²"}


def _score(column: pd.Series[Any], target: pd.Series[Any], task: Task, cut: int) -> tuple[float, float] | None:
    """Score of the column alone on the later rows, and the limit it is held to; None where it cannot be measured."""
    from sklearn.metrics import accuracy_score, r2_score, roc_auc_score
    from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

    truth = target.to_numpy()
    early, late = truth[:cut], truth[cut:]
    if len(late) < 20 or len(np.unique(early)) < 2 or len(np.unique(late)) < 2:
        return None
    inputs = _inputs(column, target, task, cut)
    leaf = max(10, cut // 200)
    if task == "regression":
        tree = DecisionTreeRegressor(max_leaf_nodes=64, min_samples_leaf=leaf, random_state=0)
        tree.fit(inputs[:cut], early.astype(float))
        return float(r2_score(late.astype(float), tree.predict(inputs[cut:]))), R2_LIMIT
    tree = DecisionTreeClassifier(max_leaf_nodes=64, min_samples_leaf=min(leaf, 10), random_state=0)
    tree.fit(inputs[:cut], early)
    if task == "binary":
        return float(roc_auc_score(late.astype(float), tree.predict_proba(inputs[cut:])[:, 1])), AUC_LIMIT
    commonest = float(pd.Series(late).value_counts(normalize=True).iloc[0])
    score = float(accuracy_score(late, tree.predict(inputs[cut:])))
    return score, max(ACCURACY_LIMIT, commonest + 0.9 * (1 - commonest))


def _inputs(column: pd.Series[Any], target: pd.Series[Any], task: Task, cut: int) -> _Array:
    """The column as numbers, shape (rows, k); a missing value stays missing, which the tree may split on."""
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        seconds = column.astype("datetime64[us]").astype("int64").to_numpy(dtype=np.float64) / 1e6
        return np.where(column.isna(), np.nan, seconds).reshape(-1, 1)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan).reshape(-1, 1)
    levels = column.astype("str").where(column.notna())
    if task == "multiclass":
        classes = [(target == value).astype(float) for value in sorted(target.unique())]
    else:
        classes = [target.astype(float)]
    means = [levels.map(known.iloc[:cut].groupby(levels.iloc[:cut]).mean()) for known in classes]
    return np.column_stack([mean.to_numpy(dtype=np.float64) for mean in means])


def find_filled_later(features: pd.DataFrame) -> list[LeakSuspect]:
    """Columns that are filled only as a row grows old: missing in the newest tenth of the rows, present before.

    Rows are in time order. Such a value is not known when a prediction is asked for.
    """
    newest = max(1, len(features) // 10)
    suspects = []
    for name in features:
        missing = features[name].isna()
        now, before = float(missing.iloc[-newest:].mean()), float(missing.iloc[:-newest].mean())
        if now > 0.5 and before < 0.2:
            evidence = f"missing in {now:.0%} of the newest tenth of the rows, in {before:.0%} of the others"
            suspects.append(LeakSuspect(str(name), now - before, evidence))
    return sorted(suspects, key=lambda found: -found.score)
