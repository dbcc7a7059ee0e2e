"""Rewrites a model's file so that the same model has the same bytes and DVC's hash is meaningful.
`trimtab.model.release.model_digest` gives the same digest for both files."""

from __future__ import annotations

import json
import zipfile
from io import BytesIO
from pathlib import PurePath
from typing import Any

LONG_AGO = (1980, 1, 1, 0, 0, 0)


def canonicalize(content: bytes) -> bytes:
    """The skops file *content* without what depends on the moment: objects and members are numbered in the order in
    which they appear, times are fixed, and the thread count that training happened to use is 1."""
    ids: dict[int, int] = {}
    members: dict[str, str] = {}

    def rewrite(node: Any) -> Any:
        if isinstance(node, list):
            return [rewrite(item) for item in node]
        if not isinstance(node, dict):
            return node
        return {key: rewrite_entry(key, value) for key, value in node.items()}

    def rewrite_entry(key: str, value: Any) -> Any:
        if key == "__id__":
            return ids.setdefault(value, len(ids) + 1)
        if key == "file" and isinstance(value, str):
            return members.setdefault(value, f"{len(members) + 1}{PurePath(value).suffix}")
        if key == "n_threads" and isinstance(value, dict) and value.get("is_json"):
            return {**value, "content": "1", "__id__": 0}  # its own id would be shared with equal numbers elsewhere
        return rewrite(value)

    buffer = BytesIO()
    with zipfile.ZipFile(BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        described = rewrite(json.loads(old.read("schema.json")))
        for name, numbered in members.items():
            new.writestr(zipfile.ZipInfo(numbered, LONG_AGO), old.read(name))
        new.writestr(zipfile.ZipInfo("schema.json", LONG_AGO), json.dumps(described, indent=1))
    return buffer.getvalue()
