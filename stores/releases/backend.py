"""The backend that executes a release's model. It is verified when the release is registered, recorded in its bundle,
and verified again when the bundle is loaded. `trimtab.predictors.compile` lists the backends.

A compiled backend is used only when the record allows it and its predictions agree with scikit-learn's, on the bundle's
samples and on generated edge cases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from io import BytesIO
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, ValidationError

from stores.releases.bundle import load_model
from trimtab.data.features import Feature, columns_of, frame
from trimtab.model.equivalence import TOLERANCE, max_deviation
from trimtab.model.release import BACKEND
from trimtab.model.scoring import Scorer
from trimtab.predictors.compile import SCIKIT_LEARN, Predictor, compile_pipeline
from trimtab.predictors.preprocessing import NotCompilable

if TYPE_CHECKING:
    import pandas as pd

    from stores.releases.bundle import Bundle

_FINEST = 1e-12


class BackendRecord(BaseModel):
    """The result of verifying the backend at registration. *worst_difference* is the largest difference between
    predictions, rounded up to a power of ten of at least 1e-12, so that the same candidate gives the same record, and
    therefore the same release, on every machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backend: str
    worst_difference: float | None = None
    tolerance: float = TOLERANCE
    rows: int = 0
    reason: str


def verify_backend(scorer: Scorer, table: pd.DataFrame) -> tuple[Predictor | None, BackendRecord]:
    """Compile the model of *scorer* and compare its predictions with scikit-learn's, on the rows of *table* and on
    generated edge cases. Return the compiled predictor, or None when there is none or it differs by more than
    `TOLERANCE`, and the record."""
    try:
        fast = compile_pipeline(scorer.model, scorer.features)
    except NotCompilable as error:
        return None, BackendRecord(backend=SCIKIT_LEARN, reason=str(error))
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1, user_api="openmp"):  # a busy server has no thread to spare for a release that loads
        worst = max_deviation(fast, scorer, columns_of(table, scorer.features), len(table))
    if worst <= TOLERANCE:
        return fast, BackendRecord(
            backend=fast.backend,
            worst_difference=_round_up(worst),
            rows=len(table),
            reason="gives the answers of scikit-learn",
        )
    shown = _round_up(worst) if math.isfinite(worst) else None
    return None, BackendRecord(
        backend=SCIKIT_LEARN,
        worst_difference=shown,
        rows=len(table),
        reason=f"{fast.backend} differs from scikit-learn",
    )


def backend_file(
    *, model: bytes, reference: bytes, fields: Mapping[str, Any], allow: Collection[str] = (), digest: str = "new"
) -> bytes:
    """backend.json of a release in the making; *fields* are its manifest's. Safe to repeat: it gives the same bytes."""
    import pandas as pd

    loaded = load_model(model, digest=digest, trusted=fields["trusted_types"], allow=allow)
    features = [Feature.model_validate(feature) for feature in fields["features"]]
    scorer = Scorer(loaded, task=fields["task"], features=features, classes=fields["classes"])
    _, record = verify_backend(scorer, pd.read_parquet(BytesIO(reference)))
    return record.model_dump_json(indent=1).encode()


def load_scorer(bundle: Bundle, *, allow: Collection[str] = ()) -> Scorer:
    """Load the bundle's model with the backend that its record names, or with scikit-learn if that backend cannot be
    verified here."""
    m = bundle.manifest
    model = bundle.model(allow=allow)
    plain = Scorer(model, task=m.task, features=m.features, classes=m.classes)
    fast, reason = _compiled_backend(bundle, plain)
    return Scorer(model, task=m.task, features=m.features, classes=m.classes, fast=fast, reason=reason)


def _compiled_backend(bundle: Bundle, plain: Scorer) -> tuple[Predictor | None, str]:
    try:
        recorded = BackendRecord.model_validate_json(bundle.read(BACKEND))
    except ValidationError:
        return None, f"{BACKEND} cannot be read"
    if recorded.backend == SCIKIT_LEARN:
        return None, recorded.reason
    rows, _ = bundle.samples
    fast, found = verify_backend(plain, frame(rows, plain.features))
    if fast is None or fast.backend != recorded.backend:
        now = found.backend if fast else f"{SCIKIT_LEARN}, as here it {found.reason}"
        return None, f"{BACKEND} says {recorded.backend}, found was {now}"
    return fast, recorded.reason


def _round_up(worst: float) -> float:
    return max(_FINEST, 10.0 ** math.ceil(math.log10(worst))) if worst > 0 else _FINEST
