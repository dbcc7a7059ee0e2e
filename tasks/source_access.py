"""How a source is reached, and how reading it fails."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class BucketAccess:
    """How to reach the source's buckets: the *endpoint* of an S3 server and a *profile* of the AWS credentials file.

    Without an endpoint it is Amazon's S3; without a profile, the credentials of the environment.
    """

    endpoint: str | None = None
    profile: str | None = None


class SourceError(RuntimeError):
    """The source did not return the rows of a period. A retry may succeed; nothing of the batch was kept."""


class SourceRejected(ValueError):
    """A retry cannot help: wrong credentials, a bucket that does not exist, or a mistake in the source's code."""
