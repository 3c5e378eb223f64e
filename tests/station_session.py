"""A whole session behind the page: a small robot, its policy, the real control loop and the real recordings."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import cv2
import gymnasium as gym
import numpy as np

from robopref.cli.teleop_session import TeleopSession
from robopref.cli.teleop_worlds import World
from robopref.human_io.bindings import Binding
from robopref.human_io.frames import FrameSlot
from robopref.human_io.mapping import Mapping
from robopref.human_io.mapping_defaults import default_mapping
from robopref.human_io.pacing import Pacer
from robopref.human_io.station.listening import Listening
from robopref.human_io.station.remapping import MappingDesk
from robopref.human_io.station.web_source import WebSource
from robopref.human_io.station_operator import ActionLayout, StationConfig, StationOperator
from robopref.store.store import EpisodeStore

LABELS = ("x", "y", "z", "gripper")


MAPPING = Mapping(
    action_bindings={
        "x": (Binding("KeyD"), Binding("KeyA", -1), Binding("axis:0")),
        "y": (Binding("KeyW"), Binding("KeyS", -1), Binding("axis:1", -1)),
        "z": (Binding("KeyR"), Binding("KeyF", -1), Binding("axis:3", -1)),
        "gripper": (Binding("KeyC"), Binding("KeyV", -1)),
    },
    control_bindings=default_mapping("web", LABELS).control_bindings,
)
"""Of the robot; the controls are the ones that everybody begins with: Space, H, Y, N, Delete, Enter, P, Escape."""


class PointRobot(gym.Env[Any, Any]):
    """A point that goes where its action says, drawn from above; it notes every action that it executes."""

    task_name = "point"
    instruction = "go to the corner"

    def __init__(self, labels: tuple[str, ...] | None = LABELS, n_actions: int = 0) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
        self.action_space: gym.Space[Any] = (
            gym.spaces.Box(-1, 1, (len(labels),), np.float32) if labels else gym.spaces.Discrete(n_actions)
        )
        self.executed: list[Any] = []
        self.place = np.zeros(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.place = np.zeros(3)
        return self.place.copy(), {}

    def step(self, action: Any) -> Any:
        self.executed.append(np.array(action))
        if np.ndim(action):
            self.place[:3] = np.clip(self.place + 0.03 * np.asarray(action)[:3], -1, 1)
        return self.place.copy(), 0.0, False, False, {"success": False}

    def draw(self, size: int = 480) -> Any:
        picture = np.full((size, size, 3), (38, 44, 52), np.uint8)
        for i in range(1, 8):
            cv2.line(picture, (i * size // 8, 0), (i * size // 8, size), (58, 66, 76), 1)
            cv2.line(picture, (0, i * size // 8), (size, i * size // 8), (58, 66, 76), 1)
        x, y = (int(size / 2 + value * size * 0.45) for value in (self.place[0], -self.place[1]))
        cv2.circle(picture, (x, y), 18, (240, 180, 60), -1, cv2.LINE_AA)
        return picture


class Proposer:
    """Always proposes the same action."""

    def __init__(self, action: Any) -> None:
        self.action = action

    def reset(self) -> None:
        pass

    def __call__(self, observation: Any, instruction: str) -> Any:
        return np.asarray(self.action)


class Session:
    """Runs the control loop in a thread while the test plays the person at the page.

    Args:
        directory: of the recordings.
        episodes: how many there are to be.
        proposed: what the policy wants, always.
        labels: of the actions; ``discrete`` when they are names of discrete actions.
        mapping_path: where changes of the mapping are saved.
        heartbeat_timeout: seconds; longer than a station's own, so that a busy machine does not fail a test.
        station: see ``StationConfig``.
    """

    def __init__(
        self,
        directory: Path,
        *,
        episodes: int = 2,
        proposed: Any = (0.5, -0.2, 0.0, 0.0),
        labels: tuple[str, ...] = LABELS,
        discrete: bool = False,
        mapping_path: Path | None = None,
        listening: Listening | None = None,
        hz: float = 20.0,
        heartbeat_timeout: float = 2.5,
        **station: Any,
    ) -> None:
        self.robot = PointRobot(None, len(labels)) if discrete else PointRobot(labels)
        self.slot = FrameSlot()
        self.camera_works = True
        self.addresses: list[str] = []
        mapping = default_mapping("web", labels, discrete=True) if discrete else MAPPING
        self.desk = MappingDesk(mapping, path=mapping_path)
        self.source = WebSource({"camera": self.slot}, listening, mappings=self.desk, announce=self.addresses.append)
        low, high = (None, None) if discrete else (-np.ones(len(labels)), np.ones(len(labels)))
        layout = ActionLayout(labels, low, high)
        self.operator = StationOperator(
            self.source, mapping, layout, StationConfig(hz=hz, heartbeat_timeout=heartbeat_timeout, **station)
        )
        self.desk.on_change = lambda changed: setattr(self.operator, "mapping", changed)
        self.store = EpisodeStore.create_or_open(directory)
        dtype = np.int64 if discrete else np.float32
        world = World(
            env=self.robot,
            runner=Proposer(np.asarray(proposed, dtype)),
            layout=layout,
            task="point",
            policy_id="test",
            instruction=lambda seed: PointRobot.instruction,
            hz=hz,
        )
        self._ended = threading.Event()
        self.session = TeleopSession(
            world,
            self.operator,
            self.store,
            Pacer(hz),
            on_scene=self._show,
            should_stop=self._ended.is_set,
        )
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, args=(episodes,))

    def _show(self) -> None:
        if self.camera_works:
            self.slot.put(self.robot.draw())

    def _run(self, episodes: int) -> None:
        try:
            self.session.run(list(range(episodes)), planned=episodes)
        except BaseException as error:
            self.error = error
        finally:
            self.session.close()

    def __enter__(self) -> Session:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self.end()

    def end(self) -> None:
        """Stop the loop and the server; what went wrong in the loop is raised."""
        self._ended.set()
        self._thread.join(20)
        self.source.close()
        assert not self._thread.is_alive()
        if self.error is not None:
            raise self.error

    @property
    def played(self) -> bool:
        """Whether all episodes are over."""
        return not self._thread.is_alive()

    def wait_until_played(self, seconds: float = 30) -> None:
        """Until all episodes are over."""
        self._thread.join(seconds)
        assert not self._thread.is_alive(), "the session did not end"
