"""Bad releases, sent out past the gate on the running stack: each is caught by what the docs say
(docs/design/bad-releases.md), the champion answers, and every answer is accounted
for. Beside them, releases that nobody may take back."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from stores.releases.bundle import Bundle
from tasks import sources
from tests.conftest import Stack
from tests.e2e.conftest import changed_params, ended, same_champion, started
from tests.faulty_models import releases
from tests.faulty_models.releases import Maker, faulty_models
from tests.faulty_models.rollout_scenario import RolloutScenario, ScenarioResult
from tests.waiting import eventually
from trimtab.config import params
from trimtab.data.periods import span

pytestmark = pytest.mark.e2e

MONTH = "2013-07"
MAY_BE_ASKED_MEANWHILE = 500  # half a day's rows: a run beside the one that is waited for may take the step
RULES = {
    "steps": [0.25, 0.5], "alpha": 0.05, "min_labels": 300, "min_answers": 50,
    "slices": {"origin": 0.02}, "min_slice_labels": 100, "horizon": "28d", "on_inconclusive": "keep",
    "probation": "28d",
    "guardrails": {"latency_ms": 80.0},
}  # fmt: skip
MARGINS = {"max_regression": 0.01, "slices": {"origin": 0.02}}


@dataclass(frozen=True)
class Case:
    """A release, and what has to become of it: the *state*, words of the *reason*, and *seen* by users or not."""

    name: str
    make: Callable[[Maker], Bundle]
    reason: str
    seen: bool = False


CHALLENGERS = (
    Case("labels shuffled in training", releases.shuffled, r"^worse", seen=True),
    Case("a feature encoded differently", releases.encoded, r"^worse", seen=True),
    Case("correct but 20 times slower", releases.slow, r"takes .* ms or more, of the champion.s"),
    Case("raises on one carrier", releases.raising, r"it failed on .* requests that the champion answered: KeyError"),
    Case("NaN for some rows", releases.gaps, r"answers are no number"),
    Case("constant", releases.constant, r"it gives the same answer to everything: 0\.3"),
    Case("better overall, worse in one slice", releases.harmful, r"^worse .*where origin is LGA", seen=True),
    Case("better overall, worse in a slice where it shows late", releases.harmful_later, r"origin is LGA", seen=True),
)


@pytest.fixture(scope="module")
def maker(stack: Stack) -> Iterator[Maker]:
    """Releases beside the champion, who is champion again afterwards; the rules are such that a trial takes days."""
    project = params.load(stack.settings.root)

    def rows(first: str, last: str) -> pd.DataFrame:
        periods = span(project.parse_period(first), project.parse_period(last))
        found = [sources.fetch(stack.settings.root, project, period) for period in periods]
        known = pd.concat(found, ignore_index=True)
        return known[known[project.columns.target].notna()].sort_values(project.columns.time, ignore_index=True)

    def change(values: dict[str, Any]) -> None:
        values["rollout"].update(RULES)
        values["gate"].update(MARGINS)

    with same_champion(stack) as champion, changed_params(stack, change):
        yield Maker(
            stack.settings.releases, stack.ledger, champion, project, stack.settings.root,
            rows=rows("2013-01", "2013-05"), month=rows(MONTH, MONTH),
        )  # fmt: skip


@pytest.fixture(autouse=True)
def _one_after_another(stack: Stack, maker: Maker) -> Iterator[None]:
    """A trial that went wrong is not the next one's trouble."""
    with same_champion(stack) as champion:
        assert champion == maker.champion
        yield


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[dict[str, Any]]]:
    """What the table in the docs is made of, written to a file at the end."""
    found: list[dict[str, Any]] = []
    yield found
    path = Path(os.environ.get("TRIMTAB_FIGURES") or tmp_path_factory.mktemp("figures") / "bad-releases.json")
    path.write_text(
        json.dumps({"rules": RULES, "gate": MARGINS, "month": MONTH, "releases": found}, indent=1, default=str)
    )


def live(stack: Stack) -> dict[str, Any]:
    return dict(httpx.get(f"{stack.settings.model_server}/live", timeout=5).raise_for_status().json())


def sent_out(stack: Stack, maker: Maker, release: Bundle) -> RolloutScenario:
    trial = RolloutScenario(stack, release.digest, maker.params.columns, maker.month)
    trial.begin()
    return trial


def assert_the_server_says(stack: Stack, **expected: str | None) -> None:
    """Within 2 s of the ledger, that is at most 2 s from now."""
    eventually(lambda: {who: live(stack)[who] for who in expected} == expected, f"a server with {expected}", within_s=2)


def assert_the_champion_answers(stack: Stack, maker: Maker, account: ScenarioResult) -> None:
    """By the ledger, by the server within 2 s of the ledger, and by the server's own word."""
    ledger = stack.ledger.live()
    assert ledger is not None
    assert (ledger.champion, ledger.challenger) == (maker.champion, None)
    assert_the_server_says(stack, champion=maker.champion, challenger=None)
    for move in account.moves[-1:]:
        assert account.trial.watcher.lag_s(move) < 2


def assert_every_answer_is_there(account: ScenarioResult) -> None:
    assert account.missing == set()
    assert account.twice == 0
    assert len(account.recorded) - len(account.trial.traffic.answered) <= account.trial.unanswered


def assert_it_was_told(account: ScenarioResult) -> None:
    # Whoever took the step tells of it after the server has followed; another run may have ended by then.
    alerts, line = eventually(lambda: found if (found := account.told())[0] else None, "the alert", within_s=20)
    assert len(alerts) == 1
    assert account.reason[:40] in alerts[0]
    if account.moves:
        assert account.reason[:40] in line
        assert f"users had got {account.seen['exposed']:,} of its answers" in line


def assert_the_champion_goes_on(stack: Stack, maker: Maker, account: ScenarioResult) -> None:
    """It answers, nothing is missing from the record, and people were told."""
    assert_the_champion_answers(stack, maker, account)
    assert_every_answer_is_there(account)
    assert_it_was_told(account)


def assert_exposure_is_told(account: ScenarioResult) -> None:
    """What the history says is what telemetry says, but for what was answered between the look and the switch."""
    told = account.seen["exposed"]
    assert told <= account.exposed <= told + MAY_BE_ASKED_MEANWHILE
    assert told > 0 or account.exposed == 0


@pytest.mark.parametrize("case", [pytest.param(case, id=case.name) for case in CHALLENGERS])
def test_a_bad_release_is_taken_back_by_itself(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]], case: Case
) -> None:
    trial = sent_out(stack, maker, case.make(maker))
    with trial.watcher.watched():
        trial.live_through()
        assert trial.over()["state_type"] == "COMPLETED"
    account = trial.account()
    figures.append(account.figures(case.name))
    assert account.state == "rolled back", (account.state, account.reason)
    assert re.search(case.reason, account.reason), account.reason
    assert trial.unanswered == 0
    assert case.seen or account.exposed == 0
    assert_exposure_is_told(account)
    assert_the_champion_goes_on(stack, maker, account)


def refused(stack: Stack, maker: Maker, figures: list[dict[str, Any]], release: Bundle, name: str) -> ScenarioResult:
    """Send out a release that must not get into the shadow."""
    trial = RolloutScenario(stack, release.digest, maker.params.columns, maker.month)
    with trial.watcher.watched():
        trial.begin()
        assert trial.over()["state_type"] == "FAILED"
        trial.ask_on(range(1, 2))
    account = trial.account()
    figures.append(account.figures(name))
    assert account.state == "rolled back"
    assert account.states[:1] == ["started"]
    assert account.exposed == 0
    assert account.moves == []
    assert account.pairs.empty
    assert_the_champion_goes_on(stack, maker, account)
    return account


def test_a_bundle_whose_digest_does_not_match_is_not_even_loaded(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]]
) -> None:
    damaged = maker.make(maker.sound, "damaged on its way")
    model = damaged.path / "model.skops"
    model.write_bytes(model.read_bytes()[:-1] + b"!")
    account = refused(stack, maker, figures, damaged, "a bundle whose digest does not match")
    assert "model.skops: sha256" in account.reason
    assert damaged.digest not in live(stack)["loaded"]


def test_a_feature_encoded_differently_than_when_it_was_recorded_is_found_by_the_probe(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]]
) -> None:
    model = faulty_models().Encoded(maker.sound, "departure_minute", 1 / 60)
    release = maker.make(model, "hours where it was recorded with minutes", recorded_by=maker.sound)
    account = refused(stack, maker, figures, release, "a feature encoded differently (samples from training)")
    assert "does not answer as recorded" in account.reason


def test_a_challenger_that_kills_the_server_is_refused_after_two_deaths(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]]
) -> None:
    """Users whose requests were in flight lose them, and nobody else does."""
    trial = sent_out(stack, maker, releases.deadly(maker))
    with trial.watcher.watched():
        trial.live_through()
        assert trial.over()["state_type"] == "COMPLETED"
    account = trial.account()
    figures.append(account.figures("kills the process"))
    assert account.state == "rolled back"
    assert "the model server does not load it: refused: the server crashed 2 times" in account.reason
    assert account.exposed == 0
    assert trial.unanswered <= 200, "a request for each death"
    assert_the_champion_goes_on(stack, maker, account)


def test_a_release_that_turns_worse_after_its_promotion_is_taken_back_by_late_labels(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]]
) -> None:
    release = maker.make(faulty_models().Tiring(maker.knowing, 2200), "good for 2,200 rows", recorded_by=maker.knowing)
    trial = sent_out(stack, maker, release)
    with trial.watcher.watched():
        at = trial.live_through()
        assert at.phase == "champion", trial.account().reason
        assert trial.over()["state_type"] == "COMPLETED"
        assert_the_server_says(stack, champion=release.digest)
        days = trial.month[trial.columns.time].dt.day
        first = int(days.iloc[trial.asked]) if trial.asked < len(days) else 31
        trial.ask_on(range(first, min(first + 12, 32)))
        trial.sent += trial.traffic.deliver(pd.Timestamp("2014-01-01"))
        assert ended(stack, started(stack, "reconcile/on-lost-run"))["state_type"] == "COMPLETED"
    account = trial.account()
    figures.append(account.figures("fine for a period, then worse"))
    assert account.states[-2:] == ["champion", "reverted"]
    assert account.reason.startswith("labels that came after the promotion: worse")
    assert_exposure_is_told(account)
    assert account.exposed > 2000
    assert trial.unanswered == 0
    assert_the_champion_goes_on(stack, maker, account)


def test_a_release_that_fails_once_it_is_champion_costs_nobody_an_answer(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]]
) -> None:
    """The champion before is in memory, and is asked about every row."""
    model = faulty_models().Raising(maker.knowing, "carrier", "UA", after=2200)
    trial = sent_out(stack, maker, maker.make(model, "raises after 2,200 rows", recorded_by=maker.knowing))
    with trial.watcher.watched():
        assert trial.live_through().phase == "champion"
        assert trial.over()["state_type"] == "COMPLETED"
        trial.ask_on(range(20, 23))
        assert ended(stack, started(stack, "reconcile/on-lost-run"))["state_type"] == "COMPLETED"
    account = trial.account()
    figures.append(account.figures("raises once it is champion"))
    assert trial.unanswered == 0
    assert account.state == "reverted"


@pytest.mark.parametrize("which", ["better", "no difference"])
def test_a_release_that_is_not_worse_becomes_champion(
    stack: Stack, maker: Maker, figures: list[dict[str, Any]], which: str
) -> None:
    model = maker.knowing if which == "better" else maker.refit(seed=1)
    trial = sent_out(stack, maker, maker.make(model, which))
    with trial.watcher.watched():
        trial.live_through()
        assert trial.over()["state_type"] == "COMPLETED"
        account = trial.account()
        figures.append(account.figures(f"control: {which}"))
        assert account.states[2:] == ["shadow", "canary 25%", "canary 50%", "champion"], account.reason
        assert account.reason.startswith("not worse")
        assert_the_server_says(stack, champion=trial.release)
        assert trial.watcher.lag_s(account.moves[-1]) < 2
        assert_exposure_is_told(account)
        run = started(stack, "rollback/on-request", reason="the control was good, the test goes on")
        assert ended(stack, run)["state_type"] == "COMPLETED"
    account = trial.account()
    assert trial.unanswered == 0
    assert account.state == "reverted"
    assert_the_champion_answers(stack, maker, account)
    assert_every_answer_is_there(account)
