"""Fixtures of several files here."""

from __future__ import annotations

import dataclasses

import pytest

from xmae_dist.ingest.simulated import simulate_into
from xmae_dist.simulate.cohorts import PRESETS

WORN = dataclasses.replace(PRESETS["patch_watch"], subjects=3, minutes=20.0)
WATCH = "patch_watch-smartwatch"


@pytest.fixture(scope="session")
def worn_url(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A corpus of people who wore a chest patch and a wrist watch, each with a clock of its own."""
    url = f"file://{tmp_path_factory.mktemp('worn')}/corpus"
    simulate_into(url, WORN)
    return url
