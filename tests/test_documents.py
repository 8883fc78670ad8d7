"""What the documents tell people to type exists: commands, their options, make targets, linked files."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import itertools
import re
import shlex
from pathlib import Path

import pytest
from markdown.extensions.toc import slugify, unique

from xmae_dist.cli.main import COMMANDS, main
from xmae_dist.cli.options import parsed
from xmae_dist.ingest.formats.mapping import parse_mapping

PROJECT = Path(__file__).resolve().parents[1]
DOCUMENTS = sorted(
    path
    for path in [*PROJECT.glob("*.md"), *PROJECT.glob("docs/**/*.md"), *PROJECT.glob("*/README.md")]
    if ".venv" not in path.parts
)
RECIPE = "debug_cpu2"
# What a shell would run: to the end of the command, not into a comment, a pipe or the closing backtick.
_CALL = re.compile(r"(?:\bxmae (?:submit )?|\bjobs/)(?P<name>[a-z][a-z-]*)(?:\.py)?(?P<rest>[^\n#|`]*)")
_FOREIGN_OPTIONS = frozenset({"runtime-env-json", "strict"})
"""Of other programs that the text names by an option alone."""
_OPTION = re.compile(r"(?<![\w.-])--([a-z][\w.-]*)")


def _text(document: Path) -> str:
    return re.sub(r"\\\n\s*", " ", document.read_text())


@functools.cache
def _help(name: str) -> str:
    said = io.StringIO()
    argv = [name, RECIPE, "--help"] if name == "pretrain" else [name, "--help"]
    with contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main(argv)
    return said.getvalue()


def _anchored(document: Path) -> list[tuple[Path, str]]:
    """(document, anchor) of the links of a document to a heading."""
    found = re.findall(r"\]\((?!https?:)([^)#\s]*)#([^)\s]+)\)", _text(document))
    return [(document.parent / link if link else document, anchor) for link, anchor in found]


def _anchors(document: Path) -> set[str]:
    """Anchors of the headings of a document, as Markdown makes them."""
    outside_code = re.sub(r"^```.*?^```", "", _text(document), flags=re.MULTILINE | re.DOTALL)
    taken: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", outside_code, flags=re.MULTILINE):
        unique(slugify(re.sub(r"[`*]", "", heading), "-"), taken)
    return taken


def _fenced(document: Path, language: str = "") -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", _text(document), flags=re.MULTILINE | re.DOTALL)


def _commands(document: Path) -> list[list[str]]:
    """Whole command lines in the code of a document, without `xmae`; those with an ellipsis are not whole."""
    lines = [line for block in _fenced(document) for line in block.splitlines()]
    found = (re.match(r"\s*(?:[\d*]+ [\d* ]+)?xmae (.*)$", line) for line in lines)
    calls = [shlex.split(match[1], comments=True) for match in found if match]
    ended = [call[: next((n for n, word in enumerate(call) if word[:1] in "|>&"), len(call))] for call in calls]
    return [call for call in ended if not any("…" in word for word in call)]


def _parse(name: str, options: list[str]) -> None:
    command = importlib.import_module(f"xmae_dist.cli.{name.replace('-', '_')}")
    parse = getattr(command, "parse", None)
    parse(options) if parse else parsed(command.Args, options, prog=f"xmae {name}")


def test_there_are_documents() -> None:
    assert {"README.md", "CONTRIBUTING.md"} <= {path.name for path in DOCUMENTS}
    assert sum(len(_CALL.findall(_text(path))) for path in DOCUMENTS) > 10


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_commands_and_options_exist(document: Path) -> None:
    for call in _CALL.finditer(_text(document)):
        name, options = call["name"], _OPTION.findall(call["rest"])
        is_call = call[0].startswith("jobs/") or name in COMMANDS or options
        if not is_call:
            continue  # prose: "xmae beats the random encoder"
        assert name in COMMANDS, f"{call[0]!r}: no such command"
        unknown = [option for option in options if not re.search(rf"--{re.escape(option)}(?![\w-])", _help(name))]
        assert not unknown, f"{call[0].strip()!r}: `xmae {name} --help` does not know --{', --'.join(unknown)}"


# Written by programs, from results.
_STUDIES = {"model-study.md", "model-study-further.md", "real-study.md", "reconstruction-study.md"}
_PAGES = [path for path in sorted(PROJECT.glob("docs/*.md")) if path.name not in _STUDIES]


@pytest.mark.parametrize("page", _PAGES, ids=lambda path: path.name)
def test_a_page_is_headed_by_the_question_that_it_answers(page: Path) -> None:
    heading, *_ = page.read_text().splitlines()
    assert re.fullmatch(r"# .+\?", heading)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_command_lines_are_taken(document: Path) -> None:
    """By the parsers that take them: options, their values, and those that are required."""
    for name, *options in _commands(document):
        _parse(name, options)
        if name == "submit":
            _parse(options[0], options[1:])


@functools.cache
def _known_options() -> frozenset[str]:
    """Of every command and program of this project."""
    programs = [*PROJECT.glob("bench/**/*.py"), *PROJECT.glob("cluster/*.py"), *PROJECT.glob("xmae_dist/testing/*.py")]
    own = [re.findall(r"\"--([a-z][\w-]*)\"", program.read_text()) for program in programs]
    return frozenset(itertools.chain(*own, *(_OPTION.findall(_help(name)) for name in COMMANDS)))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_options_that_text_names_exist(document: Path) -> None:
    if document.name == "CHANGELOG.md":
        pytest.skip("names options that are gone")
    named = set(re.findall(r"`--([a-z][\w.-]*+)(?!\*)", _text(document)))  # not `--engine.offload-*`: several
    unknown = named - _known_options() - _FOREIGN_OPTIONS
    assert not unknown, sorted(unknown)


def test_there_are_command_lines() -> None:
    assert sum(len(_commands(document)) for document in DOCUMENTS) > 40


def test_examples_of_mappings_are_mappings() -> None:
    blocks = [_fenced(PROJECT / "docs" / page, "(?:toml)?") for page in ("formats.md", "mapping.md")]
    examples = [block for blocks_of_page in blocks for block in blocks_of_page if "[[channels]]" in block]
    assert len(examples) == 2
    for example in examples:
        parse_mapping(example, "example.toml")


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_make_targets_exist(document: Path) -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (PROJECT / "Makefile").read_text(), flags=re.MULTILINE))
    said = re.findall(r"(?:^|`)make ([a-z0-9-]+)", _text(document), flags=re.MULTILINE)
    assert set(said) <= targets


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(PROJECT)))
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", _text(document))
    missing = [link for link in links if not (document.parent / link).exists()]
    assert not missing, f"links to nothing: {missing}"
    nowhere = [f"{link}#{anchor}" for link, anchor in _anchored(document) if anchor not in _anchors(link)]
    assert not nowhere, f"links to no heading: {nowhere}"
    named = re.findall(r"`((?:docs|bench|tests|storage|cluster|jobs)/[\w/.-]+\.\w+)(?:::\w+)?`", _text(document))
    missing = [path for path in named if not (PROJECT / path).exists()]
    assert not missing, f"names files that are not there: {missing}"
