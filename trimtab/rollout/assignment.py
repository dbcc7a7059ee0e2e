"""Assign keys to arms by hash, the same way in every process and on every machine for the life of a rollout.

The challenger's share comes from the ledger.
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

_BITS = 53  # the integers that a float holds exactly: no bucket is rounded up to 1


def bucket(rollout: str, key: str) -> float:
    """Return the position of *key* in [0, 1) for *rollout*: uniform over keys, independent between rollouts.

    The challenger answers a key when its bucket is below the challenger's share. The share only rises, so a key stays
    with the challenger once assigned to it. The hash is BLAKE2b, keyed by the rollout (RFC 7693).

    >>> 0.0 <= bucket("rollout-1", "N14228") < 1.0
    True
    >>> bucket("rollout-1", "N14228") == bucket("rollout-1", "N14228")
    True
    """
    hashed = _keyed(rollout).copy()
    hashed.update(key.encode("utf-8", "surrogatepass"))
    return float((int.from_bytes(hashed.digest()) >> (64 - _BITS)) / 2**_BITS)


@lru_cache(maxsize=64)
def _keyed(rollout: str) -> Any:
    name = blake2b(rollout.encode("utf-8", "surrogatepass"), digest_size=32, person=b"trimtab-rollout").digest()
    return blake2b(digest_size=8, key=name)
