"""The running episode: each step journalled as it happens, the whole made a finished episode at its end."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from robopref.errors import RoboprefError
from robopref.store.encoding import (
    OBSERVATION,
    Columns,
    Schema,
    check_schema,
    info_to_json,
    observation_columns,
    schema_of,
    schema_to_json,
    step_columns,
)
from robopref.store.episode_writing import write_episode
from robopref.store.journal import (
    Buffer,
    JournalWriter,
    Kind,
    end_payload,
    json_bytes,
    mapped,
    read_journal,
    write_error,
)
from robopref.trajectory import EpisodeInfo, Outcome, Step


class EpisodeWriter:
    """Records one episode; got from ``EpisodeStore.begin``.

    As a context manager, an episode that is left unfinished, by an exception or otherwise, is kept as aborted.
    Whatever raises, the steps appended before are safe: ``finish`` can be called again, and if it never is, the next
    opening of the store recovers them.
    """

    def __init__(
        self, directory: Path, info: EpisodeInfo, journal: JournalWriter, adopt_schema: Callable[[Schema], None]
    ) -> None:
        self._directory = directory
        self._info = info
        self._journal = journal
        self._adopt_schema = adopt_schema
        self._schema: Schema | None = None
        self._last_time = 0
        self._open = True
        self._folder = ""  # where it goes, once its end is journalled
        self.steps = 0

    @property
    def info(self) -> EpisodeInfo:
        """What is known of the episode so far."""
        return self._info

    def amend(self, **changes: Any) -> None:
        """Change fields of the episode's information (not its id or outcome); a crash keeps the change."""
        self._check_open()
        if fixed := {"episode_id", "outcome", "schema_version"} & set(changes):
            raise RoboprefError(f"{sorted(fixed)} of a running episode cannot be amended.")
        info = replace(self._info, **changes)
        self._write(Kind.INFO, [info_to_json(info).encode()])
        self._info = info

    def append(self, step: Step) -> None:
        """Record a step; when this returns, killing the process cannot lose it.

        Raises:
            RoboprefError: a value is NaN, infinite or of another type or shape than the directory's, time runs
                backwards, or the disk is full. The step is not recorded, everything before it is.
        """
        self._check_open()
        columns = step_columns(step)
        if step.t_monotonic_ns < self._last_time:
            raise RoboprefError(
                f"t_monotonic_ns runs backwards, from {self._last_time} to {step.t_monotonic_ns}: "
                "take it from time.monotonic_ns()."
            )
        schema = schema_of(columns)
        if self._schema is None:
            self._adopt_schema(schema)
            self._write(Kind.SCHEMA, [json_bytes(schema_to_json(schema))])
            self._schema = schema
        check_schema(schema, self._schema, f"the episode {self._info.episode_id}")
        self._write(Kind.STEP, _buffers(columns))
        self._last_time = step.t_monotonic_ns
        self.steps += 1

    def finish(self, outcome: Outcome, final_observation: Mapping[str, Any] | None = None) -> str:
        """End the episode and make it visible to readers -> its id.

        When it failed for want of room it may be called again; the first call's outcome stands.

        Raises:
            RoboprefError: the episode has no steps (it is dropped), the final observation does not fit, the disk is
                full (what was recorded stays safe in the journal), or has lost some of the journal (it is kept).
        """
        return self._end("episodes", outcome, final_observation)

    def discard(self, final_observation: Mapping[str, Any] | None = None) -> str:
        """End the episode as unwanted: readers do not see it, its file goes to ``discarded/`` -> its id."""
        return self._end("discarded", Outcome.ABORTED, final_observation)

    def close(self) -> None:
        """Stop writing; a journal that was not finished is recovered when the store is next opened."""
        if self._open:
            self._open = False
            self._journal.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._open and self.steps > 0:
                self.finish(Outcome.ABORTED)
            elif self._open:
                self._drop()
        finally:
            self.close()

    def _end(self, folder: str, outcome: Outcome, final_observation: Mapping[str, Any] | None) -> str:
        if not (self._folder and self._open):
            self._journal_end(folder, outcome, final_observation)
        path = self._directory / self._folder / f"{self._info.episode_id}.safetensors"
        try:
            with mapped(self._journal.path) as data:
                content = read_journal(data)
                if content.damaged or len(content.steps) < self.steps:
                    raise RoboprefError(
                        f"{self._journal.path} is not what was written to it: {len(content.steps)} of {self.steps} "
                        "steps are whole. It is kept; the next command that opens the directory recovers those."
                    )
                write_episode(path, data, content)
            self._journal.path.unlink()
        except OSError as error:
            raise write_error(error, path, self._safe()) from error
        self.close()
        return self._info.episode_id

    def _journal_end(self, folder: str, outcome: Outcome, final_observation: Mapping[str, Any] | None) -> None:
        self._check_open()
        if self._schema is None or self.steps == 0:
            self._drop()
            raise RoboprefError(f"the episode {self._info.episode_id} has no steps: there is nothing to keep.")
        final = None if final_observation is None else self._checked_final(final_observation, self._schema)
        self._write(Kind.END, end_payload(outcome, final, discarded=folder == "discarded"))
        self._folder = folder

    def _checked_final(self, observation: Mapping[str, Any], schema: Schema) -> list[Buffer]:
        columns = observation_columns(observation, OBSERVATION)
        expected = {name: spec for name, spec in schema.items() if name.startswith(OBSERVATION)}
        check_schema(schema_of(columns), expected, "the episode (as its final observation)")
        return _buffers(columns)

    def _write(self, kind: Kind, parts: list[Buffer]) -> None:
        try:
            self._journal.append(kind, parts)
        except OSError as error:
            raise write_error(error, self._journal.path, self._safe()) from error

    def _safe(self) -> str:
        return f"The {self.steps} steps recorded so far are safe"

    def _drop(self) -> None:
        self._journal.path.unlink()
        self.close()

    def _check_open(self) -> None:
        if not self._open or self._folder:
            raise RoboprefError(f"the episode {self._info.episode_id} is finished: begin another one.")


def _buffers(columns: Columns) -> list[Buffer]:
    # Small values are joined: the kernel takes a limited number of buffers, and few are faster.
    parts: list[Buffer] = []
    small: list[bytes] = []
    for value in columns.values():
        if value.nbytes < 4096:
            small.append(value.tobytes())
            continue
        if small:
            parts.append(b"".join(small))
            small = []
        parts.append(value.data.cast("B"))
    if small:
        parts.append(b"".join(small))
    return parts
