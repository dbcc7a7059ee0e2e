"""The verdict service: what telemetry says about a rollout now, for tools that shift traffic themselves
(docs/how-to/verdict-service.md). It changes nothing: `trimtab.rollout.observation` computes the evidence, the flows
move rollouts on, and the routes are in `serving.http.verdict_routes`."""

from __future__ import annotations

import asyncio
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

from serving.exceptions import Overloaded
from stores import rollout_observation
from stores.ledger import Ledger, LedgerUnavailable, Rollout, RolloutStep
from stores.telemetry import TelemetryLocation
from trimtab.rollout.state_machine import (
    FINISHED,
    Observation,
    RolloutPolicy,
    RolloutState,
    current_state,
    next_transition,
)

log = logging.getLogger("trimtab.serving")
Word = Literal["promote", "roll back", "keep collecting"]
_NAME = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_DIGEST = re.compile(r"[0-9a-f]{8,64}")
_MAX_PENDING = 16
_MAX_CACHED = 32
_CACHE_FACTOR = 10  # an answer is kept this many times as long as its computation took


class UnknownRollout(LookupError):
    """No such rollout exists; the text says what to do."""


class Slice(BaseModel):
    """The comparison on the rows where *column* has one *value*."""

    column: str
    value: str
    labels: int
    difference: float | None
    interval: tuple[float, float]
    margin: float
    finding: str


class VerdictResponse(BaseModel):
    """The verdict on a rollout's release, and the numbers that it is based on. Losses are in 0 to 1, so their
    differences are in -1 to 1."""

    rollout: str
    release: str = Field(description="digest of the release that the rollout is about")
    champion: str | None = Field(description="digest of the release that it is compared with")
    state: str = Field(description="started, probed, shadow, canary, champion, closed, rolled back, reverted or ended")
    share: float = Field(description="share of the keys that Trimtab's own servers let the release answer")
    verdict: Word
    successful: bool | None = Field(
        description="true for promote, false for roll back, null while labels are collected"
    )
    ready: bool = Field(description="the shadow has shown enough, and nothing against it, for users to see its answers")
    reason: str
    pairs: int = Field(description="answers that both models gave")
    labels: int = Field(description="pairs with a label, as far as they count in this state")
    exposed: int = Field(description="answers of the release that users got from Trimtab's servers")
    elapsed_days: float = Field(description="data time that went by in this state")
    difference: float | None = Field(description="mean loss of the release less the champion's; negative is better")
    interval: tuple[float, float] | None = Field(
        description="always-valid confidence interval of the difference, at level 1 - alpha"
    )
    margin: float | None = Field(description="how much larger a mean loss still counts as not worse")
    alpha: float | None
    slices: list[Slice] = []
    guardrails: list[str] = Field(description="guardrails that broke, in words")
    stale: bool = Field(description="the ledger or telemetry could not be read just now: this is what was seen last")
    seen_at: str


@dataclass(frozen=True)
class _CachedVerdict:
    """An answer, and until when it counts as fresh (seconds of the monotonic clock)."""

    answer: VerdictResponse
    until: float


class Verdicts:
    """Computes verdicts in one thread, one at a time. Requests for the same rollout share one computation.

    *refused* gives the challengers that the server does not load, with the reason; *fresh_s* is the least time in
    seconds for which an answer is reused.
    """

    def __init__(
        self,
        ledger: Ledger,
        telemetry: TelemetryLocation,
        refused: Callable[[], Mapping[str, str]],
        *,
        fresh_s: float = 1.0,
    ) -> None:
        self._ledger, self._telemetry, self._refused, self._fresh_s = ledger, telemetry, refused, fresh_s
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="verdict")
        self._cache: dict[str, _CachedVerdict] = {}
        self._pending: dict[str, asyncio.Future[VerdictResponse]] = {}
        self._last_observation: tuple[Any, Observation] | None = None

    async def current(self, name: str | None = None) -> VerdictResponse:
        """The verdict on the rollout *name*, or on the newest one of the release whose digest begins with *name*.
        Without a name it is the live rollout, or else the newest. Raises UnknownRollout and Overloaded, and
        LedgerUnavailable or OSError when there is no earlier answer to give instead."""
        key = name or ""
        cached = self._cache.get(key)
        if cached is not None and time.monotonic() < cached.until:
            return cached.answer
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= _MAX_PENDING:
                raise Overloaded
            pending = asyncio.get_running_loop().run_in_executor(self._pool, self._compute, name)
            self._pending[key] = pending
            pending.add_done_callback(lambda done: self._computed(key, done))
        return await asyncio.shield(pending)

    def close(self) -> None:
        """Compute no further verdict."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _computed(self, key: str, done: asyncio.Future[VerdictResponse]) -> None:
        del self._pending[key]
        if not done.cancelled():
            done.exception()  # when all callers are gone no one reads it, and asyncio would log that

    # -- in the thread

    def _compute(self, name: str | None) -> VerdictResponse:
        key, started = name or "", time.monotonic()
        try:
            rollout = self._find(name)
            steps = self._ledger.rollout_steps(rollout.id)
            answer = self._answer(rollout, steps)
        except (LedgerUnavailable, OSError) as trouble:
            cached = self._cache.get(key)
            if cached is None:
                raise
            log.warning("verdict: %s", trouble)
            answer = cached.answer.model_copy(update={"stale": True})
        took = time.monotonic() - started
        self._cache.pop(key, None)
        self._cache[key] = _CachedVerdict(answer, time.monotonic() + max(self._fresh_s, _CACHE_FACTOR * took))
        while len(self._cache) > _MAX_CACHED:
            del self._cache[next(iter(self._cache))]
        return answer

    def _find(self, name: str | None) -> Rollout:
        if name is None:
            current = self._ledger.current_rollout()
            found = [current.rollout] if current is not None else self._ledger.rollouts()
            if not found:
                raise UnknownRollout("there has been no rollout yet: the flow deploy starts one")
            return found[-1]
        if not _NAME.fullmatch(name):
            raise UnknownRollout("no rollout has such a name: GET /verdict shows the one that is live")
        if (rollout := self._ledger.rollout(name)) is not None:
            return rollout
        found = [r for r in self._ledger.rollouts() if _DIGEST.fullmatch(name) and r.release.startswith(name)]
        if not found:
            raise UnknownRollout(
                f"{name} is no rollout and no release that had one: deploy it first, `trimtab history` lists all"
            )
        if len({r.release for r in found}) > 1:
            raise UnknownRollout(f"more than one release begins with {name}: give more of its digest")
        return found[-1]

    def _answer(self, rollout: Rollout, steps: Sequence[RolloutStep]) -> VerdictResponse:
        state = current_state(steps)
        policy = RolloutPolicy.model_validate(rollout.policy) if rollout.policy else None
        recorded: Mapping[str, Any] = steps[-1].evidence if steps else {}
        seen = Observation.model_validate(recorded.get("seen") or {"exposed": state.exposed_before})
        if policy is not None and (state.is_challenging or state.in_probation or state.phase == "experiment"):
            seen = self._observe(rollout, steps)
        refused = self._refused().get(rollout.release)
        if state.is_challenging and refused:
            seen = seen.model_copy(update={"broken": (*seen.broken, f"the model server does not load it: {refused}")})
        verdict, reason = decide(state, seen, policy, recorded)
        overall = seen.evidence.get("overall") or {}
        return VerdictResponse(
            rollout=rollout.id, release=rollout.release, champion=rollout.champion_before, state=state.phase,
            share=state.share, verdict=verdict,
            successful=None if verdict == "keep collecting" else verdict == "promote",
            ready=verdict == "promote" or (verdict == "keep collecting" and is_ready(state, seen, policy)),
            reason=reason, pairs=seen.pairs, labels=seen.labels, exposed=seen.exposed,
            elapsed_days=round(seen.elapsed.total_seconds() / 86_400, 3), difference=overall.get("difference"),
            interval=(overall["low"], overall["high"]) if overall else None, margin=policy.margin if policy else None,
            alpha=policy.alpha if policy else None,
            slices=[_slice(found) for found in seen.evidence.get("slices") or ()], guardrails=list(seen.broken),
            stale=False, seen_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip

    def _observe(self, rollout: Rollout, steps: Sequence[RolloutStep]) -> Observation:
        """The observation from telemetry; the last one while telemetry and the steps have not changed."""
        now = (rollout.id, len(steps), rollout_observation.telemetry_fingerprint(self._telemetry))
        if self._last_observation is None or self._last_observation[0] != now:
            self._last_observation = (now, rollout_observation.observe_rollout(self._telemetry, rollout, steps))
        return self._last_observation[1]


def decide(
    state: RolloutState, seen: Observation, policy: RolloutPolicy | None, recorded: Mapping[str, Any]
) -> tuple[Word, str]:
    """The verdict on a rollout and its reason; *recorded* is the evidence of the rollout's last step. Finished rollouts
    return the recorded outcome, and a promotion stands until its probation reverts it."""
    if state.phase in FINISHED or state.in_probation:
        return _recorded_outcome(state, seen, str(recorded.get("reason", "")))
    if state.phase == "experiment":
        return "keep collecting", f"an experiment decides nothing; so far: {seen.reason}"
    if policy is None or not state.is_challenging:
        return "keep collecting", "it is being loaded and probed"
    transition = next_transition(state, seen, policy)
    if transition is not None and transition.phase == "rolled back":
        return "roll back", transition.reason
    if transition is not None and transition.phase == "champion":
        return "promote", transition.reason
    return seen.verdict, seen.reason


def _recorded_outcome(state: RolloutState, seen: Observation, reason: str) -> tuple[Word, str]:
    if state.in_probation and seen.verdict == "roll back":
        return "roll back", f"labels that came after the promotion: {seen.reason}"
    if state.phase in {"champion", "closed"} or (state.phase == "ended" and state.share >= 1):
        return "promote", reason
    return "roll back", f"it ended without a promotion: {reason}" if state.phase == "ended" else reason


def is_ready(state: RolloutState, seen: Observation, policy: RolloutPolicy | None) -> bool:
    """Whether the shadow has as many pairs and labels as the policy requires before users get the release's answers."""
    if state.phase == "canary":
        return True
    if policy is None or not state.is_challenging:
        return False
    return seen.pairs >= policy.min_answers and seen.labels >= policy.min_labels


def _slice(found: Mapping[str, Any]) -> Slice:
    return Slice(
        column=found["column"], value=found["value"], labels=found["labels"], difference=found["difference"],
        interval=(found["low"], found["high"]), margin=found["margin"], finding=found["finding"],
    )  # fmt: skip
