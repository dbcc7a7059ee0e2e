"""Take out of an environment what no program in an image can use: tests, headers, stubs, sources of compiled modules,
parts of libraries that speak to systems we never ask. Runs while an image is built, never afterwards.

    python prune.py SITE_PACKAGES RULES...

RULES are files of lines, with patterns as in a shell, relative to SITE_PACKAGES. The last of `drop PATTERN` and `keep
PATTERN` that fits a path decides; `unlink LIBRARY` takes out a shared library that others name as needed though they
use nothing of it, which is proved before. What goes is left out of each package's RECORD as well, so that scanners find
what they read of."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

# `**/` is any number of folders, none as well; `*` and `?` stay within one name.
_WILD = {"**/": "(?:[^/]+/)*", "**": ".*", "*": "[^/]*", "?": "[^/]"}


def main(arguments: list[str]) -> int:
    """Prune; 2 when a rule is unreadable, fits nothing at all, or would break something."""
    site = Path(arguments[0])
    rules = [rule for file in arguments[1:] for rule in _rules(Path(file))]
    before = _size(site)
    idle = drop(site, rules)
    if idle:
        print(f"these rules fit nothing any more, so take them out: {', '.join(idle)}", file=sys.stderr)
        return 2
    for rule in rules:
        if rule.verb == "unlink":
            for library in site.glob(rule.text):
                unlink(library)
    share(site)
    for record in site.glob("*.dist-info/RECORD"):
        correct(record)
    strip(site)
    print(f"{site}: {before / 1e6:.0f} MB before, {_size(site) / 1e6:.0f} MB now")
    return 0


@dataclass(frozen=True)
class Rule:
    """One line of a rules file."""

    verb: str
    text: str
    pattern: re.Pattern[str]


def _rules(file: Path) -> Iterator[Rule]:
    for number, line in enumerate(file.read_text().splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) != 2 or words[0] not in {"keep", "drop", "unlink"}:
            raise SystemExit(f"{file}:{number}: 'keep', 'drop' or 'unlink' and a pattern are expected, not {line!r}")
        yield Rule(words[0], words[1], re.compile(_expression(words[1])))


def _expression(pattern: str) -> str:
    pieces = re.split(r"(\*\*/|\*\*|\*|\?)", pattern)
    return "".join(_WILD.get(piece, re.escape(piece)) for piece in pieces) + "(?:/.*)?"


def drop(site: Path, rules: Sequence[Rule]) -> list[str]:
    """Remove the files whose last fitting rule says so, and folders that are empty then; the rules that fit nothing."""
    used: set[str] = set()
    for path in [*site.rglob("*")]:
        if path.is_dir() and not path.is_symlink():
            continue
        name = path.relative_to(site).as_posix()
        fitting = [rule for rule in rules if rule.pattern.fullmatch(name)]
        used.update(rule.text for rule in fitting)
        if fitting and fitting[-1].verb == "drop":
            path.unlink()
    for folder in sorted((p for p in site.rglob("*") if p.is_dir()), key=lambda p: len(p.parts), reverse=True):
        if not any(folder.iterdir()):
            folder.rmdir()
    return [rule.text for rule in rules if rule.text not in used]


def unlink(library: Path) -> None:
    """Remove *library*, and its name from those that need it; SystemExit when one of them uses a symbol of it that no
    other library beside it has."""
    beside = [path for path in _compiled(library.parent) if path != library]
    elsewhere = set().union(*(_symbols(path, "--defined-only") for path in beside))
    offered = _symbols(library, "--defined-only") - elsewhere
    for path in beside:
        if used := _symbols(path, "--undefined-only") & offered:
            raise SystemExit(f"{library} has to stay: {path.name} uses {min(used)}, {len(used)} symbols in all")
    subprocess.run(["patchelf", "--remove-needed", library.name, *map(str, beside)], check=True)
    library.unlink()


def _symbols(library: Path, which: str) -> set[str]:
    command = ["nm", "--dynamic", "--format=just-symbols", which, str(library)]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def correct(record: Path) -> None:
    """Leave only the files that are there in a package's *record*."""
    site = record.parent.parent
    with record.open(newline="") as file:
        rows = [row for row in csv.reader(file) if row and (site / row[0]).exists()]
    with record.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows(rows)


def share(site: Path) -> None:
    """Replace libraries that several packages bring (`*.libs`) by links to the first of them."""
    first: dict[bytes, Path] = {}
    for path in sorted(path for path in site.glob("*.libs/*") if path.is_file() and not path.is_symlink()):
        one = first.setdefault(sha256(path.read_bytes()).digest(), path)
        if one != path:
            path.unlink()
            path.symlink_to(Path("..") / one.relative_to(site))


def strip(site: Path) -> None:
    """Take symbols for debuggers out of compiled modules. Libraries that were repacked beside a package (`*.libs`) stay
    as they are: their layout was changed after they were linked, which strip does not always survive."""
    if own := [path for path in _compiled(site) if not path.relative_to(site).parts[0].endswith(".libs")]:
        subprocess.run(["strip", "--strip-unneeded", *map(str, own)], check=True)


def _compiled(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*.so*") if not path.is_symlink() and _is_elf(path)]


def _is_elf(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"\x7fELF"


def _size(folder: Path) -> int:
    return sum(path.lstat().st_size for path in folder.rglob("*"))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
