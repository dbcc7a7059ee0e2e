"""Rows after they were parsed: columns that a model can score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from trimtab.data.features import Feature, assemble

if TYPE_CHECKING:
    import pandas as pd

Micros = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True)
class ParsedRows:
    """*size* valid rows, stored by column.

    *columns* holds every feature: a float64 array of shape (size,) for a number, a list of str or None for a
    category. *recorded* holds the id and key columns that were sent and are not features. *time_us* is the data time
    in UTC microseconds since 1970, shape (size,).
    """

    size: int
    columns: dict[str, Any]
    recorded: dict[str, list[str | None]]
    time_us: Micros
    features: tuple[Feature, ...]

    def frame(self) -> pd.DataFrame:
        """A frame of the features. It owns its data, so a model that changes it does not affect other models."""
        own = {
            name: values.copy() if isinstance(values, np.ndarray) else values for name, values in self.columns.items()
        }
        return assemble(own, self.features, size=self.size)
