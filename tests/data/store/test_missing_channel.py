"""What is advised where recordings lack a channel that windows require."""

from __future__ import annotations

import pytest

from xmae_dist.data.store.materialise import missing_channel_hint
from xmae_dist.data.windows.spec import WindowSpec


@pytest.mark.parametrize(
    ("channels", "spec", "dropped", "said"),
    [
        (["ppg"], WindowSpec(), {"no_ecg": 21}, "--require ppg"),
        (["ecg", "bvp"], WindowSpec(), {"no_ppg": 3}, "--source bvp --require ecg bvp"),
        (["ir"], WindowSpec(require=("ppg",)), {"no_ppg": 3}, "--source ir --require ir"),
        (["ecg", "acc_x"], WindowSpec(), {"no_ppg": 3}, None),
        (["ecg", "ppg"], WindowSpec(), {"low_quality": 9}, None),
    ],
)
def test_the_hint(channels: list[str], spec: WindowSpec, dropped: dict[str, int], said: str | None) -> None:
    hint = missing_channel_hint(channels, spec, [dropped])
    assert hint is None if said is None else said in str(hint)
