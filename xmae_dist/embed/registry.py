"""Which bundle an alias of an embedding table means: a Delta table of moves, of which the newest of an alias counts.

    <table>/_models/    a row a move; nothing is ever changed or taken away

A move is one commit. Of two that see the same state one wins; the other is told. Promoting a bundle and retiring it
hold each other off by an application id of the bundle. Memory: all moves, some hundred bytes each, as many as people
ever made.
"""

from __future__ import annotations

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

import pyarrow as pa

from xmae_dist.core.errors import InputError, IntegrityError, RunError, UsageError, some_of
from xmae_dist.embed.request import Encoder, read_encoder
from xmae_dist.storage import uri
from xmae_dist.storage.table import Guard, PinnedTable, Table

SCHEMA = pa.schema(
    [
        ("alias", pa.string()),
        ("number", pa.int64()),
        ("action", pa.string()),
        ("model_id", pa.string()),
        ("bundle", pa.string()),
        ("evaluation", pa.string()),
        ("evaluation_version", pa.int64()),
        ("comparison", pa.string()),
        ("run", pa.string()),
        ("at", pa.timestamp("us", tz="UTC")),
    ]
)
"""A row a move; docs/promotion.md says what the columns mean."""
PROMOTED, FORCED, RETURNED, RETIRED = "promoted", "forced", "returned", "retired"
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A bundle, and what it was promoted on."""

    model_id: str
    bundle: str
    """URL."""
    evaluation: str = ""
    """URL of the evaluation; "" for none."""
    evaluation_version: int | None = None
    """Of its table of results, as it was read."""
    comparison: str = ""
    """JSON: the tasks, and how it did against the bundle that the alias meant before."""
    run: str = ""
    """URL of the pretraining run that the bundle comes from; "" where it does not say."""


@dataclass(frozen=True, kw_only=True)
class Move(Model):
    """One entry of the registry."""

    alias: str
    """"" for what concerns a bundle under every alias."""
    number: int
    """Counts the moves of an alias, from 1."""
    action: str
    at: datetime.datetime = field(default_factory=lambda: _now())


@dataclass(frozen=True, kw_only=True)
class State:
    """What the moves of a registry come to."""

    moves: Sequence[Move]
    """In the order in which each alias was moved."""
    stacks: Mapping[str, Sequence[Move]]
    """Of each alias the promotions that were not taken back, oldest first; the last one counts."""
    retired: frozenset[str]
    """Ids of bundles."""

    def meant_by(self, alias: str) -> Move | None:
        stack = self.stacks.get(alias)
        return stack[-1] if stack else None

    def aliases_of(self, model_id: str) -> list[str]:
        return sorted(alias for alias, stack in self.stacks.items() if stack[-1].model_id == model_id)

    def refuse_meant(self, model_id: str) -> None:
        """Raises InputError where an alias means the bundle."""
        if aliases := self.aliases_of(model_id):
            raise InputError(
                f"bundle {model_id}",
                value=f"it is what {some_of(aliases)} means",
                expected="a bundle that no alias means",
                fix="promote another bundle first, or go back with `xmae promote --back`",
            )

    def next_number(self, alias: str) -> int:
        return 1 + max((one.number for one in self.moves if one.alias == alias), default=0)


class Registry:
    """The aliases of an embedding table."""

    def __init__(self, table_url: str) -> None:
        self.table_url = uri.checked_place(table_url)
        self._table = Table(uri.join(self.table_url, "_models"))

    def state(self) -> State:
        there = self._table.newest()
        return _state(there) if there else State(moves=(), stacks={}, retired=frozenset())

    def resolve(self, alias: str) -> Move:
        """What an alias means now. Raises InputError for one that was never given, listing those that were."""
        state = self.state()
        found = state.meant_by(alias)
        if found is None:
            there = some_of(sorted(state.stacks)) or "none was given yet"
            raise InputError(
                f"model {alias!r} of {self.table_url}",
                value="no such alias",
                expected=f"one of: {there}",
                fix=f"`xmae promote BUNDLE --as {alias} --table {self.table_url} --evaluation URL`, or --bundle URL",
            )
        return found

    def promote(self, alias: str, model: Model, *, seen: State, forced: bool) -> Move:
        """Lets an alias mean a bundle, if it still means what it did in the state that was `seen`.

        Raises InputError for a bundle that was retired, RunError where somebody else moved the alias.
        """
        action = FORCED if forced else PROMOTED
        return self._move(Move(**asdict(model), alias=checked(alias), number=seen.next_number(alias), action=action))

    def go_back(self, alias: str) -> Move:
        """Lets an alias mean what it did before its last promotion. Raises InputError where there was none before, or
        its bundle was retired, RunError where somebody else moved the alias.
        """
        self.resolve(alias)
        state = self.state()
        stack = state.stacks[alias]
        if len(stack) < 2:
            raise InputError(
                f"model {alias!r} of {self.table_url}",
                value=f"no bundle before {stack[-1].model_id}",
                expected="an earlier promotion to go back to",
                fix="promote another bundle",
            )
        return self._move(replace(stack[-2], number=state.next_number(alias), action=RETURNED, at=_now()))

    def retire(self, model_id: str, bundle: str) -> None:
        """Notes that a bundle is not to be used any more; once. Raises InputError while an alias means it."""

        def guard(base: PinnedTable) -> list[str]:
            _state(base).refuse_meant(model_id)
            return [_id_of(model_id)]

        self._append(Move(alias="", number=1, action=RETIRED, model_id=model_id, bundle=bundle), guard)

    def _move(self, move: Move) -> Move:
        def guard(base: PinnedTable) -> list[str]:
            if move.model_id in _state(base).retired:
                raise InputError(
                    f"bundle {move.model_id}",
                    value=f"it was retired from {self.table_url}",
                    expected="a bundle whose rows the table may hold",
                    fix="promote another",
                )
            return [_id_of(move.model_id)]

        if not self._append(move, guard):
            raise RunError(
                f"model {move.alias!r} of {self.table_url}",
                value="another move of it came first",
                expected="what it meant when this command began",
                fix="look with `xmae models`, then run this again",
            )
        return move

    def _append(self, move: Move, guard: Guard) -> bool:
        row = pa.Table.from_pylist([asdict(move)], schema=SCHEMA)
        # A bundle is retired once; an alias is moved once from each state.
        txn = (f"alias:{move.alias}", move.number) if move.alias else (f"retired:{move.model_id}", 1)
        told = {"alias": move.alias, "action": move.action, "model_id": move.model_id}
        return self._table.append(row, txn=txn, metadata=told, guard=guard) is not None


def encoder_meant(table_url: str, alias: str) -> Encoder:
    """The encoder that an alias means now. Raises InputError for an unknown alias, IntegrityError where another bundle
    lies at its URL by now.
    """
    meant = Registry(table_url).resolve(alias)
    encoder = read_encoder(meant.bundle)
    if encoder.model_id != meant.model_id:
        raise IntegrityError(
            f"bundle {meant.bundle}, which {alias!r} means",
            value=encoder.model_id,
            expected=f"{meant.model_id}, as it was promoted",
            fix="put the promoted bundle back, or promote this one",
        )
    return encoder


def checked(alias: str) -> str:
    """Raises UsageError for what cannot be an alias."""
    if not _ALIAS.fullmatch(alias):
        raise UsageError(
            "--as",
            value=repr(alias),
            expected="a letter, then up to 63 letters, digits, dots, dashes or underscores",
            fix="such as champion",
        )
    return alias


def _state(there: PinnedTable) -> State:
    rows = there.collected(lambda batches: [row for batch in batches for row in batch.to_pylist()])
    moves = sorted((Move(**row) for row in rows), key=lambda one: (one.alias, one.number))
    stacks: dict[str, list[Move]] = {}
    for move in moves:
        if move.action == RETURNED:
            stacks[move.alias].pop()
        elif move.alias:
            stacks.setdefault(move.alias, []).append(move)
    return State(moves=moves, stacks=stacks, retired=frozenset(one.model_id for one in moves if one.action == RETIRED))


def _id_of(model_id: str) -> str:
    return f"model:{model_id}"


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
