"""The deployments registered for processes, containers and Kubernetes, at a real Prefect server."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.actions import WorkPoolCreate
from prefect.settings import PREFECT_API_URL, temporary_settings

from deployments.definitions import deployment_specs, register
from deployments.work_pools import IMAGE_CODE, InvalidWorkPool, container_environment, ensure_work_pool, work_pool_spec
from trimtab.config import params
from trimtab.config.run_with_secrets import CREDENTIALS
from trimtab.config.settings import Settings

ROOT = Path(__file__).parents[2]
IMAGE = "trimtab-worker:1.0"
MARKED = "marked-4f1c"


@pytest.fixture
def here(prefect_api: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    for name in CREDENTIALS:  # other tests' or the machine's own
        monkeypatch.delenv(name, raising=False)
    with temporary_settings({PREFECT_API_URL: prefect_api}):
        yield prefect_api


@pytest.fixture
def project(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "params.yaml", tmp_path)
    return tmp_path


@pytest.mark.parametrize("kind", ["docker", "kubernetes"])
def test_deployments_are_registered_for_the_pool_that_one_setting_names(here: str, project: Path, kind: str) -> None:
    settings = Settings(project=project, prefect_url=here, work_pool=f"pool-{kind}", pool_type=kind, image=IMAGE)
    full_names = register(settings)
    with get_client(sync_client=True) as client:
        pool = client.read_work_pool(settings.work_pool)
        found = [client.read_deployment_by_name(full_name) for full_name in full_names]
    assert pool.type == kind
    assert full_names == [spec.full_name for spec in deployment_specs(params.load(project), settings)]
    for deployment in found:
        assert deployment.work_pool_name == settings.work_pool
        assert deployment.job_variables["image"] == IMAGE
        assert deployment.job_variables["labels"]["trimtab.project"] == params.load(project).project.name
        assert deployment.pull_steps == [{"prefect.deployments.steps.set_working_directory": {"directory": IMAGE_CODE}}]


def test_a_pool_of_another_type_is_an_error_that_says_what_to_do(here: str, project: Path) -> None:
    settings = Settings(project=project, prefect_url=here, work_pool="taken", pool_type="docker", image=IMAGE)
    with get_client(sync_client=True) as client:
        client.create_work_pool(WorkPoolCreate(name="taken", type="process"))
        with pytest.raises(InvalidWorkPool, match=r"of type process, not docker.*TRIMTAB_WORK_POOL"):
            ensure_work_pool(client, "taken", work_pool_spec(settings, {}))


def test_a_run_writes_to_volumes_of_its_own_unless_others_are_given() -> None:
    def volumes(*given: str) -> list[str]:
        settings = Settings(pool_type="docker", image=IMAGE, pool_volumes=given)
        return list(work_pool_spec(settings, {}).job_variables["volumes"])

    assert volumes() == ["/srv/trimtab/state", "/srv/trimtab/project"]
    assert volumes("state:/srv/trimtab/state") == ["state:/srv/trimtab/state", "/srv/trimtab/project"]


def test_containers_need_an_image() -> None:
    with pytest.raises(InvalidWorkPool, match="TRIMTAB_IMAGE"):
        work_pool_spec(Settings(pool_type="docker"), {})


def test_runs_get_addresses_as_they_are_and_secrets_as_names_of_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMTAB_SERVER_URL", "http://proxy:8000")
    settings = Settings(pool_type="docker", image=IMAGE, ledger_url=MARKED, mlflow_url="http://mlflow:5000")
    environ = {
        "TRIMTAB_LEDGER_URL_FILE": "/run/secrets/ledger",
        "AWS_SECRET_ACCESS_KEY_FILE": "/run/secrets/s3",
        "PREFECT_API_AUTH_STRING": MARKED,
        "PREFECT_API_AUTH_STRING_FILE": "/run/secrets/prefect",
        "AWS_REGION": "eu-central-1",
        "HOME": "/root",
    }
    variables = container_environment(settings, environ)
    assert variables["TRIMTAB_SERVER_URL"] == "http://proxy:8000"
    assert variables["TRIMTAB_MLFLOW_URL"] == variables["MLFLOW_TRACKING_URI"] == "http://mlflow:5000"
    assert variables["TRIMTAB_LEDGER_URL_FILE"] == "/run/secrets/ledger"
    assert variables["AWS_SECRET_ACCESS_KEY_FILE"] == "/run/secrets/s3"
    assert variables["PREFECT_API_AUTH_STRING_FILE"] == "/run/secrets/prefect"
    assert variables["AWS_REGION"] == "eu-central-1"
    assert variables["HOME"] == "/tmp", "not the home of whoever registered"
    assert variables["PREFECT_API_AUTH_STRING"] is None, "what Prefect's worker would write down is taken away"
    assert MARKED not in str(work_pool_spec(settings, environ))


@pytest.mark.parametrize("name", ["TRIMTAB_LEDGER_URL", "TRIMTAB_SERVER_KEY", "AWS_SECRET_ACCESS_KEY"])
def test_a_secret_by_value_is_refused_without_being_repeated(name: str) -> None:
    with pytest.raises(InvalidWorkPool, match=f"{name}_FILE") as refused:
        container_environment(Settings(), {name: MARKED})
    assert MARKED not in str(refused.value)


@pytest.mark.parametrize(
    "name",
    ["DVC_STUDIO_TOKEN", "AWS_CONTAINER_AUTHORIZATION_TOKEN", "MLFLOW_FLASK_SERVER_SECRET_KEY",
     "MLFLOW_AUTH_ADMIN_PASSWORD"],
)  # fmt: skip
def test_secrets_of_other_programs_do_not_become_job_variables(name: str) -> None:
    assert MARKED not in str(container_environment(Settings(), {name: MARKED}))


def test_an_address_with_a_password_does_not_become_a_job_variable() -> None:
    found = container_environment(Settings(), {
        "MLFLOW_BACKEND_STORE_URI": f"postgresql://mlflow:{MARKED}@db:5432/mlflow",
        "MLFLOW_S3_ENDPOINT_URL": "http://objects:8333",
    })  # fmt: skip
    assert MARKED not in str(found)
    assert found["MLFLOW_S3_ENDPOINT_URL"] == "http://objects:8333"


def test_the_name_of_a_file_with_a_token_is_no_secret() -> None:
    """By it roles of accounts work on Kubernetes."""
    found = container_environment(Settings(), {"AWS_WEB_IDENTITY_TOKEN_FILE": "/var/run/token"})
    assert found["AWS_WEB_IDENTITY_TOKEN_FILE"] == "/var/run/token"


def test_code_may_come_from_git_instead_of_the_image() -> None:
    settings = Settings(pool_type="docker", image=IMAGE, code="git+https://git.example/team/models.git@main")
    pool = work_pool_spec(settings, {})
    assert pool.code is not None
    assert pool.code.to_pull_step() == {
        "prefect.deployments.steps.git_clone": {
            "repository": "https://git.example/team/models.git", "branch": "main", "clone_directory_name": "code",
        }
    }  # fmt: skip
    assert pool.job_variables["env"]["PYTHONPATH"] == pool.job_variables["env"]["TRIMTAB_PROJECT"] == "/tmp/code"


def test_a_commit_is_told_from_a_branch() -> None:
    settings = Settings(pool_type="docker", image=IMAGE, code=f"git+https://git.example/models.git@{'ab' * 20}")
    step = work_pool_spec(settings, {}).code
    assert step is not None
    assert step.to_pull_step()["prefect.deployments.steps.git_clone"]["commit_sha"] == "ab" * 20  # type: ignore[call-overload]


@pytest.mark.parametrize("who", [f"me:{MARKED}", MARKED, f"{MARKED}:x-oauth-basic"], ids=["password", "token", "both"])
def test_credentials_in_the_address_of_the_code_are_refused(who: str) -> None:
    settings = Settings(pool_type="docker", image=IMAGE, code=f"git+https://{who}@git.example/models.git@main")
    with pytest.raises(InvalidWorkPool, match="password or a token") as refused:
        work_pool_spec(settings, {})
    assert MARKED not in str(refused.value)


def test_git_over_ssh_has_its_user() -> None:
    settings = Settings(pool_type="docker", image=IMAGE, code="git+ssh://git@git.example/models.git@main")
    code = work_pool_spec(settings, {}).code
    assert code is not None
    assert "'repository': 'ssh://git@git.example/models.git'" in str(code.to_pull_step())
