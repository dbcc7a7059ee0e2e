"""Releases in Kubernetes, against a small API server of our own with the troubles of the real one; no cluster."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from operations.context import ProjectContext
from operations.targets import reconcile
from operations.targets.contract import TargetRejected
from operations.targets.kubernetes import KubernetesTarget
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tasks import kubernetes, model_server
from tasks.kubernetes import ClusterRejected, NotRolledOut, Workload
from tests.operations.targets.fake_cluster import NAME, NAMESPACE, Cluster, running
from tests.trimtab import sample_rows
from trimtab.config.settings import Settings

OLD, NEW = "0" * 64, "1" * 64


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with running(Cluster()) as made:
        yield made


@pytest.fixture
def workload(cluster: Cluster, tmp_path: Path) -> Workload:
    return Workload(NAMESPACE, NAME, "server", cluster.kubeconfig(tmp_path))


@pytest.fixture
def ctx(cluster: Cluster, workload: Workload, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ProjectContext:
    """Version 1 is live there. What the servers answer is told by tests of their own."""
    monkeypatch.setattr(model_server, "probe", lambda _server, digest: {"ok": True, "release": digest})
    ledger = Ledger(f"sqlite:///{tmp_path}/ledger.db")
    migrate(ledger)
    for digest in (OLD, NEW):
        ledger.record_release(digest, model_name="m", model_version=1, run_id="r", manifest={})
    ledger.switch(OLD, expected=0, move="promote", reason="first", actor="test")
    settings = Settings(
        project=tmp_path, target="kubernetes", kube_namespace=NAMESPACE, kube_deployment=NAME,
        kube_config=workload.config, ready_s=10,
    )  # fmt: skip
    made = ProjectContext(settings, sample_rows.params(), ledger)
    assert KubernetesTarget(made).reconcile() != []
    return made


def preloaded(cluster: Cluster) -> str | None:
    return cluster.env.get("TRIMTAB_PRELOAD")


def test_a_release_is_set_by_its_digest_and_waited_for(cluster: Cluster, ctx: ProjectContext) -> None:
    cluster.pod_s = 0.5
    found = KubernetesTarget(ctx).start_and_probe(NEW, "r2")
    assert found["release"] == NEW
    assert cluster.annotations == {"trimtab.io/release": NEW, "trimtab.io/rollout": "r2"}
    assert cluster.env == {"TRIMTAB_HOST": "0.0.0.0", "TRIMTAB_PRELOAD": NEW}, "and nothing of others is touched"
    assert (cluster.status["updatedReplicas"], cluster.status["replicas"]) == (2, 2)
    assert cluster.watches > 0


def test_setting_it_again_starts_no_pod(cluster: Cluster, ctx: ProjectContext) -> None:
    KubernetesTarget(ctx).start_and_probe(NEW, "r2")
    generation, patches = cluster.generation, [r for r in cluster.requests if r[0] == "PATCH"]
    KubernetesTarget(ctx).start_and_probe(NEW, "r2")
    assert cluster.generation == generation
    assert [r for r in cluster.requests if r[0] == "PATCH"] == patches


def test_a_release_whose_pods_do_not_get_ready_is_taken_back(cluster: Cluster, ctx: ProjectContext) -> None:
    cluster.broken.add(NEW)
    target = KubernetesTarget(ctx)
    with pytest.raises(TargetRejected, match="stuck: has timed out"):
        target.start_and_probe(NEW, "r2")
    target.remove(NEW)
    assert preloaded(cluster) == OLD


def test_a_deployment_that_was_given_up_before_there_was_a_release_takes_its_first_one(
    cluster: Cluster, workload: Workload
) -> None:
    """Its pods have no release yet, so the condition holds before the first deploy."""
    cluster.pod_s = 0.5
    cluster.give_up()
    seen = kubernetes.set_release(workload, NEW, rollout="r")
    assert not seen.stuck
    kubernetes.wait_until_rolled_out(workload, seen.generation, within_s=10)
    assert preloaded(cluster) == NEW


def test_pods_that_take_too_long_are_not_waited_for_for_ever(cluster: Cluster, workload: Workload) -> None:
    cluster.broken.add(NEW)
    cluster.deadline_s = 60
    seen = kubernetes.set_release(workload, NEW, rollout="r")
    with pytest.raises(NotRolledOut, match=r"not ready after 1 s: 1 of 2 pods are new"):
        kubernetes.wait_until_rolled_out(workload, seen.generation, within_s=1)


@pytest.mark.parametrize("trouble", [429, 500, 503, 504, "cut"])
def test_transient_errors_are_retried(cluster: Cluster, workload: Workload, trouble: int | str) -> None:
    cluster.troubles += [trouble, trouble]
    seen = kubernetes.set_release(workload, NEW, rollout="r")
    cluster.troubles += [trouble]
    kubernetes.wait_until_rolled_out(workload, seen.generation, within_s=10)
    assert preloaded(cluster) == NEW


def test_an_api_server_that_stays_unavailable_is_an_error(
    cluster: Cluster, workload: Workload, monkeypatch: Any
) -> None:
    monkeypatch.setattr(kubernetes, "_TRIES", 2)
    cluster.troubles += [503] * 10
    with pytest.raises(ClusterRejected, match="did not answer 2 times: 503"):
        kubernetes.read_status(workload)


def test_a_deployment_that_changes_meanwhile_is_read_again(cluster: Cluster, workload: Workload) -> None:
    cluster.before_apply += [cluster.touch, cluster.touch]
    assert kubernetes.set_release(workload, NEW, rollout="r").release == NEW


def test_of_two_that_set_a_release_at_once_both_come_through_and_the_later_stays(
    cluster: Cluster, workload: Workload
) -> None:
    both = [
        threading.Thread(target=kubernetes.set_release, args=(workload, d), kwargs={"rollout": d}) for d in (OLD, NEW)
    ]
    for one in both:
        one.start()
    for one in both:
        one.join()
    assert cluster.annotations["trimtab.io/release"] == cluster.annotations["trimtab.io/rollout"] == preloaded(cluster)


def test_a_field_of_another_manager_is_not_overwritten(cluster: Cluster, workload: Workload) -> None:
    cluster.env["TRIMTAB_PRELOAD"] = OLD
    cluster.owners["env.TRIMTAB_PRELOAD"] = "kubectl-edit"
    with pytest.raises(ClusterRejected, match=r'another client holds .*conflict with "kubectl-edit".*TRIMTAB_PRELOAD'):
        kubernetes.set_release(workload, NEW, rollout="r")
    assert preloaded(cluster) == OLD


@pytest.mark.parametrize(("status", "told"), [(403, "get, list, watch and patch"), (422, "would not change: 422")])
def test_a_permanent_error_is_raised_at_once(cluster: Cluster, workload: Workload, status: int, told: str) -> None:
    cluster.troubles += [status]
    with pytest.raises(ClusterRejected, match=told):
        kubernetes.read_status(workload)
    assert len(cluster.requests) == 1


def test_a_missing_deployment_is_an_error_that_names_the_settings(cluster: Cluster, workload: Workload) -> None:
    other = Workload(NAMESPACE, "elsewhere", "server", workload.config)
    with pytest.raises(ClusterRejected, match="TRIMTAB_KUBE_DEPLOYMENT"):
        kubernetes.read_status(other)


def test_without_a_cluster_the_error_says_what_to_set(tmp_path: Path) -> None:
    with pytest.raises(ClusterRejected, match="TRIMTAB_KUBE_CONFIG"):
        kubernetes.read_status(Workload("a", "b", "c", tmp_path / "none"))


def test_watches_that_end_early_are_begun_again(cluster: Cluster, workload: Workload) -> None:
    cluster.watch_ends, cluster.pod_s = True, 0.4
    seen = kubernetes.set_release(workload, NEW, rollout="r")
    kubernetes.wait_until_rolled_out(workload, seen.generation, within_s=10)
    assert cluster.watches > 1
    assert kubernetes.read_status(workload).progress is None


def test_the_deployment_follows_the_ledger_but_not_during_a_pending_rollout(
    cluster: Cluster, ctx: ProjectContext
) -> None:
    target, ledger = KubernetesTarget(ctx), ctx.ledger
    ledger.start_rollout("r2", release=NEW, champion_before=OLD, strategy="rollout", cause="test")
    ledger.step_rollout("r2", 1, "started")
    target.start_and_probe(NEW, "r2")
    assert target.reconcile() == [], "another run is about to need these pods"
    ledger.step_rollout("r2", 2, "rolled back")
    assert target.reconcile() == [f"the Deployment {NAME} starts pods for {OLD[:12]}"]
    assert preloaded(cluster) == OLD
    assert target.reconcile() == []


def test_a_superseded_rollout_holds_the_deployment_no_longer(cluster: Cluster, ctx: ProjectContext) -> None:
    """It keeps its last step: the run that began it lost the race for the ledger."""
    target, ledger = KubernetesTarget(ctx), ctx.ledger
    ledger.start_rollout("r2", release=NEW, champion_before=OLD, strategy="rollout", cause="test")
    ledger.step_rollout("r2", 1, "started")
    target.start_and_probe(NEW, "r2")
    ledger.step_rollout("r2", 2, "probed")
    third = "2" * 64
    ledger.record_release(third, model_name="m", model_version=2, run_id="r", manifest={})
    ledger.switch(third, expected=1, move="promote", reason="by hand", actor="test")
    assert target.reconcile() == [f"the Deployment {NAME} starts pods for {third[:12]}"]
    assert preloaded(cluster) == third


def test_an_unavailable_cluster_does_not_block_the_ledger(
    cluster: Cluster, ctx: ProjectContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kubernetes, "_TRIES", 1)
    cluster.troubles += [503]
    assert reconcile(ctx) == [
        "the kubernetes target has not followed the ledger: the API server did not answer 1 times: 503: no: 503"
    ]
