"""What an alias of an embedding table means, told to MLflow's model registry too.

There it is an alias of a registered model, and the bundle is a version of that model, found again by a tag. The table
alone counts: no job reads MLflow. So a server that is away costs nothing but the copy, which is made by telling again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xmae_dist.core.errors import RunError
from xmae_dist.embed.registry import Move, Registry

if TYPE_CHECKING:
    from mlflow import MlflowClient

_ID_TAG, _URL_TAG = "xmae.model_id", "xmae.bundle"


def tell_mlflow(registry: Registry, alias: str, *, tracking_uri: str, model: str) -> str:
    """The version of the registered model `model` that has the alias now.

    Told again until the table still says the same afterwards: of two that move the alias at once, the last to look
    sets what it means. Raises InputError where the alias means nothing, RunError where MLflow refuses or is away.
    """
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    client = MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    try:
        while True:
            move = registry.resolve(alias)
            version = _version_of(client, model, move)
            client.set_registered_model_alias(model, alias, version)
            if registry.resolve(alias).number == move.number:
                return version
    except MlflowException as error:
        raise RunError(
            f"telling MLflow what {alias!r} means",
            value=str(error),
            fix=f"the alias in the table is set; `xmae promote --as {alias} --table … --mlflow …` updates MLflow again",
        ) from error


def _version_of(client: MlflowClient, model: str, move: Move) -> str:
    """The version that is this bundle at this URL, made if there is none; and the model, if there is none."""
    from mlflow.exceptions import MlflowException

    try:
        client.get_registered_model(model)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        _create(client, model)
    for version in client.search_model_versions(f"name = '{model}' and tags.`{_ID_TAG}` = '{move.model_id}'"):
        if version.tags.get(_URL_TAG) == move.bundle:
            return str(version.version)
    tags = {_ID_TAG: move.model_id, _URL_TAG: move.bundle, "xmae.run": move.run, "xmae.evaluation": move.evaluation}
    made = client.create_model_version(
        model, source=move.bundle, tags={key: text for key, text in tags.items() if text}
    )
    return str(made.version)


def _create(client: MlflowClient, model: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(model, description="Encoder bundles of xmae_dist; aliases follow the table's.")
    except MlflowException as error:  # somebody else made it meanwhile
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
