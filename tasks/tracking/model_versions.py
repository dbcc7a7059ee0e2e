"""MLflow's registry of models: a version for each release, and the aliases that follow the ledger."""

from __future__ import annotations

from collections.abc import Mapping

from tasks.tracking.candidate_runs import CandidateArtifacts
from tasks.tracking.mlflow_runs import connect


class NoSuchVersion(LookupError):
    """MLflow has no such model or version: it was deleted or renamed there."""


def register_version(tracking_uri: str, *, name: str, drafted: CandidateArtifacts, tags: Mapping[str, str]) -> int:
    """Register the candidate as a model version, once, and return its number."""
    import mlflow

    client = connect(tracking_uri)
    known = client.search_model_versions(f"name = '{name}' AND run_id = '{drafted.run_id}'")
    version = known[0] if known else mlflow.register_model(
        drafted.model_uri, name, tags=dict(tags), await_registration_for=0
    )  # fmt: skip
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version.version), key, value)
    return int(version.version)


def describe_version(tracking_uri: str, *, name: str, version: int, text: str, tags: Mapping[str, str]) -> None:
    """Set the description (the model card) and tags of a model version."""
    client = connect(tracking_uri)
    client.update_model_version(name, str(version), description=text)
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def sync_aliases(tracking_uri: str, *, name: str, champion: int, challenger: int | None) -> list[str]:
    """Point the aliases `champion` and `challenger` at these versions, or remove the one that has none; what was
    changed, in words. Raises NoSuchVersion."""
    from mlflow.exceptions import MlflowException

    client, changed = connect(tracking_uri), list[str]()
    try:
        known = {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}
        for alias, version in (("champion", champion), ("challenger", challenger)):
            if known.get(alias) == version:
                continue
            if version is None:
                client.delete_registered_model_alias(name, alias)
                changed.append(f"MLflow's alias {alias} was removed from version {known[alias]}")
            else:
                client.set_registered_model_alias(name, alias, str(version))
                changed.append(f"MLflow's {alias} is version {version}")
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise NoSuchVersion(str(error.message)) from error
    return changed
