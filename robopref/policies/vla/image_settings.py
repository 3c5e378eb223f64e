"""How a checkpoint wants its pictures, read from its ``preprocessor_config.json``."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from robopref.errors import RoboprefError
from robopref.policies.vla.images import prepare_images
from robopref.policies.vla.json_files import read_object

_RESAMPLE = {2: "bilinear", 3: "bicubic"}
"""By PIL's number of the filter, which is what the file holds."""


@dataclass(frozen=True)
class ImageSettings:
    """Pictures are resized straight to ``size`` x ``size``, scaled to [0, 1] and normalised per channel."""

    size: int
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: str = "bicubic"

    def prepare(self, images: Any) -> Tensor:
        """Images [B, H, W, 3] -> [B, 3, size, size]; see ``prepare_images``."""
        return prepare_images(images, self.size, self.mean, self.std, self.resample)

    @classmethod
    def from_directory(cls, directory: Path, size: int) -> ImageSettings:
        """The settings in ``preprocessor_config.json``; the size is the vision tower's.

        A processor would crop or split pictures into tiles; here a picture is resized whole, since cropping takes the
        gripper out of the picture and tiles multiply the prefix.

        Raises:
            RoboprefError: there is no such file, or it asks for something else than per-channel normalisation.
        """
        path = directory / "preprocessor_config.json"
        fields = read_object(
            path,
            absent=f"{directory} has no preprocessor_config.json, so it is not known how its pictures are normalised: "
            f"take the file from the model's page.",
        )
        if not fields.get("do_normalize", True) or not fields.get("do_rescale", True):
            raise RoboprefError(f"{path} asks for pictures that are not scaled and normalised, which is not supported.")
        mean, std = tuple(fields.get("image_mean", cls.mean)), tuple(fields.get("image_std", cls.std))
        if len(mean) != 3 or len(std) != 3:
            raise RoboprefError(f"{path} has a mean of {len(mean)} and a std of {len(std)} channels; pictures have 3.")
        resample = fields.get("resample", 3)
        if resample == 1:
            resample = 3  # Lanczos, which torch does not have, is nearest to bicubic
        if resample not in _RESAMPLE:
            raise RoboprefError(f"{path} asks for the filter number {resample}; known are {sorted(_RESAMPLE)}.")
        return cls(size, mean, std, _RESAMPLE[resample])
