"""What the loop is compared with: a model that is never retrained, and one that is retrained every period whatever
happens. Computed beside the replay, from the source, without the loop's decisions, gate or servers.

    python -m deployments.replay.baselines PROJECT FIRST LAST OUT.json
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd

from tasks import sources
from tasks.source_access import BucketAccess
from trimtab.config import params
from trimtab.config.params import Params
from trimtab.config.settings import Settings
from trimtab.data import schema
from trimtab.data.periods import Period, span
from trimtab.data.schema import Schema
from trimtab.evaluation import metrics
from trimtab.model import training
from trimtab.model.scoring import Scorer, Scores


def accepted_rows(project: Path, settings: Params, rules: Schema, period: Period) -> pd.DataFrame:
    """The rows of a period that validation would accept."""
    place = Settings()
    access = BucketAccess(place.source_endpoint, place.source_profile)
    rows = sources.fetch(project, settings, period, access)
    return schema.validate_batch(rows, rules, settings, period).good


def compute(project: Path, first: Period, last: Period) -> dict[str, dict[str, float]]:
    """Per period from *first* to *last*: the gate's metric of `frozen` and of `every_period` on its labelled rows.

    The model of `every_period` is exchanged when the loop could have done so: once the labels of the period before
    are known, that is ``period.label_delay`` into the period.
    """
    settings = params.load(project)
    rules = Schema.loads((project / "schema.yaml").read_text())
    known = [accepted_rows(project, settings, rules, p) for p in span(settings.first, first.shift(-1))]
    frozen = current = fit_at(project, settings, rules, known, first.shift(-1))
    found = {}
    for period in span(first, last):
        rows = accepted_rows(project, settings, rules, period)
        if period > first:
            newer = fit_at(project, settings, rules, known, period.shift(-1))
            found_scores = blend(settings, rows, current, newer, period)
            current = newer
        else:
            found_scores = frozen.score(rows)
        mask = rows[settings.columns.target].notna().to_numpy()
        truth = training.labels_of(rows[mask], settings)
        found[str(period)] = {
            name: float(metrics.measure(settings.gate.metric, truth, scores.take(mask))[0])
            for name, scores in (("frozen", frozen.score(rows)), ("every_period", found_scores))
        }
        known.append(rows)
    return found


def fit_at(project: Path, settings: Params, rules: Schema, known: list[pd.DataFrame], as_of: Period) -> Scorer:
    """The model that the recipe makes of the data up to *as_of*."""
    parts = training.split(pd.concat(known, ignore_index=True), settings, as_of)
    return training.fit_pipeline(settings, rules, parts.train, project)[1]


def blend(settings: Params, rows: pd.DataFrame, old: Scorer, new: Scorer, period: Period) -> Scores:
    """Return the scores of *rows* when *new* replaces *old* after the label delay."""
    moment = pd.Timestamp(period.start + settings.period.label_delay).tz_localize(None)
    is_old = (rows[settings.columns.time] < moment).to_numpy()
    before, after = old.score(rows), new.score(rows)
    labels = None
    if before.labels is not None and after.labels is not None:
        labels = tuple(a if o else b for a, b, o in zip(before.labels, after.labels, is_old, strict=True))
    shares = None
    if before.probabilities is not None and after.probabilities is not None:
        shares = np.where(is_old[:, None], before.probabilities, after.probabilities)
    prediction = np.where(is_old, before.prediction, after.prediction)
    return Scores(after.task, prediction, after.classes, labels, shares)


def main(project: str, first: str, last: str, out: str) -> None:
    """Compute and write; the file appears whole."""
    os.nice(10)  # the loop goes first
    folder = Path(project)
    settings = params.load(folder)
    found = compute(folder, settings.parse_period(first), settings.parse_period(last))
    scratch = Path(f"{out}.new")
    scratch.write_text(json.dumps(found))
    scratch.replace(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
