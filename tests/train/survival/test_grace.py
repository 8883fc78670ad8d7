"""Who submits a run to a head that hardly waits for it is told so at once."""

from __future__ import annotations

import pytest

from xmae_dist.train.survival.grace import short_grace

JOB = {"RAY_JOB_CONFIG_JSON_ENV_VAR": "{}"}


@pytest.mark.parametrize("setting", [{}, {"RAY_JOB_STOP_WAIT_TIME_S": "3"}, {"RAY_JOB_STOP_WAIT_TIME_S": "soon"}])
def test_a_head_that_kills_too_early(setting: dict[str, str]) -> None:
    said = short_grace({**JOB, **setting})
    assert said.startswith("`ray job stop` waits 3 s") and "RAY_JOB_STOP_WAIT_TIME_S=30" in said and "\n" not in said


def test_nothing_where_there_is_time_or_no_job() -> None:
    assert short_grace({**JOB, "RAY_JOB_STOP_WAIT_TIME_S": "30"}) == ""
    assert short_grace({"RAY_JOB_STOP_WAIT_TIME_S": "3"}) == ""
