"""Our own settings, their secrets also from files: `TRIMTAB_X_FILE` names a file that holds what `TRIMTAB_X` would.
Which settings there are is in `trimtab.config.settings`; other programs get theirs from `run_with_secrets`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, get_args

from pydantic import SecretStr
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource

from trimtab.config.run_with_secrets import CREDENTIALS, secrets_from_files

_ENDINGS = ("_KEYS", "_KEY", "TRIMTAB_LEDGER_URL", "_PASSWORD", "_SECRET", "_TOKEN")


def holds_secret(variable: str) -> bool:
    """Whether a variable of that name holds a secret, as far as its name tells. A file's name is none."""
    return variable in CREDENTIALS or variable.endswith(_ENDINGS)


class SecretFiles(EnvSettingsSource):
    """Values of secret fields from the files that their variables name. A variable with the value itself wins."""

    def _load_env_vars(self) -> Mapping[str, str | None]:
        variables = [f"{self.env_prefix}{name}".upper() for name in secret_fields(self.settings_cls)]
        unset = [name for name in variables if name not in os.environ]
        return {name.lower(): value for name, value in secrets_from_files(unset, os.environ).items()}


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
