"""How alike two videos are inside a mask: PSNR, SSIM, CIEDE2000. All tensors are on the CPU."""

from __future__ import annotations

import math

import cv2
import numpy as np
import torch
from torch import Tensor

IDENTICAL_DB = 200.0
"""PSNR of equal pixels. Not infinity, so that records stay strict JSON; uint8 videos that differ stay far below."""

COLOUR_SAMPLES = 50_000
"""CIEDE2000 is averaged over at most about this many pixels, taken in even strides: error below 0.1."""

GAUSSIAN = "gaussian"
UNIFORM = "uniform"


def psnr_db(x: Tensor, y: Tensor, mask: Tensor | None = None) -> float | None:
    """Peak signal-to-noise ratio, pooled over all frames (no mean of decibels).

    10 log10(255^2 / MSE), MSE over the three channels of the pixels in `mask`.

    Args:
        x: [T, H, W, 3] uint8.
        y: like x.
        mask: [T, H, W] bool; None takes all pixels.

    Returns:
        dB, IDENTICAL_DB where nothing differs, None where the mask is empty.

    >>> psnr_db(torch.zeros(1, 2, 2, 3, dtype=torch.uint8), torch.full((1, 2, 2, 3), 255, dtype=torch.uint8))
    0.0
    """
    squared = _squared(x, y, mask)
    return _decibels(float(squared.mean(dtype=torch.float64))) if len(squared) else None


def psnr_per_frame_db(x: Tensor, y: Tensor, mask: Tensor) -> list[float | None]:
    """`psnr_db` of each frame by itself, for time lines."""
    frames = _squared(x, y, mask).split(mask.sum((1, 2)).tolist())
    return [_decibels(float(frame.mean(dtype=torch.float64))) if len(frame) else None for frame in frames]


def _squared(x: Tensor, y: Tensor, mask: Tensor | None) -> Tensor:
    """Squared differences [N, 3] float32 of the N pixels in the mask, frame by frame."""
    if mask is None:
        return (x.float() - y).square_().reshape(-1, 3)
    return (x[mask].float() - y[mask]).square_()


def _decibels(mean_squared_error: float) -> float:
    return 10 * math.log10(255**2 / mean_squared_error) if mean_squared_error else IDENTICAL_DB


def ssim_map(x: Tensor, y: Tensor, window: str = GAUSSIAN) -> Tensor:
    """Structural similarity at each pixel, averaged over the channels.

    Wang et al., "Image quality assessment: from error visibility to structural similarity", 2004: window
    "gaussian" (sigma 1.5, 11 taps, population covariance), or "uniform" (7 x 7, sample covariance), with
    K1 = 0.01, K2 = 0.03, data range 255 and mirrored borders; scikit-image's definitions of both.

    Args:
        x: [T, H, W, 3] uint8.
        y: like x.
        window: GAUSSIAN or UNIFORM.

    Returns:
        [T, H, W] float32, at most 1.
    """
    pairs = zip(x.numpy(), y.numpy(), strict=True)
    return torch.stack([torch.from_numpy(_ssim_frame(a, b, window)) for a, b in pairs])


def _ssim_frame(x: np.ndarray, y: np.ndarray, window: str) -> np.ndarray:
    # Variances do not depend on the origin; centred values keep float32 exact enough.
    a, b = x.astype(np.float32) - 127.5, y.astype(np.float32) - 127.5
    mean_a, mean_b = _windowed(a, window), _windowed(b, window)
    scale = 1.0 if window == GAUSSIAN else 49 / 48
    var_a = scale * (_windowed(a * a, window) - mean_a * mean_a)
    var_b = scale * (_windowed(b * b, window) - mean_b * mean_b)
    covariance = scale * (_windowed(a * b, window) - mean_a * mean_b)
    mean_a, mean_b = mean_a + 127.5, mean_b + 127.5
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a * mean_a + mean_b * mean_b + c1)
    structure = (2 * covariance + c2) / (var_a + var_b + c2)
    return (luminance * structure).mean(axis=-1)


def _windowed(picture: np.ndarray, window: str) -> np.ndarray:
    if window == GAUSSIAN:
        return cv2.GaussianBlur(picture, (11, 11), 1.5, borderType=cv2.BORDER_REFLECT)
    return cv2.blur(picture, (7, 7), borderType=cv2.BORDER_REFLECT)


def abs_diff_per_frame(x: Tensor, y: Tensor, mask: Tensor) -> list[float | None]:
    """Mean absolute difference / 255 of each frame where the mask [T, H, W] holds; None where it never does.

    Args:
        x: [T, H, W, 3], 0..255.
        y: like x.
        mask: [T, H, W] bool.
    """
    pairs = zip(*_abs_sums(x, y, mask), strict=True)
    return [total / (3 * 255 * count) if count else None for total, count in pairs]


def abs_diff(x: Tensor, y: Tensor, mask: Tensor) -> float | None:
    """Mean absolute difference / 255 where the mask holds, all frames pooled; None where it never does."""
    totals, counts = _abs_sums(x, y, mask)
    return sum(totals) / (3 * 255 * sum(counts)) if any(counts) else None


def _abs_sums(x: Tensor, y: Tensor, mask: Tensor) -> tuple[list[float], list[int]]:
    """Sum of |x - y| and number of pixels in the mask, by frame. A product, because gathering pixels is slower."""
    difference = (x.float() - y).abs_().flatten(1, 2)  # [T, HW, 3]
    totals = mask.flatten(1)[:, None].float() @ difference  # [T, 1, 3]
    return totals.double().sum((1, 2)).tolist(), mask.sum((1, 2)).tolist()


def masked_mean(values: Tensor, mask: Tensor) -> float | None:
    """Mean of [T, H, W] values where the mask holds, None where it never does."""
    return float(values[mask].double().mean()) if bool(mask.any()) else None


def delta_e(x: Tensor, y: Tensor, mask: Tensor) -> float | None:
    """Mean CIEDE2000 colour difference of the pixels in `mask`; about 1 is just noticeable, 100 black to white.

    Args:
        x: [T, H, W, 3] uint8, sRGB.
        y: like x.
        mask: [T, H, W] bool.

    Returns:
        The mean over evenly strided pixels (COLOUR_SAMPLES), None where the mask is empty.
    """
    from skimage.color import deltaE_ciede2000, rgb2lab

    chosen = mask.flatten().nonzero()[:, 0]
    if not len(chosen):
        return None
    chosen = chosen[:: max(len(chosen) // COLOUR_SAMPLES, 1)]
    lab = [rgb2lab(video.reshape(-1, 3)[chosen].numpy()) for video in (x, y)]
    return float(deltaE_ciede2000(*lab).mean())
