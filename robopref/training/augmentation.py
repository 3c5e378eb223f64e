"""Random image shifts: pad by replication, crop at a random offset (Kostrikov et al. 2020, DrQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shift_images(
    observations: Mapping[str, NDArray[Any]], pixels: int, generator: np.random.Generator
) -> dict[str, NDArray[Any]]:
    """Shift each ``image`` uint8 [B, H, W, 3] by up to ``pixels`` either way; other observations pass unchanged."""
    shifted = dict(observations)
    if pixels == 0 or "image" not in observations:
        return shifted
    images = observations["image"]
    batch, height, width = images.shape[:3]
    rows, columns = generator.integers(-pixels, pixels + 1, size=(2, batch, 1))
    # Indices clipped to the picture repeat its border, which is what padding by replication would do.
    take_rows = np.clip(np.arange(height) + rows, 0, height - 1)
    take_columns = np.clip(np.arange(width) + columns, 0, width - 1)
    shifted["image"] = images[np.arange(batch)[:, None, None], take_rows[:, :, None], take_columns[:, None, :]]
    return shifted
