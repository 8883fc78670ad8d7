"""`xmae pretrain RECIPE --corpus URL --run URL [--section.option value …]`."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from xmae_dist.cli.folded import folded, rows
from xmae_dist.cli.options import parsed
from xmae_dist.recipes import RECIPES, recipe
from xmae_dist.train.config import PretrainConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class Args:
    """A parsed command line."""

    recipe: str
    config: PretrainConfig
    dry_run: bool = False
    """Print the whole configuration as JSON and stop."""
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
    config = parsed(
        PretrainConfig,
        [word for word in rest if word not in flags],
        prog=f"xmae pretrain {name}",
        description=f"Recipe {name}: {RECIPES[name][0]}\n\n--dry-run prints the whole configuration and stops; --json "
        "prints the outcome as JSON.",
        default=default,
        sections=True,
    )
    return Args(recipe=name, config=config, dry_run=flags["--dry-run"], json=flags["--json"])


def run(args: Args) -> int:
    from xmae_dist.train.launch import config_dict, pretrain

    if args.dry_run:
        print(json.dumps(config_dict(args.config), indent=1))
        return 0
    differing = changed(config_dict(args.config), config_dict(recipe(args.recipe)))
    kept = f"whole configuration: {args.config.run.rstrip('/')}/run.json, or --dry-run"
    print("\n".join([f"recipe {args.recipe}", *differing, kept]), file=sys.stderr, flush=True)
    outcome = pretrain(args.config)
    if args.json:
        print(json.dumps(dataclasses.asdict(outcome)))
        return 0
    loss = "" if outcome.loss is None else f", loss {outcome.loss:.4f}"
    print(f"run {outcome.run}: step {outcome.step}{loss}")
    if outcome.verdict is not None:
        print(outcome.verdict)
    for url in outcome.figures:
        print(f"figure {url}")
    return 0


def changed(chosen: dict[str, Any], usual: dict[str, Any]) -> list[str]:
    """A line for each option whose value is not the usual one, as it would be typed."""
    default = dict(_flat(usual))
    return [f"  --{name.replace('_', '-')} {value}" for name, value in _flat(chosen) if value != default.get(name)]


def _flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """Options by their dotted names."""
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def _overview() -> str:
    usage = "usage: xmae pretrain RECIPE --corpus URL --run URL [--windows URL] [--section.option value ...]"
    recipes = rows({name: what for name, (what, _) in RECIPES.items()})
    more = (
        "`xmae pretrain RECIPE --help` lists every option with the recipe's values. The same command again continues "
        "from the newest complete checkpoint."
    )
    return f"{folded(usage)}\n\nrecipes:\n{recipes}\n\n{folded(more)}"
