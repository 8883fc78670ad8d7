"""The model as its authors released it, defects included, so that their weights load and give their numbers.

Written from a description of its behaviour (``docs/model.md``), not from its code. Module attributes carry the
names of released state dicts, so ``state_dict()`` is the released format. ``tests/model/test_parity.py`` holds
it to outputs, gradient norms and a loss trajectory of the original.

Shapes: B batch, L samples, P samples per patch, N = L / P patches, V visible patches, D width, S stem channels,
E embedding width. Masks are boolean, True where a patch is masked; every row masks equally many patches.

Two defects are kept on purpose. The visible patches are glued into one waveform of V * P samples and take the
positions 0..V-1 instead of their own; and the embedding head takes no part in the loss, so it stays random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmae_dist.core.errors import InputError
from xmae_dist.model.blocks import Attention, feed_forward
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.kinds import kind
from xmae_dist.model.loss import counted_samples, masked_mse
from xmae_dist.model.patch import View, gather_visible, scatter_visible
from xmae_dist.model.readout import HEAD
from xmae_dist.model.stem import PyramidStem

_RELEASED = "the weights of a released xMAE, all of them and no others"


@dataclasses.dataclass(frozen=True, kw_only=True)
class PublishedConfig:
    """Sizes of the published model; the defaults are those of the released weights."""

    length: int = 1000
    """Samples per window (10 s at 100 Hz)."""
    patch_length: int = 40
    """Samples per patch."""
    width: int = 256
    embedding_width: int = 256
    heads: int = 8
    ppg_depth: int = 2
    ecg_depth: int = 1
    bridge_depth: int = 1
    stem_channels: int = 32
    dropout: float = 0.1
    mask_ratio: float = 0.8
    mask_mode: str = "anchor"

    @property
    def n_patches(self) -> int:
        """Patches per window."""
        return self.length // self.patch_length


class EncoderBlock(nn.Module):
    """Pre-norm self-attention and feed-forward: ``(B, N, D) -> (B, N, D)``."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads, dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = feed_forward(width, 4 * width, dropout)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.attn(self.norm1(tokens_BND))
        return tokens_BND + self.mlp(self.norm2(tokens_BND))


class DecoderBlock(nn.Module):
    """The reconstruction head's block: as `EncoderBlock`, with half the feed-forward width and no dropout."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ln2 = nn.LayerNorm(width)
        self.mlp = feed_forward(width, 2 * width)

    def forward(self, tokens_BND: Tensor) -> Tensor:
        tokens_BND = tokens_BND + self.attn(self.ln1(tokens_BND))
        return tokens_BND + self.mlp(self.ln2(tokens_BND))


class CrossBlock(nn.Module):
    """Queries attend to another path's tokens: ``forward(query_BND, memory_BND) -> (B, N, D)``."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.nq = nn.LayerNorm(width)
        self.nkv = nn.LayerNorm(width)
        self.attn = Attention(width, heads)
        self.ffn = nn.Sequential(nn.LayerNorm(width), *list(feed_forward(width, 4 * width))[:3])

    def forward(self, query_BND: Tensor, memory_BND: Tensor) -> Tensor:
        query_BND = query_BND + self.attn(self.nq(query_BND), self.nkv(memory_BND))
        return query_BND + self.ffn(query_BND)


class Path(nn.Module):
    """All that belongs to one signal: stem, patches, positions, encoder, embedding head, reconstruction head."""

    def __init__(self, config: PublishedConfig, depth: int) -> None:
        super().__init__()
        width, patch = config.width, config.patch_length
        self.pos = nn.Parameter(torch.empty(1, config.n_patches, width))
        self.stem = PyramidStem(config.stem_channels)
        self.patcher = nn.ModuleDict({"proj": nn.Conv1d(config.stem_channels, width, patch, stride=patch)})
        blocks = [EncoderBlock(width, config.heads, config.dropout) for _ in range(depth)]
        self.encoder = nn.ModuleDict({"blocks": nn.Sequential(*blocks)})
        self.proj = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, config.embedding_width))
        self.dec_blk = DecoderBlock(width, config.heads)
        self.decoder = nn.ModuleDict({"deconv": nn.ConvTranspose1d(width, 1, patch, stride=patch)})
        self.mask_loc_table = nn.Embedding(config.n_patches, width)
        nn.init.trunc_normal_(self.pos, std=0.02)
        nn.init.xavier_uniform_(self.mask_loc_table.weight)

    def encode(self, signal_BL: Tensor) -> Tensor:
        """Tokens of a waveform of at most L samples, at positions counted from its own start: (B, n, D)."""
        tokens_BND = self.patcher["proj"](self.stem(signal_BL[:, None])).transpose(1, 2)
        return self.encoder["blocks"](tokens_BND + self.pos[:, : tokens_BND.shape[1]])

    def embed(self, tokens_BND: Tensor) -> Tensor:
        """Embedding head on the mean token: (B, E)."""
        return self.proj(tokens_BND.mean(dim=1))

    def decode(self, tokens_BND: Tensor) -> Tensor:
        """Waveform of N tokens: (B, N * P)."""
        return self.decoder["deconv"](self.dec_blk(tokens_BND).transpose(1, 2)).squeeze(1)


class Bridge(nn.Module):
    """ECG queries read PPG tokens: ``forward(query_BND, memory_BND) -> (B, N, D)``."""

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        depth = range(config.bridge_depth)
        self.ecg2ppg = nn.ModuleList(CrossBlock(config.width, config.heads) for _ in depth)
        # Released weights hold a mirrored stack as well, which is never called.
        self.ppg2ecg = nn.ModuleList(CrossBlock(config.width, config.heads) for _ in depth)

    def forward(self, query_BND: Tensor, memory_BND: Tensor) -> Tensor:
        for block in self.ecg2ppg:
            query_BND = block(query_BND, memory_BND)
        return query_BND


@kind("published", PublishedConfig)
class PublishedXMAE(PretrainModel):
    """Masked ECG reconstructed from the whole PPG, as published.

    ``forward(ppg_BL, ecg_BL, mask_BN)`` gives the scalar loss, ``reconstruct`` the ECG, ``embed`` the
    embedding of PPG. All take float32 or float64, as the weights are.
    """

    def __init__(self, config: PublishedConfig) -> None:
        super().__init__()
        self.config: PublishedConfig = config
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.width))
        self.ppg_path = Path(config, config.ppg_depth)
        self.ecg_path = Path(config, config.ecg_depth)
        self.bridger = Bridge(config)
        nn.init.trunc_normal_(self.mask_token, std=0.02)

    def forward(
        self,
        ppg_BL: Tensor,
        ecg_BL: Tensor,
        mask_BN: Tensor,
        visible_BV: Tensor | None = None,
        over_S: Tensor | None = None,
        measured_BK: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error over the masked ECG samples, a scalar."""
        rebuilt_BL, over = self.reconstruct(ppg_BL, ecg_BL, mask_BN, visible_BV), None if over_S is None else over_S[0]
        loss, errors = masked_mse(rebuilt_BL, ecg_BL, mask_BN, over)
        self.errors = {"ecg": errors}
        return loss

    def counts(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, measured_BK: Tensor | None = None) -> Tensor:
        """Masked ECG samples that are there."""
        return counted_samples(ecg_BL, mask_BN)[None]

    def reconstruct(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """The whole ECG, (B, L), from all PPG and the ECG patches where the mask is False."""
        query_BND = self._queries(ecg_BL, View.of(mask_BN, visible_BV).visible_BV)
        return self.ecg_path.decode(self.bridger(query_BND, self.ppg_path.encode(ppg_BL)))

    readout = HEAD

    def tokens(self, signal_BL: Tensor) -> Tensor:
        """The PPG encoder's output tokens, (B, N, D)."""
        return self.ppg_path.encode(signal_BL)

    def embed(self, ppg_BL: Tensor) -> Tensor:
        """(B, E). The head is random: pretraining gives it no gradient (a defect of the original)."""
        return self.ppg_path.embed(self.tokens(ppg_BL)) if self.readout is HEAD else super().embed(ppg_BL)

    @property
    def embedding_width(self) -> int:
        """Numbers per embedding, E."""
        return self.config.embedding_width if self.readout is HEAD else super().embedding_width

    def _queries(self, ecg_BL: Tensor, visible_BV: Tensor) -> Tensor:
        path, patch = self.ecg_path, self.config.patch_length
        glued_BL = gather_visible(ecg_BL.unflatten(1, (-1, patch)), visible_BV).flatten(1)
        start_BND = path.mask_loc_table.weight.expand(len(ecg_BL), -1, -1)
        if visible_BV.shape[1]:
            tokens_BVD = path.encode(glued_BL) - path.pos[:, : visible_BV.shape[1]]
            start_BND = scatter_visible(start_BND, tokens_BVD, visible_BV)
        return start_BND + path.pos


def config_of_state(state: Mapping[str, Any], heads: int) -> PublishedConfig:
    """Sizes read off the shapes of a released state; ``heads`` is not in any shape and must be given."""

    def shape(name: str) -> tuple[int, ...]:
        return tuple(state[name].shape)

    def depth(prefix: str) -> int:
        return len({name[len(prefix) :].split(".")[0] for name in state if name.startswith(prefix)})

    _, n_patches, width = shape("ppg_path.pos")
    _, stem_channels, patch_length = shape("ppg_path.patcher.proj.weight")
    return PublishedConfig(
        length=n_patches * patch_length,
        patch_length=patch_length,
        width=width,
        embedding_width=shape("ppg_path.proj.1.weight")[0],
        heads=heads,
        ppg_depth=depth("ppg_path.encoder.blocks."),
        ecg_depth=depth("ecg_path.encoder.blocks."),
        bridge_depth=depth("bridger.ecg2ppg."),
        stem_channels=stem_channels,
    )


def from_published(state: Mapping[str, Any], *, heads: int, dropout: float = 0.1) -> PublishedXMAE:
    """A model with the weights of a released state dict, in evaluation mode.

    ``state`` maps names to NumPy arrays or tensors; the prefix ``model.`` that Lightning writes is dropped.
    The model takes the floating type of the weights. Raises InputError, naming the weights that are missing, left
    over or of another shape.
    """
    bare = {name.removeprefix("model."): torch.as_tensor(value) for name, value in state.items()}
    try:
        config = dataclasses.replace(config_of_state(bare, heads), dropout=dropout)
        model = PublishedXMAE(config).to(bare["ppg_path.pos"].dtype)
        model.load_state_dict(bare)
    except KeyError as error:
        raise InputError("state dict", value=f"no {error.args[0]} among {len(bare)}", expected=_RELEASED) from error
    except RuntimeError as error:
        raise InputError("state dict", value=" ".join(str(error).split()), expected=_RELEASED) from error
    return model.eval()


def to_published_state(model: PublishedXMAE) -> dict[str, Tensor]:
    """The released names and shapes of a model's weights: the inverse of `from_published`."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
