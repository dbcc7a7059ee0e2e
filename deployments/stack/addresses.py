"""How a process finds the parts of a stack: database URLs and environment variables. Starts nothing."""

import json
import os
from urllib.parse import quote, urlsplit, urlunsplit

from pydantic import SecretStr

from deployments.stack import postgres, seaweedfs
from deployments.stack.plan import StackError
from trimtab.config.settings import Settings


def with_addresses(settings: Settings) -> Settings:
    """Return *settings* with the address of the embedded S3 server, when it is requested or holds the state already.

    Raises StackError when another store is configured too.
    """
    if not (settings.s3 or (settings.store is None and seaweedfs.keyfile(settings).exists())):
        return settings
    ours = {"store": f"s3://{seaweedfs.BUCKET}", "store_endpoint": seaweedfs.endpoint(settings)}
    if settings.store not in (None, ours["store"]) or settings.store_endpoint not in (None, ours["store_endpoint"]):
        raise StackError(
            f"TRIMTAB_STORE names {settings.store} at {settings.store_endpoint or 'Amazon'}, and --s3 (TRIMTAB_S3) "
            "asks for a store of this stack's own: leave one of them out"
        )
    return settings.model_copy(update={**ours, "s3": True})


def database_url(settings: Settings, driver: str, database: str) -> str:
    """The SQLAlchemy URL of one of our databases through *driver* (psycopg, asyncpg).

    The embedded server's URL holds no password: it names the file that does.
    """
    if settings.postgres_url is None:
        where = f"{postgres.USER}@{postgres.HOST}:{settings.postgres_port}/{database}"
        return f"postgresql+{driver}://{where}?passfile={quote(str(postgres.passfile(settings)))}"
    own = urlsplit(settings.postgres_url.get_secret_value())
    return urlunsplit((f"postgresql+{driver}", own.netloc, f"/{database}", own.query, ""))


def ledger_url(settings: Settings) -> str:
    """The SQLAlchemy URL of the ledger's database."""
    if settings.ledger_url is not None:
        return settings.ledger_url.get_secret_value()
    return database_url(settings, "psycopg", "ledger")


def environment(settings: Settings) -> dict[str, str]:
    """Variables for a process that must talk to this stack, whatever its working directory is.

    Lay it over `os.environ`. It holds the keys of the embedded S3 server and the user's own PostgreSQL URL, if there
    are any: keep it out of logs.
    """
    settings = with_addresses(settings)
    given = {name: value for name, value in settings if value is not None}
    ours = {**given, "project": settings.root, "home": settings.state, "ledger_url": ledger_url(settings)}
    return {
        **{f"TRIMTAB_{name.upper()}": _as_text(value) for name, value in ours.items()},
        "PREFECT_API_URL": settings.prefect_api,
        "PREFECT_HOME": str(settings.state / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server answers while its database is being restarted
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
        # Threads that wait by spinning take the cores from everybody else: measured, a fit took ten times as long
        # on two busy cores.
        "OMP_WAIT_POLICY": "passive",
        **without_proxy(settings),
        **(seaweedfs.credentials(settings) if settings.s3 else {}),
    }


def without_proxy(settings: Settings) -> dict[str, str]:
    """Variables by which no process of ours asks a proxy of the user's for this stack's own servers."""
    own = (settings.prefect_api, settings.tracking_uri, settings.model_server, settings.server_replicas,
           settings.store_endpoint)  # fmt: skip
    hosts = [urlsplit(url).hostname for url in own if url]
    said = os.environ.get("NO_PROXY") or os.environ.get("no_proxy") or ""
    names = dict.fromkeys([*filter(None, said.split(",")), "127.0.0.1", "localhost", "::1", *filter(None, hosts)])
    return {name: ",".join(names) for name in ("NO_PROXY", "no_proxy")}


def _as_text(value: object) -> str:
    """A setting as its variable would spell it."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return json.dumps(value)
    return str(value).lower() if isinstance(value, bool) else str(value)


def external_postgres(settings: Settings) -> str | None:
    """The user's own PostgreSQL without user and password, for people to see."""
    if settings.postgres_url is None:
        return None
    own = urlsplit(settings.postgres_url.get_secret_value())
    return f"postgresql://{own.hostname}:{own.port or 5432}"
