"""What a channel is called in the corpus, from what its device called it.

The best ECG lead becomes `ecg`, the others `ecg_<lead>`; the pulse wave becomes `ppg`; arterial pressure
`abp`; respiration `resp`; anything else keeps its name in lower case. The source's own name is kept beside
it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

# Best first: lead II shows the P wave and QRS axis of most people best, and most monitors record it.
LEAD_PREFERENCE = (
    "ii",
    "mlii",
    "i",
    "iii",
    "ecg",
    "avf",
    "avl",
    "avr",
    "mli",
    "mliii",
    "v5",
    "v4",
    "v2",
    "v",
    "v1",
    "v3",
    "v6",
    "mcl",
    "mcl1",
    "mv",
    "cm5",
    "cs12",
    "ml5",
    "cc5",
)
_PPG = ("pleth", "ppg", "plethysmogram", "photoplethysmogram", "spo2_pleth", "plethl", "pleth_l", "plethr", "pleth_r")
_ABP = ("abp", "art", "ao", "ibp", "abp1", "art1", "arterial_blood_pressure")
_RESP = ("resp", "respiration", "resp_a", "resp_b", "imp_resp")


def sanitised(source_name: str) -> str:
    """`source_name` in lower case with every run of other characters as one underscore; 'channel' if none is
    left.
    """
    return re.sub(r"[^a-z0-9]+", "_", source_name.lower()).strip("_") or "channel"


def ecg_lead(source_name: str) -> str | None:
    """The lead that `source_name` denotes (`ii`, `v5`; `ecg` if it only says ECG), or None if it is no ECG."""
    word = sanitised(source_name)
    bare = re.sub(r"^(mdc_)?(ecg|ekg)(_lead)?_?", "", word) or "ecg"
    bare = re.sub(r"^lead_", "", bare)
    if bare in LEAD_PREFERENCE:
        return bare
    if re.match(r"^(mdc_)?(ecg|ekg)", word) or re.search(r"(^|_)(ecg|ekg)$", word):
        return bare
    return None


def channel_names(source_names: Sequence[str]) -> list[str]:
    """A distinct corpus name for each of `source_names`, in their order."""
    leads = [ecg_lead(name) for name in source_names]
    first_ecg = _best(leads)
    names = [
        _plain(source_name) if lead is None else ("ecg" if at == first_ecg else _lead_name(lead))
        for at, (source_name, lead) in enumerate(zip(source_names, leads, strict=True))
    ]
    return _distinct(names)


def _best(leads: Sequence[str | None]) -> int | None:
    ranked = [
        (LEAD_PREFERENCE.index(lead) if lead in LEAD_PREFERENCE else len(LEAD_PREFERENCE), at)
        for at, lead in enumerate(leads)
        if lead is not None
    ]
    return min(ranked)[1] if ranked else None


def _lead_name(lead: str) -> str:
    return "ecg_2" if lead == "ecg" else f"ecg_{lead}"


def _plain(source_name: str) -> str:
    word = sanitised(source_name)
    for name, words in (("ppg", _PPG), ("abp", _ABP), ("resp", _RESP)):
        if word in words:
            return name
    return word


def _distinct(names: list[str]) -> list[str]:
    taken: set[str] = set()
    distinct = []
    for name in names:
        candidate, number = name, 2
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate)
        distinct.append(candidate)
    return distinct
