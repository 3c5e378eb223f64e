"""hidapi's module, played: what is put into ``reports`` comes over USB."""

import queue
import threading

COMPACT = {"vendor_id": 0x256F, "product_id": 0xC635, "path": b"/dev/hidraw3", "usage_page": 1, "usage": 8,
           "product_string": "SpaceMouse Compact"}  # fmt: skip
UNPLUGGED = object()


class FakeHid:
    """hidapi: ``enumerate`` and ``device``; reports are put into ``reports`` and come out of ``read``."""

    def __init__(self, *infos):
        self.infos = list(infos)
        self.reports = queue.Queue()
        self.opened, self.closed = [], 0
        self.forbidden = False
        self.reads = threading.Semaphore(0)

    def enumerate(self, vendor_id=0, product_id=0):
        return [info for info in self.infos if vendor_id in (0, info["vendor_id"])]

    def device(self):
        return FakeDevice(self)


class FakeDevice:
    def __init__(self, hid):
        self.hid = hid

    def open_path(self, path):
        if self.hid.forbidden:
            raise OSError("open failed")
        self.hid.opened.append(path)

    def read(self, max_length, timeout_ms=0):
        self.hid.reads.release()
        try:
            report = self.hid.reports.get(timeout=timeout_ms / 1000)
        except queue.Empty:
            return []
        if report is UNPLUGGED:
            raise OSError("read error")
        return list(report)[:max_length]

    def close(self):
        self.hid.closed += 1
