"""Secrets from files: `TRIMTAB_X_FILE` names a file that holds what `TRIMTAB_X` would. Docker and Kubernetes mount
secrets as files, where neither `docker inspect` nor a process list shows them. Which settings there are is
`trimtab.config.settings`' business; for other programs `deployments.workers.run_with_secrets` reads theirs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

SUFFIX = "_FILE"
FOREIGN = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_TRACKING_TOKEN",
    "PREFECT_API_AUTH_STRING",
    "PREFECT_API_KEY",
)
"""Variables of other programs that hold secrets."""
_ENDINGS = ("_KEYS", "_KEY", "TRIMTAB_LEDGER_URL", "_PASSWORD", "_SECRET", "_TOKEN")


def holds_secret(variable: str) -> bool:
    """Whether a variable of that name holds a secret, as far as its name tells. A file's name is none."""
    return variable in FOREIGN or variable.endswith(_ENDINGS)


class UnreadableSecret(ValueError):
    """A variable names a file of which no secret can be read. Says which, never what is in it."""


def read_secret(variable: str, path: str) -> str:
    """What the file holds, without the white space around it: editors end files with a new line.

    Raises UnreadableSecret.
    """
    try:
        text = Path(path).read_text(encoding="utf-8").strip()
    except OSError as error:
        raise UnreadableSecret(f"{variable} names {path}, which cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UnreadableSecret(f"{variable} names {path}, which is no text") from error
    if not text:
        raise UnreadableSecret(f"{variable} names {path}, which is empty")
    return text


class SecretFiles(EnvSettingsSource):
    """Values of secret fields from the files that their variables name. A variable with the value itself wins."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        found = {}
        for name in secret_fields(self.settings_cls):
            variable = f"{self.env_prefix}{name}".upper()
            path = os.environ.get(variable + SUFFIX)
            if path and variable not in os.environ:
                found[variable.lower()] = read_secret(variable + SUFFIX, path)
        return found


def secret_fields(settings: type[BaseSettings]) -> list[str]:
    """The fields that hold a secret, or several."""
    return [name for name, field in settings.model_fields.items() if _is_secret(field.annotation)]


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


class SettingsWithSecrets(BaseSettings):
    """Settings from variables, and their secrets from files as well."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """What was given in code, then variables, then files."""
        return init_settings, env_settings, SecretFiles(settings_cls)
