"""A bundle: one trained model as files anyone can read, without this code if need be.

    <url>/weights.safetensors   the weights
    <url>/config.json           model configuration, readout, windows, lineage, whom it was pretrained on, bundle id
    <url>/README.md             a model card

The bundle id is a digest of the weights' bytes, the model configuration, the window specification and, where it is not
the default, the readout: the same model has the same id wherever it lies, and a changed weight changes it. `load`
checks it.

v1 stated no readout, since each kind of model had one way to embed, which is its default still; nor whom a model was
pretrained on, which is read as not stated.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from xmae_dist.core.errors import IntegrityError
from xmae_dist.core.fingerprint import digest_json, sha256_hex
from xmae_dist.model import kinds
from xmae_dist.model.interface import ModelConfig, PretrainModel
from xmae_dist.model.readout import named
from xmae_dist.signals.beat_statistics import STATISTICS
from xmae_dist.storage import uri

FORMAT = "xmae-bundle/v2"
WEIGHTS = "weights.safetensors"
_READ = ("xmae-bundle/v1", FORMAT)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A loaded bundle; ``model`` is in evaluation mode on the CPU."""

    model: PretrainModel
    config: ModelConfig
    window_spec: dict[str, Any]
    lineage: dict[str, Any]
    pretrained_on: dict[str, Any]
    """``split``: how subjects were divided; ``cohorts``: those taken. Empty: not stated."""
    bundle_id: str


def save(
    url: str,
    model: PretrainModel,
    *,
    window_spec: Mapping[str, Any],
    lineage: Mapping[str, Any],
    pretrained_on: Mapping[str, Any] | None = None,
) -> str:
    """Write a bundle of a model and its readout, and return its id.

    ``window_spec`` is how inputs were prepared, ``lineage`` whatever tells where the model comes from (corpus
    fingerprint, run, steps, preset), ``pretrained_on`` the split of subjects and the cohorts of its training windows;
    all must be plain JSON values.
    """
    weights = save_tensors({name: value.contiguous().cpu() for name, value in model.state_dict().items()})
    document = {
        "format": FORMAT,
        "bundle_id": _bundle_id(weights, kinds.to_dict(model.config), window_spec, _told(model)),
        "model": kinds.to_dict(model.config),
        "readout": model.readout.name,
        "window_spec": dict(window_spec),
        "lineage": dict(lineage),
        "pretrained_on": dict(pretrained_on or {}),
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, WEIGHTS).write_bytes(weights)
        Path(folder, "config.json").write_text(json.dumps(document, indent=2) + "\n")
        Path(folder, "README.md").write_text(_card(document, model))
        uri.upload_tree(folder, url)
    return str(document["bundle_id"])


def describe(url: str) -> dict[str, Any]:
    """A bundle's ``config.json``, without its weights; IntegrityError for another format or half a file, StorageError
    where it is not there."""
    data = uri.read_bytes(uri.join(url, "config.json"))
    try:
        document: dict[str, Any] = json.loads(data)
    except ValueError as error:
        raise IntegrityError(
            f"config.json of bundle {url}", value=f"{len(data)} bytes that are no JSON ({error})",
            expected="a bundle that was written to its end", fix="export the model again",
        ) from error  # fmt: skip
    if document.get("format") not in _READ:
        raise IntegrityError(f"bundle {url}", value=document.get("format"), expected=" or ".join(_READ))
    return {"pretrained_on": {}, **document}


def load(url: str) -> Bundle:
    """Read a bundle; IntegrityError where weights and id disagree, StorageError where it is not there."""
    document = describe(url)
    weights = uri.read_bytes(uri.join(url, WEIGHTS))
    config = kinds.from_dict(document["model"])
    model = kinds.from_config(config)
    if "readout" in document:
        model.read_by(named(document["readout"]))
    found = _bundle_id(weights, document["model"], document["window_spec"], _told(model))
    if found != document["bundle_id"]:
        raise IntegrityError(
            f"weights of bundle {url}", value=found, expected=document["bundle_id"], fix="export the model again"
        )
    model.load_state_dict(load_tensors(weights))
    return Bundle(
        model=model.eval(),
        config=config,
        window_spec=document["window_spec"],
        lineage=document["lineage"],
        pretrained_on=document["pretrained_on"],
        bundle_id=found,
    )


def _bundle_id(
    weights: bytes, model: Mapping[str, Any], window_spec: Mapping[str, Any], readout: Mapping[str, str]
) -> str:
    facts = {"weights": sha256_hex(weights), "model": dict(model), "window_spec": dict(window_spec)}
    return digest_json({**facts, **readout})


def _told(model: PretrainModel) -> dict[str, str]:
    """What the id says of the readout: nothing of the default, so that ids from before there were others hold."""
    return {} if model.readout is type(model).readout else {"readout": model.readout.name}


def _card(document: Mapping[str, Any], model: PretrainModel) -> str:
    """A model card: what it is, what it eats, where it comes from, what it is not for."""
    config = document["model"]
    parameters = sum(weight.numel() for weight in model.parameters())
    lineage = "\n".join(f"- {key}: {value}" for key, value in document["lineage"].items()) or "- not stated"
    cohorts = ", ".join(document["pretrained_on"].get("cohorts", ())) or "not stated"
    weight, heads = config.get("beat_weight"), ", ".join(STATISTICS)
    learned = f"\nAuxiliary heads in pretraining: {heads} of the paired ECG, weight {weight}." if weight else ""
    window = "\n".join(f"- {key}: {value}" for key, value in document["window_spec"].items()) or "- not stated"
    return f"""# xMAE bundle {document["bundle_id"]}

A `{config["kind"]}` model with {parameters:,} parameters, pretrained on paired biosignals with xmae_dist.
Input: {config["length"]} samples per window.
Embedding: {model.embedding_width} numbers per window, readout `{model.readout.name}`.{learned}

## Windows
{window}

## Lineage
{lineage}
- cohorts pretrained on: {cohorts}

## Use
```python
from xmae_dist.model import XMAE
model = XMAE.load("THIS_FOLDER")
embedding_BE = model.embed(ppg_BL)
```
Research use. Not a medical device; not validated for any diagnosis.
"""
