"""Evaluation tasks as files: where a label comes from, what is predicted, and how it is scored.

A suite is a TOML file with `name`, `title` and a `[[task]]` table per task. Built-in suites live in
`xmae_dist/evaluate/suites/`; a path or URL ending in `.toml` names one of the user's own.
"""

import dataclasses
import tomllib
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, Literal

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.evaluate.scores.metrics import METRICS
from xmae_dist.storage import uri

Kind = Literal["binary", "multiclass", "regression"]
Unit = Literal["window", "epoch", "recording", "subject"]
KINDS = ("binary", "multiclass", "regression")
UNITS = ("window", "epoch", "recording", "subject")


@dataclass(frozen=True, kw_only=True)
class Task:
    """One downstream question about an encoder.

    `label` names a column of the window table, a key of its `labels` map, or of its `label_text` map.
    With `threshold`, a binary label is `value >= threshold`, with `below` it is `value < below`; with `classes`, text
    or numbers are mapped to their index in that list and anything else is left out. Values outside `valid_range`
    (low, high) are left out: no body has them. `cohorts` (empty: all) and `min_quality` select windows.

    With `epoch_s`, the label is a text of one letter for each stretch of that many seconds of the recording (sleep
    stages), and `unit = "epoch"` predicts such a stretch from the windows that start in it. With `centred`, label and
    embedding are taken as deviations from the person's own mean: does the encoder follow changes within a person?
    """

    name: str
    title: str
    label: str
    kind: Kind
    unit: Unit = "window"
    metric: str = ""
    family: str = "other"
    label_unit: str = ""
    threshold: float | None = None
    below: float | None = None
    epoch_s: float = 0.0
    centred: bool = False
    classes: tuple[Any, ...] = ()
    valid_range: tuple[float, ...] = ()
    cohorts: tuple[str, ...] = ()
    min_quality: float = 0.0
    mechanism: str = ""

    def __post_init__(self) -> None:
        _one_of(f"task {self.name}: kind", self.kind, KINDS)
        _one_of(f"task {self.name}: unit", self.unit, UNITS)
        if not self.metric:
            object.__setattr__(self, "metric", DEFAULT_METRIC[self.kind])
        allowed = tuple(name for name, metric in METRICS.items() if self.kind in metric.kinds)
        _one_of(f"task {self.name}: metric", self.metric, allowed)
        if self.valid_range and (len(self.valid_range) != 2 or self.valid_range[0] >= self.valid_range[1]):
            raise InputError(
                thing=f"task {self.name}: valid_range",
                value=list(self.valid_range),
                expected="[low, high] with low below high",
                fix="correct it, or leave it out",
            )
        if (self.unit == "epoch") > (self.epoch_s > 0):
            raise InputError(
                thing=f"task {self.name}: epoch_s",
                value=self.epoch_s,
                expected="the seconds of an epoch, for unit = 'epoch'",
                fix="epoch_s = 30.0 for sleep stages",
            )
        if self.centred and (self.kind != "regression" or self.unit == "subject"):
            raise InputError(
                thing=f"task {self.name}: centred",
                value=f"{self.kind} by {self.unit}",
                expected="a regression with several units of a person",
                fix="leave `centred` out",
            )
        if self.kind == "multiclass" and len(self.classes) < 3:
            raise InputError(
                thing=f"task {self.name}: classes",
                value=list(self.classes),
                expected="three or more classes",
                fix="list them, or use kind = 'binary'",
            )

    def identity(self) -> dict[str, Any]:
        """What decides a fit's numbers: every field but the words for readers."""
        words = {"title", "family", "label_unit", "mechanism"}
        return {k: v for k, v in dataclasses.asdict(self).items() if k not in words}


DEFAULT_METRIC = {"binary": "auroc", "multiclass": "macro_auroc", "regression": "mae"}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """A named list of tasks; `fingerprint` changes with anything that changes a number."""

    name: str
    title: str
    tasks: tuple[Task, ...] = field(default=())

    def fingerprint(self) -> str:
        return digest_json([task.identity() for task in self.tasks])

    def only(self, names: tuple[str, ...]) -> "Suite":
        """The suite restricted to `names` (empty: all). Raises InputError for a name it lacks."""
        known = tuple(task.name for task in self.tasks)
        for name in names:
            _one_of("--tasks", name, known)
        return dataclasses.replace(self, tasks=tuple(t for t in self.tasks if not names or t.name in names))


def builtin_suites() -> tuple[str, ...]:
    folder = resources.files("xmae_dist.evaluate") / "suites"
    return tuple(sorted(p.name.removesuffix(".toml") for p in folder.iterdir() if p.name.endswith(".toml")))


def load_suite(name_or_url: str) -> Suite:
    """Read a built-in suite by name, or a `.toml` file by path or URL. Raises InputError when it is not valid."""
    if name_or_url.endswith(".toml"):
        text = uri.read_bytes(name_or_url).decode()
    else:
        _one_of("--suite", name_or_url, builtin_suites())
        text = (resources.files("xmae_dist.evaluate") / "suites" / f"{name_or_url}.toml").read_text()
    return parse_suite(text, name_or_url)


def parse_suite(text: str, origin: str) -> Suite:
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(
            thing=f"task file {origin}", value=str(error), expected="valid TOML", fix="correct the line named"
        ) from error
    tasks = tuple(_task(entry, origin) for entry in raw.get("task", ()))
    names = [task.name for task in tasks]
    if not names or len(set(names)) != len(names):
        raise InputError(
            thing=f"task file {origin}: task names",
            value=names,
            expected="one or more, all different",
            fix="add [[task]] tables or rename the one that repeats",
        )
    return Suite(name=raw.get("name", origin), title=raw.get("title", raw.get("name", origin)), tasks=tasks)


def _task(entry: dict[str, Any], origin: str) -> Task:
    fields = {f.name for f in dataclasses.fields(Task)}
    required = {"name", "title", "label", "kind"}
    for key in set(entry) - fields:
        _one_of(f"task file {origin}: key", key, tuple(sorted(fields)))
    if missing := required - set(entry):
        raise InputError(
            thing=f"task file {origin}: task {entry.get('name', '?')}",
            value=f"no {sorted(missing)}",
            expected=f"the keys {sorted(required)}",
            fix="add them",
        )
    lists = {key: tuple(value) for key, value in entry.items() if isinstance(value, list)}
    return Task(**{**entry, **lists})


def _one_of(thing: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(thing=thing, value=value, expected=f"one of {', '.join(allowed)}", fix="choose one of these")
