"""Small corpora with synthetic recordings, for tests of windows and their stores."""

from __future__ import annotations

import numpy as np

from tests.signals.synthetic import beat_times, ecg_at, ppg_at
from xmae_dist.storage.corpus import Corpus

DELAY_S = 0.25


def corpus_of(
    url: str, *, subjects: int = 6, recordings: int = 2, duration_s: float = 65.0, cohort: str = "bench"
) -> Corpus:
    """Paired recordings: ECG at 250 Hz, PPG at 125 Hz, one clock; label `age` in the index."""
    corpus = Corpus.open_or_create(url)
    rows = []
    with corpus.begin_part(cohort, "part") as part:
        ecg = part.channel("ecg", dtype=np.float32, rate_hz=250.0, unit="mV")
        ppg = part.channel("ppg", dtype=np.float32, rate_hz=125.0, unit="nu")
        for s in range(subjects):
            for r in range(recordings):
                beat_s = beat_times(duration_s, bpm=60 + 4 * s, seed=10 * s + r)
                named = {
                    "subject_id": f"{cohort}-s{s:02d}",
                    "recording_id": f"{cohort}-s{s:02d}-r{r}",
                    "clock_id": f"{cohort}-s{s:02d}-r{r}",
                    "labels": {"age": 40.0 + s},
                    "label_text": {"sex": "f" if s % 2 else "m"},
                }
                t_ecg, t_ppg = np.arange(0, duration_s, 1 / 250), np.arange(0, duration_s, 1 / 125)
                noise = np.random.default_rng(r)
                ecg_T = ecg_at(t_ecg, beat_s) + noise.normal(0, 0.005, t_ecg.size)
                ppg_T = ppg_at(t_ppg, beat_s, DELAY_S) + noise.normal(0, 0.003, t_ppg.size)
                rows.append(ecg.add(ecg_T.astype(np.float32), **named))
                rows.append(ppg.add(ppg_T.astype(np.float32), **named))
    corpus.commit_part(rows, f"synthetic:{cohort}")
    return corpus
