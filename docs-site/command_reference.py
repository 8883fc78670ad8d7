"""A hook of mkdocs: a page for each command of `xmae`, made of what its `--help` prints.

There is no copy of the options to keep: the parser that reads them describes them.
"""

from __future__ import annotations

import contextlib
import io
import os
from unittest import mock

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from xmae_dist.cli.main import COMMANDS, main
from xmae_dist.recipes import RECIPES

_COLUMNS = "96"  # what fits beside the navigation
_OVERVIEW = "commands/index.md"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the pages to the navigation."""
    pages = [{"All commands": _OVERVIEW}, *({f"xmae {name}": _page_of(name)} for name in COMMANDS)]
    config.nav = [*(config.nav or []), {"Commands": pages}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages."""
    files.append(File.generated(config, _OVERVIEW, content=overview()))
    for name, what in COMMANDS.items():
        files.append(File.generated(config, _page_of(name), content=page(name, what)))
    return files


def overview() -> str:
    """Which command does what."""
    rows = "\n".join(f"| [`xmae {name}`]({name}.md) | {what} |" for name, what in COMMANDS.items())
    return f"# Which command does what?\n\n| command | |\n|---|---|\n{rows}\n\n```text\n{said(['--help'])}\n```\n"


def page(name: str, what: str) -> str:
    """The help of a command; of `pretrain`, which has a set of values for each recipe, that of its first as well."""
    shown = [[name, "--help"]]
    if name == "pretrain":
        shown.append([name, next(iter(RECIPES)), "--help"])
    blocks = "\n\n".join(f"```text\n$ xmae {' '.join(argv)}\n{said(argv)}\n```" for argv in shown)
    return f"# xmae {name}\n\n{what[0].upper()}{what[1:]}.\n\n{blocks}\n"


def said(argv: list[str]) -> str:
    """What `xmae ARGV` prints, in 96 columns and without colours."""
    printed = io.StringIO()
    plain = {"COLUMNS": _COLUMNS, "NO_COLOR": "1", "TERM": "dumb"}
    with mock.patch.dict(os.environ, plain), contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        main(argv)
    return printed.getvalue().rstrip()


def _page_of(name: str) -> str:
    return f"commands/{name}.md"
