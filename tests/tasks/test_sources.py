"""The rows of a period, from a project's function or from files; what goes wrong is told, and nothing is kept."""

from __future__ import annotations

import uuid
from pathlib import Path

import pandas as pd
import pytest

from tasks.source_access import SourceError, SourceRejected
from tasks.sources import fetch
from tests.tasks.source_params import source_params
from trimtab.config.params import ParamsError
from trimtab.data.periods import Period

MARCH = Period.parse("2013-03", "month")
ROWS = pd.DataFrame({"id": ["1", "2"], "x": [0.5, 1.5]})


@pytest.fixture
def module(tmp_path: Path) -> str:
    """A name that no other test has imported."""
    return f"rows_{uuid.uuid4().hex}"


def write(folder: Path, module: str, text: str) -> None:
    (folder / f"{module}.py").write_text(f"import pandas as pd\n{text}")


def test_a_function_of_the_project_is_asked_for_the_period(tmp_path: Path, module: str) -> None:
    write(tmp_path, module, "def load(start, end):\n    return pd.DataFrame({'start': [start], 'end': [end]})\n")
    rows = fetch(tmp_path, source_params(f"{module}:load"), MARCH)
    assert (rows["start"][0], rows["end"][0]) == (MARCH.start, MARCH.end)


@pytest.mark.parametrize("kind", ["parquet", "csv"])
def test_files_are_found_by_the_period_in_their_name(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    if kind == "csv":
        ROWS.to_csv(tmp_path / "in" / "2013-03.csv", index=False)
    else:
        ROWS.to_parquet(tmp_path / "in" / "2013-03.parquet")
    pd.testing.assert_frame_equal(fetch(tmp_path, source_params(f"in/{{period}}.{kind}"), MARCH), ROWS)
    assert fetch(tmp_path, source_params(f"in/{{period}}.{kind}"), MARCH.shift(1)).empty


@pytest.mark.parametrize(
    ("kind", "content"),
    [("parquet", b"PAR1 half a fi"), ("csv", b""), ("csv", b'a,b\n1,"2\n'), ("csv", b"a\n\xff\xfe\n")],
)
def test_a_file_that_cannot_be_read_is_a_source_that_failed(tmp_path: Path, kind: str, content: bytes) -> None:
    (tmp_path / f"2013-03.{kind}").write_bytes(content)
    with pytest.raises(SourceError, match=rf"2013-03\.{kind} cannot be read for 2013-03"):
        fetch(tmp_path, source_params(f"{{period}}.{kind}"), MARCH)


def test_braces_in_a_path_are_no_trouble(tmp_path: Path) -> None:
    assert fetch(tmp_path, source_params("{other}/{period}.csv"), MARCH).empty


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def load(start, end):\n    raise OSError('line cut')\n", "failed for 2013-03: OSError: line cut"),
        ("def load(start, end):\n    rows = [1]\n    return rows[7]\n", "failed for 2013-03: IndexError"),
        ("def load(start, end):\n    return [1, 2]\n", "gave a list for 2013-03; it has to give a pandas DataFrame"),
    ],
    ids=["half-way", "a bug", "no frame"],
)
def test_a_source_that_fails_is_named_with_the_period(tmp_path: Path, module: str, text: str, says: str) -> None:
    write(tmp_path, module, text)
    with pytest.raises(SourceError, match=says):
        fetch(tmp_path, source_params(f"{module}:load"), MARCH)


@pytest.mark.parametrize("target", ["nowhere_at_all:load", "{}:missing", "{}", ":load", "", "{}.sub:load"])
def test_a_target_that_is_not_there_is_told_as_a_param(tmp_path: Path, module: str, target: str) -> None:
    write(tmp_path, module, "def load(start, end):\n    return pd.DataFrame()\n")
    with pytest.raises(ParamsError, match=r"source\.target .*cannot be found"):
        fetch(tmp_path, source_params(target.format(module)), MARCH)


def test_a_module_that_is_no_python_is_told_as_a_param(tmp_path: Path, module: str) -> None:
    write(tmp_path, module, "def load(:\n")
    with pytest.raises(ParamsError, match=r"source\.target"):
        fetch(tmp_path, source_params(f"{module}:load"), MARCH)


def test_the_projects_own_module_comes_before_others(tmp_path: Path, module: str) -> None:
    for name, value in (("one", 1), ("two", 2)):
        (tmp_path / name).mkdir()
        write(
            tmp_path / name, f"{module}_{name}", f"def load(start, end):\n    return pd.DataFrame({{'v': [{value}]}})\n"
        )
    write(tmp_path / "one", f"{module}_two", "raise ImportError('the wrong one')\n")
    assert fetch(tmp_path / "one", source_params(f"{module}_one:load"), MARCH)["v"][0] == 1
    assert fetch(tmp_path / "two", source_params(f"{module}_two:load"), MARCH)["v"][0] == 2


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def load():\n    pass\n", "has a mistake .*TypeError"),
        ("def load(start, end):\n    return frame\n", "has a mistake .*NameError"),
    ],
    ids=["no arguments", "an unknown name"],
)
def test_a_mistake_in_a_source_is_not_tried_again(tmp_path: Path, module: str, text: str, says: str) -> None:
    write(tmp_path, module, text)
    with pytest.raises(SourceRejected, match=says):
        fetch(tmp_path, source_params(f"{module}:load"), MARCH)


@pytest.mark.parametrize("when", ["called", "imported"])
def test_a_source_runs_in_the_projects_folder(tmp_path: Path, module: str, when: str) -> None:
    ROWS.to_csv(tmp_path / "rows.csv", index=False)
    at_import = "ROWS = pd.read_csv('rows.csv')\ndef load(start, end):\n    return ROWS\n"
    at_call = "def load(start, end):\n    return pd.read_csv('rows.csv')\n"
    write(tmp_path, module, at_call if when == "called" else at_import)
    before = Path.cwd()
    assert len(fetch(tmp_path, source_params(f"{module}:load"), MARCH)) == len(ROWS)
    assert Path.cwd() == before
