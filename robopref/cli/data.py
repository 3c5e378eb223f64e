"""``robopref data``: what is in a data directory, whether it is whole, and ways in and out of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from robopref.cli.data_check import DataCheck, DataRepair, run_data_check, run_data_repair
from robopref.cli.data_convert import DataConvert, run_data_convert
from robopref.cli.data_info import DataInfo, run_data_info
from robopref.cli.data_moving import DataMerge, DataSplit, run_data_merge, run_data_split
from robopref.cli.data_stats import DataStats, run_data_stats
from robopref.cli.data_view import DataView, run_data_view

DataCommand = (
    Annotated[DataInfo, subcommand("info", prefix_name=False)]
    | Annotated[DataCheck, subcommand("check", prefix_name=False)]
    | Annotated[DataRepair, subcommand("repair", prefix_name=False)]
    | Annotated[DataConvert, subcommand("convert", prefix_name=False)]
    | Annotated[DataMerge, subcommand("merge", prefix_name=False)]
    | Annotated[DataSplit, subcommand("split", prefix_name=False)]
    | Annotated[DataStats, subcommand("stats", prefix_name=False)]
    | Annotated[DataView, subcommand("view", prefix_name=False)]
)


@dataclass(frozen=True)
class Data:
    """Look at recorded episodes, check and repair them, convert, merge and split them."""

    command: Annotated[DataCommand, tyro.conf.arg(name="")]


_RUNNERS: dict[type, Callable[[Any], bool]] = {
    DataInfo: run_data_info,
    DataCheck: run_data_check,
    DataRepair: run_data_repair,
    DataConvert: run_data_convert,
    DataMerge: run_data_merge,
    DataSplit: run_data_split,
    DataStats: run_data_stats,
    DataView: run_data_view,
}


def run_data(config: Data) -> bool:
    """Run one of them; False when it found something broken."""
    return _RUNNERS[type(config.command)](config.command)
