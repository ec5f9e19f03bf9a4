"""The video tokenizer's layers in the form that CPUs and GPUs run fast: same weights, same results.

diffusers' `AutoencoderKLCosmos` splits every convolution into a spatial (1, 3, 3) and a temporal (3, 1, 1) part and
runs both as 3-D convolutions. With the memory laid out as [B, T, H, W, C] the spatial part is a 2-D convolution
over a view of the same memory, the temporal part a 2-D convolution or a few matrix products, and the Haar
transform one matrix product. The classes below replace diffusers' in a finished model and add no state.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_cosmos import (
    CosmosCausalConv3d,
    CosmosCausalGroupNorm,
    CosmosPatchEmbed3d,
    CosmosUnpatcher3d,
)
from torch import Tensor, nn

Autoencoder = TypeVar("Autoencoder", bound=nn.Module)


def accelerate(autoencoder: Autoencoder) -> Autoencoder:
    """Give the layers of `autoencoder` their fast form, in place, and return it."""
    for module in autoencoder.modules():
        if (fast := _fast_form(module)) is not None:
            module.__class__ = fast
    return autoencoder


def _fast_form(module: Any) -> type[nn.Module] | None:
    if type(module) is CosmosCausalConv3d:
        if module.kernel_size == (1, 1, 1):
            return PointwiseConv
        return SpatialConv if module.kernel_size[0] == 1 else TemporalConv
    if type(module) is CosmosCausalGroupNorm and module.num_groups == 1:
        return FrameNorm
    if type(module) is CosmosPatchEmbed3d and module.patch_method == "haar":
        return HaarPatches
    if type(module) is CosmosUnpatcher3d and module.patch_method == "haar":
        return HaarPictures
    return None


def _channels_last(x: Tensor) -> Tensor:
    """[B, C, T, H, W] of any layout as contiguous [B, T, H, W, C]; most often there is nothing to do."""
    return x.permute(0, 2, 3, 4, 1).contiguous()


def _channels_first(x: Tensor) -> Tensor:
    return x.permute(0, 4, 1, 2, 3)


class PointwiseConv(CosmosCausalConv3d):
    """Kernel (1, 1, 1)."""

    def forward(self, x: Tensor) -> Tensor:
        return _channels_first(F.linear(_channels_last(x), self.weight[:, :, 0, 0, 0], self.bias))


class SpatialConv(CosmosCausalConv3d):
    """Kernel (1, k, k): every frame by itself."""

    def forward(self, x: Tensor) -> Tensor:
        batch = len(x)
        frames = _channels_last(x).flatten(0, 1).permute(0, 3, 1, 2)
        y = F.conv2d(frames, self.weight[:, :, 0], self.bias, self.stride[1:], self.spatial_pad[0])
        return y.unflatten(0, (batch, -1)).transpose(1, 2)


class TemporalConv(CosmosCausalConv3d):
    """Kernel (k, 1, 1), padded in front with the first frame: every pixel by itself."""

    def forward(self, x: Tensor) -> Tensor:
        x = _channels_last(x)
        x = torch.cat([x[:, :1]] * self.temporal_pad + [x], 1)
        stride = self.stride[0]
        if x.is_cuda:
            pixels = x.flatten(2, 3).permute(0, 3, 1, 2)  # [B, C, T, H * W]
            y = F.conv2d(pixels, self.weight[..., 0], self.bias, (stride, 1))
            return y.unflatten(3, x.shape[2:4])
        taps = self.weight[..., 0, 0].unbind(2)
        frames = (x.shape[1] - len(taps)) // stride + 1
        y = F.linear(x[:, : stride * frames : stride], taps[0], self.bias)
        for start, tap in enumerate(taps[1:], start=1):
            shifted = x[:, start : start + stride * frames : stride]
            y = torch.addmm(y.flatten(0, 3), shifted.flatten(0, 3), tap.T).view_as(y)
        return _channels_first(y)


class FrameNorm(CosmosCausalGroupNorm):
    """One group: statistics over height, width and channels of each frame, one row in this layout."""

    def forward(self, x: Tensor) -> Tensor:
        norm = self.norm
        with torch.autocast(x.device.type, enabled=False):  # which would return float32
            y = _channels_last(x)
            y = F.layer_norm(y, y.shape[2:], eps=norm.eps)
            return _channels_first(torch.addcmul(norm.bias.to(y.dtype), y, norm.weight.to(y.dtype)))


class HaarPatches(CosmosPatchEmbed3d):
    """[B, C, 1 + T, H, W] -> [B, C p^3, 1 + T / p, H / p, W / p]; the first frame stands p times in front."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        x = torch.cat([x[:, :, :1].expand(-1, -1, p, -1, -1), x[:, :, 1:]], 2)
        b, c, t, h, w = x.shape
        blocks = x.reshape(b, c, t // p, p, h // p, p, w // p, p).permute(0, 2, 4, 6, 1, 3, 5, 7).flatten(4)
        return _channels_first(F.linear(blocks, haar_matrix(c, p, x) / p**3))


class HaarPictures(CosmosUnpatcher3d):
    """The inverse of `HaarPatches`; the repeated frames in front are dropped."""

    def forward(self, x: Tensor) -> Tensor:
        p = self.patch_size
        c = x.shape[1] // p**3
        blocks = F.linear(x.permute(0, 2, 3, 4, 1), haar_matrix(c, p, x).T)
        blocks = blocks.unflatten(4, (c, p, p, p)).permute(0, 4, 1, 5, 2, 6, 3, 7)
        return blocks.flatten(6, 7).flatten(4, 5).flatten(2, 3)[:, :, p - 1 :]


def haar_matrix(channels: int, patch: int, like: Tensor) -> Tensor:
    """Signs of the Haar packet transform of blocks of patch^3 pixels, [bands * channels, channels * pixels].

    The transform halves time, height and width in each of its log2(patch) levels. A band is named by one bit per
    level and axis, a pixel's place in its block likewise, and the sign turns with each bit that both have set. The
    last level is slowest in the order of the bands, the lowest bit of an axis belongs to the first level.
    """
    levels = patch.bit_length() - 1
    index = torch.arange(
        patch**3, device=like.device
    )  # made on the device: a CUDA graph may not copy from the host
    both = index[:, None] & index
    odd = torch.zeros_like(both)
    for bit in range(3 * levels):
        odd ^= both >> bit
    signs = (1.0 - 2.0 * (odd & 1)).to(like.dtype).view(-1, *(2,) * (3 * levels))
    by_axis = [1 + 3 * level + axis for axis in range(3) for level in range(levels)]
    signs = signs.permute(0, *by_axis).flatten(1)  # bands x pixels in the order t, y, x
    one_to_one = torch.eye(channels, dtype=like.dtype, device=like.device)
    return torch.einsum("kp,cd->kcdp", signs, one_to_one).flatten(2).flatten(0, 1)
