"""Releases in a local folder and, where one is configured, in an object store that all machines share."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from stores.atomic_files import sweep
from stores.object_store.store import ChecksumMismatch, NoSuchObject, ObjectStore, ObjectStoreError
from stores.releases import bundle as bundle_module
from stores.releases.bundle import MANIFEST, Bundle, CorruptRelease, UnknownRelease, UnreachableRelease
from trimtab.model.release import Manifest, is_digest

FOLDER = "releases"


@dataclass(frozen=True)
class ReleaseStore:
    """The releases in *folder* and, when there are *objects*, below ``releases/`` there. With a store the folder is a
    cache, from which anything may be removed at any time.

    In the store the manifest is written last: a release without one is not there yet.
    """

    folder: Path
    objects: ObjectStore | None = None

    @classmethod
    def at(cls, folder: Path, store: str | None, endpoint: str | None, *, attempts: int = 6) -> ReleaseStore:
        """Return the store for these settings."""
        return cls(folder, ObjectStore(store, endpoint=endpoint, attempts=attempts) if store else None)

    def get(self, digest: str) -> Bundle:
        """Return the bundle *digest*, every byte checked. One that is missing or damaged in the folder is fetched.

        Raises UnknownRelease when it exists nowhere, CorruptRelease when it is damaged and there is no other copy, and
        UnreachableRelease when the object store is unavailable.
        """
        try:
            return bundle_module.open_bundle(self.folder, digest)
        except UnknownRelease:
            if self.objects is None or not is_digest(digest):
                raise
            self._fetch(self.objects, digest)
        except CorruptRelease:
            if self.objects is None:
                raise
            self._fetch(self.objects, digest)
        return bundle_module.open_bundle(self.folder, digest)

    def put(self, *, manifest_fields: Mapping[str, Any], files: Mapping[str, bytes | Path]) -> Bundle:
        """Write the bundle of *files* with `stores.releases.bundle.write_bundle` and upload it to the object store.

        Safe to repeat: existing objects are compared and repaired. Raises UnreachableRelease when the object store is
        unavailable; the release is then invisible there.
        """
        bundle = bundle_module.write_bundle(self.folder, manifest_fields=manifest_fields, files=files)
        if self.objects is not None:
            try:
                self._keep(self.objects, bundle)
            except ObjectStoreError as error:
                raise UnreachableRelease(bundle.digest, f"not kept in the store: {error}") from error
        return bundle

    def _keep(self, objects: ObjectStore, bundle: Bundle) -> None:
        for name in [*bundle.manifest.files, MANIFEST]:
            key, content = _key(bundle.digest, name), (bundle.path / name).read_bytes()
            if not objects.put(key, content, if_absent=True) and not _holds(objects, key, content):
                objects.put(key, content)

    def _fetch(self, objects: ObjectStore, digest: str) -> None:
        """Put *digest* into the folder, in place of what may be there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        sweep(self.folder, ".new-*")
        scratch = self.folder / f".new-{uuid.uuid4().hex}"
        scratch.mkdir()
        try:
            content = self._part(objects, digest, MANIFEST, digest, scratch)
            for name, expected in _manifest(digest, content).files.items():
                self._part(objects, digest, name, expected, scratch)
            self._install(scratch, digest)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

    def _part(self, objects: ObjectStore, digest: str, name: str, expected: str, folder: Path) -> bytes:
        key = _key(digest, name)
        try:
            objects.fetch(key, folder / name)
        except NoSuchObject as error:
            if name == MANIFEST:
                raise UnknownRelease(digest, f"no bundle in {self.folder}, nor at {objects.url}/{FOLDER}") from error
            raise CorruptRelease(digest, name, f"missing at {objects.url}/{FOLDER}/{digest}") from error
        except ChecksumMismatch as error:
            raise CorruptRelease(digest, name, f"damaged in the store: {error}") from error
        except ObjectStoreError as error:
            raise UnreachableRelease(digest, f"cannot be fetched: {error}") from error
        content = (folder / name).read_bytes()
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            where = f"{objects.url}/{key}"
            raise CorruptRelease(digest, name, f"sha256 of {where} is {actual[:12]}…, expected {expected[:12]}…")
        return content

    def _install(self, scratch: Path, digest: str) -> None:
        """Let the folder in *scratch* take the bundle's place. Another process may do the same at the same time."""
        target = self.folder / digest
        try:
            scratch.rename(target)
        except OSError:  # there is one
            try:
                bundle_module.open_bundle(self.folder, digest)
            except CorruptRelease:
                bundle_module.quarantine_bundle(self.folder, digest)
                self._install(scratch, digest)


def _key(digest: str, name: str) -> str:
    return f"{FOLDER}/{digest}/{name}"


def _holds(objects: ObjectStore, key: str, content: bytes) -> bool:
    try:
        return objects.read(key) == content
    except (ChecksumMismatch, NoSuchObject):
        return False


def _manifest(digest: str, content: bytes) -> Manifest:
    try:
        return Manifest.model_validate_json(content)
    except ValidationError as error:
        raise CorruptRelease(digest, MANIFEST, f"not a manifest this version can read: {error}") from error
