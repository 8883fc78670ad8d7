"""`xmae models`: which bundle each alias of an embedding table means, and which bundles have rows there."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Annotated, Any

import tyro

from xmae_dist.embed.registry import Move, Registry, State
from xmae_dist.storage.table import Table


@dataclass(frozen=True, kw_only=True)
class Args:
    """List the aliases of an embedding table, their history, and the bundles with rows in it.

    Reads the registry and the log, no rows.
    """

    table: Annotated[str, tyro.conf.Positional]
    """URL of the embedding table."""
    json: bool = False
    """Print one JSON object."""


def run(args: Args) -> int:
    """Carries the command out and returns its exit status."""
    registry = Registry(args.table)
    state = registry.state()
    main = Table(registry.table_url).newest()
    held = main.partition_values("model_id") if main else []
    if args.json:
        print(json.dumps(_document(state, held)))
        return 0
    for alias, stack in sorted(state.stacks.items()):
        print(f"{alias}: {stack[-1].model_id} ({stack[-1].bundle})")
        for move in (one for one in state.moves if one.alias == alias):
            why = f", evaluation {move.evaluation}" if move.evaluation else ""
            print(f"  {move.at:%Y-%m-%d %H:%M} {move.action}: {move.model_id}{why}")
    if not state.stacks:
        print("no alias was given yet; `xmae promote` gives one")
    for model_id in sorted({*held, *state.retired}):
        print(f"bundle {model_id}: {_standing(model_id, state, held)}")
    return 0


def _standing(model_id: str, state: State, held: list[str]) -> str:
    rows = "has rows" if model_id in held else "no rows"
    if model_id in state.retired:
        return f"retired, {rows}" + ("; `xmae retire` again takes them out" if model_id in held else "")
    return ", ".join([rows, *state.aliases_of(model_id)])


def _document(state: State, held: list[str]) -> dict[str, Any]:
    return {
        "aliases": {alias: _told(stack[-1]) for alias, stack in state.stacks.items()},
        "moves": [_told(one) for one in state.moves],
        "with_rows": held,
        "retired": sorted(state.retired),
    }


def _told(move: Move) -> dict[str, Any]:
    return {**asdict(move), "at": move.at.isoformat()}
