"""Pictures of a candidate, drawn with matplotlib without a display."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from tasks.best_effort import best_effort

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from trimtab.model.scoring import Scores


def candidate_plots(truth: np.ndarray[Any, Any], scores: Scores, importances: dict[str, float]) -> dict[str, bytes]:
    """File name → PNG: importance for every task, ROC and calibration for binary, predicted against true for
    regression. A picture that cannot be drawn is left out, with a note."""
    figures: dict[str, Callable[[], Figure]] = {"importance": lambda: _importance(importances)}
    if scores.task == "binary":
        figures["roc"] = lambda: _roc(truth, scores.prediction)
        figures["calibration"] = lambda: _calibration(truth, scores.prediction)
    elif scores.task == "regression":
        figures["predicted"] = lambda: _predicted(truth, scores.prediction)
    plots = {}
    for name, figure in figures.items():
        with best_effort(f"the picture {name}"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")  # a box for a character that no font here has
            png = BytesIO()
            figure().savefig(png, format="png")
            plots[f"{name}.png"] = png.getvalue()
    return plots


def _axes(title: str, x: str, y: str) -> tuple[Figure, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 4), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=x, ylabel=y)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _importance(importances: dict[str, float]) -> Figure:
    figure, axes = _axes("What the model looks at", "share of importance", "")
    top = sorted(importances.items(), key=lambda item: item[1])[-15:]
    names = [name if len(name) <= 40 else f"{name[:39]}…" for name, _ in top]
    axes.barh([name.replace("$", r"\$") for name in names], [value for _, value in top], color="#3b6ea5")
    return figure


def _roc(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> Figure:
    from sklearn.metrics import roc_curve

    figure, axes = _axes("ROC, rows kept from training", "false positive rate", "true positive rate")
    false, true, _ = roc_curve(truth, prediction)
    axes.plot(false, true, color="#3b6ea5")
    axes.plot([0, 1], [0, 1], color="#bbbbbb", linestyle=":")
    return figure


def _calibration(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> Figure:
    from sklearn.calibration import calibration_curve

    figure, axes = _axes("Calibration, rows kept from training", "predicted probability", "share that was so")
    share, mean = calibration_curve(truth, prediction, n_bins=10, strategy="quantile")
    axes.plot(mean, share, marker="o", color="#3b6ea5")
    top = float(max(mean.max(), share.max()))
    axes.plot([0, top], [0, top], color="#bbbbbb", linestyle=":")
    return figure


def _predicted(truth: np.ndarray[Any, Any], prediction: np.ndarray[Any, Any]) -> Figure:
    figure, axes = _axes("Rows kept from training", "true value", "predicted value")
    axes.scatter(truth[:2000], prediction[:2000], s=6, alpha=0.4, color="#3b6ea5")
    return figure
