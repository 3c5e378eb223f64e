"""Image shifts: pad by replication, crop at an offset (Kostrikov et al. 2020, DrQ)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray


def shift_images(observations: Mapping[str, NDArray[Any]], shifts: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """Shift each ``image`` uint8 [B, H, W, 3] by its rows and columns [2, B]; other observations pass unchanged."""
    shifted = dict(observations)
    if "image" not in observations or not shifts.any():
        return shifted
    images = observations["image"]
    batch, height, width = images.shape[:3]
    rows, columns = shifts[:, :, None]
    # Indices clipped to the picture repeat its border, which is what padding by replication would do.
    take_rows = np.clip(np.arange(height) + rows, 0, height - 1)
    take_columns = np.clip(np.arange(width) + columns, 0, width - 1)
    shifted["image"] = images[np.arange(batch)[:, None, None], take_rows[:, :, None], take_columns[:, None, :]]
    return shifted
