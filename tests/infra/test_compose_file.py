"""What Compose makes of infra/compose/compose.yaml, which it tells without an engine."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.infra.containers import DOCKER, ROOT

pytestmark = pytest.mark.docker  # the command with Compose is there whenever an engine is
STATE, PROJECT = "/srv/trimtab/state", "/srv/trimtab/project"


@pytest.fixture
def compose() -> str:
    """The docker that has Compose; in CI there has to be one."""
    found = shutil.which(DOCKER)
    if found and subprocess.run([found, "compose", "version"], capture_output=True, check=False).returncode == 0:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail("there is no docker compose")
    pytest.skip("there is no docker compose")


def services(compose: str, folder: Path, **given: str) -> dict[str, Any]:
    """The services in a place with the variables of .env.example."""
    env = folder / ".env"
    env.write_text((ROOT / "infra" / "compose" / ".env.example").read_text())
    mine = {name: value for name, value in os.environ.items() if name != "PROJECT_VOLUME"}
    told = {**mine, "TRIMTAB_SECRETS": str(folder), "DOCKER_GID": "0", **given}
    command = [
        compose,
        "compose",
        "--env-file",
        str(env),
        "--file",
        "infra/compose/compose.yaml",
        "--profile",
        "command",
    ]
    done = subprocess.run([*command, "config", "--format", "json"], cwd=ROOT, env=told, capture_output=True, text=True,
                          check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout)["services"])


def volumes(service: dict[str, Any]) -> dict[str, tuple[str, bool]]:
    """Sources and whether they are read-only, by target."""
    return {v["target"]: (v.get("source", ""), v.get("read_only", False)) for v in service.get("volumes", [])}


def test_what_stays_over_an_update_reads_the_project_of_the_new_image(compose: str, tmp_path: Path) -> None:
    """Compose hands a nameless volume to the service's next container, old params.yaml and all."""
    found = services(compose, tmp_path)
    for name in ("deployments", "exporter"):
        assert volumes(found[name]) == {STATE: ("", False)}, name
    stay = [name for name in found if name != "trimtab"]  # which gets a container of its own each time
    assert [name for name in stay if PROJECT in volumes(found[name])] == []
    flows = json.loads(found["worker"]["environment"]["TRIMTAB_POOL_VOLUMES"])
    assert flows[0] == PROJECT, "a run begins with the image's, in a volume that goes with it"


def test_a_project_that_is_set_is_everywhere(compose: str, tmp_path: Path) -> None:
    given = f"/srv/projects/churn:{PROJECT}:ro"
    found = services(compose, tmp_path, PROJECT_VOLUME=given)
    for name in ("deployments", "exporter", "trimtab"):
        assert volumes(found[name]) == {STATE: ("", False), PROJECT: ("/srv/projects/churn", True)}, name
    assert json.loads(found["worker"]["environment"]["TRIMTAB_POOL_VOLUMES"])[0] == given
