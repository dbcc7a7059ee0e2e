"""How a process finds the parts of a stack: database URLs and environment variables. Starts nothing."""

from urllib.parse import urlsplit, urlunsplit

from deployments.stack import postgres
from trimtab.settings import Settings


def database_url(settings: Settings, driver: str, database: str) -> str:
    """The SQLAlchemy URL of one of our databases through *driver* (psycopg, asyncpg).

    The embedded server's URL holds no password: it names the file that does.
    """
    if settings.postgres_url is None:
        where = f"{postgres.USER}@{postgres.HOST}:{settings.postgres_port}/{database}"
        return f"postgresql+{driver}://{where}?passfile={postgres.passfile(settings)}"
    own = urlsplit(settings.postgres_url.get_secret_value())
    return urlunsplit((f"postgresql+{driver}", own.netloc, f"/{database}", own.query, ""))


def ledger_url(settings: Settings) -> str:
    """The SQLAlchemy URL of the ledger's database."""
    return database_url(settings, "psycopg", "ledger")


def environment(settings: Settings) -> dict[str, str]:
    """Variables for a process that must talk to this stack, whatever its working directory is.

    Lay it over `os.environ`. It holds the user's own PostgreSQL URL if there is one: keep it out of logs.
    """
    secrets = {name: getattr(settings, name) for name in ("postgres_url", "webhook_url")}
    plain = {
        name: getattr(settings, name)
        for name in (
            *_PLACES,
            "prefect_url",
            "mlflow_url",
            "server_url",
            "worker",
            "work_pool",
        )
    }
    ours = {
        **{name: value.get_secret_value() for name, value in secrets.items() if value is not None},
        **{name: str(value) for name, value in plain.items() if value is not None},
        "ledger_url": ledger_url(settings),
        "project": str(settings.root),
        "home": str(settings.state),
        "commit_data": str(settings.commit_data).lower(),
    }
    return {
        **{f"TRIMTAB_{name.upper()}": value for name, value in ours.items()},
        "TRIMTAB_LEDGER_URL": ledger_url(settings),
        "PREFECT_API_URL": settings.prefect_api,
        "PREFECT_HOME": str(settings.state / "prefect"),
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "MLFLOW_TRACKING_URI": settings.tracking_uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DVC_NO_ANALYTICS": "1",
    }


_PLACES = ("host", "postgres_port", "prefect_port", "mlflow_port", "server_port")


def external_postgres(settings: Settings) -> str | None:
    """The user's own PostgreSQL without user and password, for people to see."""
    if settings.postgres_url is None:
        return None
    own = urlsplit(settings.postgres_url.get_secret_value())
    return f"postgresql://{own.hostname}:{own.port or 5432}"
