"""The keys that infra/compose/generate_secrets.py makes, and how infra/compose/rotate_key.py changes one of them."""

from __future__ import annotations

import stat
import subprocess
import sys
from pathlib import Path

import pytest

from serving.settings import parse_keys

INFRA = Path(__file__).resolve().parents[2] / "infra" / "compose"
MAKE = (
    "import sys; from pathlib import Path; import generate_secrets; print(generate_secrets.keep(Path(sys.argv[1]), {}))"
)


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=INFRA, capture_output=True, text=True, check=False)


def prepare(folder: Path) -> str:
    """What generate_secrets.py does to the secrets; it leaves .env alone."""
    done = run("-c", MAKE, str(folder))
    assert done.returncode == 0, done.stderr
    return done.stdout


def change(folder: Path, what: str, name: str) -> subprocess.CompletedProcess[str]:
    return run("rotate_key.py", what, name, "--secrets", str(folder))


def keys(folder: Path, name: str) -> list[str]:
    """As the server reads them."""
    return [key.get_secret_value() for key in parse_keys((folder / name).read_text())]


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    folder = tmp_path / "secrets"
    prepare(folder)
    return folder


def test_flows_send_one_key_and_servers_hold_a_list(secrets: Path) -> None:
    assert keys(secrets, "flows-admin") == keys(secrets, "server-admin")
    assert prepare(secrets) == "[]\n", "nothing is made twice"
    (secrets / "server-admin").write_text("new, old\n")
    assert "flows-admin" in prepare(secrets)
    assert (secrets / "flows-admin").read_text() == "new\n"


@pytest.mark.parametrize("name", ["server-predict", "server-labels", "server-admin"])
def test_a_key_is_changed_by_adding_one_and_dropping_the_old_in_the_file_that_is_mounted(
    secrets: Path, name: str
) -> None:
    before, (old,) = (secrets / name).stat(), keys(secrets, name)
    added = change(secrets, "add", name)
    assert added.returncode == 0, added.stderr
    new, kept = keys(secrets, name)
    assert kept == old
    prepare(secrets)
    dropped = change(secrets, "drop", name)
    assert dropped.returncode == 0, dropped.stderr
    assert keys(secrets, name) == [new]
    after = (secrets / name).stat()
    assert (after.st_ino, stat.S_IMODE(after.st_mode)) == (before.st_ino, 0o644)
    assert not [key for key in (old, new) if key in f"{added} {dropped}"]


def test_no_key_is_dropped_that_flows_still_send(secrets: Path) -> None:
    change(secrets, "add", "server-admin")
    both = keys(secrets, "server-admin")
    refused = change(secrets, "drop", "server-admin")
    assert refused.returncode == 1
    assert "generate_secrets.py" in refused.stderr
    assert keys(secrets, "server-admin") == both
    prepare(secrets)
    assert change(secrets, "drop", "server-admin").returncode == 0


def test_a_second_change_waits_for_the_first(secrets: Path) -> None:
    change(secrets, "add", "server-predict")
    refused = change(secrets, "add", "server-predict")
    assert refused.returncode == 1
    assert "drop" in refused.stderr
    assert len(keys(secrets, "server-predict")) == 2
