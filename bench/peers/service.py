"""The flights pipeline behind BentoML, in BentoML's own environment: nothing of ours is imported here.

Requests that arrive together are scored together (a batchable API), in frames that are made once per batch: a frame
per request, which BentoML can make as well, takes several times as long.

    BENCH_MODEL=model.skops BENCH_SCHEMA=schema.json bentoml serve service:Flights
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import bentoml  # type: ignore[import-not-found]
import pandas as pd
import skops.io


@bentoml.service(
    workers=1,
    traffic={"timeout": 60},
    logging={"access": {"enabled": False}},
)
class Flights:
    """One model, kept in memory."""

    def __init__(self) -> None:
        content = Path(os.environ["BENCH_MODEL"]).read_bytes()
        self.model = skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
        schema = json.loads(Path(os.environ["BENCH_SCHEMA"]).read_text())
        numbers = {name for name, told in schema["properties"].items() if "number" in told["type"]}
        self.kinds = {n: "float64" if n in numbers else "str" for n in self.model.feature_names_in_}

    @bentoml.api(batchable=True, max_batch_size=100, max_latency_ms=60_000)  # type: ignore[untyped-decorator]
    def predict(self, rows: list[dict[str, Any]]) -> list[float]:
        """The probability of the positive class for each of *rows*."""
        frame = pd.DataFrame(rows, columns=list(self.kinds)).astype(self.kinds)
        return [float(p) for p in self.model.predict_proba(frame)[:, 1]]
