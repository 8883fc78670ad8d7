"""The cases beside the project, where they are."""

from __future__ import annotations

from pathlib import Path

import pytest

SHARED_CASES = Path(__file__).resolve().parents[4] / "shared" / "cases"


@pytest.fixture
def cases() -> Path:
    """Inputs as people have them (../shared/cases); tests that need them skip where they are absent."""
    if not SHARED_CASES.is_dir():
        pytest.skip("the cases are not beside the project (../shared/cases)")
    return SHARED_CASES
