"""Pictures of how far a training is: what was given above what the model makes of it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from guided_transfer.models.network import TransferNetwork
from guided_transfer.sampling.denoiser import EdmDenoiser
from guided_transfer.sampling.schedule import SIGMA_MAX, karras_sigmas
from guided_transfer.sampling.solver import sample
from guided_transfer.training.ema import Ema
from guided_transfer.whole import whole_file

STEPS = 12


def write_pairs(path: Path, above: Tensor, below: Tensor) -> None:
    """Write the middle frames of videos [N, 3, T, H, W] in -1..1 as a PNG of two rows, whole or not at all."""
    rows = [torch.cat(list(video[:, :, video.shape[2] // 2].float()), dim=-1) for video in (above, below)]
    levels = ((torch.cat(rows, dim=-2).clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    rgb = levels.permute(1, 2, 0).cpu().numpy()
    encoded = cv2.imencode(".png", cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR))[1]
    with whole_file(path, durable=False) as file:
        file.write_bytes(np.asarray(encoded).tobytes())


@dataclass(frozen=True)
class Clips:
    """What a network is told of N clips, and what they should become; latents as the network sees them.

    Attributes:
        target: [N, 16, t, h, w].
        hints: by control, likewise.
        tokens: [N, L] of the captions.
        fps: frames per second.
    """

    target: Tensor
    hints: Mapping[str, Tensor]
    tokens: Tensor
    fps: float


class Samples:
    """Generates a few clips with the averaged weights, the same ones from the same noise every time.

    Args:
        path: of the picture, rendered clips above generated ones.
        network, text: copied, so give them before they are compiled.
        clips: to generate.
        decode: [N, 16, t, h, w] latents as the network sees them -> [N, 3, T, H, W] video in -1..1.
    """

    def __init__(
        self,
        path: Path,
        network: TransferNetwork,
        text: nn.Module,
        clips: Clips,
        decode: Callable[[Tensor], Tensor],
    ) -> None:
        self._path, self._clips, self._decode = path, clips, decode
        self._network, self._text = copy.deepcopy(network).eval(), copy.deepcopy(text).eval()
        self._tower = nn.ModuleDict({"network": self._network, "text": self._text})

    @torch.no_grad()
    def write(self, ema: Ema) -> None:
        """Generate and show them."""
        self._tower.load_state_dict(ema.state_dict(), strict=False)  # parameters alone, no buffers
        clips = self._clips
        noise = torch.randn(clips.target.shape, generator=torch.Generator().manual_seed(0))
        weights = dict.fromkeys(clips.hints, 1 / len(clips.hints))
        conditioning = self._network.prepare(self._text(clips.tokens), clips.hints, weights, fps=clips.fps)
        denoiser = EdmDenoiser(partial(self._network, conditioning=conditioning, condition_mask=None))
        made = sample(denoiser, SIGMA_MAX * noise.to(clips.target.device), karras_sigmas(STEPS))
        write_pairs(self._path, self._decode(clips.target), self._decode(made))
