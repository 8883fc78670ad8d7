"""How rows of the studies are written."""

from __future__ import annotations

from typing import Any


def rounded(value: Any) -> Any:
    """Floats to six digits, so that rows stay readable."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.6g}") if isinstance(value, float) else value
