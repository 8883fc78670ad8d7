"""The study of embeddings: its ceilings are the simulator's, its differences those of its scores, its page says so."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch

from bench.embedding_study import attentive, ceilings, comparing, page, pictures, rates, score, training
from bench.embedding_study.arms import (
    ATTENTIVE,
    FIRST_RATE,
    LARGER,
    NAMES,
    PAPER_SIZE,
    RATES,
    TOGETHER,
    TRAINED,
    UNTRAINED,
    fitted,
)
from bench.embedding_study.further import Further
from bench.embedding_study.latent_targets import LatentTargets
from bench.embedding_study.people import SPLIT, People, Windows, cohorts
from bench.embedding_study.planning import Job, Planned
from bench.embedding_study.probing import READOUT, SIMULATED, effective_rank, results
from bench.embedding_study.score import Score
from bench.embedding_study.study import Study
from bench.embedding_study.unfinished import Ended, Unfinished
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.evaluate.examples import Examples
from xmae_dist.evaluate.members import Members
from xmae_dist.evaluate.results import Result
from xmae_dist.evaluate.run import draws_of
from xmae_dist.evaluate.scores.bootstrap import paired_difference
from xmae_dist.model import bundle
from xmae_dist.signals.beats import pulse_feet
from xmae_dist.signals.filter import bandpass
from xmae_dist.signals.normalize import minmax
from xmae_dist.simulate.cohorts import SimulatedRecording, simulate_subject, subject_id, worn

PEOPLE, EACH = 40, 6
SPECS = tuple(dataclasses.replace(spec, minutes=1.0) for spec in cohorts(4))


@pytest.fixture(scope="module")
def table() -> pa.Table:
    """Windows of four simulated people, as far as ceilings need them."""
    names = [(subject_id(spec, i), name) for spec in SPECS for i in range(2) for name in worn(spec, i)]
    columns = list(zip(*[(*name, 10.0 * k) for name in names for k in range(5)], strict=True))
    return pa.table(dict(zip(("subject_id", "recording_id", "start_s"), columns, strict=True)))


def test_the_noiseless_pulse_has_the_feet_of_the_recording(table: pa.Table) -> None:
    pulse_ML = ceilings.noiseless(SPECS, table, WindowSpec())
    recording = simulate_subject(SPECS[0], 0)[0]
    row = table["recording_id"].to_pylist().index(recording.recording_id) + 2
    found_s = pulse_feet(pulse_ML[row].astype(float), 100.0) + 20.0
    true_s = recording.truth.arrival_device_s[recording.truth.strength > 0.5]
    inner_s = found_s[(found_s > 21) & (found_s < 29)]
    assert len(inner_s) >= 5
    assert np.abs(inner_s[:, None] - true_s).min(axis=1).max() < 0.03
    assert np.abs(pulse_ML).max() == 1.0


def test_the_state_of_a_window_holds_its_rate(table: pa.Table) -> None:
    state_MF = ceilings.latent(SPECS, table, 10.0)
    assert state_MF.shape[0] == 20 and np.isfinite(state_MF).all()
    rate_M = []
    for name, start_s in zip(table["recording_id"].to_pylist(), table["start_s"].to_pylist(), strict=True):
        wearing = next(found[name] for spec in SPECS for i in range(2) if name in (found := worn(spec, i)))
        at_s = wearing.clock.device_s(wearing.pulses.arrival_s)
        here = (at_s >= start_s) & (at_s < start_s + 10)
        rate_M.append(np.log(wearing.session.beats.rr_before_s[here].mean()))
    assert np.corrcoef(rate_M, state_MF[:, 0])[0, 1] > 0.999


def people_table(age_seed: int = 1) -> pa.Table:
    """Windows of people with an age and an LDL."""
    rng = np.random.default_rng(age_seed)
    age = np.repeat(rng.uniform(20, 80, PEOPLE), EACH)
    person = np.repeat(np.arange(PEOPLE), EACH)
    labels = [
        [("age", a), ("ldl_mg_dl", b)] for a, b in zip(age, np.repeat(rng.normal(130, 20, PEOPLE), EACH), strict=True)
    ]
    return pa.table(
        {
            "window_id": np.arange(PEOPLE * EACH),
            "subject_id": [f"p{i:02d}" for i in person],
            "recording_id": [f"r{i:02d}" for i in person],
            "cohort": ["made"] * len(person),
            "start_s": np.tile(10.0 * np.arange(EACH), PEOPLE),
            "labels": pa.array(labels, pa.map_(pa.string(), pa.float64())),
            "label_text": pa.array([[]] * len(person), pa.map_(pa.string(), pa.string())),
        }
    )


def probed(arm: str, noise: float, seed: int = 0) -> list[Result]:
    """Results of an embedding that is age and noise, by people of whom only age is in it."""
    table = people_table()
    age_M1 = np.array([[dict(one)["age"]] for one in table["labels"].to_pylist()])
    noisy_M1 = age_M1 + noise * np.random.default_rng(seed).normal(size=age_M1.shape)
    embedding_M1 = np.zeros_like(age_M1) if noise < 0 else noisy_M1
    return results(arm, f"{arm}-{seed}", embedding_M1, Windows(None, None, table), "made", SIMULATED.suite)


@pytest.fixture(scope="module")
def by_arm() -> dict[str, dict[str, list[Score]]]:
    arms = {
        "constant": [probed("constant", -1)],
        "latent": [probed("latent", 0.5)],
        "noiseless": [probed("noiseless", 1.0)],
        "cross": [probed("cross", 4.0, seed) for seed in (1, 2)],
        "random": [probed("random", 60.0, seed) for seed in (3, 4, 5)],
    }
    return {
        arm: {name: [Score.of(one) for run in runs for one in run if one.task.name == name] for name in ("age", "ldl")}
        for arm, runs in arms.items()
    }


def test_what_is_not_in_the_signal_is_a_null(by_arm: dict[str, dict[str, list[Score]]]) -> None:
    assert set(comparing.headroom(by_arm)) == {"age"}


def test_a_difference_is_that_of_the_mean_scores(by_arm: dict[str, dict[str, list[Score]]]) -> None:
    found = comparing.differences(by_arm, comparing.headroom(by_arm))
    assert {(one.arm, one.other, one.seeds) for one in found} == {("cross", "random", 2)}
    age, ldl = found
    mine, other = (np.mean([one.value for one in by_arm[arm]["age"][:2]]) for arm in ("cross", "random"))
    assert age.found.value == pytest.approx(other - mine) and age.sign == 1 and age.sure == 1
    assert age.found.low < age.found.value < age.found.high
    assert np.isnan(ldl.p_holm), "a null takes no part in Holm's correction"
    assert comparing.share(6.0, 12.0, 0.0) == 0.5


def test_scores_that_were_kept_compare_as_those_of_results_do(tmp_path: Path) -> None:
    (mine, other), kept = (probed("cross", 4.0, 1), probed("random", 60.0, 3)), []
    for run in (mine, other):
        score.write(tmp_path / "arms" / f"{run[0].encoder}.parquet", map(Score.of, run))
        kept.append(score.read(tmp_path / "arms" / f"{run[0].encoder}.parquet"))
    assert len(list(tmp_path.iterdir())) == 1 and len(kept[0]) == len(mine) > 0
    for a, b, one, two in zip(mine, other, *kept, strict=True):
        draws_RS = draws_of(a.task, a.n_subjects, a.seed, a.n_replicates)
        told = paired_difference(a.task.metric, a.scored, b.scored, draws_RS)
        again = score.difference([one], [two])
        assert dataclasses.astuple(again) == pytest.approx(dataclasses.astuple(told), rel=1e-4)
        assert (one.value, one.low, one.high) == dataclasses.astuple(a.headline)[:3]


def test_the_page_says_what_was_found(by_arm: dict[str, dict[str, list[Score]]], tmp_path: Path) -> None:
    job = {"kind": "arm", "arm": "cross", "windows": 64, "lr": 2e-3, "train_people": 4, "train_windows": 9}
    job |= {"probed_windows": 3, "held_out": 2, "errors": dict.fromkeys(("own", "other", "none", "mean"), 0.1)}
    seen = {"age": 9.0, "heart_rate": 2.0}
    rows = [
        {**job, "seed": seed, "cpu_s": 1.0, "curve": [[32, seen], [64, {**seen, "age": 8.0 + seed}]]} for seed in (0, 1)
    ]
    told = page.Told(rows, [Job.of(row).key for row in rows], 64)
    page.write(tmp_path / "page.md", tmp_path / "differences.jsonl", told, by_arm, by_arm)
    text = (tmp_path / "page.md").read_text()
    for name in (pictures.HEADROOM, pictures.CURVES):
        assert (tmp_path / "figures" / name).read_bytes()[1:4] == b"PNG" and f"](figures/{name})" in text
    assert "| `cross` | 9.000 ± 0.000 | 8.500 ± 0.707 |" in text
    assert (
        "- Against `random`: better on 1 (1 after Holm), worse on 0 (0 after Holm). "
        "A ceiling is better on 1, `cross` on 1 of these.\n" in text
    )
    assert "| `cross` | `random` | 2 | 1 (1) | 0 (0) | 0 | 0 of 1 |" in text
    assert (
        "called nulls: ldl." in text
        and "**`cross` after 64 windows, 2 seeds, on 1 tasks with headroom, 40 held-out people:**" in text
    )
    assert len((tmp_path / "differences.jsonl").read_text().splitlines()) == 2
    page.write_further(tmp_path / "further.md", tmp_path / "further.jsonl", told, by_arm)
    again = (tmp_path / "further.md").read_text()
    assert "| `cross` | `random` | 2 | 1 (1) | 0 (0) | 0 | 0 of 1 |" in again and pictures.FURTHER in again
    assert (tmp_path / "further.jsonl").read_text() == (tmp_path / "differences.jsonl").read_text()


def test_an_arm_that_moved_is_compared_with_itself_at_the_first_rate(by_arm: dict[str, dict[str, list[Score]]]) -> None:
    assert not rates.differences(by_arm, dict(by_arm), ["age"]) and not rates.changed([]), "none moved"
    noisy = [Score.of(one) for seed in (6, 7) for one in probed("cross", 60.0, seed) if one.task.name == "age"]
    text = rates.changed(rates.differences(by_arm, {**by_arm, "cross": {"age": noisy}}, ["age"]))
    assert "| `cross` | `cross at 0.002` | 2 | 1 (1) | 0 (0) | 0 | 0 of 0 |" in text
    assert "| `cross at 0.002` | `random` | 2 | 0 (0) | 0 (0) | 1 | 0 of 0 |" in text


def test_a_table_of_one_seed_is_whole_before_the_next_begins() -> None:
    jobs = Planned(NAMES, (0, 1), 4096).jobs({})
    large = [job for job in jobs if job.arm in LARGER and job.kind == "arm"]
    assert [job.seed for job in large] == [0] * len(LARGER) + [1] * len(LARGER)
    at = jobs.index(large[0])
    assert jobs[at : at + len(large)] == large and {job.arm for job in jobs[at + len(large) :]} < {*PAPER_SIZE}
    assert {job.kind for job in jobs[at + len(large) :]} == {"rate"}, "larger ones last, in the same order"
    jobs = jobs[:at]
    arms = [job for job in jobs if job.kind == "arm"]
    assert {job.arm for job in arms if job.seed == 0} == set(NAMES) - set(LARGER), "at one rate, before any is chosen"
    seeds, names = [job.seed for job in arms], [job.arm for job in arms]
    assert seeds == sorted(seeds)
    first = names[: seeds.count(0)]
    assert {*first[-len(ATTENTIVE) :]} == {*ATTENTIVE}, "what is learned in the probe comes last, for one seed"
    assert set(ATTENTIVE).isdisjoint(names[seeds.count(0) :])
    assert all(names.index(both) > names.index(alone) for both, alone in {**TOGETHER, **ATTENTIVE}.items())
    assert [job.kind for job in jobs].index("rate") == len(arms), "rates are tried when all seeds are there"
    assert Planned(NAMES, (0, 1), 4096, tried=False).jobs({}) == arms + large


@pytest.mark.parametrize("arm", ["cross", "cross, paper size"])
def test_an_arm_moves_to_the_chosen_rate_when_all_its_seeds_are_there(arm: str) -> None:
    planned = Planned((arm,), (0, 1), 4096)
    tried = [job for job in planned.jobs({}) if job.kind == "rate"]
    assert [job.lr for job in tried] == list(RATES[arm])
    losses = {job.key: abs(job.lr - 4e-3) for job in tried}
    assert planned.chosen(arm, dict(list(losses.items())[:-1])) is None
    at_first = [job for job in planned.jobs({}) if job.kind == "arm"]
    again = [job for job in planned.jobs(losses) if job.kind == "arm" and job not in at_first]
    assert [job.lr for job in at_first] == [FIRST_RATE[arm]] * 2 and [job.lr for job in again] == [4e-3, 4e-3]
    done = {job.key for job in at_first}
    assert planned.compared(arm, done, losses) == at_first
    assert planned.compared(arm, done | {again[0].key}, losses) == at_first
    assert planned.compared(arm, done | {job.key for job in again}, losses) == again


def test_what_is_made_of_an_arm_is_made_and_compared_at_its_chosen_rate_too() -> None:
    made_of = ["features + cross", "cross, attentive"]
    planned = Planned(("cross", "features", *made_of), (0,), 4096)
    losses = {planned.rate("cross", lr).key: loss for lr, loss in zip(RATES["cross"], (5, 4, 3, 2, 3), strict=True)}
    jobs = {(job.arm, job.lr): job for job in planned.jobs(losses) if job.kind == "arm"}
    done = {job.key for job in jobs.values()}
    for name in ("cross", *made_of):
        assert {lr for arm, lr in jobs if arm == name} == {2e-3, 8e-3}
        assert planned.compared(name, done, losses) == [jobs[name, 8e-3]]


def test_finished_encoders_are_probed_on_further_people_without_training(tmp_path: Path) -> None:
    def people(place: str) -> SimpleNamespace:
        table = people_table(len(place))
        ppg_ML = torch.from_numpy(np.random.default_rng(0).normal(size=(len(table), 200))).half()
        store = SimpleNamespace(fingerprint=place, spec=WindowSpec(window_s=2.0))
        return SimpleNamespace(
            store=store, probe_windows=EACH, out=tmp_path / place, probed=Windows(ppg_ML, None, table)
        )

    planned = Planned(("cross", "features", "constant"), (0, 1), 4096)
    at_first = [job for job in planned.jobs({}) if job.kind == "arm"]
    study = Study(people("here"), planned, SIMULATED, tmp_path / "rows.jsonl", lambda: False)
    with (tmp_path / "rows.jsonl").open("w") as file:
        for job in [*at_first, dataclasses.replace(at_first[-1], lr=8e-3)]:
            file.write(json.dumps({**dataclasses.asdict(job), "place": study.place}) + "\n")
            score.write(tmp_path / "rows" / study.place / f"{job.key}.parquet", [])
    for seed in (0, 1):
        model = training.initial(fitted(TRAINED["cross"], 200, 100.0), seed)
        place, spec = tmp_path / "here" / "models" / f"arm-cross-{seed}-4096-0.002", study.people.store.spec
        bundle.save(str(place), model.read_by(READOUT), window_spec=spec.to_dict(), lineage={})
    more = Further(study, people("elsewhere"), tmp_path / "more.jsonl", lambda: False)
    assert more.compared()[1] == {}
    more.run(lambda: None)
    rows = [json.loads(line) for line in (tmp_path / "more.jsonl").read_text().splitlines()]
    assert [(row["arm"], row["seed"], row["lr"]) for row in rows] == [
        ("cross", 0, 2e-3), ("features", 0, 0.0), ("constant", 0, 0.0), ("cross", 1, 2e-3)
    ], "seed by seed; what no seed changes once; not the rate that is not compared"  # fmt: skip
    jobs, scores = more.compared()
    assert [job.seed for job in jobs["cross"]] == [0, 1] and len(scores["cross"]["age"]) == 2
    assert {row["place"] for row in rows} == {f"elsewhere-{EACH}"} and rows[0]["held_out"] == PEOPLE
    assert scores["constant"]["age"][0].value != probed("constant", -1)[0].headline.value, "of other people"


@pytest.mark.parametrize("arm", ["cross_beats", "cross_bottleneck", "cross_latent"])
def test_an_arm_that_was_stopped_goes_on_as_if_it_had_not_been(arm: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    ppg_ML, ecg_ML = (torch.from_numpy(rng.normal(size=(96, 200))).half() for _ in range(2))
    people = SimpleNamespace(
        train=Windows(ppg_ML, ecg_ML, pa.table({"id": np.arange(96)})), beat_targets=torch.ones(96, 3)
    )
    config, run = fitted(TRAINED[arm], 200, 100.0), training.Run(seed=1, lr=1e-3, windows=8 * training.BATCH)
    latent, first = TRAINED[arm].latent, Unfinished(folder=tmp_path / "a")
    whole, work = training.train(config, run, people, lambda model: model.training, first, latent=latent)
    asked = iter([False] * 2 + [True])
    stopped = Unfinished(folder=tmp_path / "b", ending=lambda: next(asked))
    with pytest.raises(Ended):
        training.train(config, run, people, lambda _: 0, stopped, latent=latent)
    kept = Unfinished(folder=tmp_path / "b")
    assert kept.newest()[1]["step"] == 3 and len(kept.newest()[1]["curve"]) == 2
    again, rest = training.train(config, run, people, lambda _: 0, kept, latent=latent)
    assert [seen for seen, _ in rest.curve] == [32, 64, 128, 256] == [seen for seen, _ in work.curve]
    assert all(torch.equal(one, again.state_dict()[name]) for name, one in whole.state_dict().items())
    kept.clear()
    assert kept.newest() == (None, {})


def test_the_teacher_follows_the_student_and_learns_nothing_itself() -> None:
    model = training.initial(fitted(TRAINED["cross_latent"], 200, 100.0), 0)
    taught = LatentTargets(model)
    before = [weight.clone() for weight in taught.teacher.parameters()]
    ppg_BL, ecg_BL = torch.randn(2, 4, 200).unbind()
    mask_BN = torch.zeros(4, 20, dtype=torch.bool)
    mask_BN[:, 4:] = True
    taught(ppg_BL, ecg_BL, mask_BN, None, None, None).backward()
    assert all(weight.grad is None for weight in taught.teacher.parameters())
    assert all(weight.grad is not None for weight in model.parameters())
    with torch.no_grad():
        for weight in model.encoders["ecg"].parameters():
            weight += 1.0
    taught.follow()
    moved = [now - old for now, old in zip(taught.teacher.parameters(), before, strict=True)]
    assert all(torch.allclose(one, torch.full_like(one, 0.004), atol=1e-5) for one in moved)


def hidden(windows: int) -> tuple[torch.Tensor, np.ndarray]:
    """Tokens of which one a window says its label, wherever it is; all others say anything."""
    rng = np.random.default_rng(5)
    tokens_MTD = rng.normal(size=(windows, 50, 4)).astype(np.float32)
    tokens_MTD[:, :, 0] = 0.0
    label_M, place_M = rng.normal(size=windows), rng.integers(50, size=windows)
    tokens_MTD[np.arange(windows), place_M, 0] = 6.0
    tokens_MTD[np.arange(windows), place_M, 1] = label_M
    return torch.from_numpy(tokens_MTD), label_M


def test_attention_finds_what_a_mean_hides() -> None:
    tokens_MTD, label_M = hidden(600)
    target_MC = torch.from_numpy(label_M[:, None]).float()
    query_QD = attentive.learned(tokens_MTD[:400], target_MC[:400], "regression")
    found = {"attended": attentive.attended(tokens_MTD, query_QD).numpy(), "mean": tokens_MTD.mean(dim=1).numpy()}
    share = {}
    for name, x_ME in found.items():
        x_ME = np.c_[x_ME, np.ones(600)]
        weight_E = np.linalg.lstsq(x_ME[:400], label_M[:400], rcond=None)[0]
        share[name] = np.corrcoef(x_ME[400:] @ weight_E, label_M[400:])[0, 1] ** 2
    assert share["attended"] > 0.8 and share["mean"] < 0.2


def test_queries_are_learned_from_training_people_alone() -> None:
    tokens_MTD, label_M = hidden(120)
    ids = np.arange(120)

    def features(y_N: np.ndarray) -> np.ndarray:
        names = np.repeat([f"p{i}" for i in range(12)], 10)
        units = Examples(y_N=y_N, subject_N=names, name_N=names, windows=Members.one_each(ids))
        return attentive._Attention(units, tokens_MTD, ids, "regression").features(ids < 80)

    other = np.where(ids < 80, label_M, label_M[::-1])
    assert np.array_equal(features(label_M), features(other)), "labels of those held out change nothing"
    assert not np.allclose(features(label_M), features(label_M[::-1].copy()))


def test_rank_counts_directions() -> None:
    rng = np.random.default_rng(0)
    three = rng.normal(size=(4000, 3))
    assert effective_rank(three) == pytest.approx(3, abs=0.02)
    assert effective_rank(np.repeat(three, 4, axis=1)) == pytest.approx(3, abs=0.02)


def test_targets_are_measured_once_and_again_when_the_detector_says_otherwise(tmp_path: Path) -> None:
    recording = simulate_subject(SPECS[0], 0)[0]
    signals = [torch.from_numpy(_windows_of(recording, name)) for name in ("ppg", "ecg")]
    store = SimpleNamespace(spec=WindowSpec(), fingerprint="made")

    def people() -> People:
        found = People(store, SPECS, 2, tmp_path)
        found.__dict__["train"] = Windows(*signals, pa.table({"id": np.arange(len(signals[0]))}))
        return found

    told_MK = people().beat_targets
    path = tmp_path / "beats-made.npy"
    assert told_MK.shape == (6, 3) and told_MK[:, 0].isfinite().all()
    assert torch.equal(people().beat_targets.nan_to_num(), told_MK.nan_to_num())
    np.save(path, told_MK.numpy() + 1)
    assert torch.equal(people().beat_targets.nan_to_num(), told_MK.nan_to_num())
    assert np.array_equal(np.load(path), told_MK.numpy(), equal_nan=True)


def _windows_of(recording: SimulatedRecording, name: str) -> np.ndarray:
    """Six windows of 10 s at 100 Hz of a channel."""
    channel = recording.channels[name]
    at = np.arange(6000) * channel.rate_hz / 100.0
    signal = np.interp(at, np.arange(len(channel.raw)), channel.raw * channel.scale)
    return minmax(bandpass(signal, 100.0, (0.5, 8.0) if name == "ppg" else (0.5, 40.0)).reshape(6, 1000))[0].astype(
        np.float32
    )


def test_arms_are_what_the_study_says() -> None:
    assert set(NAMES) == {*TRAINED, *UNTRAINED, *TOGETHER, *ATTENTIVE}
    sizes = {name: (arm.config.width, arm.config.ppg_depth) for name, arm in TRAINED.items()}
    assert {size for name, size in sizes.items() if name not in LARGER} == {(64, 1)}, "all of one size"
    assert {sizes[name] for name in PAPER_SIZE} == {(128, 2)}
    assert {arm.family for arm in TRAINED.values()} == set(RATES) <= set(TRAINED)
    assert {family for family, lr in FIRST_RATE.items() if lr in RATES[family]} == set(RATES)
    assert all(len(some) >= 3 and list(some) == sorted({*some}) for some in RATES.values())
    assert SPLIT.fractions[2] * 1000 > 430, "at least 400 people are held out of 1,000, however the hash falls"
