"""Starts the model server: `python -m serving`. This is the only module of serving that reads settings."""

from __future__ import annotations

import gc
import logging
import os
import sys

from pydantic import ValidationError

from serving.settings import InsecureSettings, ServerSettings, check_exposure, key_files
from trimtab.config.run_with_secrets import UnreadableSecret
from trimtab.config.settings import Settings

_ARRIVAL_ROOM_S = 1.0  # a late body is answered by serving.http.asgi first, which says why


def main() -> int:
    """Run the server until it is stopped; 2 when the settings are invalid or insecure."""
    os.umask(os.umask(0o077) | 0o022)  # no other user may change what the server writes
    try:
        settings, server_settings = Settings(), ServerSettings()
        check_exposure(settings, server_settings)
    except ValidationError as error:
        for problem in error.errors(include_input=False, include_url=False):  # inputs may be secrets
            name = "_".join(map(str, problem["loc"])).upper()
            print(f"The model server does not start: TRIMTAB_{name}: {problem['msg']}", file=sys.stderr)
        return 2
    except (InsecureSettings, UnreadableSecret) as error:
        print(f"The model server does not start: {error}", file=sys.stderr)
        return 2
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it logs where it found the credentials
    # Requests are served by several threads, so threads inside the model only compete with them for the cores (240 ms
    # instead of 28 for 10,000 rows on two busy cores). Rows are many small objects that live shortly.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.001)  # seconds after which another thread (large requests, loading) yields
    import uvicorn

    from serving.app import ModelServer
    from serving.http.protocol import with_arrival_limit
    from serving.preload import unpack
    from stores.releases.store import ReleaseStore
    from stores.telemetry import open_telemetry

    sys.path.append(str(settings.root))  # for a project's own model.py
    if server_settings.baked is not None:
        unpack(server_settings.baked, settings.releases)
    # Few attempts: while a release is downloaded the ledger is not followed, and the download is tried again anyway.
    store = ReleaseStore.at(settings.releases, settings.store, settings.store_endpoint, attempts=3)
    telemetry, files = open_telemetry(settings.telemetry, store.objects), key_files(os.environ)
    server = ModelServer(server_settings, release_store=store, telemetry=telemetry, files=files)
    uvicorn.run(
        server.app,
        host=settings.host,
        port=settings.server_port,
        loop="uvloop",
        http=with_arrival_limit(server_settings.answer_s + _ARRIVAL_ROOM_S),
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,  # clients' pools close idle connections earlier, so none is closed during a request
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
