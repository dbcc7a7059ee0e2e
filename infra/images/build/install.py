"""Install what a lock names into /opt/trimtab and prune it, as one step and so as one layer of an image.

    python install.py LOCK RULES... [--without PACKAGE,PACKAGE] [--compile]

--without leaves out packages of the lock that have no use in a container; --compile compiles all of it."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import prune

_UV, _ENVIRONMENT = "/opt/boot/bin/uv", Path("/opt/trimtab")


def main(arguments: list[str]) -> int:
    """Install; the exit code of whatever failed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("lock")
    parser.add_argument("rules", nargs="+")
    parser.add_argument("--without", default="")
    parser.add_argument("--compile", action="store_true")
    given = parser.parse_args(arguments)
    python = _ENVIRONMENT / "bin" / "python"
    (site,) = _ENVIRONMENT.glob("lib/python*/site-packages")
    subprocess.run([_UV, "pip", "sync", "--quiet", "--python", python, "--require-hashes", given.lock], check=True)
    if given.without:
        subprocess.run([_UV, "pip", "uninstall", "--quiet", "--python", python, *given.without.split(",")], check=True)
    if (failed := prune.main([str(site), *given.rules])) or not given.compile:
        return failed
    compiling = ("-m", "compileall", "-q", "-j", "0", "--invalidation-mode", "unchecked-hash")
    return subprocess.run([python, *compiling, site], check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
