"""XMAE: the masked part of one signal, reconstructed from another that belongs to the same process.

The target (ECG) is masked; the source (PPG) is whole; both lie on one time axis. The bridge lets each target patch
read the source around its own time, then self-attention over the target's patches joins that with the visible
patches, wherever in time they are. After pretraining the PPG encoder alone is kept: its embedding is read
from its output tokens, which pretraining trains (`readout`).

The objectives other than ``cross`` are controls that run through the same encoders and decoders:

    cross        ECG masked, PPG whole, ECG reconstructed (the method)
    reversed     PPG masked, ECG whole, PPG reconstructed
    symmetric    the mean of both
    joint        both masked, both reconstructed; PPG by the mask reversed in time
    ppg_mae      PPG masked and reconstructed, no ECG
    ecg_mae      ECG masked and reconstructed, no PPG; it embeds ECG

Shapes: B batch, C channels, L samples, N patches, V visible patches, D width. Masks are
boolean, True where a patch is masked. Signals are (B, L), or (B, C, L) where a modality has several channels.

A missing sample is NaN: it is not learned from, and a patch of the source without one sample is not read. So a batch
may hold windows that lack one of the two signals.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xmae_dist.core.errors import ConfigError
from xmae_dist.model import beat_heads, bundle
from xmae_dist.model.agreement import Agreement
from xmae_dist.model.beat_heads import BeatHeads
from xmae_dist.model.blocks import Block, rotation_table
from xmae_dist.model.bottleneck import Bottleneck
from xmae_dist.model.bridge import build_bridge
from xmae_dist.model.encoder import SignalEncoder, channelled, filled
from xmae_dist.model.interface import PretrainModel
from xmae_dist.model.kinds import added_later, kind
from xmae_dist.model.level import visible_level
from xmae_dist.model.loss import counted_samples, masked_mse
from xmae_dist.model.patch import View, expand_mask, scatter_visible
from xmae_dist.model.published import PublishedXMAE, from_published

OBJECTIVES = ("cross", "reversed", "symmetric", "joint", "ppg_mae", "ecg_mae")
_RECONSTRUCTS = {
    "cross": ("ecg",),
    "reversed": ("ppg",),
    "symmetric": ("ecg", "ppg"),
    "joint": ("ecg", "ppg"),
    "ppg_mae": ("ppg",),
    "ecg_mae": ("ecg",),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class XMAEConfig:
    """Sizes and form of an `XMAE`; the defaults are the ``paper`` preset."""

    objective: str = "cross"
    length: int = 1000
    """Samples per window."""
    rate_hz: float = 100.0
    patch_s: float = 0.1
    """Fine patches learn in far fewer windows than coarse ones: see docs/model.md."""
    ppg_channels: int = 1
    ecg_channels: int = 1
    width: int = 128
    heads: int = 4
    ppg_depth: int = 2
    ecg_depth: int = 1
    decoder_depth: int = 2
    expansion: int = 2
    """Hidden width of feed-forward networks, in widths."""
    stem: str = "frames"
    bridge: str = "conv"
    lag_window_s: tuple[float, float] = (-0.2, 1.0)
    """Source times, relative to a target patch, that the bridge reads: those of a PPG that follows its ECG."""
    dropout: float = 0.0
    mask_ratio: float = 0.8
    mask_mode: str = "anchor"
    beat_weight: float = added_later(0.0)
    """Weight of the auxiliary heads (`xmae_dist.model.beat_heads`), whose mean is added to the loss; 0: none."""
    agreement_weight: float = added_later(0.0)
    """Weight of the agreement of pooled PPG and ECG (`xmae_dist.model.agreement`); 0: none."""
    local_drop: float = added_later(0.0)
    """Share of windows whose source is read through a bottleneck alone (`xmae_dist.model.bottleneck`); 0: none."""
    mirrored_lags: bool = added_later(False)
    """Whether a rebuilt PPG reads `lag_window_s` mirrored in time: its beat came before. Older models did not."""

    @property
    def patch_length(self) -> int:
        """Samples per patch."""
        return round(self.patch_s * self.rate_hz)

    @property
    def n_patches(self) -> int:
        """Patches per window."""
        return self.length // self.patch_length

    def lags(self, target: str) -> tuple[int, int]:
        """The window, in patches, of the bridge that rebuilds ``ppg`` or ``ecg``."""
        earliest, latest = (round(lag_s / self.patch_s) for lag_s in self.lag_window_s)
        return (-latest, -earliest) if self.mirrored_lags and target == "ppg" else (earliest, latest)

    def channels(self, signal: str) -> int:
        """Channels of ``ppg`` or ``ecg``."""
        return self.ppg_channels if signal == "ppg" else self.ecg_channels


class Decoder(nn.Module):
    """Visible target tokens and source tokens to a waveform: ``(B, C, L)``."""

    cos: Tensor
    sin: Tensor

    def __init__(self, config: XMAEConfig, target: str, *, has_source: bool) -> None:
        super().__init__()
        width, n_patches, lags = config.width, config.n_patches, config.lags(target)
        self.channels = channels = config.channels(target)
        self.mask_token = nn.Parameter(torch.empty(width))
        self.bridge = build_bridge(config.bridge, width, config.heads, lags, n_patches) if has_source else None
        self.blocks = nn.ModuleList(
            Block(width, config.heads, expansion=config.expansion, dropout=config.dropout)
            for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(width)
        self.to_samples = nn.Linear(width, channels * config.patch_length)
        cos, sin = rotation_table(torch.arange(n_patches), width // config.heads)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, visible_BVD: Tensor, index_BV: Tensor, source_BND: Tensor | None) -> Tensor:
        """Reconstruct all patches; ``index_BV`` are the times of the visible tokens."""
        rotation = self.cos, self.sin
        start_BND = self.mask_token.expand(len(visible_BVD), len(self.cos), -1)
        tokens_BND = scatter_visible(start_BND, visible_BVD, index_BV)
        if self.bridge is not None and source_BND is not None:
            tokens_BND = self.bridge(tokens_BND, source_BND, rotation)
        for block in self.blocks:
            tokens_BND = block(tokens_BND, rotation)
        patches_BNX = self.to_samples(self.norm(tokens_BND))
        return patches_BNX.unflatten(2, (self.channels, -1)).transpose(1, 2).flatten(2)


@kind("xmae", XMAEConfig)
class XMAE(PretrainModel):
    """Cross-modal masked autoencoder; ``forward(ppg_BL, ecg_BL, mask_BN)`` gives the scalar loss."""

    def __init__(self, config: XMAEConfig) -> None:
        super().__init__()
        _check(config)
        self.config: XMAEConfig = config
        rebuilt = _RECONSTRUCTS[config.objective]
        uses = {"ppg": config.objective != "ecg_mae", "ecg": config.objective != "ppg_mae"}
        self.encoders = nn.ModuleDict({name: signal_encoder(config, name) for name in ("ppg", "ecg") if uses[name]})
        self.decoders = nn.ModuleDict({name: Decoder(config, name, has_source=all(uses.values())) for name in rebuilt})
        # Last, so that the weights of all else are drawn as they are without.
        self.beats = BeatHeads(config.width) if config.beat_weight else None
        self.agreement = Agreement(config.width) if config.agreement_weight else None
        self.bottleneck = Bottleneck(config.width, config.local_drop) if config.local_drop else None

    @property
    def reconstructs(self) -> str:
        """The signal that `reconstruct` gives: ``ecg`` or ``ppg``."""
        return _RECONSTRUCTS[self.config.objective][0]

    @property
    def embeds(self) -> str:
        """The signal that `embed` takes."""
        return "ecg" if self.config.objective == "ecg_mae" else "ppg"

    def forward(
        self,
        ppg_BL: Tensor,
        ecg_BL: Tensor,
        mask_BN: Tensor,
        visible_BV: Tensor | None = None,
        over_S: Tensor | None = None,
        measured_BK: Tensor | None = None,
    ) -> Tensor:
        """Mean squared error over masked samples, averaged over reconstructed signals, and what is beside it."""
        signals, view = {"ppg": ppg_BL, "ecg": ecg_BL}, View.of(mask_BN, visible_BV)
        losses, errors, source_BND = [], {}, None
        for place, name in enumerate(self.decoders):
            source_BND, over = self._source(name, signals, view), None if over_S is None else over_S[place]
            rebuilt_BL = self._rebuild(name, signals, view, source_BND)
            loss, errors[name] = masked_mse(rebuilt_BL, signals[name], self._view_of(name, view).mask_BN, over)
            losses.append(loss)
        self.errors = errors
        loss = torch.stack(losses).mean()
        if source_BND is None or (self.beats is None and self.agreement is None):
            return loss
        over_S = None if over_S is None else over_S[len(losses) :]
        return loss + self._beside(source_BND, ppg_BL, ecg_BL, over_S, measured_BK)

    def _beside(
        self, ppg_BND: Tensor, ppg_BL: Tensor, ecg_BL: Tensor, over_S: Tensor | None, measured_BK: Tensor | None
    ) -> Tensor:
        """The weighted terms beside reconstruction; `over_S` is of them alone: the heads, then agreement."""
        config, total = self.config, ppg_BND.new_zeros(())
        if self.beats is not None:
            if measured_BK is None:
                measured_BK = beat_heads.measured(ppg_BL, ecg_BL, config.rate_hz)
            over_K = None if over_S is None else over_S[: measured_BK.shape[1]]
            total = total + config.beat_weight * self.beats(ppg_BND, measured_BK, over_K).mean()
        if self.agreement is not None:
            there_B = _both_whole(ppg_BL, ecg_BL)
            term = self.agreement(ppg_BND, self.encoders["ecg"](_levelled(ecg_BL)), there_B)
            term = term if over_S is None else term * (there_B.sum() / over_S[-1])
            total = total + config.agreement_weight * term
        return total

    def measured(self, ppg_BL: Tensor, ecg_BL: Tensor) -> Tensor | None:
        """The targets of the auxiliary heads, where there are any."""
        return None if self.beats is None else beat_heads.measured(ppg_BL, ecg_BL, self.config.rate_hz)

    def counts(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, measured_BK: Tensor | None = None) -> Tensor:
        """Masked samples that are there, of each reconstructed signal; windows of each head; windows that agree."""
        signals = {"ppg": ppg_BL, "ecg": ecg_BL}
        masks = {"ppg": mask_BN.flip(1) if self.config.objective == "joint" else mask_BN, "ecg": mask_BN}
        counts_S = torch.stack([counted_samples(signals[name], masks[name]) for name in self.decoders])
        measured_BK = self.measured(ppg_BL, ecg_BL) if measured_BK is None else measured_BK
        heads_K = [] if measured_BK is None else [beat_heads.counted(measured_BK)]
        agreeing_1 = [] if self.agreement is None else [_both_whole(ppg_BL, ecg_BL).sum()[None]]
        return torch.cat([counts_S, *heads_K, *agreeing_1])

    def reconstruct(self, ppg_BL: Tensor, ecg_BL: Tensor, mask_BN: Tensor, visible_BV: Tensor | None = None) -> Tensor:
        """The whole of `reconstructs`, shaped as it came, from its visible patches and the other signal."""
        signals, name = {"ppg": ppg_BL, "ecg": ecg_BL}, self.reconstructs
        view = View.of(mask_BN, visible_BV)
        return self._rebuild(name, signals, view, self._source(name, signals, view))

    def tokens(self, signal_BL: Tensor) -> Tensor:
        """The kept encoder's output tokens, (B, N, D)."""
        return self.encoders[self.embeds](filled(channelled(signal_BL)))

    def _rebuild(self, name: str, signals: Mapping[str, Tensor], view: View, source_BND: Tensor | None) -> Tensor:
        view = self._view_of(name, view)
        signal_BCL = channelled(signals[name])
        seen_BCL = ~expand_mask(view.mask_BN, self.config.patch_length)[:, None] & signal_BCL.isfinite()
        signal_BCL = filled(signal_BCL)
        mean_BC1, spread_BC1 = visible_level(signal_BCL, seen_BCL)
        level_BCL = torch.where(seen_BCL, (signal_BCL - mean_BC1) / spread_BC1, 0.0)
        visible_BVD = self.encoders[name](level_BCL, view)
        if self.bottleneck is not None and source_BND is not None:
            source_BND = self.bottleneck(source_BND)
        rebuilt_BCL = self.decoders[name](visible_BVD, view.visible_BV, source_BND)
        return (rebuilt_BCL * spread_BC1 + mean_BC1).reshape(signals[name].shape)

    def _source(self, target: str, signals: Mapping[str, Tensor], view: View) -> Tensor | None:
        """Tokens of the other signal at every patch, (B, N, D); zero where it is masked or missing."""
        if len(self.encoders) == 1:
            return None
        other = "ppg" if target == "ecg" else "ecg"
        signal_BCL = channelled(signals[other])
        there_BN1 = signal_BCL.isfinite().unflatten(2, (self.config.n_patches, -1)).any(3).any(1)[:, :, None]
        if self.config.objective != "joint":
            return self.encoders[other](filled(signal_BCL)) * there_BN1
        view = view.reversed()
        tokens_BVD = self.encoders[other](filled(signal_BCL), view)
        zeros_BND = tokens_BVD.new_zeros(len(signal_BCL), self.config.n_patches, self.config.width)
        return scatter_visible(zeros_BND, tokens_BVD, view.visible_BV) * there_BN1

    def _view_of(self, name: str, view: View) -> View:
        """What is visible of a signal: under ``joint`` the two masks mirror each other."""
        return view.reversed() if self.config.objective == "joint" and name == "ppg" else view

    @staticmethod
    def load(url: str) -> PretrainModel:
        """The model of a bundle, in evaluation mode: see `xmae_dist.model.bundle.load`."""
        return bundle.load(url).model

    @staticmethod
    def from_published(state: Mapping[str, Any], heads: int) -> PublishedXMAE:
        """The published model with a released state dict: see `xmae_dist.model.published.from_published`."""
        return from_published(state, heads=heads)


def _check(config: XMAEConfig) -> None:
    for name in ("beat_weight", "agreement_weight", "local_drop"):
        check_weight(name, getattr(config, name), allowed=config.objective == "cross")
    if config.objective not in OBJECTIVES:
        raise ConfigError("objective", value=config.objective, expected=" | ".join(OBJECTIVES))
    if config.n_patches * config.patch_length != config.length:
        raise ConfigError(
            "window length",
            value=f"{config.length} samples",
            expected=f"a multiple of {config.patch_length}",
            fix="change the window or patch_s",
        )


def check_weight(name: str, weight: float, *, allowed: bool) -> None:
    """Raises ConfigError for a negative weight, and for any but 0 where the objective does not see both signals."""
    if not weight >= 0:
        raise ConfigError(name, value=weight, expected="0 or more")
    if weight and not allowed:
        raise ConfigError(
            name,
            value=weight,
            expected="0 for this objective, which needs unmasked PPG together with the ECG",
            fix="use the objective cross",
        )


def encoder_sizes(config: XMAEConfig, signal: str) -> dict[str, Any]:
    """Arguments of the `SignalEncoder` of ``ppg`` or ``ecg`` that a configuration asks for: plain JSON values."""
    return {
        "stem": config.stem,
        "channels": config.channels(signal),
        "n_patches": config.n_patches,
        "patch_length": config.patch_length,
        "width": config.width,
        "heads": config.heads,
        "depth": config.ppg_depth if signal == "ppg" else config.ecg_depth,
        "expansion": config.expansion,
        "dropout": config.dropout,
    }


def signal_encoder(config: XMAEConfig, signal: str) -> SignalEncoder:
    """The encoder of ``ppg`` or ``ecg`` that a configuration asks for."""
    return SignalEncoder(**encoder_sizes(config, signal))


def _both_whole(ppg_BL: Tensor, ecg_BL: Tensor) -> Tensor:
    """(B,) True where neither signal misses a sample."""
    return ppg_BL.isfinite().flatten(1).all(dim=1) & ecg_BL.isfinite().flatten(1).all(dim=1)


def _levelled(signal: Tensor) -> Tensor:
    """A whole signal as its encoder knows the visible part of it: (B, C, L), standardised, missing samples zero."""
    signal_BCL = channelled(signal)
    seen_BCL, signal_BCL = signal_BCL.isfinite(), filled(signal_BCL)
    mean_BC1, spread_BC1 = visible_level(signal_BCL, seen_BCL)
    return torch.where(seen_BCL, (signal_BCL - mean_BC1) / spread_BC1, 0.0)
