"""Run in a worker's container: make a tiny release, keep it in the store, and let it answer. Prints its digest."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from stores.ledger import Ledger
from stores.releases.store import ReleaseStore
from tests.serving.sample_project import tiny_bundle
from trimtab.config.settings import Settings


def main(version: int) -> None:
    """Another *version* is another release."""
    settings = Settings()
    made = tiny_bundle(Path("made").absolute(), version=version, seed=version)
    manifest = made.manifest
    fields = {name: value for name, value in manifest.model_dump().items() if name != "files"}
    files = {name: Path("made").absolute() / made.digest / name for name in manifest.files}
    kept = ReleaseStore.at(settings.releases, settings.store, settings.store_endpoint).put(
        manifest_fields=fields, files=files
    )
    assert kept.digest == made.digest
    assert settings.ledger_url is not None
    ledger = Ledger(settings.ledger_url.get_secret_value())
    ledger.record_release(
        kept.digest, run_id=manifest.run_id, model_name=manifest.model_name, model_version=manifest.model_version,
        manifest=json.loads(manifest.canonical()),
    )  # fmt: skip
    live = ledger.live()
    ledger.switch(kept.digest, expected=live.version if live else 0, move="promote", reason="test", actor="test")
    print(kept.digest)


if __name__ == "__main__":
    main(int(sys.argv[1]))
