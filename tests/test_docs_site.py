"""The documentation site builds without a warning, has a page for each command, and fetches nothing from elsewhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from xmae_dist.cli.main import COMMANDS

pytest.importorskip("mkdocs", reason="needs xmae_dist[docs]")
pytest.importorskip("material", reason="needs xmae_dist[docs]")

PROJECT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site; `--strict` ends with an error where a link or an anchor leads nowhere, or a page is in no menu."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(
        build, cwd=PROJECT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_command_has_a_page_with_its_options(site: Path) -> None:
    for name in COMMANDS:
        page = (site / f"commands/{name}.html").read_text()
        assert f"$ xmae {name} --help" in page
        assert "usage: xmae" in page, name
    assert "--checkpoint.keep-recent" in (site / "commands/pretrain.html").read_text()


def test_documents_beside_docs_are_pages_and_linked_as_such(site: Path) -> None:
    assert 'href="project/storage/FORMAT.html"' in (site / "architecture.html").read_text()
    assert 'href="../ingest.html"' in (site / "project/index.html").read_text()


def test_nothing_is_fetched_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|preconnect)")[^>]*(?:src|href)="(https?:[^"]+)', page.read_text()
        )
        assert not fetched, f"{page.relative_to(site)}: {fetched}"
