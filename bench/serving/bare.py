"""The bare model: the fitted pipeline's own `predict_proba` on frames that are there already, in a process that does
nothing else, with as many threads as scikit-learn takes by default. Prints the rows that it answers in a second.

    python -m bench.serving.bare MODEL ROWS.parquet ROWS_PER_CALL WARM_S SECONDS
"""

from __future__ import annotations

import itertools
import sys
import time
from pathlib import Path

import pandas as pd
import skops.io


def main(model: str, rows: str, size: int, warm_s: float, seconds: float) -> float:
    """Rows per second, over whole calls."""
    content = Path(model).read_bytes()
    pipeline = skops.io.loads(content, trusted=skops.io.get_untrusted_types(data=content))
    table = pd.read_parquet(rows)
    frames = [table.iloc[i : i + size].reset_index(drop=True) for i in range(0, len(table), size)]
    turn = itertools.cycle(frames)
    until = time.perf_counter() + warm_s
    while time.perf_counter() < until:
        pipeline.predict_proba(next(turn))
    began, done = time.perf_counter(), 0
    while time.perf_counter() < began + seconds:
        done += len(pipeline.predict_proba(next(turn)))
    return done / (time.perf_counter() - began)


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]), float(sys.argv[5])))
