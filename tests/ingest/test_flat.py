"""What grows with the number of files lies on disk: listings, items, the register, duplicates; and reads are few."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import tarfile
from collections import defaultdict
from pathlib import Path

import pyarrow as pa
import pytest
from wfdb_files import pulse, write_record

from xmae_dist.core.errors import InputError
from xmae_dist.core.scratch import scratch
from xmae_dist.ingest.discover import discover
from xmae_dist.ingest.formats.items import Folder
from xmae_dist.ingest.formats.listing import ListedFile, Listing
from xmae_dist.ingest.formats.mapping import parse_mapping
from xmae_dist.ingest.run import IngestRequest, ingest
from xmae_dist.ingest.twins import Twins
from xmae_dist.storage import uri
from xmae_dist.storage.corpus import Corpus
from xmae_dist.testing.s3_server import S3Server

FROZEN = Path(__file__).parent / "frozen" / "ingest-run-v2-part-v1.tar.gz"
TABLES = parse_mapping("layout='columns'\nrate_hz=30\nfiles='*.csv'\n[[channels]]\nname='ppg'\ncolumn='G'\n", "m.toml")


def given(folder: Path | str, corpus: Path, **changes: object) -> IngestRequest:
    return IngestRequest(inputs=(str(folder),), corpus_url=f"file://{corpus}", cohort="c", **changes)  # type: ignore[arg-type]


_MANY = """
import resource, sys
from xmae_dist.ingest.formats.items import Item
from xmae_dist.ingest.formats.listing import ListedFile, Listing
from xmae_dist.ingest.offer import Offer
from xmae_dist.ingest.twins import Twins
count = int(sys.argv[1])
listing = Listing(ListedFile(path=f"a/{at:08d}.dat", bytes=at, version=str(at)) for at in range(count))
offer = Offer()
for at, name in enumerate(listing):
    offer.add(Item(name=name, folder_url="file:///f", head=name, files=(name,), bytes=listing[name],
                   fingerprint=f"{at:016x}", mark=f"{at:016x}"))
twins = Twins()
for start in range(0, count, 5000):
    twins.add([(f"{at * 2654435761 % 2**32:08x}" * 8, f"{at:08d}") for at in range(start, start + 5000)])
assert sum(1 for _ in offer.items()) == count == len(listing)
assert twins.same(1000).recordings == 0
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def test_memory_does_not_grow_with_the_number_of_files() -> None:
    def peak_mib(count: int) -> float:
        told = subprocess.run([sys.executable, "-c", _MANY, str(count)], capture_output=True, text=True, check=True)
        return float(told.stdout)

    # A hundred thousand more: a byte each would be 0.1 MiB, as Python objects they were a hundred.
    assert peak_mib(120_000) - peak_mib(20_000) < 12


def test_scratch_lies_in_the_temporary_folder_and_leaves_nothing(tmp_path: Path) -> None:
    program = (
        "import os; from xmae_dist.core.scratch import scratch\n"
        "rows = scratch('CREATE TABLE t (x TEXT);')\n"
        "rows.executemany('INSERT INTO t VALUES (?)', (('x' * 1000,) for _ in range(20_000)))\n"
        "places = (f'/proc/self/fd/{n}' for n in os.listdir('/proc/self/fd'))\n"
        "print([os.readlink(place) for place in places if os.path.islink(place)])\n"
    )
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    environment.pop("SQLITE_TMPDIR", None)
    told = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment
    ).stdout
    assert str(tmp_path) in told and not list(tmp_path.iterdir())


def test_a_listing_is_a_mapping_that_may_be_marked_while_it_is_read() -> None:
    names = [
        f"{folder}{at:04d}.{suffix}" for folder in ("", "b/", "a/c/") for at in range(1500) for suffix in ("HEA", "x")
    ]
    listing = Listing(ListedFile(path=name, bytes=at, version="") for at, name in enumerate(names))
    seen = []
    for name in listing:
        listing.name(name)
        listing.use(name)
        seen.append(name)
    assert len(seen) == len(listing) == len(names) and set(seen) == set(names)
    assert "b/0007.x" in listing and "b/7.x" not in listing and listing["b/0007.x"] == names.index("b/0007.x")
    assert sum(1 for _ in listing.ending((".hea",))) == 4500
    assert not list(listing.unused()) and not list(listing.unnamed((".x",)))
    with pytest.raises(KeyError):
        listing["nothing"]


@pytest.mark.parametrize("kind", ["wfdb", "tables"])
def test_a_second_run_looks_into_no_file(
    kind: str, good_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for at in range(3):
        (good_folder / f"t{at}.csv").write_text("G\n" + "\n".join(map(str, pulse(300, at))) + "\n")
    request = given(good_folder, tmp_path / "c", mapping=TABLES if kind == "tables" else None)
    assert ingest(request).kept.count == 3
    looked: list[str] = []
    read = Folder._read
    monkeypatch.setattr(
        Folder, "_read", lambda self, pieces: looked.extend(name for name, *_ in pieces) or read(self, pieces)
    )
    again = ingest(request)
    assert (again.known, again.version, looked) == (3, None, [])
    # Touched, it is looked into and found to be the same; another one is new.
    touched = good_folder / ("t1.csv" if kind == "tables" else "r1.hea")
    os.utime(touched, ns=(1, 1))
    assert (ingest(request).known, looked) == (3, [touched.name])
    changed = good_folder / ("t2.csv" if kind == "tables" else "r2.hea")
    changed.write_text(changed.read_text().replace("0", "1"))
    assert [one.name for one in ingest(request).rejected.first] == [changed.stem]


def test_segments_of_a_record_are_not_read_again_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "in"
    for at, name in enumerate(("a_first", "m_second")):
        write_record(folder, name, {"II": pulse(500, at)})
    (folder / "k.hea").write_text("k/2 1 100 1000\na_first 500\nm_second 500\n")
    assert [one.name for one in ingest(given(folder, tmp_path / "c")).kept.first] == ["k"]
    monkeypatch.setattr(Folder, "_read", lambda *_: pytest.fail("a header was read"))
    again = ingest(given(folder, tmp_path / "c"))
    assert (again.known, again.rejected.count) == (1, 0)


def test_a_bucket_is_listed_page_by_page_and_its_tables_are_read_at_once(s3: S3Server) -> None:
    url = uri.join(s3.bucket_url(), "raw")
    fs, path = uri.filesystem(url)
    fs.pipe({f"{path}/{at:04d}.csv": b"G\n" + f"{at}\n".encode() * 40 for at in range(1100)})
    fs.pipe({f"{path}/big.csv": b"G\n" + b"1\n" * 70_000, f"{path}/empty.csv": b""})
    offer = discover([url], TABLES)
    assert offer.count("offered") == 1102
    items = {item.name: item for item in offer.items()}
    assert len({item.fingerprint for item in items.values()}) == len({item.mark for item in items.values()}) == 1102
    assert items["big"].bytes == 140_002 and all(item.mark for item in items.values())


def test_the_same_file_has_the_same_fingerprint_in_a_folder_and_in_a_bucket(tmp_path: Path, s3: S3Server) -> None:
    for name, size in (("empty", 0), ("small", 10), ("edge", 65_536), ("large", 200_000)):
        (tmp_path / f"{name}.csv").write_bytes(os.urandom(size))
    url = uri.join(s3.bucket_url(), "raw")
    uri.upload_tree(tmp_path, url)
    local, remote = (
        {item.name: item.fingerprint for item in discover([one], TABLES).items()} for one in (str(tmp_path), url)
    )
    assert local == remote and len(local) == 4


def test_a_wrong_input_makes_no_corpus(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        ingest(given(tmp_path / "nowhere", tmp_path / "c"))
    assert not (tmp_path / "c" / "corpus.json").exists()


def test_duplicates_are_those_that_a_plain_comparison_finds() -> None:
    chance = random.Random(3)
    digests = [f"{chance.getrandbits(256):064x}" for _ in range(40)]
    signals = [(chance.choice(digests), f"r{chance.randrange(60):02d}") for _ in range(70)]
    earlier = [(chance.choice(digests), f"e{at}") for at in range(15)]
    twins = Twins()
    for start in range(0, len(signals), 7):
        twins.add(signals[start : start + 7])
    columns = {"cohort": ["old"] * 15, "recording_id": [name for _, name in earlier], "digest": [d for d, _ in earlier]}
    twins.compare(pa.table(columns).to_batches(max_chunksize=4))
    found = twins.same(1000)
    by_digest = defaultdict(set)
    for digest, name in signals:
        by_digest[digest].add(name)
    for digest, name in earlier:
        if digest in by_digest:
            by_digest[digest].add(f"old/{name}")
    groups = [names for names in by_digest.values() if len(names) > 1]
    merged: list[set[str]] = []
    for group in groups:
        touching = [one for one in merged if one & group]
        merged = [one for one in merged if not one & group] + [group.union(*touching)]
    assert found.groups == tuple(sorted(tuple(sorted(group)) for group in merged))
    assert found.recordings == len(set().union(*groups)) > 20


def test_a_register_of_the_version_before_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs of version 2 and a note of version 1, written by the code that had them: two records and a table of two
    recordings in, two more records written and not committed.
    """
    with tarfile.open(FROZEN) as tar:
        tar.extractall(tmp_path, filter="data")
    for stem in ("r2", "r3"):  # their samples are in the part already
        path = tmp_path / "raw" / f"{stem}.dat"
        path.write_bytes(bytes(path.stat().st_size))
    report = ingest(given(tmp_path / "raw", tmp_path / "corpus"))
    assert (report.known, report.resumed_parts, [one.name for one in report.kept.first]) == (2, 1, ["r2", "r3"])
    assert len(list(Corpus.open(f"file://{tmp_path}/corpus").snapshot().recordings())) == 6
    mapping = parse_mapping((tmp_path / "raw" / "m.toml").read_text(), "m.toml")
    rows = IngestRequest(
        inputs=(f"{tmp_path}/raw",), corpus_url=f"file://{tmp_path}/corpus", cohort="rows", mapping=mapping
    )
    assert ingest(rows).known == 1


def test_scratch_databases_are_apart() -> None:
    one, other = scratch("CREATE TABLE t (x);"), scratch("CREATE TABLE t (x);")
    one.execute("INSERT INTO t VALUES (1)")
    assert other.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_a_full_temporary_folder_is_named(good_folder: Path, tmp_path: Path) -> None:
    program = (
        "import resource, signal, sys\n"
        "from xmae_dist.cli.main import main\n"
        "from xmae_dist.core import scratch\n"
        "scratch._CACHE_KIB = 4\n"  # so that a few files are more than memory takes
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    for at in range(300):
        (good_folder / f"a-rather-long-name-of-a-file-{at:04d}.csv").write_text("G\n1\n")
    words = ["ingest", str(good_folder), "--corpus", f"{tmp_path}/c", "--cohort", "c"]
    told = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=False)
    assert told.returncode == 1 and "TMPDIR" in told.stderr and "Traceback" not in told.stderr
