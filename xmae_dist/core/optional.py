"""Packages that only some users need, and servers that are named by a URI: checked before anything is done."""

from __future__ import annotations

import importlib.util
from urllib.parse import urlsplit

from xmae_dist.core.errors import ConfigError


def check_installed(package: str, option: str, value: str) -> None:
    """Raises ConfigError where the option asks for a package that is not here; its extra has the same name."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            option,
            value=value,
            expected=f"the package {package}, which is not installed",
            fix=f"pip install 'xmae_dist[{package}]' on every node",
        )


def check_mlflow(option: str, tracking_uri: str) -> None:
    """Raises ConfigError where MLflow is not installed or the URI holds a password, which would be kept and told."""
    if "@" in urlsplit(tracking_uri).netloc:
        raise ConfigError(
            option,
            value="a URI with a user or password in it",
            expected="a URI without",
            fix="set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN",
        )
    check_installed("mlflow", option, tracking_uri)
