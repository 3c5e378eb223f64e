"""Reading HDF5 files that may come from anywhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from robopref.errors import RoboprefError


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Turns what h5py raises for a damaged file into RoboprefError."""
    try:
        yield
    except RoboprefError:
        raise
    except (OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, RuntimeError) as error:
        raise RoboprefError(f"{path} cannot be read ({error}): it is no HDF5 file, or damaged.") from error
