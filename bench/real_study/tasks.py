"""What is asked of encoders on patients, and on each phone."""

from __future__ import annotations

from bench.embedding_study.probing import Probes
from xmae_dist.evaluate.tasks import Suite, Task, load_suite

PATIENTS = Probes(load_suite("challenge2015"), ("heart_rate", "pulse_arrival", "pulse_arrival_change"))
PHONES = {
    "butppg": Suite(
        name="butppg",
        title="BUT PPG, smartphone",
        tasks=(Task(name="heart_rate", title="Heart rate", label="hr_bpm", kind="regression", label_unit="beats/min"),),
    ),
    "welltory": Suite(
        name="welltory",
        title="Welltory, smartphone",
        tasks=(
            Task(name="heart_rate", title="Heart rate", label="strap_bpm", kind="regression", label_unit="beats/min"),
            Task(name="rmssd", title="RMSSD", label="strap_rmssd_ms", kind="regression", label_unit="ms"),
        ),
    ),
}
