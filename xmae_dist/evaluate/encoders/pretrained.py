"""Whom an encoder may have seen in pretraining: the people of the train split that its bundle names.

A subject's split is a function of the name alone, so it can be asked for anyone, also of a cohort that came later: the
numbers are of people in pretraining's train split, of whom those without a recording in its cohorts were not there.

    <out>/pretrained.json    by encoder identity, beside the results, so that the report can be made from them alone
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from xmae_dist.core.errors import UsageError
from xmae_dist.data.windows.split import SPLITS, SplitConfig
from xmae_dist.evaluate.encoders.spec import EncoderSpec
from xmae_dist.model import bundle
from xmae_dist.storage import uri

PRETRAINED = "pretrained.json"
_TRAIN = SPLITS[0]


@dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What is known of an encoder's pretraining."""

    trained: bool
    """False: random weights or features, which saw nobody."""
    split: SplitConfig | None = None
    """How subjects were divided; None: not stated."""
    cohorts: tuple[str, ...] = ()
    """Cohorts whose windows were taken; empty: not stated."""
    url: str = ""
    """Of its bundle."""
    run: str = ""
    """URL of the pretraining run; empty: not stated, as all that follows."""
    snapshot: str = ""
    """Fingerprint of the corpus snapshot that it was pretrained on."""
    steps: int | None = None
    windows: int | None = None
    """Windows that were trained on, repeats included."""

    def people(self, subject_N: NDArray[np.str_]) -> int | None:
        """How many of the people were in the train split of its pretraining; None where that is not known."""
        if not self.trained:
            return 0
        if self.split is None:
            return None
        return sum(self.split.of(str(name)) == _TRAIN for name in np.unique(subject_N))

    def told(self, subject_N: NDArray[np.str_]) -> str:
        """The same in words; nothing for an encoder that was not trained."""
        if not self.trained:
            return ""
        seen = self.people(subject_N)
        return "not known how many in pretraining" if seen is None else f"{seen} in pretraining's train split"


def pretrained(spec: EncoderSpec) -> Pretrained:
    """Reads the description of a bundle. Raises what that raises."""
    if spec.kind != "bundle":
        return Pretrained(trained=False)
    document = bundle.describe(spec.url)
    lineage = document.get("lineage", {})
    stated = {
        "url": spec.url,
        "run": lineage.get("run", ""),
        "snapshot": lineage.get("snapshot_fingerprint", ""),
        "steps": lineage.get("step"),
        "windows": lineage.get("windows_seen"),
    }
    return _from_dict({"trained": True, "cohorts": (), **stated, **document["pretrained_on"]})


def check_unseen(
    splits: Iterable[str],
    store_split: SplitConfig | None,
    subjects: Callable[[], NDArray[np.str_]],
    encoders: Iterable[EncoderSpec],
) -> None:
    """Raises UsageError where only held-out splits are asked for, and an encoder may have seen their people.

    `store_split` is how the window store divides subjects, `subjects` tells whose windows take part, if that matters.
    """
    chosen = tuple(splits)
    if _TRAIN in chosen:
        return
    trained = [(spec, known) for spec in encoders if (known := pretrained(spec)).trained]
    subject_S = subjects() if trained else np.empty(0, np.str_)
    for spec, known in trained:
        seen = known.people(subject_S)
        if known.split is None:
            value, fix = f"encoder {spec.name!r} does not say how", "export its bundle again with this version"
        elif known.split != store_split:
            told = f"; {seen} of the people of {', '.join(chosen)} were in its train split" if seen else ""
            value = f"encoder {spec.name!r} was pretrained under another split than the window store's{told}"
            fix = "make a window store with the encoder's split (--corpus chooses or makes it)"
        elif seen:
            value, fix = f"{seen} people whom encoder {spec.name!r} had in its train split", "use another window store"
        else:
            continue
        raise UsageError(
            f"--splits {' '.join(chosen)}",
            value=value,
            expected="people that pretraining did not see",
            fix=f"{fix}, or leave --splits out: the report then says how many people of each task were in pretraining",
        )


def remember(out_url: str, encoders: Iterable[EncoderSpec]) -> None:
    """Keeps what is known of resolved encoders beside the results."""
    known = recalled(out_url) | {spec.identity: pretrained(spec) for spec in encoders}
    document = {identity: asdict(one) for identity, one in known.items()}
    uri.write_bytes(uri.join(out_url, PRETRAINED), json.dumps(document, indent=1).encode())


def recalled(out_url: str) -> dict[str, Pretrained]:
    """By encoder identity; empty where the results are of a version that kept nothing."""
    url = uri.join(out_url, PRETRAINED)
    if not uri.exists(url):
        return {}
    return {identity: _from_dict(one) for identity, one in json.loads(uri.read_bytes(url)).items()}


def _from_dict(values: Mapping[str, Any]) -> Pretrained:
    stated = {name: values[name] for name in ("url", "run", "snapshot", "steps", "windows") if name in values}
    return Pretrained(
        trained=values["trained"],
        split=SplitConfig.from_dict(values.get("split") or {}),
        cohorts=tuple(values["cohorts"]),
        **stated,
    )
