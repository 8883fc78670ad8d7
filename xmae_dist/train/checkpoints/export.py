"""From a checkpoint to a bundle: weights put together from all ranks' slices, with where they come from."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from xmae_dist.core.errors import ConfigError, StorageError
from xmae_dist.model import bundle, kinds
from xmae_dist.model.readout import named
from xmae_dist.storage import uri
from xmae_dist.train.checkpoints import checkpoint
from xmae_dist.train.engines.protocol import load_weights


def export(
    run_url: str, out_url: str, *, step: int | None = None, best: bool = False, readout: str = ""
) -> dict[str, Any]:
    """Writes the bundle of a run's checkpoint and returns its id, step and URL.

    `best` takes the checkpoint with the least validation error, `readout` replaces the model's usual one. Raises
    StorageError where the run has no complete checkpoint, ConfigError where it has none of that step, none that was
    validated, or a model without that readout, IntegrityError for damaged ones.
    """
    run_url, out_url = uri.normalise(run_url), uri.normalise(out_url)
    url, manifest = _chosen(run_url, _best_step(run_url) if best else step)
    model = kinds.from_config(kinds.from_dict(manifest["model"]))
    with tempfile.TemporaryDirectory(prefix="xmae-export-") as folder:
        load_weights(model, checkpoint.SavedFiles(checkpoint.fetch(url, manifest, Path(folder)), manifest))
    if readout:
        model.read_by(named(readout))
    lineage = {
        "run": run_url,
        "step": manifest["state"]["step"],
        "windows_seen": manifest["state"]["windows_seen"],
        "preset": manifest["config"]["model"]["preset"],
        **{f"{name}_fingerprint": value for name, value in manifest["identity"].items()},
    }
    bundle_id = bundle.save(out_url, model, window_spec=manifest["spec"], lineage=lineage)
    return {"bundle_id": bundle_id, "step": manifest["state"]["step"], "url": out_url}


def _best_step(run_url: str) -> int:
    """Of the validations that the newest checkpoint knows, the one with the least error that has a checkpoint."""
    _, newest = _chosen(run_url, None)
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


def _chosen(run_url: str, step: int | None) -> tuple[str, dict[str, Any]]:
    if step is not None:
        known = {found.step: found for found in checkpoint.list_checkpoints(run_url) if found.complete}
        if step not in known:
            raise ConfigError(
                "--step", value=step, expected="one of " + (", ".join(map(str, sorted(known))) or "none yet")
            )
        return known[step].url, checkpoint.read_manifest(known[step].url)
    newest = checkpoint.newest_complete(run_url, lambda url, why: print(f"{url}: {why}", file=sys.stderr))
    if newest is None:
        raise StorageError(
            run_url, value="no complete checkpoint", expected="a run with one", fix="check --run, or train longer"
        )
    return newest
