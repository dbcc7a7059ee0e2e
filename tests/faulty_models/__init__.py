"""Faulty releases for tests. `faulty_models` is a project's own module whose models each do one thing wrong; `releases`
packs them as bundles without the gate; `rollout_scenario` rolls one out on live traffic and reports what happened."""

from pathlib import Path

MODULE = Path(__file__).with_name("faulty_models.py")
TYPES = tuple(
    f"faulty_models.{name}"
    for name in (
        "Constant", "Deadly", "Encoded", "Gaps", "Harmful", "Hanging", "Leaking", "Meddling", "Raising", "Slow",
        "Stalling", "Tiring",
    )
)  # fmt: skip
