"""`xmae retire`: takes all rows of a bundle out of an embedding table."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated

import tyro

from xmae_dist.embed.retirement import Retirement, retire
from xmae_dist.model.bundle import describe
from xmae_dist.storage import uri


@dataclass(frozen=True, kw_only=True)
class Args:
    """Permanently remove all rows of a bundle from an embedding table, in one commit.

    Refused while an alias points to the bundle. Without --apply nothing is changed; the command shows what would be
    removed. Older versions of the table hold the rows until `xmae vacuum --table` has run after the grace period. The
    bundle itself is not touched; this table takes no rows of it any more.
    """

    bundle: Annotated[str, tyro.conf.Positional]
    """Id of the bundle, as in the column model_id, or its URL."""
    table: str
    """URL of the embedding table."""
    apply: bool = False
    """Do it."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    is_url = "/" in args.bundle
    model_id = describe(uri.normalise(args.bundle))["bundle_id"] if is_url else args.bundle
    bundle = uri.normalise(args.bundle) if is_url else ""
    done = retire(uri.checked_place(args.table), model_id, bundle=bundle, dry_run=not args.apply)
    if args.json:
        print(json.dumps({"applied": args.apply, **asdict(done)}))
    else:
        _show(done, applied=args.apply)
    return 0


def _show(done: Retirement, *, applied: bool) -> None:
    verb = "taken out" if applied else "would be taken out"
    cohorts = f"{len(done.cohorts)} cohort" + ("s" if len(done.cohorts) != 1 else "")
    print(f"{done.model_id}: {done.rows} rows in {done.files} files ({done.bytes / 2**20:.1f} MiB) of {cohorts} {verb}")
    if not applied:
        print("nothing was changed: add --apply to do it")
    elif done.version is None:
        print("nothing to do: it was retired before")
    else:
        print(f"version {done.version} does not contain them; `xmae vacuum --table` deletes their bytes")
