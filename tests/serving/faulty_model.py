"""Faulty challengers from a project's own module, which the server loads from the project's folder."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from stores.releases.bundle import Bundle
from tests.serving.conftest import ServerHome

MODULE = "faulty_model"
TYPE = f"{MODULE}.Faulty"
TRIGGER = 99_999.0
SAYS = 0.875
_SOURCE = f'''
import os
import sys
import time

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin


class Faulty(ClassifierMixin, BaseEstimator):
    """Predicts {SAYS} for every row, but fails by *mode* for rows of distance {TRIGGER:.0f}."""

    def __init__(self, mode="fine"):
        self.mode = mode

    def fit(self, X, y):
        self.classes_ = np.array([0, 1])
        return self

    def predict_proba(self, X):
        shares = np.tile([{1 - SAYS}, {SAYS}], (len(X), 1))
        bad = (X["distance"] == {TRIGGER}).to_numpy()
        if not bad.any():
            return shares
        if self.mode == "raise":
            raise ValueError("no idea of such distances")
        if self.mode == "exit":
            sys.exit(3)
        if self.mode == "shape":
            return shares[:-1]
        if self.mode == "slow":
            time.sleep(1.5)
        if self.mode == "hang":
            time.sleep(10)
        if self.mode == "die":
            os._exit(9)
        if self.mode == "nan":
            shares[bad] = np.nan
        if self.mode == "range":
            shares[bad] = [-0.7, 1.7]
        return shares
'''


def faulty_release(place: ServerHome, mode: str, *, version: int) -> Bundle:
    """A release of such a model; the server needs the settings of `trusting`."""
    (place.home / f"{MODULE}.py").write_text(_SOURCE)
    if MODULE not in sys.modules:
        sys.path.insert(0, str(place.home))
        importlib.import_module(MODULE)
        sys.path.remove(str(place.home))
    return place.release(version=version, model=sys.modules[MODULE].Faulty(mode), trusted=[TYPE])


def trusting(home: Path) -> dict[str, str]:
    """Settings of a server that trusts these models."""
    return {"TRIMTAB_PROJECT": str(home), "TRIMTAB_TRUSTED_TYPES": f'["{TYPE}"]'}
