"""Columns as Arrow arrays and back, and files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from robopref.errors import RoboprefError
from robopref.store.episode_file import sync_directory
from robopref.store.formats.lerobot_layout import Feature

_IMAGE = pa.struct({"bytes": pa.binary(), "path": pa.string()})
PARQUET_OPTIONS: dict[str, Any] = {"compression": "snappy", "use_dictionary": True}


def arrow_type(feature: Feature) -> pa.DataType:
    """How a data file holds a feature: a scalar, a list of fixed size, nested lists, or a picture's file."""
    if feature.dtype == "image":
        return _IMAGE
    value = pa.from_numpy_dtype(np.dtype(feature.dtype))
    if feature.shape == (1,):
        return value
    if len(feature.shape) == 1:
        return pa.list_(value, feature.shape[0])
    for _ in feature.shape:
        value = pa.list_(value)
    return value


def data_schema(features: Mapping[str, Feature]) -> pa.Schema:
    """Of a data file. Videos are files of their own.

    The metadata lets the ``datasets`` library, and the viewer of its hub, know pictures as such.
    """
    stored = {name: feature for name, feature in features.items() if feature.dtype != "video"}
    images = {name: {"_type": "Image"} for name, feature in stored.items() if feature.dtype == "image"}
    metadata = {"huggingface": json.dumps({"info": {"features": images}})} if images else None
    return pa.schema([pa.field(name, arrow_type(feature)) for name, feature in stored.items()], metadata)


def to_arrow(values: NDArray[Any], feature: Feature) -> pa.Array:
    """Values [T, ...] of a feature that is no picture."""
    array = pa.array(np.ascontiguousarray(values).reshape(-1))
    if feature.shape == (1,):
        return array
    if len(feature.shape) == 1:
        return pa.FixedSizeListArray.from_arrays(array, feature.shape[0])
    for size in reversed(feature.shape):
        array = pa.ListArray.from_arrays(pa.array(np.arange(0, len(array) + 1, size, dtype=np.int32)), array)
    return array


def images_to_arrow(pictures: Sequence[bytes], first: int) -> pa.Array:
    """PNG files of the steps from ``first`` on."""
    paths = [f"frame-{first + index:06d}.png" for index in range(len(pictures))]
    return pa.StructArray.from_arrays([pa.array(pictures, pa.binary()), pa.array(paths)], fields=list(_IMAGE))


def from_arrow(column: pa.Array, feature: Feature, where: str) -> NDArray[Any]:
    """The inverse of ``to_arrow`` for whatever kind of list a file uses -> [T, *feature.shape].

    Raises:
        RoboprefError: values are missing, or of another type or number than the feature says.
    """
    array = column.storage if isinstance(column, pa.ExtensionArray) else column
    sizes: list[int] = []
    try:
        while array.null_count == 0 and pa.types.is_nested(array.type) and not pa.types.is_struct(array.type):
            sizes.append(_only_size(array))
            array = array.flatten()
        complete = array.null_count == 0
        raw = array.to_numpy(zero_copy_only=False) if complete else np.empty(0, feature.dtype)
        values = np.asarray(raw.astype(feature.dtype, casting="same_kind", copy=False))
        fits = tuple(sizes or [1]) == feature.shape and not (raw.dtype.kind in "iu" and (values != raw).any())
    except (TypeError, ValueError, pa.ArrowException):
        complete, fits = True, False
    if not complete:
        raise RoboprefError(f"{where}: the feature {feature.name!r} has missing values.")
    if not fits:
        raise RoboprefError(
            f"{where}: the feature {feature.name!r} is {column.type} with {len(array)} values in {len(column)} steps, "
            f"expected {feature.dtype} {list(feature.shape)}."
        )
    return values.reshape(len(column), *feature.shape)


def _only_size(lists: pa.Array) -> int:
    if pa.types.is_fixed_size_list(lists.type):
        return int(lists.type.list_size)
    sizes = np.unique(lists.value_lengths().to_numpy(zero_copy_only=False))
    if len(sizes) != 1:
        raise ValueError(f"lists of {sizes} values")
    return int(sizes[0])


def encode_png(picture: NDArray[np.uint8]) -> bytes:
    """A picture [H, W, 3] or [H, W, 1] as a PNG file."""
    import cv2

    ordered = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR) if picture.shape[2] == 3 else picture
    written, data = cv2.imencode(".png", ordered)
    if not written:
        raise RoboprefError(f"a picture of shape {picture.shape} cannot be written as PNG.")
    return bytes(data)


def decode_image(data: bytes | None, shape: tuple[int, ...], where: str) -> NDArray[np.uint8]:
    """A picture file (PNG, JPEG ...) as [H, W, 3] or [H, W, 1].

    Raises:
        RoboprefError: there is none, it is damaged, or it has another shape.
    """
    import cv2

    if not data:
        raise RoboprefError(f"{where}: the picture is missing from the data file.")
    mode = cv2.IMREAD_COLOR if shape[2] == 3 else cv2.IMREAD_GRAYSCALE
    picture = cv2.imdecode(np.frombuffer(data, np.uint8), mode | cv2.IMREAD_IGNORE_ORIENTATION)
    if picture is None:
        raise RoboprefError(f"{where}: the picture is damaged.")
    decoded = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB) if shape[2] == 3 else picture[:, :, None]
    if decoded.shape != shape:
        raise RoboprefError(f"{where}: the picture is {list(decoded.shape)}, expected {list(shape)}.")
    return np.asarray(decoded, np.uint8)


def tasks_table(tasks: Sequence[str]) -> pa.Table:
    """The instructions by their number, with the index that pandas, and so LeRobot, looks for."""
    table = pa.table({"task_index": pa.array(range(len(tasks)), pa.int64()), "task": pa.array(tasks, pa.string())})

    def described(name: str | None, field: str, kind: str, numpy: str, metadata: Any) -> dict[str, Any]:
        return {"name": name, "field_name": field, "pandas_type": kind, "numpy_type": numpy, "metadata": metadata}

    pandas = {
        "index_columns": ["task"],
        "column_indexes": [described(None, "None", "unicode", "object", {"encoding": "UTF-8"})],
        "columns": [
            described("task_index", "task_index", "int64", "int64", None),
            described("task", "task", "unicode", "object", None),
        ],
        "attributes": {},
        "creator": {"library": "pyarrow", "version": "0"},
        "pandas_version": "2.0.0",
    }
    return table.replace_schema_metadata({"pandas": json.dumps(pandas)})


def read_tasks(path: Path) -> list[str]:
    """The instructions in order of their number.

    Raises:
        RoboprefError: the file is missing or damaged.
    """
    table = read_table(path)
    names = [name for name in table.column_names if name != "task_index"]
    if "task_index" not in table.column_names or len(names) != 1:
        raise RoboprefError(f"{path} has the columns {table.column_names}, expected task_index and task.")
    numbered = dict(zip(table["task_index"].to_pylist(), table[names[0]].to_pylist(), strict=True))
    if sorted(numbered) != list(range(len(numbered))):
        raise RoboprefError(f"{path} does not number its tasks from 0: {sorted(numbered)}.")
    return [str(numbered[index]) for index in range(len(numbered))]


def read_table(path: Path) -> pa.Table:
    """A whole Parquet file.

    Raises:
        RoboprefError: it is missing or damaged.
    """
    with reading(path):
        return pq.read_table(path, partitioning=None)


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Says which file it was that could not be read."""
    try:
        yield
    except FileNotFoundError as error:
        raise RoboprefError(f"{path} is missing.") from error
    except (OSError, pa.ArrowException) as error:
        told = " ".join(str(error).split())
        raise RoboprefError(f"{path} is damaged or incomplete ({told}).") from error


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A place to write a file to, which gets its name once it is complete and safe on disk.

    Raises:
        RoboprefError: it could not be written; the file is then as it was before.
    """
    # No ending that a reader looks for: LeRobot loads every *.parquet that it finds.
    temporary = path.with_name(path.name + ".tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        fd = os.open(temporary, os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        temporary.rename(path)
        sync_directory(path.parent)
    except OSError as error:
        raise RoboprefError(f"{path} could not be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def write_table(path: Path, table: pa.Table, **options: Any) -> None:
    """Write a Parquet file; see ``whole_file``."""
    with whole_file(path) as temporary:
        pq.write_table(table, temporary, **options)


def write_row(path: Path, row: Mapping[str, Any]) -> None:
    """Write a Parquet file of one row and hundreds of columns: what Parquet adds to each is more than they hold."""
    plain = {"use_dictionary": False, "write_statistics": False, "compression": "none", "store_schema": False}
    write_table(path, pa.Table.from_pylist([dict(row)]), **plain)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file; see ``whole_file``."""
    with whole_file(path) as temporary:
        temporary.write_text(json.dumps(value, indent=4, ensure_ascii=False, allow_nan=False), encoding="utf-8")
