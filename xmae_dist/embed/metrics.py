"""Gauges of a tick as a text file, which node_exporter's textfile collector hands to Prometheus.

A tick is a process that ends, so there is nothing to scrape: the file keeps what the last one said. It is replaced
whole. That no tick ends any more shows in the age of `xmae_embed_tick_time_s`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from xmae_dist.embed.familiar import DIFFERENT
from xmae_dist.embed.pipeline import Held
from xmae_dist.embed.tick import EXIT_STATUS, Tick

GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "xmae_embed_tick_time_s": ("When the last tick ended, in seconds since 1970.", ()),
    "xmae_embed_tick_status": ("Exit status of the last tick.", ()),
    "xmae_embed_lag_s": ("Seconds that the oldest change of a cohort has waited to be embedded.", ()),
    "xmae_embed_cohorts_behind": ("Cohorts with changes that are not embedded.", ()),
    "xmae_embed_cohorts_failed": ("Cohorts that could not be embedded.", ()),
    "xmae_embed_held": ("1 where a cohort is held back since it is like nothing known.", ("cohort",)),
    "xmae_embed_drift": ("1 where a cohort's newest people are like no known cohort.", ("cohort",)),
    "xmae_embed_drift_auc": ("AUC of a cohort's newest people against the nearest known.", ("cohort", "nearest")),
}
"""By name: what it says, and its labels beside `table`."""


def write(path: str, tick: Tick, table_url: str) -> None:
    """Replaces the file at `path`. Raises OSError where it cannot be written."""
    registry = CollectorRegistry()
    gauges = {name: Gauge(name, what, ("table", *labels), registry=registry) for name, (what, labels) in GAUGES.items()}
    for name, labels, value in _values(tick):
        gauges[name].labels(table_url, *labels).set(value)
    write_to_textfile(path, registry)


def _values(tick: Tick) -> Iterator[tuple[str, tuple[str, ...], float]]:
    yield "xmae_embed_tick_time_s", (), time.time()
    yield "xmae_embed_tick_status", (), EXIT_STATUS[tick.state]
    yield "xmae_embed_lag_s", (), tick.lag.lag_s
    yield "xmae_embed_cohorts_behind", (), len(tick.lag.lag_s_of)
    yield "xmae_embed_cohorts_failed", (), len(tick.failed)
    for cohort, outcome in tick.outcomes.items():
        yield "xmae_embed_held", (cohort,), isinstance(outcome, Held)
    for cohort, one in tick.likeness.items():
        yield "xmae_embed_drift", (cohort,), one.state == DIFFERENT
        if one.auc is not None:
            yield "xmae_embed_drift_auc", (cohort, one.nearest), one.auc
