"""An xMAE encoder for PPG-Bench (read by that program, not by ours): a model port of torch and the standard library.

PPG-Bench makes `XmaePort(init)` and calls `load_encoder()` and `prepare_batch(batch, model_cfg, device)`. The encoder
itself runs in an environment of its own, as the program `init["command"]`, and is talked to over a pipe: `<II` rows and
samples and float32 windows to it, `<II` rows and features and float32 embeddings back.
"""

import struct
import subprocess

import torch

HEADER = struct.Struct("<II")


class PipedEncoder(torch.nn.Module):
    """(B, T) raw windows -> (B, E) embeddings, without gradients."""

    def __init__(self, command: list[str]) -> None:
        super().__init__()
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin and self._process.stdout
        self._requests, self._answers = self._process.stdin, self._process.stdout
        # A fine-tuning harness looks for weights, and must not find this encoder trainable.
        self.register_buffer("frozen", torch.zeros(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training and torch.is_grad_enabled():
            raise RuntimeError("an encoder behind a pipe cannot be fine-tuned: use --methods linear, rf or mlp")
        rows = x.detach().to("cpu", torch.float32).contiguous()
        self._requests.write(HEADER.pack(*rows.shape) + rows.numpy().astype("<f4").tobytes())
        self._requests.flush()
        count, width = HEADER.unpack(self._read(HEADER.size))
        answer = torch.frombuffer(bytearray(self._read(4 * count * width)), dtype=torch.float32)
        return answer.reshape(count, width).to(x.device)

    def _read(self, size: int) -> bytes:
        data = self._answers.read(size)
        if len(data) < size:
            raise RuntimeError(f"the encoder's program ended (exit status {self._process.wait()}); see its error above")
        return data

    def close(self) -> None:
        """Ends the program."""
        if self._process.poll() is None:
            self._requests.close()
            self._process.wait(timeout=30)
        self._answers.close()

    def __del__(self) -> None:
        if hasattr(self, "_process"):
            self.close()


class XmaePort:
    """What PPG-Bench asks of a model."""

    def __init__(self, model_init_cfg: dict) -> None:
        self.model_init_cfg = model_init_cfg

    def load_encoder(self) -> PipedEncoder:
        return PipedEncoder(self.model_init_cfg["command"])

    def prepare_batch(self, batch: dict, model_cfg: dict, device: str) -> torch.Tensor:
        return batch["x"].float().to(device)
