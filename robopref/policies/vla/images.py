"""Pictures as a vision tower wants them, without torchvision: resized by PIL (or by torch, where gradients flow)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from robopref.errors import RoboprefError

Resample = Literal["bicubic", "bilinear"]
_BRIGHTEST = 10.0  # pixels in [0, 1] with any sensible noise stay below, pixels in 0..255 do not


def resize_images(images: Any, size: int, resample: Resample = "bicubic") -> Tensor:
    """Images uint8 [B, H, W, 3], or float tensors in [0, 1] -> float32 [B, 3, size, size] in [0, 1].

    uint8 pictures are resized by PIL, which is what the published processors do to the bit; float tensors by torch's
    antialiased interpolation, through which gradients reach the pixels.

    Raises:
        RoboprefError: another shape or kind of numbers.
    """
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[-1] != 3:
        raise RoboprefError(f"images are [B, H, W, 3] (channels last), got an array of shape {shape}.")
    if isinstance(images, Tensor) and images.is_floating_point():
        if not bool((images.abs() < _BRIGHTEST).all()):
            raise RoboprefError("float images lie in [0, 1]; these hold larger values or NaN: divide by 255.")
        pixels = images.permute(0, 3, 1, 2).float()
        if shape[1:3] == (size, size):
            return pixels
        return functional.interpolate(pixels, (size, size), mode=resample, antialias=True, align_corners=False)
    array = images.cpu().numpy() if isinstance(images, Tensor) else np.asarray(images)
    if array.dtype != np.uint8:
        raise RoboprefError(f"images are uint8 in 0..255 (or float tensors in [0, 1]), got an array of {array.dtype}.")
    if shape[1:3] != (size, size):
        from PIL import Image

        method = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}[resample]
        array = np.stack([np.asarray(Image.fromarray(image).resize((size, size), method)) for image in array])
    # One division, whatever the layout in memory, so that equal pixels give equal numbers.
    return torch.tensor(array).permute(0, 3, 1, 2).float() / 255


def normalize_images(pixels: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """(pixels - mean) / std per channel, for pixels [B, 3, H, W]."""
    return (pixels - pixels.new_tensor(mean).view(3, 1, 1)) / pixels.new_tensor(std).view(3, 1, 1)


def prepare_images(
    images: Any, size: int, mean: Sequence[float], std: Sequence[float], resample: Resample = "bicubic"
) -> Tensor:
    """``resize_images``, then ``normalize_images``: [B, H, W, 3] -> [B, 3, size, size]."""
    return normalize_images(resize_images(images, size, resample), mean, std)
