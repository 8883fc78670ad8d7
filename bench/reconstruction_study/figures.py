"""Two figures of a trained model: reconstructions, and which PPG time the masked ECG reads beside the measured delay.

    python -m bench.reconstruction_study.figures --bundle URL --windows STORE --out docs/figures

`reconstructions.png` shows windows of four held-out subjects. `lag-map.png` has a row for each held-out subject, in the
order of the measured delay from R peak to the next pulse foot: how much a masked patch's reconstruction depends on the
PPG at each lag (`xmae_dist.model.lag_map`), with the measured delay marked. Some monitors delay the PPG by more than a
beat, so that the next foot belongs to the beat before: one beat later is marked too. A model that knows time follows
the marks.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.reconstruction_study.dataset import Dataset, Pairs
from bench.reconstruction_study.measure import MASK_SEED, errors_of
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.model import bundle
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.lag_map import lag_map
from xmae_dist.model.mask import masks
from xmae_dist.train.observe.figures import reconstructions

REACH_S, BIN_S = 1.5, 0.05
NEAR_S = 0.1
"""A patch of `paper` is this long."""


@dataclass(frozen=True, kw_only=True)
class Person:
    """One held-out subject: measured delay and the model's sensitivity over lags."""

    delay_s: float
    beat_s: float
    lag_s_K: NDArray[np.float64]
    weight_K: NDArray[np.float64]


def main() -> int:
    args = _arguments()
    torch.set_num_threads(1)
    data = Dataset("", WindowStore.open(args.windows))
    loaded = bundle.load(args.bundle)
    args.out.mkdir(parents=True, exist_ok=True)
    _draw_windows(loaded.model, data, loaded.lineage).savefig(args.out / "reconstructions.png", dpi=110)
    people = _people(loaded.model, data, args.each)
    _draw_lags(people, loaded.lineage).savefig(args.out / "lag-map.png", dpi=90)
    near = [_near(person, beats) for beats in (0, 1) for person in people]
    print(
        f"{len(people)} subjects: sensitivity peaks within {NEAR_S} s of the measured delay in "
        f"{sum(near[: len(people)])}, of one beat later in {sum(near[len(people) :])}"
    )
    return 0


def _people(model: PretrainModel, data: Dataset, each: int) -> list[Person]:
    """Held-out subjects with at least `each` windows whose delay is known, by their delay."""
    table, pairs, rate_hz = data.probe_table, data.probes, data.store.spec.rate_hz
    delay_M, rate_M = (table[name].to_numpy().astype(float) for name in ("pulse_arrival_s", "heart_rate_bpm"))
    people = []
    for subject in np.unique(pairs.subject_M):
        rows = np.flatnonzero((pairs.subject_M == subject) & np.isfinite(delay_M))[:each]
        if len(rows) < each:
            continue
        found = lag_map(
            model,
            *(pairs.ppg_ML[rows], pairs.ecg_ML[rows], _mask(model, rows)),
            rate_hz=rate_hz,
            reach_s=REACH_S,
            bin_s=BIN_S,
            patches=4,
        )
        people.append(
            Person(
                delay_s=float(np.median(delay_M[rows])),
                beat_s=60.0 / float(np.nanmedian(rate_M[rows])),
                lag_s_K=found.lag_s_K,
                weight_K=found.weight_K,
            )
        )
    return sorted(people, key=lambda person: person.delay_s)


def _near(person: Person, beats: int) -> bool:
    """Whether the lag that matters most is the measured delay, so many beats later."""
    peak_s = person.lag_s_K[person.weight_K.argmax()]
    return bool(abs(peak_s - person.delay_s - beats * person.beat_s) <= NEAR_S)


def _mask(model: PretrainModel, rows: NDArray[np.int64]) -> torch.Tensor:
    config = model.config
    return torch.from_numpy(masks(MASK_SEED, 0, rows, config.n_patches, config.mask_ratio, config.mask_mode))


def _draw_lags(people: list[Person], lineage: dict[str, object]) -> Figure:
    figure = Figure(figsize=(9, 5.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=[2, 1.3])
    lag_s_K = people[0].lag_s_K
    weight_PK = np.stack([person.weight_K / person.weight_K.max() for person in people])
    edges = (lag_s_K[0] - BIN_S / 2, lag_s_K[-1] + BIN_S / 2, len(people) - 0.5, -0.5)
    left.imshow(weight_PK, aspect="auto", extent=edges, cmap="Blues", interpolation="nearest")
    delay_P = [person.delay_s for person in people]
    later_P = [person.delay_s + person.beat_s for person in people]
    left.plot(delay_P, np.arange(len(people)), "o", ms=3.5, color="#d1495b", label="measured: R peak to next foot")
    left.plot(later_P, np.arange(len(people)), "o", ms=3.5, mfc="none", color="#d1495b", label="one beat later")
    left.set_xlim(edges[:2])
    left.set(xlabel="PPG time after the masked ECG patch, s", ylabel="held-out subjects, by measured delay")
    left.set_title("How much the reconstruction depends on the PPG", loc="left", fontsize=10)
    left.legend(loc="lower left", fontsize=8)
    for third, color in zip(np.array_split(np.arange(len(people)), 3), ("#8fc1d4", "#2a7f9e", "#123f57"), strict=True):
        middle_s = float(np.median([delay_P[i] for i in third]))
        right.plot(lag_s_K, weight_PK[third].mean(axis=0), color=color, label=f"measured {middle_s:.2f} s")
        right.axvline(middle_s, color=color, lw=1, ls="--")
    right.set(xlabel="lag, s", xlim=(-0.6, 1.4))
    right.set_title("Thirds of the subjects, dashed: measured", loc="left", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    right.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_caption(lineage), fontsize=9)
    return figure


def _draw_windows(model: PretrainModel, data: Dataset, lineage: dict[str, object]) -> Figure:
    pairs = _four(data.test)
    mask_BN = _mask(model, np.arange(4))
    with torch.inference_mode():
        rebuilt_BL = model.reconstruct(pairs.ppg_ML, pairs.ecg_ML, mask_BN)
    panel = {
        "ecg": pairs.ecg_ML.numpy(),
        "ppg": pairs.ppg_ML.numpy(),
        "rebuilt": rebuilt_BL.numpy(),
        "mask": mask_BN.numpy(),
        "reconstructs": model.reconstructs,
        "captions": [f"subject {subject}" for subject in pairs.subject_M],
        "rate_hz": data.store.spec.rate_hz,
        "step": int(str(lineage["windows"])) // int(str(lineage["batch"])),
    }
    return reconstructions(panel, errors_of(model, data.test))


def _four(pairs: Pairs) -> Pairs:
    """A window of each of four subjects."""
    first = np.unique(pairs.subject_M, return_index=True)[1]
    rows = first[np.linspace(0, len(first) - 1, 4).astype(int)]
    return Pairs(pairs.ppg_ML[rows], pairs.ecg_ML[rows], pairs.subject_M[rows])


def _caption(lineage: dict[str, object]) -> str:
    return f"{lineage['preset']} after {lineage['windows']} windows of {lineage['dataset']}, seed {lineage['seed']}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.reconstruction_study.figures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--bundle", required=True, help="bundle that the study kept, below its --out")
    parser.add_argument("--windows", required=True, help="window store, below the study's --out")
    parser.add_argument("--out", type=Path, default=Path("docs/figures"))
    parser.add_argument("--each", type=int, default=12, help="windows of each subject")
    return parser.parse_args()


if __name__ == "__main__":
    raise SystemExit(main())
