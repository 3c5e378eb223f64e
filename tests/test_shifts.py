import io
from dataclasses import replace

import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import FrameStackObservation
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from scipy import ndimage

from robopref.diagnosis.shift_wrappers import ShiftObservation, ShiftVectorObservation
from robopref.diagnosis.shifts import SHIFTS, make_shift, parse_shift
from robopref.envs.ale import AtariSpec, make_atari, make_atari_vector
from robopref.errors import RoboprefError

frames = st.one_of(
    st.tuples(st.integers(1, 3), st.integers(8, 24), st.integers(8, 24)),
    st.tuples(st.integers(1, 3), st.integers(8, 24), st.integers(8, 24), st.sampled_from([1, 3])),
).flatmap(lambda shape: hnp.arrays(np.uint8, shape))

NO_STRENGTH = [
    ("brightness_contrast", {"contrast": 1, "brightness": 0}),
    ("gaussian_blur", {"sigma": 0}),
    ("median_blur", {"size": 1}),
    ("rotation", {"degrees": 0}),
    ("perspective", {"pixels": 0}),
    ("translation", {"dx": 0, "dy": 0}),
]


def smooth_frame(height=40, width=50):
    y, x = np.mgrid[:height, :width]
    return (120 + 60 * np.sin(x / 7) + 50 * np.cos(y / 9)).round().astype(np.uint8)


def sampled(frame, points):
    """Bilinear samples of the frame [H, W] at points (x, y) [H, W, 2], its border repeated."""
    return ndimage.map_coordinates(frame.astype(float), [points[..., 1], points[..., 0]], order=1, mode="nearest")


def pixels(frame):
    height, width = frame.shape
    return np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(float)


@pytest.mark.parametrize("name", SHIFTS)
@given(batch=frames)
def test_a_shift_is_a_pure_function_of_each_frame(name, batch):
    shift, before = SHIFTS[name], batch.copy()
    shifted = shift(batch)
    assert shifted.shape == batch.shape
    assert shifted.dtype == np.uint8
    np.testing.assert_array_equal(batch, before)
    np.testing.assert_array_equal(shift(batch), shifted)
    for alone, together in zip(batch, shifted, strict=True):
        np.testing.assert_array_equal(shift(alone[None])[0], together)


@pytest.mark.parametrize(("name", "settings"), NO_STRENGTH)
@given(batch=frames)
def test_without_strength_nothing_changes(name, settings, batch):
    np.testing.assert_array_equal(make_shift(name, **settings)(batch), batch)


@pytest.mark.parametrize("name", SHIFTS)
def test_at_the_default_strength_a_game_frame_changes_a_little(name):
    env = make_atari_vector(AtariSpec("pong", frame_stack=1, noop_max=0), 1)
    env.reset(seed=0)
    for _ in range(40):
        observation = env.step(np.array([2]))[0]
    change = np.abs(SHIFTS[name](observation[:, 0]).astype(int) - observation[:, 0])
    assert 0 < change.mean() < 26  # under a tenth of the range on average


@given(frames, st.floats(0, 3), st.floats(-100, 100))
def test_brightness_and_contrast_by_the_formula(batch, contrast, brightness):
    expected = np.clip(np.rint(contrast * batch.astype(float) + brightness), 0, 255)
    shift = make_shift("brightness_contrast", contrast=contrast, brightness=brightness)
    np.testing.assert_array_equal(shift(batch), expected)


@given(hnp.arrays(np.uint8, (2, 15, 17)), st.floats(0.3, 2))
def test_gaussian_blur_is_a_convolution(batch, sigma):
    radius = int(np.ceil(3 * sigma))
    kernel = np.exp(-(np.arange(-radius, radius + 1) ** 2) / (2 * sigma**2))
    kernel /= kernel.sum()
    expected = batch.astype(float)
    for axis in (1, 2):
        expected = ndimage.convolve1d(expected, kernel, axis=axis, mode="mirror")
    np.testing.assert_allclose(make_shift("gaussian_blur", sigma=sigma)(batch), expected, atol=2)


@given(hnp.arrays(np.uint8, (2, 12, 10)), st.sampled_from([3, 5]))
def test_median_blur_is_the_median(batch, size):
    expected = ndimage.median_filter(batch, size=(1, size, size), mode="nearest")
    np.testing.assert_array_equal(make_shift("median_blur", size=size)(batch), expected)


@given(hnp.arrays(np.uint8, (2, 12, 10)), st.integers(-4, 4), st.integers(-4, 4))
def test_translation_is_a_roll_with_the_border_repeated(batch, dx, dy):
    pad = np.pad(batch, ((0, 0), (4, 4), (4, 4)), mode="edge")
    expected = np.roll(pad, (dy, dx), axis=(1, 2))[:, 4:-4, 4:-4]
    np.testing.assert_array_equal(make_shift("translation", dx=dx, dy=dy)(batch), expected)


@pytest.mark.parametrize("degrees", [-7, 2, 30])
def test_rotation_turns_counter_clockwise_about_the_centre(degrees):
    frame = smooth_frame()
    centre = (np.array(frame.shape[::-1]) - 1) / 2
    angle = np.deg2rad(degrees)
    # Output pixel p shows the input at R(-angle)(p - centre) + centre, written with y pointing down.
    back = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    expected = sampled(frame, (pixels(frame) - centre) @ back.T + centre)
    np.testing.assert_allclose(make_shift("rotation", degrees=degrees)(frame[None])[0], expected, atol=2)


def test_a_quarter_turn_is_exact():
    frame = np.random.default_rng(0).integers(0, 256, (21, 21), dtype=np.uint8)
    np.testing.assert_array_equal(make_shift("rotation", degrees=90)(frame[None])[0], np.rot90(frame))


@pytest.mark.parametrize("inwards", [-3, 2, 8])
def test_perspective_moves_the_upper_corners(inwards):
    frame = smooth_frame()
    right, bottom = frame.shape[1] - 1, frame.shape[0] - 1
    corners = [(0, 0), (right, 0), (right, bottom), (0, bottom)]
    moved = [(inwards, 0), (right - inwards, 0), (right, bottom), (0, bottom)]
    # The homography from output to input, as the eight linear equations of its four point pairs.
    rows, values = [], []
    for (x, y), (u, v) in zip(moved, corners, strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
        values += [u, v]
    matrix = np.append(np.linalg.solve(np.array(rows, float), np.array(values, float)), 1).reshape(3, 3)
    source = np.concatenate([pixels(frame), np.ones((*frame.shape, 1))], -1) @ matrix.T
    expected = sampled(frame, source[..., :2] / source[..., 2:])
    np.testing.assert_allclose(make_shift("perspective", pixels=inwards)(frame[None])[0], expected, atol=2)


@pytest.mark.parametrize("quality", [30, 75])
@pytest.mark.parametrize("colour", [False, True])
def test_jpeg_agrees_with_another_codec(quality, colour):
    frame = smooth_frame()
    if colour:
        frame = np.stack([frame, frame[::-1], 255 - frame], -1)
    buffer = io.BytesIO()
    Image.fromarray(frame).save(buffer, "JPEG", quality=quality)
    expected = np.asarray(Image.open(buffer)).astype(int)
    ours = make_shift("jpeg", quality=quality)(frame[None])[0]
    assert np.abs(ours - expected).mean() < 1


def test_jpeg_at_full_quality_leaves_rounding_only():
    noise = np.random.default_rng(0).integers(0, 256, (2, 32, 32), dtype=np.uint8)
    np.testing.assert_allclose(make_shift("jpeg", quality=100)(noise).astype(int), noise, atol=2)
    coarse = make_shift("jpeg", quality=20)(noise)
    assert np.abs(coarse.astype(int) - noise).mean() > 5


@pytest.mark.parametrize("shift", SHIFTS.values(), ids=SHIFTS)
def test_the_text_of_a_shift_reads_back(shift):
    assert parse_shift(str(shift)) == shift
    assert parse_shift(shift.name) == shift


def test_settings_may_be_given():
    assert parse_shift("translation: dx=2, dy=-1") == make_shift("translation", dx=2, dy=-1)
    assert str(make_shift("rotation", degrees=2)) == "rotation:degrees=2.0"
    assert replace(SHIFTS["jpeg"], quality=30) == parse_shift("jpeg:quality=30")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("wobble", "no shift is called 'wobble'; there are brightness_contrast"),
        ("rotation:angle=2", "no setting 'angle'; it has degrees"),
        ("rotation:2", "name=value"),
        ("rotation:degrees=much", "must be a number"),
        ("rotation:degrees=nan", "finite"),
        ("median_blur:size=2.5", "whole"),
        ("median_blur:size=4", "odd"),
        ("gaussian_blur:sigma=-1", "negative"),
        ("jpeg:quality=0", "between 1 and 100"),
    ],
)
def test_bad_shifts_are_refused(text, message):
    with pytest.raises(RoboprefError, match=message):
        parse_shift(text)


def test_bad_frames_are_refused():
    with pytest.raises(RoboprefError, match="uint8"):
        SHIFTS["rotation"](np.zeros((1, 8, 8)))
    with pytest.raises(RoboprefError, match=r"\[N, H, W\]"):
        SHIFTS["rotation"](np.zeros((2, 4, 84, 84), np.uint8))  # stacked, channels first
    with pytest.raises(RoboprefError, match="cross"):
        make_shift("perspective", pixels=10)(np.zeros((1, 8, 8), np.uint8))


@pytest.mark.parametrize("grayscale", [True, False])
def test_a_stack_is_the_stack_of_shifted_frames(grayscale):
    spec = AtariSpec("freeway", noop_max=0, grayscale=grayscale)
    shift = make_shift("rotation", degrees=3)
    bare, plain = make_atari(replace(spec, frame_stack=1)), make_atari(spec)
    env = FrameStackObservation(ShiftObservation(bare, shift), 4, padding_type="zero")
    shifted, (clean, _) = env.reset(seed=0)[0], plain.reset(seed=0)
    np.testing.assert_array_equal(shifted, shift(clean))  # black padding stays black under a rotation
    for action in [1, 1, 0, 2, 1, 1]:
        shifted, clean = env.step(action)[0], plain.step(action)[0]
        np.testing.assert_array_equal(shifted, shift(clean))
        assert (shifted != clean).any()


@pytest.mark.parametrize("grayscale", [True, False])
def test_many_games_are_shifted_then_stacked_across_resets(grayscale):
    spec = AtariSpec("pong", max_episode_steps=6, grayscale=grayscale)
    shift = make_shift("brightness_contrast", contrast=1, brightness=20)
    env = ShiftVectorObservation(make_atari_vector(replace(spec, frame_stack=1), 2), shift, frame_stack=3)
    plain = make_atari_vector(replace(spec, frame_stack=3), 2)

    def expected(states):
        # The games are never black, so black frames are padding, and padding is no frame to brighten.
        is_frame = states.any(axis=tuple(range(2, states.ndim)))
        return np.where(
            is_frame.reshape(*is_frame.shape, *[1] * (states.ndim - 2)), np.clip(states.astype(int) + 20, 0, 255), 0
        )

    shifted, clean = env.reset(seed=4)[0], plain.reset(seed=4)[0]
    assert shifted.shape == clean.shape == env.observation_space.shape
    np.testing.assert_array_equal(shifted, expected(clean))
    for action in np.random.default_rng(0).integers(6, size=(16, 2)):  # over two ends and resets
        shifted, clean = env.step(action)[0], plain.step(action)[0]
        np.testing.assert_array_equal(shifted, expected(clean))
    mask = {"reset_mask": np.array([False, True])}
    shifted, clean = env.reset(seed=np.array([8]), options=mask)[0], plain.reset(seed=np.array([8]), options=mask)[0]
    np.testing.assert_array_equal(shifted, expected(clean))


def test_stacked_frames_are_not_shifted():
    with pytest.raises(RoboprefError, match="wrap before stacking"):
        ShiftObservation(make_atari(AtariSpec("pong")), SHIFTS["rotation"])
    with pytest.raises(RoboprefError, match="frame_stack of the environment to 1"):
        ShiftVectorObservation(make_atari_vector(AtariSpec("pong"), 1), SHIFTS["rotation"])
    same_step = make_atari_vector(AtariSpec("pong", frame_stack=1), 1, autoreset=AutoresetMode.SAME_STEP)
    with pytest.raises(RoboprefError, match="NEXT_STEP"):
        ShiftVectorObservation(same_step, SHIFTS["rotation"])
