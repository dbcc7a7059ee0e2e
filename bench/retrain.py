"""What a retrain costs beside a plain script that reads, fits and scores the same rows.

Needs a finished `make demo`: its summary has the times of the retrains, from Running to Completed, and its project the
rows. The script is a process of its own, imports included, run three times for each retrain; the ratio is of medians.

    python -m bench.retrain
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / ".trimtab" / "demo"
SCRIPT = """
import sys
import pandas as pd, numpy as np, yaml
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OrdinalEncoder
folder, last, params = sys.argv[1:]
settings = yaml.safe_load(open(params))
columns, train = settings["columns"], settings["train"]
from pathlib import Path
rows = pd.concat([pd.read_parquet(f) for f in sorted(Path(folder).glob("*.parquet")) if f.stem <= last])
rows = rows[rows[columns["target"]].notna()].sort_values([columns["time"], columns["id"]])
cut = rows[columns["time"]].max().normalize() + pd.Timedelta(days=1) - pd.Timedelta(train["holdout"])
old, new = rows[rows[columns["time"]] < cut], rows[rows[columns["time"]] >= cut]
number, category = columns["number"], columns["category"]
encode = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=np.nan, encoded_missing_value=np.nan)
model = make_pipeline(
    ColumnTransformer([("number", "passthrough", number), ("category", encode, category)]),
    HistGradientBoostingClassifier(
        random_state=0, categorical_features=[len(number) + i for i in range(len(category))], **train["params"]
    ),
)
model.fit(old[number + category], old[columns["target"]].astype(int))
print(roc_auc_score(new[columns["target"]], model.predict_proba(new[number + category])[:, 1]))
"""


def plain(last: str) -> float:
    """Seconds that the script takes, median of three."""
    taken = []
    for _ in range(3):
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", SCRIPT, str(DEMO / "project/data/accepted"), last, str(ROOT / "params.yaml")],
            check=True, capture_output=True, text=True, env={**os.environ, "OMP_WAIT_POLICY": "passive"},
        )  # fmt: skip
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def main() -> None:
    """Print a line per retrain of the demo, and the ratio of medians."""
    path = DEMO / "report" / "summary.json"
    if not path.exists():
        sys.exit(f"{path} does not exist: run `make demo` first")
    summary = json.loads(path.read_text())
    retrained = [row["period"] for row in summary["periods"] if row["retrain_flow_run"]]
    pairs = [
        (period, took, plain(period)) for period, took in zip(retrained, summary["timings_s"]["retrain"], strict=True)
    ]
    for period, took, script in pairs:
        print(f"{period}  retrain {took:5.1f} s  plain script {script:4.1f} s  ratio {took / script:.2f}")
    ratio = statistics.median(p[1] for p in pairs) / statistics.median(p[2] for p in pairs)
    print(f"ratio of medians {ratio:.2f}")


if __name__ == "__main__":
    main()
