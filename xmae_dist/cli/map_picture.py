"""The picture of an embedding map: the same windows coloured by device, person, quality and a label."""

from __future__ import annotations

from collections import Counter
from typing import Any

import matplotlib

matplotlib.use("Agg")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from xmae_dist.embed.embedding_map import EmbeddingMap

_NAMED = 10
"""So many names have a colour of their own; the others are grey."""
_GREY = "#c4c4c4"


def picture(found: EmbeddingMap, *, title: str, label: str = "") -> Figure:
    """Four panels, three without a label."""
    panels = 4 if found.label_N is not None else 3
    figure = Figure(figsize=(5.2 * min(2, panels), 4.6 * (2 if panels > 2 else 1)), layout="constrained")
    axes = figure.subplots(2, 2, squeeze=False).ravel()
    _by_name(axes[0], found, found.cohort_N, "device (cohort)")
    _by_name(axes[1], found, found.subject_N, "person")
    _by_number(figure, axes[2], found, found.quality_N.astype(float), "signal quality")
    if found.label_N is None:
        axes[3].set_axis_off()
    elif all(isinstance(one, float) for one in found.label_N if one is not None):
        values_N = np.array([np.nan if one is None else one for one in found.label_N])
        _by_number(figure, axes[3], found, values_N, label)
    else:
        _by_name(axes[3], found, np.array(["none" if one is None else str(one) for one in found.label_N]), label)
    figure.suptitle(title, fontsize=10)
    return figure


def _by_name(axes: Axes, found: EmbeddingMap, name_N: NDArray[Any], title: str) -> None:
    counts = Counter(name_N.tolist())
    named = [name for name, _ in counts.most_common(_NAMED)]
    colours = matplotlib.colormaps["tab10"]
    rest_N = ~np.isin(name_N, named)
    if rest_N.any():
        _dots(axes, found, rest_N, s=5, color=_GREY, label=f"{len(counts) - len(named)} others")
    for number, name in enumerate(named):
        _dots(axes, found, name_N == name, s=6, color=colours(number), label=name, alpha=0.8)
    # Below the axes: points may lie anywhere.
    axes.legend(fontsize=6, markerscale=2, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncols=4, frameon=False)
    _finish(axes, found, title)


def _by_number(figure: Figure, axes: Axes, found: EmbeddingMap, value_N: NDArray[np.float64], title: str) -> None:
    known_N = np.isfinite(value_N)
    _dots(axes, found, ~known_N, s=5, color=_GREY)
    points = _dots(axes, found, known_N, s=6, c=value_N[known_N], cmap="viridis")
    figure.colorbar(points, ax=axes, shrink=0.8)
    _finish(axes, found, title)


def _dots(axes: Axes, found: EmbeddingMap, here_N: NDArray[np.bool_], **style: Any) -> PathCollection:
    return axes.scatter(found.place_N2[here_N, 0], found.place_N2[here_N, 1], **style)


def _finish(axes: Axes, found: EmbeddingMap, title: str) -> None:
    axes.set_title(title, fontsize=9)
    axes.set_xlabel(f"first component ({found.explained[0]:.0%} of variance)", fontsize=8)
    axes.set_ylabel(f"second component ({found.explained[1]:.0%})", fontsize=8)
    axes.tick_params(labelsize=7)
