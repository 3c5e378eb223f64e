"""What each Meta-World task is called, said to a policy, seen from, and how its progress is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetaWorldSpec:
    """One task.

    ``progress`` is ``-(hand_weight * |hand - object| + goal_weight * |object - goal|)`` over the axes ``goal_axes``
    (indices into x, y, z) of the second distance; see ``MetaWorldTask.progress``.
    """

    instruction: str
    paraphrases: tuple[str, ...]
    horizon: int = 250
    camera: str = "corner4"
    goal_axes: tuple[int, ...] = (0, 1, 2)
    object_is_hand: bool = False
    """The hand itself is what has to reach the goal."""


METAWORLD_SPECS: dict[str, MetaWorldSpec] = {
    "reach": MetaWorldSpec(
        "move the gripper to the red target",
        ("reach the red target", "bring the hand to the red dot", "touch the red marker with the gripper"),
        object_is_hand=True,
    ),
    "push": MetaWorldSpec(
        "push the puck to the green target",
        (
            "slide the puck onto the green dot",
            "move the puck along the table to the target",
            "push the red cylinder to the goal",
        ),
    ),
    "pick-place": MetaWorldSpec(
        "pick up the puck and hold it at the target",
        (
            "lift the puck to the target",
            "grasp the red cylinder and bring it to the goal",
            "pick the puck and place it at the marker",
        ),
    ),
    "button-press": MetaWorldSpec(
        "press the button",
        ("push the button in", "press the red button on the box", "press the button all the way"),
    ),
    "drawer-open": MetaWorldSpec(
        "open the drawer",
        ("pull the drawer open", "pull the drawer out by its handle", "slide the drawer open"),
    ),
    "door-open": MetaWorldSpec(
        "open the door",
        ("pull the door open", "swing the door open by its handle", "open the door of the box"),
    ),
    "window-open": MetaWorldSpec(
        "open the window",
        ("slide the window open", "push the window open by its handle", "move the window to the right"),
    ),
    "hammer": MetaWorldSpec(
        "hammer the nail into the wall",
        ("drive the nail in with the hammer", "pick up the hammer and hit the nail", "hit the nail until it is in"),
    ),
    "bin-picking": MetaWorldSpec(
        "move the cube from one bin to the other",
        (
            "pick the cube and drop it in the other bin",
            "transfer the cube to the second bin",
            "put the cube in the empty bin",
        ),
    ),
    "assembly": MetaWorldSpec(
        "put the ring of the wrench over the peg",
        (
            "place the nut on the peg",
            "pick up the wrench and hang its ring on the peg",
            "assemble the ring onto the peg",
        ),
    ),
    "peg-insert-side": MetaWorldSpec(
        "insert the peg into the hole in the side of the box",
        (
            "put the peg into the box from the side",
            "pick up the green peg and push it into the hole",
            "slide the peg into the hole",
        ),
    ),
}
