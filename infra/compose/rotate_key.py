"""Change a key of the model servers without a pause: `python3 infra/compose/rotate_key.py add|drop server-predict`.

`add` puts a new key before the one that is there, `drop` leaves the first alone; docs/how-to/compose.md says what comes
between. The file is written in place: who has it mounted keeps seeing it (servers read it again within seconds). Keys
are not printed."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from generate_secrets import FLOWS_KEY, HERE, LISTS, keys_of, new_key


class Refused(Exception):
    """The change would lock out a client, or there is nothing to change; the text says what to do."""


def main(arguments: list[str]) -> int:
    """Change one list of keys; 1 when that is refused."""
    parser = argparse.ArgumentParser(description="Change a key of the model servers without a pause.")
    parser.add_argument("what", choices=("add", "drop"), help="a new key before the old one; the old ones away")
    parser.add_argument("name", choices=LISTS)
    parser.add_argument("--secrets", type=Path, default=HERE / "secrets", help="the folder of the secrets")
    given = parser.parse_args(arguments)
    try:
        print((add if given.what == "add" else drop)(given.secrets, given.name))
    except (Refused, OSError) as error:
        print(f"{given.name} stays as it is: {error}", file=sys.stderr)
        return 1
    return 0


def add(folder: Path, name: str) -> str:
    """What is next, now that the list begins with a new key. Raises Refused while an earlier change is under way."""
    keys = keys_of((folder / name).read_text())
    if len(keys) != 1:
        raise Refused(f"it holds {len(keys)} keys already: drop the old ones first")
    _write_in_place(folder / name, [new_key(), *keys])
    next_step = (
        "run generate_secrets.py, which gives flows the new one"
        if name == LISTS[0]
        else f"give clients the first of {name}"
    )
    return f"{name} holds a new key and the old one. When every server says so (trimtab_keys), {next_step}."


def drop(folder: Path, name: str) -> str:
    """What happened, now that the first key alone is left. Raises Refused where flows still send another one."""
    first, *others = keys_of((folder / name).read_text())
    if name == LISTS[0] and (folder / FLOWS_KEY).read_text().strip() != first:
        raise Refused(
            f"flows still send another key ({FLOWS_KEY}): run generate_secrets.py, and let runs that have begun end"
        )
    _write_in_place(folder / name, [first])
    return f"{len(others)} old keys of {name} open nothing any more once every server says so (trimtab_keys)."


def _write_in_place(file: Path, keys: list[str]) -> None:
    """Over what is there, and only then cut off: at no moment is it empty."""
    with file.open("r+") as opened:
        opened.write("\n".join(keys) + "\n")
        opened.truncate()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
