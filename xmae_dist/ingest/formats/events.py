"""Annotations of a recording as labels: sleep stages a letter per epoch, any other text by how often it stands."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

EPOCH_S = 30.0
UNSTAGED = "-"
# Texts of an annotation that become a label of their own; a recording with more of them annotates freely.
MOST_KINDS = 64
_STAGE = re.compile(r"(?:sleep[ _-]*)?stage[ _:-]*(wake|rem|w|r|n?[1-4]|\?|movement)|(wake|rem|n[1-3])", re.IGNORECASE)
# Rechtschaffen and Kales' fourth stage is part of the third since 2007.
_LETTERS = {"wake": "W", "w": "W", "rem": "R", "r": "R", "1": "1", "2": "2", "3": "3", "4": "3"}


class Event(NamedTuple):
    """One annotation; `onset_s` from the first sample, no duration where it marks a moment."""

    onset_s: float
    duration_s: float | None
    text: str


def labels_of(events: Sequence[Event], length_s: float) -> tuple[dict[str, float], dict[str, str]]:
    """(numeric, text) labels of a recording of `length_s`.

    `sleep_stages` holds a letter (W, 1, 2, 3, R, or - where nobody scored) for each whole epoch of 30 s, by the stage
    at its middle; tasks read it with `epoch_s = 30`. `events_<text>` counts the annotations with a text.
    """
    stages = [(event, letter) for event in sorted(events) if (letter := stage_letter(event.text)) is not None]
    others = Counter(_word(event.text) for event in events if stage_letter(event.text) is None)
    numbers = {f"events_{word}": float(count) for word, count in others.items() if word}
    text = {"sleep_stages": _epochs(stages, length_s)} if stages else {}
    return (numbers if len(numbers) <= MOST_KINDS else {"events": float(sum(others.values()))}), text


def stage_letter(text: str) -> str | None:
    """The letter of a sleep stage, or None where `text` names none."""
    found = _STAGE.fullmatch(text.strip())
    if found is None:
        return None
    return _LETTERS.get((found.group(1) or found.group(2)).lower().removeprefix("n"), UNSTAGED)


def _epochs(stages: Sequence[tuple[Event, str]], length_s: float) -> str:
    """A stage lasts for its duration, or until the next one where it has none."""
    letters = [UNSTAGED] * int(length_s // EPOCH_S)
    for at, (event, letter) in enumerate(stages):
        following = stages[at + 1][0].onset_s if at + 1 < len(stages) else length_s
        stop_s = event.onset_s + event.duration_s if event.duration_s else following
        first = max(0, round(event.onset_s / EPOCH_S))
        for epoch in range(first, min(len(letters), round(stop_s / EPOCH_S))):
            letters[epoch] = letter
    return "".join(letters)


def _word(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:40]
