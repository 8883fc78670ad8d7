"""What does not fit is refused before anything is encoded or removed, with the reason and what to do."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.data.corpora import corpus_of
from tests.embed.jobs import ENCODER, embed, told
from tests.embed.test_embed_killed import record
from xmae_dist.cli.main import main
from xmae_dist.core.errors import ConfigError, IntegrityError
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.encode import LoadedEncoder
from xmae_dist.embed.request import read_encoder
from xmae_dist.model import bundle, presets
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A corpus with a ring, which has both signals, and a bundle."""
    corpus_of(f"file://{tmp_path}/corpus", subjects=2, recordings=1, cohort="ring")
    bundle.save(f"file://{tmp_path}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    return f"file://{tmp_path}"


def refused(place: str, capsys: pytest.CaptureFixture[str], *words: str, **options: str) -> str:
    """What `xmae embed` says; with exit status 1 or 2, and no table and no staged work."""
    named = {"corpus": f"{place}/corpus", "table": f"{place}/table", "cohort": "ring", **options}
    status = main(["embed", *(word for name, value in named.items() for word in (f"--{name}", value)), *words])
    assert status in (1, 2)
    assert not uri.exists(f"{place}/table")
    return capsys.readouterr().err


@pytest.mark.parametrize("object_name", ["weights.safetensors", "config.json"])
@pytest.mark.parametrize("how", ["missing", "cut off"])
def test_a_half_written_bundle(place: str, object_name: str, how: str, capsys: pytest.CaptureFixture[str]) -> None:
    url = f"{place}/bundle/{object_name}"
    data = uri.read_bytes(url)
    uri.delete(url)
    if how == "cut off":
        uri.write_bytes(url, data[: len(data) // 2])
    if (object_name, how) == ("weights.safetensors", "cut off"):  # whoever loads them sees it
        with pytest.raises(IntegrityError, match=r"weights of bundle .*; fix: export the model again"):
            LoadedEncoder.open(read_encoder(f"{place}/bundle"))
        return
    said = refused(place, capsys, bundle=f"{place}/bundle")
    assert f"{place}/bundle" in said and "fix: " in said and "Traceback" not in said
    if how == "cut off":
        assert "no JSON" in said and "export the model again" in said


def test_windows_of_another_length_than_the_model_takes(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    longer = WindowSpec(window_s=20.0).to_dict()
    bundle.save(f"{place}/longer", presets.build("tiny"), window_spec=longer, lineage={})
    said = refused(place, capsys, bundle=f"{place}/longer")
    assert "windows of 2000 samples, a model that takes 1000" in said and "fix: export it again" in said


def test_a_model_that_embeds_another_signal(place: str) -> None:
    encoder = read_encoder(f"{place}/bundle")
    other = replace(encoder, spec=replace(encoder.spec, source="ecg", target="ppg", require=("ecg",)))
    with pytest.raises(ConfigError, match="embeds 'ppg'; expected 'ecg'; fix: export a model"):
        LoadedEncoder.open(other)


def test_a_cohort_without_the_signal_and_an_unknown_one(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = Corpus.open(f"{place}/corpus")
    with corpus.begin_part("chest", "part") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=250.0, unit="mV")
        row = ecg.add(np.zeros(500, np.float32), subject_id="x", recording_id="x", clock_id="x")
    corpus.commit_part([row], "chest")
    said = refused(place, capsys, bundle=f"{place}/bundle", cohort="chest")
    assert "no recording with a 'ppg' channel" in said and "fix: embed another cohort" in said
    assert "nowhere" in refused(place, capsys, bundle=f"{place}/bundle", cohort="nowhere")


def test_an_unknown_alias(place: str, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(place, capsys, model="champion")
    assert "'champion'" in said and "no such alias" in said and "xmae promote BUNDLE --as champion" in said


def test_a_table_of_another_schema_is_neither_written_nor_swept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The index of the corpus itself: a sweep would take files that its pinned versions need."""
    corpus = Corpus.create(f"file://{tmp_path}/corpus")
    record(corpus, "a", {"s0": 1})
    before = {one.url: one.bytes for one in uri.list_details(corpus.url)}
    other = f"{corpus.url}/index"
    bundle.save(f"file://{tmp_path}/bundle", presets.build("tiny"), window_spec=WindowSpec().to_dict(), lineage={})
    common = ["--corpus", corpus.url, "--bundle", f"file://{tmp_path}/bundle", "--table", other]
    commands = [
        ["embed", *common, "--cohort", "watch"],
        ["reembed", *common],
        ["vacuum", corpus.url, "--table", other, "--grace-hours", "0", "--apply"],
    ]
    for words in commands:
        assert main(words) == 2
        said = capsys.readouterr().err
        assert "column 'start_s': no such column" in said and "fix: name the table that `xmae embed` made" in said
    after = {one.url: one.bytes for one in uri.list_details(corpus.url) if "/withdrawn/" not in one.url}
    assert after == {url: size for url, size in before.items() if "/withdrawn/" not in url}


def test_a_table_with_columns_of_others_is_let_be(tmp_path: Path) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record(corpus, "a", {"s0": 1})
    embed(corpus.url, table, "watch")
    (entry,) = (url for url in uri.list_urls(f"{table}/_delta_log") if url.endswith("0" * 20 + ".json"))
    lines = [json.loads(line) for line in uri.read_bytes(entry).splitlines()]
    for line in lines:
        if "metaData" in line:
            schema = json.loads(line["metaData"]["schemaString"])
            schema["fields"].append({"name": "note", "type": "string", "nullable": True, "metadata": {}})
            line["metaData"]["schemaString"] = json.dumps(schema)
    uri.write_bytes(entry, "\n".join(map(json.dumps, lines)).encode())
    assert "note" in Table(table).read().column_names
    record(corpus, "b", {"s1": 1})
    assert embed(corpus.url, table, "watch") is not None
    assert {key[1] for key in told(table)} == {"s0", "s1"}
    assert ENCODER.model_id == "model"
