"""Bundles of faulty models, written as the flow register writes them but without the gate, to test rollouts on live
traffic. Each has the champion's files and another model."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from io import BytesIO
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import skops.io

from stores.ledger import Ledger
from stores.releases.backend import backend_file
from stores.releases.bundle import Bundle, open_bundle, write_bundle
from tests.faulty_models import MODULE, TYPES
from trimtab.config.params import Params
from trimtab.data.features import frame
from trimtab.model import release
from trimtab.model.candidate import PROFILE_FILE, Profile
from trimtab.model.pipeline import build_pipeline
from trimtab.model.scoring import Scorer
from trimtab.model.training import labels_of

PATIENT = {"learning_rate": 0.1, "max_iter": 100, "min_samples_leaf": 5}


def faulty_models() -> ModuleType:
    """The module under the name that the project imports it by, so that saved models refer to that name."""
    if "faulty_models" not in sys.modules:
        spec = importlib.util.spec_from_file_location("faulty_models", MODULE)
        assert spec is not None
        assert spec.loader is not None
        sys.modules["faulty_models"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["faulty_models"])
    return sys.modules["faulty_models"]


@dataclass(frozen=True)
class Maker:
    """Makes releases in a project with these *params*, from the *champion*'s files and a model trained on *rows*.
    *month* holds the rows that are sent during the rollout."""

    releases: Path
    ledger: Ledger
    champion: str
    params: Params
    project: Path
    rows: pd.DataFrame
    month: pd.DataFrame

    @cached_property
    def bundle(self) -> Bundle:
        """The champion's."""
        return open_bundle(self.releases, self.champion)

    @cached_property
    def sound(self) -> Any:
        """The champion's model."""
        return self.bundle.model(allow=TYPES)

    @cached_property
    def knowing(self) -> Any:
        """A model that was told how the month ends: better than any champion, everywhere."""
        return self.fitted(self.month, options=PATIENT)

    def fitted(self, rows: pd.DataFrame, *, options: Mapping[str, Any] | None = None) -> Any:
        """A pipeline as `train` makes them, fitted on *rows*."""
        train = self.params.train.model_copy(update={"params": {**self.params.train.params, **(options or {})}})
        params = self.params.model_copy(update={"train": train})
        features = self.bundle.manifest.features
        return build_pipeline(params, features, self.project).fit(frame(rows, features), labels_of(rows, params))

    def shuffled(self) -> Any:
        """Fitted with the labels in the wrong order."""
        order = np.random.default_rng(7).permutation(len(self.rows))
        target = self.params.columns.target
        return self.fitted(self.rows.assign(**{target: self.rows[target].to_numpy()[order]}))

    def refit(self, seed: int) -> Any:
        """Fitted again on the rows that the champion learned from but one in twenty: which, the seed says."""
        cut = pd.Timestamp(Profile.model_validate_json(self.bundle.read(PROFILE_FILE)).cut)
        known = self.rows[self.rows[self.params.columns.time] < cut]
        return self.fitted(known.sample(frac=0.95, random_state=seed).sort_index())

    def unseen(self, column: str) -> str:
        """The most frequent value of *column* in the month that is in none of the samples, which a probe asks for."""
        shown = {row.get(column) for row in self.bundle.samples[0]}
        return str(next(value for value in self.month[column].value_counts().index if value not in shown))

    def make(self, model: Any, about: str, *, recorded_by: Any = None) -> Bundle:
        """A release of *model*, recorded in the ledger. Its sample predictions are made by *recorded_by*, the model
        before the fault, or by *model* itself."""
        manifest, buffer = self.bundle.manifest, BytesIO()
        skops.io.dump(model, buffer)
        content = buffer.getvalue()
        scorer = Scorer(recorded_by or model, task=manifest.task, features=manifest.features, classes=manifest.classes)
        table = self.bundle.reference()
        reference = table.assign(prediction=scorer.score(table).prediction).to_parquet(index=False)
        shown = frame(self.bundle.samples[0], manifest.features)
        fields = {
            **manifest.model_dump(exclude={"files"}),
            "model_digest": release.model_digest(BytesIO(content)),
            "trusted_types": sorted(skops.io.get_untrusted_types(data=content)),
            "lineage": {"made for a test": about},
        }
        files = {
            **{name: self.bundle.read(name) for name in manifest.files},
            release.MODEL: content,
            release.REFERENCE: reference,
            release.SAMPLES: release.sample_predictions(shown, scorer.score(shown)),
            release.CARD: f"# {about}\n".encode(),
        }
        files[release.BACKEND] = backend_file(model=content, reference=reference, fields=fields, allow=TYPES)
        made = write_bundle(self.releases, manifest_fields=fields, files=files)
        self.ledger.record_release(
            made.digest, model_name=manifest.model_name, model_version=manifest.model_version, run_id=manifest.run_id,
            manifest=json.loads(made.manifest.canonical()),
        )  # fmt: skip
        return made


def shuffled(maker: Maker) -> Bundle:
    return maker.make(maker.shuffled(), "labels shuffled in training")


def encoded(maker: Maker) -> Bundle:
    return maker.make(
        faulty_models().Encoded(maker.sound, "departure_minute", 1 / 60), "hours where it learned minutes"
    )


def slow(maker: Maker) -> Bundle:
    return maker.make(faulty_models().Slow(maker.sound, 20), "20 times slower", recorded_by=maker.sound)


def raising(maker: Maker) -> Bundle:
    model = faulty_models().Raising(maker.sound, "carrier", maker.unseen("carrier"))
    return maker.make(model, "raises on one carrier", recorded_by=maker.sound)


def gaps(maker: Maker) -> Bundle:
    return maker.make(faulty_models().Gaps(maker.sound, "wind_dir"), "no number for some rows", recorded_by=maker.sound)


def constant(maker: Maker) -> Bundle:
    return maker.make(faulty_models().Constant(maker.sound, 0.3), "the same answer to everything")


def harmful(maker: Maker) -> Bundle:
    return maker.make(faulty_models().Harmful(maker.knowing, "origin", ["LGA"], 0.02), "better overall, worse at LGA")


def harmful_later(maker: Maker) -> Bundle:
    """Near the share of late flights there, so that on some days it ranks LaGuardia no worse than the champion."""
    return maker.make(
        faulty_models().Harmful(maker.knowing, "origin", ["LGA"], 0.6), "better overall, one answer at LGA"
    )


def deadly(maker: Maker) -> Bundle:
    model = faulty_models().Deadly(maker.sound, "carrier", maker.unseen("carrier"))
    return maker.make(model, "ends the process on one carrier", recorded_by=maker.sound)
