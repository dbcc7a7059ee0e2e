"""Import what the model server imports, at its start and later: as it loads a release, answers, records, keeps its
ledger and its store. `compile_imported.py` runs this; what it forgets works all the same, only slower the first
time."""

import importlib

import boto3

for module in (
    "psycopg",
    "pyarrow.compute",
    "pyarrow.dataset",
    "pyarrow.parquet",
    "serving.app",
    "serving.http.protocol",
    "sklearn.compose",
    "sklearn.ensemble",
    "sklearn.impute",
    "sklearn.linear_model",
    "sklearn.pipeline",
    "sklearn.preprocessing",
    "skops.io",
    "sqlalchemy.dialects.postgresql.psycopg",
    "sqlalchemy.dialects.sqlite",
    "stores.telemetry.parquet.compaction_process",
    "treelite.gtil",
    "uvicorn.lifespan.on",
    "uvicorn.protocols.http.httptools_impl",
    "uvloop",
):
    importlib.import_module(module)

boto3.client("s3", region_name="nowhere")
