import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robopref.diagnosis import power_spectrum, radial_profile
from robopref.errors import RoboprefError


def wave(size, per_pixel_rows, per_pixel_columns):
    rows, columns = np.mgrid[:size, :size]
    return np.cos(2 * np.pi * (per_pixel_rows * rows + per_pixel_columns * columns))


def test_a_wave_has_its_power_at_its_frequency():
    power = power_spectrum(wave(40, 0.25, 0.1)[None])
    middle = 20
    found = sorted(map(tuple, np.argwhere(power[0] > 0.1)))
    assert found == [(middle - 10, middle - 4), (middle + 10, middle + 4)]  # .25 and .1 cycles per pixel, and mirrored
    np.testing.assert_allclose([power[0][i] for i in found], 0.5)
    frequencies, profile = radial_profile(power)
    assert frequencies[profile[0].argmax()] == pytest.approx(np.hypot(0.25, 0.1), abs=0.5 / 40)


@given(st.integers(1, 4), st.integers(2, 12), st.integers(2, 12), st.integers(0, 2**31))
@settings(max_examples=60)
def test_a_channels_power_is_its_energy(channels, height, width, seed):
    direction = np.random.default_rng(seed).normal(size=(channels, height, width))
    power = power_spectrum(direction)
    np.testing.assert_allclose(power.sum(axis=(1, 2)), (direction**2).sum(axis=(1, 2)) / (direction**2).sum())
    frequencies, profile = radial_profile(power)
    assert frequencies[0] == 0
    assert (np.diff(frequencies) > 0).all()
    assert frequencies[-1] <= np.sqrt(0.5) + 0.5 / min(height, width)
    # weighted by the number of frequencies in each ring, the profile has the mean of the spectrum: 1
    rows, columns = (np.fft.fftfreq(n) for n in (height, width))
    rings = np.rint([min(height, width) * np.hypot(row, column) for row in rows for column in columns])
    counts = np.array([(rings == ring).sum() for ring in sorted(set(rings))])
    np.testing.assert_allclose(profile @ counts / counts.sum(), 1)


def test_a_profile_by_hand():
    # 4 x 4, frequency zero at [2, 2]: radii 0 (1), 1 (4), sqrt 2 (4) -> ring 1; 2 (2), sqrt 5 (4) -> ring 2; sqrt 8 (1)
    power = np.zeros((1, 4, 4))
    power[0, 2, 2], power[0, 1, 1], power[0, 0, 0] = 4, 8, 4  # radius 0, sqrt 2, sqrt 8
    frequencies, profile = radial_profile(power)
    np.testing.assert_allclose(frequencies, [0, 0.25, 0.5, 0.75])
    np.testing.assert_allclose(profile[0], [4, 8 / 8, 0, 4])  # the mean over all sixteen is 1


def test_an_impulse_is_white():
    direction = np.zeros((2, 20, 20))
    direction[0, 3, 4] = -1
    _, profile = radial_profile(power_spectrum(direction))
    np.testing.assert_allclose(profile[0], 1)
    assert not profile[1].any()


def test_noise_is_white_and_a_blob_is_not():
    rng = np.random.default_rng(0)
    frequencies, profile = radial_profile(power_spectrum(rng.normal(size=(60, 48, 48))))
    np.testing.assert_allclose(profile.mean(axis=0)[2:-1], 1, atol=0.15)
    rows, columns = np.mgrid[:48, :48]
    blob = np.exp(-((rows - 24) ** 2 + (columns - 20) ** 2) / (2 * 4.0**2))
    _, profile = radial_profile(power_spectrum(blob[None]))
    assert profile[0, 0] > 10
    assert profile[0, frequencies > 0.3].max() < 1e-3


def test_the_scale_does_not_matter_and_zero_stays_zero():
    direction = np.random.default_rng(0).normal(size=(1, 9, 9))
    np.testing.assert_allclose(power_spectrum(1e-200 * direction), power_spectrum(direction))
    assert not power_spectrum(np.zeros((2, 9, 9))).any()
    stacked = power_spectrum(np.stack([direction, 2 * direction]))  # leading axes are kept apart
    np.testing.assert_allclose(stacked[0], stacked[1])
    with pytest.raises(RoboprefError, match=r"\[C, H, W\]"):
        power_spectrum(np.zeros((9, 9)))
