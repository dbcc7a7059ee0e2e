"""The table of what runs: every part's command, environment, readiness and place in the order."""

import os
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path

from deployments.stack import addresses, postgres, seaweedfs
from deployments.stack.plan import CODE, Component, Plan, Probe
from deployments.stack.ports import Port
from trimtab.config.settings import Settings, is_loopback

_PYTHON = (sys.executable, "-m")
_STOCK_WORKER = {
    "PREFECT_WORKER_QUERY_SECONDS": "1",
    "PREFECT_WORKER_PREFETCH_SECONDS": "1",
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}


# A model server that is stopped answers what it has been asked (10 s at the most), and with a store it brings
# there what waits (TRIMTAB_DRAIN_S, 20 s); normally both take a moment.
_ANSWERED_S, _DRAINED_S = 12.0, 35.0


def plan(settings: Settings, *, only: Collection[str] | None = None) -> Plan:
    """The components that are ours to run, or those in *only*; a part that has an address of its own is left out."""
    settings = addresses.with_addresses(settings)
    if is_elsewhere(settings):
        return Plan(settings.state, ())
    parts = [
        postgres.component(settings) if settings.postgres_url is None else None,
        seaweedfs.component(settings) if settings.s3 else None,
        prefect_server(settings) if settings.prefect_url is None else None,
        mlflow_server(settings) if settings.mlflow_url is None else None,
        model_server(settings) if settings.server_url is None else None,
        registration(settings),
        worker(settings),
        exporter(settings) if settings.exporter else None,
    ]
    present = [part for part in parts if part is not None and (only is None or part.name in only)]
    return Plan(settings.state, tuple(present))


def is_elsewhere(settings: Settings) -> bool:
    """Whether no part runs here: every server has an address, and flows run in containers."""
    given = (settings.ledger_url, settings.prefect_url, settings.mlflow_url, settings.server_url)
    return None not in given and settings.pool_type != "process"


def external(settings: Settings) -> dict[str, str]:
    """Name and address of every part that runs elsewhere."""
    given = {
        "postgres": addresses.external_postgres(settings),
        "prefect": settings.prefect_url,
        "mlflow": settings.mlflow_url,
        "server": settings.server_url,
        "objects": None if addresses.with_addresses(settings).s3 else settings.store,
    }
    return {name: url for name, url in given.items() if url}


def ports(settings: Settings) -> list[Port]:
    """The ports that our own parts will listen on."""
    table = [
        Port("postgres", postgres.HOST, settings.postgres_port, "TRIMTAB_POSTGRES_PORT"),
        Port("prefect", settings.host, settings.prefect_port, "TRIMTAB_PREFECT_PORT"),
        Port("mlflow", settings.host, settings.mlflow_port, "TRIMTAB_MLFLOW_PORT"),
        Port("server", settings.host, settings.server_port, "TRIMTAB_SERVER_PORT"),
    ]
    if addresses.with_addresses(settings).s3:
        numbers = seaweedfs.port_numbers(settings).values()
        table += [Port("objects", seaweedfs.HOST, number, "TRIMTAB_S3_PORT") for number in numbers]
    if settings.exporter:
        table.append(Port("exporter", settings.host, settings.exporter_port, "TRIMTAB_EXPORTER_PORT"))
    return [port for port in table if port.component not in external(settings)]


def health_url(settings: Settings, name: str) -> str:
    """The address that answers 200 when the part *name* works."""
    return {
        "prefect": f"{settings.prefect_api}/health",
        "mlflow": f"{settings.tracking_uri}/api/2.0/mlflow/experiments/get?experiment_id=0",
        "server": f"{settings.model_server}/health",
    }[name]


def prefect_server(settings: Settings) -> Component:
    """Prefect's API, UI and services in one process, without the command line around them."""
    url = f"http://{settings.host}:{settings.prefect_port}"
    return Component(
        name="prefect",
        command=(
            *_uvicorn(settings.host, settings.prefect_port),
            "--factory",
            f"{_prefect_application(settings)}:create_app",
        ),
        probe=Probe("http", f"{settings.prefect_api}/ready"),
        env={
            "PREFECT_HOME": str(settings.state / "prefect"),
            "PREFECT_SERVER_DATABASE_CONNECTION_URL": addresses.database_url(settings, "asyncpg", "prefect"),
            "PREFECT_SERVER_API_HOST": settings.host,
            "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT__SERVER_FINAL": "1",
            "DO_NOT_TRACK": "true",
        },
        unset=("PREFECT_API_URL", "PREFECT_PROFILE"),
        cwd=str(settings.state),
        url=url,
        needs=_database(settings),
        stop_group=1,
        stop_timeout_s=8.0,
    )


def _prefect_application(settings: Settings) -> str:
    """The check of Host and Origin is for one machine; beyond it, names are as many as there are ways to it."""
    here = is_loopback(settings.host)
    return "deployments.stack.prefect_application" if here else "prefect.server.api.server"


def mlflow_server(settings: Settings) -> Component:
    """MLflow's server as one process: `mlflow server` would keep a second one of the same size beside it.

    The private variables are how that command hands its options to the application (MLflow 3.17).
    """
    store = addresses.database_url(settings, "psycopg", "mlflow")
    return Component(
        name="mlflow",
        command=(
            *_uvicorn(settings.host, settings.mlflow_port),
            "mlflow.server.fastapi_app:app",
        ),
        probe=Probe("http", health_url(settings, "mlflow")),
        env={
            "_MLFLOW_SERVER_FILE_STORE": store,
            "_MLFLOW_SERVER_REGISTRY_STORE": store,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": "mlflow-artifacts:/",
            "_MLFLOW_SERVER_ARTIFACT_DESTINATION": _artifacts(settings),
            "_MLFLOW_SERVER_SERVE_ARTIFACTS": "true",
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            **_store_access(settings),
        },
        unset=("MLFLOW_TRACKING_URI", "MLFLOW_REGISTRY_URI"),
        cwd=str(settings.state),
        url=f"http://{settings.host}:{settings.mlflow_port}",
        needs=(*_database(settings), *_objects(settings)),
        stop_group=1,
    )


def model_server(settings: Settings) -> Component:
    """The server that answers predictions."""
    return Component(
        name="server",
        command=(*_PYTHON, "serving"),
        probe=Probe("http", health_url(settings, "server")),
        env={**_ours(settings), "ARROW_DEFAULT_MEMORY_POOL": "system"},
        cwd=str(settings.root),
        url=f"http://{settings.host}:{settings.server_port}",
        needs=(*_database(settings), *_objects(settings)),
        stop_group=1,
        stop_timeout_s=_DRAINED_S if settings.store else _ANSWERED_S,
    )


def registration(settings: Settings) -> Component:
    """The job that registers the deployments with Prefect."""
    return Component(
        name="deployments",
        command=(*_PYTHON, "deployments.stack.registration"),
        probe=Probe("exit"),
        env=_ours(settings),
        cwd=str(settings.root),
    )


def _own_scratch() -> str:
    """A folder for passing files of this user's own: Prefect's worker makes one with a fixed name under the common
    one, which the first user of a machine would keep all others out of. Short, as sockets' paths have to be."""
    folder = Path(tempfile.gettempdir()) / f"trimtab-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return str(folder)


def worker(settings: Settings) -> Component:
    """The process that runs flows: the warm worker, Prefect's own, or the Docker worker.

    It starts once Prefect answers: a worker that cannot reach Prefect retries only after half a minute and never
    restores the event stream that cancels runs.
    """
    is_warm = settings.worker == "warm" and settings.pool_type == "process"
    pool = ("--pool", settings.work_pool)
    if is_warm or settings.pool_type == "docker":
        program: tuple[str, ...] = (f"deployments.workers.{'warm' if is_warm else 'docker'}_worker", *pool)
    else:
        program = ("prefect", "worker", "start", *pool, "--type", settings.pool_type)
    return Component(
        name="worker",
        command=(*_PYTHON, *program),
        probe=Probe("worker", settings.prefect_api, pool=settings.work_pool),
        env={**_ours(settings), "TMPDIR": _own_scratch(), **({} if is_warm else _STOCK_WORKER)},
        cwd=str(settings.root),
        needs=(*_prefect(settings), *_objects(settings)),
        stop_timeout_s=20.0,
        kill_children=False,
    )


def exporter(settings: Settings) -> Component:
    """The exporter of the loop's metrics. It has no dependencies: it reports a source that it cannot read as down."""
    url = f"http://{settings.host}:{settings.exporter_port}"
    return Component(
        name="exporter",
        command=(*_PYTHON, "deployments.exporter"),
        probe=Probe("http", f"{url}/metrics"),
        env=_ours(settings),
        cwd=str(settings.root),
        url=url,
    )


def _ours(settings: Settings) -> dict[str, str]:
    return {**addresses.environment(settings), "PYTHONPATH": str(CODE)}


def _uvicorn(host: str, port: int) -> tuple[str, ...]:
    options = (
        "--host",
        host,
        "--port",
        str(port),
        "--log-level",
        "warning",
        "--timeout-graceful-shutdown",
        "2",
    )
    return (sys.executable, "-P", "-m", "uvicorn", *options)


def _database(settings: Settings) -> tuple[str, ...]:
    return ("postgres",) if settings.postgres_url is None else ()


def _objects(settings: Settings) -> tuple[str, ...]:
    return ("objects",) if settings.s3 else ()


def _artifacts(settings: Settings) -> str:
    """Where MLflow keeps what is logged with a run."""
    return f"{settings.store.rstrip('/')}/mlflow" if settings.store else (settings.state / "mlflow-artifacts").as_uri()


def _store_access(settings: Settings) -> dict[str, str]:
    """What MLflow needs to write to the store; keys of a store of the user's own are in the environment already."""
    endpoint = {"MLFLOW_S3_ENDPOINT_URL": settings.store_endpoint} if settings.store_endpoint else {}
    return {**endpoint, **(seaweedfs.credentials(settings) if settings.s3 else {})}


def _prefect(settings: Settings) -> tuple[str, ...]:
    return ("prefect",) if settings.prefect_url is None else ()
