"""Whom an encoder saw in pretraining: said where it is known, and held-out splits refused where it is not so."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from xmae_dist.core.errors import ConfigError, UsageError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.data.windows.split import SplitConfig
from xmae_dist.evaluate.encoders.pretrained import check_unseen, pretrained, recalled, remember
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.model import bundle, presets

SPLIT = SplitConfig(fractions=(0.5, 0.25, 0.25))
PEOPLE = np.array([f"p{n:02d}" for n in range(40)])
HELD_OUT = np.array([name for name in PEOPLE if SPLIT.of(name) != "train"])


def saved(folder: Path, split: SplitConfig | None) -> EncoderSpec:
    known = {} if split is None else {"split": dataclasses.asdict(split), "cohorts": ["watch"]}
    model = presets.build("tiny", width=8, heads=1)
    bundle.save(str(folder), model, window_spec=WindowSpec().to_dict(), lineage={}, pretrained_on=known)
    return EncoderSpec(name="xmae", kind="bundle", url=str(folder), identity=folder.name)


def test_people_of_the_train_split_are_counted_once_however_many_windows_they_have(tmp_path: Path) -> None:
    specs = [saved(tmp_path / "known", SPLIT), saved(tmp_path / "unknown", None)]
    specs += [EncoderSpec(name="r", kind="random", identity="r"), EncoderSpec(name="f", kind="features", identity="f")]
    remember(str(tmp_path / "out"), specs[:2])
    remember(str(tmp_path / "out"), specs[2:])  # another evaluation into the same results
    known = recalled(str(tmp_path / "out"))
    windows = np.repeat(PEOPLE, 3)
    in_train = len(PEOPLE) - len(HELD_OUT)
    assert 0 < in_train < len(PEOPLE)
    assert [known[spec.identity].people(windows) for spec in specs] == [in_train, None, 0, 0]
    assert known["known"] == pretrained(specs[0]) and known["known"].cohorts == ("watch",)
    assert known["known"].told(windows) == f"{in_train} in pretraining's train split"
    assert known["unknown"].told(windows) == "not known how many in pretraining" and known["r"].told(windows) == ""
    assert recalled(str(tmp_path / "older version")) == {}


@pytest.mark.parametrize("pretrained_split", [None, SplitConfig(seed=1), SplitConfig()])
def test_held_out_splits_are_refused_where_pretraining_may_have_seen_them(
    tmp_path: Path, pretrained_split: SplitConfig | None
) -> None:
    spec = saved(tmp_path / "b", pretrained_split)
    with pytest.raises(UsageError, match=r"--splits val test.*leave --splits out"):
        check_unseen(("val", "test"), SPLIT, lambda: HELD_OUT, [spec])
    check_unseen(("train", "val", "test"), SPLIT, lambda: PEOPLE, [spec])  # claims nothing


def test_held_out_splits_are_taken_where_no_encoder_saw_them(tmp_path: Path) -> None:
    controls = [EncoderSpec(name="r", kind="random"), EncoderSpec(name="f", kind="features")]
    ours = saved(tmp_path / "b", SPLIT)
    check_unseen(("test",), SPLIT, lambda: HELD_OUT, [ours, *controls])
    with pytest.raises(UsageError, match="encoder 'xmae' does not say how"):
        check_unseen(("test",), SPLIT, lambda: HELD_OUT, [ours, saved(tmp_path / "control", None)])
    with pytest.raises(UsageError, match="pretrained under another split"):
        check_unseen(("test",), None, lambda: HELD_OUT, [ours])  # a store of others' shards
    with pytest.raises(UsageError, match="people whom encoder 'xmae' had in its train split"):
        check_unseen(("test",), SPLIT, lambda: PEOPLE, [ours])  # a store that says one thing and does another


def test_a_split_of_a_later_version_is_refused() -> None:
    with pytest.raises(ConfigError, match="by_site"):
        SplitConfig.from_dict({"seed": 0, "by_site": True})
