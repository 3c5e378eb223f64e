"""The whole diagnosis on real games, small: every number held against one worked out directly from the episodes."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from robopref.diagnosis import (
    GameSource,
    Plan,
    Subject,
    collect_episodes,
    diagnose,
    feature_correlation_quotient,
    load_diagnosis,
    make_shift,
    principal_directions,
    state_gradients,
)
from robopref.diagnosis.collection import stack_frames
from robopref.diagnosis.pipeline import DiagnosisStopped
from robopref.diagnosis.selection import select_states
from robopref.envs.ale import AtariSpec, make_atari_vector
from robopref.errors import RoboprefError

PONG = AtariSpec("pong", frame_stack=1, max_episode_steps=70)
SMALL = Plan(
    episodes=3, random_episodes=3, max_states=60, attack_states=20, attack_episodes=2, attack_steps=15,
    n_resamples=200, rank=8, peak_separation=10, epsilon=0.1,
)  # fmt: skip
ROTATION = make_shift("rotation", degrees=4)


class Network(nn.Module):
    def __init__(self, seed=0, scale=1.0, n_actions=6):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(
            nn.Conv2d(4, 8, 8, 8), nn.Tanh(), nn.Flatten(), nn.Linear(800, 32), nn.Tanh(), nn.Linear(32, n_actions)
        )
        self.scale = scale

    def q_values(self, pixels):
        return self.scale * self.layers(pixels)


class CountingSource(GameSource):
    """Plays, and keeps what it was asked for."""

    def __init__(self):
        super().__init__(lambda: make_atari_vector(PONG, 3, threads=1), 4)
        self.asked = []

    def play(self, q_policy, **settings):
        self.asked.append((settings["seed"], str(settings.get("shift") or ""), settings.get("attack") is not None))
        return super().play(q_policy, **settings)


def darken(pixels):
    return pixels * 0.8


def run(plan=SMALL, policy=None, source=None, **settings):
    settings = {"shifts": {"rotation": ROTATION}, "attacks": {"darken": darken}} | settings
    return diagnose(policy or Network(), source or CountingSource(), None, plan, **settings)


@pytest.fixture(scope="module")
def found():
    return run()


def traces(seed, shift=None, **settings):
    env = make_atari_vector(PONG, 3, threads=1)
    return collect_episodes(
        Network(), env, episodes=3, seed=seed, frame_stack=4, epsilon=0.1, shift=shift, **settings
    )  # fmt: skip


def chosen_states(episodes, max_states=60):
    selection = select_states([len(t) for t in episodes], max_states)
    return np.concatenate([t.states(s) for t, s in zip(episodes, selection.steps, strict=True)])


def test_the_selection_is_even_and_keeps_its_cap():
    selection = select_states([10, 3, 7], 7)
    np.testing.assert_array_equal(np.concatenate(selection.steps), [0, 3, 6, 9, 2, 2, 5])  # every third of the twenty
    np.testing.assert_array_equal(selection.episode_of, [0, 0, 0, 0, 1, 2, 2])
    assert [len(s) for s in select_states([10, 3, 7], 0).steps] == [10, 3, 7]
    assert [len(s) for s in select_states([10, 3, 7], 100).steps] == [10, 3, 7]


def test_directions_and_quotients_are_those_of_the_episodes(found):
    clean = traces(SMALL.clean_seed)
    base = state_gradients(Network(), chosen_states(clean))
    expected = principal_directions(base, 2)
    direction = found.directions.directions[0].ravel()
    assert abs(direction @ expected.directions[0]) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(found.directions.eigenvalues[:2], expected.eigenvalues, rtol=1e-3)
    assert found.directions.trace == pytest.approx(expected.trace)
    assert (found.directions.n_states, found.directions.n_zero) == (len(base), 0)
    assert found.directions.eigengap.value == pytest.approx(expected.eigengap, rel=1e-3)
    null, rotation, attack = found.conditions
    assert [c.kind for c in found.conditions] == ["null", "shift", "attack"]
    for condition, states in (
        (null, chosen_states(traces(SMALL.null_seed))),
        (rotation, chosen_states(traces(SMALL.clean_seed, ROTATION))),
        (attack, 0.8 * chosen_states(clean, 20) / np.float32(255)),
    ):
        quotient = feature_correlation_quotient(state_gradients(Network(), states), expected.directions[0])
        assert condition.quotient.value == pytest.approx(quotient, abs=1e-3)
        assert condition.quotient.low <= condition.quotient.value <= condition.quotient.high
        assert condition.n_states == len(states)
    assert rotation.below_null.value == pytest.approx(null.quotient.value - rotation.quotient.value)
    assert null.below_null is None


def test_flips_are_of_the_same_clean_states(found):
    clean = traces(SMALL.clean_seed)
    selection = select_states([len(t) for t in clean], 60)
    flipped = 0
    with torch.no_grad():
        for trace, steps in zip(clean, selection.steps, strict=True):
            shifted = stack_frames(ROTATION(trace.frames), 4)[steps]
            actions = [
                Network().q_values(torch.tensor(s / np.float32(255))).argmax(1) for s in (trace.states(steps), shifted)
            ]
            flipped += int((actions[0] != actions[1]).sum())
    rotation = found.conditions[1]
    assert rotation.flips.value == pytest.approx(flipped / len(selection))
    assert found.conditions[0].flips is None


def test_scores_are_paired_with_the_clean_ones(found):
    clean, shifted = traces(SMALL.clean_seed), traces(SMALL.clean_seed, ROTATION)
    assert [t.seed for t in clean] == [t.seed for t in shifted] == [e.seed for e in found.instability.episodes]
    rotation, attack = found.conditions[1:]
    np.testing.assert_array_equal(rotation.scores, [t.score for t in shifted])
    assert rotation.score_difference.value == pytest.approx(
        np.mean([b.score - a.score for a, b in zip(clean, shifted, strict=True)])
    )
    assert (attack.score_steps, len(attack.scores)) == (15, 2)
    attacked = traces(SMALL.clean_seed, attack=darken, max_steps=15)[:2]
    np.testing.assert_array_equal(attack.scores, [t.score for t in attacked])
    assert attack.score_difference.value == pytest.approx(
        np.mean([b.score - a.rewards[:15].sum() for a, b in zip(clean, attacked, strict=False)])
    )


def test_norms_are_of_every_step(found):
    clean = traces(SMALL.clean_seed)
    for trace, episode in zip(clean, found.instability.episodes, strict=True):
        norms = np.linalg.norm(state_gradients(Network(), trace.states()), axis=1)
        np.testing.assert_allclose(episode.norms, norms, rtol=1e-4)
        assert (episode.length, episode.score, episode.finished) == (len(trace), trace.score, trace.finished)
    pooled = np.concatenate([e.norms for e in found.instability.episodes])
    assert found.instability.mean.value == pytest.approx(pooled.mean())
    assert found.instability.variance.value == pytest.approx(pooled.var())
    peak = found.instability.peaks[0]
    assert peak.norm == pooled.max()
    np.testing.assert_array_equal(peak.state, clean[peak.episode].states([peak.step])[0])
    assert np.linalg.norm(peak.gradient) == pytest.approx(peak.norm, rel=1e-4)


def test_gaps_distances_and_the_attacks_distortion(found):
    clean = traces(SMALL.clean_seed)
    ordered = np.sort(np.concatenate([t.q_values for t in clean]), axis=1)
    np.testing.assert_allclose(found.decisions.gaps, ordered[:, -1] - ordered[:, -2], atol=1e-7)
    scale = np.median(ordered[:, -1] - ordered[:, 0])
    assert found.decisions.scale == pytest.approx(scale)
    assert found.decisions.near_ties.value == pytest.approx((found.decisions.gaps < 0.05 * scale).mean())
    assert len(found.decisions.distances) == found.directions.n_states
    states = chosen_states(clean, 20) / 255
    added = 0.2 * states.reshape(len(states), -1)
    distortion = found.conditions[2].distortion
    assert distortion.l2.value == pytest.approx(np.linalg.norm(added, axis=1).mean(), rel=1e-4)
    assert distortion.linf.value == pytest.approx(added.max(1).mean(), rel=1e-4)
    assert distortion.l1.value == pytest.approx(added.sum(1).mean(), rel=1e-4)
    # episode by episode, and what the interval spans is what whole episodes can do
    steps = select_states([len(t) for t in clean], 20).steps
    means = []
    for trace, chosen, sums in zip(clean, steps, distortion.by_episode, strict=True):
        rows = 0.2 * trace.states(chosen).reshape(len(chosen), -1) / 255
        assert sums[0] == len(chosen)
        assert sums[4] == pytest.approx(np.linalg.norm(rows, axis=1).sum(), rel=1e-4)
        means.append(sums[4] / sums[0])
    assert min(means) <= distortion.l2.low < distortion.l2.value < distortion.l2.high <= max(means)
    flips = found.conditions[2].flips_by_episode
    np.testing.assert_array_equal(flips[:, 0], distortion.by_episode[:, 0])
    np.testing.assert_array_equal(flips[:, 1], distortion.by_episode[:, 1])
    assert (distortion.successes.successes, distortion.successes.n) == (flips[:, 1].sum(), 20)


def test_a_set_is_held_against_as_many_states_of_the_independent_episodes(found):
    """Each null worked out from the episodes: 20 states for the attack, 60 for all others."""
    clean, independent = traces(SMALL.clean_seed), traces(SMALL.null_seed)
    direction = principal_directions(state_gradients(Network(), chosen_states(clean)), 2).directions[0]
    null, rotation, attack = found.conditions
    assert (null.null_states, rotation.null_states, attack.null_states) == (None, rotation.n_states, 20)
    total = sum(len(t) for t in independent)
    pooled = np.concatenate([t.states() for t in independent])
    gradients = state_gradients(Network(), pooled[np.arange(20) * total // 20])
    expected = feature_correlation_quotient(gradients, direction)
    assert attack.null_quotient.value == pytest.approx(expected, abs=1e-3)
    assert attack.below_null.value == pytest.approx(expected - attack.quotient.value, abs=2e-3)
    assert null.n_states == rotation.n_states
    assert rotation.null_quotient == null.quotient
    # and the attack against its own states, too
    before = feature_correlation_quotient(state_gradients(Network(), chosen_states(clean, 20)), direction)
    assert attack.clean_quotient.value == pytest.approx(before, abs=1e-3)
    assert attack.below_clean.value == pytest.approx(before - attack.quotient.value, abs=2e-3)
    assert rotation.below_clean is None


def test_shifted_sets_of_another_size_get_a_null_of_that_size():
    class ShortUnderShift(CountingSource):
        def play(self, q_policy, **settings):
            if settings.get("shift"):
                settings["max_steps"] = 9
            return super().play(q_policy, **settings)

    shortened = run(replace(SMALL, attack_episodes=0), source=ShortUnderShift(), attacks={})
    null, rotation = shortened.conditions
    assert rotation.n_states == rotation.null_states == 27
    assert null.n_states > 27
    assert rotation.null_quotient != null.quotient


def test_an_attack_that_does_nothing_differs_by_nothing_from_its_states():
    """Resampled with the same episodes on both sides; a null of other episodes would leave an interval."""
    idle = run(replace(SMALL, attack_episodes=0), shifts={}, attacks={"idle": lambda pixels: pixels.clone()})
    attack = idle.conditions[1]
    assert attack.below_clean.value == pytest.approx(0, abs=1e-6)
    paired, apart = (e.high - e.low for e in (attack.below_clean, attack.below_null))
    assert paired < 0.01 * apart
    assert attack.distortion.l2_of_successes is None
    assert attack.distortion.linf.high == 0


class Prefers(Network):
    """Chooses one action in every state."""

    def q_values(self, pixels):
        return super().q_values(pixels) + 50 * torch.eye(6)[2]


def subject(synonyms):
    names = ("NOOP", "FIRE", "RIGHT", "LEFT", "RIGHTFIRE", "LEFTFIRE")
    return Subject("a policy", "1", "CNN", "pong", {}, names, "value", (4, 84, 84), 4, 1, synonyms=synonyms)


def diagnosed(policy, synonyms=()):
    plan = replace(SMALL, attack_episodes=0, temperature=100)
    source = CountingSource()
    return diagnose(policy, source, subject(synonyms), plan, shifts={"rotation": ROTATION}, attacks={"darken": darken})


def test_a_policy_that_always_does_the_same_is_called_that(found):
    constant = diagnosed(Prefers())
    assert constant.decisions.habit.actions == (2,)
    assert constant.decisions.habit.always
    assert constant.decisions.habit.share.n == 3
    statement = next(s for s in constant.statements if s.startswith("ALWAYS RIGHT"))
    assert "never met on the visited states" in statement
    np.testing.assert_array_equal(
        constant.decisions.choices.sum(axis=0), [0, 0, constant.decisions.habit.states, 0, 0, 0]
    )
    clean = traces(SMALL.clean_seed)
    for trace, counts in zip(clean, found.decisions.choices, strict=True):
        np.testing.assert_array_equal(counts, np.bincount(trace.q_values.argmax(1), minlength=6))


class Wavers(Network):
    """Chooses between RIGHT and RIGHTFIRE alone, now this one, now that."""

    def q_values(self, pixels):
        other = torch.sin(3000 * pixels.mean(dim=(1, 2, 3)))
        values = torch.full((len(pixels), 6), -50.0)
        return torch.cat([values[:, :2], 0 * other[:, None], values[:, 3:4], other[:, None], values[:, 5:]], dim=1)


def test_flips_and_ties_among_synonyms_are_counted_apart():
    """With two actions that the policy alternates between declared the same, all of its flips are of that kind."""
    plain, same = diagnosed(Wavers()), diagnosed(Wavers(), synonyms=((2, 4), (0, 1)))
    assert plain.decisions.habit is None
    assert plain.decisions.synonym_ties is plain.conditions[1].synonym_flips is None
    assert same.decisions.habit.actions == (2, 4)
    assert any(s.startswith("ALWAYS RIGHT or RIGHTFIRE") for s in same.statements)
    for ours, theirs in zip(same.conditions[1:], plain.conditions[1:], strict=True):
        assert ours.flips == theirs.flips
        assert ours.synonym_flips.value == ours.flips.value > 0
        np.testing.assert_array_equal(ours.flips_by_episode[:, 2], ours.flips_by_episode[:, 1])
    assert same.decisions.synonym_ties.value == same.decisions.near_ties.value > 0
    other = diagnosed(Wavers(), synonyms=((0, 1),))
    assert other.decisions.habit is None
    assert all(c.synonym_flips.value == 0 for c in other.conditions[1:])
    assert other.decisions.synonym_ties.value == 0


def test_the_typical_state_is_one_of_them(found):
    states = chosen_states(traces(SMALL.clean_seed))
    assert any((found.spatial.typical_state == state).all() for state in states)
    np.testing.assert_array_equal(found.spatial.median_frame, np.median(states[:, -1], axis=0).astype(np.uint8))
    assert found.spatial.power.sum() == pytest.approx(1)
    assert (found.spatial.radial_low <= found.spatial.radial_high).all()


def test_an_untrained_policy_is_called_that_first(found):
    assert found.competence.untrained
    assert found.statements[0].startswith("UNTRAINED")
    assert len(found.competence.random_scores) == 3
    assert any("Only 3 different" in statement for statement in found.statements)


def test_the_same_call_gives_the_same_diagnosis_and_leaves_the_policy_alone(found):
    policy = Network()
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    again = run(policy=policy)
    assert again.conditions[1].quotient == found.conditions[1].quotient
    np.testing.assert_array_equal(again.directions.directions, found.directions.directions)
    assert policy.training
    assert all((before[name] == value).all() and value.grad is None for name, value in policy.state_dict().items())
    other = run(replace(SMALL, seed=1))
    assert other.conditions[1].quotient != found.conditions[1].quotient


def test_streaming_comes_to_the_same(found):
    """Gradients that memory does not hold are taken twice, at the same noise."""
    plan = replace(SMALL, dtype="float64", jitter=0.05)
    exact = run(plan, attacks={})
    streamed = run(replace(plan, memory_limit=32 * 4 * 84 * 84 * 8), attacks={})
    assert (exact.directions.method, streamed.directions.method) == ("exact", "streaming")
    assert abs((streamed.directions.directions[0] * exact.directions.directions[0]).sum()) > 0.999
    np.testing.assert_allclose(streamed.subspace.traces, exact.subspace.traces, rtol=1e-6)
    assert not np.allclose(exact.subspace.traces, found.subspace.traces, rtol=1e-3)  # or there was no noise
    for ours, theirs in zip(exact.conditions, streamed.conditions, strict=True):
        assert ours.quotient.value == pytest.approx(theirs.quotient.value, abs=0.01)
        assert ours.reduction_error < theirs.reduction_error  # what leaks is known only in memory
    with pytest.raises(RoboprefError, match="memory_limit"):
        run(replace(SMALL, memory_limit=1000))


def test_every_set_has_noise_of_its_own_but_those_that_are_paired():
    """Without any chance the episodes of all sets are the same states, so that only the noise can differ."""
    spec = AtariSpec("pong", frame_stack=1, max_episode_steps=12, noop_max=0)
    source = GameSource(lambda: make_atari_vector(spec, 1, threads=1), 4)
    plan = replace(SMALL, epsilon=0.0, jitter=0.2, episodes=1, random_episodes=1, attack_states=6, attack_episodes=0)
    unchanged = {"shifts": {"idle": lambda frames: frames}, "attacks": {"still": lambda pixels: pixels.clone()}}
    found = diagnose(Network(), source, None, plan, **unchanged)
    null, idle, still = found.conditions
    directions = [found.directions.directions[0], null.direction, idle.direction]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(directions[one] - directions[other]).max() > 1e-4
    # an attack is held against the same states unattacked, at the same noise, and against a null that is independent
    assert still.below_clean.value == pytest.approx(0, abs=1e-9)
    assert abs(still.below_null.value) > 1e-6


def test_a_finished_set_is_not_played_again(tmp_path, found):
    source = CountingSource()
    calls = 0

    def stop():
        nonlocal calls
        calls += 1
        return any(shift for _, shift, _ in source.asked)  # as soon as the shifted episodes are under way

    with pytest.raises(DiagnosisStopped):
        run(source=source, out=tmp_path, should_stop=stop)
    assert calls
    assert source.asked == [(0, "", False), (2, "", False), (1, "", False), (0, str(ROTATION), False)]
    assert not (tmp_path / "summary.json").exists()
    source = CountingSource()
    resumed = run(source=source, out=tmp_path)
    assert source.asked == [(0, str(ROTATION), False), (0, "", True)]
    for ours, theirs in zip(resumed.conditions, found.conditions, strict=True):
        assert ours.quotient == theirs.quotient
        assert ours.flips == theirs.flips
        assert ours.score_difference == theirs.score_difference
    source = CountingSource()
    run(source=source, out=tmp_path)
    assert not source.asked
    loaded = load_diagnosis(tmp_path)
    assert loaded.statements == resumed.statements
    np.testing.assert_array_equal(loaded.subspace.grams, resumed.subspace.grams)
    for other in ({"policy": Network(seed=1)}, {"plan": replace(SMALL, temperature=2)}):
        with pytest.raises(RoboprefError, match="another policy or other settings"):
            run(out=tmp_path, **other)
    with pytest.raises(RoboprefError, match="another policy or other settings"):
        run(out=tmp_path, shifts={"rotation": make_shift("rotation", degrees=5)})


def test_when_all_gradients_vanish_it_says_so():
    found = run(policy=Network(scale=3e5), plan=replace(SMALL, temperature=0.01))
    assert found.directions.vanished
    assert found.directions.n_zero == found.directions.n_states
    statement = next(s for s in found.statements if "All directions vanish" in s)
    assert "at T = 0.01 in float32" in statement
    assert "float64" in statement
    assert all(c.quotient is None and c.below_null is None for c in found.conditions)
    assert found.instability.oscillation is None
    assert not found.spatial.power.any()
    assert found.conditions[1].flips is not None  # decisions are there all the same


def test_partly_saturated_policies_are_reported(found):
    half = float(np.median(found.decisions.gaps)) / 104  # exp(-104) is 0 in float32
    partly = run(plan=replace(SMALL, temperature=half), attacks={})
    assert 0 < partly.directions.n_zero < partly.directions.n_states
    assert any("states are saturated at T = " in s for s in partly.statements)


class DeadUnits(Network):
    """Does not react to the pixels: its values are constants, and its softmax far from saturated."""

    def q_values(self, pixels):
        return 0 * super().q_values(pixels) + torch.arange(6.0)


def test_a_network_that_is_constant_is_not_called_saturated():
    found = run(policy=DeadUnits(), attacks={})
    assert found.directions.vanished
    statement = next(s for s in found.statements if "All directions vanish" in s)
    assert "not saturated" in statement
    assert "dead units" in statement


def test_repeated_episodes_count_once():
    # no chance at all: every episode is the same
    env_spec = AtariSpec("pong", frame_stack=1, max_episode_steps=30, noop_max=0)
    source = GameSource(lambda: make_atari_vector(env_spec, 3, threads=1), 4)
    found = diagnose(Network(), source, None, replace(SMALL, epsilon=0.0), notes=["a note"])
    assert len(found.instability.episodes) == 1
    assert any("2 of 3 clean episodes repeat another" in s for s in found.statements)
    assert found.statements[-1] == "a note"
    assert found.null.quotient.value == pytest.approx(1)
    assert any("3 of 3 episodes of the null control repeat" in s for s in found.statements)


def test_without_a_null_control_it_says_so():
    found = run(replace(SMALL, null=False), attacks={})
    assert found.null is None
    assert found.null_subspace is None
    assert found.conditions[0].below_null is None
    assert any("No null control" in s for s in found.statements)


class Broken(Network):
    def q_values(self, pixels):
        return super().q_values(pixels) * torch.nan


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy": Broken()}, "not finite"),
        ({"policy": Network(n_actions=4)}, "values 4 actions and the environment has 6"),
        ({"shifts": {"null": ROTATION}}, "two sets would be called 'null'"),
        ({"attacks": {"rotation": darken}}, "two sets would be called 'rotation'"),
        ({"attacks": {"loud": lambda pixels: pixels + 2}}, r"finite pixels in \[0, 1\]"),
        ({"attacks": {"small": lambda pixels: pixels[:, :2]}}, "keep the shape"),
    ],
)
def test_bad_input_is_refused(settings, message):
    with pytest.raises(RoboprefError, match=message):
        run(replace(SMALL, attack_episodes=0), **settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"episodes": 0}, {"temperature": 0}, {"temperature": np.nan}, {"jitter": -1}, {"epsilon": 2}, {"rank": 2},
        {"dtype": "float16"}, {"confidence": 1}, {"max_steps": 0}, {"memory_limit": 0}, {"n_resamples": 1},
    ],
)  # fmt: skip
def test_a_plan_checks_itself(settings):
    word = {"dtype": "float32 or float64"}.get(*settings, next(iter(settings)).split("_")[0])
    with pytest.raises(RoboprefError, match=word):
        Plan(**settings)
