"""Settings whose secrets may come from files: `TRIMTAB_X_FILE` names a file with the value of `TRIMTAB_X`.

`trimtab.config.settings` has the settings; `run_with_secrets` does the same for other programs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from trimtab.config.run_with_secrets import CREDENTIALS, secrets_from_files

_ENDINGS = ("_KEYS", "_KEY", "TRIMTAB_LEDGER_URL", "_PASSWORD", "_SECRET", "_TOKEN")


def holds_secret(variable: str) -> bool:
    """Whether the name of *variable* says that it holds a secret. The name of a secret's file is not a secret.

    >>> holds_secret("TRIMTAB_SERVER_KEY"), holds_secret("TRIMTAB_SERVER_KEY_FILE")
    (True, False)
    """
    return variable in CREDENTIALS or variable.endswith(_ENDINGS)


class SecretFiles(EnvSettingsSource):
    """Reads secret fields from the files that their variables name. A variable with the value itself takes
    precedence."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = [f"{self.env_prefix}{name}".upper() for name in secret_fields(self.settings_cls)]
        unset = [name for name in variables if name not in os.environ]
        return {name.lower(): value for name, value in secrets_from_files(unset, os.environ).items()}


def secret_fields(settings: type[BaseSettings]) -> list[str]:
    """The names of the fields of *settings* whose type is or contains SecretStr."""
    return [name for name, field in settings.model_fields.items() if _is_secret(field.annotation)]


def _is_secret(annotation: Any) -> bool:
    return annotation is SecretStr or any(_is_secret(part) for part in get_args(annotation))


class SettingsWithSecrets(BaseSettings):
    """Settings from environment variables, with secrets also from files."""

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """The sources in their order of precedence: arguments, variables, files."""
        return init_settings, env_settings, SecretFiles(settings_cls)
