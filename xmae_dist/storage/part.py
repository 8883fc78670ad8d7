"""Writing one part: a folder of channel arrays that one writer owns and nobody ever changes afterwards."""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from xmae_dist.core.errors import InputError
from xmae_dist.core.fingerprint import sha256_hex
from xmae_dist.storage import uri
from xmae_dist.storage.index import IndexRow, Span
from xmae_dist.storage.zarr_store import ChannelWriter, Summary

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def checked_name(kind: str, name: str) -> str:
    """`name` if it can be one level of a key. Raises InputError otherwise."""
    if not _NAME.fullmatch(name):
        raise InputError(
            f"{kind} name",
            value=repr(name),
            expected="letters, digits, '.', '_' and '-', not starting with a sign",
            fix="rename it",
        )
    return name


class PartChannel:
    """One array of a part being written: what to append to, and what index rows must say about it."""

    def __init__(self, part: PartWriter, name: str, array_path: str, writer: ChannelWriter) -> None:
        self.part, self.name, self.array_path, self.writer = part, name, array_path, writer

    @property
    def rate_hz(self) -> float:
        return self.writer.attributes.rate_hz

    @property
    def unit(self) -> str:
        return self.writer.attributes.unit

    def append(self, raw: np.ndarray) -> int:
        """Lays a raw signal (n,) at the end; returns its offset. Long signals may come in pieces, one
        after another.
        """
        return self.writer.append(raw)

    def add(
        self,
        raw: np.ndarray,
        *,
        subject_id: str,
        recording_id: str,
        clock_id: str,
        source_name: str = "",
        start_time_ns: int | None = None,
        gaps: Sequence[Span] = (),
        labels: Mapping[str, float] | None = None,
        label_text: Mapping[str, str] | None = None,
    ) -> IndexRow:
        """Appends the whole raw signal (n,) of a recording and returns its finished index row."""
        raw = np.asarray(raw)
        return IndexRow(
            subject_id=subject_id,
            recording_id=recording_id,
            cohort=self.part.cohort,
            part=self.part.part,
            channel=self.name,
            source_name=source_name,
            array_path=self.array_path,
            offset=self.append(raw),
            length=len(raw),
            rate_hz=self.rate_hz,
            unit=self.unit,
            start_time_ns=start_time_ns,
            clock_id=clock_id,
            gaps=tuple(gaps),
            device=self.writer.attributes.device,
            body_site=self.writer.attributes.body_site,
            digest=sha256_hex(raw),
            labels=dict(labels or {}),
            label_text=dict(label_text or {}),
        )


class PartWriter:
    """Writes the arrays of one part. As a context manager it closes on success and abandons on an
    exception.
    """

    def __init__(self, corpus_url: str, cohort: str, part: str) -> None:
        self.corpus_url, self.cohort, self.part = corpus_url, cohort, part
        self.path = f"signals/{cohort}/{part}"
        self._channels: dict[tuple[Any, ...], PartChannel] = {}

    @classmethod
    def claim(cls, corpus_url: str, cohort: str, part_id: str) -> PartWriter:
        """Takes the first free name of `part_id`, `part_id.2`, …: two writers never share a folder."""
        checked_name("cohort", cohort)
        checked_name("part", part_id)
        claim = json.dumps({"format": "xmae-part/v1", "writer": uuid.uuid4().hex, "created_s": round(time.time(), 3)})
        attempt = 1
        while True:
            name = part_id if attempt == 1 else f"{part_id}.{attempt}"
            if uri.create_exclusively(uri.join(corpus_url, "signals", cohort, name, "part.json"), claim.encode()):
                return cls(corpus_url, cohort, name)
            attempt += 1

    def __enter__(self) -> PartWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abandon()

    def channel(
        self,
        name: str,
        *,
        dtype: np.typing.DTypeLike,
        rate_hz: float,
        unit: str,
        scale: float = 1.0,
        offset: float = 0.0,
        missing: int | None = None,
        device: str = "",
        body_site: str = "",
    ) -> PartChannel:
        """The array for this kind of signal; the same arguments give the same array.

        A second array of a channel in one part (another rate, unit, scale, …) is named `<name>@<rate>`, and
        `<name>@<rate>-2`, … after that.
        """
        checked_name("channel", name)
        key = (
            name,
            float(rate_hz),
            np.dtype(dtype).str,
            unit,
            float(scale),
            float(offset),
            missing,
            device,
            body_site,
        )
        if key not in self._channels:
            array_path = f"{self.path}/{self._free_array_name(name, float(rate_hz))}"
            writer = ChannelWriter(
                uri.join(self.corpus_url, array_path),
                dtype=dtype,
                rate_hz=rate_hz,
                unit=unit,
                scale=scale,
                offset=offset,
                missing=missing,
                attrs={"device": device, "body_site": body_site, "channel": name},
            )
            self._channels[key] = PartChannel(self, name, array_path, writer)
        return self._channels[key]

    def _free_array_name(self, name: str, rate_hz: float) -> str:
        taken = {channel.array_path.rsplit("/", 1)[-1] for channel in self._channels.values()}
        stem = name if name not in taken else f"{name}@{rate_hz:g}"
        array, again = stem, 2
        while array in taken:
            array, again = f"{stem}-{again}", again + 1
        return array

    def close(self) -> dict[str, Summary]:
        """Makes the arrays readable (not yet visible in the corpus); what each holds, by array name."""
        return {c.array_path.rsplit("/", 1)[-1]: c.writer.close() for c in self._channels.values()}

    def abandon(self) -> None:
        """Gives up; the remainder is invisible and `vacuum` collects it after the grace period."""
        for channel in self._channels.values():
            channel.writer.abandon()
