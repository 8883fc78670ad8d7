"""No cluster file holds a credential."""

from __future__ import annotations

import re
from pathlib import Path

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
CREDENTIAL = re.compile(r"AKIA[0-9A-Z]{12}|SECRET_ACCESS_KEY=\S|BEGIN [A-Z ]*PRIVATE KEY|\b[0-9a-f]{64}\b|ya29\.")


def test_no_cluster_file_holds_a_credential() -> None:
    files = [file for file in CLUSTER.rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert len(files) > 20
    found = {str(file): CREDENTIAL.findall(file.read_text()) for file in files}
    assert not {file: words for file, words in found.items() if words}
    assert CREDENTIAL.search("token: " + "0a" * 32) and CREDENTIAL.search("AKIA" + "A" * 16)
