"""A hook of mkdocs: documents that lie beside `docs/` (README, storage/FORMAT.md, …) become pages of the site.

Their links, and those of `docs/` to them, are written for the repository. They are turned into links of the site: to a
page where the target is one, to nothing where it is a file of code, whose name stays as text.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

PROJECT = Path(__file__).resolve().parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "cluster/README.md",
    "storage/README.md",
    "storage/FORMAT.md",
    "storage/policies/README.md",
)
_BESIDE = "project/"  # where they are in the site
_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Adds the records of decisions to the navigation."""
    records = sorted((PROJECT / "docs/adr").glob("*.md"))
    config.nav = [*(config.nav or []), {"Decisions": [f"adr/{record.name}" for record in records]}]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the documents."""
    for name in PAGES:
        files.append(File.generated(config, _BESIDE + name, content=(PROJECT / name).read_text()))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The text of a page with its links as the site needs them."""
    return relinked(markdown, page.file.src_uri, {file.src_uri for file in files})


def relinked(markdown: str, page: str, known: set[str]) -> str:
    """`markdown` of the site's `page`, with links to the site's `known` files; to others their text alone."""

    def link(found: re.Match[str]) -> str:
        picture, text, target, anchor = found.groups(default="")
        there = _in_site(posixpath.normpath(posixpath.join(posixpath.dirname(_in_project(page)), target)))
        if there not in known:
            # A file of the project that is no page. One that is nowhere stays a link, which mkdocs complains of.
            return text if (PROJECT / _in_project(there)).exists() else found[0]
        return f"{picture}[{text}]({posixpath.relpath(there, posixpath.dirname(page) or '.')}{anchor})"

    return _LINK.sub(link, markdown)


def _in_project(page: str) -> str:
    """Path in the repository of a page of the site."""
    return page.removeprefix(_BESIDE) if page.startswith(_BESIDE) else f"docs/{page}"


def _in_site(path: str) -> str:
    """Path in the site of a file of the repository."""
    return path.removeprefix("docs/") if path.startswith("docs/") else _BESIDE + path
