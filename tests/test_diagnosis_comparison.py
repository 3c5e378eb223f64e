"""Two diagnoses whose directions, episodes and norms are known by construction."""

from dataclasses import replace

import numpy as np
import pytest
from test_diagnosis_results import diagnosis

from robopref.diagnosis import compare, norm_moments, principal_directions
from robopref.diagnosis.results import load_comparison, save_comparison
from robopref.diagnosis.subspace import episode_grams, leading_subspace
from robopref.errors import RoboprefError
from robopref.evaluation.statistics import Estimate

SHAPE = (2, 8, 10)
D = 160


def made(direction, seed=0, noise=0.05, episodes=6, scale=1.0, second=None, name="m.zip"):
    """A diagnosis whose gradients lie along ``direction`` [D], some along ``second``, and a little anywhere."""
    rng = np.random.default_rng(seed)

    def subspace(rng):
        strength = scale * (1 + 0.3 * rng.normal(size=(episodes * 20, 1)))
        rows = strength * direction + noise * rng.normal(size=(episodes * 20, D)) / np.sqrt(D)
        if second is not None:
            rows += 0.5 * rng.normal(size=(episodes * 20, 1)) * second
        found = principal_directions(rows, 2, further=6)
        return found, leading_subspace(
            found, *episode_grams([rows], np.repeat(np.arange(episodes), 20), episodes, found.directions)
        )

    found, clean = subspace(rng)
    _, null = subspace(rng)
    example = diagnosis()
    norms = [scale * (1 + 0.1 * rng.random(30)) for _ in range(episodes)]
    return replace(
        example,
        statements=(),
        settings={"temperature": 1.0, "jitter": 0.0},
        subject=replace(example.subject, policy=name, shape=SHAPE),
        directions=replace(example.directions, directions=found.directions[:2].reshape(2, *SHAPE).astype(np.float32)),
        instability=replace(example.instability, moments=np.stack([norm_moments(n) for n in norms])),
        subspace=clean,
        null_subspace=null,
    )


def unit(*pixels):
    direction = np.zeros(D)
    direction[list(pixels)] = 1
    return direction / np.linalg.norm(direction)


def turned(degrees):
    return np.cos(np.radians(degrees)) * unit(0, 5) + np.sin(np.radians(degrees)) * unit(3, 9)


@pytest.mark.parametrize("degrees", [0, 30, 90])
def test_the_angle_is_the_one_between_the_directions(degrees):
    found = compare(made(unit(0, 5)), made(turned(degrees), seed=1))
    assert found.angle.value == pytest.approx(degrees, abs=1.5)
    assert found.angle.low <= found.angle.value <= found.angle.high
    assert all(own.value < 2 for own in found.own_angles)
    assert found.angle.n == 6


def test_a_direction_has_no_sign():
    assert compare(made(unit(0, 5)), made(-unit(0, 5), seed=1)).angle.value < 2


def test_principal_angles_are_between_the_planes():
    first = made(unit(0), second=unit(1))
    same_plane = made(unit(1), second=unit(0), seed=1)
    found = compare(first, same_plane, k=2)
    assert found.angle.value > 80  # the first directions are at right angles
    assert max(a.value for a in found.principal_angles) < 5  # but the planes are the same
    third = compare(first, made(unit(0), second=unit(7), seed=1), k=2).principal_angles
    assert third[0].value < 5
    assert third[1].value > 80


def test_common_regions_by_hand():
    # pixels of a channel are 80: energy of both channels is added up; the top 5 % are 4 pixels
    ours = made(unit(0, 1, 2, 3), noise=0)
    half = compare(ours, made(unit(2, 3, 4, 5), seed=1, noise=0), top_share=0.05).overlap
    assert half.common.value == pytest.approx(2 / 6)
    assert half.bhattacharyya.value == pytest.approx(0.5, abs=1e-6)
    assert half.common_by_chance == pytest.approx(0.05 / 1.95)
    other_channel = compare(ours, made(unit(80, 81, 82, 83), seed=1, noise=0)).overlap
    assert other_channel.common.value == 1  # the same pixels in the other frame
    apart = compare(ours, made(unit(70, 71, 72, 73), seed=1, noise=0)).overlap
    assert apart.common.value == 0
    assert apart.bhattacharyya.value == pytest.approx(0, abs=1e-6)


def test_ratios_are_of_the_second_to_the_first():
    found = compare(made(unit(0)), made(unit(0), seed=1, scale=3.0))
    assert found.ratios["mean"].value == pytest.approx(3, rel=0.05)
    assert found.ratios["variance"].value == pytest.approx(9, rel=0.3)
    assert found.ratios["variation"].value == pytest.approx(1, rel=0.2)
    assert found.ratios["mean"].low < 3 < found.ratios["mean"].high
    assert found.ratios["variance"].low > 1
    still = made(unit(0))
    still = replace(still, instability=replace(still.instability, moments=np.stack([norm_moments(np.ones(20))] * 3)))
    assert compare(still, made(unit(0))).ratios["oscillation"] is None  # over zero


def test_quotients_in_common_are_set_side_by_side():
    first, second = made(unit(0)), made(unit(0), seed=1)
    null, attack = first.conditions
    rng = np.random.default_rng(0)

    def with_quotient(condition, value):
        return replace(condition, quotient=Estimate(value, 0, 1, 6), resamples=value + 0.01 * rng.normal(size=300))

    first = replace(first, conditions=(with_quotient(null, 0.9), with_quotient(attack, 0.6)))
    second = replace(
        second,
        conditions=(with_quotient(null, 0.8), with_quotient(replace(attack, detail="other settings"), 0.1)),
    )
    table = compare(first, second).quotients
    assert list(table) == ["null"]  # the attacks are not the same
    ours, theirs, difference = table["null"]
    assert (ours.value, theirs.value) == (0.9, 0.8)
    assert difference.value == pytest.approx(-0.1)
    # independent: the variances add up
    assert (difference.high - difference.low) / 3.92 == pytest.approx(0.01 * np.sqrt(2), rel=0.2)
    undefined = replace(first, conditions=(replace(null, quotient=None, resamples=np.zeros(0)),))
    assert compare(undefined, second).quotients["null"][2] is None


def test_it_is_kept_and_read_again(tmp_path):
    found = compare(made(unit(0)), made(unit(1), seed=1), ("plain", "certified"))
    save_comparison(tmp_path, found)
    loaded = load_comparison(tmp_path)
    assert (loaded.angle, loaded.names, loaded.overlap) == (found.angle, found.names, found.overlap)
    assert compare(made(unit(0)), made(unit(1), seed=1), ("plain", "certified")).angle == found.angle


def test_what_differs_besides_the_policies_is_said():
    first, second = made(unit(0)), made(unit(0), seed=1)
    assert not compare(first, second).statements
    second = replace(
        second,
        settings=second.settings | {"temperature": 2.0},
        subject=replace(second.subject, environment={"frame_skip": 3}),
        statements=("UNTRAINED: ...",),
        null_subspace=None,
    )
    found = compare(first, second, ("a", "b"))
    said = " ".join(found.statements)
    assert found.statements[0] == "b: UNTRAINED: ..."
    for part in ("different temperatures (1.0 and 2.0)", "different environments", "b has no null control"):
        assert part in said
    assert found.own_angles[1] is None
    assert found.own_overlaps[1] is None


def test_what_cannot_be_compared_is_refused():
    first = made(unit(0))
    other_shape = replace(first, subject=replace(first.subject, shape=(2, 10, 8)))
    with pytest.raises(RoboprefError, match=r"A sees states \[2, 8, 10\] and B \[2, 10, 8\]"):
        compare(first, other_shape)
    vanished = replace(first, directions=replace(first.directions, vanished=True))
    with pytest.raises(RoboprefError, match=r"all directions of B vanish at T = 1\.0"):
        compare(first, vanished)
    with pytest.raises(RoboprefError, match="k runs from 1 to 8"):
        compare(first, first, k=9)
    with pytest.raises(RoboprefError, match="share of sensitive pixels"):
        compare(first, first, top_share=1.0)
