"""Write down what an image holds, as CycloneDX: Python's packages (found by cyclonedx-py) and Debian's (from dpkg's
list).

    python sbom.py NAME ROOT FOLDER

ROOT is where the image's files are; its environment /opt/trimtab, if it has one, is asked by its own Python. The sbom,
which is the same whenever the contents are, becomes FOLDER/NAME.cdx.json; it is checked against the format's schema."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from email.parser import HeaderParser
from pathlib import Path
from typing import Any
from urllib.parse import quote


def main(arguments: list[str]) -> int:
    """Write the sbom; 1 when it would not be valid."""
    name, root, folder = arguments[0], Path(arguments[1]), Path(arguments[2])
    sbom = python_packages(root / "opt" / "trimtab" / "bin" / "python")
    sbom["metadata"]["component"] = {"type": "container", "name": name, "bom-ref": name}
    debian = list(debian_packages(root / "var" / "lib" / "dpkg" / "status"))
    sbom["components"] = [*sbom.get("components", []), *debian]
    # Dependencies between packages are known of Python's only; the image needs all of them.
    known = [part for part in sbom.get("dependencies", []) if part["ref"] in {c["bom-ref"] for c in sbom["components"]}]
    sbom["dependencies"] = [*known, {"ref": name, "dependsOn": sorted(c["bom-ref"] for c in sbom["components"])}]
    text = json.dumps(sbom, indent=1, sort_keys=True) + "\n"
    if problem := invalid(text):
        print(f"{name}: the SBOM is not valid: {problem}", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.cdx.json").write_text(text)
    print(f"{name}: {len(sbom['components'])} components, {len(debian)} of them Debian's")
    return 0


def python_packages(interpreter: Path) -> dict[str, Any]:
    """The sbom of an environment; an empty one where there is none."""
    here = Path(sys.executable).parent
    command = [
        str(here / "cyclonedx-py"),
        "environment",
        "--output-reproducible",
        "--spec-version",
        "1.6",
        "--of",
        "JSON",
    ]
    if not interpreter.exists():
        empty = here.parent / "empty.txt"
        empty.touch()
        command[1:2] = ["requirements", str(empty)]
    else:
        command.append(str(interpreter))
    written = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    sbom: dict[str, Any] = json.loads(written)
    return sbom


def debian_packages(status: Path) -> Iterator[dict[str, Any]]:
    """A component for every package that dpkg says is installed."""
    for paragraph in status.read_text().split("\n\n"):
        fields = HeaderParser().parsestr(paragraph)
        if fields["Status"] != "install ok installed":
            continue
        name, version, architecture = fields["Package"], fields["Version"], fields["Architecture"]
        purl = f"pkg:deb/debian/{quote(name)}@{quote(version)}?arch={architecture}"
        yield {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def invalid(text: str) -> str | None:
    """What is wrong with a sbom, or None."""
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    found = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    return str(found) if found else None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
