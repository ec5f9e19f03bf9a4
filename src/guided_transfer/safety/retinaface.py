"""RetinaFace over a ResNet-50: where faces are, with the parameter names of the published weights.

Deng et al., RetinaFace: Single-shot Multi-level Face Localisation in the Wild, CVPR 2020. The heads for landmarks
are left out; nothing needs them here.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil

import torch
from torch import Tensor, nn
from torch.nn import functional

DEPTHS = (3, 4, 6, 3)
STRIDES_PX = (8, 16, 32)
ANCHOR_SIDES_PX = ((16, 32), (64, 128), (256, 512))
VARIANCES = (0.1, 0.2)
"""Scales of the predicted shifts and logarithmic sizes."""
MEAN_BGR = (104.0, 117.0, 123.0)


def sizes_of(tensors: Mapping[str, Tensor]) -> tuple[int, int]:
    """Channels of the stem and of the pyramid, read from the weights themselves.

    Raises:
        KeyError: they are no RetinaFace.
    """
    return tensors["body.conv1.weight"].shape[0], tensors["fpn.output1.0.weight"].shape[0]


class RetinaFace(nn.Module):
    """Faces of pictures.

    Args:
        stem: channels of the first convolution; 64 in the published weights.
        pyramid: channels of the pyramid; 256 in the published weights.
    """

    def __init__(self, stem: int = 64, pyramid: int = 256) -> None:
        super().__init__()
        self.body = _Body(stem)
        self.fpn = _Pyramid([stem * factor for factor in (8, 16, 32)], pyramid)
        self.ssh1, self.ssh2, self.ssh3 = (_Context(pyramid) for _ in STRIDES_PX)
        self.ClassHead = nn.ModuleList(_Head(pyramid, 2) for _ in STRIDES_PX)
        self.BboxHead = nn.ModuleList(_Head(pyramid, 4) for _ in STRIDES_PX)

    def forward(self, rgb: Tensor) -> tuple[Tensor, Tensor]:
        """Look at every anchor.

        Args:
            rgb: [B,3,H,W] in 0..255.

        Returns:
            Boxes [B,N,4] as left, top, right, bottom [px], and the probability [B,N] that each is a face.
        """
        pixels = rgb.flip(1) - torch.tensor(MEAN_BGR, device=rgb.device).view(3, 1, 1)
        levels = self.fpn(self.body(pixels))
        levels = [context(level) for context, level in zip((self.ssh1, self.ssh2, self.ssh3), levels, strict=True)]
        shifts = torch.cat([head(level) for head, level in zip(self.BboxHead, levels, strict=True)], dim=1)
        logits = torch.cat([head(level) for head, level in zip(self.ClassHead, levels, strict=True)], dim=1)
        boxes = decode(shifts, anchors(rgb.shape[-2], rgb.shape[-1]).to(rgb.device))
        return boxes, logits.softmax(dim=-1)[..., 1]


def anchors(height: int, width: int) -> Tensor:
    """Centre x, centre y and side twice [px] of every anchor, [N,4], in the order of the heads' outputs."""
    rows = []
    for stride, sides in zip(STRIDES_PX, ANCHOR_SIDES_PX, strict=True):
        for y in range(ceil(height / stride)):
            for x in range(ceil(width / stride)):
                rows += [((x + 0.5) * stride, (y + 0.5) * stride, side, side) for side in sides]
    return torch.tensor(rows, dtype=torch.float32)


def decode(shifts: Tensor, anchors_px: Tensor) -> Tensor:
    """Boxes [B,N,4] (left, top, right, bottom [px]) from what the network says about each anchor."""
    centres = anchors_px[:, :2] + shifts[..., :2] * VARIANCES[0] * anchors_px[:, 2:]
    sides = anchors_px[:, 2:] * torch.exp(shifts[..., 2:] * VARIANCES[1])
    return torch.cat([centres - sides / 2, centres + sides / 2], dim=-1)


def _conv(inputs: int, outputs: int, kernel: int, *, stride: int = 1, relu: bool = True) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs),
    ]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, channels: int, stride: int) -> None:
        super().__init__()
        outputs = 4 * channels
        self.conv1, self.bn1 = nn.Conv2d(inputs, channels, 1, bias=False), nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3, self.bn3 = nn.Conv2d(channels, outputs, 1, bias=False), nn.BatchNorm2d(outputs)
        if stride != 1 or inputs != outputs:
            self.downsample = _conv(inputs, outputs, 1, stride=stride, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.downsample(x) if hasattr(self, "downsample") else x
        x = self.bn1(self.conv1(x)).relu()
        x = self.bn2(self.conv2(x)).relu()
        return (self.bn3(self.conv3(x)) + kept).relu()


class _Body(nn.Module):
    """ResNet-50; gives the maps at strides 8, 16 and 32."""

    def __init__(self, stem: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        inputs = stem
        for level, depth in enumerate(DEPTHS):
            channels = stem * 2**level
            blocks = [_Bottleneck(inputs, channels, 1 if level == 0 else 2)]
            blocks += [_Bottleneck(4 * channels, channels, 1) for _ in range(depth - 1)]
            self.add_module(f"layer{level + 1}", nn.Sequential(*blocks))
            inputs = 4 * channels

    def forward(self, x: Tensor) -> list[Tensor]:
        x = functional.max_pool2d(self.bn1(self.conv1(x)).relu(), 3, stride=2, padding=1)
        maps = []
        for level in range(1, 5):
            x = self.get_submodule(f"layer{level}")(x)
            maps.append(x)
        return maps[1:]


class _Pyramid(nn.Module):
    def __init__(self, inputs: list[int], channels: int) -> None:
        super().__init__()
        self.output1, self.output2, self.output3 = (_conv(size, channels, 1) for size in inputs)
        self.merge1, self.merge2 = _conv(channels, channels, 3), _conv(channels, channels, 3)

    def forward(self, maps: list[Tensor]) -> list[Tensor]:
        fine, middle, coarse = self.output1(maps[0]), self.output2(maps[1]), self.output3(maps[2])
        middle = self.merge2(middle + functional.interpolate(coarse, size=middle.shape[-2:]))
        fine = self.merge1(fine + functional.interpolate(middle, size=fine.shape[-2:]))
        return [fine, middle, coarse]


class _Context(nn.Module):
    """Looks 3, 5 and 7 pixels wide at once."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        half, quarter = channels // 2, channels // 4
        self.conv3X3 = _conv(channels, half, 3, relu=False)
        self.conv5X5_1, self.conv5X5_2 = _conv(channels, quarter, 3), _conv(quarter, quarter, 3, relu=False)
        self.conv7X7_2, self.conv7x7_3 = _conv(quarter, quarter, 3), _conv(quarter, quarter, 3, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        wider = self.conv5X5_1(x)
        widest = self.conv7x7_3(self.conv7X7_2(wider))
        return torch.cat([self.conv3X3(x), self.conv5X5_2(wider), widest], dim=1).relu()


class _Head(nn.Module):
    def __init__(self, channels: int, values: int) -> None:
        super().__init__()
        self.values = values
        self.conv1x1 = nn.Conv2d(channels, 2 * values, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv1x1(x).permute(0, 2, 3, 1).reshape(len(x), -1, self.values)
