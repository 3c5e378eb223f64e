from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic import episode

from robopref.cli.relabel import stored_rule
from robopref.errors import RoboprefError
from robopref.labeling import (
    LabelingRule,
    autonomous_success_mask,
    check_progress,
    label_steps,
    noop_mask,
    policy_segments,
    steps_since_improvement,
)
from robopref.trajectory import Actor, Label, Outcome

ACTOR_OF_LETTER = {"E": Actor.EXPERT, "P": Actor.POLICY, "H": Actor.HUMAN, "-": Actor.HOLD}
LETTER_OF_LABEL = {
    Label.EXPERT: "E",
    Label.POLICY: "P",
    Label.HUMAN: "H",
    Label.UNDESIRABLE: "u",
    Label.EXCLUDED: "-",
}


def runs_of(*actors: Actor) -> st.SearchStrategy[list[Actor]]:
    """Episodes as runs: single steps drawn apart hardly ever make a stretch of the policy longer than a window."""
    runs = st.lists(st.tuples(st.sampled_from(actors), st.integers(1, 5)), max_size=12)
    return runs.map(lambda rs: [actor for actor, length in rs for _ in range(length)])


ACTORS = runs_of(Actor.POLICY, Actor.POLICY, Actor.HUMAN, Actor.HOLD)
WINDOWS = st.integers(0, 7)


def actors_of(letters: str) -> np.ndarray:
    return np.array([ACTOR_OF_LETTER[letter] for letter in letters], dtype=np.int8)


def letters_of(labels: np.ndarray) -> str:
    return "".join(LETTER_OF_LABEL[Label(label)] for label in labels)


@pytest.mark.parametrize(
    ("actors", "window", "labels"),
    [
        ("PPPPHHP", 2, "PPuuHHP"),
        ("PPPPHHP", 0, "PPPPHHP"),
        ("PPH", 10, "uuH"),  # never past the start of the episode
        ("HHPP", 10, "HHPP"),  # driven from the start: nothing led to it, and nothing follows
        ("PPPHHPPH", 5, "uuuHHuuH"),  # two takeovers; the second window ends at the first human segment
        ("PPPPPHPH", 3, "PPuuuHuH"),  # a window cut short leaves the one before it whole
        ("PPPHP", 1, "PPuHP"),
        ("PP-PH", 2, "Pu-uH"),  # a hold inside the window is skipped, not counted
        ("PPP--H", 2, "Puu--H"),  # also between the last policy step and the onset
        ("PPH-HPP", 1, "PuH-HPP"),  # one streak
        ("PH-PH", 9, "uH-uH"),  # a hold does not let the window into the human segment before it
        ("EEEE", 3, "EEEE"),
        ("PPPP", 3, "PPPP"),
        ("----", 3, "----"),
        ("EEPPH", 9, "EEuuH"),  # demonstrations are never touched
        ("", 3, ""),
    ],
)
def test_labels_by_hand(actors: str, window: int, labels: str) -> None:
    assert letters_of(label_steps(actors_of(actors), window)) == labels


def slow_labels(actors: list[int], window: int) -> list[int]:
    """Onset by onset: walk back from each human step that follows a policy step, with holds taken out first."""
    label_of = {Actor.EXPERT: 3, Actor.HUMAN: 2, Actor.POLICY: 1, Actor.HOLD: 4}
    labels = [label_of[Actor(a)] for a in actors]
    driven = [t for t, actor in enumerate(actors) if actor != Actor.HOLD]
    for place, t in enumerate(driven):
        if actors[t] != Actor.HUMAN or place == 0 or actors[driven[place - 1]] != Actor.POLICY:
            continue
        run = 0
        while run < place and actors[driven[place - 1 - run]] == Actor.POLICY:
            run += 1
        for s in driven[place - min(run, window) : place]:
            labels[s] = 0
    return labels


@given(runs_of(*Actor, Actor.POLICY, Actor.HUMAN), WINDOWS)
def test_labels_equal_a_search_from_every_onset(actors: list[int], window: int) -> None:
    assert label_steps(np.array(actors, dtype=np.int64), window).tolist() == slow_labels(actors, window)


@given(ACTORS, WINDOWS)
def test_only_policy_steps_are_ever_relabelled(actors: list[int], window: int) -> None:
    given_actors = np.array(actors, dtype=np.int64)
    labels = label_steps(given_actors, window)
    undesirable = labels == Label.UNDESIRABLE
    assert (given_actors[undesirable] == Actor.POLICY).all()
    assert ((labels == Label.HUMAN) == (given_actors == Actor.HUMAN)).all()
    assert ((labels == Label.EXCLUDED) == (given_actors == Actor.HOLD)).all()


@given(ACTORS, WINDOWS, WINDOWS)
def test_a_wider_window_only_adds_undesirable_steps(actors: list[int], one: int, other: int) -> None:
    narrow, wide = (label_steps(np.array(actors, dtype=int), w) == Label.UNDESIRABLE for w in sorted((one, other)))
    assert (wide | ~narrow).all()


@given(ACTORS, WINDOWS)
def test_holds_change_no_other_label(actors: list[int], window: int) -> None:
    without = [a for a in actors if a != Actor.HOLD]
    labels = label_steps(np.array(actors, dtype=int), window)
    assert labels[labels != Label.EXCLUDED].tolist() == label_steps(np.array(without, dtype=int), window).tolist()


@given(ACTORS, WINDOWS)
def test_what_comes_after_the_last_takeover_changes_nothing_before_it(actors: list[int], window: int) -> None:
    longer = [*actors, Actor.POLICY, Actor.POLICY, Actor.HOLD]
    labels = label_steps(np.array(longer, dtype=int), window)
    assert labels[: len(actors)].tolist() == label_steps(np.array(actors, dtype=int), window).tolist()
    assert labels[len(actors) :].tolist() == [Label.POLICY, Label.POLICY, Label.EXCLUDED]


def test_a_takeover_at_the_start_of_an_episode_blames_nobody_in_the_one_before() -> None:
    # Labelled one at a time, as ``LabelingRule.apply`` does: joined, the window would reach into the first episode.
    first, second = episode(actors_of("PPPP")), episode(actors_of("HHPP"))
    rule = LabelingRule(window=3)
    assert letters_of(rule.apply(first)) + letters_of(rule.apply(second)) == "PPPP" + "HHPP"
    assert letters_of(label_steps(actors_of("PPPPHHPP"), 3)) == "PuuuHHPP"


def test_labels_are_derived_anew_and_leave_the_recording_alone() -> None:
    recorded = episode(actors_of("PPPPHP"))
    before = recorded.actor.copy()
    wide, again = LabelingRule(window=3).apply(recorded), LabelingRule(window=3).apply(recorded)
    narrow = LabelingRule(window=1).apply(recorded)  # relabelling with another window starts from who acted
    np.testing.assert_array_equal(wide, again)
    assert (letters_of(wide), letters_of(narrow)) == ("PuuuHP", "PPPuHP")
    np.testing.assert_array_equal(recorded.actor, before)


@pytest.mark.parametrize(
    ("actors", "message"),
    [
        ([[1, 1], [1, 2]], r"integers \[T\]"),
        ([1.0, 2.0], r"integers \[T\]"),
        ([True, False], r"integers \[T\]"),
        ([1, 7, -1], r"\[-1, 7\]"),
        (3, r"integers \[T\]"),
    ],
)
def test_actors_that_are_none(actors: object, message: str) -> None:
    with pytest.raises(RoboprefError, match=message):
        label_steps(np.array(actors), 2)


@pytest.mark.parametrize("window", [-1, 2.0, "3", None, True, float("nan")])
def test_windows_that_are_none(window: object) -> None:
    with pytest.raises(RoboprefError, match="window"):
        label_steps(actors_of("PPH"), window)  # type: ignore[arg-type]
    with pytest.raises(RoboprefError, match="window"):
        LabelingRule(window=window)  # type: ignore[arg-type]


def test_numpy_integers_are_windows() -> None:
    assert letters_of(label_steps(actors_of("PPH"), np.int32(1))) == "PuH"  # type: ignore[arg-type]


# --- where the policy began to fail, by the recorded reward

PROGRESS = st.lists(st.sampled_from([0.0, 0.5, 1.0, 2.0, 2.01, 10.0]), min_size=60, max_size=60)


@pytest.mark.parametrize(
    ("progress", "tolerance", "steps"),
    [
        ([0, 1, 2, 3, 2, 1], 0.0, 2),  # a divergence counts from its peak
        ([0, 1, 2, 2, 2, 2], 0.0, 3),  # a stall from its beginning: of equal steps the first is the best
        ([0, 1, 2, 1, 2, 1], 0.0, 3),  # getting back to the best is no improvement
        ([0, 1, 2, 2.3, 2.6, 2.9], 0.5, 1),  # slow gains add up: 2.6 is more than 2 + 0.5
        ([0, 1, 2, 2.3, 2.1, 2.4], 0.5, 3),  # noise is none
        ([5, 4, 3], 0.0, 2),  # downhill from the first step
        ([0, 1, 2], 0.0, 1),  # a takeover right after an improvement blames the last step
        ([4], 0.0, 1),
    ],
)
def test_steps_since_the_last_improvement_by_hand(progress: list[float], tolerance: float, steps: int) -> None:
    assert steps_since_improvement(np.array(progress), tolerance) == steps


@pytest.mark.parametrize(
    ("actors", "progress", "window", "labels"),
    [
        ("PPPPPPHH", [0, 1, 2, 2, 1, 1, 5, 9], 60, "PPPuuuHH"),
        ("PPPPPPHH", [0, 1, 2, 2, 1, 1, 5, 9], 2, "PPPPuuHH"),  # the window is the cap
        ("PPPPPPHH", [0, 1, 2, 2, 1, 1, 5, 9], 0, "PPPPPPHH"),
        ("PPPHHPPPHP", [0, 9, 3, 4, 4, 5, 6, 4, 7, 1], 60, "PPuHHPPuHP"),  # each way has its own best
        ("PP-PP-H", [0, 1, 5, 1, 1, 9, 9], 60, "PP-uu-H"),  # what happened during a hold is neither best nor counted
        ("PPPH", [3, 3, 3, 9], 60, "uuuH"),  # a constant reward names no step: the cap alone
        ("PPPH", [3, 3, 3, 9], 2, "PuuH"),
        ("PPPH", [0, 1, 2, 3], 60, "PPuH"),
        ("HHPP", [0, 1, 2, 1], 60, "HHPP"),
        ("EEPPH", [9, 9, 2, 1, 3], 60, "EEPuH"),  # demonstrations are never touched
        ("", [], 60, ""),
        # Gains are measured by the range that was driven, 0 to 100: 0.9 is none, 1.1 is one.
        ("PPPPH", [0, 50, 50.9, 50.5, 100], 60, "PPuuH"),
        ("PPPPH", [0, 50, 51.1, 50.5, 100], 60, "PPPuH"),
    ],
)
def test_labels_by_progress_by_hand(actors: str, progress: list[float], window: int, labels: str) -> None:
    assert letters_of(label_steps(actors_of(actors), window, progress=progress)) == labels


@given(runs_of(*Actor, Actor.POLICY, Actor.POLICY, Actor.HUMAN), PROGRESS, st.integers(1, 12))
def test_progress_only_ever_narrows_the_window(actors: list[int], progress: list[float], window: int) -> None:
    given_actors = np.array(actors, dtype=np.int64)
    whole = label_steps(given_actors, window)
    labels = label_steps(given_actors, window, progress=progress[: len(actors)])
    undesirable = labels == Label.UNDESIRABLE
    # Hence policy steps only, never across a human segment or a demonstration, and no other label changes.
    assert (whole[undesirable] == Label.UNDESIRABLE).all()
    np.testing.assert_array_equal(labels[whole != Label.UNDESIRABLE], whole[whole != Label.UNDESIRABLE])
    for steps in policy_segments(given_actors):
        marked = undesirable[steps]
        assert marked[-1]  # at least one, and without a gap up to the onset
        assert (np.diff(marked.astype(int)) >= 0).all()


@given(runs_of(Actor.POLICY, Actor.POLICY, Actor.HUMAN, Actor.HOLD), PROGRESS, st.sampled_from([2.0**-5, 4.0, 1024.0]))
def test_the_unit_of_progress_does_not_matter(actors: list[int], progress: list[float], unit: float) -> None:
    given_actors, values = np.array(actors, dtype=np.int64), np.array(progress[: len(actors)])
    labels = label_steps(given_actors, 60, progress=values)
    np.testing.assert_array_equal(label_steps(given_actors, 60, progress=unit * values), labels)


@pytest.mark.parametrize("progress", [[0.0, 1.0], [0.0, float("nan"), 1.0], [[0.0, 1.0, 2.0]]])
def test_progress_that_is_none(progress: Any) -> None:
    with pytest.raises(RoboprefError, match="progress"):
        label_steps(actors_of("PPH"), 3, progress=progress)


def test_the_rule_reads_the_recorded_reward() -> None:
    recorded = replace(episode(actors_of("PPPPHP")), reward=np.array([0.0, 3, 2, 1, 5, 9]))
    assert letters_of(LabelingRule(window=60, failure_point="progress").apply(recorded)) == "PPuuHP"
    assert letters_of(LabelingRule(window=1, failure_point="progress").apply(recorded)) == "PPPuHP"
    check_progress([episode(actors_of("PPH")), recorded])
    with pytest.raises(RoboprefError, match="failure_point"):
        LabelingRule(failure_point="reward")  # type: ignore[arg-type]


def test_rewards_that_say_nothing_of_progress() -> None:
    sparse = replace(episode(actors_of("PPPHHPP")), reward=np.array([-1.0, -1, -1, -1, -1, -1, 0]))
    with pytest.raises(RoboprefError, match=r"any of the 2 takeovers.*--failure-point fixed"):
        check_progress([sparse, sparse])
    check_progress([episode(actors_of("EEE"))])  # no takeover: nothing to tell


def test_a_stored_window_is_no_cap(tmp_path: Path) -> None:
    def stored(rule: dict[str, Any], **given: Any) -> LabelingRule:
        (tmp_path / "labels.json").write_text(json.dumps({"rule": rule}))
        return stored_rule([tmp_path], **given)

    old = {"window": 3, "include_policy_steps": "autonomous_success"}  # written before there was a choice
    assert stored(old, failure_point=None) == LabelingRule(3, "autonomous_success")
    assert stored(old, failure_point="progress") == LabelingRule(60, "autonomous_success", failure_point="progress")
    assert stored(old, failure_point="progress", window=7).window == 7
    assert stored({**old, "failure_point": "progress"}, failure_point="fixed").window == 10
    assert stored({**old, "failure_point": "progress"}, failure_point="progress").window == 3
    assert stored_rule([tmp_path / "none"], failure_point="progress").window == 60
    assert stored_rule([tmp_path / "none"]) == LabelingRule()


# --- which policy steps may be learned from


@pytest.mark.parametrize(
    ("actors", "outcome", "credited"),
    [
        ("PP-P", Outcome.SUCCESS, "11.1"),  # takeover-free: whole, but for the holds
        ("PPHHPP", Outcome.SUCCESS, "....11"),  # after the last hand-back
        ("PHPPHPP", Outcome.SUCCESS, ".....11"),
        ("PPHH", Outcome.SUCCESS, "...."),  # a rescue is never the policy's success
        ("PPPP", Outcome.FAILURE, "...."),
        ("PPPP", Outcome.ABORTED, "...."),
        ("EEEE", Outcome.SUCCESS, "...."),
        ("PP", "success", "11"),  # as read from a file
        ("PP", "failure", ".."),
    ],
)
def test_what_the_policy_may_be_credited_with(actors: str, outcome: Outcome, credited: str) -> None:
    mask = autonomous_success_mask(actors_of(actors), outcome)
    assert "".join("1" if m else "." for m in mask) == credited


@given(ACTORS.filter(len), st.sampled_from(list(Outcome)), WINDOWS)
def test_credited_steps_are_policy_steps_and_never_undesirable(
    actors: list[int], outcome: Outcome, window: int
) -> None:
    recorded = episode(actors, outcome=outcome)
    plain = LabelingRule(window=window).apply(recorded)
    rich = LabelingRule(window=window, include_policy_steps="autonomous_success").apply(recorded)
    credited = autonomous_success_mask(recorded.actor, outcome)
    assert (plain[credited] == Label.POLICY).all()
    assert (rich[credited] == Label.EXPERT).all()
    np.testing.assert_array_equal(rich[~credited], plain[~credited])
    assert outcome is Outcome.SUCCESS or not credited.any()


def test_policy_steps_are_left_out_unless_asked_for() -> None:
    recorded = episode(actors_of("PPPHPP"))
    assert letters_of(LabelingRule(window=1).apply(recorded)) == "PPuHPP"
    assert letters_of(LabelingRule(window=1, include_policy_steps="autonomous_success").apply(recorded)) == "PPuHEE"


def test_an_unknown_choice_of_policy_steps() -> None:
    with pytest.raises(RoboprefError, match="'all'"):
        LabelingRule(include_policy_steps="all")  # type: ignore[arg-type]


# --- no-ops


def test_still_steps_are_no_ops_unless_the_gripper_is_told_something_new() -> None:
    #                  kept: first   no-op      moves       no-op      closes      no-op      opens
    motion = np.array([[0, 0, 1.0], [0, 0, 1], [0.2, 0, 1], [0, 0, 1], [0, 0, -1], [0, 0, -1], [0, 0, 1]])
    assert noop_mask(motion).tolist() == [False, True, False, True, False, True, False]
    assert noop_mask(np.roll(motion, 1, axis=1), gripper_index=0).tolist() == noop_mask(motion).tolist()
    assert noop_mask(motion, tolerance=0.2).tolist() == [False, True, True, True, False, True, False]


@given(st.lists(st.tuples(st.sampled_from([0.0, 1e-4, 0.5, float("nan")]), st.sampled_from([-1.0, 1.0])), max_size=30))
def test_every_change_of_the_gripper_survives_the_filter(steps: list[tuple[float, float]]) -> None:
    actions = np.array(steps, dtype=np.float64).reshape(-1, 2)
    kept = actions[~noop_mask(actions)]

    def runs(commands: np.ndarray) -> list[float]:
        return [c for i, c in enumerate(commands.tolist()) if i == 0 or c != commands[i - 1]]

    assert runs(kept[:, 1]) == runs(actions[:, 1])
    moving = ~(np.abs(actions[:, 0]) <= 1e-3)
    assert not noop_mask(actions)[moving].any()  # nor is an action that is not a number taken for rest


def test_the_window_counts_recorded_steps_before_no_ops_are_dropped() -> None:
    recorded = episode(actors_of("PPPPHH"))
    action = recorded.action.copy()
    action[[2, 5]] = [0, 0, 0, action[2, 3]]  # a stalled policy step inside the window and an idle human step
    action[[1, 3, 4], 3] = action[2, 3]
    action[5, 3] = action[4, 3]
    still = replace(recorded, action=action)
    assert letters_of(LabelingRule(window=2).apply(still)) == "PPuuHH"
    # Counted on what is left after the filter, the window would hold step 1 as well.
    assert letters_of(LabelingRule(window=2, noop_tolerance=1e-3).apply(still)) == "PP-uH-"


@pytest.mark.parametrize("tolerance", [-0.1, float("nan")])
def test_tolerances_that_are_none(tolerance: float) -> None:
    with pytest.raises(RoboprefError, match="noop_tolerance"):
        LabelingRule(noop_tolerance=tolerance)


def test_actions_without_a_gripper_dimension() -> None:
    with pytest.raises(RoboprefError, match=r"\[T, A\]"):
        noop_mask(np.zeros(4))
    with pytest.raises(RoboprefError, match="dimension"):
        noop_mask(np.zeros((4, 2)), gripper_index=2)
