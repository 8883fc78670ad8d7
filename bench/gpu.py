"""What one GPU gives: training and embedding of every preset, beside the published model as one would write it.

    python bench/gpu.py --json FILE                        # a machine with one GPU; under eight minutes
    python bench/gpu.py --device cpu --presets tiny        # the same program, as its test runs it

Needs PyTorch, NumPy and the two small packages that bundles are made with (safetensors, fsspec); what else is not there
is named and left out. Windows are in memory: what data cost is in bench/loader.py.

*Plain* is `published` without any of our engine: eager, masks as they come, PyTorch's default AdamW. All else runs in
`TorchEngine`: *eager*; *blocks*, each transformer block compiled; *graphs*, the whole model compiled, launched as CUDA
graphs. *Bare* steps are compared with the same steps made by the training loop. FLOPs are matrix products and
convolutions, forward and backward, two for a multiplication and an addition.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from xmae_dist.model import presets
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.mask import masks
from xmae_dist.model.patch import visible_indices
from xmae_dist.train.engines.optimizer import OptimizerConfig
from xmae_dist.train.engines.precision import autocast, computes_bf16, set_float32_products
from xmae_dist.train.engines.torch import TorchEngine
from xmae_dist.train.sizing.flops import flops_per_window, measured_peak_flops

DATA_SHEET_TFLOPS = {"B200": 2250, "H200": 989, "H100 PCIe": 756, "H100": 989, "A100": 312, "L40S": 362, "L4": 121}
"""Dense bf16, by what the device is called."""
BATCH = {"published": 512, "paper": 512, "tiny": 512, "base": 256, "large": 128}
FORMS = ("eager", "blocks", "graphs")


def main() -> int:
    args = _arguments()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("not run on a GPU: no CUDA device here")
        return 0
    results = Bench(args, device).run()
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


@dataclasses.dataclass
class Bench:
    """One run; `rows` are what was found so far."""

    args: argparse.Namespace
    device: torch.device

    def __post_init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.bf16 = computes_bf16("auto", self.device)
        self.until_s = time.monotonic() + self.args.budget_s

    def run(self) -> dict[str, Any]:
        set_float32_products(bf16=self.bf16)
        about = self._about()
        print(json.dumps(about), flush=True)
        self.peaks = {"sheet": about["peak_tflops_sheet"], "measured": about["peak_tflops_measured"]}
        for bf16 in {False, self.bf16}:
            self._row(f"plain published, {_type(bf16)}", self._plain, bf16)
        for name in self.args.presets:
            for form in self.args.forms:
                self._row(f"{name}, {form}", self._engine, name, form)
            self._row(f"{name}, where a step's time lies", self._profile, name)
            self._row(f"{name}, in the loop", self._loop, name)
            self._row(f"{name}, embedding", self._embed, name)
            for stage in self.args.zero:
                self._row(f"{name}, DeepSpeed ZeRO {stage}", self._deepspeed, name, stage)
        return {"about": about, "rows": self.rows}

    def _row(self, label: str, work: Callable[..., dict[str, Any]], *args: Any) -> None:
        if time.monotonic() > self.until_s:
            row = {"not_run": f"the {self.args.budget_s:.0f} s are over"}
        else:
            try:
                row = work(*args)
            except (ImportError, torch.cuda.OutOfMemoryError) as error:
                row = {"not_run": " ".join(str(error).split())[:200]}
            if self.device.type == "cuda":
                torch.cuda.empty_cache()
        self.rows.append({"label": label, **row})
        print(f"{label:34s} " + _told(row), flush=True)

    def _about(self) -> dict[str, Any]:
        cuda = self.device.type == "cuda"
        name = torch.cuda.get_device_name(self.device) if cuda else "CPU"
        sheet = self.args.peak_tflops or next((t for key, t in DATA_SHEET_TFLOPS.items() if key in name), None)
        return {
            "device": name,
            "torch": torch.__version__,
            "cuda": torch.version.cuda if cuda else None,
            "type": _type(self.bf16),
            "peak_tflops_sheet": sheet,
            "peak_tflops_measured": round(measured_peak_flops(self.device, bf16=self.bf16) / 1e12, 3),
        }

    # -- what is measured ----------------------------------------------------------------------------------------------

    def _plain(self, bf16: bool) -> dict[str, Any]:
        torch.manual_seed(0)
        model = presets.build("published").to(self.device).train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        batch = self._inputs(model, self._batch("published"))[:3]

        def step() -> None:
            with autocast(self.device, bf16=bf16):
                loss = model(*batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

        return self._speed("published", step)

    def _engine(self, name: str, form: str) -> dict[str, Any]:
        engine, step = self._stepper(name, "no" if form == "eager" else form)
        found = self._speed(name, step)
        if self.device.type == "cuda":
            found |= self._memory(name, torch.cuda.max_memory_allocated(self.device))
        return found | {"loss": round(float(engine.forward_backward(*self._inputs(engine.module, 2))), 4)}

    def _stepper(self, name: str, how: Any = "no") -> tuple[TorchEngine, Callable[[], None]]:
        torch.manual_seed(0)
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        engine = TorchEngine(
            presets.build(name),
            optimizer=OptimizerConfig(),
            accumulation=1,
            bf16=self.bf16,
            device=self.device,
            compile=how,
        )
        batch = self._inputs(engine.module, self._batch(name))

        def step() -> None:
            engine.forward_backward(*batch)
            engine.step(1e-4)

        return engine, step

    def _memory(self, name: str, peak_bytes: float) -> dict[str, Any]:
        from xmae_dist.train.config import EngineConfig, PretrainConfig, ResourceConfig, TrainConfig
        from xmae_dist.train.sizing.memory import count

        batch = self._batch(name)
        config = PretrainConfig(
            train=TrainConfig(workers=1, global_batch=batch, micro_batch=batch),
            engine=EngineConfig(kind="torch", precision="bf16" if self.bf16 else "fp32"),
            resources=ResourceConfig(gpus=True),
        )
        predicted = count(presets.config(name), fused=True).need(config).device
        return {"peak_gib": round(peak_bytes / 2**30, 2), "of_predicted": round(peak_bytes / predicted, 3)}

    def _profile(self, name: str) -> dict[str, Any]:
        """Milliseconds of an eager step: by the clock, in kernels, in the host's launches and waits."""
        from torch.profiler import ProfilerActivity, profile

        _, step = self._stepper(name)
        activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self.device.type == "cuda" else [])]
        for _ in range(2):
            step()
        self._wait()
        steps, began_s = 3, time.perf_counter()
        with profile(activities=activities) as seen:
            for _ in range(steps):
                step()
            self._wait()
        took_s = time.perf_counter() - began_s
        events = seen.key_averages()

        def host_ms(*words: str) -> float:
            mine = [e for e in events if any(word in e.key for word in words)]
            return round(sum(e.self_cpu_time_total for e in mine) / steps / 1e3, 3)

        kernels = sum(getattr(e, "self_device_time_total", 0) for e in events) / steps / 1e3
        if self.args.table:
            print(events.table(sort_by="self_cpu_time_total", row_limit=15))
        return {
            "step_ms": round(took_s / steps * 1e3, 3),
            "kernels_ms": round(kernels if self.device.type == "cuda" else host_ms("aten::", "mkldnn"), 3),
            "launches_ms": host_ms("cudaLaunchKernel", "cuLaunchKernel", "cudaGraphLaunch"),
            "waits_ms": host_ms("Synchronize", "cudaMemcpyAsync"),
            "launches": sum(e.count for e in events if "aunchKernel" in e.key) // steps,
        }

    def _loop(self, name: str) -> dict[str, Any]:
        """The loop's step over the bare one's, on the same windows, in turns, and how often each waited for data."""
        from xmae_dist.data.stream.collate import TensorBatch

        _, bare = self._stepper(name)
        size, config = self._batch(name), presets.config(name)
        rng = np.random.default_rng(0)
        signals = [torch.from_numpy(rng.standard_normal((size, config.length), np.float32)) for _ in range(2)]
        if self.device.type == "cuda":
            signals = [signal.pin_memory() for signal in signals]
        turns, length = 6, max(self._steps_in(bare, self.args.seconds / 6), 2)
        spent = {"loop": 0.0, "bare": 0.0}

        def batches() -> Iterator[TensorBatch]:
            for turn in range(turns):
                self._wait()
                began_s = time.perf_counter()
                for number in range(length):
                    ids = torch.arange(size) + (turn * length + number) * size
                    yield TensorBatch(
                        step=turn * length + number,
                        epoch_B=torch.zeros_like(ids),
                        ids_B=ids,
                        repeat_B=torch.zeros_like(ids),
                        ecg_BL=signals[0],
                        ppg_BL=signals[1],
                    )
                self._wait()
                between_s = time.perf_counter()
                for _ in range(length):
                    bare()
                self._wait()
                if turn:  # the first warms up
                    spent["loop"] += between_s - began_s
                    spent["bare"] += time.perf_counter() - between_s

        with tempfile.TemporaryDirectory(prefix="xmae-bench-") as folder:
            self._run_loop(name, size, turns * length + 1, batches(), folder)
        return {"loop_over_bare": round(spent["loop"] / spent["bare"], 4), "turns": turns - 1, "steps_a_turn": length}

    def _run_loop(self, name: str, size: int, steps: int, batches: Iterator[Any], folder: str) -> None:
        from xmae_dist.core.errors import RunError
        from xmae_dist.train.checkpoints.retention import RetentionConfig
        from xmae_dist.train.checkpoints.state import TrainState
        from xmae_dist.train.checkpoints.upload import Saver
        from xmae_dist.train.loop import Loop, LoopConfig
        from xmae_dist.train.observe.losses import Cohorts
        from xmae_dist.train.observe.measure import Measures, Yardstick
        from xmae_dist.train.step.batch import Masking
        from xmae_dist.train.step.clock import Clock
        from xmae_dist.train.step.collective import Ranks
        from xmae_dist.train.step.schedule import ScheduleConfig

        torch.manual_seed(0)
        config, ranks, clock = presets.config(name), Ranks(device=self.device), Clock(self.device)
        engine = TorchEngine(
            presets.build(name),
            optimizer=OptimizerConfig(),
            accumulation=1,
            bf16=self.bf16,
            device=self.device,
            clock=clock,
        )
        one = Cohorts(names=("a",), first_ids=np.zeros(1, np.int64), index=np.zeros(1, np.int64))
        loop = Loop(
            config=LoopConfig(
                steps=steps,
                global_batch=size,
                accumulation=1,
                seed=0,
                model_mask_ratio=config.mask_ratio,
                schedule=ScheduleConfig(peak_lr=1e-4),
                checkpoint_every=0,
                validate_every=0,
            ),
            engine=engine,
            masking=Masking(seed=0, n_patches=config.n_patches, mode=config.mask_mode),
            ranks=ranks,
            saver=Saver(f"file://{folder}", ranks, RetentionConfig(), lambda *_, **__: None, "bench"),
            callbacks=_Silent(),
            about=lambda _: {},
            measures=Measures(one, ranks, self.device, clock, Yardstick()),
        )
        try:
            loop.run(batches, TrainState())
        except RunError as error:  # one step short of its end, so that no checkpoint is in what was timed
            if "batches" not in str(error):
                raise

    def _embed(self, name: str) -> dict[str, Any]:
        model = presets.build(name).to(self.device).eval()
        ppg_BL = self._inputs(model, self._batch(name))[0]

        def embed() -> None:
            with torch.inference_mode(), autocast(self.device, bf16=self.bf16):
                model.embed(ppg_BL)

        return {"windows_per_s": round(self._rate(embed, self._batch(name)), 1)}

    def _deepspeed(self, name: str, stage: int) -> dict[str, Any]:
        import torch.distributed as dist

        if importlib.util.find_spec("deepspeed") is None:
            raise ImportError("DeepSpeed is not installed")
        os.environ.update(RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")  # DeepSpeed asks for them
        from xmae_dist.train.engines.deepspeed import DeepSpeedEngine, ZeroConfig

        if not dist.is_initialized():
            backend = "nccl" if self.device.type == "cuda" else "gloo"
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
        torch.manual_seed(0)
        engine = DeepSpeedEngine(
            presets.build(name),
            zero=ZeroConfig(stage=stage),  # type: ignore[arg-type]
            optimizer=OptimizerConfig(),
            micro_batch=self._batch(name),
            accumulation=1,
            bf16=self.bf16,
            device=self.device,
        )
        batch = self._inputs(engine.module, self._batch(name))

        def step() -> None:
            engine.forward_backward(*batch)
            engine.step(1e-4)

        return self._speed(name, step)

    # -- how -----------------------------------------------------------------------------------------------------------

    def _batch(self, name: str) -> int:
        return int(self.args.batch or BATCH.get(name, 128))

    def _inputs(self, model: Any, size: int) -> tuple[torch.Tensor, ...]:
        assert isinstance(model, PretrainModel)
        config = model.config
        signal = torch.randn(2, size, config.length, generator=torch.Generator().manual_seed(0))
        drawn = masks(0, 0, np.arange(size), config.n_patches, config.mask_ratio, config.mask_mode)
        mask = torch.from_numpy(drawn)
        over = model.counts(signal[0], signal[1], mask).float()
        return tuple(x.to(self.device) for x in (signal[0], signal[1], mask, visible_indices(mask), over))

    def _speed(self, name: str, step: Callable[[], None]) -> dict[str, Any]:
        rate = self._rate(step, self._batch(name))
        tflops = rate * flops_per_window(presets.config(name)) / 1e12
        shares = {f"of_{what}_peak": round(tflops / peak, 4) for what, peak in self.peaks.items() if peak}
        return {"batch": self._batch(name), "windows_per_s": round(rate, 1), "tflops": round(tflops, 3), **shares}

    def _steps_in(self, work: Callable[[], None], seconds: float) -> int:
        """After two to warm up, in which what is compiled is compiled."""
        for _ in range(2):
            work()
        self._wait()
        began_s = time.perf_counter()
        work()
        self._wait()
        return max(int(seconds / (time.perf_counter() - began_s)), 1)

    def _rate(self, work: Callable[[], None], windows: int) -> float:
        steps = self._steps_in(work, self.args.seconds)
        began_s = time.perf_counter()
        for _ in range(steps):
            work()
        self._wait()
        return steps * windows / (time.perf_counter() - began_s)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class _Silent:
    def on_step(self, row: dict[str, Any]) -> None: ...

    def on_event(self, kind: str, **fields: Any) -> None: ...

    def wants_stop(self) -> None:
        return None


def _type(bf16: bool) -> str:
    return "bf16" if bf16 else "fp32"


def _told(row: dict[str, Any]) -> str:
    if "not_run" in row:
        return f"not run: {row['not_run']}"
    return "  ".join(f"{name} {value:,}" if isinstance(value, float | int) else name for name, value in row.items())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--presets", nargs="+", default=["paper", "tiny", "base", "large"], choices=presets.NAMES)
    parser.add_argument("--forms", nargs="+", default=None, choices=FORMS, help="all on a GPU, eager on a CPU")
    parser.add_argument("--zero", nargs="*", type=int, default=[0, 1], help="ZeRO stages, where DeepSpeed is installed")
    parser.add_argument("--batch", type=int, default=0, help="windows a step; 0: by preset, as recipes have it")
    parser.add_argument("--seconds", type=float, default=3.0, help="measured time of each row")
    parser.add_argument("--budget-s", type=float, default=450.0, help="rows that would begin later are left out")
    parser.add_argument("--peak-tflops", type=float, default=0.0, help="dense bf16 of the data sheet, if not known")
    parser.add_argument("--table", action="store_true", help="print the profiler's table as well")
    parser.add_argument("--json", type=Path, default=None, metavar="FILE", help="write the figures here as well")
    args = parser.parse_args()
    args.forms = args.forms or (list(FORMS) if args.device == "cuda" else ["eager"])
    return args


if __name__ == "__main__":
    raise SystemExit(main())
