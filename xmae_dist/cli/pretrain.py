"""`xmae pretrain RECIPE --corpus URL --run URL [--section.option value …]`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from xmae_dist.recipes import RECIPES, recipe
from xmae_dist.train.config import PretrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """A parsed command line."""

    recipe: str
    config: PretrainConfig
    dry_run: bool = False
    """Print the resolved configuration and stop."""
    json: bool = False
    """Print the outcome as JSON."""


def parse(argv: Sequence[str]) -> Args:
    """Raises UsageError without a known recipe; tyro ends with status 2 on an unknown option."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview())
        raise SystemExit(0 if argv else 2)
    name, rest = argv[0], list(argv[1:])
    default = recipe(name)
    flags = {flag: flag in rest for flag in ("--dry-run", "--json")}
    import tyro

    config = tyro.cli(
        PretrainConfig,
        prog=f"xmae pretrain {name}",
        description=f"{RECIPES[name][0]}. Also: --dry-run prints the configuration only; --json the outcome.",
        default=default,
        args=[word for word in rest if word not in flags],
    )
    return Args(recipe=name, config=config, dry_run=flags["--dry-run"], json=flags["--json"])


def run(args: Args) -> int:
    from xmae_dist.train.launch import config_dict, pretrain

    print(f"recipe {args.recipe}\n{json.dumps(config_dict(args.config), indent=1)}", file=sys.stderr, flush=True)
    if args.dry_run:
        return 0
    outcome = pretrain(args.config)
    if args.json:
        print(json.dumps(dataclasses.asdict(outcome)))
    else:
        print(f"run {outcome.run}: step {outcome.step}, loss {outcome.loss}")
        for url in outcome.figures:
            print(f"figure {url}")
    return 0


def _overview() -> str:
    width = max(map(len, RECIPES))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, (what, _) in RECIPES.items())
    return (
        "usage: xmae pretrain RECIPE --corpus URL --run URL [--windows URL] [--section.option value ...]\n\n"
        f"recipes:\n{rows}\n\n"
        "`xmae pretrain RECIPE --help` lists every option with the recipe's values. The same command again goes on\n"
        "from the newest complete checkpoint."
    )
