"""zarr-python over a window store, in an order that was written down: a block of steps at a time, as our reader reads.

python zarr_reads.py STORE_URL ORDER.npz BATCH

The rows of a block that lie in one array are one selection: since version 3.3 zarr-python reads the chunks that it
needs of a shard by ranges, side by side, neighbours in one.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator

import numpy as np
import zarr
from rate import rated


def main() -> None:
    url, path, batch = sys.argv[1], sys.argv[2], int(sys.argv[3])
    with np.load(path) as order:
        read = batches(url, order["paths"].tolist(), order["part"], order["row"], int(order["block"]), batch)
        print(json.dumps(rated(len(ecg_BL) for ecg_BL, _ in read)))


def batches(
    url: str, paths: list[str], part_N: np.ndarray, row_N: np.ndarray, block: int, batch: int
) -> Iterator[list[np.ndarray]]:
    arrays = [[zarr.open_array(f"{url}/{path}/{name}", mode="r") for name in ("ecg", "ppg")] for path in paths]
    length = arrays[0][0].shape[-1]
    for start in range(0, len(part_N), block):
        part_B, row_B = part_N[start : start + block], row_N[start : start + block]
        signals = [np.empty((len(part_B), length), np.float16) for _ in range(2)]
        for part in np.unique(part_B):
            at = np.flatnonzero(part_B == part)
            at = at[np.argsort(row_B[at])]
            for signal, array in zip(signals, arrays[part], strict=True):
                signal[at] = np.asarray(array.oindex[row_B[at]]).reshape(len(at), length)
        for first in range(0, len(part_B), batch):
            yield [signal[first : first + batch].astype(np.float32) for signal in signals]


if __name__ == "__main__":
    main()
