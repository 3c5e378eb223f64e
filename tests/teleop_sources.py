"""A device for tests: what is held at each reading is written down beforehand."""

from time import monotonic_ns

from robopref.human_io.readings import DeviceReading


class PlayedSource:
    """Plays ``script(n) -> DeviceReading fields`` for its n-th reading, alive at every reading unless told otherwise."""

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
