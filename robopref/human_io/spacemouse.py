"""A 3Dconnexion SpaceMouse, read through hidapi, without 3Dconnexion's driver."""

from __future__ import annotations

import importlib
import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from robopref.errors import RoboprefError
from robopref.human_io.readings import DeviceReading, StationStatus
from robopref.human_io.spacemouse_reports import AXIS_NAMES, MOTION_REPORTS, SpaceMouseState, apply_report

_VENDORS = (0x256F, 0x046D)  # 3Dconnexion, and Logitech, which sold the older ones
_PRODUCTS = frozenset(
    {0xC603, 0xC605, 0xC606, 0xC621, 0xC623, 0xC625, 0xC626, 0xC627, 0xC628, 0xC629, 0xC62B, 0xC62E, 0xC62F, 0xC631}
    | {0xC632, 0xC633, 0xC635, 0xC636, 0xC638, 0xC63A, 0xC640, 0xC652}
)
_MULTI_AXIS = (1, 8)  # usage page "generic desktop", usage "multi-axis controller"
_LONGEST_REPORT = 64
_WAIT_MS = 20  # for a report; after it the device has shown that it is there
_RETRY_SECONDS = 1.0  # between looks for a device that was unplugged
_STALE_NS = 250_000_000  # a deflected cap repeats itself about every 16 ms; one that went silent is not trusted

PERMISSION_ADVICE = (
    "let your user read it: put the line "
    'KERNEL=="hidraw*", ATTRS{idVendor}=="256f", TAG+="uaccess" (older devices: 046d) into '
    "/etc/udev/rules.d/70-spacemouse.rules and plug it in again"
)


class HidDevice(Protocol):
    """An opened device of hidapi."""

    def open_path(self, path: bytes) -> None:
        """Open; OSError when that fails."""

    def read(self, max_length: int, timeout_ms: int = 0) -> list[int]:
        """One report, or nothing when none came in time; OSError when the device is gone."""

    def close(self) -> None:
        """Let go."""


class HidBackend(Protocol):
    """The module ``hid`` or ``hidraw`` of hidapi, or something that plays it."""

    def enumerate(self, vendor_id: int = 0, product_id: int = 0) -> list[dict[str, Any]]:
        """The devices that are plugged in."""

    def device(self) -> HidDevice:
        """A device to be opened."""


def load_hidapi() -> HidBackend:
    """The backend of hidapi.

    Raises:
        RoboprefError: it is not installed; the message says how to.
    """
    # On Linux its module hid goes through libusb and takes the device away from everybody else; hidraw only reads.
    names = ("hidraw", "hid") if sys.platform == "linux" else ("hid",)
    failures = []
    for name in names:
        try:
            module: Any = importlib.import_module(name)
        except ImportError as error:
            failures.append(str(error))
            continue
        return module
    raise RoboprefError(
        f"a SpaceMouse needs hidapi ({'; '.join(failures)}): install it with `pip install 'robopref[devices]'`."
    )


def find_spacemice(hid: HidBackend) -> list[Mapping[str, Any]]:
    """hidapi's descriptions of the SpaceMice that are plugged in, those that say to be one first."""
    found: list[Mapping[str, Any]] = []
    for vendor in _VENDORS:
        for info in hid.enumerate(vendor, 0):
            usage = (info.get("usage_page", 0), info.get("usage", 0))
            # A receiver has interfaces for a mouse and a keyboard as well; some platforms tell no usages at all.
            if usage == _MULTI_AXIS or (usage == (0, 0) and info["product_id"] in _PRODUCTS):
                found.append(info)
    return sorted(found, key=lambda info: info.get("usage", 0) != _MULTI_AXIS[1])


class SpaceMouse:
    """An ``InputSource``: six axes (``AXIS_NAMES``) and the buttons, read in a thread of its own.

    A SpaceMouse that is unplugged is looked for once a second; until it is back the reading says that it is gone, and
    its time stands still. What it said last is forgotten at once.

    Args:
        hid: the backend; hidapi itself if not given.
        operator_id: the name under which recordings know who drove.
        clock: monotonic nanoseconds.

    Raises:
        RoboprefError: hidapi is not installed, or there is no SpaceMouse, or it cannot be opened.
    """

    axis_names: tuple[str, ...] = AXIS_NAMES

    def __init__(
        self,
        hid: HidBackend | None = None,
        *,
        operator_id: str = "spacemouse",
        clock: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        self.operator_id = operator_id
        self._hid = hid or load_hidapi()
        self._clock = clock
        self._lock = threading.Lock()
        self._name = "SpaceMouse"
        self._connected = True
        self._detail = ""
        self._state = SpaceMouseState()
        self._tapped: frozenset[int] = frozenset()  # pressed since the last reading, if only for a moment
        self._alive_ns = self._moved_ns = clock()
        self._closing = threading.Event()
        device = self._open()
        self._thread = threading.Thread(target=self._run, args=(device,), name="spacemouse", daemon=True)
        self._thread.start()

    @property
    def name(self) -> str:
        """The product's name."""
        return self._name

    def read(self) -> DeviceReading:
        """The newest state; a button that was pressed since the last reading is in it even if it is up again."""
        with self._lock:
            buttons, self._tapped = self._state.buttons | self._tapped, frozenset()
            return DeviceReading(
                axes=self._state.axes,
                buttons=buttons,
                received_ns=self._alive_ns,
                connected=self._connected,
                detail=self._detail,
            )

    def show(self, status: StationStatus) -> None:
        """A SpaceMouse has nothing to show it on."""

    def close(self) -> None:
        """Let go of the device."""
        self._closing.set()
        self._thread.join()

    def _open(self) -> HidDevice:
        found = find_spacemice(self._hid)
        if not found:
            raise RoboprefError("there is no SpaceMouse: plug one in, or choose another --operator.")
        device = self._hid.device()
        name = str(found[0].get("product_string") or "SpaceMouse").strip()
        try:
            device.open_path(found[0]["path"])
        except OSError as error:
            raise RoboprefError(f"the {name} cannot be opened ({error}): {PERMISSION_ADVICE}.") from error
        self._name = name
        return device

    def _run(self, device: HidDevice) -> None:
        while True:
            try:
                self._listen(device)
            except OSError:
                self._lose(f"the {self._name} was unplugged")
            finally:
                device.close()
            if self._closing.is_set():
                return
            while True:
                if self._closing.wait(_RETRY_SECONDS):
                    return
                try:
                    device = self._open()
                except (RoboprefError, OSError) as error:
                    self._lose(str(error))
                else:
                    break

    def _listen(self, device: HidDevice) -> None:
        while not self._closing.is_set():
            report = device.read(_LONGEST_REPORT, _WAIT_MS)
            now = self._clock()
            with self._lock:
                self._connected, self._detail, self._alive_ns = True, "", now
                if report:
                    state = apply_report(self._state, report)
                    self._tapped |= state.buttons - self._state.buttons
                    self._state = state
                if report and report[0] in MOTION_REPORTS:
                    self._moved_ns = now
                elif now - self._moved_ns > _STALE_NS:
                    self._state = SpaceMouseState(buttons=self._state.buttons)

    def _lose(self, detail: str) -> None:
        with self._lock:
            self._connected, self._detail = False, detail
            self._state, self._tapped = SpaceMouseState(), frozenset()
