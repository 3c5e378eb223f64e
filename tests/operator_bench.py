"""An operator of the station for tests: one device, one clock that the test moves, one tick after another."""

import numpy as np
from teleop_sources import KEYS, PlayedSource

from robopref.human_io.station_operator import ActionLayout, StationConfig, StationOperator

LABELS = ("x", "y", "z", "gripper")
ROBOT = ActionLayout(LABELS, -np.ones(4), np.ones(4))
PROPOSED = np.array([0.4, -0.4, 0.2, 1.0], np.float32)
TICK = 50_000_000


class Bench:
    """An operator under test: ``tick(...)`` is one control tick with the given reading."""

    def __init__(self, layout=ROBOT, **config):
        self.now, self.next = 10**12, {}
        self.source = PlayedSource(lambda n: self.next, lambda: self.now)
        self.config = StationConfig(**({"autostart": True, "ramp": 0.25} | config))
        self.operator = StationOperator(self.source, KEYS, layout, self.config, clock=lambda: self.now)
        self.layout = layout
        self.reset()

    def reset(self, **reading):
        self.next = reading
        self.operator.reset({"seed": 1, "task": "reach", "instruction": "go there"})

    def tick(self, *keys, proposed=None, **reading):
        self.now += TICK
        self.next = {"keys": frozenset(keys), **reading}
        default = np.int64(1) if self.layout.discrete else PROPOSED
        return self.operator.command({}, default if proposed is None else proposed)

    def poll(self, *keys, **reading):
        self.now += TICK
        self.next = {"keys": frozenset(keys), **reading}
        return self.operator.poll()

    @property
    def shown(self):
        return self.source.shown[-1]
