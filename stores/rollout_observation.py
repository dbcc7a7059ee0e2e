"""What telemetry says of a rollout now, for whoever wants to know: the flows that step it, and the model server, which
tells other tools. How it is weighed is `trimtab.rollout.observation`'s business."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from stores import telemetry
from stores.ledger import Rollout, RolloutStep, utc
from stores.telemetry.remote.replica import Where
from trimtab.rollout.state_machine import Observation, RolloutPolicy, current_state

_CLOCKS_APART = timedelta(minutes=10)  # the database's clock and a server's


def observe_rollout(root: Where, rollout: Rollout, steps: Sequence[RolloutStep]) -> Observation:
    """What was seen of *rollout* (with its *steps*) in the telemetry below *root*."""
    from trimtab.rollout import observation

    since = utc(rollout.recorded_at) - _CLOCKS_APART
    pairs = telemetry.pairs(root, rollout=rollout.id, since=since)
    if pairs.empty:
        return Observation()
    assert rollout.champion_before is not None  # there are pairs
    first = pairs["time"].min()
    labels = telemetry.labels(root, _moment(first), since=since)
    return observation.observe(
        pairs, labels, release=rollout.release, other=rollout.champion_before, at=current_state(steps),
        policy=RolloutPolicy.model_validate(rollout.policy),
    )  # fmt: skip


def telemetry_fingerprint(root: Where) -> tuple[tuple[str, int], ...]:
    """Changes whenever there may be more to see below *root* than before; costs a listing. Raises ObjectsError when
    the store has to be asked and does not answer."""
    from stores.telemetry.parquet import files
    from stores.telemetry.remote.replica import Mirror, folder_of

    found = []
    for stream in (files.PAIRS, files.LABELS):
        for name, path in files.segments(folder_of(root), stream).items():
            with suppress(FileNotFoundError):
                found.append((name, path.stat().st_size))
        if isinstance(root, Mirror):
            found += [(part.path.name, part.size) for part in root.listed_lately(stream)]
    return tuple(found)


def _moment(time: Any) -> datetime:
    return time.to_pydatetime().replace(microsecond=0)  # type: ignore[no-any-return]
