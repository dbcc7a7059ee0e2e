"""``python -m stores.telemetry ROOT`` compacts the finished segments below ROOT. With ``--store s3://bucket/prefix`` it
also uploads them, until its standard input ends and nothing is left, or until the store has been unavailable for a
minute after that."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m stores.telemetry")
    parser.add_argument("root", type=Path)
    parser.add_argument("--store", help="s3://bucket/prefix")
    parser.add_argument("--endpoint", help="address of an S3 server of one's own")
    asked = parser.parse_args()
    if asked.store is None:
        from stores.telemetry.parquet import compaction_process

        return compaction_process.main(asked.root)
    from stores.object_store.store import ObjectStore
    from stores.telemetry.remote import upload_process
    from stores.telemetry.remote.replica import SharedTelemetry

    return upload_process.main(
        SharedTelemetry(asked.root, ObjectStore(asked.store, endpoint=asked.endpoint, attempts=3))
    )


if __name__ == "__main__":
    sys.exit(_main())
