"""The embedded S3 server, really run."""

import io
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pandas as pd
import psutil
import pytest
from botocore.exceptions import ClientError

from deployments import stack
from deployments.stack import StackError, components, seaweedfs
from deployments.stack.ports import require_free
from stores.ledger import Ledger
from stores.ledger.migrations import migrate
from tests.deployments.stack.conftest import make_settings
from tests.serving.conftest import ServerHome
from tests.serving.sample_project import tiny_bundle
from tests.waiting import eventually
from trimtab.config.settings import Settings


@pytest.fixture(scope="module")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of a stack whose S3 server runs."""
    made = make_settings(tmp_path_factory.mktemp("objects"), s3=True)
    stack.up(made, echo=print, only=["objects"])
    yield made
    stack.down(made, echo=print)


def client(settings: Settings, **changes: str) -> Any:
    env = {**stack.environment(settings), **changes}
    return boto3.client(
        "s3", endpoint_url=env["TRIMTAB_STORE_ENDPOINT"], aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"], region_name=env["AWS_DEFAULT_REGION"],
    )  # fmt: skip


def test_whoever_gets_the_environment_of_the_stack_can_use_the_store(s3: Settings) -> None:
    assert stack.environment(s3)["TRIMTAB_STORE"] == f"s3://{seaweedfs.BUCKET}"
    client(s3).put_object(Bucket=seaweedfs.BUCKET, Key="a/b", Body=b"kept", IfNoneMatch="*")
    assert client(s3).get_object(Bucket=seaweedfs.BUCKET, Key="a/b")["Body"].read() == b"kept"
    with pytest.raises(ClientError, match=r"PreconditionFailed|412"):
        client(s3).put_object(Bucket=seaweedfs.BUCKET, Key="a/b", Body=b"other", IfNoneMatch="*")


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_nobody_gets_in_with_another_key(s3: Settings, wrong: str) -> None:
    with pytest.raises(ClientError, match=r"403|InvalidAccessKeyId|SignatureDoesNotMatch|AccessDenied"):
        client(s3, **{wrong: "guessed"}).list_objects_v2(Bucket=seaweedfs.BUCKET)


def test_the_secret_is_for_its_owner_only_and_in_no_argument_record_or_log(s3: Settings) -> None:
    assert stat.S_IMODE(seaweedfs.keyfile(s3).stat().st_mode) == 0o600
    pid = stack.status(s3)["objects"].pid
    assert pid is not None
    told = " ".join(psutil.Process(pid).cmdline())
    told += "".join(path.read_text() for path in [s3.state / "stack.json", *(s3.state / "logs").glob("*.log")])
    secret = seaweedfs.credentials(s3)["AWS_SECRET_ACCESS_KEY"]
    assert secret not in told


def test_it_listens_on_this_machine_only_and_on_the_ports_that_were_looked_at(s3: Settings) -> None:
    pid = stack.status(s3)["objects"].pid
    heard = [c.laddr for c in psutil.Process(pid).net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN]
    assert {address.ip for address in heard} == {seaweedfs.HOST}
    assert {address.port for address in heard} == set(seaweedfs.port_numbers(s3).values())
    with pytest.raises(StackError, match=f"port {s3.s3_port} for objects is taken .*\n"):
        require_free(port for port in components.ports(s3) if port.component == "objects")


def test_a_state_folder_that_is_on_s3_stays_there_without_being_told_again(s3: Settings) -> None:
    untold = s3.model_copy(update={"s3": False})
    assert stack.with_addresses(untold) == stack.with_addresses(s3)
    stack.up(untold, echo=pytest.fail, only=["objects"])
    assert stack.status(untold)["objects"].state == "running"


def test_what_was_kept_is_there_after_the_next_start(tmp_path: Path) -> None:
    settings = make_settings(tmp_path, s3=True)
    try:
        stack.up(settings, echo=print, only=["objects"])
        client(settings).put_object(Bucket=seaweedfs.BUCKET, Key="x", Body=b"1" * 3_000_000)
        stack.down(settings, echo=print)
        stack.up(settings, echo=print, only=["objects"])
        assert client(settings).get_object(Bucket=seaweedfs.BUCKET, Key="x")["ContentLength"] == 3_000_000
    finally:
        stack.down(settings, echo=print)


def test_mlflow_keeps_its_artifacts_in_the_store_and_stops_before_it(settings: Settings) -> None:
    on_s3 = stack.with_addresses(settings.model_copy(update={"s3": True}))
    mlflow = components.mlflow_server(on_s3)
    assert mlflow.env["_MLFLOW_SERVER_ARTIFACT_DESTINATION"] == f"s3://{seaweedfs.BUCKET}/mlflow"
    assert mlflow.env["MLFLOW_S3_ENDPOINT_URL"] == seaweedfs.endpoint(settings)
    users = [part for part in components.plan(on_s3).components if "objects" in part.needs]
    assert {part.name for part in users} == {"mlflow", "server", "worker"}
    assert max(part.stop_group for part in users) < seaweedfs.component(on_s3).stop_group


def test_what_a_model_server_had_not_uploaded_is_in_the_store_after_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is uploaded for an hour here, so all of it is uploaded while the stack stops."""
    monkeypatch.setenv("TRIMTAB_UPLOAD_S", "3600")
    settings = make_settings(tmp_path, s3=True)
    try:
        stack.up(settings, echo=print, only=["postgres", "objects", "server"])
        place = ServerHome(settings.state, settings.server_port)
        bundle = tiny_bundle(settings.releases)
        ledger = Ledger(stack.ledger_url(stack.with_addresses(settings)))
        migrate(ledger)
        ledger.record_release(bundle.digest, model_name="tiny", model_version=1, run_id="r", manifest={})
        ledger.switch(bundle.digest, expected=0, move="promote", reason="test", actor="test")
        eventually(lambda: place.get("/ready")[0] == 200, "the server is ready")
        answered = place.post("/predict", {"rows": [{"distance": 900, "hour": 7, "carrier": "UA"}] * 3})[1]
        assert not parts(settings)
        stack.down(settings, echo=print)
        stack.up(settings, echo=print, only=["objects"])
        kept = pd.concat(parts(settings))
        assert set(kept["prediction_id"]) == {prediction["id"] for prediction in answered["predictions"]}
    finally:
        stack.down(settings, echo=print)


def parts(settings: Settings) -> list[pd.DataFrame]:
    """What the store has of predictions."""
    listed = client(settings).list_objects_v2(Bucket=seaweedfs.BUCKET, Prefix="telemetry/predictions/")
    keys = [found["Key"] for found in listed.get("Contents", []) if found["Key"].endswith(".parquet")]
    bodies = [client(settings).get_object(Bucket=seaweedfs.BUCKET, Key=key)["Body"].read() for key in keys]
    return [pd.read_parquet(io.BytesIO(body)) for body in bodies]


def test_a_stack_without_s3_has_nothing_of_it(settings: Settings) -> None:
    assert "objects" not in components.plan(settings).names
    assert not {name for name in stack.environment(settings) if name.startswith(("AWS_", "TRIMTAB_STORE"))}


def test_models_that_are_on_disk_already_are_not_lost_from_sight(settings: Settings) -> None:
    (settings.state / "mlflow-artifacts").mkdir(parents=True)
    with pytest.raises(StackError, match=r"has its mlflow-artifacts on disk already.*TRIMTAB_HOME"):
        stack.up(settings.model_copy(update={"s3": True}), echo=print, only=["objects"])
    assert stack.with_addresses(settings).store is None


def test_two_stores_at_once_are_refused(settings: Settings) -> None:
    with pytest.raises(StackError, match=r"TRIMTAB_STORE names s3://mine at Amazon.*leave one of them out"):
        stack.with_addresses(settings.model_copy(update={"s3": True, "store": "s3://mine"}))


@pytest.mark.parametrize("lost", ["keys", "nothing but the keys' meaning"])
def test_objects_without_their_keys_are_not_started_over(settings: Settings, lost: str) -> None:
    (settings.state / "objects").mkdir(parents=True)
    if lost != "keys":
        seaweedfs.keyfile(settings).write_text("{}")
        seaweedfs.keyfile(settings).chmod(0o600)
    with pytest.raises(StackError, match=r"objects\.keys"):
        stack.up(settings.model_copy(update={"s3": True}), echo=print, only=["objects"])


def test_a_store_of_ones_own_is_not_started_but_asked(
    s3: Settings, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in seaweedfs.credentials(s3).items():
        monkeypatch.setenv(name, value)
    place = {"store": f"s3://{seaweedfs.BUCKET}/mine", "store_endpoint": seaweedfs.endpoint(s3)}
    mine = settings.model_copy(update=place)
    assert "objects" not in components.plan(mine).names
    assert stack.status(mine)["objects"].state == "external"
    wrong = stack.status(mine.model_copy(update={"store": "s3://nobody-has-this"}))["objects"]
    assert (wrong.state, "there is no such bucket" in str(wrong.last_error)) == ("unhealthy", True)
    with pytest.raises(StackError, match=r"objects at s3://nobody-has-this \(TRIMTAB_STORE\) is not healthy"):
        stack.up(mine.model_copy(update={"store": "s3://nobody-has-this"}), echo=print, only=["postgres"])
