"""The model server's own settings, read from the environment once when it starts. Ports and folders are in
`trimtab.config.settings`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, Field, SecretStr, TypeAdapter
from pydantic_settings import NoDecode, SettingsConfigDict

from trimtab.config.run_with_secrets import SUFFIX
from trimtab.config.secret_files import SettingsWithSecrets
from trimtab.config.settings import Settings, is_loopback

PREDICT, LABELS, ADMIN = "predict", "labels", "admin"
SCOPES = (PREDICT, LABELS, ADMIN)


def _split(value: Any) -> Any:
    """Split a list of keys: ``first, second`` or ``["first", "second"]``, or one key a line in a file."""
    if not isinstance(value, str):
        return value
    if value.lstrip().startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:  # its text would show the keys
            raise ValueError("looks like a JSON list but is none") from error
        return value
    return [part.strip() for part in value.replace("\n", ",").split(",") if part.strip()]


KeyList = Annotated[tuple[SecretStr, ...], NoDecode, BeforeValidator(_split)]
_KEYS: TypeAdapter[tuple[SecretStr, ...]] = TypeAdapter(Annotated[tuple[SecretStr, ...], BeforeValidator(_split)])


def parse_keys(text: str) -> tuple[SecretStr, ...]:
    """The keys in *text*, separated by commas or lines, or as a JSON list. Raises ValidationError, whose text has
    the keys and must not be shown."""
    return _KEYS.validate_python(text)


class KeyFile(NamedTuple):
    """A file that holds a scope's keys, and the environment variable that names it."""

    variable: str
    path: Path


def key_files(environ: Mapping[str, str]) -> dict[str, KeyFile]:
    """The key file of each scope; scopes whose keys are in a variable are left out."""
    variables = {scope: f"TRIMTAB_{scope.upper()}_KEYS" for scope in SCOPES}
    return {
        scope: KeyFile(variable + SUFFIX, Path(environ[variable + SUFFIX]))
        for scope, variable in variables.items()
        if environ.get(variable + SUFFIX) and variable not in environ
    }


class ServerSettings(SettingsWithSecrets):
    """The model server's own settings. The limits keep one client from taking all memory or time."""

    model_config = SettingsConfigDict(env_prefix="TRIMTAB_", extra="ignore", frozen=True)

    ledger_url: SecretStr = Field(description="SQLAlchemy URL of the ledger")
    predict_keys: KeyList = Field((), description="keys that may request predictions; several while a key is exchanged")
    labels_keys: KeyList = Field((), description="keys that may send labels")
    admin_keys: KeyList = Field((), description="keys that may do everything; required to listen beyond loopback")
    release: str | None = Field(
        None, pattern="^[0-9a-f]{8,64}$", description="answer with this release as far as it is champion or challenger"
    )
    preload: str | None = Field(
        None,
        pattern="^[0-9a-f]{64}$",
        description="be ready only once this release is loaded and gives the recorded predictions",
    )
    baked: Path | None = Field(None, description="folder of releases that are part of the image")
    max_rows: int = Field(50_000, ge=1, description="rows in one request")
    max_body_mb: float = Field(32, gt=0, description="MB in one request")
    max_held_mb: float = Field(128, gt=0, description="MB in all requests that are being read or answered")
    max_waiting: int = Field(1024, ge=1, description="requests that may wait for the model; more are answered with 503")
    answer_s: float = Field(10, gt=0, description="seconds after which a request is answered with 503")
    challenger_s: float = Field(0.1, gt=0, description="seconds that a challenger has before the champion answers")
    trusted_types: tuple[str, ...] = Field((), description="types of the project's own model.py, as a JSON list")
    keys_s: float = Field(1, gt=0, description="seconds between two reads of the key files")
    follow_s: float = Field(0.25, gt=0, description="seconds between two reads of the ledger")
    upload_s: float = Field(2, gt=0, description="with a store, seconds after which a telemetry segment is uploaded")
    drain_s: float = Field(
        20, gt=0, description="with a store, seconds for uploading telemetry before the process ends"
    )
    compact_s: float = Field(60, gt=0, description="seconds between two compactions of finished telemetry segments")
    segment_mb: float = Field(8, gt=0, description="MB at which a telemetry segment is finished")
    segment_s: float = Field(3600, gt=0, description="seconds after which a telemetry segment is finished")

    @property
    def max_body_bytes(self) -> int:
        """`max_body_mb` in bytes."""
        return int(self.max_body_mb * 1024 * 1024)


class InsecureSettings(Exception):
    """The server would be open to other machines; the text says what to change."""


def check_exposure(settings: Settings, server: ServerSettings) -> None:
    """Raise InsecureSettings when other machines could reach the server without a key."""
    if not server.admin_keys and not is_loopback(settings.host):
        raise InsecureSettings(
            f"TRIMTAB_HOST={settings.host} lets other machines in: set TRIMTAB_ADMIN_KEYS to a long random text (and "
            "TRIMTAB_PREDICT_KEYS, TRIMTAB_LABELS_KEYS for those who may do less), or leave TRIMTAB_HOST at 127.0.0.1"
        )
