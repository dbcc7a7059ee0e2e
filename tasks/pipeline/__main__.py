"""The command line of the pipeline: which stage, of which project. Errors are one line that says what to do."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from stores.bundles import ReleaseError
from tasks.dataset import DatasetError
from tasks.pipeline import first_data, stages
from tasks.sources import SourceError
from trimtab.params import ParamsError
from trimtab.schema import SchemaError
from trimtab.training import NotEnoughData

STAGES = {
    "data": first_data.make,
    "validate": stages.validate,
    "train": stages.train,
    "evaluate": stages.evaluate,
}


def main(arguments: list[str] | None = None) -> int:
    """Do one stage; 0 when it is done, 1 when something has to be put right first."""
    parser = argparse.ArgumentParser(prog="python -m tasks.pipeline", description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--project", type=Path, default=Path(), help="folder with params.yaml; default: this one")
    given = parser.parse_args(arguments)
    try:
        print(STAGES[given.stage](given.project.resolve()))
    except (DatasetError, NotEnoughData, ParamsError, ReleaseError, SchemaError, SourceError) as error:
        print(f"{given.stage}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
