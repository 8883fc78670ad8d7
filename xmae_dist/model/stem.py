"""Stems: from raw samples to features, before patches are cut.

Shapes: B batch, C channels of a signal, S channels of a stem, L samples.

`PyramidStem` is the published one: length-preserving, it spends most of a training step at the full rate.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from xmae_dist.core.errors import ConfigError
from xmae_dist.model.patch import gather_visible


def conv_norm_act(channels_in: int, channels_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Conv1d without bias (padding kernel // 2), BatchNorm1d, SiLU."""
    conv = nn.Conv1d(channels_in, channels_out, kernel, stride=stride, padding=kernel // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm1d(channels_out), nn.SiLU())


class Inception(nn.Module):
    """Three parallel kernels (3, 5, 7), joined and fused by a kernel of 1: ``(B, S_in, L) -> (B, S, L)``."""

    def __init__(self, channels_in: int, channels: int) -> None:
        super().__init__()
        third = channels // 3
        widths = (third, third, channels - 2 * third)
        self.branches = nn.ModuleList(
            conv_norm_act(channels_in, width, kernel) for width, kernel in zip(widths, (3, 5, 7), strict=True)
        )
        self.fuse = conv_norm_act(channels, channels, 1)

    def forward(self, x_BSL: Tensor) -> Tensor:
        return self.fuse(torch.cat([branch(x_BSL) for branch in self.branches], dim=1))


class PyramidStem(nn.Module):
    """The published stem: three levels of Inceptions down, a feature pyramid up, a skip: (B, 1, L) -> (B, S, L)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.enc1 = nn.Sequential(Inception(1, 32), Inception(32, 32))
        self.down1 = conv_norm_act(32, 64, 3, stride=2)
        self.enc2 = nn.Sequential(Inception(64, 64), Inception(64, 64))
        self.down2 = conv_norm_act(64, 128, 3, stride=2)
        self.enc3 = nn.Sequential(Inception(128, 128), Inception(128, 128))
        self.lat2 = nn.Conv1d(64, 64, 1, bias=False)
        self.lat1 = nn.Conv1d(32, 32, 1, bias=False)
        self.red3to2 = nn.Conv1d(128, 64, 1, bias=False)
        self.red2to1 = nn.Conv1d(64, 32, 1, bias=False)
        self.smooth2 = conv_norm_act(64, 64, 3)
        self.smooth1 = conv_norm_act(32, 32, 3)
        self.head = conv_norm_act(32, channels, 3)
        self.skip = nn.Conv1d(1, channels, 1, bias=False) if channels > 1 else nn.Identity()
        self.skip_bn = nn.BatchNorm1d(channels) if channels > 1 else nn.Identity()

    def forward(self, x_B1L: Tensor) -> Tensor:
        fine = self.enc1(x_B1L)
        middle = self.enc2(self.down1(fine))
        coarse = self.enc3(self.down2(middle))
        middle = self.smooth2(self.lat2(middle) + _stretched(self.red3to2(coarse), middle))
        fine = self.smooth1(self.lat1(fine) + _stretched(self.red2to1(middle), fine))
        return self.head(fine) + self.skip_bn(self.skip(x_B1L))


def _stretched(coarse_BSl: Tensor, like_BSL: Tensor) -> Tensor:
    """Linear interpolation to the other's exact length."""
    return F.interpolate(coarse_BSl, size=like_BSL.shape[-1], mode="linear", align_corners=False)


class StridedStem(nn.Module):
    """Three strided convolutions straight to patch tokens: ``(B, C, L) -> (B, N, D)``, N = L / P.

    The first already leaves the full rate (stride 2 or more), which is what makes it cheap. Each is followed by
    GroupNorm over one group and GELU, so nothing depends on the other windows of a batch.
    """

    def __init__(self, channels: int, width: int, patch_length: int) -> None:
        super().__init__()
        first, second, third = strides_of(patch_length)
        narrow, middle = max(width // 8, 8), max(width // 2, 8)
        self.convs = nn.Sequential(
            nn.Conv1d(channels, narrow, 4 * first + 1, stride=first, padding=2 * first),
            nn.GroupNorm(1, narrow),
            nn.GELU(),
            nn.Conv1d(narrow, middle, 2 * second + 1, stride=second, padding=second),
            nn.GroupNorm(1, middle),
            nn.GELU(),
            nn.Conv1d(middle, width, third, stride=third),
        )

    def forward(self, x_BCL: Tensor, wanted_BV: Tensor | None = None) -> Tensor:
        return _wanted(self.convs(x_BCL).transpose(1, 2), wanted_BV)


class Frames(nn.Conv1d):
    """A strided convolution over frames that are cut already: ``(B, N, C, K) -> (B, N, D)``, one matrix product."""

    def forward(self, frames_BNCK: Tensor) -> Tensor:
        return F.linear(frames_BNCK.flatten(2), self.weight.flatten(1), self.bias)


class FrameStem(nn.Module):
    """A patch with half a patch on either side, through one hidden layer: ``(B, C, L) -> (B, N, D)``.

    No work at all is done at the full rate: this is two matrix products per patch, and of patches that are wanted
    alone.
    """

    def __init__(self, channels: int, width: int, patch_length: int) -> None:
        super().__init__()
        self.reach = patch_length // 2
        self.frame = Frames(channels, width, patch_length + 2 * self.reach, stride=patch_length)
        self.mix = nn.Linear(width, width)

    def forward(self, x_BCL: Tensor, wanted_BV: Tensor | None = None) -> Tensor:
        padded_BCL = F.pad(x_BCL, (self.reach, self.reach))
        frames_BNCK = padded_BCL.unfold(2, self.frame.kernel_size[0], self.frame.stride[0]).transpose(1, 2)
        if wanted_BV is not None:
            size = (-1, -1, *frames_BNCK.shape[2:])
            frames_BNCK = frames_BNCK.gather(1, wanted_BV[:, :, None, None].expand(size))
        return self.mix(F.gelu(self.frame(frames_BNCK)))


class PatchedPyramidStem(nn.Module):
    """The published stem followed by its patch embedding: ``(B, 1, L) -> (B, N, D)``, for comparison."""

    def __init__(self, channels: int, width: int, patch_length: int) -> None:
        super().__init__()
        if channels != 1:
            raise ConfigError("channels of the pyramid stem", value=channels, expected="1", fix="stem=strided")
        self.features = PyramidStem(32)
        self.patches = nn.Conv1d(32, width, patch_length, stride=patch_length)

    def forward(self, x_B1L: Tensor, wanted_BV: Tensor | None = None) -> Tensor:
        return _wanted(self.patches(self.features(x_B1L)).transpose(1, 2), wanted_BV)


def _wanted(tokens_BND: Tensor, wanted_BV: Tensor | None) -> Tensor:
    return tokens_BND if wanted_BV is None else gather_visible(tokens_BND, wanted_BV)


STEMS = {"strided": StridedStem, "frames": FrameStem, "pyramid": PatchedPyramidStem}


def build_stem(name: str, channels: int, width: int, patch_length: int) -> nn.Module:
    """A stem that gives patch tokens, all or those wanted, by name; ConfigError for an unknown one."""
    if name not in STEMS:
        raise ConfigError("stem", value=name, expected=" | ".join(STEMS))
    return STEMS[name](channels, width, patch_length)


def strides_of(patch_length: int) -> tuple[int, int, int]:
    """Three strides whose product is ``patch_length``, the first at least 2 where it can be.

    >>> strides_of(20), strides_of(25), strides_of(40)
    ((2, 2, 5), (5, 1, 5), (2, 4, 5))
    """
    first = next((s for s in (2, 3, 5) if patch_length % s == 0), 1)
    rest = patch_length // first
    second = next((s for s in (4, 2, 3) if rest % s == 0 and rest > s), 1)
    return first, second, rest // second
