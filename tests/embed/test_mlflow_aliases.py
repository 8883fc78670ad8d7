"""Aliases told to MLflow's own registry (a file store): one version a bundle, and what the table says in the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.embed.evaluations import evaluated, result_of, task_of
from tests.embed.test_embed_promotion import saved
from xmae_dist.cli.main import main
from xmae_dist.embed import mlflow_aliases
from xmae_dist.embed.registry import Model, Registry

TASK = task_of("af")


@pytest.fixture
def mlflow_uri(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return f"file://{tmp_path}/mlflow"


def versions(mlflow_uri: str, model: str = "xmae-encoder") -> tuple[dict[str, str], dict[str, Any]]:
    """(alias → version, version → what is known of it)"""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=mlflow_uri, registry_uri=mlflow_uri)
    found = {str(one.version): one for one in client.search_model_versions(f"name = '{model}'")}
    return {key: str(one) for key, one in client.get_registered_model(model).aliases.items()}, found


def test_an_alias_is_the_same_in_mlflow(tmp_path: Path, mlflow_uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = {name: f"file://{tmp_path}/{name}" for name in ("first", "second", "table", "evaluation")}
    first, second = saved(url["first"], 1), saved(url["second"], 2)
    evaluated(url["evaluation"], *(result_of(one, TASK, signal=1.0) for one in (first, second)))
    common = ["--as", "champion", "--table", url["table"]]
    evidence = ["--evaluation", url["evaluation"]]

    assert main(["promote", *common, "--mlflow", mlflow_uri]) == 2
    assert "no such alias" in capsys.readouterr().err
    assert main(["promote", url["first"], *common, *evidence]) == 0
    assert main(["promote", *common, "--mlflow", mlflow_uri]) == 0, "told afterwards"
    assert main(["promote", url["second"], *common, *evidence, "--mlflow", mlflow_uri]) == 0
    aliases, known = versions(mlflow_uri)
    assert aliases == {"champion": "2"} and {key: one.source for key, one in known.items()} == {
        "1": url["first"],
        "2": url["second"],
    }
    assert known["2"].tags["xmae.model_id"] == second and known["1"].tags["xmae.run"] == "s3://runs/one"
    assert main(["promote", *common, "--back", "--mlflow", mlflow_uri]) == 0
    aliases, known = versions(mlflow_uri)
    assert aliases == {"champion": "1"} and len(known) == 2 and known["1"].tags["xmae.model_id"] == first


def test_the_alias_moves_although_the_server_is_away(
    tmp_path: Path, mlflow_uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle, table, evaluation = (f"file://{tmp_path}/{name}" for name in ("bundle", "table", "evaluation"))
    model_id = saved(bundle, 1)
    evaluated(evaluation, result_of(model_id, TASK, signal=1.0))
    words = ["promote", bundle, "--as", "champion", "--table", table, "--evaluation", evaluation]
    assert main([*words, "--mlflow", "http://somebody:hunter2@127.0.0.1:9"]) == 2
    said = capsys.readouterr().err
    assert "MLFLOW_TRACKING_PASSWORD" in said and "hunter2" not in said and not Registry(table).state().moves
    assert main([*words, "--mlflow", "http://127.0.0.1:9"]) == 1
    assert "the alias in the table stands" in capsys.readouterr().err
    assert Registry(table).resolve("champion").model_id == model_id


def test_of_two_at_once_mlflow_has_what_the_table_says(
    tmp_path: Path, mlflow_uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry = Registry(f"file://{tmp_path}/table")
    registry.promote("champion", Model(model_id="a", bundle="s3://bundles/a"), seen=registry.state(), forced=False)
    version_of = mlflow_aliases._version_of

    def slow(client: Any, model: str, move: Any) -> str:
        version = version_of(client, model, move)
        if move.model_id == "a":  # meanwhile somebody else moves the alias, and has told MLflow already
            registry.promote(
                "champion", Model(model_id="b", bundle="s3://bundles/b"), seen=registry.state(), forced=False
            )
            client.set_registered_model_alias(
                model, "champion", version_of(client, model, registry.resolve("champion"))
            )
        return version

    monkeypatch.setattr(mlflow_aliases, "_version_of", slow)
    assert mlflow_aliases.tell_mlflow(registry, "champion", tracking_uri=mlflow_uri, model="m") == "2"
    assert versions(mlflow_uri, "m")[0] == {"champion": "2"}
