"""Compile what a program imports, so that it starts as fast as it can, and nothing else: most modules of large
libraries are never imported, and bytecode is as large as its source.

    python compile_imported.py SITE_PACKAGES CODE PROGRAM

Of others' modules (in SITE_PACKAGES) that PROGRAM imports, bytecode takes the place of the source: Python loads it just
so, and a traceback still names file and line, of a version that the SBOM names. Our own CODE keeps its
sources beside the bytecode. Bytecode is never checked against a source: files in an image do not change, but their
times may."""

from __future__ import annotations

import compileall
import runpy
import sys
from pathlib import Path
from py_compile import PycInvalidationMode, compile

UNCHECKED = PycInvalidationMode.UNCHECKED_HASH


def main(arguments: list[str]) -> int:
    """Compile; 1 when something of ours does not compile."""
    site, code, program = arguments
    runpy.run_path(program)
    files = {Path(file) for module in [*sys.modules.values()] if (file := getattr(module, "__file__", None))}
    sources = sorted(file for file in files if file.suffix == ".py" and file.is_relative_to(site))
    for source in sources:
        compile(str(source), cfile=str(source.with_suffix(".pyc")), doraise=True, invalidation_mode=UNCHECKED)
        source.unlink()
    print(f"{len(sources)} modules are imported, and are bytecode now")
    return 0 if compileall.compile_dir(code, quiet=1, invalidation_mode=UNCHECKED) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
