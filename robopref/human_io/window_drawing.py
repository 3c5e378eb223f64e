"""The picture in the operator's window: the camera on the left, the state of the session on the right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from robopref.human_io.frames import Frame
from robopref.human_io.readings import StationStatus
from robopref.human_io.remap_dialog import DialogView

WINDOW_SIZE = (920, 700)
"""Width and height at first, in pixels."""

_PANEL = 360  # width of the right side
_MARGIN = 14
_LINE = 21  # pixels from one line of text to the next
_HELP_COLUMNS = 3
_STALE_NS = 500_000_000  # a picture older than this is said to be old

Colour = tuple[int, int, int]
BACKGROUND: Colour = (18, 20, 24)
TEXT: Colour = (236, 238, 241)
FAINT: Colour = (170, 176, 186)
POLICY: Colour = (86, 180, 233)
EXECUTED: Colour = (240, 228, 66)
WARNING: Colour = (255, 190, 120)
_TRACK: Colour = (54, 58, 66)


@dataclass(frozen=True)
class ModeLook:
    """How a mode is told: by words, by colour and by a sign, each of which would do alone."""

    words: str
    colour: Colour
    ink: Colour
    sign: str  # what _SIGNS draws


MODES = {
    "AUTONOMOUS": ModeLook("POLICY DRIVES", (0, 114, 178), (255, 255, 255), "play"),
    "TAKEOVER": ModeLook("YOU DRIVE", (240, 160, 0), (0, 0, 0), "hand"),
    "HOLD": ModeLook("HOLD: nobody drives", (255, 255, 255), (0, 0, 0), "bars"),
    "PAUSED": ModeLook("PAUSED", (70, 74, 82), (255, 255, 255), "bars"),
    "STOPPED": ModeLook("STOPPED", (176, 0, 32), (255, 255, 255), "square"),
}


@dataclass(frozen=True)
class Shown:
    """What a picture of the window shows: any of it may be missing, and ``view`` is the dialog while it is open."""

    frame: Frame | None = None
    status: StationStatus | None = None
    focused: bool = True
    help_lines: tuple[str, ...] = ()
    view: DialogView | None = None


class WindowDrawing:
    """Draws on a surface, which may change its size between pictures.

    Args:
        pygame: the module, so that this one can be imported without it.
        surface: the window.
    """

    def __init__(self, pygame: Any, surface: Any) -> None:
        self._pygame, self._surface = pygame, surface
        self._large, self._small = pygame.font.Font(None, 34), pygame.font.Font(None, 22)
        self._rendered: dict[tuple[str, Colour, bool], Any] = {}
        self._camera: tuple[tuple[int, int], Any] = ((0, 0), None)  # number and side of the frame -> its picture

    def draw(self, shown: Shown, now_ns: int) -> None:
        """One picture, shown at once."""
        frame, status, help_lines = shown.frame, shown.status, shown.help_lines
        surface = self._pygame.display.get_surface() or self._surface
        width, height = surface.get_size()
        surface.fill(BACKGROUND)
        if shown.view is not None:
            self._dialog(surface, shown.view, status)
            self._pygame.display.flip()
            return
        rows = -(-len(help_lines) // _HELP_COLUMNS)
        help_top = height - _MARGIN - rows * _LINE
        side = max(1, min(width - _PANEL - 2 * _MARGIN, help_top - 2 * _MARGIN))
        if frame is not None:
            surface.blit(self._picture(frame, side), (_MARGIN, _MARGIN))
        pen = _Pen(self, surface, width - _PANEL, _MARGIN, _PANEL - _MARGIN)
        if status is None:
            pen.line("waiting for the first episode", FAINT)
        else:
            self._state(pen, status)
        if frame is None:
            pen.line("no picture yet", WARNING)
        elif (age := now_ns - frame.captured_ns) > _STALE_NS:
            pen.line(f"! the picture is {age / 1e9:.1f} s old", WARNING)
        else:
            pen.line(f"picture {age / 1e6:.0f} ms old", FAINT)
        if not shown.focused:
            pen.line("! this window does not have the keyboard: click it", WARNING)
        if status is not None:
            self._intention(pen, status)
        column = (width - 2 * _MARGIN) // _HELP_COLUMNS
        for i, line in enumerate(help_lines):
            at = (_MARGIN + i // rows * column, help_top + i % rows * _LINE)
            surface.blit(self.text(line, FAINT, False), at)
        self._pygame.display.flip()

    def text(self, words: str, colour: Colour, large: bool) -> Any:
        """The words as a picture, drawn once."""
        key = (words, colour, large)
        if key not in self._rendered:
            if len(self._rendered) > 500:  # counters make new words for ever
                self._rendered.clear()
            self._rendered[key] = (self._large if large else self._small).render(words, True, colour)
        return self._rendered[key]

    def wrapped(self, words: str, width: int) -> list[str]:
        """The words in lines that fit."""
        lines: list[str] = []
        for word in words.split():
            longer = f"{lines[-1]} {word}" if lines else word
            if lines and self._small.size(longer)[0] <= width:
                lines[-1] = longer
            else:
                lines.append(word)
        return lines

    def _dialog(self, surface: Any, view: DialogView, status: StationStatus | None) -> None:
        width, height = surface.get_size()
        pen = _Pen(self, surface, _MARGIN, _MARGIN, width - 2 * _MARGIN)
        pen.line("KEYS, BUTTONS AND AXES: you do not drive meanwhile", TEXT)
        if status is not None:
            pen.line(f"the session goes on: {_look_of(status.mode).words}", TEXT)
        pen.line(view.message, WARNING if view.is_error else EXECUTED if view.waiting else FAINT)
        top = 5 * _LINE + _MARGIN
        rows = max(1, (height - top) // _LINE)
        column = (width - 2 * _MARGIN) // max(1, -(-len(view.lines) // rows))
        for i, line in enumerate(view.lines):
            at = (_MARGIN + i // rows * column, top + i % rows * _LINE)
            chosen = i == view.chosen
            colour = EXECUTED if chosen and view.waiting else TEXT if chosen else FAINT
            surface.blit(self.text(f"> {line}" if chosen else f"   {line}", colour, False), at)

    def _picture(self, frame: Frame, side: int) -> Any:
        key, picture = self._camera
        if key != (frame.number, side) or picture is None:
            height, width = frame.pixels.shape[:2]
            scale = side / max(height, width)
            raw = self._pygame.image.frombuffer(frame.pixels.tobytes(), (width, height), "RGB")
            picture = self._pygame.transform.scale(raw, (max(1, int(width * scale)), max(1, int(height * scale))))
            self._camera = ((frame.number, side), picture)
        return picture

    def _state(self, pen: _Pen, status: StationStatus) -> None:
        pen.band(_look_of(status.mode))
        if status.reason:
            pen.line(status.reason, WARNING)
        keys = "hold the take-over key to drive" if status.hold_to_run else "press to take over, and to hand back"
        minutes, seconds = divmod(int(status.episode_seconds), 60)
        pen.line(keys, FAINT)
        pen.line(
            f"episode {status.episode} of {status.episodes_planned}, {minutes}:{seconds:02}, step {status.step}", TEXT
        )
        pen.line(f"{status.takeovers} takeovers, {status.human_share:.0%} driven by you", TEXT)
        if status.outcomes:
            pen.line(", ".join(f"{count} {name}" for name, count in status.outcomes), TEXT)
        for words in (status.task, status.instruction):
            if words:
                pen.line(words, FAINT)

    def _intention(self, pen: _Pen, status: StationStatus) -> None:
        """What the policy proposes and what is executed, a bar per dimension or the names of the two actions."""
        proposed, executed = status.proposed_action, status.executed_action
        if status.discrete:
            for what, action, colour in (("policy wants", proposed, POLICY), ("executed", executed, EXECUTED)):
                if action and int(action[0]) < len(status.action_labels):
                    pen.line(f"{what}: {status.action_labels[int(action[0])]}", colour)
            return
        if proposed:
            pen.line("bar: policy wants; line: executed", FAINT)
        for i, label in enumerate(status.action_labels):
            if i < len(proposed):
                pen.bar(label, proposed[i], executed[i] if i < len(executed) else None)


def _look_of(mode: str) -> ModeLook:
    return MODES.get(mode, ModeLook(mode, _TRACK, TEXT, "square"))


class _Pen:
    """Writes down the panel from top to bottom."""

    def __init__(self, drawing: WindowDrawing, surface: Any, left: int, top: int, width: int) -> None:
        self._drawing, self._surface = drawing, surface
        self._left, self._top, self._width = left, top, width
        self._draw = drawing._pygame.draw

    def line(self, words: str, colour: Colour) -> None:
        for part in self._drawing.wrapped(words, self._width):
            self._surface.blit(self._drawing.text(part, colour, False), (self._left, self._top))
            self._top += _LINE

    def band(self, look: ModeLook) -> None:
        self._draw.rect(self._surface, look.colour, (self._left, self._top, self._width, 48), border_radius=6)
        _SIGNS[look.sign](self._draw, self._surface, look.ink, self._left + 14, self._top + 12)
        self._surface.blit(self._drawing.text(look.words, look.ink, True), (self._left + 52, self._top + 13))
        self._top += 58

    def bar(self, label: str, proposed: float, executed: float | None) -> None:
        left, width, top = self._left + 90, self._width - 96, self._top
        middle = left + width // 2
        self._surface.blit(self._drawing.text(label[:12], TEXT, False), (self._left, top))
        self._draw.rect(self._surface, _TRACK, (left, top + 2, width, 12))
        reach = int(max(-1.0, min(1.0, proposed)) * width / 2)
        self._draw.rect(self._surface, POLICY, (min(middle, middle + reach), top + 2, abs(reach), 12))
        if executed is not None:
            at = middle + int(max(-1.0, min(1.0, executed)) * width / 2)
            self._draw.rect(self._surface, EXECUTED, (at - 2, top - 1, 4, 18))
        self._draw.rect(self._surface, FAINT, (middle, top, 1, 16))
        self._top += _LINE


def _play(draw: Any, surface: Any, ink: Colour, x: int, y: int) -> None:
    draw.polygon(surface, ink, [(x, y), (x, y + 24), (x + 22, y + 12)])


def _hand(draw: Any, surface: Any, ink: Colour, x: int, y: int) -> None:
    draw.rect(surface, ink, (x + 2, y + 11, 18, 13), border_radius=4)
    for i in range(4):
        draw.rect(surface, ink, (x + 2 + 5 * i, y, 3, 14), border_radius=1)


def _bars(draw: Any, surface: Any, ink: Colour, x: int, y: int) -> None:
    draw.rect(surface, ink, (x + 2, y, 7, 24))
    draw.rect(surface, ink, (x + 14, y, 7, 24))


def _square(draw: Any, surface: Any, ink: Colour, x: int, y: int) -> None:
    draw.rect(surface, ink, (x, y, 22, 22))


_SIGNS: dict[str, Callable[[Any, Any, Colour, int, int], None]] = {
    "play": _play, "hand": _hand, "bars": _bars, "square": _square,
}  # fmt: skip
