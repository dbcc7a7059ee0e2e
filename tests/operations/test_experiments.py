"""An experiment on a real ledger, real bundles and real telemetry: it begins once, ends once, and gives the champion
from before back. What is told of it (pages, events, MLflow) is for the end-to-end test."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from operations import experiment_reports, experiments, live
from operations.context import ProjectContext
from operations.rollout_start import policy_for
from operations.targets.contract import pending_rollout
from stores.ledger import ConflictError, Ledger, RolloutStep
from stores.ledger.migrations import migrate
from stores.telemetry import Recorder
from tasks import model_server, orchestrator
from tests.serving.sample_project import tiny_bundle
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings
from trimtab.experiment.report import ExperimentPlan
from trimtab.rollout.assignment import bucket
from trimtab.rollout.state_machine import current_state


@pytest.fixture(scope="module")
def releases(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with three releases, and their digests."""
    folder = tmp_path_factory.mktemp("bundles") / "releases"
    return folder, [tiny_bundle(folder, version=v, seed=v).digest for v in (1, 2, 3)]


@pytest.fixture(autouse=True)
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What people would have been told of, were Prefect and MLflow there."""
    heard: list[str] = []
    monkeypatch.setattr(live, "follow", lambda _ctx, now: heard.append(now.move))
    monkeypatch.setattr(
        experiment_reports, "log_report", lambda _ctx, id, found, text: f"http://{id}/{found.state}/{len(text)}"
    )
    monkeypatch.setattr(orchestrator, "emit", lambda event, **_: heard.append(event))
    monkeypatch.setattr(orchestrator, "show_markdown", lambda *_, **__: None)
    return heard


class Users:
    """A project with a champion and two releases to try, and users who ask."""

    def __init__(self, folder: Path, releases: tuple[Path, list[str]]) -> None:
        (folder / "releases").symlink_to(releases[0])
        self.champion, self.a, self.b = releases[1]
        self.ledger = Ledger(f"sqlite:///{folder / 'ledger.db'}")
        migrate(self.ledger)
        self.settings = Settings(project=folder, home=folder, server_port=1)  # where no server is
        self.ctx = ProjectContext(self.settings, sample_rows.params(rollout={"margin": 0.05}), self.ledger)
        for version, digest in enumerate(releases[1], 1):
            self.ledger.record_release(digest, model_name="m", model_version=version, run_id="r", manifest={})
        self.ledger.switch(self.champion, expected=0, move="promote", reason="first", actor="a")
        self.recorder = Recorder(self.settings.telemetry)
        self.random = np.random.default_rng(0)
        self.day = 0

    def plan(self, **changes: Any) -> ExperimentPlan:
        return ExperimentPlan.model_validate({"a": self.a, "b": self.b, "share": 0.4, "duration": "7d", **changes})

    def begin(self, *, instead: bool = False, **changes: Any) -> ExperimentPlan:
        plan = self.plan(**changes)
        experiments.begin(self.ctx, plan, instead=instead)
        return plan

    def state(self, plan: ExperimentPlan) -> str:
        return current_state(self.ledger.rollout_steps(plan.id)).phase

    def live(self) -> tuple[str, str | None, float, str]:
        now = self.ledger.live()
        assert now is not None
        return now.champion, now.challenger, now.challenger_share, now.move

    def ask(self, plan: ExperimentPlan, rows: int = 100, *, errors: int = 0) -> None:
        """A day of answers, pairs and labels; A is right with 0.6, B with 0.8."""
        self.day += 1
        times = [_us(self.day) + i for i in range(rows)]
        ids = self.recorder.new_ids(times)
        truth = self.random.random(rows) < 0.5
        said = [np.where((self.random.random(rows) < skill) == truth, 0.8, 0.2) for skill in (0.6, 0.8)]
        said = [p + self.random.uniform(-0.01, 0.01, rows) for p in said]
        keys = [f"k{n}" for n in self.random.integers(0, 300, rows)]
        by_b = np.array([bucket(plan.id, key) < plan.share for key in keys])
        wrong = ["KeyError: 'HA'"] * errors + [None] * (rows - errors)
        common: dict[str, Any] = {"received_us": _us(self.day), "rollout": plan.id}
        for arm, mask, propensity in (("champion", ~by_b, 1 - plan.share), ("challenger", by_b, plan.share)):
            places = np.flatnonzero(mask).tolist()
            self.recorder.predictions(
                **common, release=plan.b if arm == "challenger" else plan.a, arm=arm,
                times_us=[times[i] for i in places], numbers={}, texts={"who": [keys[i] for i in places]},
                prediction=said[arm == "challenger"][mask], propensity=propensity, ids=[ids[i] for i in places],
            )  # fmt: skip
        self.recorder.pairs(
            **common, champion=plan.a, challenger=plan.b, ids=ids, times_us=times, by_challenger=by_b,
            champion_prediction=said[0], champion_us=100.0, challenger_us=100.0,
            challenger_prediction=np.where([e is not None for e in wrong], np.nan, said[1]),
            errors=wrong if errors else None,
        )  # fmt: skip
        self.recorder.labels(ids, truth.astype(float).tolist(), received_us=_us(self.day), times_us=[None] * rows)


def _us(day: int) -> int:
    """Now, and *day* days more: both the data time and the time of arrival."""
    base = datetime.now().astimezone().replace(microsecond=0)
    return int((base + timedelta(days=day)).timestamp() * 1_000_000)


@pytest.fixture
def users(tmp_path: Path, releases: tuple[Path, list[str]]) -> Iterator[Users]:
    made = Users(tmp_path, releases)
    yield made
    made.recorder.close()


def test_it_begins_in_one_switch_and_gives_the_champion_back_when_its_time_is_over(
    users: Users, told: list[str]
) -> None:
    plan = users.begin()
    assert users.live() == (users.a, users.b, 0.4, "experiment")
    for _ in range(7):
        users.ask(plan)
        assert experiments.end_finished(users.ctx) == []
    for _ in range(2):
        users.ask(plan)
    assert experiments.end_finished(users.ctx) == [f"experiment {plan.title} ended: 7d of data went by"]
    assert users.live() == (users.champion, None, 0.0, "close")
    assert [entry.move for entry in users.ledger.history()] == ["promote", "experiment", "close"]
    assert [step.state for step in users.ledger.rollout_steps(plan.id)] == ["experiment", "ended"]
    assert told == ["experiment", "close", "trimtab.experiment.ended"]
    assert experiments.end_finished(users.ctx) == []


def test_the_report_is_made_of_what_telemetry_holds_also_when_labels_come_after_the_end(users: Users) -> None:
    plan = users.begin()
    for _ in range(3):
        users.ask(plan, 200)
    running = experiment_reports.report(users.ctx, plan.id)
    assert (running.state, running.pairs, running.effect.labels) == ("running", 600, 600)
    assert running.a.answers + running.b.answers == 600
    assert running.effect.finding == "B is better"
    assert running.sample_ratio.unit == "keys"
    assert running.sample_ratio.holds
    experiments.end(users.ctx, plan.id, "enough seen")
    users.ask(plan, 100)
    ended = experiment_reports.report(users.ctx, plan.id)
    assert (ended.state, ended.reason, ended.effect.labels) == ("ended", "enough seen", 700)


@pytest.mark.parametrize("errors", [2, 3])
def test_a_b_that_fails_ends_it_at_once(users: Users, errors: int) -> None:
    plan = users.begin()
    users.ask(plan, errors=errors)
    done = experiments.end_finished(users.ctx)
    if errors == 2:  # as many as the guardrail allows
        assert done == []
        return
    assert users.state(plan) == "ended"
    assert users.live() == (users.champion, None, 0.0, "close")
    assert "guardrail: it failed on 3 of 100" in users.ledger.history()[-1].reason
    assert [alert.kind for alert in users.ledger.alerts()] == ["experiment ended"]


def test_of_many_that_end_it_at_once_one_does(users: Users) -> None:
    plan = users.begin()
    barrier = threading.Barrier(6)

    def end(_: int) -> int:
        barrier.wait()
        return experiments.end(users.ctx, plan.id, "by hand").version

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(end, range(6))) == {3}
    assert [entry.move for entry in users.ledger.history()] == ["promote", "experiment", "close"]


def test_the_same_again_starts_nothing_and_another_under_its_name_is_refused(users: Users) -> None:
    plan = users.begin(name="mine")
    assert experiments.has_begun(users.ctx, plan)
    experiments.end(users.ctx, plan.id, "by hand")
    assert experiments.has_begun(users.ctx, plan), "also when it has ended"
    for other in ({"share": 0.5}, {"duration": "8d"}, {"b": users.champion}):
        with pytest.raises(experiments.NotStarted, match="another experiment mine"):
            experiments.has_begun(users.ctx, users.plan(name="mine", **other))


def test_one_that_was_interrupted_before_the_switch_begins_when_asked_again(users: Users) -> None:
    plan = users.plan()
    terms = policy_for(users.ctx, plan.a, plan.b).model_dump(mode="json")
    users.ledger.start_rollout(
        plan.id, release=plan.b, champion_before=plan.a, strategy="experiment", cause="c", policy=terms
    )
    assert pending_rollout(users.ledger) is None, "an experiment that was cut short is no rollout to go on with"
    assert experiments.end_finished(users.ctx) == []
    assert not experiments.has_begun(users.ctx, plan)
    users.begin()
    assert users.state(plan) == "experiment"


def test_while_one_is_open_another_needs_instead(users: Users) -> None:
    first = users.begin(name="first")
    with pytest.raises(experiments.NotStarted, match="experiment first goes on: wait, or end it with --instead"):
        users.begin(name="second")
    second = users.begin(name="second", a=users.b, b=users.a, instead=True)
    assert (users.state(first), users.state(second)) == ("ended", "experiment")
    assert "superseded" in users.ledger.rollout_steps(first.id)[-1].evidence["reason"]
    experiments.end(users.ctx, second.id, "by hand")
    assert users.live()[0] == users.champion, "not the first one's A"


@pytest.mark.parametrize(
    ("state", "champion", "challenger", "words"),
    [("shadow", 0, 1, "is being tried"), ("canary", 0, 1, "is being tried"), ("champion", 1, 0, "is in probation")],
)
def test_a_release_tried_or_in_probation_comes_first(
    users: Users, state: str, champion: int, challenger: int, words: str
) -> None:
    pair = (users.champion, users.b)
    users.ledger.start_rollout("r", release=users.b, champion_before=users.champion, strategy="rollout", cause="c")
    users.ledger.switch(
        pair[champion], expected=1, move=state, reason="r", actor="a", rollout="r", challenger=pair[challenger],
        step=RolloutStep("r", 1, state, {"share": 0.2}),
    )  # fmt: skip
    with pytest.raises(experiments.NotStarted, match=f"release {users.b[:12]} {words}"):
        users.begin()
    users.begin(instead=True)
    assert users.live() == (users.a, users.b, 0.4, "experiment")


def test_another_switch_ends_it_and_stands(users: Users) -> None:
    plan = users.begin()
    users.ledger.switch(users.b, expected=2, move="promote", reason="by hand", actor="a")
    reason = f"superseded: promote of {users.b[:12]}"
    assert experiments.end_finished(users.ctx) == [f"experiment {plan.title} ended: {reason}"]
    assert users.live() == (users.b, None, 0.0, "promote")
    assert experiments.end_running(users.ctx, "again") is None


def test_ending_it_for_a_deploy_gives_the_champion_back(users: Users) -> None:
    plan = users.begin()
    before = users.ledger.live()
    assert before is not None
    assert experiments.baseline_champion(users.ctx, before) == users.champion
    now = experiments.end_running(users.ctx, "a release is to be deployed")
    assert now is not None
    assert (now.champion, now.challenger, users.state(plan)) == (users.champion, None, "ended")
    assert experiments.baseline_champion(users.ctx, now) == users.champion


def test_a_race_for_the_beginning_has_one_winner(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = users.ledger.live()
    users.begin(name="first")
    monkeypatch.setattr(users.ledger, "live", lambda: seen)
    with pytest.raises(ConflictError):
        users.begin(name="second")


@contextmanager
def damaged(users: Users, digest: str) -> Iterator[None]:
    """One file of the bundle is not what it was."""
    card = users.settings.releases / digest / "card.md"
    kept = card.read_bytes()
    card.chmod(0o644)
    card.write_bytes(b"damaged")
    try:
        yield
    finally:
        card.write_bytes(kept)


def test_with_its_bundle_damaged_meanwhile_the_champion_from_before_does_not_come_back(users: Users) -> None:
    plan = users.begin()
    with damaged(users, users.champion):
        experiments.end(users.ctx, plan.id, "by hand")
    assert users.live() == (users.a, None, 0.0, "close")


def test_a_release_that_cannot_be_loaded_leaves_nothing_behind(users: Users) -> None:
    with (
        damaged(users, users.a),
        pytest.raises(experiments.NotStarted, match=r"A \(\w+\) cannot answer users: .*card.md"),
    ):
        experiments.load_and_probe(users.ctx, users.plan())
    assert users.ledger.rollouts() == []


def test_a_b_that_the_server_refuses_ends_it(users: Users, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = users.begin()
    monkeypatch.setattr(
        model_server, "refusal_reason", lambda _server, digest: "it killed me" if digest == users.b else None
    )
    assert "will not have B: it killed me" in experiments.end_finished(users.ctx)[0]
    assert users.state(plan) == "ended"


def test_one_is_found_by_its_name_or_as_the_newest(users: Users) -> None:
    with pytest.raises(experiment_reports.NoSuchExperiment, match="no experiment yet"):
        experiments.find(users.ctx, None)
    plan = users.begin(name="mine")
    for name in (None, "mine", plan.id):
        assert experiments.find(users.ctx, name).id == plan.id
    with pytest.raises(experiment_reports.NoSuchExperiment, match=r"no experiment other \(known: mine\)"):
        experiments.find(users.ctx, "other")


def test_a_rollback_ends_it_and_goes_no_further_back(users: Users) -> None:
    plan = users.begin()
    now = experiments.end_running(users.ctx, "by hand")
    assert now is not None
    assert now.version == 3
    assert users.live() == (users.champion, None, 0.0, "close")
    assert users.state(plan) == "ended"
    assert experiments.end_running(users.ctx, "by hand") is None
