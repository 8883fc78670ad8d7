"""A command's options, from a dataclass: its docstrings become help that is filled to the width of the terminal.

tyro takes the indentation of a docstring's second line for the beginning of a paragraph, so its help would break where
our source does; usage and description it prints on one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import inspect
import io
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from xmae_dist.cli.folded import folded, paragraphs

Options = TypeVar("Options")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def parsed(
    options: type[Options],
    argv: Sequence[str],
    *,
    prog: str,
    description: str | None = None,
    default: Options | None = None,
    sections: bool = False,
) -> Options:
    """An instance of the dataclass `options` from a command line.

    `description` takes the place of the dataclass's docstring in the help. With `sections`, options of nested
    dataclasses are called `--section.option`, otherwise `--option`. Ends with status 2 on an unknown option, and 0
    after `--help`.
    """
    told = inspect.cleandoc(options.__doc__ or "") if description is None else description
    given: dict[str, Any] = {} if default is None else {"default": default}
    with _with_description(told) if {"-h", "--help"} & set(argv) else contextlib.nullcontext():
        return tyro.cli(
            options,
            prog=prog,
            args=list(argv),
            description="",
            config=(tyro.conf.PositionalMetavarFromFieldName, *(() if sections else (tyro.conf.OmitArgPrefixes,))),
            registry=_registry(),
            **given,
        )


class _Printed(io.TextIOWrapper):
    """What is printed, with the characters and colours of standard output."""

    def __init__(self) -> None:
        self._bytes = io.BytesIO()
        self._is_terminal = sys.stdout.isatty()
        super().__init__(self._bytes, encoding=sys.stdout.encoding or "utf-8", errors="replace", newline="\n")

    def isatty(self) -> bool:
        return self._is_terminal

    def text(self) -> str:
        self.flush()
        return self._bytes.getvalue().decode(self.encoding)


@contextlib.contextmanager
def _with_description(description: str) -> Iterator[None]:
    """Help that is printed in the context gets `description` between the usage and the options."""
    printed = _Printed()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        usage, _, options = printed.text().partition("\n\n")
        for paragraph in (_STYLE.sub("", usage), *paragraphs(description)):
            print(folded(paragraph), end="\n\n")
        print(options, end="")


def _registry() -> ConstructorRegistry:
    """tyro's own rules, but for the text of dataclasses."""
    registry = ConstructorRegistry()
    asking = False

    @registry.struct_rule
    def dataclass_rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        nonlocal asking
        if asking or not dataclasses.is_dataclass(info.type):
            return None  # then the next rule is asked
        asking = True
        try:
            spec = ConstructorRegistry.get_struct_spec(info)
        finally:
            asking = False
        if not isinstance(spec, StructConstructorSpec):
            return None
        return dataclasses.replace(spec, fields=tuple(map(_flowing, spec.fields)))

    return registry


def _flowing(field: StructFieldSpec) -> StructFieldSpec:
    """The field with help that has a line a paragraph; that of a nested dataclass is its docstring."""

    def text() -> str | None:
        told = field.helptext() if callable(field.helptext) else field.helptext
        if told is None and dataclasses.is_dataclass(field.type):
            told = inspect.cleandoc(field.type.__doc__ or "")
        return None if told is None else "\n\n".join(paragraphs(told))

    return dataclasses.replace(field, helptext=text)
