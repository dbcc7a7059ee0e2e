"""A real S3 server for what reads and writes buckets."""

from tests.stores.seaweed import seaweed

__all__ = ["seaweed"]
