"""The scripted operator: when it takes over, how it drives, when it hands back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from robopref.errors import RoboprefError
from robopref.human_io.scripted import ScriptedOperator, ScriptedOperatorConfig, Spectator
from robopref.protocols import FOLLOW, Mode, Operator

CERTAIN = {"reaction_delay": (0, 0), "action_noise": 0.0}
"""Settings without chance, for counting steps by hand."""


class Pusher:
    """An expert that always pushes forward, and counts its episodes."""

    def __init__(self) -> None:
        self.resets = 0

    def reset(self) -> None:
        self.resets += 1

    def __call__(self, observation: Any) -> Any:
        return np.array([0.9, -0.9])


def operator(**settings: Any) -> ScriptedOperator:
    made = ScriptedOperator(Pusher(), lambda o: float(o["x"]), ScriptedOperatorConfig(**settings))
    made.reset({"seed": 5})
    return made


def drives(who: ScriptedOperator, progress: list[float]) -> list[bool]:
    """Whether the operator drives at each step of a given course of progress."""
    return [who.command({"x": np.array(x)}, np.zeros(2)).mode is Mode.TAKE_OVER for x in progress]


def test_is_an_operator_and_resets_its_expert() -> None:
    who = operator()
    assert isinstance(who, Operator)
    assert isinstance(Spectator(), Operator)
    before = who._expert.resets
    who.reset({"seed": 1})
    assert who._expert.resets == before + 1


def test_leaves_steady_progress_alone() -> None:
    assert not any(drives(operator(**CERTAIN), list(np.arange(200) * 0.002)))


def test_takes_over_when_progress_stalls() -> None:
    driven = drives(operator(**CERTAIN, stall_steps=10), [0.0] * 30)
    assert driven == [False] * 10 + [True] * 20


def test_progress_below_the_tolerance_is_a_stall() -> None:
    driven = drives(operator(**CERTAIN, stall_steps=10, stall_tolerance=0.01), list(np.arange(12) * 0.0009))
    assert driven.index(True) == 10


def test_takes_over_when_progress_falls() -> None:
    course = [0.0, 0.5, 0.5, 0.44, 0.44, 0.44, 0.44]
    driven = drives(operator(**CERTAIN, divergence_steps=3, divergence_tolerance=0.05), course)
    assert driven == [False] * 5 + [True] * 2


def test_a_dip_is_no_divergence() -> None:
    course = [0.5, 0.4, 0.4, 0.5, 0.4, 0.4, 0.5]
    assert not any(drives(operator(**CERTAIN, divergence_steps=3), course))


def test_reaction_delay_lies_in_its_range_and_varies() -> None:
    who = operator(reaction_delay=(2, 6), stall_steps=10)
    delays = []
    for seed in range(60):
        who.reset({"seed": seed})
        delays.append(drives(who, [0.0] * 30).index(True) - 10)
    assert set(delays) == {2, 3, 4, 5, 6}


def test_hands_back_after_recovery_and_not_before_the_minimum() -> None:
    settings = {**CERTAIN, "stall_steps": 5, "recovery": 0.05, "min_takeover_steps": 4}
    assert drives(operator(**settings), [0.0] * 6 + [0.1] * 6) == [False] * 5 + [True] * 4 + [False] * 3
    assert drives(operator(**settings), [0.0] * 6 + [0.04] * 6) == [False] * 5 + [True] * 7


def test_hands_back_at_the_limit_and_can_take_over_again() -> None:
    settings = {**CERTAIN, "stall_steps": 5, "min_takeover_steps": 2, "max_takeover_steps": 3}
    expected = ([False] * 5 + [True] * 3) * 2
    assert drives(operator(**settings), [0.0] * 16) == expected
    assert drives(operator(**settings, max_takeovers=1), [0.0] * 16) == expected[:8] + [False] * 8


def test_without_hand_back_it_finishes_the_episode() -> None:
    driven = drives(operator(**CERTAIN, stall_steps=5, hand_back=False), [0.0] * 6 + [9.0] * 300)
    assert driven == [False] * 5 + [True] * 301


def test_wrong_takeovers_come_at_their_rate_and_are_short() -> None:
    who = operator(**CERTAIN, wrong_takeover_rate=0.05, wrong_takeover_steps=4, hand_back=False)
    lengths, watched, onsets = [], 0, 0
    for seed in range(40):
        who.reset({"seed": seed})
        driven = drives(who, list(np.arange(200) * 0.02))
        watched += driven.count(False)
        edges = np.flatnonzero(np.diff([False, *driven, False]))
        lengths += [int(b - a) for a, b in zip(edges[::2], edges[1::2], strict=True) if b < 200]
        onsets += len(edges) // 2
    assert set(lengths) == {4}
    assert 0.03 < onsets / watched < 0.07


def test_a_step_of_the_policy_lies_between_two_takeovers() -> None:
    who = operator(**CERTAIN, wrong_takeover_rate=1.0, wrong_takeover_steps=2, max_takeovers=3)
    assert drives(who, [0.0] * 12) == [True, True, False] * 3 + [False] * 3


def test_drives_as_the_expert_with_noise_clipped() -> None:
    who = operator(reaction_delay=(0, 0), stall_steps=1, action_noise=0.2, hand_back=False)
    who.command({"x": np.array(0.0)}, np.zeros(2))
    actions = np.array([who.command({"x": np.array(0.0)}, np.zeros(2)).action for _ in range(2000)])
    assert actions.dtype == np.float32
    assert np.abs(actions).max() == 1.0
    # Clipping at 1 acts on one side only, so the median stays the expert's action and the lower half its spread.
    np.testing.assert_allclose(np.median(actions, axis=0), [0.9, -0.9], atol=0.02)
    np.testing.assert_allclose(np.quantile(actions[:, 0], 0.1587), 0.9 - 0.2, atol=0.03)


def test_behaviour_depends_on_the_seeds_only() -> None:
    course = [0.0] * 60

    def play(who: ScriptedOperator, seed: int) -> list[Any]:
        who.reset({"seed": seed})
        commands = [who.command({"x": np.array(x)}, np.zeros(2)) for x in course]
        return [None if c.action is None else c.action.tolist() for c in commands]

    settings = {"wrong_takeover_rate": 0.05, "action_noise": 0.1, "stall_steps": 10}
    fresh, used = operator(**settings), operator(**settings)
    for seed in (1, 2, 3):
        play(used, seed)
    assert play(fresh, 7) == play(used, 7)
    assert play(fresh, 7) != play(fresh, 8)
    assert play(operator(**settings, seed=1), 7) != play(fresh, 7)


def test_unseeded_episodes_differ() -> None:
    who = operator(reaction_delay=(0, 0), stall_steps=1)
    drawn = set()
    for _ in range(3):
        who.reset({"seed": None})
        drives(who, [0.0])
        drawn.add(float(who.command({"x": np.array(0.0)}, np.zeros(2)).action[0]))
    assert len(drawn) > 1


def test_broken_progress_and_experts_are_refused() -> None:
    with pytest.raises(RoboprefError, match="progress is nan"):
        drives(operator(), [float("nan")])
    who = ScriptedOperator(
        type("Broken", (Pusher,), {"__call__": lambda self, o: np.array([np.nan])})(),
        lambda o: 0.0,
        ScriptedOperatorConfig(**CERTAIN, stall_steps=1),
    )
    who.command({}, np.zeros(1))
    with pytest.raises(RoboprefError, match="expert's action"):
        who.command({}, np.zeros(1))


@pytest.mark.parametrize(
    "settings",
    [
        {"stall_steps": 0},
        {"action_noise": -0.1},
        {"action_noise": float("nan")},
        {"wrong_takeover_rate": 1.5},
        {"reaction_delay": (5, 2)},
        {"max_takeover_steps": 3, "min_takeover_steps": 4},
        {"max_takeovers": -1},
    ],
)
def test_senseless_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(RoboprefError, match="scripted operator"):
        ScriptedOperatorConfig(**settings)


def test_spectator_never_intervenes() -> None:
    who = Spectator()
    who.reset({"seed": 0})
    assert all(who.command({"x": np.array(x)}, np.zeros(2)) is FOLLOW for x in (0.0, -9.0, float("nan")))
