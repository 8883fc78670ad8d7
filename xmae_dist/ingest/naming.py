"""What a channel is called in the corpus, from what its device called it.

The best ECG lead becomes `ecg`, the others `ecg_<lead>`; the pulse wave becomes `ppg`; arterial pressure
`abp`; respiration `resp`; anything else keeps its name in lower case. The source's own name is kept beside
it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from xmae_dist.ingest.formats.source import SourceChannel

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
# Best first. The infrared wavelength pulsates most at a finger, the green one at a wrist.
_PPG = (
    "pleth",
    "ppg",
    "plethysmogram",
    "photoplethysmogram",
    "spo2_pleth",
    "pulse_pleth",
    "bvp",
    "puls",
    "pulse",
    "pulse_wave",
    "ir",
    "infrared",
    "ppg_ir",
    "ppg_infrared",
    "ppg_green",
)
_PPG_SITE = re.compile(r"(pleth|ppg|bvp)_?([0-9]+|[lr]|left|right|finger|wrist|ear|toe|a[0-9]+)?")
_ABP = ("abp", "art", "ao", "ibp", "abp1", "art1", "arterial_blood_pressure")
# Words that say that a channel holds a number a second or so, derived from a signal, and no signal.
_NUMBERS = {"hr", "rate", "bpm", "sys", "dia", "mean", "nibp", "sqi", "quality", "rr", "amp", "index"}
_NUMBER_UNITS = {"bpm", "%", "degC"}
# A wave is sampled at least so often: monitors send derived numbers once a second or minute.
_SLOWEST_WAVE_HZ = 10.0
_SLOWEST_BREATH_HZ = 2.0
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


def names_of(channels: Sequence[SourceChannel]) -> list[str]:
    """The corpus names of the channels of a recording: declared ones as they are, else by what they hold."""
    if all(channel.name for channel in channels):
        return [str(channel.name) for channel in channels]
    return channel_names(
        [channel.source_name for channel in channels],
        [_is_number(channel.source_name, channel.unit, channel.rate_hz) for channel in channels],
    )


def channel_names(source_names: Sequence[str], numbers: Sequence[bool] | None = None) -> list[str]:
    """A distinct corpus name for each of `source_names`, in their order; `numbers` are those that hold derived
    numbers, not signals.
    """
    numbers = numbers or [_is_number(name, "", 0.0) for name in source_names]
    leads = [None if number else ecg_lead(name) for name, number in zip(source_names, numbers, strict=True)]
    waves = [None if number else _ppg_rank(name) for name, number in zip(source_names, numbers, strict=True)]
    first_ecg = _best(leads)
    ranked = [(rank, at) for at, rank in enumerate(waves) if rank is not None]
    first_ppg = min(ranked)[1] if ranked else None
    names = []
    for at, source_name in enumerate(source_names):
        if leads[at] is not None:
            names.append("ecg" if at == first_ecg else _lead_name(str(leads[at])))
        elif waves[at] is not None:
            names.append("ppg" if at == first_ppg else _other_wave(source_name))
        else:
            names.append(_number_name(source_name) if numbers[at] else _plain(source_name))
    return _distinct(names, first=first_ppg)


def _is_number(source_name: str, unit: str, rate_hz: float) -> bool:
    """Whether a channel holds numbers derived from a signal: its unit and rate say so, else its name."""
    words = sanitised(source_name).split("_")
    slowest_hz = _SLOWEST_BREATH_HZ if words[0] in _RESP else _SLOWEST_WAVE_HZ
    if unit in _NUMBER_UNITS or 0 < rate_hz < slowest_hz:
        return True
    return len(words) > 1 and bool(_NUMBERS & set(words)) and words[0] not in _RESP


def _number_name(source_name: str) -> str:
    """A name that no code takes for a signal of that kind: `ECG HR` is `hr_ecg`, `ABP` in numerics `abp_number`."""
    word = sanitised(source_name)
    bare = re.sub(r"^(mdc_)?(ecg|ekg)(_lead)?_?", "", word)
    if bare != word:
        return f"{bare or 'number'}_ecg"
    return f"{word}_number" if word in (*_ABP, *_RESP) or _ppg_rank(source_name) is not None else word


def _ppg_rank(source_name: str) -> int | None:
    """How good a pulse wave `source_name` denotes, 0 the best; None if it is none."""
    word = sanitised(source_name)
    if word in _PPG:
        return _PPG.index(word)
    return len(_PPG) if _PPG_SITE.fullmatch(word) else None


def _other_wave(source_name: str) -> str:
    """A further pulse wave: the same name once more gets a number, another one keeps what tells it apart."""
    word = re.sub(r"^(ppg|pleth|bvp|spo2)_?", "", sanitised(source_name))
    return "ppg" if word in ("", "pleth", "ppg") or word.isdigit() else f"ppg_{word}"


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
    for name, words in (("abp", _ABP), ("resp", _RESP)):
        if word in words:
            return name
    return word


def _distinct(names: list[str], first: int | None) -> list[str]:
    """The names with numbers where they are taken; that of the `first` one, the best pulse wave, is."""
    taken = set() if first is None else {names[first]}
    distinct = []
    for at, name in enumerate(names):
        if at == first:
            distinct.append(name)
            continue
        candidate, number = name, 2
        while candidate in taken:
            candidate, number = f"{name}_{number}", number + 1
        taken.add(candidate)
        distinct.append(candidate)
    return distinct
