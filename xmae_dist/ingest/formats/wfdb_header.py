"""Headers and samples of WFDB records by the `wfdb` package's own grammar and decoders, without its detours.

`wfdb.rdheader` looks every field of every signal up in a pandas table, 5 ms for two signals, and `wfdb.rdrecord` reads
the header once more: together three quarters of the time that a small record took. Here the same grammar
(`wfdb.io.header`) is applied with the fields' types held as plain values, and samples are decoded from a header that
was read before. `tests/ingest/formats/test_wfdb_header.py` holds both to what `wfdb` itself makes of the same files.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import wfdb
from wfdb.io import _header, _signal
from wfdb.io.header import HeaderSyntaxError, parse_header_content, rx_record, rx_signal


def _kinds(specs: Any) -> dict[str, tuple[Callable[[str], Any], Any]]:
    """Field -> (its type, what is meant where it is not given), in the order of the grammar."""
    types = {_header.int_types: int, _header.float_types: float}
    return {
        field: (types.get(allowed, str), default)
        for field, allowed, default in zip(specs.index, specs["allowed_types"], specs["read_default"], strict=True)
    }


_RECORD, _SIGNAL = _kinds(_header.RECORD_SPECS), _kinds(_header.SIGNAL_SPECS)
_UNCALIBRATED_GAIN = 200.0


def read_header(header: Path) -> Any:
    """The `wfdb.Record` (or `MultiRecord`) of a header. Raises what its parser trips over: ValueError and others."""
    lines, comments = parse_header_content(header.read_text(encoding="ascii", errors="ignore"))
    if not lines:
        raise HeaderSyntaxError("no record line")
    fields = _typed(rx_record.match(lines[0]), _RECORD, "record line")
    if fields["n_seg"] is not None:
        return wfdb.rdheader(str(header.with_suffix("")))
    record = wfdb.Record()
    del fields["n_seg"]
    described = [_signal_fields(line) for line in lines[1:]]
    if described:
        for field in _SIGNAL:
            setattr(record, field, [one[field] for one in described])
    for field, value in _with_times(fields).items():
        setattr(record, field, value)
    record.comments = [line.strip(" \t#") for line in comments]
    return record


def read_samples(stem: Path, record: Any, frames: int, start: int, stop: int, bits: int) -> list[Any]:
    """Digital samples of frames [start, stop) of `frames` of every signal, each (n,), as integers of so many bits."""
    decoded = _signal._rd_segment(
        file_name=record.file_name,
        dir_name=str(stem.parent.absolute()),
        pn_dir=None,
        fmt=record.fmt,
        n_sig=record.n_sig,
        sig_len=frames,
        byte_offset=record.byte_offset,
        samps_per_frame=record.samps_per_frame,
        skew=record.skew,
        init_value=record.init_value,
        sampfrom=start,
        sampto=stop,
        channels=list(range(record.n_sig)),
        ignore_skew=False,
        return_res=bits,
    )
    # Formats of a byte come as bytes, which could not hold our mark of a missing sample.
    return [raw.astype(f"int{bits}", copy=False) for raw in decoded]


def _typed(match: Any, kinds: Mapping[str, tuple[Callable[[str], Any], Any]], what: str) -> dict[str, Any]:
    if match is None:
        raise HeaderSyntaxError(f"invalid syntax in {what}")
    return {
        field: default if word == "" else kind(word)
        for (field, (kind, default)), word in zip(kinds.items(), match.groups(), strict=True)
    }


def _signal_fields(line: str) -> dict[str, Any]:
    match = rx_signal.match(line)
    fields = _typed(match, _SIGNAL, "signal line")
    # A baseline that is not given is the converter's zero, and a gain of 0 means that nobody calibrated.
    if match["baseline"] == "" and fields["adc_zero"] is not None:
        fields["baseline"] = fields["adc_zero"]
    fields["adc_gain"] = fields["adc_gain"] or _UNCALIBRATED_GAIN
    return fields


def _with_times(fields: dict[str, Any]) -> dict[str, Any]:
    rate_hz = float(fields["fs"])
    fields["fs"] = int(rate_hz) if round(rate_hz, 8) == int(rate_hz) else rate_hz
    if fields["base_time"]:
        fields["base_time"] = _header.wfdb_strptime(fields["base_time"])
    if fields["base_date"]:
        fields["base_date"] = datetime.datetime.strptime(fields["base_date"], "%d/%m/%Y").date()
    if fields["base_date"] and fields["base_time"]:
        fields["base_datetime"] = datetime.datetime.combine(fields["base_date"], fields["base_time"])
    return fields
