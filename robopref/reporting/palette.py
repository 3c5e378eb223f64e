"""Colours that tell apart for colour-blind readers too: Okabe and Ito, "Color Universal Design" (2008)."""

from __future__ import annotations

from robopref.trajectory import Actor

BLACK = "#000000"
ORANGE = "#E69F00"
SKY_BLUE = "#56B4E9"
GREEN = "#009E73"
YELLOW = "#F0E442"
BLUE = "#0072B2"
VERMILLION = "#D55E00"
PURPLE = "#CC79A7"
GREY = "#999999"
LIGHT_GREY = "#DDDDDD"  # lighter than every colour above but yellow: told apart from orange in grey, too

ACTOR_COLORS = {Actor.EXPERT: GREEN, Actor.POLICY: BLUE, Actor.HUMAN: ORANGE, Actor.HOLD: LIGHT_GREY}
ACTOR_NAMES = {Actor.EXPERT: "expert", Actor.POLICY: "policy", Actor.HUMAN: "operator", Actor.HOLD: "hold"}


def rgb(color: str) -> tuple[int, int, int]:
    """``"#RRGGBB"`` as three values from 0 to 255."""
    red, green, blue = bytes.fromhex(color.removeprefix("#"))
    return red, green, blue
