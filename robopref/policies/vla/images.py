"""Pictures for vision towers: resized as PIL does it, normalised, and differentiable where they come as floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from robopref.errors import RoboprefError

_PIL_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}
_BRIGHTEST = 10.0  # pixels in [0, 1] with any sensible noise stay below, pixels in 0..255 do not


def prepare_images(
    images: Any, size: int, mean: Sequence[float], std: Sequence[float], resample: str = "bicubic"
) -> Tensor:
    """Pictures [B, H, W, 3] -> normalised float32 pixels [B, 3, size, size]: ``resize_images``, ``normalize_images``.

    Raises:
        RoboprefError: see ``resize_images``.
    """
    return normalize_images(resize_images(images, size, resample), mean, std)


def resize_images(images: Any, size: int, resample: str = "bicubic") -> Tensor:
    """Pictures [B, H, W, 3] -> float32 pixels [B, 3, size, size] in [0, 1], stretched to the square.

    Args:
        images: uint8 numpy array or tensor, resized by PIL; or a float tensor in [0, 1], resized by torch with the
            same antialiased kernel, through which gradients flow.
        size: pixels a side.
        resample: ``bicubic`` or ``bilinear``.

    Raises:
        RoboprefError: another shape, another type, float pixels outside [0, 1], or an unknown ``resample``.
    """
    if resample not in _PIL_RESAMPLING:
        raise RoboprefError(f"images are resampled {' or '.join(_PIL_RESAMPLING)}, not {resample!r}.")
    shape = tuple(getattr(images, "shape", ()))
    if len(shape) != 4 or shape[-1] != 3 or 0 in shape[1:3]:
        raise RoboprefError(f"images are [B, H, W, 3], channels last, got {shape or type(images).__name__}.")
    if isinstance(images, Tensor) and images.is_floating_point():
        return _resize_floats(images, size, resample)
    if str(images.dtype).rpartition(".")[2] != "uint8":
        raise RoboprefError(f"images are uint8 in 0..255 (or float tensors in [0, 1]), got an array of {images.dtype}.")
    device = images.device if isinstance(images, Tensor) else None
    pixels = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    resized = torch.from_numpy(_resize_bytes(pixels, size, resample)).to(device)
    return resized.permute(0, 3, 1, 2).float() / 255.0


def normalize_images(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Pixels [B, 3, H, W] in [0, 1] -> (pixels - mean) / std, per channel."""
    center, spread = (pixels.new_tensor(list(values)).view(1, -1, 1, 1) for values in (mean, std))
    return (pixels - center) / spread


def _resize_bytes(pixels: np.ndarray, size: int, resample: str) -> np.ndarray:
    if pixels.shape[1:3] == (size, size):
        return pixels.copy()  # torch wants memory that it may write to
    resized = np.empty((len(pixels), size, size, 3), np.uint8)
    for index, picture in enumerate(pixels):
        resized[index] = np.asarray(Image.fromarray(picture).resize((size, size), _PIL_RESAMPLING[resample]))
    return resized


def _resize_floats(images: Tensor, size: int, resample: str) -> Tensor:
    if not bool((images.detach().abs() < _BRIGHTEST).all()):
        raise RoboprefError("float images lie in [0, 1]; these hold larger values or NaN: divide by 255.")
    pixels = images.float().permute(0, 3, 1, 2)
    if pixels.shape[-2:] == (size, size):
        return pixels
    resized = F.interpolate(pixels, (size, size), mode=resample, align_corners=False, antialias=True)
    # The bicubic kernel overshoots at edges; PIL cuts that off when it rounds to 0..255.
    return resized.clamp(0.0, 1.0)
