"""Start the model server: `python -m serving`. Settings are read here and nowhere else."""

from __future__ import annotations

import gc
import logging
import os
import sys

from pydantic import ValidationError

from serving.settings import InsecureSettings, ServerSettings, check_exposure, key_files
from trimtab.config.run_with_secrets import UnreadableSecret
from trimtab.config.settings import Settings


def main() -> int:
    """Serve until told to stop; 2 when the settings do not allow it."""
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
    logging.getLogger("botocore").setLevel(logging.WARNING)  # it tells where it found the credentials
    # Threads serve requests beside one another; threads inside the model only fight with these for the cores (240 ms
    # instead of 28 for 10,000 rows on two busy cores). And rows are many small objects that die young.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    gc.set_threshold(50_000, 20, 50)
    sys.setswitchinterval(0.001)  # seconds; what runs in a thread (large requests, loading) hands back that soon
    import uvicorn

    from serving.app import ModelServer
    from serving.http.protocol import HttpProtocol
    from serving.preload import unpack
    from stores.releases.store import ReleaseStore
    from stores.telemetry import open_telemetry

    sys.path.append(str(settings.root))  # a project's own model.py
    if server_settings.baked is not None:
        unpack(server_settings.baked, settings.releases)
    # Few attempts: while a release is fetched nothing else that the ledger says is followed, and it is tried again.
    release_store = ReleaseStore.at(settings.releases, settings.store, settings.store_endpoint, attempts=3)
    telemetry, files = open_telemetry(settings.telemetry, release_store.objects), key_files(os.environ)
    server = ModelServer(server_settings, release_store=release_store, telemetry=telemetry, files=files)
    uvicorn.run(
        server.app,
        host=settings.host,
        port=settings.server_port,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        proxy_headers=False,
        access_log=False,
        log_level="warning",
        timeout_keep_alive=75,  # longer than clients' pools keep a connection, so that none is closed under a request
        timeout_graceful_shutdown=10,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
