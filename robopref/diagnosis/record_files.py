"""Nested frozen dataclasses as a JSON file and an npz file: plain values in the one, arrays in the other.

An array field is written to the npz under its path, ``conditions.2.direction`` say, and the JSON holds
``{"array": "conditions.2.direction"}`` in its place. Reading checks every value against the field's type.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import types
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, cast, get_args, get_origin, get_type_hints

import numpy as np
from numpy.typing import NDArray

from robopref.errors import RoboprefError

_ARRAY = "array"
_DIGEST = "arrays_sha256"
Record = TypeVar("Record")


def save_record(json_path: Path, npz_path: Path, record: Any) -> None:
    """Write a dataclass of plain values, arrays, dataclasses, tuples and string-keyed mappings of them.

    The JSON is written last and names the digest of its npz, so that a pair that a crash tore apart is noticed.

    Raises:
        RoboprefError: a value that is NaN or infinite outside an array, or of another kind.
    """
    arrays: dict[str, NDArray[Any]] = {}
    plain = _to_plain(record, "", arrays)
    npz_path.parent.mkdir(parents=True, exist_ok=True)
    temporary = npz_path.with_name(f".{npz_path.name}.tmp")
    with temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    digest = _digest(temporary)
    os.replace(temporary, npz_path)
    temporary = json_path.with_name(f".{json_path.name}.tmp")
    temporary.write_text(json.dumps({_DIGEST: digest} | plain, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    os.replace(temporary, json_path)


def load_record(json_path: Path, npz_path: Path, kind: type[Record]) -> Record:
    """Read what ``save_record`` wrote of a ``kind``.

    Raises:
        RoboprefError: a file is missing or damaged, or holds another kind of record.
    """
    for path in (json_path, npz_path):
        if not path.is_file():
            raise RoboprefError(f"there is no {path}: the run that writes it has not come to its end.")
    try:
        plain = json.loads(json_path.read_text(encoding="utf-8"))
        if _digest(npz_path) != plain.pop(_DIGEST):
            raise RoboprefError(f"{npz_path} does not belong to {json_path.name}: let the run write both again.")
        with np.load(npz_path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        return cast(Record, _from_plain(plain, kind, arrays, json_path.name))
    except (OSError, ValueError, TypeError, KeyError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        if isinstance(error, RoboprefError):
            raise
        raise RoboprefError(f"{json_path} is damaged ({type(error).__name__}: {error}).") from error


def _to_plain(value: Any, path: str, arrays: dict[str, NDArray[Any]]) -> Any:
    if isinstance(value, np.ndarray):
        arrays[path] = value
        return {_ARRAY: path}
    if is_dataclass(value):
        return {f.name: _to_plain(getattr(value, f.name), _join(path, f.name), arrays) for f in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _to_plain(item, _join(path, str(key)), arrays) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [_to_plain(item, _join(path, str(i)), arrays) for i, item in enumerate(value)]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        raise RoboprefError(f"{path} is {value}, which is no result: leave it out (None) and say why.")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise RoboprefError(f"{path} is a {type(value).__name__}, which a result file cannot hold.")


def _from_plain(value: Any, kind: Any, arrays: Mapping[str, NDArray[Any]], path: str) -> Any:
    origin = get_origin(kind)
    if kind is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None and type(None) in get_args(kind):
            return None
        (kind,) = (option for option in get_args(kind) if option is not type(None))
        return _from_plain(value, kind, arrays, path)
    if origin is Literal:
        if value not in get_args(kind):
            raise RoboprefError(f"{path} is {value!r}, not one of {', '.join(map(str, get_args(kind)))}.")
        return value
    if is_dataclass(kind):
        if not isinstance(value, dict) or not _fits(value, kind):
            raise RoboprefError(f"{path} holds no {cast(type, kind).__name__} of this version: let the run go again.")
        hints = get_type_hints(kind)
        return cast(Any, kind)(
            **{name: _from_plain(item, hints[name], arrays, _join(path, name)) for name, item in value.items()}
        )
    if origin is np.ndarray:
        array = arrays[value[_ARRAY]]
        wanted = get_args(get_args(kind)[1])
        if wanted and wanted[0] is not Any and array.dtype != wanted[0]:
            raise RoboprefError(f"{path} holds {array.dtype} instead of {np.dtype(wanted[0])}.")
        return array
    if origin is tuple:
        item_kind = get_args(kind)[0]
        return tuple(_from_plain(item, item_kind, arrays, _join(path, str(i))) for i, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        item_kind = get_args(kind)[1]
        return {key: _from_plain(item, item_kind, arrays, _join(path, key)) for key, item in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not kind:
        raise RoboprefError(f"{path} is {value!r}, not a {kind.__name__}.")
    return value


def _fits(value: Mapping[str, Any], kind: Any) -> bool:
    """Whether the fields are those of the dataclass; one that has a default may be missing."""
    needed = {f.name for f in fields(kind) if f.default is MISSING and f.default_factory is MISSING}
    return needed <= set(value) <= {f.name for f in fields(kind)}


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
