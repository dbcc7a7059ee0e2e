"""A rollout's steps on a real ledger and real telemetry: taken once, whichever run takes them.
What is told of them (events, aliases, pages) is for the end-to-end tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operations import announcements, rollouts
from operations.context import ProjectContext
from operations.live import current_trial
from stores import rollout_observation, telemetry
from stores.ledger import Ledger, RolloutStep
from stores.ledger.migrations import migrate
from stores.object_store.store import StoreUnavailable
from stores.releases.bundle import UnreachableRelease
from stores.releases.store import ReleaseStore
from stores.telemetry import Recorder
from tasks import model_server
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings
from trimtab.rollout.state_machine import RolloutPolicy, current_state

OLD, NEW = "0" * 64, "1" * 64
ID = "new-after-1-1"
POLICY = RolloutPolicy(
    task="binary", steps=(0.2, 0.5), min_labels=100, min_answers=50, margin=0.01, probation=timedelta(days=20)
)


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The steps that would have been told."""
    heard: list[str] = []
    monkeypatch.setattr(rollouts, "_damage", lambda _ctx, _digest: None)  # these releases are digests only
    monkeypatch.setattr(
        announcements, "announce", lambda _ctx, _rollout, state, _reason, _live: heard.append(state.title)
    )
    return heard


class Trial:
    """A rollout in the shadow, and users who ask."""

    def __init__(self, folder: Path) -> None:
        ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        migrate(ledger)
        settings = Settings(project=folder, home=folder, server_port=1)  # where no server is
        self.ctx = ProjectContext(settings, sample_rows.params(), ledger)
        for digest in (OLD, NEW):
            ledger.record_release(digest, model_name="m", model_version=1, run_id="r", manifest={})
        first = ledger.switch(OLD, expected=0, move="promote", reason="first", actor="a")
        ledger.start_rollout(
            ID, release=NEW, champion_before=OLD, strategy="rollout", cause="c", policy=POLICY.model_dump(mode="json")
        )
        ledger.step_rollout(ID, 1, "started")
        ledger.step_rollout(ID, 2, "probed")
        ledger.switch(
            OLD, expected=first.version, move="shadow", reason="c", actor="a", rollout=ID, challenger=NEW,
            step=RolloutStep(ID, 3, "shadow", {"share": 0.0}),
        )  # fmt: skip
        self.recorder = Recorder(settings.telemetry)
        self.random = np.random.default_rng(0)
        self.day = 0

    @property
    def state(self) -> str:
        return current_state(self.ctx.ledger.rollout_steps(ID)).title

    def users(self, rows: int = 200, *, skill: float, errors: int = 0, labelled: bool = True) -> None:
        """A day of pairs: the challenger is right with *skill*, the other with 0.7."""
        live = self.ctx.ledger.live()
        assert live is not None
        assert live.challenger is not None
        truth = self.random.random(rows) < 0.5
        said = {OLD: self._said(truth, 0.7), NEW: self._said(truth, skill)}
        self.day += 1
        times = [_us(self.day) + i for i in range(rows)]
        ids = self.recorder.new_ids(times)
        wrong = ["KeyError: 'HA'"] * errors + [None] * (rows - errors)
        self.recorder.pairs(
            rollout=ID, champion=live.champion, challenger=live.challenger, received_us=_us(self.day), ids=ids,
            times_us=times, by_challenger=self.random.random(rows) < live.challenger_share,
            champion_prediction=said[live.champion],
            challenger_prediction=np.where([e is not None for e in wrong], np.nan, said[live.challenger]),
            errors=wrong if errors else None, champion_us=100.0, challenger_us=100.0,
        )  # fmt: skip
        if labelled:
            self.recorder.labels(ids, truth.astype(float).tolist(), received_us=_us(self.day), times_us=[None] * rows)

    def _said(self, truth: Any, skill: float) -> Any:
        is_right = self.random.random(len(truth)) < skill
        return np.where(is_right == truth, 0.8, 0.2) + self.random.uniform(-0.01, 0.01, len(truth))

    def advance(self) -> str:
        return rollouts.advance(self.ctx, ID).state.title


def _us(day: int) -> int:
    """Now, and *day* days more: both the data time and the time of arrival."""
    base = datetime.now().astimezone().replace(microsecond=0)
    return int((base + timedelta(days=day)).timestamp() * 1_000_000)


@pytest.fixture
def trial(tmp_path: Path) -> Iterator[Trial]:
    made = Trial(tmp_path)
    yield made
    made.recorder.close()


def test_the_current_trial_is_the_rollout_of_the_challenger(trial: Trial) -> None:
    found = current_trial(trial.ctx)
    assert found is not None
    assert found.rollout.id == ID
    trial.ctx.ledger.switch(NEW, expected=2, move="promote", reason="by hand", actor="a")
    assert current_trial(trial.ctx) is None


def test_a_better_release_becomes_champion_one_step_at_a_time(trial: Trial, told: list[str]) -> None:
    ways = []
    for _ in range(12):
        trial.users(skill=0.85)
        ways.append(trial.advance())
        if ways[-1] == "champion":
            break
    assert list(dict.fromkeys(ways)) == ["canary 20%", "canary 50%", "champion"]
    assert told == ["canary 20%", "canary 50%", "champion"]
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.challenger, live.challenger_share, live.rollout) == (NEW, OLD, 0.0, ID)
    looks = trial.ctx.ledger.observations(ID)
    assert [look.number for look in looks] == list(range(1, len(looks) + 1))
    assert looks[-1].verdict == "promote"
    last = trial.ctx.ledger.rollout_steps(ID)[-1].evidence
    assert last["seen"]["labels"] == looks[-1].labels
    assert last["exposed"] > 0


def test_a_worse_release_is_rolled_back_before_it_answers_users(trial: Trial) -> None:
    while trial.state == "shadow":
        trial.users(50, skill=0.3)
        trial.advance()
    assert trial.state == "rolled back"
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.challenger, live.move) == (OLD, None, "rollback")
    assert "users had got 0 of its answers" in live.reason
    assert trial.ctx.ledger.rollout_steps(ID)[-1].evidence["exposed"] == 0


def test_a_release_that_raises_is_rolled_back_without_labels(trial: Trial) -> None:
    trial.users(100, skill=0.9, errors=3, labelled=False)
    assert trial.advance() == "rolled back"
    assert "KeyError" in trial.ctx.ledger.history()[-1].reason


def test_repeated_observations_of_the_same_telemetry_change_nothing(trial: Trial) -> None:
    trial.users(60, skill=0.8)
    for _ in range(3):
        assert trial.advance() == "shadow"
    assert len(trial.ctx.ledger.observations(ID)) == 1
    assert len(trial.ctx.ledger.history()) == 2


def test_of_many_concurrent_runs_one_takes_the_step(trial: Trial, told: list[str]) -> None:
    trial.users(200, skill=0.8)
    barrier = threading.Barrier(6)

    def look(_: int) -> str:
        barrier.wait()
        return trial.advance()

    with ThreadPoolExecutor(6) as pool:
        found = set(pool.map(look, range(6)))
    assert found <= {"canary 20%", "canary 50%"}
    steps = [step.state for step in trial.ctx.ledger.rollout_steps(ID)]
    assert steps == ["started", "probed", "shadow", "canary"]
    assert told == ["canary 20%"]


def test_another_promotion_ends_the_rollout(trial: Trial) -> None:
    third = "2" * 64
    trial.ctx.ledger.record_release(third, model_name="m", model_version=2, run_id="r", manifest={})
    trial.ctx.ledger.switch(third, expected=2, move="promote", reason="by hand", actor="a")
    assert trial.advance() == "ended"
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.version) == (third, 3)
    assert rollouts.list_open(trial.ctx) == []


def test_labels_that_come_after_the_promotion_can_revert_it_and_the_regret_is_kept(trial: Trial) -> None:
    while trial.state != "champion":
        trial.users(skill=0.85)
        trial.advance()
    exposed = trial.ctx.ledger.rollout_steps(ID)[-1].evidence["exposed"]
    assert [at.in_probation for _, at in rollouts.list_open(trial.ctx)] == [True]
    answers = 0
    while trial.state == "champion":
        trial.users(100, skill=0.4)
        answers += 100
        trial.advance()
    assert trial.state == "reverted"
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.challenger, live.move) == (OLD, None, "rollback")
    regret = trial.ctx.ledger.rollout_steps(ID)[-1].evidence["exposed"]
    assert regret == exposed + answers
    assert f"users had got {regret:,} of its answers" in live.reason


def test_the_probation_closes_when_its_time_is_over(trial: Trial) -> None:
    while trial.state != "champion":
        trial.users(skill=0.85)
        trial.advance()
    for _ in range(23):
        trial.users(20, skill=0.85)
    assert trial.advance() == "closed"
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.challenger, live.move) == (NEW, None, "close")


def test_a_bundle_that_was_damaged_on_disk_meanwhile_is_never_promoted(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(announcements, "announce", lambda *_: None)
    while trial.state not in ("champion", "rolled back"):
        trial.users(skill=0.85)
        trial.advance()
    assert trial.state == "rolled back"
    assert "no bundle" in trial.ctx.ledger.history()[-1].reason


class UnavailableStore:
    """A store and its telemetry that do not answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(rollout_observation, "observe_rollout", self)
        monkeypatch.setattr(ProjectContext, "releases", self)

    def __call__(self, *_: object) -> None:
        raise StoreUnavailable("s3://store/telemetry", "no answer")

    def get(self, digest: str) -> None:
        raise UnreachableRelease(digest, "no answer")


def test_without_the_store_a_release_that_the_servers_refuse_goes_and_others_wait(
    trial: Trial, monkeypatch: pytest.MonkeyPatch
) -> None:
    UnavailableStore(monkeypatch)
    with pytest.raises(StoreUnavailable):
        trial.advance()
    assert trial.state == "shadow"
    monkeypatch.setattr(model_server, "refusal_reason", lambda _server, _digest: "it ended two processes")
    assert trial.advance() == "rolled back"


def test_without_the_store_a_person_can_take_a_release_back(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    UnavailableStore(monkeypatch)
    assert rollouts.end_current(trial.ctx, "it is bad") is not None
    live = trial.ctx.ledger.live()
    assert live is not None
    assert (live.champion, live.challenger) == (OLD, None)
    assert "it is bad (the store is away" in live.reason


@pytest.mark.parametrize("poison", ["late", "", "x" * 5000, 5, -1e308, "NaN", "inf"])
def test_a_label_that_is_none_counts_as_missing_and_stops_nothing(trial: Trial, poison: str | float) -> None:
    """It came in before labels were checked, or another way than by the model server."""
    ctx, now = trial.ctx, time.time_ns() // 1000
    rollout = ctx.ledger.rollout(ID)
    assert rollout is not None
    trial.users(skill=0.9)
    seen = rollout_observation.observe_rollout(ctx.telemetry, rollout, ctx.ledger.rollout_steps(ID))
    trial.users(rows=20, skill=0.9, labelled=False)
    unlabelled = telemetry.pairs(ctx.telemetry)["prediction_id"].tolist()[-20:]
    trial.recorder.labels(unlabelled, [poison] * 20, received_us=now, times_us=[None] * 20)
    again = rollout_observation.observe_rollout(ctx.telemetry, rollout, ctx.ledger.rollout_steps(ID))
    assert (again.labels, again.verdict) == (seen.labels, seen.verdict)
    assert trial.advance() == "canary 20%"


def test_evidence_that_cannot_be_read_stops_no_rollback(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreadable(*_: object) -> None:
        raise ValueError("could not convert string to float: 'late'")

    monkeypatch.setattr(rollout_observation, "observe_rollout", unreadable)
    monkeypatch.setattr(ReleaseStore, "get", lambda *_: None)
    assert rollouts.end_current(trial.ctx, "it is bad") is not None
    live = trial.ctx.ledger.live()
    assert live is not None and (live.champion, live.challenger) == (OLD, None)
    assert "its evidence cannot be read" in live.reason
