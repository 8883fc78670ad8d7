"""What an old snapshot may still be used for once some of its subjects have been withdrawn."""

from __future__ import annotations

from xmae_dist.core.errors import ConfigError


def check_allow_withdrawn(*, allow_withdrawn: bool, on_the_fly: bool) -> None:
    """Raises ConfigError where windows of withdrawn subjects would have to be cut out of recordings again."""
    if allow_withdrawn and on_the_fly:
        raise ConfigError(
            "--allow-withdrawn",
            value="with --on-the-fly",
            expected="stored windows: the recordings of withdrawn subjects are not read again",
            fix="leave one of the two out",
        )
