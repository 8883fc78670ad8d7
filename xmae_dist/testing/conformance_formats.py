"""What every format of recordings must do for ingest: one suite that WFDB, EDF, tables and any other pass alike.

A test module subclasses `FormatConformance` and offers the fixtures `entry` (the format), `sample` (a file written by
an independent library, and what it must hold) and `longer` (the same kind of file, any number of times as long).
"""

from __future__ import annotations

import contextlib
import tracemalloc
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from xmae_dist.core.errors import InputError
from xmae_dist.ingest.formats.items import Item, listed
from xmae_dist.ingest.formats.protocol import Format
from xmae_dist.ingest.formats.source import SourceRecording, physical
from xmae_dist.storage import uri

# Blocks and what a reader holds beside them; recordings have any length.
LARGEST_BLOCK_BYTES = 64 * 2**20


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A folder with one recording. `signals`: channel key -> physical values (n,) in the unit of the channel, float64,
    NaN where nothing was recorded; `rates_hz` likewise. `body` is the file with the samples, where it is not `head`.
    """

    folder: Path
    head: str
    signals: Mapping[str, NDArray[np.float64]]
    rates_hz: Mapping[str, float]
    start_time_ns: int | None
    recording_id: str
    tolerance: float = 1e-6
    body: str = ""


def read_whole(recording: SourceRecording) -> dict[str, NDArray[np.float32]]:
    """Channel key -> physical values (n,) of all blocks."""
    pieces: dict[str, list[NDArray[np.float32]]] = {channel.key: [] for channel in recording.channels}
    for block in recording.blocks():
        assert set(block) == set(pieces), "every block has every channel, if only as an empty array"
        for channel in recording.channels:
            raw = block[channel.key]
            assert raw.ndim == 1 and raw.dtype == np.dtype(channel.dtype), f"{channel.key}: {raw.dtype} {raw.shape}"
            pieces[channel.key].append(physical(raw, channel))
    return {key: np.concatenate(found) if found else np.empty(0, np.float32) for key, found in pieces.items()}


def items_in(entry: Format, folder: Path) -> tuple[Item, ...]:
    return tuple(one for one in entry.find(listed(uri.normalise(folder), ())) if isinstance(one, Item))


def one_recording(entry: Format, folder: Path) -> SourceRecording:
    """The only recording of a folder. Raises the InputError of one that cannot be opened."""
    (item,) = items_in(entry, folder)
    (found,) = entry.recordings(item, folder)
    if isinstance(found, tuple):
        raise found[1]
    return found


class FormatConformance:
    """The suite. `knows_its_length`: a file says how long it is, so that a truncated one can be told from a short one.
    `streams`: memory does not grow with the length of a recording.
    """

    knows_its_length = True
    streams = True

    def test_the_file_is_found_and_named(self, entry: Format, sample: Sample) -> None:
        (item,) = items_in(entry, sample.folder)
        assert (item.name, item.format, item.head) == (sample.recording_id, entry.name, sample.head)
        assert item.bytes > 0 and sample.head in item.files
        (again,) = items_in(entry, sample.folder)
        assert again.fingerprint == item.fingerprint

    def test_samples_are_those_of_an_independent_reader(self, entry: Format, sample: Sample) -> None:
        recording = one_recording(entry, sample.folder)
        assert {channel.key: channel.rate_hz for channel in recording.channels} == pytest.approx(dict(sample.rates_hz))
        found = read_whole(recording)
        assert set(found) == set(sample.signals)
        for key, expected in sample.signals.items():
            assert len(found[key]) == len(expected), key
            np.testing.assert_array_equal(np.isnan(found[key]), np.isnan(expected), err_msg=f"{key}: what is missing")
            np.testing.assert_allclose(found[key], expected, rtol=1e-6, atol=sample.tolerance, err_msg=key)

    def test_blocks_can_be_read_again(self, entry: Format, sample: Sample) -> None:
        recording = one_recording(entry, sample.folder)
        next(iter(recording.blocks()))  # a reading that was given up leaves nothing behind
        first, second = read_whole(recording), read_whole(recording)
        for key, values in first.items():
            np.testing.assert_array_equal(values, second[key], err_msg=key)

    def test_who_and_when(self, entry: Format, sample: Sample) -> None:
        origin = one_recording(entry, sample.folder).origin
        assert origin.recording_id == sample.recording_id
        assert origin.start_time_ns == sample.start_time_ns
        # A person's name or code is taken over only where it was asked for.
        assert origin.subject_id is None

    @pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
    def test_a_truncated_file_is_told(self, entry: Format, sample: Sample, share: float) -> None:
        path = sample.folder / (sample.body or sample.head)
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * share)])
        whole_length = {key: len(values) for key, values in sample.signals.items()}
        try:
            found = read_whole(one_recording(entry, sample.folder))
        except InputError as error:
            assert path.stem in str(error) or sample.recording_id in str(error) or "header" in str(error)
            return
        if self.knows_its_length:
            pytest.fail(f"{len(whole) * share:.0f} of {len(whole)} bytes were taken for a recording")
        assert all(len(found[key]) < n for key, n in whole_length.items())

    @pytest.mark.parametrize("seed", range(8))
    def test_damage_is_an_input_error_or_nothing(self, entry: Format, sample: Sample, seed: int) -> None:
        rng = np.random.default_rng(seed)
        path = sample.folder / sample.head
        whole = bytearray(path.read_bytes())
        # The beginning is where headers are; anywhere else it may be a sample like any other.
        start = int(rng.integers(0, min(len(whole), 400)))
        whole[start : start + 40] = rng.integers(0, 256, 40, dtype=np.uint8).tobytes()
        path.write_bytes(bytes(whole))
        with contextlib.suppress(InputError):
            read_whole(one_recording(entry, sample.folder))

    def test_another_kind_of_file_is_an_input_error(self, entry: Format, sample: Sample) -> None:
        (sample.folder / sample.head).write_bytes(bytes(range(256)) * 40)
        with pytest.raises(InputError):
            read_whole(one_recording(entry, sample.folder))

    def test_memory_does_not_grow_with_length(
        self, entry: Format, longer: Callable[[int], Path], request: pytest.FixtureRequest
    ) -> None:
        if not self.streams:
            pytest.skip("its library reads a recording whole: docs/ingest.md says so")
        peaks = [_peak_bytes(one_recording(entry, longer(times))) for times in (1, 8)]
        assert peaks[1] < peaks[0] * 1.5 + 2**20, peaks
        assert max(peaks) < 4 * LARGEST_BLOCK_BYTES


def _peak_bytes(recording: SourceRecording) -> int:
    tracemalloc.start()
    try:
        largest = max(sum(raw.nbytes for raw in block.values()) for block in recording.blocks())
        assert largest <= LARGEST_BLOCK_BYTES
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
