"""The main job in one go: a scratch copy of the project, the stack, a year replayed, and what it was worth."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from deployments import stack
from trimtab.config import params
from trimtab.config.settings import Settings
from trimtab.data.periods import Period

COPIED = ("params.yaml", "schema.yaml", "model.py", "sources", ".dvcignore")


def demo_settings(checkout: Settings) -> Settings:
    """The demo's place inside the checkout: its own project, git and state, out of the way of the real ones."""
    home = checkout.root / ".trimtab" / "demo"
    return checkout.model_copy(
        update={"project": home / "project", "home": home, "commit_data": True, "scheduled_ingest": False}
    )


def start(checkout: Settings, echo: Callable[[str], None]) -> Settings:
    """A fresh scratch copy of the project with a running stack; the demo's settings."""
    place = demo_settings(checkout)
    stack.down(place, echo=lambda _: None)
    stack.erase(place, echo=lambda _: None)
    shutil.rmtree(place.state, ignore_errors=True)
    copy_project(checkout.root, place.root)
    stack.up(place, echo=echo)
    os.environ.update(stack.environment(place))  # before Prefect is imported, which reads it once
    return stack.with_addresses(place)


def copy_project(source: Path, target: Path) -> None:
    """What defines the project, committed in a git of its own."""
    target.mkdir(parents=True)
    for name in COPIED:
        path = source / name
        if path.is_dir():
            shutil.copytree(path, target / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif path.exists():
            shutil.copy2(path, target / name)
    (target / ".gitignore").write_text("/data\n/.trimtab\n__pycache__/\n")
    git = ["git", "-C", str(target), "-c", "user.name=trimtab", "-c", "user.email=trimtab@localhost"]
    subprocess.run([*git, "init", "--quiet"], check=True)
    subprocess.run([*git, "add", "--all"], check=True)
    subprocess.run([*git, "commit", "--quiet", "-m", "A copy of the project, to be replayed"], check=True)


def replay(
    place: Settings,
    *,
    first: str | None = None,
    last: str | None = None,
    echo: Callable[[str], None],
    up_s: float = 0.0,
) -> dict[str, Any]:
    """Replay the periods from *first* to *last* on the running stack and report; the summary."""
    from deployments.replay import replay as walk
    from deployments.replay import report

    settings = params.load(place.root)
    begin = settings.parse_period(first) if first else settings.first_train.shift(1)
    end = settings.parse_period(last) if last else last_of_year(begin)
    out = place.state / "report"
    out.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    beside = out / "baselines.json"
    beside.unlink(missing_ok=True)
    reader = walk.open_replay(place, stack.ledger_url(place), echo)
    reader.prepare(begin)
    computing = subprocess.Popen(
        [sys.executable, "-m", "deployments.replay.baselines", str(place.root), str(begin), str(end), str(beside)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,  # Ctrl-C is ours to hear: it is ended below, without a traceback of its own
    )
    try:
        reader.walk(begin, end)
        lasted = time.monotonic() - began
        echo("\rwaiting for the baselines")
        if computing.wait(timeout=300):
            raise walk.ReplayStuck("the baselines could not be computed: their error is printed above")
    finally:
        if computing.poll() is None:
            computing.kill()
            computing.wait()
    summary = report.summarize(
        reader, json.loads(beside.read_text()), timings_s={"up": round(up_s, 1), "replay": round(lasted, 1)}
    )
    report.write(summary, out)
    echo("")
    echo(report.table(summary))
    return summary


def last_of_year(first: Period) -> Period:
    """The last period that begins in the year of *first*."""
    period = first
    while period.shift(1).start.year == first.start.year:
        period = period.shift(1)
    return period


def where_to_look(place: Settings) -> str:
    """The pages that are worth a click."""
    prefect = place.prefect_api.removesuffix("/api")
    return "\n".join(
        [
            "Where to look:",
            f"  {prefect}/runs             every flow run, with its artifacts",
            f"  {prefect}/deployments      run one by hand, or watch the schedules",
            f"  {prefect}/automations      what the events start",
            f"  {place.tracking_uri}/#/models         the registered model and its versions",
            f"  {place.model_server}/docs             the model server",
            f"  {place.state / 'report' / 'replay.png'}",
            f"  {place.state / 'report' / 'summary.json'}",
        ]
    )
