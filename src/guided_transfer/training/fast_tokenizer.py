"""The tokenizer's layers in the form a GPU runs fast, with the same weights and the same results.

diffusers' `AutoencoderKLCosmos` splits every convolution into a spatial (1, 3, 3) and a temporal (3, 1, 1) part and
runs both as 3-D convolutions. With the memory laid out as [B, T, H, W, C] each is a 2-D convolution over a view
of the same memory, and the two-level Haar transform is a reshape with sums. Only training uses this; the shipped
tokenizer is diffusers' own class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

Forward = Callable[[Tensor], Tensor]


def accelerate(vae: Any) -> Any:
    """Replace the forward methods inside `vae` (in place) and return it; parameters stay the same objects."""
    for module in vae.modules():
        kind = type(module).__name__
        if kind == "CosmosCausalConv3d":
            module.forward = _conv_forward(module)
        elif kind == "CosmosCausalGroupNorm":
            module.forward = _norm_forward(module)
    vae.encoder.patch_embed.forward = haar_patches
    vae.decoder.unpatch_embed.forward = haar_unpatch
    return vae


def _haar_matrix(x: Tensor) -> Tensor:
    """[8, 8] signs of one 2 x 2 x 2 Haar step, rows in the order of the bands (time slowest), scaled by 1/8."""
    index = torch.arange(8, device=x.device)  # made on the device: a CUDA graph may not copy from the host
    both = index[:, None] & index  # a band's sign turns with each axis it differs along
    odd = ((both >> 2) + (both >> 1) + both) % 2
    return (1.0 - 2.0 * odd).to(x.dtype) / 8.0


def haar_patches(video: Tensor) -> Tensor:
    """[B, 3, T, H, W] -> [B, 192, (T + 3) / 4, H / 4, W / 4]; the first frame is repeated four times in front."""
    x = torch.cat([video[:, :, :1].expand(-1, -1, 4, -1, -1), video[:, :, 1:]], 2)
    for _ in range(2):
        b, c, t, h, w = x.shape
        blocks = x.reshape(b, c, t // 2, 2, h // 2, 2, w // 2, 2).permute(0, 2, 4, 6, 3, 5, 7, 1).flatten(4, 6)
        bands = torch.einsum("kq,bthwqc->bthwkc", _haar_matrix(x), blocks)  # band slowest, channel fastest
        x = bands.flatten(4, 5).permute(0, 4, 1, 2, 3)
    return x


def haar_unpatch(bands: Tensor) -> Tensor:
    """The inverse of `haar_patches`; the three repeated frames in front are dropped."""
    x = bands
    for _ in range(2):
        b, c, t, h, w = x.shape
        bank = x.permute(0, 2, 3, 4, 1).reshape(b, t, h, w, 8, c // 8)
        blocks = torch.einsum("kq,bthwkc->bthwqc", _haar_matrix(x) * 8.0, bank)
        blocks = blocks.reshape(b, t, h, w, 2, 2, 2, c // 8).permute(0, 7, 1, 4, 2, 5, 3, 6)
        x = blocks.reshape(b, c // 8, 2 * t, 2 * h, 2 * w)
    return x[:, :, 3:]


def _conv_forward(conv: Any) -> Forward:
    kt, kh, kw = conv.kernel_size
    st, sh, sw = conv.stride
    pad = conv.spatial_pad[0]

    def spatial(x: Tensor) -> Tensor:
        b, _, t, _, _ = x.shape
        x = x.contiguous(memory_format=torch.channels_last_3d)  # nothing to do but after an upsampling
        frames = x.permute(0, 2, 1, 3, 4).flatten(0, 1)
        y = F.conv2d(frames, conv.weight[:, :, 0], conv.bias, stride=(sh, sw), padding=(pad, pad))
        return y.unflatten(0, (b, t)).permute(0, 2, 1, 3, 4)

    def temporal(x: Tensor) -> Tensor:
        h, w = x.shape[3:]
        x = x.contiguous(memory_format=torch.channels_last_3d)
        if conv.temporal_pad:
            x = torch.cat([x[:, :, :1]] * conv.temporal_pad + [x], 2)
        y = F.conv2d(x.flatten(3, 4), conv.weight[..., 0], conv.bias, stride=(st, 1))
        return y.unflatten(3, (h, w))

    def pointwise(x: Tensor) -> Tensor:
        y = F.linear(x.permute(0, 2, 3, 4, 1), conv.weight[:, :, 0, 0, 0], conv.bias)
        return y.permute(0, 4, 1, 2, 3)

    if kt == 1:
        return pointwise if kh == kw == 1 else spatial
    return temporal


def _norm_forward(norm: Any) -> Forward:
    inner = norm.norm

    def forward(x: Tensor) -> Tensor:
        # One group: statistics over H, W, C of each frame, one contiguous row in this layout. Autocast would
        # return float32 here; the statistics are float32 anyway.
        with torch.autocast(x.device.type, enabled=False):
            y = x.permute(0, 2, 3, 4, 1).contiguous()
            y = F.layer_norm(y, y.shape[2:], eps=inner.eps)
            y = torch.addcmul(inner.bias.to(y.dtype), y, inner.weight.to(y.dtype))
        return y.permute(0, 4, 1, 2, 3)

    return forward
