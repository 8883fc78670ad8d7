"""From a checkpoint to a bundle: weights put together from all ranks' slices, with where they come from."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import ConfigError, StorageError
from xmae_dist.model import bundle, kinds
from xmae_dist.model.readout import named
from xmae_dist.storage import uri
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.engines.protocol import load_replicated, weights_of


def export(
    run_url: str, out_url: str, *, step: int | None = None, best: bool = False, readout: str = ""
) -> dict[str, Any]:
    """Writes the bundle of a run's checkpoint and returns its id, step and URL.

    `best` takes the checkpoint with the least validation error; with neither it is the last of the run. `readout`
    replaces the one that the model usually has. Raises StorageError where the run has no complete checkpoint,
    ConfigError where it has none of that step, none that was validated, not that of its last step, or a model without
    that readout, IntegrityError for damaged ones.
    """
    run_url, out_url = uri.normalise(run_url), uri.checked_place(out_url)
    step = _best_step(run_url) if best else step
    url, manifest = _last(run_url) if step is None else _of_step(run_url, step)
    model = kinds.from_config(kinds.from_dict(manifest["model"]))
    with tempfile.TemporaryDirectory(prefix="xmae-export-") as folder:
        load_replicated(weights_of(model), checkpoint.open_saved(url, manifest, Path(folder)))
    if readout:
        model.read_by(named(readout))
    lineage = {
        "run": run_url,
        "step": manifest["state"]["step"],
        "windows_seen": manifest["state"]["windows_seen"],
        "preset": manifest["config"]["model"]["preset"],
        **{f"{name}_fingerprint": value for name, value in manifest["identity"].items()},
    }
    # Checkpoints of earlier versions name no cohorts, other than those that the run was told to take.
    config = manifest["config"]
    known = {"split": config.get("split", {}), "cohorts": list(manifest.get("cohorts") or config.get("cohorts", ()))}
    bundle_id = bundle.save(
        out_url, model, window_spec=manifest["spec"], lineage=lineage, pretrained_on=known if known["split"] else {}
    )
    return {"bundle_id": bundle_id, "step": manifest["state"]["step"], "url": out_url}


def _best_step(run_url: str) -> int:
    """Of the validations that the newest checkpoint knows, the one with the least error that has a checkpoint."""
    _, newest = _newest(run_url)
    complete = {found.step for found in checkpoint.list_checkpoints(run_url) if found.complete}
    validated = [(error, step) for step, error in newest.get("validated", ()) if step in complete]
    if not validated:
        raise ConfigError(
            "--best",
            value=f"no checkpoint of {run_url} was validated",
            expected="validations at steps that have one",
            fix="leave --best out, or train with --validation.every-steps a multiple of --checkpoint.every-steps",
        )
    return int(min(validated)[1])


def _of_step(run_url: str, step: int) -> tuple[str, dict[str, Any]]:
    known = {found.step: found for found in checkpoint.list_checkpoints(run_url) if found.complete}
    if step not in known:
        raise ConfigError("--step", value=step, expected="one of " + (", ".join(map(str, sorted(known))) or "none yet"))
    return known[step].url, checkpoint.read_manifest(known[step].url)


def _last(run_url: str) -> tuple[str, dict[str, Any]]:
    """The newest checkpoint, if it is all that the run was to train: one that lost its last must not pass for it."""
    url, manifest = _newest(run_url)
    step, document = manifest["state"]["step"], uri.join(run_url, "run.json")
    known = json.loads(uri.read_bytes(document)) if uri.exists(document) else manifest
    steps = known["config"]["train"]["steps"]
    if step not in (steps, known.get("ended_step")):
        raise ConfigError(
            "--step",
            value=f"none, and the newest complete checkpoint of {run_url} is of step {step} of {steps}",
            expected="a run that has ended with its last step stored, or the step to take",
            fix=f"run the same `xmae pretrain` again to finish it, or take this one with --step {step}",
        )
    return url, manifest


def _newest(run_url: str) -> tuple[str, dict[str, Any]]:
    newest = checkpoint.newest_complete(run_url, lambda url, why: print(f"{url}: {why}", file=sys.stderr))
    if newest is None:
        raise StorageError(
            run_url, value="no complete checkpoint", expected="a run with one", fix="check --run, or train longer"
        )
    return newest
