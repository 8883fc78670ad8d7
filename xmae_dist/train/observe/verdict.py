"""Does the model use its source? The one sentence that a run's last validation comes to."""

from __future__ import annotations

from collections.abc import Mapping

CLEARLY = 0.1
"""Share by which the error with the own source must be below those with another's and with none."""


def uses_source(errors: Mapping[str, float]) -> bool:
    """Whether the error with the own source is clearly below those with another's and with none."""
    return errors["own"] <= (1 - CLEARLY) * min(errors["other"], errors["none"])


def verdict(errors: Mapping[str, float], source: str) -> str:
    """A sentence on masked errors of held-out windows, by what the model was given: `own`, `other`, `none` (see
    `model.diagnose.window_errors`). `source` names the channel that is seen whole.
    """
    own, other, none = (errors[name] for name in ("own", "other", "none"))
    said = f"own {own:.4f}, other {other:.4f}, none {none:.4f}"
    if own == other == none:
        return f"the model reads one signal, so no source could help it: {said}"
    if uses_source(errors):
        return f"the model uses the {source}: {said} (masked error on held-out subjects)"
    return (
        f"the model does not use the {source} yet: {said} (masked error on held-out subjects; own should be "
        f"{CLEARLY:.0%} below both others): train longer"
    )
