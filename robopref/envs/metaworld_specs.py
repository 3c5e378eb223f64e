"""What each Meta-World task is called, said to a policy, seen from, and how its progress is judged."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetaWorldSpec:
    """One task; ``horizon`` is two to three times what its expert takes on average."""

    instruction: str
    paraphrases: tuple[str, ...]
    horizon: int = 250
    camera: str = "corner4"  # the closest one that shows the whole workspace of every task
    object_is_hand: bool = False
    """The hand itself is what has to reach the goal."""


METAWORLD_SPECS: dict[str, MetaWorldSpec] = {
    "reach": MetaWorldSpec(
        horizon=150,
        instruction="move the gripper to the red target",
        paraphrases=("reach the red target", "bring the hand to the red dot", "touch the red marker with the gripper"),
        object_is_hand=True,
    ),
    "push": MetaWorldSpec(
        horizon=200,
        instruction="push the puck to the green target",
        paraphrases=(
            "slide the puck onto the green dot",
            "move the puck along the table to the target",
            "push the red cylinder to the goal",
        ),
    ),
    "pick-place": MetaWorldSpec(
        horizon=200,
        instruction="pick up the puck and hold it at the blue target",
        paraphrases=(
            "lift the puck to the blue dot",
            "grasp the red cylinder and bring it to the goal",
            "pick the puck and place it at the marker",
        ),
    ),
    "button-press": MetaWorldSpec(
        horizon=150,
        instruction="press the button",
        paraphrases=("push the button in", "press the red button on the box", "press the button all the way"),
    ),
    "drawer-open": MetaWorldSpec(
        instruction="open the drawer",
        paraphrases=("pull the drawer open", "pull the drawer out by its handle", "slide the drawer open"),
    ),
    "door-open": MetaWorldSpec(
        instruction="open the door",
        paraphrases=("pull the door open", "swing the door open by its handle", "open the door of the box"),
    ),
    "window-open": MetaWorldSpec(
        instruction="open the window",
        paraphrases=("slide the window open", "push the window open by its handle", "move the window to the right"),
    ),
    "hammer": MetaWorldSpec(
        horizon=200,
        instruction="hammer the nail into the box",
        paraphrases=(
            "drive the nail in with the hammer",
            "pick up the hammer and hit the nail",
            "hit the nail until it is in",
        ),
    ),
    "bin-picking": MetaWorldSpec(
        horizon=300,
        instruction="move the cube from the red bin to the blue bin",
        paraphrases=(
            "pick the green cube and drop it in the blue bin",
            "transfer the cube to the second bin",
            "put the cube in the blue bin",
        ),
    ),
    "assembly": MetaWorldSpec(
        instruction="put the ring of the wrench over the peg",
        paraphrases=(
            "place the nut on the peg",
            "pick up the wrench and hang its ring on the peg",
            "assemble the ring onto the peg",
        ),
    ),
    "peg-insert-side": MetaWorldSpec(
        instruction="insert the peg into the hole in the side of the box",
        paraphrases=(
            "put the peg into the box from the side",
            "pick up the green peg and push it into the hole",
            "slide the peg into the hole",
        ),
    ),
}
