"""Commands that print tables, on terminals of 80 and 120 columns: names and numbers stay whole, of any length."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.data.corpora import corpus_of
from tests.embed.devices import by_device, record_people
from tests.embed.jobs import ENCODER, embed
from xmae_dist.cli import neighbours as neighbours_command
from xmae_dist.cli.main import main
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.embed.neighbours import neighbours
from xmae_dist.storage.corpus import Corpus
from xmae_dist.storage.table import Table
from xmae_dist.testing.window_store import write_window_store

COHORTS = ("icu_2026_bedside-monitor.ward-3_philips-intellivue-mx800", "w")
DEVICE = "Philips_IntelliVue_MX800_software_N.01.23_firmware_0987654321"
LABEL = "haemoglobin_g_dl_of_the_central_laboratory_before_surgery"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    made = Corpus.create(f"file://{tmp_path_factory.mktemp('corpus')}/c")
    for cohort in COHORTS:
        with made.begin_part(cohort, "p") as part:
            ppg = part.channel("ppg_infrared_left_wrist", dtype=np.int16, rate_hz=62.5, unit="nu", device=DEVICE)
            rows = [
                ppg.add(
                    np.arange(6250, dtype=np.int16) % 97,
                    **dict.fromkeys(("subject_id", "recording_id", "clock_id"), f"p{n}"),  # type: ignore[arg-type]
                    labels={LABEL: 1e6 + n},
                    label_text={"[rhythm]": "sinus :heart:"},
                )
                for n in range(2)
            ]
        made.commit_part(rows, cohort)
    return made.url


def _words(capsys: pytest.CaptureFixture[str], columns: int, *command: str) -> set[str]:
    """What a command prints, word for word; no line that could be shorter is longer than the terminal."""
    assert main(list(command)) == 0
    return _printed(capsys, columns)


def _printed(capsys: pytest.CaptureFixture[str], columns: int) -> set[str]:
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if len(line) > columns and max(map(len, line.split())) < columns // 2]
    return set(" ".join(lines).split())


@pytest.mark.parametrize("columns", [80, 120])
def test_inspect(
    columns: int, corpus: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    said = _words(capsys, columns, "inspect", corpus, "--windows", "2")
    whole = {*COHORTS, DEVICE, LABEL, "ppg_infrared_left_wrist", "62.5", "[rhythm]", ":heart:", "0.06", "1e+06"}
    assert whole <= said


@pytest.mark.parametrize("columns", [80, 120])
def test_plan(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    spec = WindowSpec(window_s=1.0, stride_s=1.0)
    store = write_window_store(str(tmp_path), {name: [64] for name in COHORTS}, chunk_windows=8, spec=spec)
    shown = ["plan", "show", "--windows", store.url, "--global-batch", "32", "--steps", "4"]
    said = _words(capsys, columns, *shown)
    assert set(COHORTS) <= said
    assert {str(number) for number in range(128)} <= said, "every window of the first epoch"


@pytest.mark.parametrize("columns", [80, 120])
def test_what_ingest_could_not_keep(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    record = "ward_3/bed_11/2026-11-29T02:15:00_continuous-monitoring_part-0007_[again]"
    header = tmp_path / "in" / f"{record}.hea"
    header.parent.mkdir(parents=True)
    header.write_text(f"{header.stem} 1 250 1000\n{header.stem}.dat 16 200/mV 16 0 0 0 0 II\n")
    status = main(["ingest", str(tmp_path / "in"), "--corpus", str(tmp_path / "c"), "--cohort", "icu"])
    assert status == 2, "nothing usable"
    assert record.rsplit("/", 1)[-1] in capsys.readouterr().out.replace("/", " ").split()


@pytest.mark.parametrize("columns", [80, 120])
def test_windows(
    columns: int,
    ray_local: None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for cohort in COHORTS:
        corpus_of(f"{tmp_path}/c", subjects=2, recordings=1, cohort=cohort)
    monkeypatch.setenv("COLUMNS", str(columns))
    said = _words(capsys, columns, "windows", "--corpus", f"{tmp_path}/c", "--out", f"{tmp_path}/w", "--by", "age")
    assert {*COHORTS, "train", "age", "100.0%"} <= said


@pytest.mark.parametrize("columns", [80, 120])
def test_neighbours(
    columns: int, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus, table = Corpus.create(f"file://{tmp_path}/corpus"), f"file://{tmp_path}/table"
    record_people(corpus, COHORTS[0], 4, part="a")
    embed(corpus.url, table, COHORTS[0], encode_task=by_device())
    recording = f"{COHORTS[0]}-a-003"
    made = Table(table).newest()
    assert made is not None
    found = neighbours(made, ENCODER, cohort=COHORTS[0], recording_id=recording, k=3)
    monkeypatch.setenv("COLUMNS", str(columns))
    neighbours_command._show(found)
    said = _printed(capsys, columns)
    near = [one for query in found for one in query.neighbours]
    assert {f"{one.distance:.4f}" for one in near} | {one.recording_id for one in near} | {f"{COHORTS[0]}"} <= said
    assert {f"{COHORTS[0]}/{recording}"} <= said
