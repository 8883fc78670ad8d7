"""The multiset hash and the bytes of rows: order does not count, everything else does."""

from __future__ import annotations

import dataclasses
import math
import random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xmae_dist.storage import index
from xmae_dist.storage.index import IndexRow
from xmae_dist.storage.multiset import MultisetHash
from xmae_dist.storage.row_bytes import CONTENT_COLUMNS, PLACE_COLUMNS, encoded

elements = st.lists(st.binary(max_size=8), max_size=70)


@given(elements, elements, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_a_sum_knows_no_order_and_undoes(one: list[bytes], other: list[bytes], dice: random.Random) -> None:
    mixed = one + other
    dice.shuffle(mixed)
    assert MultisetHash.of(mixed) == MultisetHash.of(one) + MultisetHash.of(other)
    assert MultisetHash.of(mixed) - MultisetHash.of(other) == MultisetHash.of(one)
    assert MultisetHash.from_text(MultisetHash.of(one).to_text()) == MultisetHash.of(one)
    same = sorted(one) == sorted(other)
    assert (MultisetHash.of(one).digest() == MultisetHash.of(other).digest()) == same


def test_an_element_counts_as_often_as_it_is_there() -> None:
    assert MultisetHash.of([b"a", b"a"]) != MultisetHash.of([b"a"]) != MultisetHash()
    assert len({hash(MultisetHash.of([b"a"] * times)) for times in range(4)}) == 4


def test_the_hash_stays_as_it_was_when_corpora_were_written() -> None:
    digest = MultisetHash.of([b"one", b"two", b"two"]).digest()
    assert digest == "4a4f193d3b34d81761da737db4d5deaff97c7b815baf5db69541d4f089e28a01"


def test_a_sum_of_another_size_is_refused() -> None:
    with pytest.raises(ValueError, match="3 bytes"):
        MultisetHash.from_text("AAAA")


text = st.text(max_size=6)
numbers = st.floats(allow_nan=True, allow_infinity=True)
spans = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))
rows = st.builds(
    IndexRow,
    subject_id=text,
    recording_id=text,
    cohort=text,
    part=text,
    channel=text,
    source_name=text,
    array_path=text,
    offset=st.integers(0, 2**40),
    length=st.integers(0, 2**40),
    rate_hz=numbers,
    unit=text,
    start_time_ns=st.none() | st.integers(-(2**60), 2**60),
    clock_id=text,
    gaps=st.lists(spans, max_size=3).map(tuple),
    device=text,
    body_site=text,
    digest=text,
    labels=st.dictionaries(text, numbers, max_size=3),
    label_text=st.dictionaries(text, text, max_size=3),
)


def bytes_of(*given: IndexRow) -> list[bytes]:
    (batch,) = index.to_arrow(given).combine_chunks().to_batches()
    return encoded(batch).to_pylist()  # type: ignore[no-any-return]


def meaning(row: IndexRow) -> str:
    """What a row says, as text that is equal for equal content: the slow way round."""
    kept = {name: value for name, value in dataclasses.asdict(row).items() if name not in PLACE_COLUMNS}
    kept["labels"] = sorted((name, "nan" if math.isnan(value) else value.hex()) for name, value in row.labels.items())
    kept["label_text"] = sorted(row.label_text.items())
    kept["rate_hz"] = "nan" if math.isnan(row.rate_hz) else row.rate_hz.hex()
    return repr(kept)


@given(st.lists(rows, min_size=1, max_size=6), st.data())
@settings(deadline=None, max_examples=100)
def test_rows_have_equal_bytes_where_they_say_the_same(some: list[IndexRow], data: st.DataObject) -> None:
    # Beside each row one that differs in a value, taken from another row or drawn.
    field = data.draw(st.sampled_from(index.columns()))
    others = [dataclasses.replace(row, **{field: getattr(data.draw(rows), field)}) for row in some]
    together = some + others
    written = bytes_of(*together)
    assert len({*written}) == len({meaning(row) for row in together})
    assert [bytes_of(row)[0] for row in together] == written, "a row's bytes depend on no other row"


def test_what_moves_between_columns_is_seen() -> None:
    plain = dataclasses.asdict(
        IndexRow(
            subject_id="s", recording_id="r", cohort="c", part="p", channel="ecg", array_path="a", offset=0, length=1,
            rate_hz=1.0, unit="mV", clock_id="k", digest="d",
        )
    )  # fmt: skip
    pairs = [
        ({"subject_id": "ab", "recording_id": "c"}, {"subject_id": "a", "recording_id": "bc"}),
        ({"labels": {"a": 1.0}}, {"label_text": {"a": "1.0"}}),
        ({"label_text": {"a": "b", "c": "d"}}, {"label_text": {"a": "bc", "": "d"}}),
        ({"gaps": ((0, 1), (2, 3))}, {"gaps": ((0, 1),)}),
        ({"start_time_ns": None}, {"start_time_ns": 0}),
        ({"rate_hz": 0.0}, {"rate_hz": -0.0}),
    ]
    for one, other in pairs:
        first, second = (bytes_of(IndexRow(**{**plain, **changed}))[0] for changed in (one, other))
        assert first != second, (one, other)


def test_maps_are_sorted_and_nulls_are_empty() -> None:
    schema = index.arrow_schema()
    values = {field.name: 1 if pa.types.is_integer(field.type) else "x" for field in schema}
    values |= {"rate_hz": 1.0, "gaps": [], "labels": [], "label_text": []}
    written = [
        {**values, "labels": [("b", 1.0), ("a", 2.0)]},
        {**values, "labels": [("a", 2.0), ("b", 1.0)]},
        {**values, "gaps": None, "labels": None, "label_text": None},
        values,
    ]
    batch = pa.RecordBatch.from_pylist(written, schema=schema)
    one, two, null, empty = encoded(batch).to_pylist()
    assert one == two != null == empty
    assert encoded(batch.slice(2, 2)).to_pylist() == [null, empty]
    assert encoded(batch.slice(0, 0)).to_pylist() == []
    assert set(CONTENT_COLUMNS) | set(PLACE_COLUMNS) == set(index.columns())
