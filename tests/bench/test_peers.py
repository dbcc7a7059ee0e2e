from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PEERS = ROOT / "bench" / "peers"


def _pins(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==([^ ;\\\n]+)", path.read_text(), re.MULTILINE))


def test_the_lock_of_the_peers_pins_and_hashes_everything_and_names_no_host() -> None:
    text = (PEERS / "requirements.lock").read_text().replace("\\\n", " ")
    entries = [line for line in text.splitlines() if line and not line.startswith("#")]
    assert len(entries) > 10
    assert not [line for line in entries if "==" not in line or "--hash=sha256:" not in line]
    assert "://" not in text


def test_the_peers_run_the_model_on_the_versions_that_made_it() -> None:
    """And on our HTTP server, so that a difference is the peer's own."""
    ours, theirs = _pins(ROOT / "requirements.lock"), _pins(PEERS / "requirements.lock")
    for name in ("scikit-learn", "numpy", "pandas", "skops", "uvicorn", "uvloop", "httptools"):
        assert theirs[name] == ours[name], name
