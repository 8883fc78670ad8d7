"""Kinds of model: a configuration's type names the class that it builds, and a file names both by a word.

Each model registers itself where it is defined, so that what opens a bundle need not know which models there are.
A field that a configuration gained later (`added_later`) is written where it differs from its default, which is what
models had before: so digests of older configurations, and ids of older bundles, stay.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.interface import ModelConfig, PretrainModel

Model = TypeVar("Model", bound=PretrainModel)
_CONFIGS: dict[str, type[ModelConfig]] = {}
_MODELS: dict[type[ModelConfig], type[PretrainModel]] = {}
_LATER = "added later"


def added_later(default: Any) -> Any:
    """A field, for a configuration's class, that files do not name while it is at its default."""
    return dataclasses.field(default=default, metadata={_LATER: True})


def kind(name: str, config: type[Any]) -> Callable[[type[Model]], type[Model]]:
    """Decorates a model: bundles call it `name`, and configurations of type `config` build it."""

    def register(model: type[Model]) -> type[Model]:
        _CONFIGS[name], _MODELS[config] = config, model
        return model

    return register


def from_config(config: ModelConfig) -> PretrainModel:
    """A freshly initialised model of a configuration."""
    return _MODELS[type(config)](config)


def to_dict(config: ModelConfig) -> dict[str, Any]:
    """A configuration as plain values, with the model's kind, for a file."""
    name = next(name for name, cls in _CONFIGS.items() if type(config) is cls)
    later = {field.name: field.default for field in dataclasses.fields(config) if field.metadata.get(_LATER)}
    values = dataclasses.asdict(config).items()
    return {"kind": name, **{key: value for key, value in values if key not in later or value != later[key]}}


def from_dict(fields: Mapping[str, Any]) -> ModelConfig:
    """The inverse of `to_dict`, also after a trip through JSON; ConfigError for an unknown kind or field."""
    values = dict(fields)
    name = values.pop("kind", None)
    if name not in _CONFIGS:
        raise ConfigError("model kind", value=name, expected=" | ".join(_CONFIGS))
    config_class = _CONFIGS[name]
    unknown = sorted(set(values) - {field.name for field in dataclasses.fields(config_class)})
    if unknown:
        raise ConfigError(f"{name} model configuration", value=", ".join(unknown), expected="known fields only")
    return config_class(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})
