"""What a hostile pickle can reach: nothing. And what NumPy itself writes is read to the last bit."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.datasets.array_pickles import load_arrays


class Reduced:
    """Pickled as the call of `function` with `arguments`, and a state."""

    def __init__(self, function: Any, arguments: tuple[Any, ...], *state: Any) -> None:
        self._reduced = (function, arguments, *state)

    def __reduce__(self) -> Any:
        return self._reduced


_reconstruct = np.arange(1).__reduce__()[0]
_scalar = np.float64(1).__reduce__()[0]
SHELL = Reduced(os.system, ("touch owned",))
HOSTILE: dict[str, Any] = {
    "a command": SHELL,
    "a command within": {"signal": SHELL},
    "a command in an array": {"label": np.array([SHELL], dtype=object)},
    "memory that nobody filled": {"a": Reduced(np.ndarray, ((4096,), "u1"))},
    "the same by another way": {"a": Reduced(_reconstruct, (np.ndarray, (4096,), b"b"))},
    "more elements than bytes": {
        "a": Reduced(_reconstruct, (np.ndarray, (0,), b"b"), (1, (4096,), np.dtype("u1"), False, b"x"))
    },
    "a negative length": {
        "a": Reduced(_reconstruct, (np.ndarray, (0,), b"b"), (1, (-1, -1), np.dtype("u1"), False, b"x"))
    },
    "fields": {"a": np.zeros(2, [("x", "i8"), ("y", "f8")])},
    "fields outside their element": {
        "a": Reduced(np.dtype, ("V4", False, True), (3, "|", None, ("x",), {"x": (np.dtype("i8"), 10**6)}, 4, 1, 16))
    },
    "fields of a plain type": {
        "a": Reduced(np.dtype, ("f8", False, True), (3, "<", None, ("x",), {"x": (np.dtype("i8"), 800)}, 8, 1, 16))
    },
    "objects": {"a": np.array([1, "x", None], dtype=object)},
    "a scalar of objects": {"a": Reduced(_scalar, (np.dtype("O"), b"12345678"))},
    "a very wide text": {"a": Reduced(np.dtype, ("S999999999", False, True))},
    "a getter": {"a": Reduced(getattr, (np.ndarray, "tofile"))},
    "a class": {"a": Path("x")},
}


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_plain_array_is_refused(
    what: str, protocol: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "S1.pkl"
    path.write_bytes(pickle.dumps(HOSTILE[what], protocol=protocol))
    with pytest.raises(InputError, match="arrays and plain values only"):
        load_arrays(path)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize(
    ("what", "program"),
    [
        ("as much memory as it likes", b"\x80\x02}r\xff\xff\xff\x7f."),
        ("the same in text", b"}p2147483647\n."),
        ("a change of a constructor", b"\x80\x02c_codecs\nencode\n}X\x01\x00\x00\x00aK\x01sb."),
        ("the same by slots", b"\x80\x02c_codecs\nencode\nN}X\x06\x00\x00\x00_buildK\x01s\x86b."),
        ("an instance", b"\x80\x02cnumpy\nndarray\n)\x81."),
        ("an old instance", b"(inumpy\nndarray\n."),
        ("an old object", b"\x80\x02(cnumpy\nndarray\no."),
        ("something persistent", b"Pmodule\n."),
        ("an extension", b"\x80\x02\x82\x01."),
        ("another codec", b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x06\x00\x00\x00base64\x86R."),
    ],
)
def test_instructions_that_arrays_do_not_need_are_refused(what: str, program: bytes, tmp_path: Path) -> None:
    path = tmp_path / "S1.pkl"
    path.write_bytes(program)
    with pytest.raises(InputError, match="arrays and plain values only"):
        load_arrays(path)


def _plain() -> dict[str, Any]:
    chance = np.random.default_rng(0)
    return {
        "signal": {"wrist": {"BVP": chance.standard_normal((50, 1)), "ACC": chance.integers(-9, 9, (20, 3))}},
        "by column": np.asfortranarray(chance.standard_normal((4, 3))),
        "other order": np.arange(5, dtype=">i2"),
        "flags": np.array([True, False]),
        "texts": np.array(["a", "bcd"]),
        "bytes": np.array([b"a", b"bcd"]),
        "none": np.empty((0, 3), np.float32),
        "one": np.array(3.5),
        "scalar": np.float32(1.25),
        "plain": [1, 2.5, "text", None, True, (1, 2)],
        "subject": "S2",
    }


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4])
def test_what_numpy_writes_is_read_to_the_last_bit(protocol: int, tmp_path: Path) -> None:
    path, plain = tmp_path / "S1.pkl", _plain()
    path.write_bytes(pickle.dumps(plain, protocol=protocol))
    found = load_arrays(path)
    assert found["plain"] == plain["plain"] and found["subject"] == "S2" and found["scalar"] == 1.25
    for name in ("by column", "other order", "flags", "texts", "bytes", "none", "one"):
        native = plain[name].astype(plain[name].dtype.newbyteorder("="))  # as NumPy itself reads it
        np.testing.assert_array_equal(np.asarray(found[name]), native, strict=True)
    for name, values in plain["signal"]["wrist"].items():
        np.testing.assert_array_equal(np.asarray(found["signal"]["wrist"][name]), values, strict=True)


def test_damage_is_an_input_error_or_another_dictionary(tmp_path: Path) -> None:
    path, chance = tmp_path / "S1.pkl", random.Random(1)
    refused = 0
    for protocol in (0, 2, 4):
        whole = pickle.dumps(_plain(), protocol=protocol)
        for _ in range(400):
            damaged = bytearray(whole)
            for _ in range(chance.randint(1, 4)):
                damaged[chance.randrange(len(damaged))] = chance.randrange(256)
            path.write_bytes(bytes(damaged if chance.random() < 0.8 else damaged[: chance.randrange(len(damaged))]))
            try:
                assert isinstance(load_arrays(path), dict)
            except InputError:
                refused += 1
    assert 200 < refused < 1200
