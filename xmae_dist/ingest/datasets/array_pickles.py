"""Pickles of NumPy arrays and plain values, read without running them.

A pickle is a program, and NumPy's own constructors are no safe words for it: `ndarray((n,))` is whatever lay in memory,
and a `dtype` may be told of fields outside its elements. So nothing of NumPy is called with what a file says. Six
names are admitted, and each stands for a constructor of ours that takes what NumPy itself writes and refuses the rest:
numbers, flags and texts of fixed width, as many bytes as their shape says. The instructions are looked through before
the first is carried out: those that build instances of classes, or ask for more memory than the file has content, are
refused.
"""

from __future__ import annotations

import math
import pickle
import pickletools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from xmae_dist.core.errors import InputError

# Where NumPy has kept what its pickles name, in version 1 (numpy.core) and 2 (numpy._core).
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")
_PLAIN_DTYPE = re.compile(r"[biuf][1248]|c8|c16|[SU]\d{1,4}")
# The state of a dtype without fields; for texts their width and alignment stand in it too.
_NO_FIELDS = (None, None, None)
_FORBIDDEN = frozenset({"INST", "OBJ", "NEWOBJ", "NEWOBJ_EX", "PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4"})
_MEMO = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def load_arrays(path: Path) -> dict[str, Any]:
    """The dictionary in a pickle of arrays (Python 2 or 3). Raises InputError for a file that holds anything else."""
    try:
        with path.open("rb") as file:
            _look_through(file)
            file.seek(0)
            loaded = _ArrayUnpickler(file, encoding="latin1").load()
    except pickle.UnpicklingError as error:
        raise InputError(
            f"file {path.name}",
            value=f"a pickle that asks for {error}",
            expected="NumPy arrays and plain values only",
            fix="do not open it: get the file from its authors again",
        ) from error
    except (EOFError, ValueError, LookupError, TypeError, AttributeError, MemoryError, ArithmeticError) as error:
        # The unpickler raises whatever a truncated or foreign file trips over.
        raise InputError(f"file {path.name}", value=f"unreadable ({error})", expected="a pickle of arrays") from error
    if not isinstance(loaded, dict):
        raise InputError(f"file {path.name}", value=type(loaded).__name__, expected="a dictionary")
    return loaded


def _look_through(file: BinaryIO) -> None:
    """Raises UnpicklingError for instructions that a pickle of arrays has not, ValueError where it is cut off."""
    count = 0
    for count, (operation, argument, _) in enumerate(pickletools.genops(file), 1):
        if operation.name in _FORBIDDEN:
            raise pickle.UnpicklingError(operation.name)
        # The unpickler makes room for as many notes as the highest number says, before there are any.
        if operation.name in _MEMO and not 0 <= int(argument or 0) <= count:
            raise pickle.UnpicklingError(f"note {argument} after {count} instructions")


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module in _MULTIARRAY and name == "_reconstruct":
            return _Constructor(_empty)
        if module in _MULTIARRAY and name == "scalar":
            return _Constructor(_scalar)
        if module == "numpy" and name == "ndarray":
            return _Constructor(_refused)  # named as an argument of _reconstruct, never called
        if module == "numpy" and name == "dtype":
            return _Constructor(_Kind)
        if (module, name) == ("_codecs", "encode"):
            return _Constructor(_latin1)
        if (module, name) in (("__builtin__", "bytes"), ("builtins", "bytes")):
            return _Constructor(lambda: b"")  # what Python 3 writes for no bytes in an old protocol
        raise pickle.UnpicklingError(f"{module}.{name}")


class _Fixed:
    """What no instruction of a pickle can change."""

    __slots__ = ()

    def __setattr__(self, name: str, value: object) -> None:
        raise pickle.UnpicklingError(f"a change of {name}")

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("a change of what builds arrays")


class _Constructor(_Fixed):
    __slots__ = ("_build",)

    def __init__(self, build: Callable[..., Any]) -> None:
        object.__setattr__(self, "_build", build)

    def __call__(self, *arguments: Any) -> Any:
        return self._build(*arguments)  # type: ignore[attr-defined]


class _Kind(_Fixed):
    """A dtype of plain elements, as `dtype(name, align, copy)` and its state say."""

    __slots__ = ("dtype",)
    dtype: np.dtype

    def __init__(self, name: str, *_: object) -> None:
        if not isinstance(name, str) or not _PLAIN_DTYPE.fullmatch(name):
            raise pickle.UnpicklingError(f"elements of type {name!r}")
        object.__setattr__(self, "dtype", np.dtype(name))

    def __setstate__(self, state: Any) -> None:
        _, order, *fields = state[:5]
        if tuple(fields) != _NO_FIELDS or order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError("elements with fields")
        object.__setattr__(self, "dtype", self.dtype.newbyteorder(order))


class _Array(np.ndarray):
    """An array that is filled by its state, if that is what NumPy writes."""

    def __setstate__(self, state: Any) -> None:
        _, shape, kind, by_column, content = state
        if not isinstance(kind, _Kind) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise pickle.UnpicklingError("an array of something else")
        raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
        if len(raw) != math.prod(shape) * kind.dtype.itemsize:
            raise pickle.UnpicklingError(f"{len(raw)} bytes for an array of shape {tuple(shape)}")
        super().__setstate__((1, tuple(shape), kind.dtype, bool(by_column), raw))  # type: ignore[arg-type, misc]


def _empty(_: object, shape: Any, __: object) -> _Array:
    if tuple(shape) != (0,):
        raise pickle.UnpicklingError(f"memory of shape {shape}")
    return np.empty(0).view(_Array)


def _scalar(kind: Any, content: bytes | str) -> Any:
    if not isinstance(kind, _Kind):
        raise pickle.UnpicklingError("a scalar of something else")
    raw = content.encode("latin1") if isinstance(content, str) else bytes(content)
    return np.frombuffer(raw, kind.dtype, count=1)[0]


def _refused(*_: object) -> Any:
    raise pickle.UnpicklingError("memory that nobody filled")


def _latin1(text: str, encoding: str) -> bytes:
    """What Python 3 writes for bytes in an old protocol; any other codec is none of a data file's business."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"codec {encoding!r}")
    return text.encode("latin1")
