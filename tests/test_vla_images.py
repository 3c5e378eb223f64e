import numpy as np
import pytest
import torch
from PIL import Image

from robopref.errors import RoboprefError
from robopref.policies.vla.images import prepare_images, resize_images


@pytest.fixture
def pictures():
    smooth = np.linspace(0, 255, 40 * 60 * 3).reshape(40, 60, 3)
    return np.stack([smooth, smooth[::-1] * 0.5 + 60]).astype(np.uint8)


def test_bytes_are_resized_by_pil_and_normalised(pictures):
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    prepared = prepare_images(pictures, 28, mean, std)
    by_pil = np.asarray(Image.fromarray(pictures[1]).resize((28, 28), Image.Resampling.BICUBIC)) / 255.0
    expected = torch.from_numpy((by_pil - mean) / std).permute(2, 0, 1).float()
    assert prepared.shape == (2, 3, 28, 28)
    torch.testing.assert_close(prepared[1], expected)
    torch.testing.assert_close(prepare_images(torch.from_numpy(pictures), 28, mean, std), prepared)


@pytest.mark.parametrize("resample", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [20, 40, 90])
def test_floats_are_resized_as_bytes_are(pictures, resample, size):
    floats = torch.from_numpy(pictures).float() / 255
    resized = resize_images(floats, size, resample)
    # PIL rounds to whole levels after each of its two passes.
    torch.testing.assert_close(resized, resize_images(pictures, size, resample), rtol=0, atol=1.5 / 255)


def test_floats_stay_between_black_and_white():
    edges = torch.zeros(1, 32, 32, 3)
    edges[:, :, 16:] = 1
    resized = resize_images(edges, 90)
    assert resized.min() == 0
    assert resized.max() == 1


def test_gradients_reach_every_pixel(pictures):
    floats = (torch.from_numpy(pictures).float() / 255 * 0.8 + 0.1).requires_grad_()
    prepare_images(floats, 28, (0.5,) * 3, (0.5,) * 3).sum().backward()
    assert (floats.grad != 0).all()


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.zeros((2, 3, 8, 8), np.uint8), "channels last"),
        (np.zeros((8, 8, 3), np.uint8), "channels last"),
        ([[1]], "channels last, got list"),
        (np.zeros((1, 8, 8, 3), np.int64), "array of int64"),
        (np.zeros((1, 8, 8, 3), np.float32), "array of float32"),
        (torch.full((1, 8, 8, 3), 128.0), "divide by 255"),
        (torch.full((1, 8, 8, 3), torch.nan), "divide by 255"),
    ],
)
def test_what_is_no_picture_is_refused(images, message):
    with pytest.raises(RoboprefError, match=message):
        resize_images(images, 8)


def test_an_unknown_kernel_is_refused(pictures):
    with pytest.raises(RoboprefError, match="bicubic or bilinear, not 'lanczos'"):
        resize_images(pictures, 8, "lanczos")
