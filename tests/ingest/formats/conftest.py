"""Formats of which the optional extra is not installed, as under `make test-lowest`, are left out, and that is said."""

from __future__ import annotations

from importlib.util import find_spec

_NEEDS = {"test_edf.py": ("edfio", "pyedflib"), "test_devices.py": ("fastavro", "bioread", "pydicom", "pyxdf")}
_MISSING = {file: [name for name in names if find_spec(name) is None] for file, names in _NEEDS.items()}

collect_ignore = [file for file, missing in _MISSING.items() if missing]


def pytest_terminal_summary(terminalreporter: object) -> None:
    for file in collect_ignore:
        terminalreporter.write_line(f"left out: {file}, without {', '.join(_MISSING[file])}")  # type: ignore[attr-defined]
