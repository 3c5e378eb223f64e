"""Training curves and results to Weights & Biases, and the same numbers to plain files that need no account."""

from __future__ import annotations

import csv
import json
import math
import os
import re
import secrets
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, cast, get_args

from robopref.errors import RoboprefError

METRICS_FILE = "metrics.jsonl"
_SUMMARY_FILE = "tracked.json"
Mode = Literal["online", "offline", "disabled"]


class Tracker:
    """Keeps metrics, tables and media of one run.

    ``<directory>/metrics.jsonl`` gets one object per call of ``log``, ``{"step": int, name: number, ...}``, flushed at
    once; JSON has no NaN or infinity, so these become ``null`` there (W&B gets them as they are). Tables go to
    ``<directory>/tables/<name>.csv``, the summary to ``<directory>/tracked.json``, and W&B's own files to
    ``<directory>/wandb``. When W&B fails, one warning says so and the plain files go on.

    Args:
        directory: of the run; created.
        name: of the run, as W&B shows it.
        config: JSON-compatible settings of the run.
        project: W&B project.
        wandb_mode: ``"online"``, ``"offline"`` (kept on disk, ``wandb sync`` uploads it) or ``"disabled"``; None takes
            ``WANDB_MODE``, else online when an API key is configured, else offline. Nothing is ever asked.
        resume_step: the step that the run goes on from. Lines of later steps, and a last line that a kill tore, are
            dropped, so that the curve has no step twice; 0 starts the file anew.

    Raises:
        RoboprefError: an unknown mode, a damaged ``metrics.jsonl``, or a file that cannot be written.
    """

    def __init__(
        self,
        directory: Path,
        *,
        name: str,
        config: dict[str, Any],
        project: str = "robopref",
        wandb_mode: str | None = None,
        resume_step: int = 0,
    ) -> None:
        self._directory = Path(directory)
        self.wandb_mode = resolve_mode(wandb_mode)
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / METRICS_FILE
        _keep_until(path, resume_step)
        self._file = path.open("a", encoding="utf-8")
        if resume_step == 0:
            (self._directory / _SUMMARY_FILE).unlink(missing_ok=True)
        self._step = resume_step
        self._run: Any = None
        if self.wandb_mode != "disabled":
            self._with_wandb("start", lambda: self._start(name, config, project, resume_step))

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Record the metrics of a step.

        Raises:
            RoboprefError: a metric named ``step``, a value that is no number, or a file that cannot be written.
        """
        numbers = {key: _number(key, value) for key, value in metrics.items()}
        line = {"step": int(step)} | {key: x if math.isfinite(x) else None for key, x in numbers.items()}
        try:
            self._file.write(json.dumps(line, allow_nan=False) + "\n")
            self._file.flush()
        except OSError as error:
            raise RoboprefError(f"cannot write {self._file.name} ({error}): free some space, then resume.") from error
        self._step = int(step)
        self._to_wandb(numbers)

    def log_table(self, name: str, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
        """Keep a table; ``name`` may hold slashes, as metric names do.

        Raises:
            RoboprefError: a name that is no relative path, or a row of another width than ``columns``.
        """
        if not re.fullmatch(r"\w[\w.-]*(/\w[\w.-]*)*", name):
            raise RoboprefError(f"{name!r} cannot name a table: use letters, digits, '_', '-', '.' and single slashes.")
        table = [list(row) for row in rows]
        for row in table:
            if len(row) != len(columns):
                raise RoboprefError(f"table {name!r} has {len(columns)} columns, but a row of {len(row)} values.")
        path = self._directory / "tables" / f"{name}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([list(columns), *table])
        self._to_wandb(lambda wandb: {name: wandb.Table(columns=list(columns), data=table)})

    def log_video(self, name: str, path: Path) -> None:
        """Show a finished video file (MP4, WebM, GIF) in W&B. Raises RoboprefError when there is no such file."""
        file = _existing(path)
        self._to_wandb(lambda wandb: {name: wandb.Video(str(file), format=file.suffix.lstrip("."))})

    def log_image(self, name: str, path: Path) -> None:
        """Show an image file (PNG, JPEG) in W&B. Raises RoboprefError when there is no such file."""
        file = _existing(path)
        self._to_wandb(lambda wandb: {name: wandb.Image(str(file))})

    def summary(self, values: Mapping[str, Any]) -> None:
        """Keep the run's results, JSON-compatible values (NaN allowed); a later call adds to an earlier one."""
        path = self._directory / _SUMMARY_FILE
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(json.dumps(_finite(kept | dict(values)), indent=2, allow_nan=False) + "\n", "utf-8")
        os.replace(temporary, path)
        if self._run is not None:
            self._with_wandb("take the summary", lambda: self._run.summary.update(dict(values)))

    def close(self) -> None:
        """Finish the run; may be called again."""
        self._file.close()
        if self._run is not None:
            self._with_wandb("finish", lambda: self._run.finish())
            self._run = None

    def __enter__(self) -> Tracker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None and self._run is not None:
            self._with_wandb("finish", lambda: self._run.finish(exit_code=1))
            self._run = None
        self.close()

    def _start(self, name: str, config: dict[str, Any], project: str, resume_step: int) -> None:
        import wandb

        if self.wandb_mode == "online" and not has_api_key():
            warnings.warn("W&B has no API key, so the run is kept offline: `wandb login` sets one.", stacklevel=4)
            self.wandb_mode = "offline"
        # A resumed run keeps its identity, so that W&B goes on with the same curve.
        id_file = self._directory / "wandb_run_id"
        if resume_step == 0 or not id_file.exists():
            id_file.write_text(secrets.token_hex(4) + "\n")
        self._run = wandb.init(
            project=project,
            name=name,
            config=config,
            id=id_file.read_text().strip(),
            resume="allow" if self.wandb_mode == "online" else None,
            dir=str(self._directory),
            mode=self.wandb_mode,
            reinit="create_new",  # the run of whoever uses this library stays open beside ours
            settings=wandb.Settings(
                silent=True, quiet=True, console="off", disable_git=True, disable_code=True, init_timeout=30
            ),
        )

    def _to_wandb(self, row: Mapping[str, Any] | Callable[[Any], Mapping[str, Any]]) -> None:
        if self._run is None:
            return

        def send() -> None:
            import wandb

            self._run.log(row(wandb) if callable(row) else row, step=self._step)

        self._with_wandb("log", send)

    def _with_wandb(self, what: str, action: Callable[[], None]) -> None:
        """Do something with W&B; when it cannot, warn once and go on without it."""
        import wandb
        from wandb.sdk.lib.service.service_connection import WandbApiFailedError
        from wandb.sdk.lib.service.service_token import WandbServiceConnectionError
        from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError
        from wandb.sdk.mailbox.mailbox_handle import ServerResponseError

        # Those of its service derive from none that W&B makes public.
        of_the_service = (
            HandleAbandonedError,
            MailboxClosedError,
            ServerResponseError,
            WandbApiFailedError,
            WandbServiceConnectionError,
        )

        try:
            action()
        except (wandb.Error, *of_the_service, OSError, TimeoutError) as error:
            self._run = None
            warnings.warn(
                f"W&B could not {what} ({type(error).__name__}: {error}); going on without it, the numbers are in "
                f"{self._directory / METRICS_FILE}.",
                stacklevel=3,
            )


def resolve_mode(mode: str | None) -> Mode:
    """The W&B mode that ``mode`` (None: not said) comes to. Raises RoboprefError when there is no such mode."""
    chosen = mode or os.environ.get("WANDB_MODE") or ("online" if has_api_key() else "offline")
    if chosen not in get_args(Mode):
        source = "the W&B mode" if mode else "the environment variable WANDB_MODE"
        raise RoboprefError(f"{source} is {chosen!r}: use one of {', '.join(get_args(Mode))}.")
    return cast(Mode, chosen)


def has_api_key() -> bool:
    """Whether W&B would find an API key, in ``WANDB_API_KEY`` or netrc, without asking for one."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    netrc = Path(os.environ.get("NETRC") or Path.home() / ".netrc")
    # Only whether there is an entry: what it says is W&B's business.
    return netrc.is_file() and bool(re.search(r"machine\s+\S*wandb", netrc.read_text(errors="replace")))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a ``metrics.jsonl``, without a last line that was torn by a kill.

    Raises:
        RoboprefError: a complete line is no JSON object with a ``step``.
    """
    rows = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n")[:-1], start=1):
        try:
            row = json.loads(line)
            int(row["step"])
        except (ValueError, TypeError, KeyError) as error:
            raise RoboprefError(f"{path}, line {number}, holds no metrics of a step: repair or remove it.") from error
        rows.append(row)
    return rows


def _keep_until(path: Path, step: int) -> None:
    """Rewrite the file of an earlier start with only its complete lines up to ``step``."""
    if not path.exists():
        return
    kept = [row for row in read_metrics(path) if row["step"] <= step] if step > 0 else []
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
    os.replace(temporary, path)


def _number(name: str, value: Any) -> float:
    if name == "step":
        raise RoboprefError("a metric cannot be named 'step': that is the column that counts them.")
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise RoboprefError(f"the metric {name!r} is {value!r}, not a number.") from error


def _finite(value: Any) -> Any:
    """The JSON value with NaN and infinities replaced by None."""
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _existing(path: Path) -> Path:
    if not Path(path).is_file():
        raise RoboprefError(f"there is no file {path} to show.")
    return Path(path)
