"""The errors a user can meet: each names the thing, its value, what was expected and the fix.

The command line prints an `XmaeError` as one line and ends with its `exit_status`; anything else that
escapes is a defect of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable

_SHOWN = 10


def some_of(names: Iterable[str]) -> str:
    """`names` in a row for an error's text: the first ten, and how many more there are."""
    names = list(names)
    more = f", … and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


class XmaeError(Exception):
    """A failure that can be explained to the person who ran the command.

    `thing` names what is wrong (an option, a file, an array), `value` what was found, `expected` what would
    have been right and `fix` what to do. Any of the last three may be left out where it adds nothing.
    """

    exit_status = 1

    def __init__(
        self, thing: str, *, value: object = None, expected: str | None = None, fix: str | None = None
    ) -> None:
        self.thing, self.value, self.expected, self.fix = thing, value, expected, fix
        super().__init__(thing)

    def __str__(self) -> str:
        clauses = [
            f"got {self.value}" if self.value is not None else None,
            f"expected {self.expected}" if self.expected else None,
            f"fix: {self.fix}" if self.fix else None,
        ]
        said = "; ".join(clause for clause in clauses if clause)
        return f"{self.thing}: {said}" if said else self.thing

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments: the default reduction would lose them on the way back from a Ray task.
        return _rebuild, (type(self), self.thing, self.value, self.expected, self.fix)


def _rebuild(kind: type[XmaeError], thing: str, value: object, expected: str | None, fix: str | None) -> XmaeError:
    return kind(thing, value=value, expected=expected, fix=fix)


class UsageError(XmaeError):
    """An option or argument is wrong."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration contradicts itself, the corpus, or the cluster."""


class InputError(XmaeError):
    """Data handed to us cannot be used as it is."""

    exit_status = 2


class StorageError(XmaeError):
    """An object store or path cannot be reached, is denied, or does not exist."""

    exit_status = 2


class IntegrityError(XmaeError):
    """Stored bytes are not the bytes that were written."""


class RunError(XmaeError):
    """A run started rightly and failed on the way."""
