"""`bench/readouts.py`: every readout that an encoder can have is rated beside the usual one."""

from bench import readouts
from xmae_dist.model import presets
from xmae_dist.model.readout import READOUTS


def test_every_readout_is_rated() -> None:
    rows = {row["readout"]: row for row in readouts.in_turns("tiny", batch=2, turns=2)}
    config = presets.config("tiny")
    assert set(rows) == {"tokens alone", *(name for name in READOUTS if name != "head")}
    assert rows["mean"]["numbers"] == config.width
    assert rows["mean_std"]["numbers"] == 2 * config.width
    assert rows["mean_std"]["of_mean_std"] == 1.0
    assert all(row["windows_per_cpu_s"] > 0 for row in rows.values())
