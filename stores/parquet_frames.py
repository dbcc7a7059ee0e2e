"""Reads Parquet into frames in which every value is what the file holds."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd


def read_frame(source: Path | BytesIO) -> pd.DataFrame:
    """The rows of a Parquet file.

    Integers and booleans with missing values come as pandas' nullable types: as floats, ids beyond 2**53 would change,
    and True would be 1.0. Metadata that pandas wrote into the file is not used, as it may be wrong.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.read_table(source).replace_schema_metadata(None)
    gaps = {str(field.name) for field, column in zip(table.schema, table.columns, strict=True) if column.null_count}
    nullable: dict[Any, Any] = {pa.bool_(): pd.BooleanDtype()} | {
        getattr(pa, name)(): getattr(pd, f"{'UInt' if name[0] == 'u' else 'Int'}{name.removeprefix('u')[3:]}Dtype")()
        for name in ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64")
    }
    whole = table.drop_columns([name for name in table.column_names if name in gaps]).to_pandas()
    holed = table.select([name for name in table.column_names if name in gaps]).to_pandas(types_mapper=nullable.get)
    frame: pd.DataFrame = pd.concat([whole, holed], axis=1)[table.column_names] if gaps else whole
    return frame
