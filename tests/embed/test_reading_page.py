"""The examples of docs/reading-embeddings.md run on an embedding table, and find its newest rows only."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.embed.jobs import embed, told
from tests.embed.test_embed_killed import record
from xmae_dist.storage.corpus import Corpus

PAGE = Path(__file__).resolve().parents[2] / "docs/reading-embeddings.md"


def run(heading: str, table: Path) -> dict[str, Any]:
    """The names that the example of the section leaves behind."""
    _, _, section = PAGE.read_text().partition(f"\n## {heading}\n")
    (code, *_) = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    names: dict[str, Any] = {"table": str(table), "model_id": "model"}
    exec(code, names)
    return names


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of two people; a third one was embedded and then left."""
    folder = tmp_path_factory.mktemp("embedded")
    corpus = Corpus.create(f"file://{folder}/corpus")
    record(corpus, "a", {"s0": 1, "s1": 1, "s2": 1})
    embed(corpus.url, f"file://{folder}/table", "watch")
    corpus.withdraw(["s0"])
    embed(corpus.url, f"file://{folder}/table", "watch")
    return folder / "table"


def test_duckdb(table: Path) -> None:
    pytest.importorskip("duckdb")
    found = run("DuckDB, through Arrow", table)["found"]
    rows = told(f"file://{table}")
    assert found["subject_id"].tolist() == ["s1", "s2"]
    assert found["windows"].sum() == len(rows)


def test_pandas(table: Path) -> None:
    pytest.importorskip("pandas")
    names = run("pandas and NumPy", table)
    rows = told(f"file://{table}")
    first = [rows["watch", row.recording_id, row.start_s] for row in names["windows"].itertuples()]
    np.testing.assert_array_equal(names["embedding_BE"][:, 0], first)


def test_one_vector_a_person(table: Path) -> None:
    pytest.importorskip("duckdb")
    names = run("One vector a person", table)
    assert names["people"]["subject_id"].tolist() == ["s1", "s2"]
    windows = run("pandas and NumPy", table)
    subject_B, embedding_BE = windows["windows"]["subject_id"].to_numpy(), windows["embedding_BE"]
    expected_PE = [embedding_BE[subject_B == one].mean(axis=0) for one in ("s1", "s2")]
    np.testing.assert_allclose(names["embedding_PE"], expected_PE, rtol=1e-5)
