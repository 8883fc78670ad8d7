"""WFDB headers as archives have them: what strays from the format is put right in a copy, and said.

The `wfdb` package reads a header by its path, and stops at dates of other forms, at paths in names and at names
with a suffix; some of these it misreads in silence. Such headers are copied, corrected, into a temporary folder
that links to the signal files. Format: https://wfdb.io/spec/header-files.html
"""

from __future__ import annotations

import contextlib
import datetime
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from xmae_dist.core.errors import InputError
from xmae_dist.storage import uri

_PLAIN_TIME = r"\d{1,2}:\d{1,2}:\d{1,2}(\.\d+)?"
_PLAIN_DATE = r"\d{1,2}/\d{1,2}/\d{4}"
_FORMS = (
    "%H:%M:%S %d/%m/%Y",
    "%H:%M:%S.%f %d/%m/%Y",
    "%d/%m/%Y %H:%M:%S",
    "%d-%b-%Y %H:%M:%S",
    "%H:%M:%S %d-%b-%Y",
    "%d %b %Y %H:%M:%S",
    "%d.%m.%Y %H:%M:%S",
    "%H:%M:%S %d.%m.%Y",
)
_TWO_DIGITS = ("%H:%M:%S %d/%m/%y", "%H:%M:%S.%f %d/%m/%y")
# Names of a record's own files; what stands before the last part is the place they had when they were made.
_SUFFIXES = (".hea", ".mat", ".dat")


@dataclass
class Header:
    """Where a header can be read that `wfdb` understands, when it began, and what was put right."""

    path: Path
    start: datetime.datetime | None = None
    notes: list[str] = field(default_factory=list)
    links: dict[str, Path] = field(default_factory=dict)  # name -> a signal file in a folder below the header's
    folder: tempfile.TemporaryDirectory[str] | None = None


def readable(header: Path) -> Header:
    """`header` itself where it follows the format, else a corrected copy. Raises InputError where there is none."""
    if not header.is_file():
        raise InputError(
            f"header {header.name}", value="no such file", fix="restore it beside its signal files, or remove those"
        )
    lines = header.read_text(encoding="utf-8", errors="replace").removeprefix("\ufeff").splitlines()
    found = Header(header)
    content = [at for at, line in enumerate(lines) if line.strip() and not line.lstrip().startswith("#")]
    if not content:
        return found
    changed = list(lines)
    changed[content[0]] = _record_line(lines[content[0]], found)
    for at in content[1:]:
        changed[at] = _without_place(lines[at], found, header.parent)
    if changed != lines:
        _copy(found, header, changed)
    return found


def _record_line(line: str, found: Header) -> str:
    words = line.split()
    name, slash, segments = words[0].partition("/")
    if slash and not segments.isdigit():
        name, segments = words[0].rsplit("/", 1)[-1], ""
    bare = name.removesuffix(next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), ""))
    if bare + ("/" + segments if segments else "") != words[0]:
        found.notes.append(f"the header calls its record {words[0]!r}")
    # A record's own name plays no part: what is not a name to the library stands for one.
    words[0] = re.sub(r"[^-\w]", "_", bare) + ("/" + segments if segments else "")
    when = " ".join(words[4:])
    if re.fullmatch(rf"({_PLAIN_TIME}( {_PLAIN_DATE})?)?", when):
        return line if words == line.split() else " ".join(words)
    found.start = _start(when, found)
    return " ".join(words[:4])


def _start(when: str, found: Header) -> datetime.datetime | None:
    start = _in_form(when, _FORMS)
    if start is None and re.search(r"\d{4}-\d\d-\d\d.\d", when):
        with contextlib.suppress(ValueError):
            start = datetime.datetime.fromisoformat(when)
    start = start or _in_form(when, _TWO_DIGITS)
    if start is None:
        found.notes.append(f"the header says {when!r} for its start, which is no date and time: the start is unknown")
        return None
    found.notes.append(f"the header says {when!r} for its start, read as {start.isoformat()}")
    return start.astimezone(datetime.UTC).replace(tzinfo=None) if start.tzinfo else start


def _in_form(when: str, forms: tuple[str, ...]) -> datetime.datetime | None:
    for form in forms:
        with contextlib.suppress(ValueError):
            return datetime.datetime.strptime(when, form)
    return None


def _without_place(line: str, found: Header, folder: Path) -> str:
    """A line of a signal or segment with the file's name alone, where the file lies beside its header."""
    name = line.split()[0]
    bare = name.rsplit("/", 1)[-1]
    if bare == name or (folder / f"{name}.hea").exists():
        return line
    if (folder / name).exists():
        # The library takes no folder in a name; what leads out of ours is no file of this record.
        found.links[bare] = uri.path_below(folder, name)
        return line.replace(name, bare, 1)
    note = f"the header names files in {name.rsplit('/', 1)[0]!r}; those beside it are read"
    if note not in found.notes:
        found.notes.append(note)
    return line.replace(name, bare, 1)


def _copy(found: Header, header: Path, lines: list[str]) -> None:
    found.folder = tempfile.TemporaryDirectory(prefix="xmae-header-")
    copied = Path(found.folder.name)
    for file in header.parent.iterdir():
        if file.name != header.name and file.name not in found.links:
            (copied / file.name).symlink_to(file.resolve())
    for name, place in found.links.items():
        (copied / name).symlink_to(place.resolve())
    found.path = copied / header.name
    found.path.write_text("\n".join(lines) + "\n", encoding="utf-8")
