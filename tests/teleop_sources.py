"""A device for tests: what is held at each reading is written down beforehand."""

from time import monotonic_ns

from robopref.human_io.bindings import Binding
from robopref.human_io.mapping import Mapping
from robopref.human_io.readings import Control, DeviceReading

KEYS = Mapping(
    {
        "x": (Binding("KeyD"), Binding("KeyA", -1.0)),
        "y": (Binding("KeyW"), Binding("KeyS", -1.0)),
        "gripper": (Binding("KeyC"), Binding("KeyV", -1.0)),
        "LEFT": (Binding("ArrowLeft"),),
        "RIGHT": (Binding("ArrowRight"),),
        "FIRE": (Binding("KeyF"),),
    },
    {
        Control.TAKE_OVER: (Binding("Space"),),
        Control.HAND_BACK: (Binding("KeyH"),),
        Control.PAUSE: (Binding("KeyP"),),
        Control.SUCCESS: (Binding("KeyY"),),
        Control.FAILURE: (Binding("KeyN"),),
        Control.DISCARD: (Binding("Delete"),),
        Control.NEXT: (Binding("Enter"),),
        Control.STOP: (Binding("Escape"),),
    },
    latched=frozenset({"gripper"}),
)
"""What the keys mean in these tests, whatever the defaults are."""


class PlayedSource:
    """Its n-th reading has the fields of ``script(n)``; it is alive at every reading unless told otherwise."""

    operator_id = "played"
    name = "played device"
    axis_names = ()

    def __init__(self, script, clock=monotonic_ns):
        self.script, self.clock = script, clock
        self.readings, self.shown, self.closed = [], [], False

    def read(self):
        fields = dict(self.script(len(self.readings)))
        reading = DeviceReading(**{"received_ns": self.clock(), **fields})
        self.readings.append(reading)
        return reading

    def show(self, status):
        self.shown.append(status)

    def close(self):
        self.closed = True
