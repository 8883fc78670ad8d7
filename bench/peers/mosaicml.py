"""MosaicML streaming over the windows of a .npz file: writes shards, then reads them shuffled; prints JSON.

python mosaicml.py WINDOWS.npz FOLDER BATCH WORKERS
"""

from __future__ import annotations

import importlib.machinery
import json
import sys
import types
from pathlib import Path

import numpy as np
from rate import rated

# Imported for image data sets only; the build on PyPI needs CUDA libraries, which a CPU machine does not have.
for name in ("torchvision", "torchvision.datasets", "torchvision.transforms", "torchvision.transforms.functional"):
    sys.modules[name] = types.ModuleType(name)
    sys.modules[name].__spec__ = importlib.machinery.ModuleSpec(name, None)
sys.modules["torchvision.datasets"].VisionDataset = object  # type: ignore[attr-defined]
sys.modules["torchvision.transforms.functional"].to_tensor = None  # type: ignore[attr-defined]

from streaming import MDSWriter, StreamingDataset  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402


class Windows(StreamingDataset):
    def __getitem__(self, at: int) -> tuple[np.ndarray, np.ndarray]:
        sample = super().__getitem__(at)
        return sample["ecg"].astype(np.float32), sample["ppg"].astype(np.float32)


def main() -> None:
    source, folder, batch, workers = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
    if not folder.exists():
        with (
            np.load(source) as signals,
            MDSWriter(out=str(folder), columns={"ecg": "ndarray:float16:1000", "ppg": "ndarray:float16:1000"}) as out,
        ):
            for ecg_L, ppg_L in zip(signals["ecg"], signals["ppg"], strict=True):
                out.write({"ecg": ecg_L, "ppg": ppg_L})
    windows = Windows(local=str(folder), shuffle=True, shuffle_seed=0, batch_size=batch)
    loader = DataLoader(windows, batch_size=batch, num_workers=workers)
    print(json.dumps(rated(len(ecg_BL) for ecg_BL, _ in loader)))


if __name__ == "__main__":
    main()
