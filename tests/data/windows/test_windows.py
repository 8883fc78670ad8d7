from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.data.corpora import DELAY_S, corpus_of
from tests.signals.synthetic import beat_times, ecg_at, ppg_at
from xmae_dist.core.errors import ConfigError
from xmae_dist.data.clocks.signal import Signal
from xmae_dist.data.windows import spans
from xmae_dist.data.windows.cutting import WindowBatch, cut
from xmae_dist.data.windows.spans import windows_of_recording
from xmae_dist.data.windows.spec import WindowSpec
from xmae_dist.storage.corpus import Corpus


def _signal(kind: str, rate_hz: float, beat_s: np.ndarray, *, start_s: float = 0.0, stop_s: float = 60.0) -> Signal:
    time_s = np.arange(start_s, stop_s, 1 / rate_hz)
    x = ecg_at(time_s, beat_s) if kind == "ecg" else ppg_at(time_s, beat_s, DELAY_S)
    noise = np.random.default_rng(5).normal(0, 0.003, time_s.size)
    return Signal(values_T=x + noise, rate_hz=rate_hz, start_s=start_s)


def _delay_s(batch: WindowBatch, spec: WindowSpec) -> np.ndarray:
    """Lag of the steepest rise of the PPG behind the R peak, by the mean beat around each R peak of a window."""
    lags = []
    for ecg, ppg in zip(batch.ecg_BL, batch.ppg_BL, strict=True):
        slope = np.gradient(ppg.astype(float))
        peaks = [i for i in range(50, spec.length - 60) if ecg[i] == ecg[i - 30 : i + 30].max() and ecg[i] > 0.5]
        mean = np.mean([slope[i : i + 60] for i in peaks], axis=0)
        lags.append(np.argmax(mean) / spec.rate_hz)
    return np.array(lags)


@pytest.mark.parametrize("ecg_hz", [125.0, 250.0, 500.0, 1000.0])
@pytest.mark.parametrize("ppg_hz", [25.0, 64.0, 125.0, 499.5])
def test_the_delay_between_the_signals_survives_any_pair_of_rates(ecg_hz: float, ppg_hz: float) -> None:
    spec, beat_s = WindowSpec(), beat_times(60.0, 66.0)
    reference, _ = cut(_signal("ecg", 1000.0, beat_s), _signal("ppg", 1000.0, beat_s), spec)
    batch, dropped = cut(_signal("ecg", ecg_hz, beat_s), _signal("ppg", ppg_hz, beat_s), spec)
    assert len(batch) == 6
    assert not dropped
    assert np.abs(batch.pulse_arrival_s_B - reference.pulse_arrival_s_B).max() < 0.002
    assert np.abs(_delay_s(batch, spec) - _delay_s(reference, spec)).max() <= 0.0101


def test_channels_that_start_apart_are_put_on_one_grid() -> None:
    spec, beat_s = WindowSpec(), beat_times(60.0, 66.0)
    together, _ = cut(_signal("ecg", 250.0, beat_s), _signal("ppg", 125.0, beat_s), spec)
    late, _ = cut(_signal("ecg", 250.0, beat_s), _signal("ppg", 125.0, beat_s, start_s=3.0037), spec)
    assert late.start_s_B[0] == pytest.approx(3.0037)
    assert len(late) == 5
    assert np.abs(np.median(late.pulse_arrival_s_B) - np.median(together.pulse_arrival_s_B)) < 0.002


def test_windows_have_the_promised_form() -> None:
    spec = WindowSpec(stride_s=5.0)
    beat_s = beat_times(60.0)
    batch, _ = cut(_signal("ecg", 250.0, beat_s), _signal("ppg", 125.0, beat_s), spec)
    assert batch.start_s_B.tolist() == [5.0 * k for k in range(11)]
    for x_BL in (batch.ecg_BL, batch.ppg_BL):
        assert x_BL.dtype == np.float32
        assert x_BL.shape == (11, 1000)
        assert (x_BL.min(axis=1) == -1).all()
        assert (x_BL.max(axis=1) == 1).all()
    assert np.allclose(batch.heart_rate_bpm_B, 72.0, atol=2.0)
    assert np.allclose(batch.pulse_rate_bpm_B, 72.0, atol=2.0)
    assert batch.quality_ecg_B.min() > 0.9
    assert batch.quality_ppg_B.min() > 0.9


def _spoilt(kind: str, spoil: str, rates_hz: tuple[float, float]) -> Counter[str]:
    """What is dropped, and why, when the third of six windows of one signal is spoilt."""
    beat_s = beat_times(60.0)
    signals = {"ecg": _signal("ecg", rates_hz[0], beat_s), "ppg": _signal("ppg", rates_hz[1], beat_s)}
    hit = signals[kind]
    x, a, b = hit.values_T, round(20 * hit.rate_hz), round(30 * hit.rate_hz)
    middle = slice(a + (b - a) // 4, b - (b - a) // 4)
    beyond = round(2 * hit.rate_hz)
    if spoil == "gap":
        x[middle] = np.nan
    elif spoil == "flat":
        x[middle] = x[a]
    elif spoil == "saturated":  # an amplifier whose gain is far too high, and one whose crests are cut
        x[a:b] = np.clip(x[a:b] * 40, -1.5, 1.5) if kind == "ecg" else np.minimum(x[a:b] * 2.2, 1.5)
    elif spoil == "lead_off":
        x[a - beyond : b + beyond] *= 0.005
    elif spoil == "no_beats":  # a heart that slows down to 36 / min
        slow_s = np.concatenate([beat_s[(beat_s < 19)], np.arange(20.3, 30.0, 60 / 36), beat_s[beat_s > 31]])
        x[:] = _signal(kind, hit.rate_hz, slow_s).values_T
    elif spoil == "low_quality":
        x[a:b] = np.random.default_rng(0).normal(0, 1, b - a)
    return cut(signals["ecg"], signals["ppg"], WindowSpec(min_quality=0.7, min_beats=8))[1]


@pytest.mark.parametrize("kind", ["ecg", "ppg"])
@pytest.mark.parametrize("spoil", ["gap", "flat", "saturated", "lead_off", "no_beats", "low_quality"])
@pytest.mark.parametrize("rates_hz", [(125.0, 25.0), (250.0, 125.0), (1000.0, 1000.0)])
def test_a_spoilt_window_is_dropped_by_its_reason(kind: str, spoil: str, rates_hz: tuple[float, float]) -> None:
    dropped = _spoilt(kind, spoil, rates_hz)
    assert dropped[f"{kind}_{spoil}"] >= 1
    assert sum(dropped.values()) <= 3
    assert {name.partition("_")[0] for name in dropped} == {kind}


@pytest.mark.parametrize("value", [np.nan, 0.0, 3.7, 1e9])
def test_a_dead_channel_gives_no_window_and_no_failure(value: float) -> None:
    dead = Signal(values_T=np.full(15_000, value), rate_hz=250.0)
    batch, dropped = cut(dead, _signal("ppg", 125.0, beat_times(60.0)), WindowSpec())
    assert len(batch) == 0
    assert dropped == {"ecg_gap" if np.isnan(value) else "ecg_flat": 6}


def test_the_source_alone_needs_no_target() -> None:
    batch, dropped = cut(None, _signal("ppg", 30.0, beat_times(60.0)), WindowSpec().source_only())
    assert len(batch) == 6
    assert batch.ecg_BL is None
    assert np.isnan(batch.heart_rate_bpm_B).all()
    assert np.isfinite(batch.pulse_rate_bpm_B).all()
    assert not dropped


def test_a_recording_is_cut_alike_whole_and_in_spans(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = corpus_of(f"{tmp_path}/c", subjects=1, recordings=1, duration_s=200.0).snapshot()
    recording, spec = next(iter(snapshot.recordings())), WindowSpec(stride_s=5.0)
    whole, _ = windows_of_recording(snapshot, recording, spec)
    monkeypatch.setattr(spans, "SPAN_S", 60.0)
    pieces, _ = windows_of_recording(snapshot, recording, spec)
    assert np.array_equal(whole.start_s_B, pieces.start_s_B)
    assert np.abs(whole.ecg_BL - pieces.ecg_BL).max() < 1e-3
    assert np.abs(whole.ppg_BL - pieces.ppg_BL).max() < 1e-3


def test_recordings_that_cannot_be_paired_are_counted_by_reason(tmp_path) -> None:
    corpus = Corpus.create(f"{tmp_path}/c")
    rows, t = [], np.arange(0, 60, 1 / 100)
    named = {"subject_id": "s"}
    with corpus.begin_part("mixed", "part") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=100.0, unit="mV")
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=100.0, unit="nu")
        x = ppg_at(t, beat_times(60.0)).astype(np.float32)
        rows += [
            ecg.add(x, recording_id="clocks", clock_id="a", **named),
            ppg.add(x, recording_id="clocks", clock_id="b", **named),
            ppg.add(x, recording_id="lone", clock_id="a", **named),
            ecg.add(x[:500], recording_id="short", clock_id="a", **named),
            ppg.add(x[:500], recording_id="short", clock_id="a", **named),
            ecg.add(x, recording_id="apart", clock_id="a", start_time_ns=0, **named),
            ppg.add(x, recording_id="apart", clock_id="a", start_time_ns=10**12, **named),
        ]
    corpus.commit_part(rows, "t")
    snapshot = corpus.snapshot()
    found = {r.recording_id: windows_of_recording(snapshot, r, WindowSpec()) for r in snapshot.recordings()}
    reasons = {name: dict(dropped) for name, (_, dropped) in found.items()}
    assert reasons["clocks"] == {"different_clock": 6}
    assert reasons["lone"] == {"no_ecg": 6}
    assert reasons["short"] == {"too_short": 1}
    assert list(reasons["apart"]) == ["too_short"]
    assert all(len(batch) == 0 and batch.ecg_BL.shape == (0, 1000) for batch, _ in found.values())
    alone = next(r for r in snapshot.recordings() if r.recording_id == "lone")
    assert len(windows_of_recording(snapshot, alone, WindowSpec().source_only())[0]) == 6


def test_declared_gaps_are_respected(tmp_path) -> None:
    corpus = Corpus.create(f"{tmp_path}/c")
    t = np.arange(0, 60, 1 / 100)
    with corpus.begin_part("gappy", "part") as part:
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=100.0, unit="nu")
        x = (ppg_at(t, beat_times(60.0)) + np.random.default_rng(0).normal(0, 0.003, t.size)).astype(np.float32)
        row = ppg.add(x, subject_id="s", recording_id="r", clock_id="a", gaps=((2100, 2300), (4050, 4060)))
    corpus.commit_part([row], "t")
    snapshot = corpus.snapshot()
    batch, dropped = windows_of_recording(snapshot, next(iter(snapshot.recordings())), WindowSpec().source_only())
    assert dropped == {"ppg_gap": 1}
    assert 20.0 not in batch.start_s_B


def test_the_specification_goes_through_json_and_names_what_is_wrong() -> None:
    spec = WindowSpec(stride_s=2.5, require=("ppg",))
    assert WindowSpec.from_dict(spec.to_dict()) == spec
    assert WindowSpec.from_dict(spec.to_dict()).fingerprint() == spec.fingerprint()
    assert WindowSpec().fingerprint() != spec.fingerprint()
    with pytest.raises(ConfigError, match="colour"):
        WindowSpec.from_dict({"colour": 1})
    with pytest.raises(ConfigError, match="whole number of samples"):
        WindowSpec(stride_s=0.333)
    with pytest.raises(ConfigError, match="require"):
        WindowSpec(require=("ecg",))
