"""The verdict as a service: what telemetry says of a rollout at this moment, for tools that shift traffic themselves
(docs/how-to/verdict-service.md). This changes nothing: evidence is weighed in `trimtab.rollout.observation`, rollouts
are stepped by the flows, and the routes are `serving.http.verdict_routes`'."""

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
_WAITING = 16
_KEPT = 32
_RESTING = 10  # times as long as the look took


class UnknownRollout(LookupError):
    """There is no such rollout; the text says what to do."""


class Slice(BaseModel):
    """What the labels say where a column has one value."""

    column: str
    value: str
    labels: int
    difference: float | None
    interval: tuple[float, float]
    margin: float
    finding: str


class VerdictResponse(BaseModel):
    """The verdict on a release, and what it rests on. Losses lie in 0 to 1, so differences in -1 to 1."""

    rollout: str
    release: str = Field(description="digest of the release on trial")
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
        description="holds the true difference whenever one looks, at 1 - alpha"
    )
    margin: float | None = Field(description="how much larger a mean loss still counts as not worse")
    alpha: float | None
    slices: list[Slice] = []
    guardrails: list[str] = Field(description="guardrails that broke, in words")
    stale: bool = Field(description="the ledger or telemetry could not be read just now: this is what was seen last")
    seen_at: str


@dataclass(frozen=True)
class _Known:
    """An answer with the time until which it need not be looked for again."""

    answer: VerdictResponse
    until: float


class Verdicts:
    """Answers about rollouts. Looks are made in one thread of their own, one at a time; those who ask for the same one
    meanwhile get the same answer."""

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
        self._known: dict[str, _Known] = {}
        self._pending: dict[str, asyncio.Future[VerdictResponse]] = {}
        self._last_look: tuple[Any, Observation] | None = None

    async def current(self, name: str | None = None) -> VerdictResponse:
        """The verdict on the rollout *name*, or on the newest one of the release whose digest begins with *name*.
        Without a name it is the live rollout, or else the newest. Raises UnknownRollout and Overloaded, and
        LedgerUnavailable or OSError when there is no earlier answer to give instead."""
        key = name or ""
        known = self._known.get(key)
        if known is not None and time.monotonic() < known.until:
            return known.answer
        pending = self._pending.get(key)
        if pending is None:
            if len(self._pending) >= _WAITING:
                raise Overloaded
            pending = asyncio.get_running_loop().run_in_executor(self._pool, self._look, name)
            self._pending[key] = pending
            pending.add_done_callback(lambda done: self._arrived(key, done))
        return await asyncio.shield(pending)

    def close(self) -> None:
        """Make no more looks."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _arrived(self, key: str, done: asyncio.Future[VerdictResponse]) -> None:
        del self._pending[key]
        if not done.cancelled():
            done.exception()  # whoever asked may be gone, and nobody else looks

    # -- in the thread

    def _look(self, name: str | None) -> VerdictResponse:
        key, began = name or "", time.monotonic()
        try:
            row = self._find(name)
            steps = self._ledger.rollout_steps(row.id)
            answer = self._answer(row, steps)
        except (LedgerUnavailable, OSError) as trouble:
            known = self._known.get(key)
            if known is None:
                raise
            log.warning("verdict: %s", trouble)
            answer = known.answer.model_copy(update={"stale": True})
        took = time.monotonic() - began
        self._known.pop(key, None)
        self._known[key] = _Known(answer, time.monotonic() + max(self._fresh_s, _RESTING * took))
        while len(self._known) > _KEPT:
            del self._known[next(iter(self._known))]
        return answer

    def _find(self, name: str | None) -> Rollout:
        if name is None:
            live = self._ledger.live()
            row = self._ledger.rollout(live.rollout) if live is not None and live.rollout else None
            rows = [row] if row is not None else self._ledger.rollouts()
            if not rows:
                raise UnknownRollout("there has been no rollout yet: the flow deploy begins one")
            return rows[-1]
        if not _NAME.fullmatch(name):
            raise UnknownRollout("no rollout has such a name: GET /verdict tells the one that is live")
        if (row := self._ledger.rollout(name)) is not None:
            return row
        rows = [r for r in self._ledger.rollouts() if _DIGEST.fullmatch(name) and r.release.startswith(name)]
        if not rows:
            raise UnknownRollout(
                f"{name} is no rollout and no release that had one: deploy it first, `trimtab history` lists all"
            )
        if len({r.release for r in rows}) > 1:
            raise UnknownRollout(f"more than one release begins with {name}: give more of its digest")
        return rows[-1]

    def _answer(self, row: Rollout, steps: Sequence[RolloutStep]) -> VerdictResponse:
        at = current_state(steps)
        terms = RolloutPolicy.model_validate(row.policy) if row.policy else None
        told: Mapping[str, Any] = steps[-1].evidence if steps else {}
        seen = Observation.model_validate(told.get("seen") or {"exposed": at.exposed_before})
        if terms is not None and (at.is_challenging or at.in_probation or at.phase == "experiment"):
            seen = self._seen(row, steps)
        refused = self._refused().get(row.release)
        if at.is_challenging and refused:
            seen = seen.model_copy(update={"broken": (*seen.broken, f"the model server will not have it: {refused}")})
        word, reason = concluded(at, seen, terms, told)
        overall = seen.evidence.get("overall") or {}
        return VerdictResponse(
            rollout=row.id, release=row.release, champion=row.champion_before, state=at.phase, share=at.share,
            verdict=word, successful=None if word == "keep collecting" else word == "promote",
            ready=word == "promote" or (word == "keep collecting" and shown_enough(at, seen, terms)), reason=reason,
            pairs=seen.pairs, labels=seen.labels, exposed=seen.exposed,
            elapsed_days=round(seen.elapsed.total_seconds() / 86_400, 3), difference=overall.get("difference"),
            interval=(overall["low"], overall["high"]) if overall else None, margin=terms.margin if terms else None,
            alpha=terms.alpha if terms else None, slices=[_slice(found) for found in seen.evidence.get("slices") or ()],
            guardrails=list(seen.broken), stale=False, seen_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
        )  # fmt: skip

    def _seen(self, row: Rollout, steps: Sequence[RolloutStep]) -> Observation:
        """What telemetry says; not asked again while nothing has come in."""
        now = (row.id, len(steps), rollout_observation.telemetry_fingerprint(self._telemetry))
        if self._last_look is None or self._last_look[0] != now:
            self._last_look = (now, rollout_observation.observe_rollout(self._telemetry, row, steps))
        return self._last_look[1]


def concluded(
    at: RolloutState, seen: Observation, terms: RolloutPolicy | None, told: Mapping[str, Any]
) -> tuple[Word, str]:
    """The verdict and its reason for a rollout that stands *at*, whose last step *told* so. What is over is what it was
    decided to be; a promotion stands until its probation says otherwise."""
    if at.phase in FINISHED or at.in_probation:
        return _decided(at, seen, str(told.get("reason", "")))
    if at.phase == "experiment":
        return "keep collecting", f"an experiment decides nothing; so far: {seen.reason}"
    if terms is None or not at.is_challenging:
        return "keep collecting", "it is being loaded and probed"
    move = next_transition(at, seen, terms)
    if move is not None and move.phase == "rolled back":
        return "roll back", move.reason
    if move is not None and move.phase == "champion":
        return "promote", move.reason
    return seen.verdict, seen.reason


def _decided(at: RolloutState, seen: Observation, reason: str) -> tuple[Word, str]:
    if at.in_probation and seen.verdict == "roll back":
        return "roll back", f"labels that came after the promotion: {seen.reason}"
    if at.phase in {"champion", "closed"} or (at.phase == "ended" and at.share >= 1):
        return "promote", reason
    return "roll back", f"it ended without a promotion: {reason}" if at.phase == "ended" else reason


def shown_enough(at: RolloutState, seen: Observation, terms: RolloutPolicy | None) -> bool:
    """Whether a release that nothing speaks against has scored, and been labelled, as much as its rules ask for before
    the first user sees it."""
    if at.phase == "canary":
        return True
    return (
        terms is not None and at.is_challenging and seen.pairs >= terms.min_answers and seen.labels >= terms.min_labels
    )


def _slice(found: Mapping[str, Any]) -> Slice:
    return Slice(
        column=found["column"], value=found["value"], labels=found["labels"], difference=found["difference"],
        interval=(found["low"], found["high"]), margin=found["margin"], finding=found["finding"],
    )  # fmt: skip
