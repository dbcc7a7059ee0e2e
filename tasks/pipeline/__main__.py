"""The command line of the pipeline: which stage, of which project, from which source. Errors are one line that says
what to do."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path

from stores.releases.bundle import ReleaseError
from tasks.dataset import DatasetError
from tasks.pipeline import initial_dataset, stages
from tasks.source_access import BucketAccess, SourceError, SourceRejected
from trimtab.config.params import ParamsError
from trimtab.data.schema import SchemaError
from trimtab.model.training import NotEnoughData

STAGES = {
    "validate": stages.validate,
    "train": stages.train,
    "evaluate": stages.evaluate,
}


def main(arguments: list[str] | None = None) -> int:
    """Do one stage; 0 when it is done, 1 when something has to be put right first."""
    parser = argparse.ArgumentParser(prog="python -m tasks.pipeline", description=__doc__)
    parser.add_argument("stage", choices=("data", *STAGES))
    parser.add_argument("--project", type=Path, default=Path(), help="folder with params.yaml; default: this one")
    parser.add_argument(
        "--source-endpoint", type=_endpoint, default=os.environ.get("TRIMTAB_SOURCE_ENDPOINT") or None,
        help="own S3 server of the source's buckets: http://host:port; default: TRIMTAB_SOURCE_ENDPOINT",
    )  # fmt: skip
    parser.add_argument(
        "--source-profile", default=os.environ.get("TRIMTAB_SOURCE_PROFILE") or None,
        help="profile of the AWS credentials file for the source's buckets; default: TRIMTAB_SOURCE_PROFILE",
    )  # fmt: skip
    given = parser.parse_args(arguments)
    project, access = given.project.resolve(), BucketAccess(given.source_endpoint, given.source_profile)
    try:
        print(initial_dataset.make(project, access) if given.stage == "data" else STAGES[given.stage](project))
    except (
        DatasetError, NotEnoughData, ParamsError, ReleaseError, SchemaError, SourceError, SourceRejected,
    ) as error:  # fmt: skip
        print(f"{given.stage}: {error}", file=sys.stderr)
        return 1
    return 0


def _endpoint(text: str) -> str:
    if not re.match("https?://.", text):
        raise argparse.ArgumentTypeError(f"{text} is no address: write http://host:port")
    return text


if __name__ == "__main__":
    sys.exit(main())
