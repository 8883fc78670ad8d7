"""LitData over the windows of a .npz file: writes chunks, then reads them shuffled; prints JSON.

python lightning.py WINDOWS.npz FOLDER BATCH WORKERS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from litdata import StreamingDataLoader, StreamingDataset
from litdata.streaming.writer import BinaryWriter
from rate import rated


class Windows(StreamingDataset):
    def __getitem__(self, at: object) -> tuple[np.ndarray, np.ndarray]:
        sample = super().__getitem__(at)
        return sample["ecg"].astype(np.float32), sample["ppg"].astype(np.float32)


def main() -> None:
    source, folder, batch, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if not folder.exists():
        folder.mkdir(parents=True)
        writer = BinaryWriter(str(folder), chunk_bytes="64MB")
        with np.load(source) as signals:
            for at, (ecg_L, ppg_L) in enumerate(zip(signals["ecg"], signals["ppg"], strict=True)):
                writer.add_item(at, {"ecg": ecg_L, "ppg": ppg_L})
        writer.done()
        writer.merge()
    loader = StreamingDataLoader(Windows(str(folder), shuffle=True, seed=0), batch_size=batch, num_workers=workers)
    print(json.dumps(rated(len(ecg_BL) for ecg_BL, _ in loader)))


if __name__ == "__main__":
    main()
