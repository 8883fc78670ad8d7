"""What a format is to the rest of ingest: which files of a folder are its recordings, and how one is opened.

`testing/conformance_formats.py` holds what every format must do; `registry.py` lists those that describe themselves.
"""

from __future__ import annotations

import contextlib
import importlib
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.items import Folder, Item, Refusal
from xmae_dist.ingest.formats.source import Opened


class Format(Protocol):
    """One way in which recordings lie in files.

    `name` is the word that items carry, `title` what people call its files. `heads` are the files that its items may
    begin with, by their names alone; `find` looks at names, sizes and small headers, and gives items one after another:
    a folder may hold millions. `recordings` opens one item whose files lie below `folder`: what cannot be read comes as
    (name, InputError), also from the first look at the file; reading blocks later raises InputError.
    """

    @property
    def name(self) -> str: ...

    @property
    def title(self) -> str: ...

    def heads(self, folder: Folder) -> Iterator[str]: ...

    def find(self, folder: Folder) -> Iterator[Item | Refusal]: ...

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]: ...


# What damaged bytes make of a parser that trusts them.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    NotImplementedError,
    MemoryError,
    SyntaxError,  # XML within a file
    struct.error,
    zlib.error,
)
Opener = Callable[[Path, str, bool], Iterator[Opened]]


@dataclass(frozen=True, kw_only=True)
class SuffixFormat:
    """A format whose files stand alone and are told by their suffix. `opener` is `module:function` of this room, so
    that a library is imported only where a file of its kind is read. With `header_subjects` the person that a file's
    header names becomes the subject; else it is not looked at.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    opener: str
    header_subjects: bool = False

    def heads(self, folder: Folder) -> Iterator[str]:
        return folder.ending(self.suffixes)

    def find(self, folder: Folder) -> Iterator[Item | Refusal]:
        return folder.whole_files(((head, ()) for head in self.heads(folder)), self.name)

    def recordings(self, item: Item, folder: Path) -> Iterator[Opened]:
        module, _, function = self.opener.partition(":")
        opener: Opener = getattr(importlib.import_module(f"xmae_dist.ingest.formats.{module}"), function)
        return told(opener(folder / item.head, item.name, self.header_subjects), item.name)


def told(recordings: Iterator[Opened], name: str) -> Iterator[Opened]:
    """`recordings`; an InputError of opening them comes as an entry, after those that could be read."""
    try:
        yield from recordings
    except InputError as error:
        yield name, error


@contextlib.contextmanager
def parsing(path: Path, kind: str) -> Iterator[None]:
    """Inside, what a parser of other people's files trips over becomes an InputError that names the file."""
    try:
        yield
    except _DAMAGE as error:
        said = str(error) or type(error).__name__
        raise InputError(
            f"file {path.name}", value=f"unreadable ({said})", expected=kind, fix="copy the file again from its source"
        ) from error


def library(name: str, extra: str) -> Any:
    """The module `name`. Raises InputError, naming the extra to install, where it is not there."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(
            f"library {name}",
            value="not installed",
            expected="it, to read files of this kind",
            fix=f"pip install 'xmae_dist[{extra}]'",
        ) from error
