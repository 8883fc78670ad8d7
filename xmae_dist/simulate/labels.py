"""Ground truth of a recording as index labels: numbers by name, and a few words."""

from __future__ import annotations

import numpy as np

from xmae_dist.simulate.blood import laboratory
from xmae_dist.simulate.frontend import group_delay_s
from xmae_dist.simulate.recordings import SimulatedChannel, Truth, Wearing
from xmae_dist.simulate.rhythm import ATRIAL, FIBRILLATION, SINUS, VENTRICULAR
from xmae_dist.simulate.sleep import stage_text
from xmae_dist.simulate.traits import PWV_PER_MMHG

ANAEMIA_BELOW_G_DL = {False: 12.0, True: 13.0}
"""Women, men (World Health Organization)."""


def numbers(wearing: Wearing, truth: Truth, channels: dict[str, SimulatedChannel]) -> dict[str, float]:
    """All numeric labels of a recording. Labels that do not apply are left out, never NaN."""
    return {
        **_person(wearing),
        **_rhythm(wearing, truth),
        **_circulation(wearing, truth),
        **_recording(wearing, truth, channels),
    }


def words(wearing: Wearing, truth: Truth) -> dict[str, str]:
    """Labels that are not numbers; `sleep_stages` has one letter (W, 1, 2, 3, R) per 30 s of the recording."""
    share = float(np.mean(truth.kind == FIBRILLATION))
    rhythm = "sinus" if share == 0.0 else "fibrillation" if share == 1.0 else "paroxysmal fibrillation"
    text = {
        "sex": "male" if wearing.session.subject.body.male else "female",
        "rhythm": rhythm,
        "origin": "simulated",
    }
    if wearing.session.stages is not None:
        session = wearing.session
        text["sleep_stages"] = stage_text(wearing.session.stages, truth.clock.start_s, session.duration_s)
    return text


def _person(wearing: Wearing) -> dict[str, float]:
    subject = wearing.session.subject
    body = subject.body
    in_fibrillation = bool(wearing.session.fibrillation)
    return {
        "age": body.age_yr,
        "sex": float(body.male),
        "bmi": body.bmi,
        "height_m": body.height_m,
        "mass_kg": body.bmi * body.height_m**2,
        "hypertension": float(body.hypertension),
        "antihypertensive": float(body.treated),
        "af_history": float(subject.rhythm.af),
        "frequent_ectopy": float(subject.rhythm.ectopy),
        "anaemia": float(body.blood.haemoglobin_g_dl < ANAEMIA_BELOW_G_DL[body.male]),
        **laboratory(body.blood, fibrillation=in_fibrillation, stiffness=subject.vessels.stiffness),
    }


def _rhythm(wearing: Wearing, truth: Truth) -> dict[str, float]:
    minutes = wearing.session.duration_s / 60.0
    fibrillating = float(np.mean(truth.kind == FIBRILLATION))
    pvc = int(np.count_nonzero(truth.kind == VENTRICULAR))
    pac = int(np.count_nonzero(truth.kind == ATRIAL))
    sinus = truth.kind == SINUS
    labels = {
        "heart_rate_bpm": 60.0 / float(np.mean(np.diff(truth.r_true_s))),
        "respiration_rate_bpm": wearing.session.drivers.respiration_rate_bpm,
        "af": float(fibrillating > 0.5),
        "af_fraction": fibrillating,
        "ectopy_per_min": (pvc + pac) / minutes,
        "pvc_per_min": pvc / minutes,
    }
    if np.count_nonzero(sinus) > 30:
        labels["sdnn_ms"] = 1000.0 * float(np.std(truth.rr_before_s[sinus]))
    return labels


def _circulation(wearing: Wearing, truth: Truth) -> dict[str, float]:
    subject = wearing.session.subject
    shift = float(truth.pressure_mmhg.mean()) - subject.body.map_mmhg
    return {
        "sbp_mmhg": subject.body.sbp_mmhg + 1.3 * shift,
        "dbp_mmhg": subject.body.dbp_mmhg + 0.85 * shift,
        "map_mmhg": subject.body.map_mmhg + shift,
        "pwv_m_s": subject.vessels.aortic_pwv_m_s * float(np.exp(PWV_PER_MMHG * shift)),
        "pre_ejection_ms": 1000.0 * subject.pep_s,
        "pulse_arrival_time_ms": 1000.0 * float(np.median(truth.arrival_true_s - truth.r_true_s)),
    }


def _recording(wearing: Wearing, truth: Truth, channels: dict[str, SimulatedChannel]) -> dict[str, float]:
    duration_s = wearing.session.duration_s
    missing = [sum(stop - start for start, stop in c.gaps) / c.raw.size for c in channels.values()]
    labels = {
        "clock_offset_s": truth.clock.offset_s,
        "clock_drift_ppm": truth.clock.drift_ppm,
        "clock_drift_after_ppm": truth.clock.drift_after_ppm,
        "motion_fraction": min(sum(length for _, length, _ in truth.motion) / duration_s, 1.0),
        "missing_fraction": max(missing),
    }
    if np.isfinite(truth.clock.change_s):
        labels["clock_change_s"] = float(truth.clock.device_s(truth.clock.change_s))
    for channel in wearing.device.channels:
        labels[f"{channel.name}_chain_delay_ms"] = 1000.0 * group_delay_s(channel.band_hz, channel.rate_hz)
    return labels
