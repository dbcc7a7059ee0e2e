"""Which parts there are for which settings, and what decides whether deployments are registered again."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from deployments.stack import components, control, registration
from deployments.stack.plan import Plan
from serving.settings import ServerSettings
from tests.deployments.stack.conftest import make_settings

OWN = {
    "postgres": {"postgres_url": "postgresql://me:hush-hush@db.example:5432/x"},
    "prefect": {"prefect_url": "http://prefect.example/api"},
    "mlflow": {"mlflow_url": "http://mlflow.example"},
    "server": {"server_url": "http://models.example"},
}


@pytest.mark.parametrize("name", OWN)
def test_a_part_with_an_address_of_its_own_is_not_run_and_needs_no_port(name: str, tmp_path: Path) -> None:
    settings = make_settings(tmp_path, **OWN[name])
    plan = components.plan(settings)
    assert plan.names == {"postgres", "prefect", "mlflow", "server", "deployments", "worker"} - {name}
    assert name not in {port.component for port in components.ports(settings)}
    assert name in components.external(settings)
    assert all(name not in part.needs for part in plan.components)


def test_the_exporter_is_a_part_where_somebody_asks_for_it(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, exporter=True)
    assert "exporter" in components.plan(settings).names
    assert "exporter" in {port.component for port in components.ports(settings)}


def test_no_secret_is_in_a_command_or_in_an_address_that_people_see(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, **OWN["postgres"], webhook_url="https://chat.example/hush-hush")
    plan = components.plan(settings)
    seen = [*(part.command for part in plan.components), *(part.url for part in plan.components)]
    assert "hush-hush" not in str(seen) + str(components.external(settings))
    assert "hush-hush" in plan.dumps()  # the parts need it: this travels through a pipe only


@pytest.mark.parametrize(("kind", "program"), [("warm", "deployments.workers.warm_worker"), ("process", "prefect")])
def test_the_setting_decides_which_worker_runs(kind: str, program: str, tmp_path: Path) -> None:
    worker = components.worker(make_settings(tmp_path, worker=kind, work_pool="mine"))
    assert program in worker.command
    assert worker.command[worker.command.index("--pool") + 1] == "mine"


def test_every_part_is_stopped_before_what_it_needs(tmp_path: Path) -> None:
    plan: Plan = components.plan(make_settings(tmp_path))
    wave = {part.name: part.stop_group for part in plan.components}
    assert all(wave[part.name] < wave[needed] for part in plan.components for needed in part.needs)


@pytest.mark.parametrize("place", [{"s3": True}, {"store": "s3://mine/here"}, {}], ids=["own S3", "a store", "none"])
def test_everything_has_the_time_that_it_needs_to_stop(place: dict[str, Any], tmp_path: Path) -> None:
    """The model server answers what it has been asked, and brings telemetry to the store; the store goes after it."""
    parts = components.plan(make_settings(tmp_path, exporter=True, **place)).components
    server = next(part for part in parts if part.name == "server")
    drain_s = ServerSettings(ledger_url=SecretStr("sqlite://")).drain_s if place else 0.0
    assert server.stop_timeout_s > 10 + drain_s
    waves = {wave: [part.stop_timeout_s for part in parts if part.stop_group == wave] for wave in range(4)}
    assert sum(max(times, default=0.0) for times in waves.values()) < control.STOP_WITHIN_S
    assert [part.stop_group > server.stop_group for part in parts if part.name == "objects"] in ([True], [])


def test_servers_do_not_inherit_the_addresses_of_other_servers(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    assert "PREFECT_API_URL" in components.prefect_server(settings).unset
    assert "MLFLOW_TRACKING_URI" in components.mlflow_server(settings).unset


def test_deployments_are_registered_again_only_when_something_that_shapes_them_has_changed(tmp_path: Path) -> None:
    settings = make_settings(tmp_path)
    (tmp_path / "params.yaml").write_text("schedule: {retrain: '0 2 * * *'}")
    first = registration.fingerprint(settings)
    assert registration.fingerprint(settings) == first
    (tmp_path / "params.yaml").write_text("schedule: {retrain: '0 3 * * *'}")
    assert registration.fingerprint(settings) != first
    moved = settings.model_copy(update={"work_pool": "another"})
    assert registration.fingerprint(moved) != registration.fingerprint(settings)
