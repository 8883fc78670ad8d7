"""The newest metrics of a run as Prometheus gauges, through Ray: every node's metrics endpoint serves what its workers
set, as `ray_xmae_train_<name>`, `ray_xmae_validation_<name>` and `ray_xmae_checkpoint_<name>`, and Ray's own Prometheus
service discovery finds the endpoints.
"""

from __future__ import annotations

from typing import Any

from ray.util.metrics import Gauge

from xmae_dist.train.observe.metrics import Row

_STEP = {
    "step": "Steps done.",
    "windows_seen": "Windows trained on.",
    "loss": "Training loss of the last step.",
    "grad_norm": "Norm of the gradient over all ranks.",
    "windows_per_s": "Windows a second over all ranks.",
    "data_stall": "Share of the last step for which some rank waited for data.",
    "peak_share": "Share of the devices' peak FLOP/s.",
    "communication_s": "Seconds of the last step in collectives, waits for other ranks included (rank 0).",
    "checkpoint_s": "Seconds of the last step for which training waited for a checkpoint (rank 0).",
}
_RANK = {
    "rss_mb": "Resident memory of a training worker, MB.",
    "cuda_peak_mb": "Most GPU memory that PyTorch has held, MB.",
}
_VALIDATION = {
    "own": "Held-out masked error with the own source.",
    "other": "Held-out masked error with another subject's source.",
    "none": "Held-out masked error without a source.",
}
_CHECKPOINT = {
    "step": "Steps done at the newest complete checkpoint.",
    "time_s": "When the newest complete checkpoint was committed, in seconds since 1970.",
}
# Of each kind of row: what its gauges are called before the name of the number, and the numbers.
_KINDS = {
    "step": ("train", _STEP),
    "validation": ("validation", _VALIDATION),
    "checkpoint": ("checkpoint", _CHECKPOINT),
}


class Gauges:
    """Sets one gauge a number; `run` is the label that tells runs apart."""

    def __init__(self, run_url: str) -> None:
        self._run = run_url
        self._gauges: dict[str, Any] = {}
        for prefix, names in _KINDS.values():
            for name, what in names.items():
                self._gauges[f"{prefix}_{name}"] = Gauge(f"xmae_{prefix}_{name}", what, tag_keys=("run",))
        for name, what in _RANK.items():
            self._gauges[f"train_{name}"] = Gauge(f"xmae_train_{name}", what, tag_keys=("run", "rank"))

    def set(self, rows: list[Row]) -> None:
        """Of several rows of a kind the last counts."""
        newest = {row["kind"]: row for row in rows}
        for kind, (prefix, names) in _KINDS.items():
            for name in names:
                if name in newest.get(kind, {}):
                    self._gauges[f"{prefix}_{name}"].set(float(newest[kind][name]), tags={"run": self._run})
        for name in _RANK:
            for rank, value in enumerate(newest.get("step", {}).get(name, ())):
                self._gauges[f"train_{name}"].set(float(value), tags={"run": self._run, "rank": str(rank)})
