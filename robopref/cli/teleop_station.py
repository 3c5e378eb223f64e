"""The operator's station as a process of its own: device or page, pictures, network; the control loop is elsewhere."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import webbrowser
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnContext, SpawnProcess
from pathlib import Path
from typing import Any

from robopref.cli.teleop_scenes import Painter, Scene, split_scene
from robopref.errors import RoboprefError
from robopref.human_io.frames import FrameSlot
from robopref.human_io.mapping import Mapping as InputMapping
from robopref.human_io.mapping_file import mapping_from_json, mapping_to_json, save_mapping
from robopref.human_io.readings import InputSource
from robopref.human_io.remote_source import RemoteSource, SourceDescription, SourceLink, SourcePump
from robopref.human_io.shared_slot import SharedSlot
from robopref.human_io.station.listening import Listening

_TURN_S = 0.003  # how long a key press waits at most before the control loop could see it
_PAINT_POLL_S = 0.001
_PAINT_NICE = 3
_START_S = 90.0
_END_S = 5.0


@dataclass(frozen=True)
class StationPlan:
    """What a station's process is to be: names and plain values, which can be sent there.

    ``listening`` and ``open_browser`` are for the page; changes of the mapping are saved to ``mapping_path``.
    """

    operator: str
    mapping: InputMapping
    default_mapping: InputMapping
    mapping_path: Path | None
    listening: Listening
    open_browser: bool


@dataclass(frozen=True)
class _Wiring:
    link: SourceLink
    mappings: SharedSlot
    closing: Any  # a shared byte: 1 when the station is to end
    painter: Painter | None


@dataclass(frozen=True)
class _Started:
    about: SourceDescription
    notice: str


class Station:
    """The control loop's handle on the station's process: starts it, and ends it with ``close``.

    ``source`` is what the operator does there, ``notice`` what to tell the user on the terminal (the page's address).

    Args:
        plan: what it is to be.
        scene: what it is to show.
        context: the multiprocessing context that ``scene`` was made for.

    Raises:
        RoboprefError: what kept it from starting: no such device, a port in use, no display.
    """

    def __init__(self, plan: StationPlan, scene: Scene | None, context: SpawnContext) -> None:
        link = SourceLink(context)
        self._closing: Any = context.RawArray("B", 1)
        self._mappings = SharedSlot(context, 1 << 16)
        self._mapping_number = 0
        wiring = _Wiring(link, self._mappings, self._closing, scene.painter if scene is not None else None)
        here, there = context.Pipe(duplex=False)
        self._process: SpawnProcess = context.Process(target=_run_station, args=(plan, wiring, there), daemon=True)
        self._process.start()
        there.close()
        started = self._await(here)
        self.notice = started.notice
        self.source = RemoteSource(link, started.about, self._process.is_alive, self.close)

    def new_mapping(self) -> InputMapping | None:
        """The mapping that the operator has changed since the last call; None if it was not."""
        number, message = self._mappings.get()
        if number == self._mapping_number:
            return None
        self._mapping_number = number
        return mapping_from_json(json.loads(message))

    def close(self) -> None:
        """End the process; harmless when repeated."""
        self._closing[0] = 1
        self._process.join(_END_S)
        if self._process.is_alive():
            self._process.terminate()
            self._process.join()

    def _await(self, here: Connection) -> _Started:
        try:
            answer = here.recv() if here.poll(_START_S) else RoboprefError("the station did not start in time.")
        except EOFError:
            answer = RoboprefError("the station's process ended while it was starting; its own message is above.")
        finally:
            here.close()
        if isinstance(answer, RoboprefError):
            self.close()
            raise answer
        started: _Started = answer
        return started


def station_context() -> SpawnContext:
    """Of processes that start afresh: neither OpenGL nor torch survives a fork."""
    return get_context("spawn")


def _run_station(plan: StationPlan, wiring: _Wiring, there: Connection) -> None:
    # Mesa's software renderer draws in the painting thread itself: waking threads of its own saves nothing at the
    # median, and costs 5 to 15 ms at the 99th percentile.
    os.environ["LP_NUM_THREADS"] = "0"
    # Ctrl-C goes to the whole process group, and it is the control loop that decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cameras = {name: FrameSlot() for name in (wiring.painter.cameras if wiring.painter is not None else ())}
    stopped = threading.Event()
    painting: threading.Thread | None = None
    source: InputSource | None = None
    try:
        try:
            if wiring.painter is not None:
                painting = _start_painting(wiring.painter, cameras, stopped)
            source, notice = _open_source(plan, cameras, wiring)
        except RoboprefError as error:
            there.send(RoboprefError(str(error)))
            return
        there.send(_Started(SourceDescription(source.operator_id, source.name, tuple(source.axis_names)), notice))
        there.close()
        pump = SourcePump(wiring.link, source)
        parent = parent_process()
        while not wiring.closing[0] and parent is not None and parent.is_alive():
            pump.turn()
            time.sleep(_TURN_S)
    finally:
        if source is not None:
            source.close()
        stopped.set()
        if painting is not None:
            painting.join()


def _start_painting(painter: Painter, cameras: Mapping[str, FrameSlot], stopped: threading.Event) -> threading.Thread:
    """Paint in a thread of its own from now on; returns when the first picture would not keep anybody waiting."""
    ready = threading.Event()
    failures: list[RoboprefError] = []

    def paint() -> None:
        if sys.platform == "linux":  # where a thread has a priority of its own: the loop and the keys go first
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _PAINT_NICE)
        try:
            painter.warm_up()
        except RoboprefError as error:
            failures.append(error)
            return
        finally:
            ready.set()
        _paint(painter, cameras, stopped.is_set)

    thread = threading.Thread(target=paint, name="painting", daemon=True)
    thread.start()
    ready.wait()
    if failures:
        raise failures[0]
    return thread


def _paint(painter: Painter, cameras: Mapping[str, FrameSlot], stopped: Callable[[], bool]) -> None:
    painted, said = 0, ""
    while not stopped():
        number, message = painter.slot.get()
        if number == painted:
            time.sleep(_PAINT_POLL_S)
            continue
        painted = number
        try:
            captured_ns, scene = split_scene(message)
            for name, picture in painter.paint(scene):
                cameras[name].put(picture, captured_ns)
        except Exception as error:  # of whatever draws; the operator is owed the next picture, and to know of this one
            why = f"{type(error).__name__}: {error}"
            if why != said:  # not for every picture
                print(f"a picture could not be drawn ({why}); the next one is tried.", file=sys.stderr, flush=True)
            said = why
        else:
            said = ""


def _open_source(plan: StationPlan, cameras: Mapping[str, FrameSlot], wiring: _Wiring) -> tuple[InputSource, str]:
    """The source, and what to tell the user about it."""
    if plan.operator == "web":
        return _open_page(plan, cameras, wiring)
    from robopref.human_io.devices import open_device

    def adopt(mapping: InputMapping) -> None:
        if plan.mapping_path is not None:
            try:
                save_mapping(plan.mapping_path, mapping)
            except OSError as error:
                raise RoboprefError(f"the mapping cannot be saved to {plan.mapping_path}: {error}.") from error
        wiring.mappings.put(json.dumps(mapping_to_json(mapping)).encode())

    source = open_device(plan.operator, frames=next(iter(cameras.values()), None), mapping=plan.mapping, adopt=adopt)
    return source, f"{source.name}: the window says which keys do what"


def _open_page(plan: StationPlan, cameras: Mapping[str, FrameSlot], wiring: _Wiring) -> tuple[InputSource, str]:
    from robopref.human_io.station.remapping import MappingDesk
    from robopref.human_io.station.web_source import WebSource

    def pass_on(mapping: InputMapping) -> None:
        wiring.mappings.put(json.dumps(mapping_to_json(mapping)).encode())

    desk = MappingDesk(plan.mapping, default=plan.default_mapping, path=plan.mapping_path, on_change=pass_on)
    # Printed from here, because every new token comes with an address of its own for as long as the session lasts.
    source = WebSource(cameras, plan.listening, mappings=desk, announce=_announce)
    if plan.open_browser and _has_display():
        webbrowser.open(source.address)
    return source, ""


def _announce(address: str) -> None:
    print(f"the operator's page, for one visitor: {address}", flush=True)


def _has_display() -> bool:
    """Whether a browser would open a window; without one, Python may take a browser for the terminal."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
