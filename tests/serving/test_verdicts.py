"""The verdict service: verdicts follow the labels, errors say what to do, and the manifests in infra work with a
running server."""

from __future__ import annotations

import ast
import re
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from serving.http.verdict_routes import FLAGGER_HOOKS
from serving.verdicts import decide
from tests.ports import free_port
from tests.serving.conftest import ROOT, ServerHome
from tests.serving.sample_rollout import SampleRollout, again, begin
from trimtab.rollout.state_machine import Observation, Phase, RolloutPolicy, RolloutState

INFRA = ROOT / "infra"
KEY = {"X-API-Key": "admin-key"}
KEYS = {"TRIMTAB_ADMIN_KEYS": "admin-key", "TRIMTAB_PREDICT_KEYS": "predict-key", "TRIMTAB_LABELS_KEYS": "labels-key"}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerHome]:
    """A server with keys and a champion."""
    place = ServerHome(tmp_path_factory.mktemp("server"), free_port(), KEYS)
    try:
        place.go_live(place.release(version=1).digest)
        place.start()
        yield place
    finally:
        if place.process is not None:
            place.kill()


def hook(trial: SampleRollout, kind: str, **metadata: str) -> int:
    """The status that Flagger gets from a hook."""
    body = {
        "name": "flights", "namespace": "test", "phase": "Progressing", "checksum": "85d557f47b",
        "metadata": metadata or {"release": trial.challenger.digest},
    }  # fmt: skip
    return trial.place.post(f"/verdict/hooks/{kind}", body, KEY)[0]


def yes(trial: SampleRollout) -> set[str]:
    """The hooks that succeed."""
    found = {kind: hook(trial, kind) for kind in FLAGGER_HOOKS}
    assert set(found.values()) <= {200, 409}, found
    return {kind for kind, status in found.items() if status == 200}


def test_an_unknown_rollout_is_reported_with_what_to_do(running: ServerHome) -> None:
    for path in ("/verdict", "/verdict/nothing-like-it", "/verdict/%00", "/verdict/0123456789abcdef"):
        status, answer = running.get(path, KEY)
        assert status == 404
        assert "deploy" in answer["error"]["problem"] or "GET /verdict" in answer["error"]["problem"]
    status, answer = running.post("/verdict/hooks/confirm-anything", {}, KEY)
    assert status == 404
    assert "confirm-promotion" in answer["error"]["problem"]


def test_a_good_release_is_promoted_once_labels_show_that_it_is_not_worse(running: ServerHome) -> None:
    trial = begin(running, "good", seed=1, headers=KEY)
    first = trial.verdict("keep collecting")
    assert (first["successful"], first["ready"], first["interval"]) == (None, False, None)
    assert yes(trial) == {"pre-rollout", "rollout", "confirm-traffic-increase"}
    trial.answer(400)
    trial.label(good=True)
    found = trial.verdict("promote")
    assert found["successful"] is True
    assert found["release"] == trial.challenger.digest
    assert found["champion"] == trial.champion
    assert (found["state"], found["share"], found["exposed"]) == ("shadow", 0.0, 0)
    assert (found["pairs"], found["labels"]) == (400, 400)
    low, high = found["interval"]
    assert low <= found["difference"] <= high < found["margin"]
    assert yes(trial) == set(FLAGGER_HOOKS) - {"rollback"}


def test_a_bad_release_is_rolled_back_once_labels_show_that_it_is_worse(running: ServerHome) -> None:
    trial = begin(running, "bad", seed=2, headers=KEY)
    trial.answer(400, seed=6)
    trial.label(good=False)
    found = trial.verdict("roll back")
    assert found["successful"] is False
    assert found["difference"] > 0
    assert yes(trial) == {"rollback"}


def test_a_broken_guardrail_decides_without_labels(running: ServerHome) -> None:
    found = begin(running, "refused", seed=3, headers=KEY, spoil=True).verdict("roll back")
    assert "the model server does not load it" in found["guardrails"][0]
    assert "card.md" in found["reason"]


def test_no_name_means_the_live_rollout_and_a_digest_the_newest_of_its_release(running: ServerHome) -> None:
    first = begin(running, "first-try", seed=4, headers=KEY)
    first.step("rolled back", reason="it was slow")
    second = again(first, "second-try")
    for path in ("/verdict", f"/verdict/{second.challenger.digest}", f"/verdict/{second.challenger.digest[:8]}"):
        assert second.get(path)[1]["rollout"] == "second-try"
    found = first.get("/verdict/first-try")[1]
    assert (found["verdict"], found["reason"]) == ("roll back", "it was slow")
    assert hook(second, "rollback", rollout="first-try") == 200
    assert hook(second, "rollback", rollout="second-try") == 409
    assert hook(second, "rollback") == 409


def test_every_key_reads_verdicts_and_no_key_is_rejected(running: ServerHome) -> None:
    begin(running, "keys", seed=5, headers=KEY)
    for key in KEYS.values():
        assert running.get("/verdict", {"X-API-Key": key})[0] == 200
        assert running.get("/verdict", {"Authorization": f"Bearer {key}"})[0] == 200
    assert running.get("/verdict")[0] == 401
    assert running.post("/verdict/hooks/rollback", {})[0] == 401


def test_concurrent_requests_share_one_computation(running: ServerHome) -> None:
    trial = begin(running, "asked-by-many", seed=6, headers=KEY)
    answers: list[Any] = []
    threads = [threading.Thread(target=lambda: answers.append(trial.get("/verdict"))) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {status for status, _ in answers} == {200}
    assert len({answer["seen_at"] for _, answer in answers}) <= 2


def test_without_the_ledger_the_last_verdict_is_stale_and_no_hook_succeeds(running: ServerHome) -> None:
    trial = begin(running, "ledger-away", seed=7, headers=KEY)
    trial.answer(400)
    trial.label(good=True)
    before = trial.verdict("promote")
    database, aside = running.home / "ledger.db", running.home / "aside.db"
    database.rename(aside)
    try:
        running.wait(lambda: trial.get("/verdict/ledger-away")[1]["stale"], "a stale answer")
        found = trial.get("/verdict/ledger-away")[1]
        assert (found["verdict"], found["seen_at"]) == ("promote", before["seen_at"])
        assert hook(trial, "confirm-promotion", rollout="ledger-away") == 503
        status, answer = trial.get("/verdict/never-seen")
        assert status == 503
        assert "ledger" in answer["error"]["problem"]
    finally:
        aside.replace(database)
    running.wait(lambda: not trial.get("/verdict/ledger-away")[1]["stale"], "a fresh answer")


def test_a_webhook_body_that_is_not_an_object_is_rejected(running: ServerHome) -> None:
    begin(running, "bodies", seed=8, headers=KEY)
    for body in (b"", b"{}", b'{"metadata": null}'):
        assert running.post("/verdict/hooks/rollout", body, KEY)[0] == 200, body
    for body in (b"[]", b"{", b'{"metadata": {"release": 7}}', b'{"metadata": "x"}'):
        assert running.post("/verdict/hooks/rollout", body, KEY)[0] == 422, body
    assert running.post("/verdict/hooks/rollout", b" " * 70_000, KEY)[0] == 413


def test_the_metrics_show_the_state_of_rollouts(running: ServerHome) -> None:
    trial = begin(running, "in-metrics", seed=9, headers=KEY)
    line = re.compile(rf'trimtab_rollout_since_seconds{{release="{trial.challenger.digest}",rollout="in-metrics",'
                      r'state="shadow"} 1\.\d+e\+09')  # fmt: skip
    running.wait(lambda: line.search(trial.get("/metrics")[1]), "the metric")
    shown = [said for said in trial.get("/metrics")[1].splitlines() if 'rollout="in-metrics",state=' in said]
    assert len(shown) == 1, "a rollout stands in one place"


# -- the verdict in each state of a rollout

TERMS = RolloutPolicy(task="binary", min_labels=10, min_answers=10)
FOR, AGAINST = (
    Observation(labels=50, pairs=50, verdict="promote"),
    Observation(labels=50, pairs=50, verdict="roll back"),
)
BROKEN = Observation(broken=("it is slow",), verdict="promote")
LATE = timedelta(days=400)


@pytest.mark.parametrize(
    ("state", "share", "seen", "verdict"),
    [
        ("started", 0.0, Observation(), "keep collecting"),
        ("shadow", 0.0, Observation(), "keep collecting"),
        ("shadow", 0.0, FOR, "promote"),
        ("canary", 0.25, FOR, "promote"),
        ("canary", 0.25, AGAINST, "roll back"),
        ("shadow", 0.0, BROKEN, "roll back"),
        ("shadow", 0.0, Observation(elapsed=LATE), "roll back"),
        ("champion", 1.0, Observation(), "promote"),
        ("champion", 1.0, AGAINST, "roll back"),
        ("closed", 1.0, AGAINST, "promote"),
        ("reverted", 0.0, FOR, "roll back"),
        ("rolled back", 0.0, FOR, "roll back"),
        ("ended", 1.0, Observation(), "promote"),
        ("ended", 0.25, FOR, "roll back"),
        ("experiment", 0.5, FOR, "keep collecting"),
    ],
)
def test_finished_rollouts_keep_their_outcome_and_open_ones_follow_their_labels(
    state: Phase, share: float, seen: Observation, verdict: str
) -> None:
    assert decide(RolloutState(state, share, 3), seen, TERMS, {"reason": "so it was"})[0] == verdict


def test_an_undecided_rollout_ends_at_its_horizon_by_its_policy() -> None:
    promoting = TERMS.model_copy(update={"on_inconclusive": "promote"})
    assert decide(RolloutState("shadow", 0.0, 3), Observation(elapsed=LATE), promoting, {})[0] == "promote"


# -- the manifests


def documents(path: Path) -> list[Any]:
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def holds(condition: str, result: Any) -> bool:
    """Evaluate a condition of Argo Rollouts (the language expr): fields of result, ==, && and literals."""
    words = condition.replace("&&", " and ").replace("false", "False").replace("true", "True")

    def value(node: ast.expr) -> Any:
        match node:
            case ast.BoolOp(op=ast.And(), values=parts):
                return all(value(part) for part in parts)
            case ast.Compare(left=left, ops=[ast.Eq()], comparators=[right]):
                return value(left) == value(right)
            case ast.Attribute(value=ast.Name(id="result"), attr=name):
                return result[name]
            case ast.Constant(value=constant):
                return constant
        raise AssertionError(f"not understood: {ast.dump(node)}")

    return bool(value(ast.parse(words.strip(), mode="eval").body))


def measured(metric: dict[str, Any], result: Any) -> str:
    """The phase that Argo Rollouts gives a measurement: failure first, then success, else inconclusive. A condition
    that is missing is the opposite of the other."""
    success, failure = metric.get("successCondition"), metric.get("failureCondition")
    if failure and holds(failure, result):
        return "Failed"
    if (success and holds(success, result)) or not success:
        return "Successful"
    return "Inconclusive" if failure else "Failed"


def ask(trial: SampleRollout, metric: dict[str, Any], release: str) -> tuple[int, Any]:
    """Send the request of a web metric by its template."""
    web = metric["provider"]["web"]
    assert web["jsonPath"] == "{$}"  # the whole answer

    def filled(text: str) -> str:
        values = {"server": "", "release": release, "api-key": "predict-key"}
        return re.sub(r"{{\s*args\.([\w-]+)\s*}}", lambda found: values[found[1]], text)

    headers = {header["key"]: filled(header["value"]) for header in web["headers"]}
    return trial.place.get(filled(web["url"]), headers)


def test_argo_rollouts_reads_the_verdict_by_its_templates(running: ServerHome) -> None:
    templates = {
        document["metadata"]["name"]: document["spec"]["metrics"][0]
        for document in documents(INFRA / "argo" / "analysis-template.yaml")
    }
    trial = begin(running, "argo", seed=10, headers=KEY)
    release = trial.challenger.digest[:12]

    def phases() -> dict[str, str]:
        found = {name: ask(trial, metric, release) for name, metric in templates.items()}
        assert {status for status, _ in found.values()} == {200}
        return {name: measured(templates[name], result) for name, (_, result) in found.items()}

    assert phases() == {"trimtab-verdict": "Inconclusive", "trimtab-guard": "Successful"}
    trial.answer(400)
    trial.label(good=True)
    running.wait(lambda: phases()["trimtab-verdict"] == "Successful", "the promotion")
    assert phases()["trimtab-guard"] == "Successful"
    trial.step("rolled back")
    running.wait(lambda: phases() == {"trimtab-verdict": "Failed", "trimtab-guard": "Failed"}, "the rollback")
    assert measured(templates["trimtab-verdict"], {"verdict": "promote", "stale": True}) == "Inconclusive"
    assert ask(trial, templates["trimtab-verdict"], "0123456789ab")[0] == 404  # an error, which aborts after a while


def test_the_example_rollout_passes_its_pods_release_to_the_templates() -> None:
    (rollout,) = documents(INFRA / "argo" / "rollout.yaml")
    templates = {
        document["metadata"]["name"]: {argument["name"] for argument in document["spec"]["args"]}
        for document in documents(INFRA / "argo" / "analysis-template.yaml")
    }
    canary = rollout["spec"]["strategy"]["canary"]
    analyses = [canary["analysis"], *(step["analysis"] for step in canary["steps"] if "analysis" in step)]
    (container,) = rollout["spec"]["template"]["spec"]["containers"]
    (release,) = [variable["value"] for variable in container["env"] if variable["name"] == "RELEASE"]
    for analysis in analyses:
        (template,) = analysis["templates"]
        arguments = {argument["name"]: argument["value"] for argument in analysis["args"]}
        assert arguments == {"release": release}
        assert set(arguments) <= templates[template["templateName"]]
    assert {analysis["templates"][0]["templateName"] for analysis in analyses} == set(templates)


def test_flagger_advances_and_rolls_back_by_its_manifest(running: ServerHome) -> None:
    (canary,) = documents(INFRA / "flagger" / "canary.yaml")
    hooks = canary["spec"]["analysis"]["webhooks"]
    trial = begin(running, "flagger", seed=11, headers=KEY)

    def let_on() -> set[str]:
        """The hooks that succeed for Flagger, for which any status up to 202 is a yes."""
        succeeded = set()
        for one in hooks:
            assert set(one) == {"name", "type", "url", "timeout", "metadata"}
            assert set(one["metadata"]) == {"release"}
            path = one["url"].removeprefix("http://trimtab-server:8000")
            body = {
                "name": "flights", "namespace": "test", "phase": "Progressing", "checksum": "85d557f47b",
                "metadata": {"release": trial.challenger.digest[:12]},
            }  # fmt: skip
            if running.post(path, body, KEY)[0] <= 202:
                succeeded.add(one["type"])
        return succeeded

    assert let_on() == {"confirm-traffic-increase"}
    trial.answer(400)
    trial.label(good=True)
    everything = {"confirm-rollout", "confirm-traffic-increase", "confirm-promotion"}
    running.wait(lambda: let_on() == everything, "the promotion")
    trial.step("rolled back")
    running.wait(lambda: let_on() == {"rollback"}, "the rollback")
