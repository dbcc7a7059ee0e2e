"""Which arm a key belongs to: the same in every process, on every machine, for as long as the rollout lasts. What share
the challenger has is the ledger's to say."""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from typing import Any

_BITS = 53  # what a float can hold exactly, so that no bucket is rounded up to 1


def bucket(rollout: str, key: str) -> float:
    """Where *key* lies in [0, 1) for *rollout*: uniform over keys and independent between rollouts.

    The challenger answers a key when this is below its share, so a key that it has answered once stays with it as the
    share rises. A keyed BLAKE2b (RFC 7693), as its outputs for different keys are those of different functions.
    """
    hashed = _keyed(rollout).copy()
    hashed.update(key.encode("utf-8", "surrogatepass"))
    return float((int.from_bytes(hashed.digest()) >> (64 - _BITS)) / 2**_BITS)


@lru_cache(maxsize=64)
def _keyed(rollout: str) -> Any:
    name = blake2b(rollout.encode("utf-8", "surrogatepass"), digest_size=32, person=b"trimtab-rollout").digest()
    return blake2b(digest_size=8, key=name)
