"""Whose order `xmae plan` and `xmae audit` speak of: that of a run, or that of options over a window store."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from xmae_dist.core.errors import UsageError
from xmae_dist.data.order.mixture import MixtureConfig
from xmae_dist.data.order.plan import OrderConfig, Plan, plan_for
from xmae_dist.data.store.window_store import WindowStore
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class OrderOptions:
    """Give --run, or --windows with the options that determine the order."""

    run: str | None = None
    """URL of a pretraining run, whose window store and order are used."""
    windows: str | None = None
    """URL of a window store (as `xmae windows` prints it)."""
    seed: int = 0
    """Seed of the run (--train.seed)."""
    global_batch: int = 64
    """Windows in one step, all ranks together (--train.global-batch of the run)."""
    split: str = "train"
    """Split of the window store that is trained on."""
    read_windows: int | None = None
    """Neighbouring windows that are read together (--train.read-windows); None: one chunk."""
    block_steps: int | None = None
    """Number of steps that share the same stretches of windows (--train.block-steps); None: --read-windows."""
    mixture: MixtureConfig = field(default_factory=MixtureConfig)


@dataclass(frozen=True, kw_only=True)
class Order:
    """A window store, the plan over its split, and the steps of the run (None where no run is meant)."""

    store: WindowStore
    plan: Plan
    split: str
    steps: int | None


def order_from(options: OrderOptions) -> Order:
    """Raises UsageError unless exactly one of `run` and `windows` is given, StorageError where it is not there."""
    if (options.run is None) == (options.windows is None):
        given = "both" if options.run else "neither"
        raise UsageError("--run and --windows", value=given, expected="one of them")
    if options.run is not None:
        return _order_of_run(options.run)
    store = WindowStore.open(str(options.windows), check_origin=False)  # no window is read
    config = OrderConfig(
        seed=options.seed,
        global_batch=options.global_batch,
        split=options.split,
        mixture=options.mixture,
        read_windows=options.read_windows,
        block_steps=options.block_steps,
    )
    return Order(store=store, plan=plan_for(store, config), split=options.split, steps=None)


def _order_of_run(run: str) -> Order:
    document_url = uri.join(uri.normalise(run), "run.json")
    uri.probe(uri.normalise(run))
    if not uri.exists(document_url):
        raise UsageError("--run", value=run, expected="the URL of a pretraining run, which has a run.json")
    document = json.loads(uri.read_bytes(document_url))
    config = document["config"]
    train = config["train"]
    order = OrderConfig(
        seed=train["seed"],
        global_batch=train["global_batch"],
        mixture=MixtureConfig(**config["mixture"]),
        # Runs of versions without these options had the defaults.
        read_windows=train.get("read_windows"),
        block_steps=train.get("block_steps"),
    )
    store = WindowStore.open(document["store"], check_origin=False)
    return Order(store=store, plan=plan_for(store, order), split=order.split, steps=train["steps"])
