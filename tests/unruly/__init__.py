"""Bad releases on purpose: `unruly` is a project's own module, whose models do one thing wrong each; `releases` makes
bundles of them, past the gate; `trial` lets one of them meet users and tells what became of it."""

from pathlib import Path

MODULE = Path(__file__).with_name("unruly.py")
TYPES = tuple(
    f"unruly.{name}"
    for name in (
        "Constant", "Deadly", "Encoded", "Gaps", "Harmful", "Hanging", "Leaking", "Meddling", "Raising", "Slow",
        "Stalling", "Tiring",
    )
)  # fmt: skip
