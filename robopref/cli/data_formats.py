"""The formats of other tools that ``robopref data convert`` knows, and how they are told apart."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robopref.errors import RoboprefError

if TYPE_CHECKING:
    from robopref.store.formats.base import Export, Import

OWN = "robopref"


@dataclass(frozen=True)
class Format:
    """A format: what it is, whether a path looks like it, and what loads its export and import where there is one."""

    about: str
    recognise: Callable[[Path], bool]
    load_export: Callable[[], Export] | None = None
    load_import: Callable[[], Import] | None = None


def _lerobot_export() -> Export:
    from robopref.store.formats.lerobot_export import export_lerobot

    return export_lerobot


def _lerobot_import() -> Import:
    from robopref.store.formats.lerobot_import import import_lerobot

    return import_lerobot


def _minari_export() -> Export:
    from robopref.store.formats.minari_export import export_minari

    return export_minari


def _minari_import() -> Import:
    from robopref.store.formats.minari_import import import_minari

    return import_minari


def _robomimic_export() -> Export:
    from robopref.store.formats.robomimic_export import export_robomimic

    return export_robomimic


def _robomimic_import() -> Import:
    from robopref.store.formats.robomimic_import import import_robomimic

    return import_robomimic


def _apo_import() -> Import:
    from robopref.store.formats.apo_hdf5 import import_apo

    return import_apo


def _serl_import() -> Import:
    from robopref.store.formats.serl import import_serl

    return import_serl


def _is_robomimic(path: Path) -> bool:
    return any("/actions" in name for name in _names_in_hdf5(path))


def _is_apo(path: Path) -> bool:
    return any("/timestep_" in f"/{name}" for file in _files(path, (".hdf5", ".h5")) for name in _names_in_hdf5(file))


def _files(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, or the first one of a folder, if it ends so."""
    candidates = [path] if path.is_file() else sorted(path.iterdir()) if path.is_dir() else []
    return [file for file in candidates if file.suffix in suffixes and file.is_file()][:1]


def _names_in_hdf5(path: Path) -> list[str]:
    """Of the first groups of an HDF5 file, and of what they hold, down to the third level; none of another file."""
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return []

    def names(group: Any, prefix: str, depth: int) -> Iterator[str]:
        for name in islice(group, 8):
            yield prefix + name
            if depth and isinstance(group[name], h5py.Group):
                yield from names(group[name], f"{prefix}{name}/", depth - 1)

    try:
        with h5py.File(path, "r") as file:
            return list(names(file, "", 2))
    except (OSError, KeyError, RuntimeError) as error:
        raise RoboprefError(f"{path} is a damaged HDF5 file ({error}).") from error


FORMATS = {
    "lerobot": Format(
        about="LeRobotDataset v3.0, a folder",
        recognise=lambda path: (path / "meta" / "info.json").is_file(),
        load_export=_lerobot_export,
        load_import=_lerobot_import,
    ),
    "robomimic": Format(
        about="robomimic's HDF5 file, with data/demo_0",
        recognise=_is_robomimic,
        load_export=_robomimic_export,
        load_import=_robomimic_import,
    ),
    "apo-hdf5": Format(
        about="HDF5 files of the APO authors, with data/timestep_0 or demo_0/timestep_0",
        recognise=_is_apo,
        load_import=_apo_import,
    ),
    "serl": Format(
        about="pickled transitions of SERL and HIL-SERL",
        recognise=lambda path: bool(_files(path, (".pkl", ".pickle"))),  # by its name: opening it would run it
        load_import=_serl_import,
    ),
    "minari": Format(
        about="Minari data set, a folder that holds data/metadata.json",
        recognise=lambda path: (path / "data" / "metadata.json").is_file() or (path / "main_data.hdf5").is_file(),
        load_export=_minari_export,
        load_import=_minari_import,
    ),
}


def is_data_directory(path: Path) -> bool:
    """Whether this is a directory of robopref's own."""
    return (path / "dataset.json").is_file()


def detect(path: Path) -> str:
    """The name of the format of what lies at a path.

    Raises:
        RoboprefError: nothing is there, or nothing that is known.
    """
    if not path.exists():
        raise RoboprefError(f"{path} does not exist.")
    if is_data_directory(path):
        return OWN
    for name, known in FORMATS.items():
        if known.recognise(path):
            return name
    told = ", ".join(f"{name} ({known.about})" for name, known in FORMATS.items())
    raise RoboprefError(f"{path} is neither a data directory nor of a format that robopref reads: {told}.")
