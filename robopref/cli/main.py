"""The ``robopref`` command: parses, runs one command, turns mistakes into one clear line."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import tyro
from tyro.conf import subcommand

from robopref import __version__
from robopref.cli.benchmark import Benchmark, run_benchmark
from robopref.cli.collect import Collect, run_collect
from robopref.cli.data import Data, run_data
from robopref.cli.demos import Demos, run_demos
from robopref.cli.diagnose import Diagnose, run_diagnose
from robopref.cli.diagnose_compare import DiagnoseCompare, run_diagnose_compare
from robopref.cli.evaluate import Evaluate, run_evaluate
from robopref.cli.lifelong import Lifelong, run_lifelong
from robopref.cli.quickstart import Quickstart, run_quickstart
from robopref.cli.refine import Refine, run_refine
from robopref.cli.relabel import Relabel, run_relabel
from robopref.cli.report import Report, run_report
from robopref.cli.teleop import Teleop, run_teleop
from robopref.cli.train import Train, run_train
from robopref.cli.train_dqn import TrainDqn, run_train_dqn
from robopref.errors import RoboprefError

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
_COMPARE = "diagnose-compare"


@dataclass(frozen=True)
class Doctor:
    """Check what this machine has: rendering, GPU, W&B, devices, versions; say what to do about the rest."""


@dataclass(frozen=True)
class Version:
    """Print the version."""


Command = (
    Annotated[Demos, subcommand("demos")]
    | Annotated[Train, subcommand("train")]
    | Annotated[TrainDqn, subcommand("train-dqn")]
    | Annotated[Collect, subcommand("collect")]
    | Annotated[Teleop, subcommand("teleop")]
    | Annotated[Relabel, subcommand("relabel")]
    | Annotated[Data, subcommand("data")]
    | Annotated[Refine, subcommand("refine")]
    | Annotated[Evaluate, subcommand("evaluate")]
    | Annotated[Lifelong, subcommand("lifelong")]
    | Annotated[Benchmark, subcommand("benchmark")]
    | Annotated[Diagnose, subcommand("diagnose")]
    | Annotated[DiagnoseCompare, subcommand(_COMPARE)]
    | Annotated[Report, subcommand("report")]
    | Annotated[Quickstart, subcommand("quickstart")]
    | Annotated[Doctor, subcommand("doctor")]
    | Annotated[Version, subcommand("version")]
)


def _run_doctor(config: Doctor) -> bool:
    from robopref.cli.doctor import doctor

    return doctor() == 0


def _run_version(config: Version) -> bool:
    print(f"robopref {__version__}")
    return True


_RUNNERS: dict[type, Callable[[Any], bool]] = {
    Demos: run_demos,
    Train: run_train,
    TrainDqn: run_train_dqn,
    Collect: run_collect,
    Teleop: run_teleop,
    Relabel: run_relabel,
    Data: run_data,
    Refine: run_refine,
    Evaluate: run_evaluate,
    Lifelong: run_lifelong,
    Benchmark: run_benchmark,
    Diagnose: run_diagnose,
    DiagnoseCompare: run_diagnose_compare,
    Report: run_report,
    Quickstart: run_quickstart,
    Doctor: _run_doctor,
    Version: _run_version,
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; exits 0 when done, 1 when a check failed, 2 on bad input, 130 when interrupted."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:2] == ["diagnose", "compare"]:  # "diagnose" alone has required options, so no subcommand of its own
        arguments[:2] = [_COMPARE]
    # So that --task and --policy find modules in the current directory, as python -m would.
    sys.path.append(os.getcwd())
    try:
        command: Any = tyro.cli(
            Command,
            prog="robopref",
            description="Refine robot policies with people in the loop.",
            args=arguments,
        )
        finished = _RUNNERS[type(command)](command)
    except RoboprefError as error:
        print(f"robopref: {error}", file=sys.stderr)
        sys.exit(EXIT_BAD_INPUT)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            print(f"robopref: {error.strerror or error}: {error.filename or 'no file named'}.", file=sys.stderr)
            sys.exit(EXIT_BAD_INPUT)
        print(f"robopref: the disk is full ({error.filename or 'no file named'}). Nothing that was recorded is lost: "
              f"free some space and repeat the command with --resume.", file=sys.stderr)  # fmt: skip
        sys.exit(EXIT_BAD_INPUT)
    except KeyboardInterrupt:
        sys.exit(EXIT_INTERRUPTED)
    if not finished:
        sys.exit(1 if isinstance(command, Doctor | Data) else EXIT_INTERRUPTED)


if __name__ == "__main__":
    main()
