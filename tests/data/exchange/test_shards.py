"""WebDataset shards out and in: others can read them, and they come back as the same windows in the same order."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.corpora import corpus_of
from tests.data.store.test_window_store import plain_store
from xmae_dist.cli.main import main
from xmae_dist.core.errors import ConfigError, InputError, IntegrityError, StorageError
from xmae_dist.core.fingerprint import digest_json
from xmae_dist.data.exchange.importing import ForeignConfig, import_shards
from xmae_dist.data.exchange.shards import export_shards
from xmae_dist.data.order.plan import OrderConfig, plan_for
from xmae_dist.data.store import planning
from xmae_dist.data.store.window_store import WindowStore, is_complete
from xmae_dist.data.stream import direct
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.run import find_store
from xmae_dist.storage import uri
from xmae_dist.testing.window_store import write_window_store

SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> WindowStore:
    """Real windows of two cohorts in three splits and several parts."""
    folder = tmp_path_factory.mktemp("windows")
    corpus_of(f"{folder}/c", subjects=6, cohort="band")
    corpus = corpus_of(f"{folder}/c", subjects=4, cohort="watch")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "_MIN_PART_WINDOWS", 30)
        return plain_store(corpus, f"{folder}/w")


def test_shards_come_back_as_the_same_store_and_the_same_batches(store: WindowStore, store_url: str) -> None:
    index = export_shards(store, f"{store_url}/shards", shard_windows=20)
    assert index["n_windows"] == store.n_windows == sum(row["n_windows"] for row in index["shards"])
    back = import_shards(f"{store_url}/shards", f"{store_url}/windows")
    assert back.spec == store.spec and back.dropped() == store.dropped()
    assert import_shards(f"{store_url}/shards", f"{store_url}/windows").url == back.url
    for split in SPLITS:
        assert back.segments(split) == store.segments(split)
        assert back.meta(split).to_pydict().keys() == store.meta(split).to_pydict().keys()
        assert str(back.meta(split).to_pylist()) == str(store.meta(split).to_pylist())
    order = OrderConfig(seed=3, global_batch=12)
    plan, again = plan_for(store, order), plan_for(back, order)
    assert plan.fingerprint() == again.fingerprint()
    steps = 3 * plan.steps_per_epoch  # past the first epoch
    for ours, theirs in zip(
        direct.step_batches(back, again, stop_step=steps),
        direct.step_batches(store, plan, stop_step=steps),
        strict=True,
    ):
        assert ours.ids_B.tobytes() == theirs.ids_B.tobytes()
        assert ours.ppg_BL.tobytes() == theirs.ppg_BL.tobytes()
        assert ours.ecg_BL is not None and theirs.ecg_BL is not None
        assert ours.ecg_BL.tobytes() == theirs.ecg_BL.tobytes()


def test_the_webdataset_package_reads_every_sample(store: WindowStore, tmp_path: Path) -> None:
    import webdataset

    index = export_shards(store, str(tmp_path), shard_windows=20)
    files = [f"{tmp_path}/{row['path']}" for row in index["shards"]]
    dataset = webdataset.WebDataset(files, shardshuffle=False, empty_check=False).decode()
    seen = list(dataset)
    assert [int(sample["__key__"]) for sample in seen] == list(range(store.n_windows))
    ecg_BL, ppg_BL = store.read(np.arange(store.n_windows))
    assert np.array_equal(np.stack([sample["ppg.npy"] for sample in seen]), ppg_BL)
    assert np.array_equal(np.stack([sample["ecg.npy"] for sample in seen]), ecg_BL)
    assert seen[0]["json"]["subject_id"] == store.meta(np.array([0])).to_pylist()[0]["subject_id"]


def test_bytes_are_the_same_each_time_and_an_export_that_died_goes_on(store: WindowStore, tmp_path: Path) -> None:
    first = export_shards(store, f"{tmp_path}/a", shard_windows=20)
    tars = sorted((tmp_path / "a").rglob("*.tar"))
    digests = [uri.read_bytes(str(tar)) for tar in tars]
    kept_s = tars[0].stat().st_mtime_ns
    (tmp_path / "a/index.json").unlink()
    tars[-1].with_name(tars[-1].name + ".json").unlink()
    tars[-1].write_bytes(b"half a shar")
    assert export_shards(store, f"{tmp_path}/a", shard_windows=20) == first
    assert [uri.read_bytes(str(tar)) for tar in tars] == digests
    assert tars[0].stat().st_mtime_ns == kept_s
    assert export_shards(store, f"{tmp_path}/b", shard_windows=20) == first
    with pytest.raises(StorageError, match="another export"):
        export_shards(store, f"{tmp_path}/a", shard_windows=10)
    with pytest.raises(ConfigError, match="shard_windows"):
        export_shards(store, f"{tmp_path}/c", shard_windows=0)


def test_one_split_alone_is_a_store_of_its_own(store: WindowStore, tmp_path: Path) -> None:
    export_shards(store, f"{tmp_path}/s", splits=("val",))
    back = import_shards(f"{tmp_path}/s", f"{tmp_path}/w")
    assert back.fingerprint != store.fingerprint
    assert back.counts() == {key: n for key, n in store.counts().items() if key[1] == "val"}
    theirs = np.concatenate([np.arange(s.first_id, s.first_id + s.n) for s in store.segments("val")])
    assert np.array_equal(back.read(np.arange(back.n_windows))[1], store.read(theirs)[1])


def test_a_changed_shard_is_named(store: WindowStore, tmp_path: Path) -> None:
    index = export_shards(store, f"{tmp_path}/s")
    tar = tmp_path / "s" / index["shards"][1]["path"]
    data = bytearray(tar.read_bytes())
    data[2000] ^= 1
    tar.write_bytes(data)
    with pytest.raises(IntegrityError, match=index["shards"][1]["path"]):
        import_shards(f"{tmp_path}/s", f"{tmp_path}/w")


def resealed(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """What a stranger can do: changes `index.json`, and makes its fingerprint fit."""
    path = folder / "index.json"
    index = json.loads(path.read_text())
    change(index)
    content = {k: v for k, v in index.items() if k not in ("fingerprint", "shards", "n_windows", "parts")}
    path.write_text(json.dumps({**index, "fingerprint": digest_json(content)}))


def everything_in(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def _in_all_rows(name: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda index: [row.update({name: value}) for row in (*index["parts"], *index["shards"])]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_in_all_rows("cohort", "../../../escaped"), "cohort name: got '../../../escaped'"),
        (_in_all_rows("cohort", "a/b"), "cohort name"),
        (_in_all_rows("part", ".."), "part name"),
        (_in_all_rows("split", "../../escaped"), "split: .*one of train, val, test"),
        (lambda index: index["shards"][0].update(path="../outside.tar"), r"path: '\.\./outside\.tar'"),
        (lambda index: index["shards"][0].update(path="/etc/hosts"), "path: '/etc/hosts'"),
        (lambda index: index["shards"][0].update(sha256="0"), "sha256"),
        (lambda index: index["store"].update(chunk_windows=0), "chunk_windows"),
        (lambda index: index["store"]["spec"].update(rate_hz="fast"), "store.spec"),
        (lambda index: index["store"].update(format="other"), "store.format"),
        (lambda index: index.update(splits=["training"]), "splits"),
        (lambda index: index.update(n_windows=10**9), "n_windows"),
        (lambda index: index["parts"][0].update(n_windows=-1), "n_windows"),
        (lambda index: index["parts"][0].update(dropped=[1]), "dropped"),
        (lambda index: index.update(parts="all"), "parts"),
    ],
)
def test_an_index_of_a_stranger_writes_nothing_it_should_not(
    store: WindowStore, tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    export_shards(store, f"{tmp_path}/in/shards")
    resealed(tmp_path / "in/shards", change)
    before = everything_in(tmp_path)
    with pytest.raises(InputError, match=said):
        import_shards(f"{tmp_path}/in/shards", f"{tmp_path}/out/windows")
    assert everything_in(tmp_path) == before


def test_a_fingerprint_with_a_path_in_it_leads_nowhere(store: WindowStore, tmp_path: Path) -> None:
    export_shards(store, f"{tmp_path}/in/shards")
    resealed(tmp_path / "in/shards", lambda index: index["store"].update(fingerprint="../../escaped/here"))
    back = import_shards(f"{tmp_path}/in/shards", f"{tmp_path}/out/windows")
    assert uri.local_path(back.url).parent == tmp_path / "out/windows"
    assert all(name.startswith(("in/", "out/windows/")) for name in everything_in(tmp_path))


def test_an_index_that_was_edited_is_refused(store: WindowStore, tmp_path: Path) -> None:
    export_shards(store, f"{tmp_path}/s")
    index = json.loads((tmp_path / "s/index.json").read_text())
    index["store"]["chunk_windows"] += 1
    (tmp_path / "s/index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError, match="fingerprint"):
        import_shards(f"{tmp_path}/s", f"{tmp_path}/w")


def test_parts_with_fewer_windows_than_the_index_says_are_refused(store: WindowStore, tmp_path: Path) -> None:
    export_shards(store, f"{tmp_path}/s")

    def more(index: dict[str, Any]) -> None:
        index["parts"][0]["n_windows"] += 5

    resealed(tmp_path / "s", more)
    with pytest.raises(IntegrityError, match="as index"):
        import_shards(f"{tmp_path}/s", f"{tmp_path}/w")


def test_imported_windows_never_stand_in_for_those_of_a_corpus(tmp_path: Path) -> None:
    """A stranger's shards that claim the corpus's fingerprint: `materialise` and `find_store` cut their own windows."""
    corpus = corpus_of(f"{tmp_path}/c", subjects=4, cohort="band")
    honest = plain_store(corpus, f"{tmp_path}/honest")
    poisoned = write_window_store(f"{tmp_path}/made", {"band": [30]}, chunk_windows=8, spec=honest.spec)
    export_shards(poisoned, f"{tmp_path}/s")
    resealed(tmp_path / "s", lambda index: index.update(store=honest.document))
    imported = import_shards(f"{tmp_path}/s", f"{tmp_path}/w")
    assert imported.fingerprint != honest.fingerprint
    assert imported.snapshot["fingerprint"] != honest.snapshot["fingerprint"]
    assert imported.document["imported"]["fingerprint"] == honest.fingerprint
    assert not is_complete(f"{tmp_path}/w/{honest.fingerprint}", honest.fingerprint)
    ours = plain_store(corpus, f"{tmp_path}/w")
    assert ours.fingerprint == honest.fingerprint and ours.url != imported.url
    assert np.array_equal(ours.read(np.arange(5))[1], honest.read(np.arange(5))[1])
    assert find_store(f"{tmp_path}/w", corpus_url=corpus.url, spec=honest.spec).url == ours.url


@pytest.mark.parametrize("foreign", [{"cohort": "../x"}, {"all_to": "../../x"}, {"chunk_windows": 0}])
def test_options_for_foreign_shards_are_checked(foreign: dict[str, Any]) -> None:
    with pytest.raises((ConfigError, InputError)):
        ForeignConfig(**foreign)


FOREIGN = WindowSpec(window_s=2.0, stride_s=2.0)


def foreign_shards(
    folder: Path, *, subjects: bool = True, length: int = 200, more: dict[str, object] | None = None
) -> np.ndarray:
    """Two tar files as others write them: float32 (1, L) in their own units, names of their own; returns all PPG."""
    import webdataset

    folder.mkdir(parents=True, exist_ok=True)
    ppg_BL = np.random.default_rng(0).normal(3.0, 2.0, (60, length)).astype(np.float32)
    ppg_BL[7] = 4.0
    ppg_BL[8, 5] = np.nan
    with webdataset.ShardWriter(f"{folder}/train-%03d.tar", maxcount=35, verbose=0, mtime=0.0) as writer:
        for i, ppg_L in enumerate(ppg_BL):
            own = {"patient": f"q{i // 5}", "age": 50 + i, "site": "wrist", **(more or {})} if subjects else {}
            writer.write({"__key__": f"s/{i:04d}", "ppg.npy": ppg_L[None], "ecg.npy": -ppg_L[None], "json": own})
    return ppg_BL


def test_shards_of_others_become_a_store(tmp_path: Path) -> None:
    ppg_BL = foreign_shards(tmp_path / "s")
    foreign = ForeignConfig(cohort="ward", spec=FOREIGN, subject_field="patient", chunk_windows=8)
    store = import_shards(str(tmp_path / "s"), str(tmp_path / "w"), foreign)
    assert store.n_windows == 58 and {cohort for cohort, _ in store.counts()} == {"ward"}
    dropped = [reasons for reasons in store.dropped().values() if reasons]
    assert dropped == [{"ecg flat": 1, "ecg not finite": 1}]
    subjects: dict[str, set[str]] = {}
    for split in SPLITS:
        for row in store.meta(split).to_pylist():
            subjects.setdefault(row["subject_id"], set()).add(split)
            labels = dict(row["labels"])
            ecg_BL, mine_BL = store.read(np.array([row["window_id"]]))
            original_L = ppg_BL[int(labels["age"]) - 50]
            restored_L = mine_BL[0].astype(np.float32) * row["ppg_scale"] + row["ppg_offset"]
            assert np.allclose(restored_L, original_L, atol=4e-3 * row["ppg_scale"])
            assert ecg_BL is not None and np.allclose(ecg_BL, -mine_BL, atol=2e-3)
            assert dict(row["label_text"])["site"] == "wrist"
    assert len(subjects) == 12 and all(len(splits) == 1 for splits in subjects.values())
    again = import_shards(str(tmp_path / "s"), str(tmp_path / "w"), foreign)
    assert again.url == store.url
    assert np.array_equal(
        plan_for(store, OrderConfig(global_batch=8)).ids(3), plan_for(again, OrderConfig(global_batch=8)).ids(3)
    )


@pytest.mark.parametrize(
    ("made", "foreign", "said"),
    [
        ({"subjects": False}, ForeignConfig(spec=FOREIGN), "--all-to train"),
        ({"length": 150}, ForeignConfig(spec=FOREIGN, all_to="train"), r"\(1, 150\).*200 numbers"),
        ({}, ForeignConfig(spec=FOREIGN, subject_field="person"), "no 'person'"),
        ({"more": {"heart_rate_bpm": "fast"}}, ForeignConfig(spec=FOREIGN), r"heart_rate_bpm is 'fast'.*a number"),
        ({"more": {"start_s": [1]}}, ForeignConfig(spec=FOREIGN), r"start_s is \[1\].*a number"),
        ({"more": {"labels": ["age"]}}, ForeignConfig(spec=FOREIGN), r"labels is \['age'\].*names with values"),
        ({"more": {"labels": {"age": "old"}}}, ForeignConfig(spec=FOREIGN), "age is 'old'.*a number"),
    ],
)
def test_shards_that_cannot_be_windows_are_refused_by_name(
    tmp_path: Path, made: dict[str, object], foreign: ForeignConfig, said: str
) -> None:
    foreign_shards(tmp_path / "s", **made)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=rf"sample s/0000 of .*train-000.tar: .*{said}"):
        import_shards(str(tmp_path / "s"), str(tmp_path / "w"), foreign)


def test_a_tar_file_that_ends_in_the_middle_is_refused(tmp_path: Path) -> None:
    foreign_shards(tmp_path / "s")
    tar = tmp_path / "s/train-001.tar"
    os.truncate(tar, 10_000)
    with pytest.raises(InputError, match=r"train-001\.tar.*see that the shard is whole"):
        import_shards(str(tmp_path / "s"), str(tmp_path / "w"), ForeignConfig(spec=FOREIGN, subject_field="patient"))
    with pytest.raises(InputError, match=r"no \.tar files"):
        import_shards(str(tmp_path / "w"), str(tmp_path / "w"))


def test_commands_export_and_import(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write_window_store(f"{tmp_path}/made", {"patch": [30]}, chunk_windows=8, spec=FOREIGN)
    argv = ["export-shards", "--windows", store.url, "--out", f"{tmp_path}/s", "--shard-windows", "16"]
    assert main(argv) == 0
    assert "30 windows in 2 shards" in capsys.readouterr().out
    assert main(["import-shards", "--shards", f"{tmp_path}/s", "--out", f"{tmp_path}/w", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["windows"] == 30 and WindowStore.open(told["url"]).n_windows == 30
    foreign_shards(tmp_path / "f")
    argv = ["import-shards", "--shards", f"{tmp_path}/f", "--out", f"{tmp_path}/w", "--all-to", "train"]
    assert main([*argv, "--window-s", "2"]) == 0
    assert "shards train: 58 windows" in capsys.readouterr().out


def test_stored_arrays_are_plain_numpy(tmp_path: Path) -> None:
    import tarfile

    store = write_window_store(f"{tmp_path}/made", {"patch": [3]}, chunk_windows=8, spec=FOREIGN)
    index = export_shards(store, f"{tmp_path}/s")
    with tarfile.open(tmp_path / "s" / index["shards"][0]["path"]) as tar:
        names = tar.getnames()
        member = tar.extractfile(names[names.index("000000000002.ppg.npy")])
        assert member is not None
        assert np.array_equal(np.load(io.BytesIO(member.read())), store.read(np.array([2]))[1][0])
