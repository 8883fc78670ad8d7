"""Names are found wherever they can stand in an object, and not in other names."""

from __future__ import annotations

import pyarrow as pa

from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import parquet, uri
from xmae_dist.storage.name_search import Names, search


def found(url: str, *names: str) -> set[tuple[str, str, bool]]:
    known = {sha256_hex(name.encode()): name for name in names}
    return {(one.path, known[one.name_sha256], one.in_rows) for one in search(url, Names(names)).sightings}


def test_bytes_paths_and_every_kind_of_text_column(store_url: str) -> None:
    url = f"{store_url}/things"
    uri.write_bytes(f"{url}/log.json", b'{"min": "patient-7", "max": "patient-70"}')
    uri.write_bytes(f"{url}/patient-7/raw", bytes(1000))
    columns = {
        "plain": pa.array(["other", "patient-7"] * 50),
        "list": pa.array([["x"], ["note of patient-7, late"]] * 50),
        "map": pa.array([[("who", "patient-8")]] * 100, pa.map_(pa.string(), pa.string())),
        "struct": pa.array([{"a": 1, "b": "patient-9"}] * 100),
        "category": pa.array(["patient-6"] * 100).dictionary_encode(),
        "number": pa.array(range(100)),
    }
    uri.write_bytes(f"{url}/rows.parquet", parquet.encode(pa.table(columns)))
    names = [f"patient-{n}" for n in (5, 6, 7, 8, 9)]
    assert found(url, *names) == {
        ("log.json", "patient-7", False),
        ("patient-7/raw", "patient-7", False),
        *(("rows.parquet", f"patient-{n}", True) for n in (6, 7, 8, 9)),
        *((path, name, False) for path, name, in_rows in found(url, *names) if path == "rows.parquet" and not in_rows),
    }


def test_a_name_inside_another_is_none_and_short_names_are_whole_values(store_url: str) -> None:
    url = f"{store_url}/things"
    uri.write_bytes(f"{url}/a.json", b'["patient-70", "apatient-7", 7]')
    uri.write_bytes(f"{url}/b.parquet", parquet.encode(pa.table({"who": ["7", "17"], "note": ["a 7", "b"]})))
    assert found(url, "patient-7") == set()
    assert found(url, "7") == {("b.parquet", "7", True)}


def test_names_that_json_and_logs_quote(store_url: str) -> None:
    url = f"{store_url}/things"
    uri.write_bytes(f"{url}/a.json", b'{"who": "J\\u00fcrgen \\"J\\""}')
    uri.write_bytes(f"{url}/b.json", b'{"path": "who=J%C3%BCrgen%20%22J%22/x"}')
    uri.write_bytes(f"{url}/c.txt", 'Jürgen "J"'.encode())
    assert {path for path, _, _ in found(url, 'Jürgen "J"')} == {"a.json", "b.json", "c.txt"}


def test_the_listing_is_told(store_url: str) -> None:
    url = f"{store_url}/things"
    uri.write_bytes(f"{url}/a", b"abc")
    first = search(url, Names(["nobody"]))
    assert (first.objects, first.bytes) == (1, 3)
    assert search(url, Names([])).listing_sha256 == first.listing_sha256
    uri.write_bytes(f"{url}/a", b"abd")
    assert search(url, Names([])).listing_sha256 != first.listing_sha256
