"""Seeds, fingerprints, errors, units and events: the promises the other layers build on."""

from __future__ import annotations

import pickle
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xmae_dist.core.errors import IntegrityError, XmaeError
from xmae_dist.core.fingerprint import canonical_json, digest_json, sha256_hex
from xmae_dist.core.progress import Progress
from xmae_dist.core.seeds import generator, hash_u64, uniform01
from xmae_dist.core.units import canonical_unit


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=20), st.integers(0, 2**31))
def test_a_hash_of_an_array_is_the_hashes_of_its_elements(values: list[int], seed: int) -> None:
    together = hash_u64("mask", seed, np.array(values, dtype=np.int64))
    assert [int(hash_u64("mask", seed, value)) for value in values] == together.tolist()


def test_seeds_are_the_same_in_another_process() -> None:
    # Guards against anything that depends on PYTHONHASHSEED or on process state.
    code = "from xmae_dist.core.seeds import *; print(int(hash_u64('a', 3)), generator('b', 4).random())"
    said = {
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout for _ in "12"
    }
    assert said == {f"{int(hash_u64('a', 3))} {generator('b', 4).random()}\n"}


def test_uniform_numbers_are_uniform_and_uncorrelated_between_neighbours() -> None:
    drawn = uniform01("u", np.arange(200_000))
    assert abs(drawn.mean() - 0.5) < 4 * (1 / 12 / drawn.size) ** 0.5
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.01
    counts, _ = np.histogram(drawn, bins=100, range=(0, 1))
    assert ((counts - 2000) ** 2 / 2000).sum() < 160  # chi-square, 99 degrees of freedom


def test_order_and_kind_of_parts_count() -> None:
    assert len({int(hash_u64(*parts)) for parts in [(1, 2), (2, 1), ("1", 2), (1,), (1, 2, 0)]}) == 5


def test_canonical_json_ignores_order_and_refuses_what_has_no_meaning() -> None:
    assert canonical_json({"b": 1, "a": np.float32(2)}) == b'{"a":2.0,"b":1}'
    assert digest_json({"a": 1, "b": [1, 2]}) == digest_json({"b": [1, 2], "a": 1})
    with pytest.raises(TypeError, match="no canonical form"):
        canonical_json({"model": object()})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


def test_the_digest_of_an_array_is_of_its_little_endian_bytes() -> None:
    values = np.arange(7, dtype="<i2")
    assert sha256_hex(values) == sha256_hex(values.astype(">i2")) == sha256_hex(values.tobytes())
    assert sha256_hex(np.arange(14, dtype="<i2")[::2]) == sha256_hex((np.arange(7, dtype="<i2") * 2).tobytes())


def test_an_error_says_thing_value_expectation_fix_and_survives_a_ray_task() -> None:
    error = IntegrityError("chunk 3 of ecg", value="digest ab", expected="digest cd", fix="restore it")
    again = pickle.loads(pickle.dumps(error))
    assert str(again) == "chunk 3 of ecg: got digest ab; expected digest cd; fix: restore it"
    assert isinstance(again, IntegrityError) and again.exit_status == 1


@pytest.mark.parametrize(
    ("unit", "kept"), [("uV", ("mV", 1e-3)), ("mV", ("mV", 1.0)), ("", ("nu", 1.0)), ("mmHg", ("mmHg", 1.0))]
)
def test_units_have_one_name(unit: str, kept: tuple[str, float]) -> None:
    assert canonical_unit(unit) == kept


def test_an_unknown_unit_is_refused_by_name() -> None:
    with pytest.raises(XmaeError, match="furlong"):
        canonical_unit("furlong")


def test_progress_without_a_terminal_tells_rate_and_remaining_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    shown = Progress("ingest", 10, "records", every_s=0.0)
    shown.advance(1)
    shown.advance(3)
    shown.close()
    said = capsys.readouterr().err
    assert "ingest: 4/10 records" in said and "s left" in said


def test_the_first_of_a_few_things_says_nothing_of_the_time_left(capsys: pytest.CaptureFixture[str]) -> None:
    shown = Progress("embed", 18, "batches", every_s=0.0)
    shown.advance()
    assert "s left" not in capsys.readouterr().err
    shown.advance()
    assert "s left" in capsys.readouterr().err
