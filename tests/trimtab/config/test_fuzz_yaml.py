"""Whatever is written in params.yaml or schema.yaml, reading it ends soon, with settings or an error that names the
file."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.fuzzing import damaged, outcomes
from trimtab.config import params
from trimtab.config.params import ParamsError
from trimtab.data.schema import Schema, SchemaError

ROOT = Path(__file__).resolve().parents[3]
PARAMS, SCHEMA = ((ROOT / name).read_bytes() for name in ("params.yaml", "schema.yaml"))
BOMBS = {
    "many brackets": b"a: " + b"[" * 20_000,
    "many braces": b"a: " + b"{" * 20_000,
    "deep blocks": b"".join(b" " * depth + b"a:\n" for depth in range(1000)),
    "a long number": b"a: " + b"9" * 5000,
    "a long number of another base": b"a: 0x" + b"f" * 100_000,
    "a long sexagesimal number": b"a: 1" + b":59" * 5000,
    "an anchor in itself": b"a: &a [*a]",
    "a mapping in itself": b"a: &a {b: *a}",
    "a merge of itself": b"a: &a {<<: *a}",
    "aliases of aliases": b"a0: &a0 [x]\n"
    + b"".join(b"a%d: &a%d [%s]\n" % (i, i, b", ".join([b"*a%d" % (i - 1)] * 9)) for i in range(1, 12)),
    "a long list": b"a: [" + b"1," * 450_000 + b"1]",
    "a long text": b"a: " + b"x" * 50_000_000,
    "control characters": b"a: \x00\x07",
    "not UTF-8": b"a: \xff\xfe",
    "a tag": b"a: !!python/object/apply:os.system [true]",
    "a key that is a list": b"[a]: 1",
    "nothing": b"",
    "two documents": b"a: 1\n---\nb: 2",
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_what_is_no_settings_file_is_a_clear_error_within_a_second(bomb: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_bytes(BOMBS[bomb])
    began = time.process_time()
    with pytest.raises(ParamsError, match=r"params\.yaml:\d+") as found:
        params.load(tmp_path)
    assert len(str(found.value)) < 3000
    with pytest.raises(SchemaError, match=r"schema\.yaml"):
        Schema.loads(BOMBS[bomb].decode(errors="replace"))
    assert time.process_time() - began < 4, "a second each, on a machine of half the speed"


@pytest.mark.timeout(1800)
def test_params_are_settings_or_an_error_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return params.load(tmp_path)

    taken, refused = outcomes(damaged([PARAMS]), read, (ParamsError,))
    assert taken and refused


@pytest.mark.timeout(1800)
def test_a_schema_is_rules_or_an_error() -> None:
    taken, refused = outcomes(
        damaged([SCHEMA]), lambda content: Schema.loads(content.decode(errors="replace")), (SchemaError,)
    )
    assert taken and refused
