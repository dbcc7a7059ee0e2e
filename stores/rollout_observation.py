"""Read the telemetry of a rollout and observe it, for the flows that advance it and for the model server's verdicts.

`trimtab.rollout.observation` computes the observation.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from stores import telemetry
from stores.ledger import Rollout, RolloutStep, utc
from stores.telemetry.remote.replica import TelemetryLocation
from trimtab.rollout.state_machine import Observation, RolloutPolicy, current_state

_CLOCKS_APART = timedelta(minutes=10)  # between the database and a server


def observe_rollout(root: TelemetryLocation, rollout: Rollout, steps: Sequence[RolloutStep]) -> Observation:
    """Return the observation of *rollout*, which has taken *steps*, from the telemetry below *root*.

    Raises ObjectStoreError when the telemetry is in an object store that is unavailable.
    """
    from trimtab.rollout import observation

    since = utc(rollout.recorded_at) - _CLOCKS_APART
    pairs = telemetry.pairs(root, rollout=rollout.id, since=since)
    if pairs.empty:
        return Observation()
    assert rollout.champion_before is not None  # there are pairs
    first = pairs["time"].min()
    policy = RolloutPolicy.model_validate(rollout.policy)
    labels = telemetry.labels(root, _moment(first), since=since, rule=policy.label_rule)
    return observation.observe(
        pairs, labels, release=rollout.release, other=rollout.champion_before, at=current_state(steps), policy=policy
    )


def telemetry_fingerprint(root: TelemetryLocation) -> tuple[tuple[str, int], ...]:
    """Return a value that changes when new pairs or labels arrive below *root*. It costs a listing.

    Raises ObjectStoreError when the store has to be listed and is unavailable.
    """
    from stores.telemetry.remote.replica import SharedTelemetry, folder_of
    from stores.telemetry.wal import streams

    found = []
    for stream in (streams.PAIRS, streams.LABELS):
        for name, path in streams.segments(folder_of(root), stream).items():
            with suppress(FileNotFoundError):
                found.append((name, path.stat().st_size))
        if isinstance(root, SharedTelemetry):
            found += [(part.path.name, part.size) for part in root.listed_lately(stream)]
    return tuple(found)


def _moment(time: Any) -> datetime:
    return time.to_pydatetime().replace(microsecond=0)  # type: ignore[no-any-return]
