"""One person is withdrawn from all that was made of their recordings, and every byte of it is searched afterwards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr

from tests.embed.jobs import by_bundle, embed
from tests.evaluate.test_evaluate import SUITE
from tests.ingest.wfdb_files import RATE_HZ, write_record
from tests.signals.synthetic import beat_times, ecg_at, ppg_at
from xmae_dist.cli.main import main
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.request import read_encoder
from xmae_dist.evaluate.results import ResultTable
from xmae_dist.model import bundle, presets
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.corpus import ALIGNMENTS_SCHEMA, Corpus
from xmae_dist.storage.name_search import Names, search
from xmae_dist.storage.table import Table
from xmae_dist.storage.zarr_store import ChannelReader
from xmae_dist.train.checkpoints import checkpoint

PERSON, RECORDING, LABEL = "planted-person", "planted-night", "planted-remark"
PEOPLE = 12


@dataclass(frozen=True)
class Places:
    """Where everything is, as plain paths."""

    corpus: str
    table: str
    evaluation: str
    run: str

    @property
    def stores(self) -> tuple[str, ...]:
        return self.corpus, self.table, self.evaluation


def ingested(folder: Path, corpus: str) -> None:
    """Twelve people in a recording each, by the command that a user would call; one of them is the planted one."""
    lines = ["record,who,sex,remark"]
    for number in range(PEOPLE):
        record, who, remark = f"night-{number:02d}", f"person-{number:02d}", "quiet"
        if number == 5:
            record, who, remark = RECORDING, PERSON, LABEL
        beat_s, t_T = beat_times(65, bpm=60 + 3 * number, seed=number), np.arange(0, 65, 1 / RATE_HZ)
        noise = np.random.default_rng(number).normal(0, 0.004, (2, t_T.size))
        signals = {"II": ecg_at(t_T, beat_s) + noise[0], "PLETH": ppg_at(t_T, beat_s) + noise[1]}
        write_record(folder / "raw", record, signals)
        lines.append(f"{record},{who},{'mf'[number % 2]},{remark}")
    (folder / "people.csv").write_text("\n".join(lines) + "\n")
    words = ["--cohort", "ward", "--labels", str(folder / "people.csv"), "--subject-column", "who"]
    assert main(["ingest", str(folder / "raw"), "--corpus", corpus, *words]) == 0
    pair = {"pair": "0" * 16, "subject_id": PERSON, "source_cohort": "ward", "target_cohort": "ring", "accepted": True}
    rows = [{**pair, "reason": "", "estimate": "{}"}]
    Corpus.open(corpus).alignments.append(pa.Table.from_pylist(rows, schema=ALIGNMENTS_SCHEMA))


@pytest.fixture
def places(tmp_path: Path, ray_local: None) -> Places:
    """A corpus, its window store, an evaluation, embeddings by two bundles, and a run with two checkpoints."""
    made = Places(*(str(tmp_path / name) for name in ("corpus", "table", "evaluation", "run")))
    ingested(tmp_path, made.corpus)
    assert main(["windows", "--corpus", made.corpus, "--out", f"{made.corpus}/windows"]) == 0
    (store,) = uri.list_urls(f"{made.corpus}/windows")
    for name in ("first", "second"):
        spec, url = WindowSpec().to_dict(), f"{tmp_path}/{name}"
        bundle.save(url, presets.build("tiny"), window_spec=spec, lineage={"name": name})
        encoder = replace(read_encoder(url), model_id=name)
        embed(made.corpus, made.table, "ward", encoder, by_bundle(encoder))
    (tmp_path / "suite.toml").write_text(SUITE)
    words = ["--windows", store, "--bundle", f"{tmp_path}/first", "--suite", str(tmp_path / "suite.toml")]
    assert main(["evaluate", *words, "--out", made.evaluation, "--replicates", "50"]) == 0
    train = {"seed": 2, "global_batch": 16, "steps": 9}
    mixture = {"weights": {}, "repeats": {}, "temperature": 1.0, "epoch_windows": None}
    run = {"store": store, "config": {"train": train, "mixture": mixture}}
    uri.write_bytes(f"{made.run}/run.json", json.dumps(run).encode())
    for step in (0, 9):
        checkpoint.commit(checkpoint.step_url(made.run, step), [], {})
    return made


def traces(places: Places, patterns: dict[str, bytes]) -> set[tuple[str, str]]:
    """(what, where) of names, and of patterns in bytes, in decoded columns, in arrays and in decompressed samples."""
    found = set()
    names = {sha256_hex(name.encode()): name for name in (PERSON, RECORDING, LABEL)}
    for store in places.stores:
        for one in search(store, Names(names.values())).sightings:
            found.add((names[one.name_sha256], uri.normalise(store) + "/" + one.path))
        for url, data in contents(store):
            found |= {(what, url) for what, pattern in patterns.items() if pattern in data}
    return found


def contents(store: str) -> Iterator[tuple[str, bytes]]:
    """The bytes of every object, and what they hold once they are decoded."""
    for one in uri.list_details(store):
        data = uri.read_bytes(one.url)
        yield one.url, data
        if data[:4] == b"PAR1":
            for column in parquet.decode(data).columns:
                for chunk in column.chunks:
                    yield one.url, b"".join(part.to_pybytes() for part in chunk.buffers() if part is not None)
        elif one.url.endswith(".npy"):
            yield one.url, np.load(io.BytesIO(data)).tobytes()
        elif one.url.endswith("/zarr.json"):
            path = one.url.removeprefix("file://").removesuffix("/zarr.json")
            yield one.url, np.asarray(zarr.open_array(path, mode="r")[:]).tobytes()


def planted_patterns(places: Places) -> dict[str, bytes]:
    """Bytes that only the planted person has: of samples, of windows, of embeddings."""
    corpus = Corpus.open(places.corpus)
    row = next(row for row in corpus.snapshot().rows() if row.subject_id == PERSON and row.channel == "ppg")
    raw = ChannelReader(uri.join(corpus.url, row.array_path)).read_raw(row.offset + 1000, row.offset + 1100)
    (store_url,) = uri.list_urls(f"{places.corpus}/windows")
    found = WindowStore.open(store_url).windows_of(PERSON)
    assert found is not None
    _, ppg_BL = WindowStore.open(store_url).read(found[1][:1])
    patterns = {"samples": raw, "windows": ppg_BL[0, 100:200].tobytes()}
    for name in ("first", "second"):
        filters = [("subject_id", "=", PERSON), ("model_id", "=", name)]
        embedding = Table(places.table).read(columns=["embedding"], filters=filters)["embedding"][0].as_py()
        patterns[f"embedding by {name}"] = np.float32(embedding[:16]).tobytes()
    return patterns


def scores(places: Places) -> dict[str, tuple[float, float]]:
    return {one.request: (one.headline.value, one.headline.low) for one in ResultTable(places.evaluation).read()}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_not_a_byte_is_left(places: Places, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    patterns = planted_patterns(places)
    before, scores_before = traces(places, patterns), scores(places)
    assert {what for what, _ in before} == {PERSON, RECORDING, LABEL, *patterns}
    for store in places.stores:
        assert any(url.startswith(uri.normalise(store)) for _, url in before)
    proof = str(tmp_path / "proof.json")
    beside = ["--table", places.table, "--evaluation", places.evaluation, "--proof", proof]
    withdraw = ["withdraw", places.corpus, "--subject", PERSON, "--run", places.run, *beside, "--json"]
    capsys.readouterr()
    assert main(withdraw) == 0 and traces(places, patterns) == before, "nothing is changed without --apply"
    capsys.readouterr()
    assert main([*withdraw, "--apply"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["embedding_tables"] == {uri.normalise(places.table): 2}
    assert told["evaluations"] == {uri.normalise(places.evaluation): 6}
    (model,) = told["models"]
    assert [one["step"] for one in model["checkpoints"]] == [9] and model["seen_windows"] > 0
    assert main([*withdraw, "--apply"]) == 0, "a command that was interrupted goes on"
    capsys.readouterr()

    assert scores(places).keys() == scores_before.keys(), "no row goes: each is scored anew"
    assert scores(places) != scores_before
    for result in ResultTable(places.evaluation).read():
        assert PERSON not in result.scored.predictions.subject_N and result.n_subjects == PEOPLE - 1

    assert main(["vacuum", places.corpus, *beside, "--apply"]) == 0, "the grace period is not over"
    assert "in the grace period, not searched for: 1;" in capsys.readouterr().out
    early = json.loads(Path(proof).read_text())
    assert early["erased"] is False and early["in_grace_period"] == [sha256_hex(PERSON.encode())]

    vacuum = ["vacuum", places.corpus, *beside, "--grace-hours", "0", "--apply"]
    assert main(vacuum) == 0
    assert "found in 0" in capsys.readouterr().out
    kept = (f"{uri.normalise(places.corpus)}/withdrawn/", f"{uri.normalise(places.corpus)}/ingest/")
    left = traces(places, patterns)
    assert {(what, url) for what, url in left if not url.startswith(kept)} == set()
    assert {what for what, _ in left} == {PERSON, RECORDING}, "the list of the withdrawn names whom to keep out"
    check_proof(Path(proof), uri.normalise(places.run))

    uri.write_bytes(f"{places.evaluation}/notes.txt", f"call {PERSON}".encode())
    assert main(vacuum) == 1
    assert f"{uri.normalise(places.evaluation)}/notes.txt" in capsys.readouterr().out
    assert json.loads(Path(proof).read_text())["erased"] is False


def check_proof(path: Path, run: str) -> None:
    text = path.read_text()
    assert PERSON not in text and RECORDING not in text
    proof = json.loads(text)
    digest = sha256_hex(PERSON.encode())
    assert proof["format"] == "xmae-withdrawal-proof/v1" and proof["erased"] is True
    assert proof["people"][digest]["recordings"] == 1 and proof["searched_for"]["people"] == [digest]
    (model,) = proof["models"]
    assert (model["person"], model["run"], [one["step"] for one in model["checkpoints"]]) == (digest, run, [9])
    assert [one["kind"] for one in proof["stores"]] == ["corpus", "tables", "evaluations"]
    assert all(one["objects"] > 0 and not one["found"] for one in proof["stores"])
